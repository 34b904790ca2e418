"""A comparison for people: the table in the terminal, the figures, and one HTML page that opens offline."""

import base64
import html
import json
import math
import shutil
import tempfile
from importlib.resources import files
from pathlib import Path
from string import Template

import numpy as np
from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.table import Table

from jaxfact import plots
from jaxfact.comparison import QUANTILES, Comparison, MethodSummary, as_json
from jaxfact.inputs import problem_with
from jaxfact.store import write_results

RESULTS, PAGE, SUMMARY = "results.zarr", "report.html", "summary.json"
_LEVELS_A_TABLE = 5  # what fits into 80 columns


def figures(comparison: Comparison) -> dict[str, Figure]:
    """Return the figures of a comparison by name."""
    runs = comparison.runs
    imbalance = {"imbalance": plots.imbalance(runs)} if "imbalance_path" in runs else {}
    return {
        "distance": plots.distance(runs),
        "survival": plots.survival(runs),
        **imbalance,
        "singular_values": plots.singular_values(runs, np.asarray(comparison.truth.singular_values)),
        "worst": plots.worst(runs),
    }


def check_folder(folder: Path) -> None:
    """Refuse a folder that cannot be made or that holds something; called before anything is computed."""
    instead = "choose another folder with --out"
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise problem_with("out", folder, "exists and holds something else", instead)
    parent = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    try:
        with tempfile.TemporaryDirectory(dir=parent):
            pass
    except OSError as error:
        raise problem_with("out", folder, f"cannot be written ({error.strerror})", instead) from None


def write(comparison: Comparison, folder: Path) -> None:
    """Write results, figures, summary and page into a folder, which appears whole or not at all."""
    check_folder(folder)
    folder.absolute().parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.absolute().parent, prefix=".jaxfact-") as scratch:
        made = Path(scratch) / "made"
        made.mkdir()
        write_results(comparison.runs, made / RESULTS)
        (made / "figures").mkdir()
        for name, figure in figures(comparison).items():
            for suffix in (".png", ".svg"):
                plots.save(figure, made / "figures" / f"{name}{suffix}")
        (made / SUMMARY).write_text(json.dumps(as_json(comparison), indent=2, ensure_ascii=False), encoding="utf-8")
        (made / PAGE).write_text(page(comparison, made / "figures"), encoding="utf-8")
        if folder.exists():  # may be a mount, a link, or the folder one is in: fill it
            for part in sorted(made.iterdir()):
                shutil.move(part, folder / part.name)
        else:
            made.rename(folder)


def print_tables(comparison: Comparison, console: Console) -> None:
    """Print heading, tables, paired lines and notes."""
    for line in heading(comparison):
        console.print(line, highlight=False, markup=False)
    for title, columns, rows in tables(comparison):
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        for name in columns:
            table.add_column(name, overflow="fold")
        for row in rows:
            table.add_row(*row)
        console.print(table, markup=False)
    for line in (*paired_lines(comparison), *comparison.notes):
        console.print(f"• {line}", highlight=False, markup=False)


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
        f"step size {s.step_size:g} /σ₁, balancing weight {s.weight:g}, noise {s.noise:g} √σ₁ an entry and step; "
        f"at most {s.max_steps} steps, looked at every {s.check_every}",
        f"distance: ‖UVᵀ−Σ_d‖_F/‖Σ_d‖_F, tolerance {s.tolerance:g}; {attrs['dtype']} on {attrs['devices']} × "
        f"{attrs['device']}, jax {attrs['jax']}",
    ]


def tables(comparison: Comparison) -> list[tuple[str, list[str], list[list[str]]]]:
    """Return title, columns and rows of each table, one row a method."""
    rows = comparison.methods
    levels = list(rows[0].reached)
    reached = [
        (
            "% of starts that reached each distance (95 % Wilson interval); – where a method was not run so far down",
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
            "imbalance ‖UᵀU−VᵀV‖_F in σ₁ (medians), and throughput in run-steps a second (compile time apart)",
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
    """Return a line a pair: the ratio of times with its interval, and whether the two are equivalent."""
    lines = []
    for name, (level, pair) in comparison.pairs.items():
        if math.isnan(pair.ratio):
            ratio = "no time ratio (fewer than two starts on which both arrived)"
        else:
            ratio = f"time ratio {pair.ratio:.3f} [{pair.low:.3f}, {pair.high:.3f}]"
        verdict = {"equivalent": "equivalent within 5 %", "different": "not equivalent within 5 %"}
        counts = (
            f"both arrived on {pair.both} starts, only {name} on {pair.first_only}, only plain on {pair.second_only}"
        )
        found = verdict.get(pair.verdict, "inconclusive at 5 %")
        lines.append(f"{name} / plain to distance {level:g}: {ratio}, {found} ({counts})")
    return lines


def page(comparison: Comparison, folder: Path) -> str:
    """Return the page: heading, table, figures from `folder` and settings, in one file that needs no network."""
    template = Template((files("jaxfact") / "page.html").read_text(encoding="utf-8"))
    present = {name: title for name, title in _CAPTIONS.items() if (folder / f"{name}.svg").exists()}
    drawn = "".join(_drawn(folder / f"{name}.svg", title) for name, title in present.items())
    return template.substitute(
        heading="<br>".join(map(html.escape, heading(comparison))),
        tables="".join(_html_table(*table) for table in tables(comparison)),
        lines="".join(f"<li>{html.escape(line)}</li>" for line in (*paired_lines(comparison), *comparison.notes)),
        figures=drawn,
        summary=html.escape(json.dumps(as_json(comparison), indent=2, ensure_ascii=False)),
    )


_CAPTIONS = {
    "distance": "Distance to the best approximation against steps. Line: median over the starts; band: 5–95 % of them. "
    "A finished run keeps its last value.",
    "survival": "Fraction of starts not yet at the method's level (Kaplan-Meier; runs that fail never arrive). "
    "Band: pointwise 95 % Wilson interval.",
    "imbalance": "Imbalance of the factors against steps. Line: median; band: 5–95 % of the starts; exact zeros have "
    "no place on the axis.",
    "singular_values": "Singular values of the product against steps, a panel a method. Line: median; band: 5–95 % of "
    "the starts; grey lines: the target's.",
    "worst": "The worst ten starts of the first method one by one: failures first, then the slowest. Coloured: every "
    "method from that start; grey: the first method's median over all starts.",
}


def _drawn(path: Path, caption: str) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    text = html.escape(caption, quote=True)
    return f'<figure><img src="data:image/svg+xml;base64,{data}" alt="{text}"><figcaption>{text}</figcaption></figure>'


def _html_table(title: str, columns: list[str], rows: list[list[str]]) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
    body = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><caption>{html.escape(title)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


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
