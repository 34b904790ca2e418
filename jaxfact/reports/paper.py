"""Papers for people: the list of them, the tables of what their presets show, and the runs on disk."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.padding import Padding

from jaxfact import papers
from jaxfact.papers import Finding, Outcome, Paper, Preset
from jaxfact.reports.pages import print_table
from jaxfact.results.strict_json import finite_or_none
from jaxfact.results.whole import check_new_folder, whole_folder
from jaxfact.store.written import write_results

_HOLDS = {True: "yes", False: "no", None: "–"}


def print_list(console: Console) -> None:
    """Print name, citation and title of every paper, with place, statement and cost of each preset."""
    for paper in map(papers.find, papers.names()):
        console.print(f"{paper.name}: {paper.citation}, {paper.title}", highlight=False, markup=False)
        for preset in paper.presets:
            cost = f"{preset.seeds} seeds by default, about {preset.seconds} s on two CPU cores"
            said = f"{preset.name} ({preset.place}): {preset.statement}\n{cost}"
            console.print(Padding(said, (0, 0, 0, 4)), highlight=False, markup=False)
        console.print()


def print_findings(paper: Paper, outcomes: Mapping[str, Outcome], console: Console) -> None:
    """Print for every preset what should be seen, and the table of what is."""
    for preset in paper.presets:
        _print_preset(paper, preset, outcomes[preset.name], console)


def as_json(paper: Paper, outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
    """Return a paper, its presets and findings as plain numbers and strings; what is not finite is null."""
    described = {name: getattr(paper, name) for name in ("name", "title", "authors", "year")}
    return finite_or_none(
        {**described, "presets": [_preset_as_json(preset, outcomes[preset.name]) for preset in paper.presets]}
    )


def write(outcomes: Mapping[str, Outcome], folder: Path) -> None:
    """Write each dataset as a Zarr store, in a folder per preset, into a folder that appears whole or not at all."""
    check_new_folder(folder)
    with whole_folder(folder) as made:
        for preset, outcome in outcomes.items():
            for name, runs in outcome.runs.items():
                write_results(runs, made / preset / f"{name}.zarr")


def _print_preset(paper: Paper, preset: Preset, outcome: Outcome, console: Console) -> None:
    attrs = next(iter(outcome.runs.values())).attrs
    for line in (
        f"{preset.name}: {paper.citation}, {preset.place}",
        preset.statement,
        f"{preset.randomness} {attrs['dtype']} on {attrs['devices']} × {attrs['device']}, jax {attrs['jax']}",
    ):
        console.print(line, highlight=False, markup=False)
    columns = ["what", "measured", "interval", "expected", "holds"]
    print_table(console, "findings", columns, [_cells(finding) for finding in outcome.findings])
    for finding in outcome.findings:
        if finding.why:
            console.print(f"• {finding.what}: {finding.why}", highlight=False, markup=False)


def _preset_as_json(preset: Preset, outcome: Outcome) -> dict[str, Any]:
    described = {name: getattr(preset, name) for name in ("name", "place", "statement", "randomness")}
    return {**described, "findings": [asdict(finding) for finding in outcome.findings]}


def _cells(finding: Finding) -> list[str]:
    holds = "open" if finding.why else _HOLDS[finding.holds]
    return [finding.what, _number(finding.measured), _interval(finding), finding.expected, holds]


def _interval(finding: Finding) -> str:
    if math.isnan(finding.low):
        return "none"
    if math.isinf(finding.high):
        return f"at least {finding.low:.4g} ({finding.interval})"
    return f"{finding.low:.4g} to {finding.high:.4g} ({finding.interval})"


def _number(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "not every run has one"
