"""A comparison for people: what the tables say, and the figures."""

import math
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from jaxfact import figures
from jaxfact.jobs import sentences
from jaxfact.jobs.compared import MARGIN
from jaxfact.jobs.comparison import QUANTILES, Comparison, Judgement, MethodSummary
from jaxfact.papers.rules import LOOSE
from jaxfact.reports.again import of_settings
from jaxfact.reports.pages import RESULTS, Report, Rows
from jaxfact.results.stats import PairedTimes
from jaxfact.results.strict_json import finite_or_none
from jaxfact.results.wording import changed, share

_LEVELS_A_TABLE = 5  # what fits into 80 columns
_WITHIN = f"{100 * MARGIN:g} %"


def report_of(comparison: Comparison) -> Report:
    """Return what terminal, notebook and page say."""
    names = ", ".join(row.method for row in comparison.methods)
    return Report(
        title=f"Descent from the same random starts: {names}",
        heading=heading(comparison),
        tables=tables(comparison),
        lines=[*paired_lines(comparison), *comparison.notes],
        captions=_CAPTIONS,
        summary=as_json(comparison),
        runs={RESULTS: comparison.runs},
        draw=partial(drawn, comparison),
        found=sentences.of_comparison(comparison),
        again=of_settings("compare(problem, ", comparison.settings, "", comparison.runs),
    )


def drawn(comparison: Comparison) -> dict[str, Figure]:
    """Return the figures of a comparison by name."""
    runs = comparison.runs
    imbalance = {"imbalance": figures.imbalance(runs)} if "imbalance_path" in runs else {}
    return {
        "distance": figures.distance(runs),
        "survival": figures.survival(runs),
        **imbalance,
        "singular_values": figures.singular_values(runs, np.asarray(comparison.truth.singular_values)),
        "worst": figures.worst(runs),
    }


def heading(comparison: Comparison) -> list[str]:
    """Return the lines that say what was run, in which units."""
    s, truth, attrs = comparison.settings, comparison.truth, comparison.runs.attrs
    m, n = truth.shape
    values = np.asarray(truth.singular_values)
    shown = [f"{value:.3g}" for value in values[: s.columns + 2]]
    spectrum = f"; σ/σ₁: {', '.join(shown)}{', …' * (len(values) > len(shown))}" if len(values) > 1 else ""
    ratio = "" if s.unbalanced is None else f", ‖U‖/‖V‖ = {s.unbalanced:g}"
    return [
        f"{m}×{n} target of rank {truth.rank}, σ₁ = {float(truth.unit):.5g} (the unit){spectrum}",
        *([comparison.problem.summary] if comparison.problem is not truth else []),
        f"{s.seeds} Gaussian starts of width {s.columns} and entry scale {s.scale:g} √σ₁{ratio}, shared by the methods",
        f"step size {s.step_size:g} /σ₁, balancing weight {s.weight:g}, noise {s.noise:g} √σ₁ per entry and step; "
        f"at most {s.max_steps} steps, looked at every {s.check_every}",
        f"distance: ‖UVᵀ−Σ_d‖_F/‖Σ_d‖_F, tolerance {s.tolerance:g}; {attrs['dtype']} on {attrs['devices']} × "
        f"{attrs['device']}, jax {attrs['jax']}",
    ]


def tables(comparison: Comparison) -> list[Rows]:
    """Return title, columns and rows of each table, one row per method: all at one distance, then those that go on."""
    rows, level = comparison.methods, comparison.judged.level
    shared = [one for one in rows[0].reached if one >= level]
    tables = [_reached(rows, some) for some in _in_pieces(shared)]
    tables.append(_arrivals(comparison, comparison.judged, "which every method can reach"))
    for judgement in comparison.finer:
        able = [row for row in rows if row.method in judgement.times]
        further = [one for one in able[0].reached if level > one >= judgement.level]
        tables += [_reached(able, some) for some in _in_pieces(further)]
        tables.append(_arrivals(comparison, judgement, f"to which only {' and '.join(judgement.times)} went on"))
        level = judgement.level
    return [*tables, _ends(rows), _imbalances(rows)]


def _in_pieces(levels: list[float]) -> list[list[float]]:
    return [levels[i : i + _LEVELS_A_TABLE] for i in range(0, len(levels), _LEVELS_A_TABLE)]


def _reached(rows: list[MethodSummary], levels: list[float]) -> Rows:
    return (
        "% of starts that reached each distance (95 % Wilson interval)",
        ["method", *(f"{level:g}" for level in levels)],
        [[row.method, *(_percent(row.reached[level]) for level in levels)] for row in rows],
    )


def _arrivals(comparison: Comparison, judgement: Judgement, whose: str) -> Rows:
    budget = comparison.settings.max_steps
    return (
        f"steps by which 5, 50, 95 % had arrived at distance {judgement.level:g}, {whose} (Kaplan-Meier)",
        ["method", *(f"{100 * q:g} %" for q in QUANTILES)],
        [
            [name, *(_steps(q, time, judgement.failed[name], budget) for q, time in times.items())]
            for name, times in judgement.times.items()
        ],
    )


def _ends(rows: list[MethodSummary]) -> Rows:
    return (
        "% of starts by outcome, of runs that end at the distance they are run to (95 % Wilson interval)",
        ["method", "run to", *rows[0].outcomes],
        [[row.method, f"{row.tolerance:g}", *map(_percent, row.outcomes.values())] for row in rows],
    )


def _imbalances(rows: list[MethodSummary]) -> Rows:
    # Programs are compiled while others run, and what two share by the first: no method's own share is known.
    compiling = sum(row.compile_seconds for row in rows)
    return (
        "imbalance ‖UᵀU−VᵀV‖_F in σ₁ (medians), and throughput in run-steps per second (without the "
        f"{compiling:.1f} s in which all were compiled)",
        ["method", "start", "end", "predicted", "run-steps/s", "run"],
        [[row.method, *_imbalance_cells(row), f"{row.throughput:.3g}", f"{row.run_seconds:.1f} s"] for row in rows],
    )


def paired_lines(comparison: Comparison) -> list[str]:
    """Return a line per pair: the ratio of times with its interval, and whether the two are equivalent."""
    return [
        f"{name} / {judgement.reference} to distance {judgement.level:g}: {_compared(judgement.reference, name, pair)}"
        for judgement in (comparison.judged, *comparison.finer)
        for name, pair in judgement.pairs.items()
    ]


def _compared(reference: str, name: str, pair: PairedTimes) -> str:
    counts = (
        f"both arrived on {pair.both} starts, only {name} on {pair.first_only}, only {reference} on {pair.second_only}"
    )
    if not pair.both + pair.first_only + pair.second_only:
        return f"nothing to compare, as {pair.why}"
    if math.isnan(pair.ratio):
        ratio = "no time ratio (fewer than two starts on which both arrived)"
    else:
        ratio = f"time ratio {pair.ratio:.3f} [{pair.low:.3f}, {pair.high:.3f}]"
    if pair.verdict == "inconclusive":
        return f"{ratio}, inconclusive at {_WITHIN}: {pair.why} ({counts})"
    if pair.verdict == "equivalent":
        return f"{ratio}, equivalent within {_WITHIN} ({counts})"
    apart = pair.high < 1 - MARGIN or pair.low > 1 + MARGIN
    how = f"{changed(pair.ratio, 'fewer', 'more')} steps" if apart else "they do not arrive on the same starts"
    return f"{ratio}, not equivalent within {_WITHIN}: {how} ({counts})"


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison as plain numbers and strings; a time that is never reached is null."""
    return finite_or_none(
        {
            "shape": comparison.problem.shape,
            "unit": float(comparison.problem.unit),
            "settings": asdict(comparison.settings),
            "notes": comparison.notes,
            "methods": [_method_as_json(row) for row in comparison.methods],
            "judged": _judgement_as_json(comparison.judged),
            "finer": [_judgement_as_json(judgement) for judgement in comparison.finer],
        }
    )


def _judgement_as_json(judgement: Judgement) -> dict[str, Any]:
    return {
        "level": judgement.level,
        "times": {name: {f"{q:g}": time for q, time in times.items()} for name, times in judgement.times.items()},
        "failed": judgement.failed,
        "pairs": {name: pair._asdict() for name, pair in judgement.pairs.items()},
    }


def _method_as_json(row: MethodSummary) -> dict[str, Any]:
    named = {f"{level:g}": at for level, at in row.reached.items()}
    numbers = {name: value for name, value in asdict(row).items() if name not in ("reached", "outcomes")}
    return numbers | {"reached": named, "outcomes": row.outcomes, "run_steps_per_second": row.throughput}


_CAPTIONS = {
    "distance": "Distance to the best approximation against steps. Line: median over the starts; band: 5–95 % of them. "
    "A curve ends where half of the runs have arrived and were stopped.",
    "survival": "Fraction of starts not yet at the distance that every method can reach, and in panels of their own at "
    "finer ones, of the methods that go on (Kaplan-Meier; runs that fail never arrive). Band: pointwise 95 % Wilson "
    "interval.",
    "imbalance": "Imbalance of the factors against steps. Line: median; band: 5–95 % of the starts; exact zeros have "
    "no place on the axis.",
    "singular_values": "Singular values of the product against steps, one panel per method. Line: median; band: 5–95 % "
    "of the starts; grey lines: the target's.",
    "worst": "The worst ten starts of the first method one by one: failures first, then the slowest. Coloured: every "
    "method from that start; grey: the first method's median over all starts.",
}


def _imbalance_cells(row: MethodSummary) -> list[str]:
    if row.imbalance is None or row.imbalance_start is None:
        return ["–", "–", "–"]
    return [f"{row.imbalance_start:.2g}", _or_dash(row.imbalance), _predicted(row)]


def _predicted(row: MethodSummary) -> str:
    """Return what is predicted; a bound far above what came of it is called loose."""
    predicted, measured = row.predicted_imbalance, row.imbalance
    if predicted is None or not math.isfinite(predicted):
        return "–"
    loose = row.prediction == "≤" and measured is not None and predicted > LOOSE * measured
    return f"{row.prediction} {predicted:.2g}{' (loose)' * loose}"


def _or_dash(value: float) -> str:
    """Return a number; a dash where runs diverged and have none."""
    return f"{value:.2g}" if math.isfinite(value) else "–"


def _percent(at: tuple[float, float, float] | None) -> str:
    if at is None:
        return "–"
    return share(*at)


def _steps(q: float, time: float, failed: float, max_steps: int) -> str:
    """Return a time; where it is infinite, whether too many runs failed or the budget came first."""
    if math.isfinite(time):
        return f"{time:.0f}"
    return "never" if 1 - failed < q else f"> {max_steps}"
