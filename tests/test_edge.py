"""The figure of the edge of stability: what it draws is in the runs, and 2/η is where minimisers lose their hold."""

import matplotlib as mpl
import numpy as np
import pytest
import xarray as xr
from matplotlib.text import Text

import jaxfact as jf
from jaxfact import figures
from jaxfact.figures.sheets import said_of

STEPS = [0.05, 0.3]


@pytest.fixture(scope="module")
def runs() -> xr.Dataset:
    """Return runs from lopsided starts at a rank-one target, whose minima have any sharpness from 2σ₁ on."""
    problem, start = jf.Factorization([1.0], shape=(3, 2)), jf.starts.Gaussian(1, scale=0.35, ratio=16.0)
    return jf.sweep(
        lambda step_size: jf.Run(problem, start, jf.methods.gradient_descent(step_size)),
        seeds=30,
        max_steps=5000,
        tolerance=1e-8,
        every=[0, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000],
        record=["sharpness", "imbalance"],
        step_size=STEPS,
    )


def lines(figure) -> dict[float, str]:
    """Return the colour of every line across the axes, by its height."""
    flat = [line for line in figure.axes[0].lines if list(line.get_xdata()) == [0, 1]]
    return {float(line.get_ydata()[0]): mpl.colors.to_hex(line.get_color()) for line in flat}


def quantile(values: np.ndarray, fraction: float) -> np.ndarray:
    """Return the observed value up to which that fraction of the runs lies, by sorting."""
    return np.sort(values, axis=0)[int(np.ceil(fraction * len(values))) - 1]


def test_the_sharpness_of_each_step_size_is_drawn_with_its_edge(runs):
    """Quantiles of the record, which end where a median was stopped, and 2/η in the same colour."""
    figure = figures.edge_of_stability(runs)
    curves = {line.get_label(): line for line in figure.axes[0].lines if not line.get_label().startswith("_")}
    assert list(curves) == ["η = 0.05", "η = 0.3"]
    for step_size, line in zip(STEPS, curves.values(), strict=True):
        assert lines(figure)[2 / step_size] == mpl.colors.to_hex(line.get_color())
        part = runs.sel(step_size=step_size)
        values = part.sharpness_path.transpose("seed", "step").values[:, : len(line.get_xdata())]
        known = np.isfinite(line.get_ydata())
        assert known.sum() > 4
        np.testing.assert_array_equal(line.get_ydata()[known], quantile(values, 0.5)[known])
        said = said_of(figure).columns
        column = next(key for key in said if key.endswith("edge") and said[key][0] == 2 / step_size)
        for what, fraction in (("low", 0.05), ("median", 0.5)):
            drawn = said[column.removesuffix("edge") + what]
            there = np.isfinite(drawn)
            np.testing.assert_array_equal(drawn[there], quantile(values, fraction)[there])
        # Negative control: the mean over runs is another number.
        assert abs(values[:, 0].mean() - line.get_ydata()[0]) > 0.1
    assert min(text.get_fontsize() for text in figure.findobj(Text) if text.get_text()) >= 7


def test_the_curve_ends_at_the_closed_form_and_below_the_edge(runs):
    """At a rank-one fit (‖u‖² + ‖v‖²)² = 4σ₁² + D², D = ‖u‖² − ‖v‖²; where descent settles that is at most (2/η)²."""
    for step_size in STEPS:
        part = runs.sel(step_size=step_size)
        arrived = part.isel(seed=(part.outcome == "converged").values)
        assert arrived.sizes["seed"] >= 20
        last = arrived.isel(step=-1)
        known = np.sqrt(4 + last.imbalance_path.values**2)
        np.testing.assert_allclose(last.sharpness_path, known, rtol=1e-7)
        assert known.max() < 2 / step_size
        assert known.max() > 3  # so 2σ₁, where factors are balanced, would be wrong
    # Negative control: of the same seeds the small step lets settle above the edge of the large one.
    assert float(runs.sel(step_size=0.05).sharpness_path.isel(step=-1).max()) > 2 / 0.3


def test_the_step_size_may_be_given_or_be_that_of_the_point(runs):
    point = runs.sel(step_size=0.3)
    assert list(lines(figures.edge_of_stability(point))) == pytest.approx([2 / 0.3])
    assert list(lines(figures.edge_of_stability(point, 0.25))) == [8]
    variants = xr.concat([point, point], "variant").assign_coords(variant=["one", "other"])
    assert list(lines(figures.edge_of_stability(variants))) == pytest.approx([2 / 0.3])
    assert "2/η is 8 in σ₁" in " ".join(said_of(figures.edge_of_stability(variants, 0.25)).sentences)


def test_what_cannot_be_drawn_is_refused(runs):
    point = runs.sel(step_size=0.3)
    with pytest.raises(ValueError, match=r"^step_size=none: the runs have no such coordinate, .*; give a number\.$"):
        figures.edge_of_stability(point.drop_vars("step_size"))
    with pytest.raises(ValueError, match=r"^step_size=-1: needs a finite number above 0; give that of the runs"):
        figures.edge_of_stability(point, -1)
    with pytest.raises(ValueError, match=r"^runs=axes \['step_size'\]: a figure shows one point; "):
        figures.edge_of_stability(runs, 0.3)
    said = r"^name='sharpness': the records are imbalance; choose one, or sweep with record='sharpness'\.$"
    with pytest.raises(ValueError, match=said):
        figures.edge_of_stability(point.drop_vars("sharpness_path"))
