"""Targets: the built-in matrix, files of every kind, damaged files, made-up spectra."""

import gzip
import io
import lzma
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import scipy.sparse
from PIL import Image

from jaxfact import data
from jaxfact.choices import Spectrum

MATRIX = np.random.default_rng(0).normal(size=(6, 5))
GREY = np.random.default_rng(1).integers(0, 256, (6, 5)).astype(np.uint8)
DEEP = np.random.default_rng(2).integers(0, 65536, (6, 5)).astype(np.uint16)


def written(writer, *arguments, **options) -> bytes:
    buffer = io.BytesIO()
    writer(buffer, *arguments, **options)
    return buffer.getvalue()


def image(pixels: np.ndarray, form: str = "PNG") -> bytes:
    return written(lambda buffer: Image.fromarray(pixels).save(buffer, form))


NPY, NPZ = written(np.save, MATRIX), written(np.savez_compressed, x=MATRIX)
MARKET = "%%MatrixMarket matrix array real general\n"


def test_elevation_is_the_published_matrix():
    matrix = data.load("elevation")
    assert matrix.shape == (344, 403)
    assert abs(matrix.mean()) < 1e-9
    published = [4.54e4, 2.09e4, 1.61e4, 1.28e4, 1.06e4, 1.02e4]
    np.testing.assert_allclose(np.linalg.svd(matrix, compute_uv=False)[:6], published, rtol=0.01)


def test_only_the_built_in_matrix_has_a_name():
    with pytest.raises(ValueError, match=r"name='moon'.*elevation.*data\.read"):
        data.load("moon")


ROUND_TRIPS = {
    "a.npy": (NPY, MATRIX),
    "A.NPY": (NPY, MATRIX),
    "a.npz": (NPZ, MATRIX),
    "a.csv": (written(np.savetxt, MATRIX, delimiter=",", fmt="%.17g"), MATRIX),
    "a.tsv": (written(np.savetxt, MATRIX, delimiter="\t", fmt="%.17g"), MATRIX),
    "row.csv": (b"1,2,3\n", np.array([[1.0, 2, 3]])),
    "column.csv": (b"1\r\n2\r\n3\r\n", np.array([[1.0], [2], [3]])),
    "dense.mtx": (written(scipy.io.mmwrite, MATRIX), MATRIX),
    "sparse.mtx": (written(scipy.io.mmwrite, scipy.sparse.coo_array(np.maximum(MATRIX, 0))), np.maximum(MATRIX, 0)),
    "grey.png": (image(GREY), GREY / 255),
    "deep.png": (image(DEEP), DEEP / 65535),
    "grey.bmp": (image(GREY, "BMP"), GREY / 255),
}


@pytest.mark.parametrize("name", ROUND_TRIPS)
def test_round_trip(tmp_path, name):
    content, expected = ROUND_TRIPS[name]
    (tmp_path / name).write_bytes(content)
    found = data.read(tmp_path / name)
    assert found.dtype == float
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("dtype", ["?", "i1", "u1", "i2", "i4", "i8", "u8", ">i4", "f4", "f8", ">f8", "g"])
def test_every_numeric_dtype_becomes_one_that_jax_knows(tmp_path, dtype):
    """float32 and float64 stay; all else, foreign byte order included, becomes the machine's float64."""
    counts = np.arange(6).reshape(2, 3).astype(dtype)
    np.save(tmp_path / "a.npy", counts)
    found = data.read(tmp_path / "a.npy")
    assert found.dtype == (np.float32 if dtype == "f4" else np.float64)
    assert found.dtype.isnative
    np.testing.assert_array_equal(found, counts.astype(float))


BAD = {
    "text.npy": (b"this is no array", "cannot be read as .npy"),
    "empty.npy": (b"", "cannot be read as .npy"),
    "cut.npy": (NPY[:-9], "cannot be read as .npy"),
    "archive.npy": (NPZ, "archive.npy"),
    "cut.npz": (NPZ[:-30], "cannot be read as .npz"),
    "empty.npz": (b"", "cannot be read as .npz"),
    "array.npz": (NPY, "array.npz"),
    "two.npz": (written(np.savez, x=MATRIX, y=MATRIX), "holds 2 arrays: x .*, y .*; name one"),
    "none.npz": (written(np.savez), "holds 0 arrays"),
    "text.csv": (b"1,2\n3,wide\n", "'wide' on line 2, field 2, is neither a number nor"),
    "ragged.csv": (b"1,2\n3\n", "rows with equally many fields .line 1 has 2 and others have 1"),
    "hole.csv": (b",\n,\n", "2×1 NaN: needs an observed entry"),
    "binary.csv": (b"1,2\n\x00\x01\x02", "is no text .a zero byte"),
    "empty.csv": (b"", "holds no line of data"),
    "cut.csv.gz": (gzip.compress(b"1,2\n3,4\n")[:-9], "cannot be read as .gz"),
    "text.csv.gz": (b"1,2\n", "cannot be read as .gz"),
    "text.zip": (b"1,2\n", "cannot be read as .zip"),
    "cut.npy.xz": (lzma.compress(NPY)[:-9], "cannot be read as .xz"),
    "a.tar.gz": (gzip.compress(b"1,2\n3,4\n"), "needs one of .csv"),
    "nan.csv": (b"1,nan\n2,inf\n", "1 infinite entries.*NaN where an entry is missing"),
    "nan.npy": (written(np.save, np.full((2, 3), np.nan)), "2×3 NaN: needs an observed entry"),
    "text.mtx": (b"1 2 3", "cannot be read as .mtx"),
    "short.mtx": (MARKET.encode() + b"2 2\n1\n2\n3\n", "cannot be read as .mtx .*Truncated"),
    "huge.mtx": (MARKET.encode() + b"100000000 100000000\n1\n", "huge.mtx"),
    "text.png": (b"no picture", "cannot be read as .png"),
    "cut.png": (image(GREY)[:60], "cannot be read as .png"),
    "flat.npy": (written(np.save, np.zeros(4)), r"shape \(4,\).*m×n matrix"),
    "scalar.npy": (written(np.save, 3.0), r"shape \(\).*m×n matrix"),
    "deep.npy": (written(np.save, np.zeros((2, 2, 2))), r"shape \(2, 2, 2\).*m×n matrix"),
    "size0.npy": (written(np.save, np.zeros((0, 3))), r"shape \(0, 3\).*with entries"),
    "complex.npy": (written(np.save, MATRIX + 1j), "complex128.*real numbers"),
    "strings.npy": (written(np.save, MATRIX.astype("U3")), "needs numbers"),
    "dates.npy": (written(np.save, np.zeros((2, 2), "M8[s]")), "needs numbers"),
    "matrix.xlsx": (b"anything", "needs one of .csv, .tsv"),
    "matrix": (b"anything", "needs one of .csv, .tsv"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused_in_one_line(tmp_path, name):
    content, words = BAD[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=words) as caught:
        data.read(tmp_path / name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["missing.npy", "folder.npy"])
def test_no_file(tmp_path, name):
    (tmp_path / "folder.npy").mkdir()
    with pytest.raises(ValueError, match=rf"{name}: does not exist or is not a file"):
        data.read(tmp_path / name)


class Payload:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    ("name", "write", "words"),
    [
        ("object.npy", lambda payload: written(np.save, np.array([[payload]], object)), "never unpickled"),
        ("object.npz", lambda payload: written(np.savez, x=np.array([[payload]], object)), "never unpickled"),
        ("pickle.npy", pickle.dumps, "pickle.npy"),
        ("pickle.npz", pickle.dumps, "pickle.npz"),
    ],
)
def test_pickles_are_never_opened(tmp_path, name, write, words):
    mark = tmp_path / "mark"
    content = write(Payload(mark))
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=words):
        data.read(tmp_path / name)
    assert not mark.exists()
    pickle.loads(pickle.dumps(Payload(mark)))  # the payload does work
    assert mark.exists()


def refusal(path: Path) -> str:
    try:
        data.read(path)
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.csv", "deep.png", "grey.bmp"])
def test_damage_is_never_a_crash(tmp_path, name):
    """Files with a random wrong byte are read, or refused by the library itself."""
    rng, content, path = np.random.default_rng(3), ROUND_TRIPS[name][0], tmp_path / name
    messages = []
    for _ in range(300):
        broken = bytearray(content)
        broken[rng.integers(min(len(broken), 300))] = rng.integers(256)
        path.write_bytes(broken)
        messages.append(refusal(path))
    assert any(messages)
    assert all(name in message for message in filter(None, messages))


@pytest.mark.parametrize("end", [b"3.6E-", b"3\0\n"])
def test_damaged_market_file_does_not_kill_the_interpreter(tmp_path, end):
    """A number cut off in its exponent, or with a zero byte behind it; in a process of its own."""
    path = tmp_path / "cut.mtx"
    path.write_bytes(MARKET.encode() + b"2 1\n0.1\n" + end)
    program = "import sys; from jaxfact import data; data.read(sys.argv[1])"
    ended = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True)
    assert ended.returncode in (0, 1)
    assert ended.returncode == 0 or "ValueError: file=" in ended.stderr


@pytest.mark.parametrize(
    ("spectrum", "expected"),
    [
        (Spectrum.LINEAR, [1, 0.75, 0.5, 0.25]),
        (Spectrum.GEOMETRIC, [1, 0.25 ** (1 / 3), 0.25 ** (2 / 3), 0.25]),
        (Spectrum.STEP, [1, 1, 1, 0.25]),
    ],
)
def test_spectra(spectrum, expected):
    np.testing.assert_allclose(data.singular_values(4, 4.0, spectrum), expected, rtol=1e-14)
    np.testing.assert_array_equal(data.singular_values(3, 1.0, spectrum), np.ones(3))


@pytest.mark.parametrize(
    ("rank", "condition", "words"),
    [(0, 2.0, "rank=0"), (2.5, 2.0, "rank=2.5"), (3, 0.5, "condition=0.5.*1 or above"), (3, np.inf, "condition=inf")],
)
def test_spectra_refuse(rank, condition, words):
    with pytest.raises(ValueError, match=words):
        data.singular_values(rank, condition)
