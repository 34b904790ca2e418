"""Laws that were planted are found, those of descent too, and none where there is none."""

import re

import jax
import numpy as np
import pytest
import xarray as xr

import jaxfact as jf
from jaxfact.results.statistic import draws, looks, over_points

AXES = {"rate": np.geomspace(0.01, 0.2, 4), "scale": np.geomspace(1e-6, 1e-2, 5), "level": np.geomspace(1e-9, 1e-2, 6)}
BALANCE = (jf.stats.LawForm.LOGARITHM, jf.stats.LawForm.LOGARITHMS)
SINGLE = (jf.stats.LawForm.POWER, jf.stats.LawForm.LOGARITHM)


def grid(**axes) -> list[xr.DataArray]:
    """Return axes as labelled arrays, each along itself."""
    return [xr.DataArray(np.asarray(values, float), dims=name, coords={name: values}) for name, values in axes.items()]


def times(median: xr.DataArray, seeds: int = 30, scatter: float = 0.1, budget: float = np.inf, key: int = 0):
    """Return times that scatter about a law, half of it shared by all points of a seed, until a budget."""
    rng = np.random.default_rng(key)
    shape = (*median.shape, seeds)
    noise = scatter * (rng.standard_normal(seeds) + rng.standard_normal(shape)) / 2**0.5
    hit = median.expand_dims(seed=np.arange(seeds)).transpose(..., "seed") * np.exp(noise)
    steps = np.minimum(hit, budget)
    return jf.stats.Times(hit.where(hit <= budget), steps)


def balanced(rate, scale, level):
    return (np.log(1 / scale) + np.maximum(0.5 * np.log(1 / level), np.log(30 * scale / level))) / np.log1p(rate)


def test_a_planted_balance_is_found_and_predicts():
    """Two sums of logarithms, of which the larger counts; the law says so of sizes that it has not seen."""
    found = jf.stats.fit_law(times(balanced(*grid(**AXES))), forms=BALANCE)
    law = found.law
    assert law is not None
    assert law.formula.startswith("T = max(")
    assert law.features == ("scale", "level", "rate")
    assert sorted(law.numbers[:, :-1].tolist()) == [[-1.0, -0.5, 0.0], [0.0, -1.0, 0.0]]
    assert law.formula.endswith("/ln(1 + rate)")
    assert law.error < 0.05
    assert law.breaks == ()
    new = grid(rate=[0.05, 0.3], scale=[1e-8], level=[1e-12, 1e-4])
    np.testing.assert_allclose(law.predict({one.dims[0]: one for one in new}), balanced(*new), rtol=0.05)
    assert np.abs(law.against(times(balanced(*new), scatter=0.0))).max() < 0.05


@pytest.mark.parametrize(
    ("law", "formula"),
    [
        (lambda x, y, z: 3 * x**1.5 / y, r"T = [23]\.?\d*·x\^1\.5/y"),
        (lambda x, y, z: (np.log(z) + 1) * x**2, r"T = \(ln\(z\) \+ \d\.?\d*\)·x\^2"),
        (lambda x, y, z: 0 * (x + y + z) + 40, r"T = \d\d\.?\d?"),
    ],
)
def test_planted_powers_are_found(law, formula):
    """Alone, with a factor log, and none at all: times that depend on nothing have a law too."""
    found = jf.stats.fit_law(
        times(law(*grid(x=np.geomspace(2, 50, 5), y=np.geomspace(0.01, 1, 4), z=np.geomspace(10, 1e4, 4)))),
        forms=SINGLE,
    )
    assert found.law is not None
    assert re.fullmatch(formula, found.law.formula), found.law.formula


def no_law(kind: str) -> xr.DataArray:
    """Return times over a grid that no form of the grammar has."""
    x, y = grid(x=np.geomspace(1, 1000, 8), y=np.geomspace(0.1, 10, 6))
    if kind == "waves":
        return 100 * np.exp(np.sin(2 * np.log(x))) / y
    if kind == "a sum":
        return 10 / y**2 + 10 * y**2 + 0 * x
    return xr.zeros_like(x * y) + np.random.default_rng(3).lognormal(4, 1, (8, 6))


@pytest.mark.parametrize("kind", ["waves", "a sum", "noise"])
def test_no_simple_law_where_there_is_none(kind):
    found = jf.stats.fit_law(times(no_law(kind), scatter=0.01), forms=SINGLE)
    assert found.law is None
    assert str(found).startswith("no simple law: the nearest form, ")
    assert found.nearest is not None
    assert found.nearest.error > 0.05


def test_a_law_of_descent_is_found():
    """Growth from the start, then the slower of two decays: ησ_d·T = ln σ_d + max(ln(1/ε√δ), ln(√m/δ)) and constants.

    That is ln(√σ_d/ε) + max(½ln(σ_d/δ), ln(ε√(mσ_d)/δ)): flat in ε where the second is larger.
    """

    def experiment(step_size, m, condition, scale):
        problem = jf.Factorization(jf.data.singular_values(2, condition), shape=(m, m))
        return jf.Run(problem, jf.starts.Gaussian(2, scale=scale), jf.methods.gradient_descent(step_size))

    with jax.enable_x64(True):
        runs = jf.sweep(
            experiment,
            seeds=12,
            max_steps=4000,
            tolerance=1e-8,
            check_every=4,
            levels=[1e-2, 1e-4, 1e-6],
            step_size=[0.1, 0.2],
            m=[10, 100, 1000],
            condition=[2.0, 4.0, 8.0],
            scale=[1e-5, 1e-4, 1e-3, 1e-2],
        )
    found = jf.stats.fit_law(jf.stats.time_to(runs), given={"sigma_d": 1 / runs.condition}, forms=BALANCE)
    law = found.law
    assert law is not None
    assert law.features == ("sigma_d", "step_size", "m", "scale", "level")
    assert law.shape.rate.exponents == (1.0, 1.0, 0.0, 0.0, 0.0)
    early, late = sorted(law.numbers[:, :-1].tolist(), key=lambda slopes: slopes[3])
    assert early == [1.0, 0.0, 0.0, -1.0, -0.5]
    assert late == [1.0, 0.0, 0.5, 0.0, -1.0]
    assert re.fullmatch(r"T = \(ln\(sigma_d\) \+ max\(.*\)\)/\(sigma_d·step_size\)", law.formula), law.formula
    assert law.latex.startswith(r"T = \frac{\left(\ln \sigma_{\mathrm{d}} + \max\left(")


def test_the_tail_of_descent_has_the_rate_of_growth():
    """A start may be almost singular, with a chance proportional to how much: the tail falls as (1 + ησ_r)^−t."""

    def experiment(step_size, condition):
        problem = jf.Factorization(jf.data.singular_values(2, condition), shape=(3, 3))
        return jf.Run(problem, jf.starts.Gaussian(2, scale=1e-2), jf.methods.gradient_descent(step_size))

    with jax.enable_x64(True):
        runs = jf.sweep(
            experiment,
            seeds=4000,
            max_steps=2000,
            tolerance=1e-2,
            check_every=1,
            step_size=[0.1, 0.2, 0.4, 0.6],
            condition=[1.25, 2.0, 4.0],
        )
    arrivals = jf.stats.time_to(runs, 1e-2)
    found = jf.stats.fit_law(arrivals, given={"sigma_r": 1 / runs.condition}, statistic=jf.stats.Tail(0.1))
    assert found.law is not None
    assert re.fullmatch(r"T = \d\.?\d*/ln\(1 \+ sigma_r·step_size\)", found.law.formula), found.law.formula
    one = found.law.coefficients.sel(piece=1, term="1")
    assert one.low < 1 < one.high
    assert one.high - one.low < 0.25


def test_no_law_where_nothing_arrives():
    """Above the edge of stability, say."""
    never = xr.full_like(balanced(*grid(**AXES)), np.inf)
    found = jf.stats.fit_law(jf.stats.Times(never.expand_dims(seed=5), never.expand_dims(seed=5)))
    assert found.law is None
    assert str(found) == "no simple law: times are known at 0 of 120 points"
    hit = never.expand_dims(seed=5).copy()
    hit[:, :2, :2, :2] = 7.0
    found = jf.stats.fit_law(jf.stats.Times(hit, hit))
    assert str(found) == "no simple law: times are known at less than three values of every axis"


def test_a_budget_hides_times_and_a_law_is_held_against_it():
    """What the budget cut off is not fitted; a law that promises arrival before it is wrong by as much at least."""
    x, y = grid(x=np.geomspace(1, 100, 6), y=np.geomspace(1, 10, 4))
    law = jf.stats.fit_law(times(x * y, budget=100.0), forms=SINGLE).law
    assert law is not None
    assert law.breaks == ()
    assert int(law.errors.isnull().sum()) == int((x * y > 100).sum())
    later = jf.stats.Times(times(x * y).hit * np.nan, xr.full_like(times(x * y).hit, 200.0))
    np.testing.assert_allclose(law.against(later).min(), 1 / 200 - 1, atol=1e-3)
    never = jf.stats.Times(times(x * y).hit * np.inf, later.steps)
    np.testing.assert_array_equal(law.against(never), np.full((6, 4), -1.0))


def test_where_a_law_ends_is_found():
    """A power up to x = 30 and something else beyond: the law is that of the part, and breaks at the rest."""
    x, y = grid(x=np.geomspace(1, 100, 9), y=np.geomspace(1, 10, 4))
    median = x * y * xr.where(x > 40, 3 + np.sin(x), 1)
    found = jf.stats.fit_law(times(median, scatter=0.01), forms=SINGLE)
    assert found.law is not None
    assert found.law.formula.endswith("x·y")
    assert [text.split(" (")[0] for text in found.law.breaks] == ["x = 56.2341", "x = 100"]


def test_intervals_of_five_seeds_hold_the_truth():
    """In 95 % of experiments: of 25 at least 20, which one in 500 rightful ones would miss."""
    x, y = grid(x=np.geomspace(1, 100, 4), y=np.geomspace(1, 10, 3))
    held = 0
    for key in range(25):
        law = jf.stats.fit_law(times(20 * x * y, 5, 0.3, key=key), forms=[jf.stats.LawForm.POWER], error=0.3).nearest
        slope = law.coefficients.sel(piece=1, term="x")
        held += bool(slope.low <= 1 <= slope.high)
    assert held >= 20


def test_a_statistic_of_weights_is_that_of_the_repeated_seeds():
    """Weights stand for repeats, and all ones for the quantile of `Times`, in which half a block is left."""
    rng = np.random.default_rng(0)
    hit = 4.0 * rng.integers(1, 50, (3, 25))
    hit[rng.random(hit.shape) < 0.2] = np.nan
    hit[:, :2] = np.inf
    steps = np.where(np.isfinite(hit), hit, 120.0)
    weights = draws(25, 4)
    assert weights.sum() == 100
    found = over_points(jf.stats.Quantile(0.3), hit, steps, weights)
    for resample, row in zip(weights.astype(int), found, strict=True):
        repeated = [xr.DataArray(np.repeat(one, resample, axis=1), dims=("p", "seed")) for one in (hit, steps)]
        np.testing.assert_allclose(row, jf.stats.Times(*repeated).quantile([0.3]).values[:, 0] - looks(hit) / 2)


@pytest.mark.parametrize("every", [1, 10])
def test_the_rate_of_a_tail(every):
    """Of exponential times, rounded up to looks and cut off by a budget, within four standard errors."""
    rng = np.random.default_rng(1)
    hit = every * np.ceil((100 + rng.exponential(20, 200_000)) / every)
    cut_off = np.where(hit > 200, np.nan, hit)
    estimate = jf.stats.Tail(0.2).of(cut_off, np.where(np.isnan(cut_off), 200.0, hit), np.ones((1, len(hit))))
    np.testing.assert_allclose(estimate, 20, rtol=4 / (0.2 * 200_000) ** 0.5)
    assert np.isinf(jf.stats.Tail(0.2).of(np.where(hit > 300, np.inf, hit), hit, np.ones((1, len(hit))))[0])


@pytest.mark.parametrize(
    ("axes", "given", "said"),
    [
        ({"x": [0.0, 1, 2]}, {}, "x=no numbers above 0: laws are of logarithms"),
        ({"x": [1.0, 2]}, {}, "none has 3 values"),
        ({"x": [1.0, 2, 3]}, {"x": 2.0}, "given=x: is an axis already"),
        ({"x": [1.0, 2, 3]}, {"z": xr.DataArray([1.0, 2], dims="w")}, "z=along w: needs axes of the times"),
    ],
)
def test_what_is_no_grid_of_numbers_is_refused(axes, given, said):
    (x,) = grid(**axes)
    with pytest.raises(ValueError, match=said):
        jf.stats.fit_law(times(1 + x), given=given)
