"""A recovery for people: what the tables say, and the figures."""

import math
from pathlib import Path

from matplotlib.figure import Figure
from rich.console import Console

from jaxfact import figures
from jaxfact.figures.recovery import over_splits
from jaxfact.jobs.recovery import MethodRecovery, Recovery, as_json
from jaxfact.reports import pages
from jaxfact.reports.pages import Sheet
from jaxfact.results.whole import check_new_folder

_VERDICTS = {
    "equivalent": "equivalent within 5 %",
    "different": "not equivalent within 5 %",
    "inconclusive": "inconclusive at 5 %",
}


def drawn(recovery: Recovery) -> dict[str, Figure]:
    """Return the figures of a recovery by name."""
    return {
        "errors": figures.recovery(recovery),
        "imbalance": figures.imbalance(over_splits(recovery.runs)),
    }


def sheet(recovery: Recovery) -> Sheet:
    """Return what terminal and page say."""
    lines = [*paired_lines(recovery), *recovery.notes]
    return Sheet(heading(recovery), tables(recovery), lines, _CAPTIONS, as_json(recovery), recovery.runs)


def write(recovery: Recovery, folder: Path) -> None:
    """Write results, figures, summary and page into a folder, which appears whole or not at all."""
    check_new_folder(folder)
    pages.write(sheet(recovery), drawn(recovery), folder)


def print_tables(recovery: Recovery, console: Console) -> None:
    """Print heading, tables, paired lines and notes."""
    pages.print_tables(sheet(recovery), console)


def heading(recovery: Recovery) -> list[str]:
    """Return the lines that say what was run, in which units."""
    s, attrs, (m, n) = recovery.settings, recovery.runs.attrs, recovery.shape
    ratio = "" if s.unbalanced is None else f", ‖U‖/‖V‖ = {s.unbalanced:g}"
    low, high = float(recovery.runs.unit.min()), float(recovery.runs.unit.max())
    share = 100 * recovery.observed / (m * n)
    rest = 100 * (1 - s.validation - s.test)
    return [
        f"{m}×{n} matrix, {recovery.observed} entries ({share:.3g} %) observed, truth unknown",
        f"{recovery.splits} random splits: {rest:.3g} % training, {100 * s.validation:.3g} % validation, "
        f"{100 * s.test:.3g} % test; unit ‖P_Ω(Σ)/p‖₂ = {low:.5g} to {high:.5g} on the training entries",
        f"{s.seeds} Gaussian starts of width {s.width} and entry scale {s.scale:.3g} √unit{ratio}, "
        "shared by splits and methods",
        f"step size {s.step_size:.3g} /unit (relative sharpness at the spectral start of the first split: "
        f"{recovery.sharpness:.3g}), balancing weight {s.weight:g}, noise {s.noise:g} √unit an entry and step; "
        f"{s.max_steps} steps",
        f"errors: root mean squares in the matrix's own unit; {attrs['dtype']} on {attrs['devices']} × "
        f"{attrs['device']}, jax {attrs['jax']}",
    ]


def tables(recovery: Recovery) -> list[tuple[str, list[str], list[list[str]]]]:
    """Return title, columns and rows of each table."""
    lone = [[f"{name} only", _interval(at), "–", "–", "–"] for name, at in recovery.baselines.items()]
    return [
        (
            "Test error at the step of least validation error: mean [95 % bootstrap interval over splits and starts]; "
            "steps of 5, 50, 95 % of the runs; test error at the end",
            ["predicted by", "test error", "validation", "at step 5, 50, 95 %", "at the end"],
            [*map(_errors, recovery.methods), *lone],
        ),
        (
            "At that step, medians over runs: misfit ‖P_Ω(UVᵀ−Σ)‖_F/‖P_Ω(Σ)‖_F and imbalance ‖UᵀU−VᵀV‖_F in unit",
            ["method", "training misfit", "imbalance at the start", "then", "% diverged"],
            [
                [
                    row.method,
                    f"{row.misfit:.3g}",
                    f"{row.imbalance_start:.2g}",
                    f"{row.imbalance:.2g}",
                    f"{100 * row.diverged:.3g}",
                ]
                for row in recovery.methods
            ],
        ),
    ]


def paired_lines(recovery: Recovery) -> list[str]:
    """Return a line a pair: the ratio of test errors on the same splits and starts, and whether they are equivalent."""
    return [
        f"{one} / {two}: test error ratio {pair.ratio:.4f} [{pair.low:.4f}, {pair.high:.4f}], {_VERDICTS[pair.verdict]}"
        for (one, two), pair in recovery.pairs.items()
    ]


_CAPTIONS = {
    "errors": "Misfit of the training entries, and errors on validation and test entries, against steps. Line: median "
    "over splits and starts; band: 5–95 % of them; grey lines: the test errors of the mean and of the biases alone.",
    "imbalance": "Imbalance of the factors against steps. Line: median over splits and starts; band: 5–95 %.",
}


def _errors(row: MethodRecovery) -> list[str]:
    steps = ", ".join(f"{step:.0f}" for step in row.best_step)
    return [row.method, _interval(row.test), f"{row.validation:.4g}", steps, f"{row.test_at_end[0]:.4g}"]


def _interval(at: tuple[float, float, float]) -> str:
    mean, low, high = at
    return f"{mean:.4g}" if math.isnan(low) else f"{mean:.4g} [{low:.4g}, {high:.4g}]"
