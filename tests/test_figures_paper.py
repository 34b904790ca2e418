"""Figures for papers have the column's width, embedded fonts, text that can be selected, and say what they show."""

import re
import shutil
import subprocess
import zlib
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
import xarray as xr
from matplotlib.font_manager import FontProperties
from matplotlib.text import Text

import jaxfact as jf
from jaxfact import figures
from jaxfact.results.latex import latex_text

WIDTHS = {"neurips": 5.5 * 25.4, "icml": 3.25 * 25.4, "siam": 5.125 * 25.4, "slides": 160.0}  # mm


@pytest.fixture(scope="module")
def runs(stored) -> xr.Dataset:
    return jf.open_results(stored).load()


@pytest.fixture(scope="module")
def published(runs, tmp_path_factory) -> dict[str, dict[str, Path]]:
    """Return the files of one figure for each venue, by suffix."""
    folder, one = tmp_path_factory.mktemp("papers"), runs.sel(step_size=0.5)
    found = {}
    for venue in figures.Venue:
        written = figures.publish(figures.survival(one, style=venue), folder / str(venue), made_by="jaxfact figure a")
        found[str(venue)] = {path.suffix: path for path in written}
    return found


def streams(pdf: bytes) -> bytes:
    """Return what a PDF holds compressed, inflated."""
    found = re.findall(rb"stream\r?\n(.*?)\r?\nendstream", pdf, re.DOTALL)
    return b"\n".join(zlib.decompress(one) for one in found if one[:1] == b"x")


def selectable(pdf: bytes) -> str:
    """Return the letters that a reader may select in a PDF: those to which its fonts map their glyphs."""
    maps = re.findall(rb"<\w{4}> <\w{4}> \[(.*?)\]", streams(pdf), re.DOTALL)
    return "".join(chr(int(one, 16)) for line in maps for one in re.findall(rb"<(\w{4})>", line))


@pytest.mark.parametrize("venue", WIDTHS)
def test_a_pdf_is_as_wide_as_the_column(published, venue):
    """Within a tenth of a millimetre; with its fonts in it, as TrueType, and letters that stand for themselves."""
    pdf = published[venue][".pdf"].read_bytes()
    [box] = re.findall(rb"/MediaBox \[ ([\d. ]+) \]", pdf)
    assert [float(end) for end in box.split()[:2]] == [0, 0]
    assert float(box.split()[2]) / 72 * 25.4 == pytest.approx(WIDTHS[venue], abs=0.1)
    assert pdf.count(b"/FontFile2") == pdf.count(b"/Type /FontDescriptor") > 0
    assert b"/Type3" not in pdf
    assert set("fraction not yet".replace(" ", "")) <= set(selectable(pdf))


@pytest.mark.parametrize("venue", WIDTHS)
def test_text_of_an_svg_is_text(published, venue):
    """And in pages, where it is to look alike everywhere, shapes."""
    svg = published[venue][".svg"].read_text(encoding="utf-8")
    assert "fraction not yet at 0.0001" in re.sub(r"<[^>]+>", "", svg)
    assert float(re.findall(r'<svg .*?width="([\d.]+)pt"', svg, re.DOTALL)[0]) / 72 * 25.4 == pytest.approx(
        WIDTHS[venue], abs=0.1
    )


@pytest.mark.parametrize("venue", WIDTHS)
def test_type_is_large_enough_and_the_venues(runs, venue):
    figure = figures.distance(runs.sel(step_size=0.5), style=venue)
    figure.draw_without_rendering()
    shown = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
    assert min(text.get_fontsize() for text in shown) >= 7
    family = {"neurips": "STIXGeneral", "icml": "STIXGeneral", "siam": "cmr10", "slides": "DejaVu Sans"}[venue]
    names = {FontProperties(family=text.get_fontfamily()).get_family()[0] for text in shown}
    assert names == {"sans-serif" if venue == "slides" else family}
    assert (figure.axes[0].get_title(loc="left") == "") == (venue != "slides")


def test_the_data_are_those_of_the_figure(published, runs):
    """By name, with nan where a curve has fewer points than another."""
    header, *rows = published["icml"][".dat"].read_text().splitlines()
    columns = dict(zip(header.split(), np.array([row.split() for row in rows], float).T, strict=True))
    one = runs.sel({"step_size": 0.5, "variant": "plain"})
    steps, left = columns["plain_step"], columns["plain_fraction"]
    known = np.isfinite(steps)
    hit = one.hit.sel(level=1e-4).values
    np.testing.assert_allclose(left[known], [np.mean(hit > step) for step in steps[known]], atol=1e-9)
    assert {"slow_step", "slow_fraction", "slow_low", "slow_high"} <= set(columns)


def test_the_caption_says_what_was_run(published, runs):
    text = published["siam"][".tex"].read_text(encoding="utf-8")
    assert text.startswith("% \\begin{figure}")
    assert "% jaxfact figure a\n" in text
    count, dtype = runs.sizes["seed"], runs.attrs["dtype"]
    for said in (
        r"95 \% Wilson interval",
        f"{count} seeds, base seed 0",
        dtype,
        r"step size in units of 1/$\sigma_{1}$",
    ):
        assert said in text, said


def test_nothing_is_overwritten(published, runs):
    path = published["icml"][".pdf"]
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"^out=.*icml\.pdf: exists already; "):
        figures.publish(figures.outcomes(runs.sel(step_size=0.5)), path.with_suffix(""))
    with pytest.raises(ValueError, match="nothing is known of its numbers"):
        figures.publish(mpl.figure.Figure(), path.with_name("other"))
    assert path.read_bytes() == before
    with pytest.raises(ValueError, match=r"^out='\.': needs a name for the files; "):
        figures.publish(figures.outcomes(runs.sel(step_size=0.5)), ".")


HOSTILE = r"50 % of a_b & $c #1 {x} ~ ^ \end{document} σ₁ ≤ √σ₁ <ü>"


@pytest.fixture(scope="module")
def hostile(runs) -> xr.Dataset:
    return runs.assign_coords(variant=["plain", HOSTILE])


def test_latex_is_given_no_commands_by_names(hostile):
    """All that has a meaning in LaTeX is escaped; what is between dollars is mathematics, and stays."""
    assert latex_text(HOSTILE) == (
        r"50 \% of a\_b \& \$c \#1 \{x\} \textasciitilde{} \textasciicircum{} \textbackslash{}end\{document\} "
        r"$\sigma_{1}$ $\le$ $\surd\sigma_{1}$ \textless{}ü\textgreater{}"
    )
    assert latex_text(r"step size $\eta\,\sigma_1$ of 5 %") == r"step size $\eta\,\sigma_1$ of 5 \%"
    assert r"\end{document}" not in jf.stats.table(hostile.sel(step_size=0.5))
    assert latex_text("$5 and $6, $a%b$, $x{$") == r"\$5 and \$6, \$a\%b\$, \$x\{\$"


def test_a_name_is_in_the_legend_whatever_it_is(runs, tmp_path):
    """Matplotlib leaves out what begins with an underscore, and stops at a formula that is none."""
    names = ["_private", r"$\foo$"]
    figure = figures.survival(runs.sel(step_size=0.5).assign_coords(variant=names))
    assert [text.get_text().strip() for text in figure.legends[0].get_texts()] == ["_private", r"\$\foo\$"]
    figures.save(figure, tmp_path / "a.pgf")
    assert r"\$\textbackslash{}foo\$" in (tmp_path / "a.pgf").read_text()
    long = figures.survival(runs.sel(step_size=0.5).assign_coords(variant=["x" * 150, "y"])).legends[0]
    assert len(long.get_texts()[0].get_text()) == 40


def test_runs_that_go_off_do_not_flatten_where_others_end(runs):
    """At 10²⁰ they leave at a triangle, whether they are infinite yet or not; one value alone has its place too."""
    off = runs.outcome == "diverged"
    assert off.any()
    figure = figures.bifurcation(runs.assign(distance=runs.distance.where(~off, 1e20)), "step_size")
    assert figure.axes[0].get_ylim()[1] < 10
    edges = [line.get_xdata().tolist() for line in figure.axes[0].lines if line.get_marker() == "^"]
    assert [5.0] in edges
    assert figures.bifurcation(runs.isel(step_size=[0]), "step_size").axes[0].get_xlim()[0] < runs.step_size.values[0]


@pytest.mark.parametrize("name", ["outcomes", "distance", "survival", "times_along", "fractions", "bifurcation"])
def test_what_a_figure_cannot_show_is_refused(runs, name):
    """Axes that are left or are not there, and runs that have lost their seeds."""
    draw, along = getattr(figures, name), name in ("times_along", "fractions", "bifurcation")
    more = ("step_size",) if along else ()
    wrong = runs.sel(step_size=0.5) if along else runs
    with pytest.raises(ValueError, match="^axis=step_size: the axes of the runs are none" if along else "^runs=axes"):
        draw(wrong, *more)
    for lost in (runs.isel(seed=0), runs.isel(seed=slice(0)), runs[["distance_path"]]):
        with pytest.raises(ValueError, match="^dataset=.*: is no sweep's"):
            draw(lost, *more)


def test_a_table_says_what_was_reached_and_when(runs):
    """With Wilson's interval, and between order statistics; and what these are."""
    text = jf.stats.table(runs, levels=[1e-4])
    assert [text.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [1, 1, 1]
    rows = [line.removesuffix(r" \\").split(" & ") for line in text.splitlines() if line.startswith(("plain", "slow"))]
    assert [row[:2] for row in rows] == [
        [name, f"{x:.4g}"] for name in ("plain", "slow") for x in runs.step_size.values
    ]
    hit = runs.hit.sel({"variant": "plain", "level": 1e-4, "step_size": 0.5}).values
    low, high = (100 * float(end) for end in jf.stats.wilson(int(np.isfinite(hit).sum()), len(hit)))
    of_one = next(row for row in rows if row[:2] == ["plain", "0.5"])
    assert of_one[2] == f"100 [{low:.0f}, {high:.0f}]"
    assert of_one[3].split()[0] == f"{np.quantile(hit, 0.5, method='inverted_cdf'):.0f}"
    assert "Wilson's 95 \\% interval" in text
    assert "between order statistics" in text
    nameless = jf.stats.table(runs.assign_coords(variant=["", "slow"]), levels=[1e-4])
    assert nameless == re.sub(r"(?m)^plain", "", text)
    with pytest.raises(ValueError, match=r"^quantile=2: needs a number between 0 and 1; "):
        jf.stats.table(runs, quantile=2)


def covered(low: np.ndarray, high: np.ndarray, truth: np.ndarray) -> float:
    return float(np.mean(np.all((low <= truth) & (truth <= high), axis=-1)))


def test_simultaneous_intervals_hold_together():
    """Of 4000 simulated sweeps over 12 points with 40 shared seeds, all 12 hold in 95 % at least; Wilson's do not.

    The fractions range from rare to usual, and one seed is the same luck at every point.
    """
    rng, truth = np.random.default_rng(0), np.linspace(0.02, 0.98, 12)
    shared = rng.random((4000, 40, 1)) < truth
    apart = rng.random((4000, 40, 12)) < truth
    for drawn in (shared, apart):
        found = [jf.stats.simultaneous_intervals(number, 40) for number in drawn.sum(axis=1)]
        assert covered(*map(np.array, zip(*found, strict=True)), truth) >= 0.95
    assert covered(*jf.stats.wilson(apart.sum(axis=1), 40), truth) < 0.7


def test_a_survival_band_holds_at_all_steps():
    """Of 4000 samples of 30 uniform times the whole curve is in the band in 95 % at least; Wilson's in far fewer."""
    rng = np.random.default_rng(1)
    at = np.linspace(0.02, 0.98, 49)
    left = np.mean(rng.random((4000, 30, 1)) > at, axis=1)
    assert covered(*jf.stats.survival_band(left, 30), 1 - at) >= 0.95
    assert covered(*jf.stats.wilson(np.rint(left * 30).astype(int), 30), 1 - at) < 0.8


def test_the_interval_of_a_quantile_covers_it():
    """In 95 % of 4000 samples at least, and not in nearly all: the ends are the order statistics next to the level."""
    rng = np.random.default_rng(2)
    for count, quantile in ((20, 0.5), (60, 0.9)):
        found = np.array([jf.stats.quantile_interval(one, quantile) for one in rng.random((4000, count))])
        inside = np.mean((found[:, 1] <= quantile) & (quantile <= found[:, 2]))
        assert 0.95 <= inside < 0.985
    late = np.append(np.arange(1.0, 6.0), [np.nan] * 6)
    assert jf.stats.quantile_interval(late, 0.5)[0] == np.inf


KINDS = {
    "survival": ["--select", "step_size=0.5", "--simultaneous"],
    "bands": ["--select", "step_size=0.5"],
    "imbalance": ["--select", "step_size=0.5", "--select", "variant=plain"],
    "bifurcation": ["--select", "variant=plain"],
    "scatter": ["--x", "ln(1/distance@0)", "--level", "1e-4"],
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_command_writes_all_that_a_paper_needs(call, stored, tmp_path, kind):
    ended = call("figure", stored, "--kind", kind, "--for", "icml", "--out", "a", *KINDS[kind])
    assert (ended.code, ended.err) == (0, "")
    names = {"a.dat", "a.pdf", "a.pgf", "a.svg", "a.tex"}
    assert set(ended.out.split()) == {path.name for path in tmp_path.iterdir()} == names


BAD = {
    "an axis is left": (["--kind", "survival"], "axes=step_size (3 values): this figure has 0 of them; give --select"),
    "no such value": (
        ["--kind", "bands", "--select", "step_size=7"],
        "--select=step_size=7: step_size is one of 0.2, 0.5, 5; ",
    ),
    "no such axis": (["--kind", "bands", "--select", "width=7"], "--select=width=7: the axes are step_size, variant; "),
    "no such record": (["--kind", "bands", "--select", "step_size=0.5", "--record", "x"], "name='x': the records are"),
    "no such number of a record": (
        ["--kind", "scatter", "--x", "ye_du_A_min@0"],
        "quantity=ye_du_A_min@0: the records are distance, imbalance; choose one, or sweep with record='ye_du'.",
    ),
    "no such quantity": (["--kind", "scatter", "--x", "ln(x"], "quantity='ln(x': needs a name of the results, or"),
    "one axis": (["--kind", "phase", "--select", "variant=plain"], "axes=step_size (3 values): this figure has 2"),
    "another axis": (["--kind", "phase", "--axes", "a,b"], "--axes=a,b: the axes with several values are step_size; "),
    "two variants": (["--kind", "law"], "variants=plain, slow: a law is of one; give --select variant=NAME"),
}


@pytest.mark.parametrize("given", BAD)
def test_bad_input_is_one_line(call, stored, tmp_path, given):
    arguments, words = BAD[given]
    ended = call("figure", stored, *arguments)
    assert ended.code == 2
    assert ended.err.startswith(f"jaxfact: {words}")
    assert ended.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


DOCUMENT = r"""\documentclass{article}
\usepackage[utf8]{inputenc}
\usepackage{pgf,booktabs}
\begin{document}
%s
\end{document}
"""


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs LaTeX (texlive-latex-base, texlive-pictures)")
def test_latex_sets_the_figures_the_captions_and_the_table(published, hostile, tmp_path):
    """The names of variants are as bad as may be, and images lie beside."""
    shapes = xr.DataArray(np.eye(3), {"a": [1, 2, 3], "b": [1, 2, 3]}, ("a", "b"), name="a_b")
    one = hostile.sel(step_size=0.5)
    for name, figure in {"map": figures.heatmap(shapes, "a", "b"), "hostile": figures.distance(one)}.items():
        figures.publish(figure, tmp_path / name)
    for files in published.values():
        for suffix in (".pgf", ".tex"):
            shutil.copy(files[suffix], tmp_path)
    parts = [
        rf"\begin{{figure}}\centering\input{{{name}.pgf}}\input{{{name}.tex}}\end{{figure}}\clearpage"
        for name in ("map", "hostile", *published)
    ]
    (tmp_path / "all.tex").write_text(DOCUMENT % "\n".join([*parts, jf.stats.table(hostile)]), encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "all.tex"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=120)
    assert ended.returncode == 0, ended.stdout[-2000:]
