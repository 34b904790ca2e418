"""Lists of entries: how they are known, that ids stay what they are, and what is refused."""

import io

import numpy as np
import pandas as pd
import pytest

import jaxfact as jf
from jaxfact import data

NAN = np.nan
RNG = np.random.default_rng(0)
CELLS = np.argwhere(RNG.random((12, 9)) < 0.6)
FRAME = pd.DataFrame({"user": CELLS[:, 0] + 1, "item": 10 * CELLS[:, 1], "rating": RNG.integers(1, 6, len(CELLS))})
TIMED = FRAME.assign(timestamp=978_300_000 + np.arange(len(FRAME)))
DENSE = FRAME.pivot(index="user", columns="item", values="rating")


def read(folder, content: str | bytes, name: str = "a.csv", **options):
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return data.read(path, **options)


def assert_dense(found):
    np.testing.assert_array_equal(found.values, DENSE.to_numpy())
    assert found.row.values.tolist() == DENSE.index.tolist()
    assert found.column.values.tolist() == DENSE.columns.tolist()
    assert f"a list of {len(FRAME)} entries, the others missing" in found.attrs["read"]


def text(frame: pd.DataFrame, **options) -> str:
    return frame.to_csv(None, **({"index": False} | options))


NAMED = {
    "MovieLens": text(TIMED.set_axis(["userId", "movieId", "rating", "timestamp"], axis=1)),
    "row, column, value": text(FRAME.set_axis(["row", "column", "value"], axis=1)),
    "i, j, x": text(FRAME.set_axis(["i", "j", "x"], axis=1)),
    "underscores": text(FRAME.set_axis(["user_id", "Item ID", "Rating"], axis=1)),
    "another order": text(TIMED[["timestamp", "rating", "item", "user"]]),
    "shuffled lines": text(FRAME.sample(frac=1, random_state=0)),
    "an index": text(FRAME, index=True),
    "more columns": text(TIMED.assign(title='a, "b"')),
    "semicolons": text(FRAME, sep=";"),
    "tabs": text(TIMED, sep="\t"),
    "quotes": text(FRAME.astype(str), quoting=1),
    "R": 'user item rating\n' + text(FRAME, sep=" ", index=True, header=False),
    "RecBole": "user_id:token\titem_id:token\trating:float\n" + text(FRAME, sep="\t", header=False),
    "a comment of names": "# user,item,rating\n" + text(FRAME, header=False),
    "trailing commas": text(FRAME).replace("\n", ",\n"),
    "trailing commas below names": text(FRAME).replace("\n", ",\n").replace("rating,", "rating", 1),
    "spaces behind commas": text(FRAME).replace(",", ", "),
    "Windows": text(FRAME).replace("\n", "\r\n"),
    "one column of text": text(TIMED.assign(kind="x")),
    "u.data": text(TIMED, sep="\t", header=False),
    "::": text(TIMED, header=False).replace(",", "::"),
    ":: without times": text(FRAME, header=False).replace(",", "::"),
    "milliseconds": text(TIMED.assign(timestamp=1000 * TIMED.timestamp), header=False),
}  # fmt: skip


@pytest.mark.parametrize("name", NAMED)
def test_lists_are_known_as_such(tmp_path, name):
    assert_dense(read(tmp_path, NAMED[name]))


UNNAMED = {
    "no header": text(FRAME, header=False),
    "tabs": text(FRAME, header=False, sep="\t"),
    "a fourth column": text(TIMED.assign(timestamp=1), header=False),
    "unknown names": text(FRAME.set_axis(["who", "what", "how"], axis=1)),
    "decimal values": text(FRAME.assign(rating=FRAME.rating + 0.0), header=False),
}


@pytest.mark.parametrize("name", UNNAMED)
def test_what_may_be_a_list_is_questioned(tmp_path, name):
    with pytest.raises(
        ValueError, match=r"columns may be row, column and value .*entries=True \(--entries\) or entries"
    ):
        read(tmp_path, UNNAMED[name])
    assert_dense(read(tmp_path, UNNAMED[name], entries=True))
    rows = len(FRAME) + 0
    assert read(tmp_path, UNNAMED[name], entries=False).shape in ((rows, 3), (rows, 4))


def test_a_float_array_of_a_list(tmp_path):
    """numpy.savetxt writes ids as 1.000000000000000000e+00; they are the whole numbers that they were."""
    buffer = io.BytesIO()
    np.savetxt(buffer, FRAME.to_numpy(float))
    with pytest.raises(ValueError, match="may be row, column and value"):
        read(tmp_path, buffer.getvalue(), "a.txt")
    assert_dense(read(tmp_path, buffer.getvalue(), "a.txt", entries=True))


@pytest.mark.parametrize(
    "matrix",
    [RNG.normal(size=(40, 3)), RNG.integers(0, 5, (40, 3)), np.arange(60).reshape(20, 3), RNG.integers(0, 9, (6, 3))],
    ids=["real", "repeated pairs", "ids that do not come again", "few"],
)
def test_narrow_matrices_are_no_lists(tmp_path, matrix):
    """The control: real entries, pairs that come again, ids that do not, and a handful of rows."""
    np.testing.assert_array_equal(read(tmp_path, text(pd.DataFrame(matrix), header=False)).values, matrix)


def test_a_list_may_be_read_as_the_table_it_is(tmp_path):
    found = read(tmp_path, text(TIMED), entries=False)
    np.testing.assert_array_equal(found.values, TIMED.to_numpy())
    assert found.column.values.tolist() == ["user", "item", "rating", "timestamp"]


IDS = {
    "beyond 2^53": [2**53 + k for k in range(4)],
    "Steam": [76561198000000000 + k for k in range(4)],
    "near 2^63": [2**63 - 4 + k for k in range(4)],
    "beyond 2^63": [2**64 + k for k in range(4)],
    "negative": [-3, -1, 0, 7],
    "text": ["ann", "bob", "Zoë", "été"],
    "with blanks": ["New York", "Oslo", "Rio", "São Paulo"],
    "mixed": ["12", "7", "x", "y"],
    "leading zeros": ["007", "07", "7", "8"],
    "hexadecimal": ["0a", "0b", "1e5", "9"],
    "decimals": ["1.25", "1.5", "1.50", "2.0"],
    "NA": ["DE", "FR", "NA", "nan"],
    "isbn": ["080442957X", "0804429570", "080442957x", "9780804429573"],
}


@pytest.mark.parametrize("name", IDS)
@pytest.mark.parametrize("separator", [",", "\t", "::"])
def test_ids_stay_apart_and_exact(tmp_path, name, separator):
    """Four users who rate one item each: as floats, some would become one."""
    content = "".join(separator.join((str(user), f"film {k}", str(k))) + "\n" for k, user in enumerate(IDS[name]))
    found = read(tmp_path, content, entries=True)
    assert found.shape == (4, 4)
    assert sorted(str(label) for label in found.row.values) == sorted(str(user) for user in IDS[name])
    for k, user in enumerate(found.row.values.tolist()):
        (place,) = [at for at, given in enumerate(IDS[name]) if str(given) == str(user)]
        assert found.values[k, found.column.values.tolist().index(f"film {place}")] == place


def test_numbers_are_ordered_by_size_and_text_by_the_alphabet(tmp_path):
    found = read(tmp_path, "user,item,rating\n10,b,1\n9,a,2\n100,c,3\n")
    assert found.row.values.tolist() == [9, 10, 100]
    assert found.column.values.tolist() == ["a", "b", "c"]
    long = read(tmp_path, f"user,item,rating\n{10**20},1,1\n{9 * 10**19},2,2\n5,3,3\n")
    assert long.row.values.tolist() == ["5", str(9 * 10**19), str(10**20)]


def test_a_pair_is_given_twice(tmp_path):
    content = "# ratings\nrow,column,value\n1234567,104000100187,3\n1234567,104000100150,4\n1234567,104000100187,5\n"
    words = "row 1234567, column 104000100187 is given on line 3 and on line 5; average the repeats, or keep the last"
    with pytest.raises(ValueError, match=words):
        read(tmp_path, content)
    three = "user,item,rating\na,b,1\n\na,b,2\na,b,3\n"
    with pytest.raises(ValueError, match="row a, column b is given on line 2 and on line 4, and 1 more"):
        read(tmp_path, three)


BAD = {
    "user,item,rating\n1,2,x\n": "'x' on line 2 is not a value",
    "user,item,rating\n1,2,inf\n": "the value on line 2 is infinite",
    "user,item,rating\n1,2,3\n1,5\n": "line 3 has 2 and others have 3|line 2 has 3",
    "user,item,rating\n1,2,3\n,5,4\n": "line 3 names no row",
    "user,item,rating\n1,2,3\n1,,4\n": "line 3 names no column",
    "user,item,rating\n": "no entry",
    "user,item\n1,2\n2,3\n3,1\n": r"names the row and the column .* no value; .*entries=False",
}


@pytest.mark.parametrize("content", BAD)
def test_bad_lines_are_named(tmp_path, content):
    with pytest.raises(ValueError, match=BAD[content]) as caught:
        read(tmp_path, content)
    assert "a.csv" in str(caught.value)


def test_two_columns_are_no_list(tmp_path):
    with pytest.raises(ValueError, match=r"has 2 columns.*entries=False"):
        read(tmp_path, "1,2\n3,4\n", entries=True)


def test_absent_entries_and_lines_without_a_value(tmp_path):
    content = "user,item,rating\n1,1,5\n1,2,NA\n2,1,4\n"
    found = read(tmp_path, content)
    np.testing.assert_array_equal(found.values, [[5, NAN], [4, NAN]])
    assert "1 line without a value" in found.attrs["read"]
    zeros = read(tmp_path, content, absent="zero")
    np.testing.assert_array_equal(zeros.values, [[5, 0], [4, 0]])
    assert "the others zero" in zeros.attrs["read"]


def test_a_list_too_large_for_a_matrix_is_kept_as_a_list(tmp_path):
    """A hundred thousand users and items: 80 GB as a matrix, one entry each as a list."""
    ids = np.arange(100_000)
    frame = pd.DataFrame({"user": ids, "item": ids[::-1], "rating": ids / 8})
    frame.to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(ValueError, match=r"a.csv=100000×100000 entries, 80 GB.*read_entries"):
        data.read(tmp_path / "a.csv")
    found = data.read_entries(tmp_path / "a.csv")
    assert found.shape == (100_000, 100_000)
    np.testing.assert_array_equal(found.columns, ids[::-1])
    np.testing.assert_array_equal(found.values, ids / 8)


def test_a_completion_takes_a_list(tmp_path):
    (tmp_path / "a.csv").write_text(UNNAMED["no header"])
    found = data.read_entries(tmp_path / "a.csv")
    problem = jf.Completion(found.rows, found.columns, found.values, found.shape)
    assert problem.shape == DENSE.shape
    with pytest.raises(ValueError, match="needs one of .csv"):
        data.read_entries(__file__)


def test_the_command_line_asks_takes_the_answer_and_says_what_it_read(call, monkeypatch, tmp_path):
    def stopped(*_, **__):
        raise ValueError("stopped")

    (tmp_path / "a.csv").write_text(UNNAMED["no header"])
    assert_words(call("compare", "a.csv"), "(--entries) or entries=False (--no-entries)")
    assert_words(call("compare", "a.csv", "--entries"), "has missing entries; run jaxfact complete a.csv")
    monkeypatch.setattr("jaxfact.jobs.recovery.complete", stopped)
    told = call("complete", "a.csv", "--entries")
    assert told.out.startswith("a.csv: 12×9 matrix, labelled (rows 1 … 12, columns 0 … 80), ")
    assert told.out.count("\n") == 1
    as_json = call("complete", "a.csv", "--entries", "--json")
    assert as_json.out == ""
    assert as_json.err.startswith(told.out)


def test_data_sets_go_by_name_and_files_of_their_names_win(call, tmp_path):
    assert_words(call("compare", "pm10", "--entries"), "--entries, --absent, --labels and --largest say how a file is")
    assert_words(call("compare", "--labels", "rows"), "matrix=no file: --entries")
    assert_words(call("complete", "moon"), "matrix=moon: is neither a file nor a data set; give a file, or one of elev")
    assert_words(call("complete", "moon.csv"), "file=moon.csv: does not exist")
    assert_words(call("complete", "elevation"), "matrix=elevation: has no missing entry; run jaxfact compare elevation")
    (tmp_path / "elevation").write_text("1,2\n")
    assert_words(call("compare", "elevation"), "file=elevation: needs one of .csv")
    (tmp_path / "faces").mkdir()
    assert_words(call("compare", "faces", "--shape", "3x3"), "a matrix is given too")


def assert_words(called, words: str):
    assert called.code == 2
    assert words in called.err
    assert called.err.count("\n") == 1
