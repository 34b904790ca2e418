"""Figures of what is not as they would like it: grids of two axes, no cycles, categories, and runs that went off."""

import dataclasses

import numpy as np
import pytest
import xarray as xr

import jaxfact as jf
from jaxfact import figures
from jaxfact.figures.sheets import said_of
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
