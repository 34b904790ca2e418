"""Results written all at once: a Zarr 3 store under a seal, which holds length and checksum of each of its files."""

import hashlib
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import xarray as xr

from jaxfact.inputs import problem_with
from jaxfact.results.flags import encoded, named
from jaxfact.results.labels import plain
from jaxfact.results.whole import whole_folder
from jaxfact.store.medium import MISSING, Damage, Medium, medium_of
from jaxfact.store.metadata import crc
from jaxfact.store.root import EMPTY_GROUP, ROOT

SEAL = "seal/files.json"
"""The file of checksums; an attribute of this name says that there is one."""

_UNLIKE = "is not what was written"


class BrokenSeal(Damage):
    """Results that were written all at once are not what they were."""

    remedy: str = "whatever reads Zarr opens the rest; write the results again where you can"


def write_results(runs: xr.Dataset, path: str | Path) -> None:
    """Write the dataset of a sweep as a Zarr 3 store; the outcome becomes a CF flag variable.

    It appears whole or not at all, and `open_results` compares every file with its checksum. Raises ValueError where
    something is there already.
    """
    place = medium_of(path).folder
    if place is None:
        raise problem_with("path", path, "is no folder", "write results into one, and copy it")
    if place.exists():
        raise problem_with("path", path, "exists already", "choose another path, or remove it")
    with whole_folder(place) as made:
        encoded(runs).assign_attrs({SEAL: True}).to_zarr(made, mode="a", zarr_format=3, consolidated=False)
        (made / SEAL).parent.mkdir()
        (made / SEAL).with_name(ROOT).write_bytes(EMPTY_GROUP)  # or readers wonder what the folder is
        _consolidate(made)
        files = {key: [len(content), crc(content)] for key, content in _contents(made)}
        (made / SEAL).write_text(json.dumps({"files": files, "sha256": _digest(files)}), encoding="utf-8")


def open_written(medium: Medium, instead: str) -> xr.Dataset:
    """Open a store of `write_results`, or of another program, which has no seal.

    Raises ValueError where there is no store, and BrokenSeal where a file is not what was written.
    """
    folder = medium.folder
    if folder is None or not folder.is_dir():
        raise problem_with("path", medium.name, "is not a Zarr 3 store", instead)
    content, seal = _got(medium, ROOT), _got(medium, SEAL)
    if content is None and seal is None:
        raise problem_with("path", medium.name, "is not a Zarr 3 store", instead)
    said = _attributes(content, sealed=seal is not None, medium=medium)
    if seal is not None or SEAL in said["attributes"]:
        _check(medium, seal)
    _check_format(medium, said)
    runs = named(xr.open_dataset(folder, engine="zarr", chunks=None, consolidated="consolidated_metadata" in said))
    runs.attrs = plain({name: value for name, value in runs.attrs.items() if name != SEAL})
    return runs


def _got(medium: Medium, key: str) -> bytes | None:
    try:
        return medium.get(key)
    except Damage as damage:
        raise BrokenSeal(f"{medium.name}: {damage.key}", damage.what) from None


def _attributes(content: bytes | None, *, sealed: bool, medium: Medium) -> dict[str, Any]:
    """Return the metadata of the root; raises BrokenSeal, or ValueError where there never was a seal."""
    try:
        said = json.loads(content or b"")
        return {**said, "attributes": dict(said.get("attributes", {}))}
    except (ValueError, TypeError, AttributeError, RecursionError):
        if sealed:
            raise BrokenSeal(f"{medium.name}: {ROOT}", MISSING if content is None else _UNLIKE) from None
        raise problem_with("path", medium.name, f"its {ROOT} is not that of a store", "give another") from None


def _check_format(medium: Medium, said: dict[str, Any]) -> None:
    """Refuse arrays of Zarr 2 in the root of a Zarr 3 store: their filters may be pickles."""
    inside = said.get("consolidated_metadata")
    nodes = inside.get("metadata") if isinstance(inside, dict) else {}
    found = list(nodes.values()) if isinstance(nodes, dict) else [None]
    if not all(isinstance(of, dict) and of.get("zarr_format") == 3 for of in [said, *found]):
        raise problem_with("path", medium.name, f"its {ROOT} is not that of a Zarr 3 store", "give another")


def _check(medium: Medium, seal: bytes | None) -> None:
    """Compare every file with the seal. Raises BrokenSeal, which names each that differs."""
    wrong: dict[str, str] = {}
    try:
        document = json.loads(seal or b"")
        files = {str(key): (int(length), int(total)) for key, (length, total) in document["files"].items()}
        if document["sha256"] != _digest(document["files"]):
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise BrokenSeal(f"{medium.name}: {SEAL}", MISSING if seal is None else _UNLIKE) from None
    for key, wanted in files.items():
        try:
            content = medium.get(key)
        except Damage as damage:
            wrong[key] = damage.what
            continue
        if content is None or (len(content), crc(content)) != wanted:
            wrong[key] = MISSING if content is None else "has another checksum than it should"
    if wrong:
        *others, (key, what) = wrong.items()
        before = "".join(f"{key} {what}, " for key, what in others)
        raise BrokenSeal(f"{medium.name}: {before}{key}", what)


def _contents(folder: Path) -> Iterator[tuple[str, bytes]]:
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            yield file.relative_to(folder).as_posix(), file.read_bytes()


def _digest(files: dict[str, list[int]]) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def _consolidate(path: Path) -> None:
    """Put the metadata of all arrays into the root, so that a store opens with one read."""
    import zarr  # a tenth of a second that results in memory need not cost

    with warnings.catch_warnings():
        # It says that readers without consolidated metadata ignore it, which is intended.
        warnings.filterwarnings("ignore", message="Consolidated metadata")
        zarr.consolidate_metadata(path)
