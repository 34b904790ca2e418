"""What leaves the page: the line that makes one run again, and figures, data and script of what is shown."""

import io
import tempfile
import threading
import zipfile
from pathlib import Path

import xarray as xr

from jaxfact.explore.controls import State, address_of
from jaxfact.explore.laboratory import TOLERANCE, Laboratory
from jaxfact.explore.summaries import Shown
from jaxfact.figures.curves import distance, imbalance
from jaxfact.figures.publishing import publish
from jaxfact.figures.styles import house
from jaxfact.figures.survival import survival

_ONE_AT_A_TIME = threading.Lock()  # the settings of matplotlib are those of the process
_DRAWN = {"distance": distance, "imbalance": imbalance, "survival": lambda runs: survival(runs, TOLERANCE)}


def line_of(state: State, laboratory: Laboratory, method: str, seed: int) -> str:
    """Return the line of Python that makes one run again, bit for bit; a matrix of one's own is `problem` in it."""
    return f'{_call(state, laboratory)}.run("{method}", seeds=[{seed}])'


def script_of(state: State, laboratory: Laboratory) -> str:
    """Return a script that makes all shown runs again, and draws what they did."""
    lines = ["import jaxfact as jf", ""]
    if laboratory.problem is not None:
        lines += ["# problem = jf.Factorization(matrix), the one that was explored", ""]
    lines += [f"explorer = {_call(state, laboratory)}", "runs = explorer.run()", ""]
    lines += ["print(jf.stats.outcome_fractions(runs).fraction.to_pandas())"]
    lines += ['jf.figures.save(jf.figures.distance(runs), "distance.png")']
    return "\n".join(lines) + "\n"


def archive(shown: Shown, laboratory: Laboratory) -> io.BytesIO:
    """Return a ZIP file of the figures with their numbers, one row for each run as CSV, and the script."""
    made, runs = io.BytesIO(), laboratory.run(shown.state, shown.state.seeds)
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as packed:
        script = script_of(shown.state, laboratory)
        packed.writestr("again.py", script)
        packed.writestr("runs.csv", _table(shown, runs))
        with _ONE_AT_A_TIME, house():
            for name, draw in _DRAWN.items():
                publish(draw(runs), Path(folder, name), made_by=_call(shown.state, laboratory))
        for file in sorted(Path(folder).iterdir()):
            packed.write(file, file.name)
    made.seek(0)
    return made


def _call(state: State, laboratory: Laboratory) -> str:
    address = address_of(state, laboratory.controls)
    given = ["problem"] * (laboratory.problem is not None) + [f'"{address}"'] * bool(address)
    return f"jf.explore({', '.join(given)})"


def _table(shown: Shown, runs: xr.Dataset) -> str:
    """Return a row for every run: method, seed, how it ended, when it arrived, and σ_min(A₀)."""
    ends = runs[["outcome", "steps", "distance", "imbalance"]].assign(T=runs.hit.isel(level=-1))
    table = ends.reset_coords(drop=True).to_dataframe().reset_index()
    smallest = dict(zip(shown.state.seeds, shown.signals, strict=True))
    return table.assign(sigma_min_A0=table.seed.map(smallest)).to_csv(index=False)
