"""A recovery for people: what the tables say, and the figures."""

import math
from dataclasses import asdict
from functools import partial
from typing import Any

from matplotlib.figure import Figure

from jaxfact import figures
from jaxfact.figures.recovery import over_splits
from jaxfact.jobs import sentences
from jaxfact.jobs.compared import MARGIN
from jaxfact.jobs.recovery import MethodRecovery, Recovery
from jaxfact.reports.again import of_settings
from jaxfact.reports.pages import RESULTS, Report, Rows
from jaxfact.results.stats import PairedErrors
from jaxfact.results.strict_json import finite_or_none
from jaxfact.results.wording import changed, number

_WITHIN = f"{100 * MARGIN:g} %"


def report_of(recovery: Recovery) -> Report:
    """Return what terminal, notebook and page say."""
    names = ", ".join(row.method for row in recovery.methods)
    more = f', centre="{recovery.centring}", splits={recovery.splits}'
    return Report(
        title=f"Completion by descent from the same random starts: {names}",
        heading=heading(recovery),
        tables=tables(recovery),
        lines=[*paired_lines(recovery), *recovery.notes],
        captions=_CAPTIONS,
        summary=as_json(recovery),
        runs={RESULTS: recovery.runs},
        draw=partial(drawn, recovery),
        found=sentences.of_recovery(recovery),
        again=of_settings("complete(matrix, ", recovery.settings, more, recovery.runs),
    )


def drawn(recovery: Recovery) -> dict[str, Figure]:
    """Return the figures of a recovery by name."""
    return {
        "errors": figures.recovery(recovery),
        "imbalance": figures.imbalance(over_splits(recovery.runs)),
    }


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
        f"{s.seeds} Gaussian starts of width {s.columns} and entry scale {s.scale:.3g} √unit{ratio}, "
        "shared by splits and methods",
        f"step size {s.step_size:.3g} /unit (relative sharpness at the spectral start of the first split: "
        f"{recovery.sharpness:.3g}), balancing weight {s.weight:g}, noise {s.noise:g} √unit per entry and step; "
        f"{s.max_steps} steps",
        f"errors: root mean squares in the matrix's own unit; {attrs['dtype']} on {attrs['devices']} × "
        f"{attrs['device']}, jax {attrs['jax']}",
    ]


def tables(recovery: Recovery) -> list[Rows]:
    """Return title, columns and rows of each table."""
    lone = [[f"{name} only", _interval(at), "–", "–", "–"] for name, at in recovery.baselines.items()]
    return [
        (
            "Test error at the step of least validation error: mean [95 % interval over splits]; "
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
                    *(number(value) for value in (row.misfit, row.imbalance_start, row.imbalance)),
                    f"{100 * row.diverged:.3g}",
                ]
                for row in recovery.methods
            ],
        ),
    ]


def paired_lines(recovery: Recovery) -> list[str]:
    """Return a line per pair: how the test errors on the same splits and starts differ, and the verdict."""
    return [
        f"{one} against {two}: {_compared(pair, two, recovery.splits)}" for (one, two), pair in recovery.pairs.items()
    ]


def _compared(pair: PairedErrors, other: str, splits: int) -> str:
    if not 0 < pair.ratio < math.inf:
        return f"no ratio of test errors: {pair.why}"
    if pair.ratio == pair.low == pair.high == 1:
        return f"the same test error on all {splits} splits"
    found = f"{changed(pair.ratio, 'lower', 'higher')} test error than {other}"
    if math.isnan(pair.low):
        return f"{found} on one split, which gives no interval: take at least 5"
    between = f"95 % interval over {splits} splits: {changed(pair.low, 'lower', 'higher')} to "
    between += changed(pair.high, "lower", "higher")
    if pair.verdict == "inconclusive":
        return f"{found} ({between}), inconclusive at {_WITHIN}: {pair.why}"
    return f"{found} ({between}), {'equivalent' if pair.verdict == 'equivalent' else 'not equivalent'} within {_WITHIN}"


def as_json(recovery: Recovery) -> dict[str, Any]:
    """Return a recovery as plain numbers and strings; what is not finite is null."""
    return finite_or_none(
        {
            "shape": recovery.shape,
            "observed": recovery.observed,
            "splits": recovery.splits,
            "centring": str(recovery.centring),
            "relative_sharpness": recovery.sharpness,
            "settings": asdict(recovery.settings),
            "notes": recovery.notes,
            "methods": [asdict(row) for row in recovery.methods],
            "baselines": recovery.baselines,
            "pairs": {f"{one} / {two}": pair._asdict() for (one, two), pair in recovery.pairs.items()},
        }
    )


_CAPTIONS = {
    "errors": "Misfit on the training entries, and errors on validation and test entries, against steps. Line: median "
    "over splits and starts; band: 5–95 % of them; grey lines: the test errors of the mean and of the biases alone.",
    "imbalance": "Imbalance of the factors against steps. Line: median over splits and starts; band: 5–95 %.",
}


def _errors(row: MethodRecovery) -> list[str]:
    steps = ", ".join(f"{step:.0f}" for step in row.best_step)
    return [row.method, _interval(row.test), number(row.validation), steps, number(row.test_at_end[0])]


def _interval(at: tuple[float, float, float]) -> str:
    mean, low, high = at
    return number(mean) if math.isnan(low) else f"{mean:.4g} [{max(low, 0.0):.4g}, {high:.4g}]"
