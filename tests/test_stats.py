"""Intervals and verdicts against closed forms, hand computations, SciPy and data sets of known truth."""

import math

import numpy as np
import pytest
import xarray as xr

from jaxfact.results import stats

NAN, INF = math.nan, math.inf
LEVELS = [0.1, 1e-5]


def dataset(hit, steps=None, outcome=None, tolerance=1e-5, check_every=1.0) -> xr.Dataset:
    """Return a data set as a sweep makes it, with `hit` at the lower level; a mapping becomes the dimension variant."""
    if isinstance(hit, dict):
        tolerances = tolerance if isinstance(tolerance, dict) else dict.fromkeys(hit, tolerance)
        parts = [dataset(times, steps, outcome, tolerances[name], check_every) for name, times in hit.items()]
        return xr.concat(parts, xr.IndexVariable("variant", list(hit)), coords="minimal", join="exact")
    hit = np.asarray(hit, float)
    if outcome is None:
        outcome = np.where(np.isnan(hit), "budget", np.where(np.isinf(hit), "diverged", "converged"))
    if steps is None:
        steps = np.where(np.isfinite(hit), hit, 5000)
    variables = {
        "outcome": ("seed", np.asarray(outcome)),
        "steps": ("seed", np.asarray(steps)),
        "hit": (("seed", "level"), np.stack([hit / 2, hit], axis=1)),
        "tolerance": tolerance,
    }
    coordinates = {"seed": np.arange(len(hit)), "level": LEVELS}
    return xr.Dataset(variables, coordinates, {"check_every": check_every})


def scattered(count: int, seed: int, scatter: float, factor: float = 1.0) -> dict[str, np.ndarray]:
    """Return times of two methods whose true ratio is `factor`, very different between seeds."""
    rng = np.random.default_rng(seed)
    base = 1e6 * rng.lognormal(0, 1, count)
    return {"first": base * factor * rng.lognormal(0, scatter, count), "second": base}


def compared(hit, **options) -> stats.PairedTimes:
    return stats.paired_times(dataset(hit, **options), "first", "second", 1e-5)


def test_divergence_is_not_fast_arrival():
    """94 % of the runs diverge within five steps: the median time is infinite, as no half of them arrived."""
    hit = np.where(np.arange(100) < 94, INF, 800.0 + np.arange(100))
    runs = dataset(hit, steps=np.where(np.isinf(hit), 5, hit))
    quantiles = stats.time_to(runs, 1e-5).quantile([0.05, 0.5, 0.95])
    np.testing.assert_array_equal(quantiles, [898, INF, INF])
    assert np.nanmedian(np.where(np.isinf(hit), np.nan, hit)) < 900  # the quantile that drops failures
    assert np.median(runs.steps) == 5  # and the one that takes steps for times


def test_kaplan_meier_by_hand():
    """Eight runs at risk at 10, six at 20, four at 30, three at 40; the two failures stay at risk for ever."""
    hit = [10, NAN, 20, NAN, 30, INF, 40, INF]
    runs = dataset(hit, steps=[10, 15, 20, 25, 30, 3, 40, 7])
    times = stats.time_to(runs, 1e-5)
    left = [1, 7 / 8, 35 / 48, 35 / 64, 35 / 96]
    survival = times.survival()
    np.testing.assert_array_equal(survival.time, [0, 10, 20, 30, 40])
    np.testing.assert_allclose(survival, left, rtol=1e-12)
    just_reached = 1 - np.array(left[1:])
    np.testing.assert_array_equal(times.quantile(just_reached), [10, 20, 30, 40])
    np.testing.assert_array_equal(times.quantile(just_reached + 1e-9), [20, 30, 40, INF])


def test_a_run_cut_off_where_another_arrives_was_at_risk():
    """The usual convention: arrivals come before censorings of the same step."""
    survival = stats.time_to(dataset([10, NAN, INF], steps=[10, 10, 10]), 1e-5).survival()
    np.testing.assert_allclose(survival, [1, 2 / 3])


@pytest.mark.parametrize("failures", [0, 30])
def test_quantiles_agree_with_numpy_without_censoring(failures):
    hit = np.append(np.random.default_rng(4).integers(1, 500, 70).astype(float), np.full(failures, INF))
    levels = np.random.default_rng(5).random(200)
    found = stats.time_to(dataset(hit), 1e-5).quantile(levels)
    np.testing.assert_array_equal(found, np.quantile(hit, levels, method="inverted_cdf"))
    survival = stats.time_to(dataset(hit), 1e-5).survival()
    np.testing.assert_allclose(survival, [np.mean(hit > t) for t in survival.time.values], atol=1e-12)


def test_times_of_several_methods_and_levels():
    runs = dataset({"a": [10, 20, 30], "b": [40, INF, 60]})
    np.testing.assert_array_equal(stats.time_to(runs, 1e-5).quantile([0.5]).squeeze(), [20, 60])
    np.testing.assert_array_equal(stats.time_to(runs, 0.1).quantile([0.5]).squeeze(), [10, 30])
    np.testing.assert_allclose(stats.time_to(runs, 1e-5).survival().sel(time=40), [0, 2 / 3])


def test_nobody_arrives():
    assert np.isinf(stats.time_to(dataset([NAN, NAN, NAN]), 1e-5).quantile([0.5]))
    assert np.isinf(stats.time_to(dataset([INF, INF]), 1e-5).quantile([0.5]))


@pytest.mark.parametrize(("successes", "count"), [(0, 10), (10, 10), (1, 3), (37, 100), (9_990, 10_000)])
def test_wilson_closed_form(successes, count):
    z, p = 1.959963984540054, successes / count
    centre = (p + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * math.sqrt(p * (1 - p) / count + z**2 / (4 * count**2))
    np.testing.assert_allclose(stats.wilson(successes, count), (centre - half, centre + half), atol=1e-12)


def test_fractions_are_unknown_below_a_methods_tolerance():
    hit = {"plain": [10, 20, 30, INF], "noisy": [NAN] * 4}
    found = stats.fraction_reached(dataset(hit, tolerance={"plain": 1e-5, "noisy": 0.1})).sel(level=1e-5)
    for name, value in zip(("fraction", "low", "high"), (0.75, *stats.wilson(3, 4)), strict=True):
        assert found[name].sel({"variant": "plain"}) == pytest.approx(float(value))
        assert np.isnan(found[name].sel({"variant": "noisy"}))


def test_outcomes_share_the_seeds():
    outcome = ["converged"] * 5 + ["diverged"] * 2 + ["budget"]
    found = stats.outcome_fractions(dataset({"a": np.ones(8), "b": np.ones(8)}, outcome=outcome))
    assert found.outcome.values.tolist() == ["budget", "converged", "diverged"]
    np.testing.assert_allclose(found.fraction.sum("outcome"), 1)
    np.testing.assert_array_equal(found.fraction.sel({"variant": "b"}), [1 / 8, 5 / 8, 2 / 8])
    np.testing.assert_allclose(found.high.sel({"variant": "a", "outcome": "diverged"}), stats.wilson(2, 8)[1])


@pytest.mark.parametrize(
    ("count", "scatter", "factor", "verdict"),
    [
        (200, 0.01, 1 / 1.10, "different"),
        (200, 0.01, 1.10, "different"),
        (200, 0.01, 1 / 1.02, "equivalent"),
        (200, 0.01, 1.0, "equivalent"),
        (10, 0.3, 1.0, "inconclusive"),
        (40, 0.0, 1.0, "inconclusive"),  # 40 seeds do not exclude that 5 % of them arrive with one method alone
    ],
)
def test_verdicts_on_known_ratios(count, scatter, factor, verdict):
    found = compared(scattered(count, 5, scatter, factor))
    assert found.verdict == verdict
    assert found.low <= found.ratio <= found.high
    assert found.ratio == pytest.approx(factor, abs=5 * scatter / count**0.5 + 1e-12)
    assert (found.both, found.first_only, found.second_only, found.neither, found.p_success) == (count, 0, 0, 0, 1)


def test_interval_covers_the_truth_about_as_often_as_it_says():
    found = [compared(scattered(60, seed, 0.2, 1.03)) for seed in range(200)]
    assert 0.90 <= np.mean([one.low <= 1.03 <= one.high for one in found]) <= 0.99


def test_pairing_is_what_makes_the_interval_narrow():
    times = scattered(200, 6, 0.01)
    paired = compared(times)
    shuffled = compared({**times, "first": np.random.default_rng(0).permutation(times["first"])})
    assert shuffled.high - shuffled.low > 20 * (paired.high - paired.low)
    assert (paired.verdict, shuffled.verdict) == ("equivalent", "inconclusive")


def test_failures_of_one_method_are_not_dropped():
    """Where both arrive the times agree; that one fails on a tenth of the seeds is a difference all the same."""
    second = np.linspace(1e3, 2e3, 200)
    first = np.where(np.arange(200) < 20, INF, second)
    found = compared({"first": first, "second": second})
    assert (found.both, found.first_only, found.second_only, found.neither) == (180, 0, 20, 0)
    assert found.ratio == 1
    assert found.verdict == "different"
    assert compared({"first": first[20:], "second": second[20:]}).verdict == "equivalent"


@pytest.mark.parametrize(("one", "other"), [(3, 12), (0, 6), (5, 5)])
def test_mcnemar_closed_form(one, other):
    """The exact p-value is the two-sided tail of a fair coin over the discordant seeds."""
    first = np.r_[np.full(one, 9.0), np.full(other, INF), np.full(20, 9.0), np.full(4, NAN)]
    second = np.r_[np.full(one, INF), np.full(other, 9.0), np.full(20, 9.0), np.full(4, INF)]
    found = compared({"first": first, "second": second})
    tail = sum(math.comb(one + other, k) for k in range(min(one, other) + 1)) / 2 ** (one + other)
    assert found.p_success == pytest.approx(min(1, 2 * tail))
    assert (found.both, found.first_only, found.second_only, found.neither) == (20, one, other, 4)


def test_too_few_arrivals_for_a_ratio():
    found = compared({"first": [10, INF, INF], "second": [10, INF, INF]})
    assert np.isnan([found.ratio, found.low, found.high]).all()
    assert found.verdict == "inconclusive"


def test_coarse_times_widen_the_interval():
    """By half a block to a whole one on either side, relative to the second method's median time."""
    times = {name: values / 1e4 for name, values in scattered(200, 7, 0.01).items()}
    fine, coarse = (compared(times, check_every=every) for every in (1.0, 9.0))
    blocks = np.array([fine.low - coarse.low, coarse.high - fine.high]) * np.median(times["second"]) / (9 - 1)
    assert np.all((blocks > 0.499) & (blocks < 1.001))
    assert coarse.ratio == fine.ratio


@pytest.mark.parametrize("scatter", [0.0, 40.0])
def test_looking_every_twenty_steps_makes_no_difference(scatter):
    """True times 101 and 100 are seen at 120 and 100: one per cent must not be called different within five."""
    second = 100 + np.random.default_rng(8).uniform(-scatter, 0, 400)
    seen = {"first": np.ceil(1.01 * second / 20) * 20, "second": np.ceil(second / 20) * 20}
    found = compared(seen, check_every=20.0)
    assert found.low <= 1.01 <= found.high
    assert found.verdict != "different"


def test_a_level_to_which_a_method_was_not_run_is_not_compared():
    """Nothing is known there: neither that the method fails nor that it differs."""
    hit = {"first": np.full(200, NAN), "second": np.linspace(1e3, 2e3, 200)}
    with pytest.raises(ValueError, match="level"):
        compared(hit, tolerance={"first": 0.1, "second": 1e-5})


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda runs: stats.time_to(runs, 1e-3), "level=0.001: the levels are 0.1, 1e-05"),
        (lambda runs: stats.time_to(runs, 0.1).quantile([1.5]), "q=.*fractions from 0 to 1"),
        (lambda runs: stats.paired_times(runs, "first", "third", 0.1), "first, third.*dimension variant"),
        (lambda runs: stats.paired_times(runs.isel(variant=0), "first", "second", 0.1), "dimension variant"),
        (lambda runs: stats.paired_times(runs.expand_dims(scale=2), "first", "second", 0.1), "axes .*scale.*one point"),
    ],
)
def test_bad_questions_are_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call(dataset({"first": [1.0, 2], "second": [2.0, 3]}))


def test_one_bootstrap_resamples_rows_and_what_is_in_them():
    """Rows of equal starts are resampled as rows; unequal ones add the variance of a mean of so many starts."""
    rows = np.random.default_rng(1).normal(size=30)
    means = stats.resampled_means(rows, 500)
    np.testing.assert_allclose(stats.resampled_means(np.repeat(rows[:, None], 3, axis=1), 500), means, rtol=1e-12)
    np.testing.assert_allclose(means.std(), rows.std() / 30**0.5, rtol=0.1)
    apart = np.broadcast_to([-1.0, 0.0, 1.0], (30, 3))
    np.testing.assert_allclose(stats.resampled_means(apart, 500).std(), (2 / 3 / 90) ** 0.5, rtol=0.1)
