"""The command that passes results on to other programs."""

from pathlib import Path
from typing import Annotated

import typer

from jaxfact.choices import Format
from jaxfact.cli.register import Store, command
from jaxfact.store.medium import medium_of

_SUFFIXES = {Format.CSV: ".csv", Format.PARQUET: ".parquet", Format.NETCDF: ".nc"}


@command(place=23)
def export(
    store: Store,
    to: Annotated[Format, typer.Option(help="One row per run as text or in columns, or the whole dataset.")],
    out: Annotated[Path | None, typer.Option(help="New file.  [default: beside the store]")] = None,
) -> Path:
    """Write the finished runs of a store for other programs.

    Example: jaxfact export runs/a.zarr --to csv
    """
    from jaxfact.store import export as writing

    write = {Format.CSV: writing.to_csv, Format.PARQUET: writing.to_parquet, Format.NETCDF: writing.to_netcdf}[to]
    file = _beside(store, _SUFFIXES[to]) if out is None else out
    print(f"{write(store, file)} runs: {file}")
    return file


def _beside(store: str, suffix: str) -> Path:
    """Return the store's name with another suffix; only .zarr counts as one. What is no folder has it here."""
    folder = medium_of(store).folder
    place = Path(store.rstrip("/").rpartition("/")[2]) if folder is None else folder
    if place.name in ("", ".."):
        place = place.resolve()
    return place.with_name(place.name.removesuffix(".zarr") + suffix)
