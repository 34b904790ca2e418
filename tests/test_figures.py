"""Figures say what they show, show what was found, and are readable at 8 cm width by everyone."""

import io
from itertools import combinations

import matplotlib as mpl
import numpy as np
import pytest
import xarray as xr
from matplotlib import colors
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

import jaxfact as jf
from jaxfact import figures, measures
from jaxfact.figures import styles
from jaxfact.figures.labels import label_axis, scale_steps
from jaxfact.figures.worst import worst_seeds

TARGET = [1.0, 0.5]
SEEDS = 20
FIGURES = {
    "distance": figures.distance,
    "survival": figures.survival,
    "imbalance": figures.imbalance,
    "singular values": lambda runs: figures.singular_values(runs, TARGET),
    "worst": figures.worst,
}


@pytest.fixture(scope="module")
def runs() -> xr.Dataset:
    """Return runs of two methods, which differ in the balancing weight alone and so share one compilation."""
    problem, start = jf.Factorization(TARGET, shape=(5, 4)), jf.starts.Gaussian(2, scale=0.1, ratio=3.0)
    runs = jf.sweep(
        lambda weight: jf.Run(problem, start, jf.methods.balanced(0.5, weight)),
        seeds=SEEDS,
        max_steps=400,
        tolerance=1e-4,
        record=[measures.distance, measures.imbalance, measures.singular_values],
        every=5,
        check_every=5,
        weight=[0, 1 / 8],
    )
    return runs.rename(weight="variant").assign_coords(variant=["plain", "balanced"])


@pytest.fixture
def three(runs) -> xr.Dataset:
    """Return the runs with a third method, a copy of the first."""
    return xr.concat([runs, runs.isel(variant=[0]).assign_coords(variant=["third"])], "variant", data_vars="minimal")


@pytest.fixture(params=FIGURES)
def drawn(request, runs) -> tuple[str, Figure]:
    return request.param, FIGURES[request.param](runs)


def texts(figure: Figure) -> list[Text]:
    FigureCanvasAgg(figure).draw()
    hidden = {text for axes in figure.axes if not axes.get_visible() for text in axes.findobj(Text)}
    return [text for text in figure.findobj(Text) if text.get_visible() and text.get_text() and text not in hidden]


def curves(figure: Figure) -> dict:
    named = {line.get_label(): line for line in figure.axes[0].lines}
    return {name: line for name, line in named.items() if not name.startswith("_")}


def quantile(path: xr.DataArray, fraction: float) -> np.ndarray:
    """Return the observed value up to which that fraction of the runs lies, by sorting; zeros have no logarithm."""
    ranked = np.sort(path.transpose("seed", ...).values, axis=0)
    found = ranked[int(np.ceil(fraction * len(ranked))) - 1]
    return np.where(found > 0, found, np.nan)


def points(pairs: np.ndarray) -> set:
    return {tuple(pair) for pair in pairs.tolist()}


def band(figure: Figure, place: int) -> set:
    return points(np.concatenate([path.vertices for path in figure.axes[0].collections[place].get_paths()]))


def test_labels_carry_symbols_and_units(drawn):
    name, figure = drawn
    distance = r"$\|UV^\top-\Sigma_d\|_F \,/\, \|\Sigma_d\|_F$"
    expected = {
        "distance": distance,
        "survival": "fraction not yet at 0.0001",
        "imbalance": r"$\|U^\top U-V^\top V\|_F \,/\, \sigma_1$",
        "singular values": r"$\sigma_k(UV^\top) \,/\, \sigma_1$",
        "worst": distance,
    }
    shown = [text.get_text() for text in texts(figure)]
    assert expected[name] in shown
    assert "step $t$" in shown


def test_readable_at_eight_centimetres(drawn):
    """At its own width, no text is below 7 points, and none sticks out of the figure."""
    _, figure = drawn
    assert figure.get_figwidth() == 3.15
    assert min(text.get_fontsize() for text in texts(figure)) >= 7
    ink = figure.get_tightbbox()
    assert min(ink.x0, ink.y0) >= -0.01
    assert ink.x1 <= figure.get_figwidth() + 0.01
    assert ink.y1 <= figure.get_figheight() + 0.01


@pytest.mark.parametrize("name", ["distance", "survival", "imbalance", "singular values"])
def test_runs_and_interval_are_named(runs, name):
    shown = "\n".join(text.get_text() for text in texts(FIGURES[name](runs)))
    kind = "band: 95 % Wilson interval at each step," if name == "survival" else "band: 5–95 % of"
    assert f"{kind} {SEEDS} runs per variant" in " ".join(shown.split())
    assert "plain" in shown
    assert "balanced" in shown


def seen_without_green(colour: str) -> np.ndarray:
    """Return a colour's CIE L*a*b* as a deuteranope sees it (Machado, Oliveira & Fernandes 2009, severity 1)."""
    machado = [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    encoded = np.array(colors.to_rgb(colour))
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    x, y, z = np.cbrt(np.array(to_xyz) @ np.clip(machado @ linear, 0, 1) / [0.9505, 1, 1.089])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def test_methods_differ_in_colour_and_in_line(three):
    lines = curves(figures.distance(three))
    assert list(lines) == ["plain", "balanced", "third", "tolerance"]
    del lines["tolerance"]
    assert len({str(line._dash_pattern) for line in lines.values()}) == 3
    seen = {name: seen_without_green(line.get_color()) for name, line in lines.items()}
    assert min(np.linalg.norm(seen[a] - seen[b]) for a, b in combinations(seen, 2)) > 25
    red, green = seen_without_green("#d62728"), seen_without_green("#2ca02c")
    assert np.linalg.norm(red - green) < 25  # a pair that is usual and bad


def ends_at(runs: xr.Dataset, path: xr.DataArray, fraction: float) -> int:
    """Return the last step at which the run that is that quantile was still going: then it was stopped, arrived."""
    ranked = path.transpose("seed", "step").argsort(axis=0).isel(seed=int(np.ceil(fraction * path.sizes["seed"])) - 1)
    return int(path.step.values[runs.steps.isel(seed=ranked).values >= path.step.values].max())


@pytest.mark.parametrize(("name", "path"), [("distance", "distance_path"), ("imbalance", "imbalance_path")])
def test_bands_are_quantiles_of_the_runs(runs, name, path):
    """As long as they are of runs that go on: that runs were stopped is no floor, and a dot says where it was."""
    figure = FIGURES[name](runs)
    for place, method in enumerate(["plain", "balanced"]):
        line, one = curves(figure)[method], runs.sel({"variant": method})
        steps, drawn = line.get_xdata(), line.get_ydata()
        end = ends_at(one, one[path], 0.5)
        assert end < steps[-1]
        np.testing.assert_array_equal(drawn[steps <= end], quantile(one[path], 0.5)[: len(steps)][steps <= end])
        assert np.isnan(drawn[steps > end]).all()
        dots = [dot for dot in figure.axes[0].lines if dot.get_marker() == "." and dot.get_color() == line.get_color()]
        (dot,) = dots
        assert dot.get_xdata()[0] == end
        assert dot.get_ydata()[0] == drawn[steps == end][0] or np.isnan(dot.get_ydata()[0])
        edges = [np.column_stack([steps, quantile(one[path], fraction)[: len(steps)]]) for fraction in (0.05, 0.95)]
        shown = np.isfinite(edges).all(axis=(0, 2)) & (steps <= end)
        assert shown.sum() > 5
        assert points(edges[0][shown]) | points(edges[1][shown]) <= band(figure, place)


def test_the_tolerance_is_drawn_where_distances_are(runs):
    line = curves(figures.distance(runs))["tolerance"]
    assert set(line.get_ydata()) == {1e-4}
    assert "tolerance" not in curves(figures.imbalance(runs))


def with_diverged(runs: xr.Dataset, count: int) -> xr.Dataset:
    """Return the runs with the first `count` seeds infinitely far away from step 50 on."""
    gone = (runs.seed < count) & (runs.step >= 50)
    return runs.assign(distance_path=runs.distance_path.where(~gone, np.inf))


@pytest.mark.parametrize(("count", "median", "upper"), [(0, True, True), (2, True, False), (12, False, False)])
def test_a_diverged_run_counts_as_infinite(runs, count, median, upper):
    """With 10 % of the runs gone the upper quantile is infinite, with 60 % the median too: no number shows it."""
    figure = figures.distance(with_diverged(runs, count))
    line = figure.axes[0].lines[0]
    late = (line.get_xdata() >= 50) & (line.get_xdata() <= float(runs.steps.min()))
    assert late.any()
    assert np.isfinite(line.get_ydata()[late]).all() == median
    assert np.isfinite(line.get_ydata()[line.get_xdata() < 50]).all()
    survivors = runs.distance_path.sel({"variant": "plain", "seed": slice(count, None), "step": line.get_xdata()[late]})
    edge = np.column_stack([line.get_xdata()[late], quantile(survivors, 0.95)])
    assert (points(edge) <= band(figure, 0)) == upper


ABSENT = {"0 throughout": 0.0, "infinite or unknown": np.nan}


@pytest.mark.parametrize("said", ABSENT)
def test_what_a_logarithmic_axis_cannot_show_is_said(runs, said):
    """Of one method in the legend, of all in the empty panel; nothing where there are numbers."""
    value = ABSENT[said]
    one = runs.assign(imbalance_path=runs.imbalance_path.where(runs["variant"] != "plain", value))
    assert set(curves(figures.imbalance(one))) == {f"plain: {said}", "balanced"}
    (text,) = figures.imbalance(runs.assign(imbalance_path=value * runs.imbalance_path)).axes[0].texts
    assert text.get_text() == said
    assert not figures.imbalance(runs).axes[0].texts


def test_a_heatmap_is_grey_where_there_is_no_number():
    """Which a legend says, that others do not have."""
    fraction = xr.DataArray(np.ones((3, 2)), {"a": [1, 2, 3], "b": [1, 2]}, ("a", "b"))
    holed = figures.heatmap(fraction.where(fraction.a < 3, np.inf), "a", "b")
    np.testing.assert_array_equal(holed.axes[0].collections[0].get_array().mask, [[False, False, True]] * 2)
    (legend,) = holed.legends
    assert legend.legend_handles[0].get_facecolor() == holed.axes[0].get_facecolor()
    assert not figures.heatmap(fraction, "a", "b").legends
    with pytest.raises(ValueError, match=r"^axes=a, c: the values are along a, b; "):
        figures.heatmap(fraction, "a", "c")


def test_survival_is_the_fraction_not_yet_arrived(runs):
    figure = figures.survival(runs)
    for method, line in curves(figure).items():
        hit = runs.hit.sel({"variant": method, "level": float(runs.tolerance)}).values
        expected = [np.mean(hit > step) for step in line.get_xdata()]
        np.testing.assert_allclose(line.get_ydata(), expected, atol=1e-12)
        assert set(hit) <= set(line.get_xdata())


def test_target_lines_and_singular_values(runs):
    figure = figures.singular_values(runs, [1.0, 0.5, 0.25])
    for axes, method in zip(figure.axes, runs.variant.values, strict=True):
        assert axes.get_title(loc="left") == method
        flat = [line.get_ydata()[0] for line in axes.lines if list(line.get_xdata()) == [0, 1]]
        assert flat == TARGET
        found = [line for line in axes.lines if list(line.get_xdata()) != [0, 1] and line.get_marker() != "."]
        for place, line in enumerate(found):
            path = runs.singular_values_path.sel({"variant": method, "step": line.get_xdata()})
            known = np.isfinite(line.get_ydata())
            expected = quantile(path.isel(singular_values_0=place), 0.5)
            np.testing.assert_array_equal(line.get_ydata()[known], expected[known])
            assert line.get_ydata()[known][-1] == pytest.approx(TARGET[place], abs=1e-3)
            assert line.get_label() == rf"$\sigma_{{{place + 1}}}$"
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [r"$\sigma_{1}$", r"$\sigma_{2}$"]
    # No colour of a singular value may be taken for a variant's.
    own = [seen_without_green(line.get_color()) for line in figure.axes[0].lines[:3:2]]
    variants = [seen_without_green(line.get_color()) for line in curves(figures.distance(runs)).values()]
    assert min(np.linalg.norm(one - other) for one in own for other in variants) > 15


def test_figures_along_steps_say_that_there_are_no_records(runs):
    bare = runs.drop_dims("step")
    with pytest.raises(ValueError, match=r"^runs=a sweep without records: .*; sweep with every=100\.$"):
        figures.distance(bare)
    figures.survival(bare)


@pytest.mark.parametrize(("high", "named"), [(600.0, {20, 50, 200, 500}), (6000.0, set())])
def test_minor_ticks_that_are_named_do_not_meet(high, named):
    """On less than two decades twos and fives; on more the decades are enough."""
    figure = Figure(figsize=(3.15, 2.0))
    axes = figure.subplots()
    axes.set(xscale="log", xlim=(20, high))
    styles.name_few_minor_ticks(axes.xaxis)
    figure.draw_without_rendering()
    low, high = axes.get_xlim()
    ticks = zip(axes.get_xticks(minor=True), axes.get_xticklabels(minor=True), strict=True)
    assert {round(at) for at, label in ticks if label.get_text() and low <= at <= high} == named


@pytest.mark.parametrize(
    ("values", "ticks"),
    [([30, 50, 70, 150], ["30", "50", "70", "150"]), (0.1 * 10.0 ** (np.arange(6) / 5), [])],
)
def test_values_of_a_logarithmic_axis_are_named_where_there_is_room(values, ticks):
    axes = Figure(figsize=(3.15, 2.0)).subplots()
    label_axis(axes, "x", xr.DataArray(values, dims="measurements", name="measurements"))
    assert axes.get_xscale() == "log"
    axes.figure.draw_without_rendering()
    named = [label.get_text() for label in axes.get_xticklabels()]
    assert named == ticks if ticks else not {"0.158", "0.251"} & set(named)


def test_no_decade_is_named_in_the_linear_part_of_an_axis_of_steps():
    axes = Figure().subplots()
    scale_steps(axes, np.array([0, 5, 10, 20, 40, 80, 160, 320, 640]))
    assert axes.get_xticks().tolist() == [0, 10, 100]


OUTCOMES = ["converged", "budget", "diverged", "converged", "cycle", "converged", "diverged"]
HIT = [50, np.nan, np.inf, 90, np.inf, 70, np.inf]


@pytest.mark.parametrize("last", [7.0, np.nan])
def test_worst_seeds_are_failures_then_the_slowest(last):
    """Of two failures the one further away is worse; not a number is further away than any number."""
    distance = np.array([1e-6, 0.01, np.inf, 1e-6, 0.5, 1e-6, last])
    variables = {
        "outcome": ("seed", OUTCOMES),
        "hit": (("seed", "level"), np.array([HIT, HIT]).T),
        "steps": ("seed", [50, 400, 9, 90, 60, 70, 9]),
        "distance": ("seed", distance),
        "tolerance": 1e-4,
    }
    runs = xr.Dataset(variables, {"seed": 10 * np.arange(7), "level": [0.1, 1e-4]})
    ranked = worst_seeds(runs, 7)
    assert sorted(ranked[:2]) == [20, 60]
    assert ranked[2:] == [40, 10, 30, 50, 0]
    assert worst_seeds(runs, 3) == ranked[:3]


def test_worst_shows_the_runs_that_it_names(runs):
    figure = figures.worst(runs, count=3)
    assert [axes.get_visible() for axes in figure.axes] == [True, True, True, False]
    for axes, seed in zip(figure.axes, worst_seeds(runs.sel({"variant": "plain"}), 3), strict=False):
        assert axes.get_title(loc="left") == f"seed {seed}: converged"
        line = next(line for line in axes.lines if line.get_label() == "balanced")
        own = runs.distance_path.sel({"variant": "balanced", "seed": seed, "step": line.get_xdata()})
        assert line.get_xdata()[-1] - 5 < runs.steps.sel({"variant": "balanced", "seed": seed}) <= line.get_xdata()[-1]
        np.testing.assert_array_equal(line.get_ydata(), own)


@pytest.mark.parametrize("name", FIGURES)
def test_one_method_needs_no_name(runs, name):
    figure = FIGURES[name](runs.sel({"variant": "plain"}))
    assert "plain" not in "\n".join(text.get_text() for text in texts(figure))


@pytest.mark.parametrize("name", FIGURES)
def test_axes_must_be_selected_first(runs, name):
    with pytest.raises(ValueError, match=r"axes \['scale'\].*one point"):
        FIGURES[name](runs.expand_dims(scale=2))


def saved(figure: Figure, path) -> bytes:
    figures.save(figure, path)
    return path.read_bytes()


def test_saved_figures_have_their_size(tmp_path, runs):
    figure = figures.distance(runs)
    image = Image.open(io.BytesIO(saved(figure, tmp_path / "a.png")))
    assert image.size == (945, 750)
    assert np.ptp(np.asarray(image.convert("L"))) > 100
    assert b'width="226.8pt"' in saved(figure, tmp_path / "a.svg")
    with pytest.raises(ValueError, match=r"a\.jpg: needs a suffix of \.png, \.svg, \.pdf, \.pgf"):
        figures.save(figure, tmp_path / "a.jpg")
    assert not (tmp_path / "a.jpg").exists()


def test_every_format_takes_one_walk_through_the_figure(tmp_path, runs, monkeypatch):
    """Left to itself, matplotlib draws once to lay out and once to draw, and both for every format."""
    drawn, draw = [], Figure.draw
    monkeypatch.setattr(Figure, "draw", lambda figure, renderer: [drawn.append(renderer), draw(figure, renderer)])
    figure, other = figures.distance(runs), figures.distance(runs)
    both = saved(figure, tmp_path / "a.png"), saved(figure, tmp_path / "a.svg")
    assert len(drawn) == 2
    assert both == (saved(other, tmp_path / "b.png"), saved(figures.distance(runs), tmp_path / "b.svg"))
    drawn.clear()
    figures.distance(runs).savefig(tmp_path / "c.png")
    assert len(drawn) == 2


USER = {
    "font.size": 20,
    "font.sans-serif": ["DejaVu Sans Mono"],
    "mathtext.fontset": "stix",
    "lines.linewidth": 9,
    "axes.facecolor": "black",
    "axes.grid": True,
    "savefig.bbox": "tight",
    "savefig.transparent": True,
    "svg.fonttype": "none",
}


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_pages_look_alike_whatever_the_users_style(tmp_path, runs, suffix):
    """Within `house`, as reports are drawn; and nothing of the user's is changed."""
    expected = saved(figures.distance(runs), tmp_path / f"a{suffix}")
    with mpl.rc_context(USER):
        before = dict(mpl.rcParams)
        with styles.house():
            found = saved(figures.distance(runs), tmp_path / f"b{suffix}")
        assert dict(mpl.rcParams) == before
        other = saved(figures.distance(runs), tmp_path / f"c{suffix}")
    assert found == expected
    assert other != expected


def test_the_users_settings_are_respected(runs):
    """Where they differ from matplotlib's own; a venue's name overrides them, and letters in smaller print follow."""
    with mpl.rc_context(USER | {"figure.figsize": (7.0, 5.0), "axes.prop_cycle": mpl.cycler(color=["k", "c"])}):
        mine, venue = figures.distance(runs), figures.distance(runs, style="icml")
    axes = mine.axes[0]
    assert axes.xaxis.label.get_fontsize() == 20
    assert axes.get_xticklabels()[0].get_fontsize() == 17.5
    assert axes.get_facecolor() == (0, 0, 0, 1)
    assert axes.lines[0].get_linewidth() == 9
    assert [line.get_color() for line in axes.lines[:3:2]] == ["k", "c"]
    assert tuple(mine.get_size_inches()) == (7, 5)
    assert venue.axes[0].xaxis.label.get_fontsize() == 8
    assert venue.get_figwidth() == 3.25


def test_figures_are_drawn_into_the_users_axes(runs):
    own = Figure(figsize=(4, 3))
    left, right = own.subplots(1, 2)
    assert figures.curve(runs, "imbalance", ax=right, title="mine") is own
    assert (len(own.axes), right.get_title(loc="left"), len(left.lines)) == (2, "mine", 0)
    assert [text.get_text() for text in right.get_legend().get_texts()] == ["plain", "balanced"]
    with pytest.raises(ValueError, match=r"^ax=one axes: this figure has 2 panels; "):
        figures.singular_values(runs, TARGET, ax=left)
    with pytest.raises(ValueError, match=r"^style='nature': is no venue; choose among neurips, icml, siam, slides\.$"):
        figures.distance(runs, style="nature")
    with pytest.raises(ValueError, match=r"^name='x': the records are distance, imbalance, singular_values; choose"):
        figures.curve(runs, "x")


def test_a_run_that_goes_off_does_not_flatten_the_others(runs):
    """It leaves at a triangle; without it the axis is as high."""
    off = (runs.seed == 3) & (runs.step >= 30)
    gone = runs.assign(
        distance_path=runs.distance_path.where(~off, 1e30), outcome=runs.outcome.where(runs.seed != 3, "diverged")
    )
    figure = figures.worst(gone, 2)
    assert figure.axes[0].get_title(loc="left") == "seed 3: diverged"
    assert figure.axes[0].get_ylim()[1] < 100
    edges = [line.get_xdata().tolist() for line in figure.axes[0].lines if line.get_marker() == "^"]
    assert edges == [[30]] * 2
    assert figures.distance(gone).axes[0].get_ylim()[1] < 100


def test_a_band_of_survival_begins_at_one(runs):
    """Pointwise where the first run arrives, and for all steps together after the first step."""
    first = float(runs.hit.sel({"variant": "plain", "level": 1e-4}).min())
    for simultaneous, begins in ((False, first), (True, 1.0)):
        figure = figures.survival(runs, 1e-4, simultaneous=simultaneous)
        corners = np.array(sorted(band(figure, 0)))
        assert corners[corners[:, 0] < begins][:, 1].min() == 1
        assert corners[corners[:, 0] == begins][:, 1].min() < 1


def test_an_animation_has_a_frame_for_each_step(tmp_path, runs):
    path = figures.animate(runs, "distance", tmp_path / "a.gif", frames=3)
    with Image.open(path) as made:
        assert made.n_frames == 3
        first = np.asarray(made.convert("L"), float)
        made.seek(2)
        assert np.abs(np.asarray(made.convert("L"), float) - first).max() > 100
    with pytest.raises(ValueError, match=r"a\.avi: needs the suffix \.gif or \.mp4; "):
        figures.animate(runs, "distance", tmp_path / "a.avi")
    assert [one.name for one in tmp_path.iterdir()] == ["a.gif"]


def test_an_animation_without_ffmpeg_says_so(tmp_path, runs, monkeypatch):
    monkeypatch.setattr("matplotlib.animation.FFMpegWriter.isAvailable", classmethod(lambda _: False))
    with pytest.raises(ValueError, match=r"a\.mp4: MP4 is written by ffmpeg, which is not there; install it"):
        figures.animate(runs, "distance", tmp_path / "a.mp4")
