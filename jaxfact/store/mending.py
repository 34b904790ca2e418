"""Finding what is damaged in a store."""

from jaxfact.store.layout import Tile
from jaxfact.store.marks import Mark
from jaxfact.store.tilestore import TileStore


def mend(store: TileStore) -> list[str]:
    """Read every tile that is done, with its checksums, drop those that are damaged, and return what was wrong.

    The runs of a dropped tile are missing, so the sweep makes them again. Tiles that others work on are left to them.
    """
    found = []
    for variant in range(len(store.variants)):
        for tile in store.tiles(variant):
            if store.mark(tile) is None:
                continue
            with store.claimed(tile) as mine:
                mark = store.mark(tile)
                if mine and mark is not None and (damage := _damage(store, tile, mark)):
                    store.drop(tile)
                    found.append(damage)
    return found


def _damage(store: TileStore, tile: Tile, mark: Mark) -> str:
    """Return what is wrong with a tile, or nothing."""
    for name, length in mark.files.items():
        file = store.path / name
        if not file.exists() or file.stat().st_size != length:
            return f"{name} has {file.stat().st_size if file.exists() else 0} bytes instead of {length}"
    for name in store.names:
        try:
            store.read(name, tile, mark.covers)
        except (ValueError, RuntimeError, OSError) as error:
            return f"{name} of tile {'-'.join(map(str, tile))} is damaged ({error})"
    return ""
