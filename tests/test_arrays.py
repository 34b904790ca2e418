"""Arrays as people bring them: what is masked is missing, labels stay, dtypes are promoted by one rule, ranges hold."""

import array
from decimal import Decimal
from fractions import Fraction

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pandas as pd
import pyarrow
import pytest
import scipy.sparse
import xarray as xr

import jaxfact as jf
from jaxfact.data.arrays import as_matrix
from jaxfact.data.numbers import as_array

COUNTS = np.arange(1.0, 13).reshape(4, 3)  # exact in every dtype below
GAPS = np.where(COUNTS % 4 == 0, np.nan, COUNTS)
MASKED = np.ma.array(np.where(np.isnan(GAPS), -9999, GAPS), mask=np.isnan(GAPS))
ROWS, COLUMNS = list("abcd"), [10, 20, 30]
FRAME = pd.DataFrame(COUNTS, index=ROWS, columns=COLUMNS)


class OnlyDLPack:
    """What knows no other protocol."""

    def __dlpack__(self, **options):
        return COUNTS.__dlpack__(**options)

    def __dlpack_device__(self):
        return COUNTS.__dlpack_device__()


WHOLE = {
    "nested lists": COUNTS.tolist(),
    "tuples": tuple(map(tuple, COUNTS)),
    "matrix": COUNTS.view(np.matrix),
    "big endian": COUNTS.astype(">f8"),
    "strided": np.repeat(COUNTS, 2, axis=1)[:, ::2],
    "memoryview": memoryview(COUNTS),
    "rows of the standard library": [array.array("d", row) for row in COUNTS],
    "long double": COUNTS.astype("g"),
    "uint64": COUNTS.astype("u8"),
    "int4": (COUNTS % 7).astype(ml_dtypes.int4),
    "objects": COUNTS.astype(object),
    "decimals": [[Decimal(int(x)) for x in row] for row in COUNTS],
    "fractions": [[Fraction(int(x), 1) for x in row] for row in COUNTS],
    "masked, nothing hidden": np.ma.array(COUNTS),
    "DataFrame": FRAME,
    "nullable integers": FRAME.astype("Int64"),
    "mixed columns": FRAME.astype({10: "int8", 20: "float32"}),
    "columns of Arrow": FRAME.astype("float64[pyarrow]"),
    "objects of pandas": FRAME.astype(object),
    "categories of numbers": FRAME.astype({10: "category"}),
    "table of Arrow": pyarrow.table({str(name): FRAME[name] for name in FRAME}),
    "DataArray": xr.DataArray(COUNTS, dims=("station", "day")),
    "Variable": xr.Variable(("station", "day"), COUNTS),
    "list of Series": [FRAME.loc[row] for row in ROWS],
    "list of DataArrays": list(xr.DataArray(COUNTS, dims=("station", "day"))),
    "JAX": jnp.asarray(COUNTS),
    "DLPack alone": OnlyDLPack(),
} | {kind: scipy.sparse.coo_array(COUNTS).asformat(kind) for kind in ("csr", "csc", "coo", "lil", "dok", "bsr", "dia")}


@pytest.mark.parametrize("name", WHOLE)
def test_whole_matrices_of_every_kind_are_the_same_problem(name):
    expected = COUNTS % 7 if name == "int4" else COUNTS
    found = as_matrix(WHOLE[name])
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, expected)
    problem = jf.Factorization(WHOLE[name])
    assert float(problem.unit) == pytest.approx(np.linalg.norm(expected, 2), rel=1e-14)
    np.testing.assert_allclose(problem.unit * problem.target, expected, atol=1e-13)
    assert len(jf.Completion.from_matrix(WHOLE[name]).entries.values) == 12


INCOMPLETE = {
    "NaN": GAPS,
    "masked": MASKED,
    "masked integers": MASKED.astype(int),
    "masked objects": np.ma.array(np.where(np.isnan(GAPS), "none", COUNTS.astype(object)), mask=np.isnan(GAPS)),
    "masked beyond the range": np.ma.array(np.where(np.isnan(GAPS), np.inf, COUNTS), mask=np.isnan(GAPS)),
    "list of masked rows": list(MASKED),
    "masked among numbers": [[np.ma.masked if np.isnan(x) else x for x in row] for row in GAPS],
    "None": [[None if np.isnan(x) else x for x in row] for row in GAPS],
    "pandas NA": [[pd.NA if np.isnan(x) else x for x in row] for row in GAPS],
    "DataFrame": pd.DataFrame(GAPS),
    "nullable integers": pd.DataFrame(GAPS).astype("Int64"),
    "columns of Arrow": pd.DataFrame(GAPS).astype("int64[pyarrow]"),
    "objects of pandas": pd.DataFrame(GAPS).astype(object).where(~np.isnan(GAPS), None),
    "DataArray": xr.DataArray(GAPS),
    "sparse": scipy.sparse.csr_array(np.nan_to_num(GAPS)),
    "sparse matrix": scipy.sparse.csc_matrix(np.nan_to_num(GAPS)),
    "sparse with NaN": scipy.sparse.coo_array((GAPS.ravel(), np.divmod(np.arange(12), 3)), shape=(4, 3)),
}


@pytest.mark.parametrize("name", INCOMPLETE)
def test_what_is_missing_is_missing_at_every_entry_point(name):
    given = INCOMPLETE[name]
    entries = jf.Completion.from_matrix(given).entries
    rows, columns = np.nonzero(~np.isnan(GAPS))
    np.testing.assert_array_equal(entries.rows, rows)
    np.testing.assert_array_equal(entries.columns, columns)
    np.testing.assert_allclose(entries.values, GAPS[rows, columns], rtol=1e-14)
    centred = jf.data.remove_mean(given)
    assert centred.mean == np.nanmean(GAPS)
    np.testing.assert_array_equal(np.isnan(centred.matrix), np.isnan(GAPS))
    if "sparse" in name and "NaN" not in name:  # where every entry is needed, absent ones are zeros
        assert float(jf.Factorization(given).unit) == pytest.approx(np.linalg.norm(np.nan_to_num(GAPS), 2), rel=1e-14)
    else:
        with pytest.raises(ValueError, match=r"target=array with 3 masked, NaN or infinite .*matrix completion\.$"):
            jf.Factorization(given)


def test_stored_zeros_are_observed():
    stored = scipy.sparse.coo_array(([0.0, 2.0], ([0, 1], [1, 0])), shape=(2, 2))
    entries = jf.Completion.from_matrix(stored).entries
    np.testing.assert_array_equal(np.stack(entries), [[0, 1], [1, 0], [0, 2]])


@pytest.mark.filterwarnings("ignore:.*no observed entry")
def test_a_sparse_matrix_is_completed_without_filling_it_in():
    """10¹² entries, which no machine holds, three of them known."""
    rows, columns = [5, 999_999, 0], [999_999, 0, 7]
    large = scipy.sparse.coo_array(([1.0, 2, 3], (rows, columns)), shape=(10**6, 10**6))
    assert sorted(jf.Completion.from_matrix(large).entries.values.tolist()) == [1, 2, 3]
    for refused in (jf.Factorization, jf.data.remove_mean, jf.complete):
        with pytest.raises(ValueError, match=r"1000000×1000000 entries, 8e\+03 GB"):
            refused(large)


SINGLE = ["f2", "f4", ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2]


@pytest.mark.parametrize("dtype", SINGLE)
def test_shorter_floats_become_float32(dtype):
    short = COUNTS.astype(dtype)
    for given in (short, jnp.asarray(short)):
        assert as_array(given, "x").dtype == np.float32
        problem = jf.Factorization(given)
        assert problem.dtype == problem.target.dtype == np.float32
        np.testing.assert_allclose(problem.unit * problem.target, short.astype(float), rtol=1e-6)
        assert jf.Completion.from_matrix(given).dtype == np.float32


def test_completion_of_float16_runs():
    half = np.where(np.eye(6) > 0, np.nan, np.outer(np.arange(1.0, 7), np.arange(1.0, 7))).astype("f2")
    problem = jf.Completion.from_matrix(half)
    end = jf.descend(problem, jf.methods.gradient_descent(0.1), problem.truncation(1), num_steps=20)
    assert end.factors.U.dtype == np.float32
    assert float(problem.misfit(end.factors)) < float(problem.misfit(problem.truncation(1)))


REFUSED = {
    "complex": (COUNTS + 1j, "needs real numbers"),
    "text": ([["1", "2"]], "needs numbers, not text"),
    "text of NumPy 2": (np.array([["1"]], np.dtypes.StringDType()), "not text"),
    "bytes": (np.array([[b"1"]]), "not text"),
    "dates": (COUNTS.astype("M8[s]"), "not dates"),
    "time spans": (COUNTS.astype("m8[s]"), "not time spans"),
    "structure": (np.zeros((2, 2), [("x", float)]), "not structures"),
    "masked structure": (np.ma.array([[(1.0,)]], [("x", float)], mask=True), "not structures"),
    "raw bytes": (np.zeros((2, 2), "V2"), "bfloat16"),
    "ragged": ([[1.0, 2.0], [3.0]], "rows of equal length"),
    "ragged masked": ([np.ma.array([1.0, 2.0]), np.ma.array([3.0])], "rows of equal length"),
    "object": ([[object(), 1.0]], "object among its entries"),
    "text among numbers": (pd.DataFrame({"x": ["u", "v"], "y": [1, 2]}), r"target\['x'\]=str among its entries"),
    "a column of dates": (pd.DataFrame({"x": pd.to_datetime(["2020-01-01"])}), r"target\['x'\].*not dates"),
    "whole numbers beyond float64": ([[10**400, 1]], "lies beyond double precision"),
    "long double": (COUNTS.astype("g") * np.longdouble("1e400"), r"long doubles up to 1\.2e\+401"),
    "small long double": (COUNTS.astype("g") * np.longdouble("1e-400"), "long doubles up to 1.2e-399"),
    "path": ("a.npy", r"read a file with jaxfact\.data\.read"),
    "None": (None, "NoneType"),
    "dict": ({"x": [1, 2]}, "dict"),
    "Dataset": (xr.Dataset({"x": (("s", "t"), COUNTS)}), "xarray Dataset"),
    "keys": (jax.random.split(jax.random.key(0)), "cannot be read as an array"),
    "generator": ((x for x in range(3)), "generator"),
    "vector": (COUNTS[0], r"shape \(3,\).*m×n"),
    "number": (1.0, r"shape \(\).*m×n"),
    "stack": (COUNTS[None], r"shape \(1, 4, 3\).*m×n"),
    "empty table": (pd.DataFrame(), r"shape \(0, 0\).*at least one entry"),
    "stored twice": (scipy.sparse.coo_array(([1.0, 2], ([0, 0], [1, 1])), shape=(2, 2)), "row 0, column 1 a second"),
    "sparse vector": (scipy.sparse.coo_array(COUNTS[0]), r"shape \(3,\).*m×n"),
}


@pytest.mark.skipif(np.finfo("g").max == np.finfo(float).max, reason="long double is double here")
def test_long_doubles_are_longer_here():
    assert np.longdouble("1e400") > np.finfo(float).max


@pytest.mark.parametrize("name", REFUSED)
def test_all_else_is_refused_in_one_line(name):
    given, words = REFUSED[name]
    with pytest.raises(ValueError, match=words) as caught:
        jf.Factorization(given)
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith("target")
    assert text.count("; ") == 1


def test_complex_numbers_without_imaginary_part_are_read_and_said():
    with pytest.warns(UserWarning, match="without imaginary part are read as real"):
        np.testing.assert_array_equal(as_matrix(COUNTS + 0j), COUNTS)


def test_torch():
    torch = pytest.importorskip("torch")
    leaf = torch.tensor(COUNTS, requires_grad=True)
    for given in (leaf, leaf.to_sparse(), [row for row in leaf], torch.nn.Parameter(leaf)):  # noqa: C416
        np.testing.assert_array_equal(as_matrix(given), COUNTS)
    assert as_matrix(leaf.bfloat16()).dtype == np.float32
    with pytest.raises(ValueError, match="matrix=torch Tensor: cannot be read"):
        as_matrix(torch.zeros(2, 2, device="meta"))


def test_labels_become_coordinates_of_results():
    days = pd.date_range("2020-01-01", periods=3)
    grid = xr.DataArray(GAPS, dims=("station", "day"), coords={"station": ROWS, "day": days})
    found = as_matrix(grid)
    assert found.dims == ("row", "column")
    assert found.row.values.tolist() == ROWS
    assert (found.column.values == days).all()
    assert (found.row.long_name, found.column.long_name) == ("station", "day")
    for remove in (jf.data.remove_mean, jf.data.remove_biases):
        centred = remove(grid)
        plain = remove(GAPS)
        assert isinstance(plain.matrix, np.ndarray)
        np.testing.assert_array_equal(centred.matrix, plain.matrix)
        xr.testing.assert_allclose(centred.restored(centred.matrix.values), found)
        assert centred.row_bias.row.values.tolist() == centred.matrix.row.values.tolist() == ROWS
        assert (centred.column_bias.column.values == days).all()
    assert jf.data.remove_mean(grid).restored(np.zeros((5, 4, 3))).shape == (5, 4, 3)


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        (pd.RangeIndex(4), None),
        (pd.Index([3, 1, 2, 0], name="user"), [3, 1, 2, 0]),
        (pd.MultiIndex.from_product([["a", "b"], [1, 2]]), ["a, 1", "a, 2", "b, 1", "b, 2"]),
        (pd.CategoricalIndex(ROWS), ROWS),
        (pd.period_range("2020-01", periods=4, freq="M"), ["2020-01", "2020-02", "2020-03", "2020-04"]),
    ],
)
def test_labels_of_every_kind(index, expected):
    found = as_matrix(pd.DataFrame(COUNTS, index=index))
    assert ("row" in found.coords) == (expected is not None)
    assert expected is None or found.row.values.tolist() == expected


def test_starts_measurements_and_places_are_read_by_the_same_rule():
    problem = jf.Factorization(COUNTS)
    U, V = np.eye(4, 2) / 10, np.eye(3, 2) / 10
    plain = jf.descend(problem, jf.methods.gradient_descent(0.1), jf.Factors(U, V), num_steps=3).factors
    for start in (jf.Factors(pd.DataFrame(U), scipy.sparse.csr_array(V)), jf.Factors(U.tolist(), V.tolist())):
        again = jf.descend(problem, jf.methods.gradient_descent(0.1), start, num_steps=3).factors
        np.testing.assert_array_equal(again.U, plain.U)
    with pytest.raises(ValueError, match="U=.*not text"):
        jf.descend(problem, jf.methods.gradient_descent(0.1), jf.Factors(U.astype("U5"), V), num_steps=3)
    operator = jf.operators.Entries(pd.Series([0, 1]), [0, 2], (4, 3))
    y = np.array([1.0, 2])
    assert float(jf.Sensing(operator, pd.Series(y)).unit) == float(jf.Sensing(operator, y).unit)
    for hidden in (np.ma.array(y, mask=[True, False]), pd.Series([pd.NA, 2], dtype="Int64")):
        with pytest.raises(ValueError, match="1 NaN or infinite"):
            jf.Sensing(operator, hidden)
    with pytest.raises(ValueError, match="whole numbers"):
        jf.operators.Entries(np.ma.array([0, 1], mask=[True, False]), [0, 2], (4, 3))
    with pytest.raises(ValueError, match="entries that are NaN"):
        jf.operators.Dense(np.ma.array(np.ones((2, 4, 3)), mask=np.arange(24).reshape(2, 4, 3) == 0))


@pytest.mark.parametrize("size", [1e39, 1e-45, 1e-170, 1e300, 1e-320, 3.0])
def test_units_beyond_the_dtype(size):
    """The same matrix in other units is the same problem, in single precision too; its unit is told in the user's."""
    matrix = (COUNTS * np.cos(COUNTS)).astype("f4").astype(float)
    norm = np.linalg.norm(matrix, 2)
    with jax.enable_x64(False):
        plain, scaled = jf.Factorization(matrix), jf.Factorization(matrix * size)
        assert scaled.dtype == np.float32
        assert float(scaled.unit) == pytest.approx(norm * size, rel=1e-6 if size > 1e-300 else 1e-3)
        rounding = 1e-7 if size > 1e-300 else 1e-3  # subnormal numbers have few digits
        np.testing.assert_allclose(scaled.singular_values, plain.singular_values, rtol=rounding)
        one, two = (jf.Completion.from_matrix(np.where(matrix < 0, np.nan, x)) for x in (matrix, matrix * size))
        assert float(two.unit) == pytest.approx(float(one.unit) * size, rel=1e-6 if size > 1e-300 else 1e-3)
        np.testing.assert_allclose(two.entries.values, one.entries.values.astype(float) * size, rtol=1e-6, atol=1e-323)
        np.testing.assert_allclose(two.observed.values, one.observed.values, rtol=2e-7, atol=rounding / 10)
        operator = jf.operators.gaussian(jax.random.key(0), (4, 3), 12)
        seen, again = (jf.Sensing.of(x, operator) for x in (plain, scaled))
        np.testing.assert_allclose(again.observations, seen.observations, rtol=1e-5 if size > 1e-300 else 1e-2)
        assert float(again.unit) == float(scaled.unit)


def test_units_beyond_float64_are_refused_before_any_run():
    for build in (jf.Factorization, jf.Completion.from_matrix, jf.complete):
        with pytest.raises(ValueError, match=r"is 6e\+308: lies beyond double precision"):
            build(np.full((4, 4), 1.5e308))
    assert float(jf.Factorization(np.full((4, 4), 1e307)).unit) == pytest.approx(4e307, rel=1e-14)
    assert jf.data.remove_mean(np.full((4, 4), 1.5e308)).mean == 1.5e308


def test_singular_values_that_vanish_in_the_dtype_are_no_rank():
    with jax.enable_x64(False):
        assert jf.Factorization(np.array([1.0, 1e-30, 1e-50]), shape=(4, 4)).rank == 2
    assert jf.Factorization(np.array([1.0, 1e-30, 1e-50]), shape=(4, 4)).rank == 3


def test_completion_of_entries_beyond_single_precision():
    """Runs do not see the unit, so errors of the same matrix in another unit differ by just that."""
    matrix = np.add.outer(np.arange(6.0), np.arange(5.0) ** 2)
    matrix[::3, ::2] = np.nan
    settings = jf.RecoverySettings(width=1, seeds=1, max_steps=20)
    with jax.enable_x64(False):
        plain, large, small = (jf.complete(matrix * 2.0**e, settings, splits=2) for e in (0, 130, -565))
    for found, size in ((large, 2.0**130), (small, 2.0**-565)):
        assert found.methods[0].test == pytest.approx([size * x for x in plain.methods[0].test], rel=1e-12, abs=0)
        np.testing.assert_array_equal(found.runs.unit, size * plain.runs.unit)
        np.testing.assert_array_equal(found.runs.loss, plain.runs.loss)


def test_held_out_entries_of_any_size():
    """Squares of 1e30 overflow in single precision, those of 1e-30 vanish; the error does neither."""
    with jax.enable_x64(False):
        for size in (1e30, 1.0, 1e-30):
            problem = jf.Factorization(size * COUNTS)
            best = problem.truncation(1)
            error = jf.measures.HeldOut([0, 1], [1, 2], size * COUNTS[[0, 1], [1, 2]])(problem, best)
            left, values, right = np.linalg.svd(COUNTS)
            rest = COUNTS - values[0] * np.outer(left[:, 0], right[0])
            assert float(error) == pytest.approx(size * np.sqrt(np.mean(rest[[0, 1], [1, 2]] ** 2)), rel=1e-4)
        with pytest.raises(ValueError, match="float32 records go from"):
            jf.measures.HeldOut([0], [0], [1e39])
