"""A comparison for people: what the tables say, and the figures."""

import math
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from jaxfact import figures
from jaxfact.jobs.comparison import QUANTILES, Comparison, MethodSummary
from jaxfact.reports.pages import Report, Rows
from jaxfact.results.strict_json import finite_or_none

_LEVELS_A_TABLE = 5  # what fits into 80 columns


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
        runs=comparison.runs,
        draw=partial(drawn, comparison),
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
    spectrum = ", ".join(f"{value:.3g}" for value in np.asarray(truth.singular_values)[: s.width + 2])
    ratio = "" if s.unbalanced is None else f", ‖U‖/‖V‖ = {s.unbalanced:g}"
    return [
        f"{m}×{n} target of rank {truth.rank}, σ₁ = {float(truth.unit):.5g} (the unit); σ/σ₁: {spectrum}, …",
        *([comparison.problem.summary] if comparison.problem is not truth else []),
        f"{s.seeds} Gaussian starts of width {s.width} and entry scale {s.scale:g} √σ₁{ratio}, shared by the methods",
        f"step size {s.step_size:g} /σ₁, balancing weight {s.weight:g}, noise {s.noise:g} √σ₁ per entry and step; "
        f"at most {s.max_steps} steps, looked at every {s.check_every}",
        f"distance: ‖UVᵀ−Σ_d‖_F/‖Σ_d‖_F, tolerance {s.tolerance:g}; {attrs['dtype']} on {attrs['devices']} × "
        f"{attrs['device']}, jax {attrs['jax']}",
    ]


def tables(comparison: Comparison) -> list[Rows]:
    """Return title, columns and rows of each table, one row per method."""
    rows = comparison.methods
    levels = list(rows[0].reached)
    reached = [
        (
            "% of starts that reached each distance (95 % Wilson interval); – where a method was not run that far",
            ["method", *(f"{level:g}" for level in some)],
            [[row.method, *(_percent(row.reached[level]) for level in some)] for row in rows],
        )
        for some in (levels[i : i + _LEVELS_A_TABLE] for i in range(0, len(levels), _LEVELS_A_TABLE))
    ]
    return [
        *reached,
        (
            "% of starts by outcome, and steps by which 5, 50, 95 % had arrived (Kaplan-Meier; failures never do)",
            ["method", *rows[0].outcomes, "arrived at", *(f"{100 * q:g} %" for q in QUANTILES)],
            [
                [
                    row.method,
                    *map(_percent, row.outcomes.values()),
                    f"{row.tolerance:g}",
                    *(_steps(time, row, comparison.settings.max_steps) for time in row.times.values()),
                ]
                for row in rows
            ],
        ),
        (
            "imbalance ‖UᵀU−VᵀV‖_F in σ₁ (medians), and throughput in run-steps per second (without compile time)",
            ["method", "start", "end", "predicted", "run-steps/s", "run", "compile"],
            [
                [
                    row.method,
                    *_imbalance_cells(row),
                    f"{row.throughput:.3g}",
                    f"{row.run_seconds:.1f} s",
                    f"{row.compile_seconds:.1f} s",
                ]
                for row in rows
            ],
        ),
    ]


def paired_lines(comparison: Comparison) -> list[str]:
    """Return a line per pair: the ratio of times with its interval, and whether the two are equivalent."""
    lines = []
    for name, (level, pair) in comparison.pairs.items():
        if math.isnan(pair.ratio):
            ratio = "no time ratio (fewer than two starts on which both arrived)"
        else:
            ratio = f"time ratio {pair.ratio:.3f} [{pair.low:.3f}, {pair.high:.3f}]"
        verdict = {"equivalent": "equivalent within 5 %", "different": "not equivalent within 5 %"}
        counts = (
            f"both arrived on {pair.both} starts, only {name} on {pair.first_only}, "
            f"only {comparison.reference} on {pair.second_only}"
        )
        found = verdict.get(pair.verdict, "inconclusive at 5 %")
        lines.append(f"{name} / {comparison.reference} to distance {level:g}: {ratio}, {found} ({counts})")
    return lines


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison as plain numbers and strings; a time that is never reached is null."""
    return finite_or_none(
        {
            "shape": comparison.problem.shape,
            "unit": float(comparison.problem.unit),
            "settings": asdict(comparison.settings),
            "notes": comparison.notes,
            "methods": [_method_as_json(row) for row in comparison.methods],
            "pairs": {name: {"level": level, **pair._asdict()} for name, (level, pair) in comparison.pairs.items()},
        }
    )


def _method_as_json(row: MethodSummary) -> dict[str, Any]:
    named = {f"{level:g}": at for level, at in row.reached.items()}
    times = {f"{q:g}": time for q, time in row.times.items()}
    numbers = {name: value for name, value in asdict(row).items() if name not in ("reached", "outcomes", "times")}
    return numbers | {
        "reached": named,
        "outcomes": row.outcomes,
        "times": times,
        "run_steps_per_second": row.throughput,
    }


_CAPTIONS = {
    "distance": "Distance to the best approximation against steps. Line: median over the starts; band: 5–95 % of them. "
    "A finished run keeps its last value.",
    "survival": "Fraction of starts not yet at the method's level (Kaplan-Meier; runs that fail never arrive). "
    "Band: pointwise 95 % Wilson interval.",
    "imbalance": "Imbalance of the factors against steps. Line: median; band: 5–95 % of the starts; exact zeros have "
    "no place on the axis.",
    "singular_values": "Singular values of the product against steps, one panel per method. Line: median; band: 5–95 % "
    "of the starts; grey lines: the target's.",
    "worst": "The worst ten starts of the first method one by one: failures first, then the slowest. Coloured: every "
    "method from that start; grey: the first method's median over all starts.",
}


def _imbalance_cells(row: MethodSummary) -> list[str]:
    if row.imbalance is None:
        return ["–", "–", "–"]
    return [f"{row.imbalance_start:.2g}", f"{row.imbalance:.2g}", f"{row.prediction} {row.predicted_imbalance:.2g}"]


def _percent(at: tuple[float, float, float] | None) -> str:
    if at is None:
        return "–"
    fraction, low, high = (f"{100 * value:.1f}".removesuffix(".0") for value in at)
    return f"{fraction} ({low}–{high})"


def _steps(time: float, row: MethodSummary, max_steps: int) -> str:
    """Return a time; where it is infinite, whether runs failed or the budget came first."""
    if math.isfinite(time):
        return f"{time:.0f}"
    return f"> {max_steps}" if row.outcomes.get("budget", (0.0,))[0] else "never"
