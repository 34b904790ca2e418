"""Presets for people: the list of them, the table of what one shows, and its runs on disk."""

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table

from jaxfact import papers
from jaxfact.engine.tiles import Progress
from jaxfact.papers import Finding, Outcome, Preset
from jaxfact.results.files import write_results
from jaxfact.results.whole import check_new_folder, whole_folder

_HOLDS = {True: "yes", False: "no", None: "–"}


def print_list(console: Console) -> None:
    """Print name, paper, statement and seconds of every preset."""
    for preset in papers.ALL.values():
        console.print(f"{preset.name}: {preset.paper}", highlight=False, markup=False)
        console.print(Padding(preset.statement, (0, 0, 0, 4)), highlight=False, markup=False)
        cost = f"{preset.seeds} seeds unless given, about {preset.seconds} s on two CPU cores"
        console.print(Padding(cost, (0, 0, 1, 4)), highlight=False, markup=False)


def run(
    preset: Preset, seeds: int | None, folder: Path | None, as_json: bool, progress: Progress | None, console: Console
) -> None:
    """Run a preset, print its findings and write its runs, where a folder is given, as one Zarr store a dataset."""
    if folder is not None:
        check_new_folder(folder)
    outcome = preset.run(seeds, progress)
    if as_json:
        console.print_json(json.dumps(as_numbers(preset, outcome), ensure_ascii=False))
    else:
        print_findings(preset, outcome, console)
    if folder is not None:
        write(outcome, folder)


def print_findings(preset: Preset, outcome: Outcome, console: Console) -> None:
    """Print what should be seen and the table of what is."""
    attrs = next(iter(outcome.runs.values())).attrs
    for line in (
        f"{preset.name}: {preset.paper}",
        preset.statement,
        f"{preset.randomness} {attrs['dtype']} on {attrs['devices']} × {attrs['device']}, jax {attrs['jax']}",
    ):
        console.print(line, highlight=False, markup=False)
    table = _table("findings")
    for name in ("what", "measured", "interval", "expected", "holds"):
        table.add_column(name, overflow="fold")
    for finding in outcome.findings:
        table.add_row(*_cells(finding))
    console.print(table, markup=False)


def as_numbers(preset: Preset, outcome: Outcome) -> dict[str, Any]:
    """Return preset and findings as plain numbers and strings; what is not finite is null."""
    described = {name: getattr(preset, name) for name in ("name", "paper", "statement", "randomness")}
    findings = [{key: _finite(value) for key, value in asdict(finding).items()} for finding in outcome.findings]
    return {**described, "findings": findings}


def write(outcome: Outcome, folder: Path) -> None:
    """Write each dataset as a Zarr store into a folder, which appears whole or not at all."""
    check_new_folder(folder)
    with whole_folder(folder) as made:
        for name, runs in outcome.runs.items():
            write_results(runs, made / f"{name}.zarr")


def _cells(finding: Finding) -> list[str]:
    known = [f"{x:.4g}" for x in (finding.low, finding.high) if not math.isnan(x)]
    interval = f"{'–'.join(known)} ({finding.interval})" if known else finding.interval
    return [finding.what, f"{finding.measured:.4g}", interval, finding.expected, _HOLDS[finding.holds]]


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
