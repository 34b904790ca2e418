"""The root of a store, read and changed: the last generation that is whole, and what follows from it on disk."""

import json
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from jaxfact.inputs import problem_with
from jaxfact.store.claims import changing
from jaxfact.store.folder import Folder
from jaxfact.store.marks import is_marks
from jaxfact.store.medium import MISSING, Damage, Medium, put_over
from jaxfact.store.metadata import chunk_of, is_chunk_of
from jaxfact.store.root import EMPTY_GROUP, ROOT, TILES, Root, generation_of, parsed, root_key


class Found(NamedTuple):
    """The root of a store, its content as a file, and what of its generations is damaged, by key."""

    root: Root
    content: bytes
    damaged: dict[str, str]


def read_root(medium: Medium, instead: str) -> Found:
    """Return the root that readers see, and where it is damaged or missing the last generation.

    Raises ValueError, which ends in what to do instead, where there is no store of a sweep, and Damage where none of
    its generations is whole.
    """
    damaged, there = dict[str, str](), False
    for _ in range(2):
        if (found := _read(medium, ROOT, damaged)) is not None:
            return found
        if (found := _last(medium, damaged)) is not None:
            damaged.setdefault(ROOT, MISSING)
            return found
        there = is_sweep(medium)
        if damaged or not there:
            break  # else it has been created in between
    if not there and not set(damaged) - {ROOT}:
        raise problem_with("store", medium.name, "is not the store of a sweep", instead)
    raise _unreadable(medium, damaged)


def change(medium: Medium, instead: str, changed: Callable[[Root], Root | None]) -> list[str]:
    """Replace the root by what a function makes of the last one, None for no change, and write what follows from it.

    Returns what was damaged, and is made again. Raises ValueError and Damage as `read_root`.
    """
    read_root(medium, instead)  # before a lock is put where there may be no store
    with changing(medium):
        while True:
            found = _latest(medium)
            said = [f"{key} {what}" for key, what in found.damaged.items()]
            for key in found.damaged:
                medium.put_aside(key)
            generation = root_key(found.root.generation)
            if medium.size(generation) is None:
                said += [f"{generation} {MISSING}"] * (generation not in found.damaged)
                medium.put_new(generation, found.content)
            root, content = changed(found.root), found.content
            if root is None:
                return said + settle(medium, found.root, content)
            root = root._replace(generation=found.root.generation + 1)
            if medium.put_new(root_key(root.generation), content := root.content()):
                return said + settle(medium, root, content)


def settle(medium: Medium, root: Root, content: bytes) -> list[str]:
    """Write what follows from a root, the copy that readers open last; return what was there before and is not now.

    In a folder nobody else may do so meanwhile: see `changing`.
    """
    damaged: dict[str, str] = {}
    seen = _read(medium, ROOT, damaged)
    is_settled = seen is not None and seen.content == content
    if is_settled and medium.folder is None:
        return []
    unlike = unlike_root(medium, root)
    for key in [key for key, what in unlike.items() if is_settled and what != MISSING] + list(damaged):
        medium.put_aside(key)
    if isinstance(medium, Folder) and not root.generation:  # whose folders are few: a killed creation left half a file
        for key in [ROOT] * (not is_settled) + list(unlike):
            medium.tidy(key)
    for key, made, _ in _following(root):
        if key in unlike:
            put_over(medium, key, made())
    if not is_settled:
        put_over(medium, ROOT, content, synced=True)
        if seen is None and not damaged and any(map(is_marks, medium.list(TILES))):
            return [f"{ROOT} {MISSING}"]  # and no creation that was cut short
    return [f"{key} {what}" for key, what in unlike.items()] if is_settled else []


def unlike_root(medium: Medium, root: Root) -> dict[str, str]:
    """Return which files of metadata and coordinates are not what follows from a root, and what is wrong with them."""
    unlike: dict[str, str] = {}
    for key, _, is_right in _following(root):
        try:
            content = medium.get(key)
            if content is None:
                unlike[key] = MISSING
            elif not is_right(content):
                unlike[key] = "is not what a sweep writes"
        except Damage as damage:
            unlike[damage.key] = damage.what
            unlike[key] = MISSING
    return unlike


def beside(medium: Medium, known: Found) -> dict[str, str]:
    """Return what is wrong with the files that follow from the root of readers, and with its other copy.

    Nothing where a later generation has begun, whose files these may be.
    """
    damaged, root = dict[str, str](), known.root
    key = root_key(root.generation)
    try:
        content = medium.get(key)
        if content is None:
            damaged[key] = MISSING
        elif content != known.content:
            damaged[key] = "is not what a sweep writes"
    except Damage as damage:
        damaged[damage.key] = damage.what
    damaged |= unlike_root(medium, root)
    if damaged:  # looked at last: whoever extends the store puts the generation before all else
        try:
            if max([generation_of(name) or 0 for name in medium.list(TILES)], default=0) > root.generation:
                return {}
        except Damage as damage:
            return {damage.key: damage.what}
    return damaged


def is_sweep(medium: Medium) -> bool:
    """Tell whether there is a store of a sweep, whole or not."""
    try:
        return any(generation_of(name) is not None or is_marks(name) for name in medium.list(TILES))
    except Damage:
        return True


def _following(root: Root) -> Iterator[tuple[str, Callable[[], bytes], Callable[[bytes], bool]]]:
    """Yield key, content and how it is recognised, for every file that follows from a root."""
    metadata = {f"{name}/{ROOT}": json.dumps(of).encode() for name, of in root.arrays().items()}
    for key, content in {f"{TILES}/{ROOT}": EMPTY_GROUP, **metadata}.items():
        yield key, content.__bytes__, content.__eq__
    for key, values in root.files():
        yield key, _later(chunk_of, values), lambda content, values=values: is_chunk_of(content, values)


def _later(function: Callable[[np.ndarray], bytes], values: np.ndarray) -> Callable[[], bytes]:
    return lambda: function(values)


def _latest(medium: Medium) -> Found:
    """Return the last generation that is whole, whichever of its two copies is."""
    damaged: dict[str, str] = {}
    found = [one for one in (_last(medium, damaged), _read(medium, ROOT, damaged)) if one is not None]
    if not found:
        raise _unreadable(medium, damaged)
    return max(found, key=lambda one: one.root.generation)


def _last(medium: Medium, damaged: dict[str, str]) -> Found | None:
    """Return the last generation that is whole; note those after it that are not."""
    try:
        numbers = [number for number in map(generation_of, medium.list(TILES)) if number is not None]
    except Damage as damage:
        damaged[damage.key] = damage.what
        return None
    return next(filter(None, (_read(medium, root_key(n), damaged, n) for n in sorted(numbers, reverse=True))), None)


def _read(medium: Medium, key: str, damaged: dict[str, str], generation: int | None = None) -> Found | None:
    """Return the root in a file; None where there is none, or where it is damaged, which is noted."""
    try:
        content = medium.get(key)
        if content is None:
            return None
        root = parsed(key, content)
        if generation not in (None, root.generation):
            raise Damage(key, "is of another generation")
        return Found(root, content, damaged)
    except Damage as damage:
        damaged[damage.key] = damage.what
        return None


def _unreadable(medium: Medium, damaged: dict[str, str]) -> Damage:
    others = {key: what for key, what in damaged.items() if key != ROOT}
    key, what = next(iter({**others, **damaged}.items()), (ROOT, MISSING))
    return Damage(f"{medium.name}: {key}", what)
