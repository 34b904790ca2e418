"""Tables of text as programs write them: names, separators, marks, encodings; and what is refused."""

import bz2
import csv
import gzip
import io
import lzma
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from jaxfact import data

NAN = np.nan
MATRIX = np.random.default_rng(0).normal(size=(5, 4)).round(3)
HOLES = np.where(np.random.default_rng(1).random((5, 4)) < 0.3, NAN, MATRIX)
COUNTS = np.random.default_rng(2).integers(10, 99, (5, 4))
NAMES = ["ann", "bob", "New York", "a, b", "é"]
DAYS = pd.date_range("2020-02-27", periods=5)


def read(folder: Path, content: str | bytes, name: str = "a.csv", **options) -> xr.DataArray:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return data.read(path, **options)


def lines(matrix: np.ndarray, separator: str = ",", form: str = "%.17g", decimal: str = ".") -> str:
    return "".join(separator.join(form % x for x in row).replace(".", decimal) + "\n" for row in matrix)


def labels(matrix: xr.DataArray) -> tuple[list | None, list | None]:
    rows, columns = (matrix[name].values.tolist() if name in matrix.coords else None for name in ("row", "column"))
    return rows, columns


FRAMES = {
    "default": (pd.DataFrame(HOLES), {}),
    "named columns": (pd.DataFrame(HOLES, columns=list("abcd")), {}),
    "named rows": (pd.DataFrame(HOLES, index=NAMES), {}),
    "named index": (pd.DataFrame(HOLES, index=pd.Index(NAMES, name="city")), {}),
    "both named": (pd.DataFrame(HOLES, index=NAMES, columns=["x", "y, z", "é", "10"]), {}),
    "days": (pd.DataFrame(HOLES, index=DAYS, columns=list("abcd")), {}),
    "columns of days": (pd.DataFrame(HOLES, index=NAMES, columns=DAYS[:4]), {}),
    "integers": (pd.DataFrame(COUNTS), {}),
    "filtered index": (pd.DataFrame(HOLES, index=[3, 5, 8, 9, 20], columns=list("abcd")), {}),
    "semicolons": (pd.DataFrame(HOLES), {"sep": ";"}),
    "tabs": (pd.DataFrame(HOLES), {"sep": "\t"}),
    "bars": (pd.DataFrame(HOLES, index=NAMES), {"sep": "|"}),
    "spaces": (pd.DataFrame(HOLES, index=NAMES, columns=list("abcd")), {"sep": " ", "na_rep": "NA"}),
    "decimal comma": (pd.DataFrame(HOLES), {"sep": ";", "decimal": ","}),
    "decimal comma between commas": (pd.DataFrame(HOLES), {"decimal": ","}),
    "NA": (pd.DataFrame(HOLES), {"na_rep": "NA"}),
    "question mark": (pd.DataFrame(HOLES), {"na_rep": "?"}),
    "years": (pd.DataFrame(HOLES, index=range(100, 105), columns=range(2001, 2005)), {}),
    "quoted": (pd.DataFrame(HOLES), {"quoting": csv.QUOTE_ALL}),
    "quoted text": (pd.DataFrame(HOLES, index=NAMES), {"quoting": csv.QUOTE_NONNUMERIC}),
    "exponents": (pd.DataFrame(HOLES), {"float_format": "%.17e"}),
    "utf-16": (pd.DataFrame(HOLES, index=NAMES), {"encoding": "utf-16"}),
    "utf-16-le": (pd.DataFrame(HOLES, index=NAMES), {"encoding": "utf-16-le"}),
    "utf-32": (pd.DataFrame(HOLES, index=NAMES), {"encoding": "utf-32"}),
    "utf-8 with mark": (pd.DataFrame(HOLES, index=NAMES), {"encoding": "utf-8-sig"}),
    "latin-1": (pd.DataFrame(HOLES, index=NAMES), {"encoding": "latin-1"}),
    "returns": (pd.DataFrame(HOLES), {"lineterminator": "\r"}),
    "windows": (pd.DataFrame(HOLES), {"lineterminator": "\r\n"}),
}


@pytest.mark.parametrize("name", FRAMES)
def test_frames_come_back_from_pandas_with_their_labels(tmp_path, name):
    frame, options = FRAMES[name]
    frame.to_csv(tmp_path / "a.csv", **options)
    found = data.read(tmp_path / "a.csv")
    np.testing.assert_array_equal(found.values, frame.to_numpy())
    rows, columns = labels(found)
    assert [str(label) for label in rows] == [str(label).removesuffix(" 00:00:00") for label in frame.index]
    assert [str(label) for label in columns] == [str(label).removesuffix(" 00:00:00") for label in frame.columns]
    assert isinstance(rows[0], int) == isinstance(frame.index[0], int | np.integer)
    assert found.attrs["read"].startswith("5×4 matrix, labelled (rows ")


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz", ".zip"])
def test_compressed_frames(tmp_path, suffix):
    pd.DataFrame(HOLES).to_csv(tmp_path / f"a.csv{suffix}")
    np.testing.assert_array_equal(data.read(tmp_path / f"a.csv{suffix}").values, HOLES)


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_compressed_arrays(tmp_path, pack):
    buffer = io.BytesIO()
    np.save(buffer, MATRIX)
    name = {gzip.compress: "a.npy.gz", bz2.compress: "a.npy.bz2", lzma.compress: "a.npy.xz"}[pack]
    np.testing.assert_array_equal(read(tmp_path, pack(buffer.getvalue()), name).values, MATRIX)


def test_a_zip_of_several_files_needs_a_name(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("ml/first.csv", "1,2\n3,4\n")
        archive.writestr("ml/second.csv", "5,6\n")
    with pytest.raises(ValueError, match=r"holds 2 files: ml/first.csv, ml/second.csv; name one, as .*a.zip:NAME"):
        data.read(tmp_path / "a.zip")
    np.testing.assert_array_equal(data.read(f"{tmp_path}/a.zip:ml/second.csv").values, [[5, 6]])
    with pytest.raises(ValueError, match=r"2 files and no third.csv"):
        data.read(f"{tmp_path}/a.zip:third.csv")


PAIR = [[1.5, NAN], [3, 4]]
PLAIN = [[1, 2.5, NAN], [-3, 4e-3, 5]]
FORMS = {  # a text, what it holds, the labels of its rows and columns, and what is said of it
    "semicolons": ("1;2,5;NA\n-3;4e-3;5\n", PLAIN, None, None, "semicolons; decimal commas"),
    "decimal comma and exponent": ("1;2,5e0;NA\n-3;0,4e-2;5\n", PLAIN, None, None, "decimal commas"),
    "comma before spaces": ("1, 2.5, NA\n-3, 4e-3, 5\n", PLAIN, None, None, ""),
    "spaces before comma": ("1 ,2.5 ,NA \n-3 ,4e-3 ,5 \n", PLAIN, None, None, ""),
    "runs of spaces": ("  1   2.5  NA\n -3  4e-3   5  \n", PLAIN, None, None, "spaces"),
    "spaces and decimal commas": ("1,0 2,5 NA\n-3,0 0,004 5,0\n", PLAIN, None, None, "decimal commas"),
    "tabs": ("1\t2.5\t\n-3\t4e-3\t5\n", PLAIN, None, None, "tabs"),
    "bars": ("1|2.5|\n-3|4e-3|5\n", PLAIN, None, None, "bars"),
    "Excel's own line": ('sep=;\n1;2,5;\n-3;"0,004";5\n', PLAIN, None, None, ""),
    "trailing commas": ("1,2.5,NA,\n-3,4e-3,5,\n", PLAIN, None, None, "an empty last column left out"),
    "trailing tabs": ("1\t2.5\tNA\t\n-3\t4e-3\t5\t\n", PLAIN, None, None, "an empty last column left out"),
    "trailing below names": ("a,b,c\n1,2.5,NA,\n-3,4e-3,5,\n", PLAIN, None, list("abc"), "an empty last column"),
    "trailing with names": ("a,b,c,\n1,2.5,NA,\n-3,4e-3,5,\n", PLAIN, None, list("abc"), "an empty last column"),
    "trailing name alone": ("a,b,c,\n1,2.5,NA\n-3,4e-3,5\n", PLAIN, None, list("abc"), ""),
    "a named last column": ("a,b,c\n1,2,\n3,4,\n", [[1, 2, NAN], [3, 4, NAN]], None, list("abc"), ""),
    "empty lines": ("\n1,2.5,\n\n-3,4e-3,5\n\n", PLAIN, None, None, "2 blank lines left out"),
    "comments": ("# by hand\n1,2.5,\n% later\n-3,4e-3,5\n", PLAIN, None, None, "2 comment lines left out"),
    "an Excel error is no comment": ("#N/A,1\n2,3\n", [[NAN, 1], [2, 3]], None, None, ""),
    "quoted numbers": ('"1","2.5",""\n"-3","4e-3","5"\n', PLAIN, None, None, ""),
    "a column": ("1\n2\n\n4\n5", [[1], [2], [NAN], [4], [5]], None, None, "1 of 5 entries missing"),
    "a column with a name": ("x\n1\n\n3\n", [[1], [NAN], [3]], None, ["x"], ""),
    "a column of quotes": ('1\n""\n3\n', [[1], [NAN], [3]], None, None, ""),
    "a column and lines behind": ("1\n\n3\n\n\n", [[1], [NAN], [3]], None, None, "2 blank lines left out at the end"),
    "a column that begins empty": ("\n2\n3\n", [[NAN], [2], [3]], None, None, ""),
    "a column of decimal commas": ("0,5\n0,05\n12,25\n", [[0.5], [0.05], [12.25]], None, None, "decimal commas"),
    "no end of line": ("1,2\n3,4", [[1, 2], [3, 4]], None, None, ""),
    "one line": ("1,2,3\n", [[1, 2, 3]], None, None, ""),
    "separators of a spreadsheet": ("a,b,,\n1.5,,,\n3,4,,\n", PAIR, None, ["a", "b"], "2 empty last columns left out"),
    "more of them": ("1.5;;;\n3;4;;\n", PAIR, None, None, "2 empty last columns left out"),
    "spaces that do not break": ("1.5,\u00a0NA\n3,\u202f4\n", PAIR, None, None, ""),
    "Julia's missing": ("a,b\n1.5,missing\n3,4\n", PAIR, None, ["a", "b"], ""),
    "one entry": ("7", [[7]], None, None, ""),
    "R's write.csv": ('"","V1","V2"\n"1",1.5,NA\n"2",3,4\n', PAIR, [1, 2], ["V1", "V2"], ""),
    "R's write.table": ('"V1" "V2"\n"1" 1.5 NA\n"2" 3 4\n', PAIR, [1, 2], ["V1", "V2"], "spaces"),
    "R with names": ('"V 1" "V2"\n"New York" 1.5 NA\n"b" 3 4\n', PAIR, ["New York", "b"], ["V 1", "V2"], ""),
    "R without names of columns": ('"1",1.5,NA\n"2",3,4\n', PAIR, [1, 2], None, ""),
    "R's write.csv2": ('"";"a";"b"\n"1";1,5;NA\n"2";3;4\n', PAIR, [1, 2], ["a", "b"], "decimal commas"),
    "R without names of rows": ('"a","b"\n1.5,NA\n3,4\n', PAIR, None, ["a", "b"], ""),
    "MATLAB's writetable": ("Var1,Var2\n1.5,NaN\n3,4\n", PAIR, None, ["Var1", "Var2"], ""),
    "Octave's save": (" 1.00000000e+00 2.50000000e+00\n NaN 4.0e-03\n", [[1, 2.5], [NAN, 0.004]], None, None, ""),
    "names of rows alone": ("s1,0.1,0.2\ns2,0.3,0.4\n", [[0.1, 0.2], [0.3, 0.4]], ["s1", "s2"], None, ""),
    "days": ("2020-01-01,0.1\n2020-01-02,0.2\n", [[0.1], [0.2]], ["2020-01-01", "2020-01-02"], None, ""),
    "times": ("t,a\n2020-01-01 00:30:00,0.1\n2020-01-02 01:00:00,2\n", [[0.1], [2]], ..., ["a"], ""),
    "ids beyond 2^53": (",a\n9007199254740993,1\n9007199254740992,2\n", [[1], [2]], [2**53 + 1, 2**53], ["a"], ""),
    "ids with zeros": (",a\n007,1\n7,2\n", [[1], [2]], ["007", "7"], ["a"], ""),
    "NA as a name": (",x,NA\nNA,1,2\nDE,3,4\n", [[1, 2], [3, 4]], ["NA", "DE"], ["x", "NA"], ""),
    "a first entry that is missing": (",2,3\n4,5,6\n", [[NAN, 2, 3], [4, 5, 6]], None, None, ""),
    "numbered columns of named rows": ("k,0,1,2\na,1,2,3\n", [[1, 2, 3]], ["a"], [0, 1, 2], ""),
    "a named index and numbered columns": ("id,0,1\n5,.1,.2\n9,.3,.4\n", [[0.1, 0.2], [0.3, 0.4]], [5, 9], [0, 1], ""),
    "an index called index": ("index,a\n0,.1\n1,.2\n2,.3\n", [[0.1], [0.2], [0.3]], [0, 1, 2], ["a"], ""),
    "time is data": ("t,a\n0,.1\n1,.2\n2,.3\n", [[0, 0.1], [1, 0.2], [2, 0.3]], None, ["t", "a"], "is data"),
    "whole numbers that count": ("0,1,2\n3,4,5\n6,7,8\n", np.arange(9).reshape(3, 3), None, None, "is data"),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_forms(tmp_path, name):
    text, expected, rows, columns, said = FORMS[name]
    found = read(tmp_path, text)
    np.testing.assert_array_equal(found.values, expected)
    assert rows in (labels(found)[0], ...)
    assert labels(found)[1] == columns
    assert said in found.attrs["read"]
    assert "\n" not in found.attrs["read"]


MARKS = ("NA", "na", "null", "NULL", "?", "NaN", "nan", "-", ".", "None", "N/A", "n/a", "#N/A", "<NA>", "NaT", "-nan")


@pytest.mark.parametrize("mark", MARKS)
@pytest.mark.parametrize("separator", [",", ";", "\t", " "])
def test_marks_of_missing_entries(tmp_path, mark, separator):
    """In the middle of a line and at its beginning, which is neither a comment nor a name."""
    text = separator.join(("1", mark, "2")) + "\n" + separator.join((mark, "3", "4")) + "\n"
    found = read(tmp_path, text)
    np.testing.assert_array_equal(found.values, [[1, NAN, 2], [NAN, 3, 4]])
    assert labels(found) == (None, None)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".txt", ".dat", ".data", ".TXT"])
@pytest.mark.parametrize("separator", [",", "\t", " ", ";", "|"])
def test_separators_do_not_depend_on_suffixes(tmp_path, suffix, separator):
    np.testing.assert_array_equal(read(tmp_path, lines(MATRIX, separator), f"a{suffix}").values, MATRIX)


@pytest.mark.parametrize(
    "options", [{}, {"header": "x y z"}, {"delimiter": ","}, {"fmt": "%.17g"}, {"newline": "\r\n"}]
)
def test_numpy_writes_what_is_read(tmp_path, options):
    """Every last bit: the decimal strings have enough digits, and are rounded correctly."""
    matrix = np.random.default_rng(4).normal(size=(40, 7)) * 10.0 ** np.arange(-150, 130, 40)
    np.savetxt(tmp_path / "a.txt", matrix, **options)
    np.testing.assert_array_equal(data.read(tmp_path / "a.txt").values, matrix)


INDEX = "0,0.126,-0.132\n1,1.304,0.947\n2,-2.3,0.1\n"
HEAD = "0,1,2\n0.126,-0.132,2\n1.304,0.947,3\n"
AMBIGUOUS = {
    "an index without a header": (INDEX, r'counts from 0 up, as names of rows do; say which: labels="rows" .*"none"'),
    "an index from one": (INDEX.replace("\n1,", "\n9,").replace("0,0", "8,0", 1).replace("\n2,", "\n10,"), "from 8 up"),
    "numbers above columns": (HEAD, r'counts from 0 up, as names of columns do; say which: labels="columns"'),
    "a corner that lacks": (",0,1,2\n5,.1,.2,.3\n9,.4,.5,.6\n", r'its first line may .*labels="both".*"none"'),
    "years and ids": (
        ",1990,1995,2000\n17,.1,.2,.3\n21,.4,.5,.6\n40,.7,.8,.9\n",
        r'its first line may .*labels="both"',
    ),
    "years and a line of data": (
        ",1990,1991,1992\n1.5,.1,.2,.3\n2.5,.4,.5,.6\n",
        r'its first line may .*labels="both"',
    ),
    "years above named rows": ("k,1990,1995\na,.1,.2\nb,.3,.4\n", r'its first line may .*labels="both".*"rows"'),
    "a corner above few": (",0,1\n0,1.5,2\n0,3,4.5\n", r'its first line may .*labels="both".*"none"'),
    "a corner and years": (",1990,1995\n5,.1,.2\n9,.3,.4\n", r'its first line may .*labels="both".*"none"'),
    "text among numbers": ("a,b\nerror,1\n2,3\n4,5\n", r'first column holds both text.*labels="both".*"columns"'),
    "text among rows": ("1,2\nerror,1\n2,3\n", r'first column holds both text .*labels="rows".*"none"'),
    "a broken number above": ("1,\u22122\n3,4\n", r'first line holds both text .*labels="columns".*"none"'),
    "Fortran above": ("1.0,2.0D+00\n3,4\n", r'first line holds both text .*labels="columns"'),
    "thousands": ('"1,234.5","2"\n"3","4"\n', "1,234.5 on line 1 holds a mark between thousands"),
    "thousands alone": ("1;1,234\n5;6,789\n", "1,234 on line 1 holds a mark between thousands, or may"),
    "European thousands": ("1;1.234,5\n5;6\n", "1.234,5 on line 1"),
    "millions": ("1;1.234.567\n5;6\n", "1.234.567 on line 1"),
}


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_what_allows_two_readings_is_refused(tmp_path, name):
    text, words = AMBIGUOUS[name]
    with pytest.raises(ValueError, match=words) as caught:
        read(tmp_path, text)
    assert str(tmp_path / "a.csv") in str(caught.value)


def test_the_ways_out_of_two_readings(tmp_path):
    entries = [[0.126, -0.132], [1.304, 0.947], [-2.3, 0.1]]
    named = read(tmp_path, INDEX, labels="rows")
    np.testing.assert_array_equal(named.values, entries)
    assert labels(named) == ([0, 1, 2], None)
    np.testing.assert_array_equal(read(tmp_path, INDEX, labels="none").values[:, 1:], entries)
    assert labels(read(tmp_path, HEAD, labels="columns")) == (None, [0, 1, 2])
    assert read(tmp_path, HEAD, labels="none").shape == (3, 3)
    both = read(tmp_path, "k,1990,1995\na,.1,.2\nb,.3,.4\n", labels="both")
    assert labels(both) == (["a", "b"], [1990, 1995])
    with pytest.raises(ValueError, match="labels='row': needs one of none, rows, columns, both"):
        read(tmp_path, INDEX, labels="row")


REFUSED = {
    "1,2\n3\n": r"equally many fields \(line 2 has 1 and others have 2\)|\(line 1 has 2",
    "1,2\n3,4\n5\n6,7\n": r"line 3 has 1 and others have 2",
    "a,b\n# c\n1,2\n\n3,4,5\n6,7\n": r"line 5 has 3 and others have 2",
    "1 2 3\n4 5\n6 7 8\n9 1 2\n": r"line 2 has 2 and others have 3",
    "1,2,\n" * 1500 + "3,4,5\n": r"line 1501 goes on behind the separator",
    "1,2\n3,4,5\n6,7,8\n": "line 1 has 2 and others have 3",
    "a,b,c\n1,2\n3,4\n5,6,7,8\n": "its first line has 3 names for 2 columns",
    "1,2\n3,abc\n": r"'abc' on line 2, field 2, is neither a number nor a mark of a missing entry",
    "x,5,2\n3,4,5,\n": "file=",
    "1,2\n3,4,5\n": r"line 1 has 2 and others have 3",
    "a,b\n1,2\n3,4x\n": r"'4x' on line 3, field 2",
    "True,False\nFalse,True\n": "needs numbers, and has none on lines 1 to 2, which begin 'True,False'",
    "# of mine\nDear reader\nthis, of course, is none\n": "none on lines 2 to 3, which begin 'Dear reader'",
    "hello\n": "needs numbers, and has none on line 1, 'hello'; give a table",
    "1,2\n3,-1d5\n": "'-1d5' on line 2, field 2",
    "1,2\n3,0x10\n": "'0x10'",
    "1,2\n3,1_000\n": "'1_000'",
    "1,2\n3,−2\n": "'−2' on line 2, field 2",
    "1,2\n3,inf\n": r"1 infinite entries, the first in row 1, column 1 \(from 0\)",
    "1,2\n3,1e999\n": "1 infinite entries",
    "": "holds no line of data",
    "# nothing\n\n": "holds no line of data",
    "a,b\n": "holds a line of names and no data",
    ",\n,\n": "needs an observed entry",
    '1,"2\n3",4\n': "line 1 opens a quote that it does not close",
    "1,2\0\n": "is no text .a zero byte",
    "1,2\n3,4;5\n": "line 1 has 1 and others have 2",
}  # fmt: skip


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_no_table_is_refused_in_one_line(tmp_path, text):
    with pytest.raises(ValueError, match=REFUSED[text]) as caught:
        read(tmp_path, text)
    assert "a.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_text_behind_the_first_thousand_lines_is_found(tmp_path):
    """Where the lines that decide the layout end, and where the block that pandas reads does."""
    text = "# one\n" + "1.5,2.5\n" * 150_000 + "3,x\n"
    with pytest.raises(ValueError, match="'x' on line 150002, field 2"):
        read(tmp_path, text)


def test_lines_across_blocks(tmp_path):
    matrix = np.random.default_rng(5).normal(size=(60_000, 8)).round(6)
    frame = pd.DataFrame(matrix, index=[f"r{k}" for k in range(len(matrix))])
    frame.to_csv(tmp_path / "a.csv")
    found = data.read(tmp_path / "a.csv")
    np.testing.assert_array_equal(found.values, matrix)
    assert labels(found)[0] == frame.index.tolist()


def test_a_million_fields_on_a_line(tmp_path):
    """In memory at most eight times the file's size, the eight bytes of every entry included; it was 53 times."""
    row = np.arange(1_000_000) % 1000 / 8
    text = ",".join(map(str, row)) + "\n"
    (tmp_path / "a.csv").write_text(text)
    tracemalloc.start()
    found = data.read(tmp_path / "a.csv")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(found.values, row[None])
    assert peak < 6 * len(text), peak


def test_a_hundred_thousand_named_columns(tmp_path):
    row = np.arange(100_000) / 8
    found = read(tmp_path, ",".join(f"c{k}" for k in range(len(row))) + "\n" + lines(row[None]))
    np.testing.assert_array_equal(found.values, row[None])
    assert labels(found)[1][-1] == "c99999"


def test_the_limit_comes_before_the_work(tmp_path):
    with pytest.raises(ValueError, match=r"a.csv=3×4 entries.*at most 11 are read.*largest=12 \(--largest 12\)"):
        read(tmp_path, "1,2,3,4\n" * 3, largest=11)
    assert read(tmp_path, "1,2,3,4\n" * 3, largest=12).shape == (3, 4)
    with pytest.raises(ValueError, match="a.csv.gz: holds more than 0.001.* GB"):
        read(tmp_path, gzip.compress(b" " * 2_000_000), "a.csv.gz", largest=1)
