"""Figures of what is not as they would like it: grids of two axes, no cycles, categories, and runs that went off."""

import dataclasses
import itertools
import shutil
import subprocess

import matplotlib as mpl
import numpy as np
import pytest
import xarray as xr

import jaxfact as jf
from jaxfact import figures
from jaxfact.figures import styles
from jaxfact.figures.sheets import said_of
from jaxfact.jobs.phase import diagram_of
from jaxfact.store.written import write_results

STEP_SIZES, SCALES, SEEDS = np.geomspace(0.02, 0.64, 6), [0.01, 0.1], 10


@pytest.fixture(scope="module")
def grid() -> xr.Dataset:
    """Return made-up runs over six step sizes and two scales, which arrive after ln(1/scale)/step_size steps.

    From the largest step no run arrives.
    """
    steps, scales = xr.DataArray(STEP_SIZES, dims="step_size"), xr.DataArray(SCALES, dims="scale")
    early = xr.DataArray(np.linspace(0.99, 1.01, SEEDS), dims="seed")
    hit = (early * np.log(1 / scales) / steps).transpose("step_size", "scale", "seed")
    gone = (steps > 0.5).broadcast_like(hit)
    variables = {
        "outcome": xr.where(gone, "diverged", "converged"),
        "hit": hit.where(~gone, np.inf).expand_dims(level=[1e-4], axis=-1),
        "steps": hit,
        "period": xr.zeros_like(hit, int),
        "distance": xr.full_like(hit, 1e-5).where(~gone, np.inf),
        "tolerance": 1e-4,
    }
    coordinates = {"step_size": STEP_SIZES, "scale": SCALES, "seed": np.arange(SEEDS), "level": [1e-4]}
    return xr.Dataset(variables, coordinates)


@pytest.fixture(scope="module")
def store(grid, tmp_path_factory):
    store = tmp_path_factory.mktemp("made") / "runs.zarr"
    write_results(grid, store)
    return store


def test_a_run_that_diverged_to_no_number_is_drawn_as_off(grid):
    """Infinite or NaN, as the arithmetic had it: a triangle at the upper edge, and no empty place."""
    one = grid.isel(scale=0)
    marked = []
    for lost in (np.inf, np.nan):
        runs = one.assign(distance=one.distance.where(one.outcome != "diverged", lost))
        figure = figures.bifurcation(runs, "step_size")
        marked.append([line.get_xdata().tolist() for line in figure.axes[0].lines if line.get_marker() == "^"])
    assert marked[0] == marked[1] == [[STEP_SIZES[-1]]]


def law_of(grid: xr.Dataset) -> tuple[jf.stats.LawSearch, jf.stats.Times]:
    times = jf.stats.time_to(grid, 1e-4)
    return jf.stats.fit_law(times, forms=[jf.stats.LawForm.LOGARITHM]), times


def test_each_point_of_a_grid_is_a_point_that_can_be_told_apart(grid):
    """Six step sizes and two scales: a colour and marker a scale, and a triangle where no run arrives."""
    found, times = law_of(grid)
    figure = figures.law(found, times)
    lines = figure.axes[0].lines
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["scale = 0.01", "scale = 0.1", "the law"]
    named = {line.get_label(): line for line in lines}
    looks = [(named[name].get_color(), named[name].get_marker()) for name in legend[:2]]
    assert len({colour for colour, _ in looks}) == len({marker for _, marker in looks}) == 2
    for scale, (colour, marker) in zip(SCALES, looks, strict=True):
        drawn = [line for line in lines if (line.get_color(), line.get_marker()) == (colour, marker)]
        at = np.sort(np.concatenate([line.get_ydata() for line in drawn]))
        np.testing.assert_allclose(at, np.sort(np.log(1 / scale) / STEP_SIZES[:5]), rtol=0.01)
        (edge,) = [line for line in lines if line.get_marker() == "^" and line.get_color() == colour]
        np.testing.assert_allclose(edge.get_xdata(), np.log(1 / scale) / STEP_SIZES[5:], rtol=0.05)
    assert "triangle: no time is known" in said_of(figure).sentences[1]
    assert {"step_size", "scale", "law", "measured"} == set(said_of(figure).columns)


def test_a_power_of_a_symbol_of_several_is_of_all_of_them(grid):
    r"""\eta\,\sigma_1^2 would be the square of σ₁ alone."""
    grid = grid.assign_coords(step_size=grid.step_size.assign_attrs(latex=r"$\eta\,\sigma_1$"))
    times = jf.stats.time_to(grid.assign(hit=grid.hit / grid.step_size), 1e-4)
    law = jf.stats.fit_law(times, forms=[jf.stats.LawForm.POWER]).nearest
    assert r"\left(\eta\,\sigma_1\right)^{2}" in law.latex


def test_a_long_formula_stays_on_the_page(grid):
    """Its fractions are set smaller, and then it is plain text in lines; it does not lie on the axes."""
    found, times = law_of(grid)
    for latex in (found.law.latex, rf"T = \frac{{{'x + ' * 12}1}}{{2}}", rf"T = {'x + ' * 60}1"):
        figure = figures.law(dataclasses.replace(found.law, latex=latex, formula=latex), times)
        figure.draw_without_rendering()
        (title,) = [text for text in (figure.axes[0].title, figure.axes[0]._left_title) if text.get_text()]
        box = title.get_window_extent()
        assert box.x1 <= figure.bbox.x1
        assert box.y0 >= figure.axes[0].get_window_extent().y1


def test_a_law_of_a_store(call, store, tmp_path):
    """Of the grid at once; of one scale there are too few points."""
    ended = call("figure", store, "--kind", "law", "--out", "a")
    assert (ended.code, ended.err) == (0, "")
    ended = call("figure", store, "--kind", "law", "--out", "b", "--select", "scale=0.1")
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert "times are known at 5 of 6 points" in ended.err


def test_no_period_where_there_is_no_cycle(call, grid, store, tmp_path):
    """One line, in the library and at the command line, instead of empty axes; a single cycle is drawn."""
    along = grid.sel(scale=0.1)
    with pytest.raises(ValueError, match=r"^of=period: no run ended in a cycle; draw another, such as distance\.$"):
        figures.bifurcation(along, "step_size", of="period")
    unknown = along.assign(gradient_norm=xr.full_like(along.distance, np.nan))
    with pytest.raises(ValueError, match=r"^of=gradient_norm: no run has that number; "):
        figures.bifurcation(unknown, "step_size", of="gradient_norm")
    select = ("--select", "scale=0.1", "--record", "period")
    ended = call("figure", store, "--kind", "bifurcation", *select)
    assert (ended.code, ended.err) == (
        2,
        "jaxfact: of=period: no run ended in a cycle; draw another, such as distance.\n",
    )
    assert not list(tmp_path.iterdir())
    one = along.assign(period=along.period.where((along.seed > 0) | (along.step_size < 0.5), 4))
    drawn = [line.get_ydata() for line in figures.bifurcation(one, "step_size", of="period").axes[0].lines]
    assert np.concatenate(drawn).tolist() == [4]


def test_points_of_which_none_is_known_are_refused(grid):
    with pytest.raises(ValueError, match=r"^x, y=ln\(period\), hit: no run has both numbers; choose others\.$"):
        figures.scatter(grid, "ln(period)")
    figures.scatter(grid, "distance")


WORDS = {"spectrum": ["linear", "geometric"], "tied": [True, False]}


@pytest.fixture(params=WORDS)
def words(request, grid) -> tuple[xr.Dataset, str, list[str]]:
    """Return the runs with words, or truths, in the place of scales; the axis, and what is to be read below it."""
    name, values = request.param, WORDS[request.param]
    return grid.rename(scale=name).assign_coords({name: values}), name, [str(value) for value in values]


def ticks(axis) -> list[str]:
    return [label.get_text() for label in axis.get_ticklabels()]


def test_words_are_categories_in_their_order(words):
    """With cells, dots and points at 0 and 1, in the order of the axis, which is not that of the alphabet."""
    runs, axis, names = words
    hit = runs.hit.isel(level=0, drop=True)
    median = hit.median("seed").rename("median")
    axes = figures.heatmap(median, "step_size", axis).axes[0]
    assert ticks(axes.yaxis) == names
    np.testing.assert_array_equal(axes.collections[0].get_array()[:, :5], median.transpose(axis, ...)[:, :5])
    assert ticks(figures.heatmap(median, axis, "step_size").axes[0].xaxis) == names
    reached = figures.fractions(runs.isel(step_size=0), axis, of="converged").axes[0]
    assert ticks(reached.xaxis) == names
    assert [line.get_linestyle() for line in reached.lines] == ["None"]  # nothing lies between two words
    at = [line.get_xydata()[:, 1] for line in figures.times_along(runs.isel(step_size=0), axis).axes[0].lines]
    np.testing.assert_allclose(np.concatenate(at), hit.isel(step_size=0).quantile(0.5, "seed", method="inverted_cdf"))
    points = figures.scatter(runs, axis).axes[0]
    assert ticks(points.xaxis) == names
    (dots,) = [line for line in points.lines if line.get_marker() == "o"]
    first = runs.isel({axis: 0}).hit.values
    assert set(dots.get_ydata()[dots.get_xdata() == 0]) == set(first[np.isfinite(first)])
    assert ticks(figures.scatter(runs, "hit", "outcome").axes[0].yaxis) == ["converged", "diverged"]
    diagram = jf.figures.phase_diagram(diagram_of(runs, "step_size", axis))
    assert ticks(diagram.axes[0].yaxis) == names


def test_names_of_variants_may_be_truths(grid):
    runs = grid.isel(step_size=0, drop=True).rename(scale="variant").assign_coords(variant=[False, True])
    legend = figures.survival(runs).legends[0]
    assert [text.get_text() for text in legend.get_texts()] == ["False", "True"]


def test_words_are_refused_where_an_order_is_needed(words):
    """And in logarithms."""
    runs, axis, names = words
    with pytest.raises(ValueError, match=rf"^axis={axis} of {', '.join(names)}: needs numbers, which have an order; "):
        figures.bifurcation(runs.isel(step_size=0), axis)
    with pytest.raises(ValueError, match=rf"^quantity='ln\({axis}\)': is of words, not of numbers; give {axis} alone"):
        figures.scatter(runs, f"ln({axis})")
    with pytest.raises(ValueError, match=rf"^{axis}=.*: the curve is fitted in its logarithm; .* or exchange the axes"):
        diagram_of(runs, axis, "step_size")
    with pytest.raises(ValueError, match=rf"^{axis}=no numbers above 0: laws are of logarithms; "):
        jf.stats.fit_law(jf.stats.time_to(runs, 1e-4))


def test_words_on_long_axes_do_not_meet():
    """Below 8 cm they are set aslant."""
    values = xr.DataArray(np.eye(4), {"kind": [f"a longer name {i}" for i in range(4)], "b": range(4)}, ("kind", "b"))
    figure = figures.heatmap(values, "kind", "b")
    figure.draw_without_rendering()
    labels = figure.axes[0].get_xticklabels()
    assert {label.get_rotation() for label in labels} == {30}
    assert min(label.get_window_extent().y0 for label in labels) >= 0


def test_words_come_back_from_a_store_and_are_drawn(call, words, tmp_path):
    """In their order; a page says them too."""
    runs, axis, names = words
    write_results(runs, tmp_path / "words.zarr")
    back = jf.open_results(tmp_path / "words.zarr")
    assert back[axis].values.tolist() == WORDS[axis]
    ended = call(
        "figure", "words.zarr", "--kind", "scatter", "--x", axis, "--out", "a", "--select", f"{axis}={names[1]}"
    )
    assert (ended.code, ended.err) == (0, "")
    said = jf.report(back)
    assert any(f"{axis}: {', '.join(names)}" in line for line in said.heading)
    assert {row[1] for row in said.tables[0][2]} == set(names)


@pytest.fixture(scope="module")
def recorded(grid) -> xr.Dataset:
    """Return made-up runs of one point, whose distance falls tenfold from one of the three records to the next."""
    runs = grid.isel(step_size=0, scale=0, drop=True)
    path = xr.DataArray([1.0, 0.1, 0.01], {"step": [0, 100, 200]}, "step") * (1 + runs.seed / 100)
    both = xr.concat([path, path / 2], "singular_values_0")
    return runs.assign(distance_path=path, singular_values_path=both)


@pytest.mark.parametrize("name", ["distance", "singular_values"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_animation_of_no_finite_number_is_refused(recorded, tmp_path, name, value):
    """Runs that all went off before the first record have none; nothing is left behind."""
    gone = recorded.assign({f"{name}_path": recorded[f"{name}_path"] * value})
    with pytest.raises(ValueError, match=rf"^name={name}: the 10 runs have no finite number of it .*; choose another"):
        figures.animate(gone, name, tmp_path / "a.gif")
    assert not list(tmp_path.iterdir())


def streamed(path, *options: str) -> bytes:
    return subprocess.run(["ffmpeg", "-v", "error", "-i", path, *options, "-"], capture_output=True, check=True).stdout


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg")
def test_an_mp4_plays(recorded, tmp_path):
    """It has a frame a step, as large as the figure at 200 dpi, in a folder that was not there, and its runs move."""
    path = figures.animate(recorded, "distance", tmp_path / "new" / "a.mp4")
    raw = np.frombuffer(streamed(path, "-f", "rawvideo", "-pix_fmt", "gray"), np.uint8)
    frames = raw.reshape(3, 520, 630).astype(int)
    moved = [int((np.abs(one - other) > 100).sum()) for one, other in itertools.pairwise(frames)]
    assert min(moved) > 100
    blue = [int((frame < 200)[60:300, 100:].sum(axis=0).argmax()) for frame in frames]
    assert blue[0] > blue[1] > blue[2]  # the histogram wanders to the left
    with (
        mpl.rc_context({"animation.codec": "nonesuch"}),
        pytest.raises(ValueError, match="the codec nonesuch; set"),
    ):
        figures.animate(recorded, "distance", tmp_path / "b.mp4")
    assert [one.name for one in tmp_path.iterdir()] == ["new"]


@pytest.fixture(scope="module")
def gone(recorded) -> xr.Dataset:
    """Return runs that all diverged by step 100, the record there being infinite."""
    paths = recorded[["distance_path", "singular_values_path"]].where(recorded.step == 0, np.inf)
    ended = {"outcome": xr.full_like(recorded.outcome, "diverged"), "hit": xr.full_like(recorded.hit, np.inf)}
    return recorded.assign({**ended, **paths.data_vars, "steps": xr.full_like(recorded.steps, 100)})


@pytest.mark.parametrize("draw", [figures.distance, figures.singular_values, figures.worst])
def test_where_runs_begin_and_when_they_go_off_is_seen(gone, draw):
    """A dot at the start, of which no line is seen, and a triangle at the first record at which half are gone."""
    lines = draw(gone).axes[0].lines
    dots = {tuple(line.get_xdata()) for line in lines if line.get_marker() == "."}
    edges = {tuple(line.get_xdata()) for line in lines if line.get_marker() == "^"}
    assert (dots, edges) == ({(0,)}, {(100,)})


def test_a_page_of_runs_that_all_went_off(call, gone, tmp_path):
    """It says so and when, draws how they ended and how they left, no times, and ends with what makes it again."""
    write_results(gone, tmp_path / "gone.zarr")
    ended = call("report", "gone.zarr", "--out", "page")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("None of 10 runs converged: all of them diverged, half by step 100.")
    assert "no run arrived: times are not drawn" in ended.out
    drawn = {path.stem for path in (tmp_path / "page" / "figures").iterdir()}
    assert drawn == {"outcomes", "distance", "singular_values", "worst"}
    assert "jaxfact report gone.zarr" in (tmp_path / "page" / "report.html").read_text(encoding="utf-8")[-600:]


def test_the_edge_at_the_command_line(call, grid, store, tmp_path):
    """2/η of each step size is drawn; a store without the record is told which it needs."""
    ended = call("figure", store, "--kind", "edge")
    assert (ended.code, ended.out) == (2, "")
    needed = "the edge of stability is drawn of sharpness, or of curvatures"
    assert ended.err == f"jaxfact: records=none: {needed}; sweep with --record sharpness --every log.\n"
    path = (1 + grid.seed) * xr.DataArray([1.0, 2.0], {"step": [0, 100]}, "step") * xr.ones_like(grid.steps)
    write_results(grid.assign(sharpness_path=path), tmp_path / "sharp.zarr")
    ended = call("figure", "sharp.zarr", "--kind", "edge", "--out", "a")
    assert ended.err.startswith("jaxfact: axes=step_size (6 values), scale (2 values): this figure has 1 of them; give")
    ended = call("figure", "sharp.zarr", "--kind", "edge", "--select", "scale=0.1", "--out", "a")
    assert (ended.code, ended.err) == (0, "")
    header, row, *_ = (tmp_path / "a.dat").read_text().splitlines()
    edges = [float(value) for name, value in zip(header.split(), row.split(), strict=True) if name.endswith("edge")]
    np.testing.assert_allclose(edges, 2 / STEP_SIZES)


def test_letters_that_no_font_has_are_one_line(call, store, tmp_path, monkeypatch):
    """Each letter once, of all five files; where there is such a font it is taken."""
    monkeypatch.setattr(styles, "_others", lambda: [])
    chosen = ("--select", "scale=0.1", "--select", "step_size=0.02")
    ended = call("figure", store, "--kind", "survival", *chosen, "--out", "a", "--title", "实验实")
    assert ended.code == 0
    assert ended.err.startswith("jaxfact: note: no font has the letters 实验; install one that has, ")
    assert ended.err.count("\n") == 1
    monkeypatch.setattr(styles, "_others", lambda: ["DejaVu Serif"])
    with styles.house():
        assert mpl.rcParams["font.family"] == ["sans-serif", "DejaVu Serif"]
