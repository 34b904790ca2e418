"""Binary formats: what is read out of each, what is said of it, and what is refused before it is allocated."""

import json
import pickle
import re
import struct
import sys
import zipfile
import zlib
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.io
import scipy.sparse
import xarray as xr
import zarr
from PIL import Image

from jaxfact import data
from jaxfact.choices import Absent

MATRIX = np.arange(1.0, 13).reshape(4, 3)
ZEROS = np.where(MATRIX % 3 == 0, MATRIX, 0)
HOLES = np.where(MATRIX % 3 == 0, MATRIX, np.nan)
GREY = np.random.default_rng(0).integers(0, 256, (4, 3)).astype("u1")
GRID = xr.DataArray(
    MATRIX, dims=("station", "day"), coords={"station": [7, 8, 9, 5], "day": pd.date_range("2020", periods=3)}
)
SPARSE = scipy.sparse.csr_array(ZEROS)
KINDS = ("csr", "csc", "coo", "bsr", "dia")


def pointers(group, names: tuple[str, str, str], matrix) -> None:
    for name, part in zip(names, (matrix.data, matrix.indices, matrix.indptr), strict=True):
        group[name] = part


def anndata(path: Path) -> None:
    with h5py.File(path, "w") as file:
        group = file.create_group("X")
        group.attrs.update({"encoding-type": "csr_matrix", "shape": (4, 3)})
        pointers(group, ("data", "indices", "indptr"), SPARSE)
        file["layers/raw"] = file["obsm/pca"] = MATRIX
        for name, count in (("obs", 4), ("var", 3)):
            table = file.create_group(name)
            table.attrs["_index"] = "id"
            table["id"] = [f"{name}{number}" for number in range(count)]


def matlab73(path: Path) -> None:
    """As MATLAB does: columns first, text and sparse matrices marked by attributes, behind 512 bytes of its own."""
    with h5py.File(path, "w", userblock_size=512) as file:
        file["X"] = MATRIX.T
        file["name"] = np.array([[104], [105]], "u2")
        file["#refs#/a"] = MATRIX
        group, columns = file.create_group("S"), scipy.sparse.csc_array(ZEROS)
        pointers(group, ("data", "ir", "jc"), columns)
        group.attrs["MATLAB_sparse"] = np.uint64(4)
        for name, kind in (("X", "double"), ("name", "char"), ("S", "double")):
            file[name].attrs["MATLAB_class"] = np.bytes_(kind)
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")


def old_sparse(path: Path) -> None:
    with h5py.File(path, "w") as file:
        group = file.create_group("inner/m")
        group.attrs.update({"h5sparse_format": "csc", "h5sparse_shape": (4, 3)})
        pointers(group, ("data", "indices", "indptr"), scipy.sparse.csc_array(ZEROS))


def market(kind: str, *lines: str):
    return lambda path: path.write_text("\n".join([f"%%MatrixMarket matrix {kind}", *lines, ""]))


def grouped_zarr(path: Path) -> None:
    zarr.open_group(path, mode="w", zarr_format=2).create_array("sub/x", data=MATRIX)


WRITERS = {
    "m.mat": lambda path: scipy.io.savemat(path, {"X": MATRIX, "name": "text"}, do_compression=True),
    "v4.mat": lambda path: scipy.io.savemat(path, {"X": MATRIX}, format="4"),
    "many.mat": lambda path: scipy.io.savemat(path, {"X": MATRIX, "S": SPARSE, "y": np.ones(3), "name": "text"}),
    "v73.mat": matlab73,
    "a.h5ad": anndata,
    "old.h5": old_sparse,
    "two.npz": lambda path: np.savez(path, x=MATRIX, y=MATRIX[0]),
    "complex.npy": lambda path: np.save(path, MATRIX + 0j),
    "a.nc": lambda path: xr.Dataset({"x": GRID, "y": GRID[0]}).to_netcdf(path, engine="h5netcdf"),
    "three.nc": lambda path: xr.Dataset({"x": GRID}).to_netcdf(path, engine="scipy"),
    "a.zarr": lambda path: xr.Dataset({"x": GRID, "y": GRID[0]}).to_zarr(path, consolidated=False),
    "plain.zarr": lambda path: zarr.save_array(path, MATRIX),
    "group.zarr": grouped_zarr,
    "index.parquet": lambda path: pd.DataFrame(MATRIX, list("abcd"), list("uvw")).to_parquet(path),
    "column.parquet": lambda path: pd.DataFrame(
        {"k": list("abcd"), **{f"c{n}": MATRIX[:, n % 3] for n in range(5)}}
    ).to_parquet(path),
    "pattern.mtx": market("coordinate pattern general", "2 2 2", "1 1", "2 2"),
    "skew.mtx": market("coordinate real skew-symmetric", "2 2 1", "2 1 5"),
    "hermitian.mtx": market("array complex hermitian", "2 2", "1 0", "2 0", "3 0"),
    "zero.mtx": market("coordinate integer general", "2 2 2", "1 1 0", "2 1 3"),
} | {f"{kind}.npz": lambda path, kind=kind: scipy.sparse.save_npz(path, SPARSE.asformat(kind)) for kind in KINDS}

ABSENT = r"absent ones as zeros \(--absent missing reads them as missing\)"
ROUND_TRIPS = [
    ("m.mat", MATRIX, ""),
    ("v4.mat", MATRIX, ""),
    ("many.mat:X", MATRIX, ""),
    ("many.mat:S", ZEROS, f"sparse, 4 entries stored, {ABSENT}"),
    ("v73.mat:X", MATRIX, ""),
    ("v73.mat:S", ZEROS, ABSENT),
    ("a.h5ad", ZEROS, rf"rows obs0 … obs3, columns var0 … var2.*{ABSENT}"),
    ("a.h5ad:/X", ZEROS, "obs0"),
    ("a.h5ad:layers/raw", MATRIX, "obs0"),
    ("a.h5ad:obsm/pca", MATRIX, "no labels"),
    ("old.h5", ZEROS, ABSENT),
    ("old.h5:/inner/m", ZEROS, ABSENT),
    ("two.npz:x", MATRIX, ""),
    ("complex.npy", MATRIX, "complex numbers without imaginary part"),
    ("a.nc", MATRIX, "rows 7 … 5"),
    ("a.nc:x", MATRIX, "rows 7 … 5"),
    ("three.nc", MATRIX, "rows 7 … 5"),
    ("a.zarr", MATRIX, "rows 7 … 5"),
    ("plain.zarr", MATRIX, "no labels"),
    ("group.zarr", MATRIX, "no labels"),
    ("group.zarr:sub/x", MATRIX, "no labels"),
    ("index.parquet", MATRIX, "rows a … d, columns u … w"),
    ("column.parquet", MATRIX[:, [0, 1, 2, 0, 1]], "rows named by the column k"),
    ("pattern.mtx", np.eye(2), ABSENT),
    ("skew.mtx", [[0, -5], [5, 0]], ABSENT),
    ("hermitian.mtx", [[1, 2], [2, 3]], "without imaginary part"),
    ("zero.mtx", [[0, 0], [3, 0]], ABSENT),
    *((f"{kind}.npz", ZEROS, ABSENT) for kind in KINDS),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Return a folder with a file of every format."""
    folder = tmp_path_factory.mktemp("formats")
    for name, write in WRITERS.items():
        write(folder / name)
    return folder


@pytest.mark.parametrize(("name", "expected", "said"), ROUND_TRIPS)
def test_every_format_gives_the_matrix_and_says_what_was_read(folder, name, expected, said):
    found = data.read(f"{folder}/{name}")
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, expected)
    assert re.search(said, found.attrs["read"])


@pytest.mark.parametrize("name", ["csr.npz", "coo.npz", "many.mat:S", "v73.mat:S", "a.h5ad", "old.h5"])
def test_absent_entries_are_missing_where_asked(folder, name):
    found = data.read(f"{folder}/{name}", absent=Absent.MISSING)
    np.testing.assert_array_equal(found, HOLES)
    assert "absent ones missing" in found.attrs["read"]
    np.testing.assert_array_equal(data.read(f"{folder}/{name}", absent=Absent.ZERO), ZEROS)


def test_stored_zeros_are_no_absent_ones(folder):
    np.testing.assert_array_equal(data.read(folder / "zero.mtx", absent=Absent.MISSING), [[0, np.nan], [3, np.nan]])


def test_a_list_of_entries_in_parquet_is_one(tmp_path):
    table = pd.DataFrame({"user": [1, 2, 1], "item": [5, 5, 6], "rating": [1.0, 2, 3]})
    table.to_parquet(tmp_path / "r.parquet")
    found = data.read(tmp_path / "r.parquet")
    np.testing.assert_array_equal(found, [[1, 3], [2, np.nan]])
    np.testing.assert_array_equal(data.read(tmp_path / "r.parquet", entries=False), table)


def declared(shape: tuple[int, ...]) -> bytes:
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header


def bomb(shape: tuple[int, ...]):
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("x.npy", declared(shape))

    return write


def inflating(path: Path) -> None:
    """An element of .mat that says it is small, and is not: 32 MB of zeros, read with a limit of a million entries."""
    body = zlib.compress(struct.pack("<II", 14, 64) + bytes(2**25))
    path.write_bytes(b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM" + struct.pack("<II", 15, len(body)) + body)


def hollow(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("x", shape=(10**6, 10**6), dtype="f8", chunks=(10, 10))


def wrong_indices(path: Path) -> None:
    np.savez(path, format=b"csr", shape=[4, 3], data=SPARSE.data, indices=SPARSE.indices + 9, indptr=SPARSE.indptr)


LIMITED = {
    "huge.npy": (lambda path: path.write_bytes(declared((40_000, 25_000))), "40000×25000 entries, 8 GB.*--largest"),
    "short.npy": (lambda path: path.write_bytes(declared((4000, 2500))), "declares 80000000 bytes, holds 0"),
    "huge.npz": (bomb((40_000, 25_000)), "40000×25000 entries, 8 GB.*--largest"),
    "short.npz": (bomb((4000, 2500)), "declares 80000000 bytes"),
    "sparse.npz": (
        lambda path: scipy.sparse.save_npz(path, scipy.sparse.coo_array(([1.0], ([0], [0])), shape=(10**6, 10**6))),
        "1000000×1000000 entries",
    ),
    "huge.mtx": (market("coordinate real general", "1000000000 1 1", "1 1 1.0"), "1000000000×1 entries, 8 GB"),
    "many.mtx": (market("coordinate real general", "3 3 999999999999", "1 1 1.0"), "more entries than 71 bytes"),
    "array.mtx": (market("array real general", "16000 16000", "1"), "more entries than"),
    "hollow.h5": (hollow, "1000000×1000000 entries"),
    "hollow.zarr": (
        lambda path: zarr.create_array(path, shape=(10**6, 10**6), chunks=(1000, 1000), dtype="f8"),
        "1000000×1000000 entries",
    ),
    "huge.pgm": (lambda path: path.write_bytes(b"P5 30000 30000 255\n"), "30000×30000 entries, 7.2 GB.*--largest"),
}


@pytest.mark.parametrize("name", LIMITED)
def test_declared_sizes_are_refused_before_they_are_allocated(tmp_path, name):
    write, words = LIMITED[name]
    write(tmp_path / name)
    with pytest.raises(ValueError, match=words) as caught:
        data.read(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_the_limit_can_be_lowered_and_lifted(tmp_path):
    np.save(tmp_path / "a.npy", MATRIX)
    with pytest.raises(ValueError, match="4×3 entries.*at most 11 are read.*largest=12"):
        data.read(tmp_path / "a.npy", largest=11)
    assert data.read(tmp_path / "a.npy", largest=12).size == 12
    inflating(tmp_path / "a.mat")
    with pytest.raises(ValueError, match="decompresses to more than"):
        data.read(tmp_path / "a.mat", largest=10**6)
    (tmp_path / "a.pgm").write_bytes(b"P5 30000 30000 255\n")
    with pytest.raises(ValueError, match="truncated"):  # Pillow's own limit, 179 megapixels, does not hold
        data.read(tmp_path / "a.pgm", largest=10**9)


REFUSED = [
    ("two.npz", r"holds 2 arrays: x \(4×3\), y \(3\); name one, for example two\.npz:x"),
    ("two.npz:z", r"no array of numbers in the file has this name; it holds x \(4×3\)"),
    ("two.npz:y", r"shape \(3,\)"),
    ("many.mat", r"holds 3 arrays: X \(4×3\), S \(4×3\), y \(1×3\), beside name \(char\); name one"),
    ("many.mat:name", "no array of numbers in the file has this name"),
    ("v73.mat", r"holds 2 arrays: S \(4×3\), X \(4×3\); name one"),
    ("a.h5ad:obs", "no array of numbers in the file has this name"),
    ("a.nc:y", "y with the dimensions day: needs two dimensions"),
    ("a.zarr:y", r"no array of numbers in the file has this name; it holds x \(4×3\)"),
]


@pytest.mark.parametrize(("name", "words"), REFUSED)
def test_what_to_read_is_asked_by_name(folder, name, words):
    with pytest.raises(ValueError, match=words):
        data.read(f"{folder}/{name}")


DAMAGED = {
    "twice.mtx": (
        market("coordinate real general", "3 3 2", "1 2 2.0", "1 2 3.0"),
        r"row 1, column 2 a second time: needs each entry once \(counted from 1\)",
    ),
    "mirrored.mtx": (market("coordinate real symmetric", "3 3 2", "2 1 1", "1 2 5"), "a second time"),
    "complex.mtx": (market("coordinate complex general", "2 2 1", "1 1 1 1"), "complex128: needs real numbers"),
    "indices.npz": (wrong_indices, "indices must be < 3"),
    "kind.npz": (lambda path: np.savez(path, format=b"odd", shape=[4, 3], data=MATRIX), "unknown format odd"),
    "text.parquet": (
        lambda path: pd.DataFrame({"a": [1], "b": ["x"], "c": [1], "d": [1], "e": [1]}).to_parquet(path),
        "text in the column b",
    ),
    "bfloat16.npy": (lambda path: np.save(path, np.zeros((2, 2), "V2")), r"save array\.astype\('float32'\)"),
    "structure.npy": (lambda path: np.save(path, np.zeros((2, 2), [("x", float)])), "not structures"),
    "program.png": (lambda path: path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n"), "cannot identify image file"),
} | {
    f"junk{suffix}": (lambda path: path.write_bytes(b"junk"), rf"junk\{suffix}: cannot be ")
    for suffix in (".mat", ".h5", ".h5ad", ".nc", ".zarr", ".parquet", ".npz", ".tif")
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_and_doubt_are_refused_in_one_line(tmp_path, name):
    write, words = DAMAGED[name]
    write(tmp_path / name)
    with pytest.raises(ValueError, match=words) as caught:
        data.read(tmp_path / name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "package"), [("old.h5", "h5py"), ("a.nc", "h5netcdf"), ("index.parquet", "pyarrow")])
def test_a_missing_package_is_named_with_its_extra(folder, monkeypatch, name, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=rf"needs the package {package}.*jaxfact\[export\]"):
        data.read(folder / name)


class Payload:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_pickles_inside_zarr_are_never_opened(tmp_path):
    store, mark = tmp_path / "a.zarr", tmp_path / "mark"
    (store / "x").mkdir(parents=True)
    (store / ".zgroup").write_text('{"zarr_format": 2}')
    described = {"zarr_format": 2, "shape": [1, 1], "chunks": [1, 1], "dtype": "|O", "fill_value": None, "order": "C"}
    described |= {"filters": [{"id": "pickle", "protocol": 5}], "compressor": None}
    (store / "x" / ".zarray").write_text(json.dumps(described))
    (store / "x" / "0.0").write_bytes(pickle.dumps(np.array([[Payload(mark)]], object)))
    with pytest.raises(ValueError, match="never unpickled"):
        data.read(f"{store}:x")
    assert not mark.exists()


def saved(pixels: Image.Image, name: str, **options):
    return lambda path: pixels.save(path / name, **options)


def turned() -> dict:
    described = Image.Exif()
    described[0x0112] = 6  # the camera lay on its left side: rotate by 90° clockwise
    return {"exif": described}


def colours_of_16_bits(path: Path) -> None:
    rows = b"".join(b"\0" + np.repeat(row.astype(">u2") * 257, 3).tobytes() for row in GREY)
    head = struct.pack(">IIBBBBB", 3, 4, 16, 2, 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    chunks = (
        struct.pack(">I", len(body)) + tag + body + struct.pack(">I", zlib.crc32(tag + body)) for tag, body in parts
    )
    (path / "16.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


PLAIN = Image.fromarray(GREY)
RGB, OPAQUE = Image.merge("RGB", [PLAIN] * 3), Image.merge("LA", [PLAIN, Image.new("L", (3, 4), 255)])
MORE = {"save_all": True, "append_images": [Image.fromarray(255 - GREY)] * 2}
IMAGES = {
    "alpha.png": (saved(Image.merge("LA", [PLAIN, PLAIN]), "alpha.png"), GREY / 255, "transparency left out"),
    "rgba.png": (saved(Image.merge("RGBA", [PLAIN] * 4), "rgba.png"), GREY / 255, "transparency left out.*colours"),
    "opaque.png": (saved(OPAQUE, "opaque.png"), GREY / 255, "complete$"),
    "rgb.png": (saved(RGB, "rgb.png"), GREY / 255, "colours as grey levels"),
    "palette.png": (saved(PLAIN.convert("P"), "palette.png"), GREY / 255, "colours as grey levels"),
    "turned.png": (saved(PLAIN, "turned.png", **turned()), np.rot90(GREY, -1) / 255, "EXIF orientation"),
    "turned.tif": (saved(PLAIN, "turned.tif", **turned()), np.rot90(GREY, -1) / 255, "EXIF orientation"),
    "frames.tif": (saved(PLAIN, "frames.tif", **MORE), GREY / 255, "the first of 3 frames"),
    "frames.png": (saved(PLAIN, "frames.png", **MORE), GREY / 255, "the first of 3 frames"),
    "frames.gif": (saved(PLAIN, "frames.gif", **MORE), GREY / 255, "the first of [23] frames"),
    "cmyk.tif": (saved(RGB.convert("CMYK"), "cmyk.tif"), GREY / 255, "colours as grey levels"),
    "16.tif": (saved(Image.fromarray(GREY.astype("u2")), "16.tif"), GREY / 65535, "complete$"),
    "16.pgm": (
        lambda path: (path / "16.pgm").write_bytes(b"P5 3 4 1023\n" + (GREY * np.uint16(4)).astype(">u2").tobytes()),
        GREY * 4.0 / 1023,
        "complete$",
    ),
    "32.tif": (saved(Image.fromarray(GREY.astype("i4") * 1000), "32.tif"), GREY * 1000.0, "whole numbers as stored"),
    "real.tif": (saved(Image.fromarray(MATRIX.astype("f4")), "real.tif"), MATRIX, "floating-point numbers as stored"),
    "16.png": (colours_of_16_bits, GREY / 255, "16-bit channels read at 8 bits"),
}


@pytest.mark.parametrize("name", IMAGES)
def test_what_of_an_image_is_no_grey_level_is_honoured_or_said(tmp_path, name):
    write, expected, said = IMAGES[name]
    write(tmp_path)
    found = data.read(tmp_path / name)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert re.search(said, found.attrs["read"])
    assert Image.MAX_IMAGE_PIXELS is not None
