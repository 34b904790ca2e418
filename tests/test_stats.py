"""Intervals and verdicts against closed forms, hand computations, SciPy and data sets of known truth."""

import math
import re

import numpy as np
import pytest
import scipy.stats
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


@pytest.mark.parametrize("ending", ["cut off", "failed"])
def test_survival_agrees_with_scipy(ending):
    """Ties among arrivals, and between arrivals and censorings, at every point of a grid and each on its own."""
    rng = np.random.default_rng(6)
    hit = rng.integers(1, 40, (3, 2, 50)).astype(float)
    steps = np.where(rng.random(hit.shape) < 0.4, hit, rng.integers(1, 40, hit.shape))
    hit = np.where(rng.random(hit.shape) < 0.3, {"cut off": NAN, "failed": INF}[ending], hit)
    dims = ("first", "second", "seed")
    found = stats.Times(xr.DataArray(hit, dims=dims), xr.DataArray(steps, dims=dims))
    survival, levels = found.survival(), [0.05, 0.3, 0.5, 0.7]
    for place in np.ndindex(3, 2):
        lost = np.where(np.isinf(hit[place]), 1e9, steps[place])[~np.isfinite(hit[place])]
        sample = scipy.stats.CensoredData(hit[place][np.isfinite(hit[place])], right=lost)
        expected = scipy.stats.ecdf(sample)
        np.testing.assert_allclose(survival[place], expected.sf.evaluate(survival.time.values), atol=1e-14)
        arrived, times = expected.cdf.probabilities, expected.cdf.quantiles
        first = [min(times[(arrived >= q) & np.isin(times, hit[place])], default=INF) for q in levels]
        np.testing.assert_array_equal(found.quantile(levels)[place], first)


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
    expected = scipy.stats.binomtest(successes, count).proportion_ci(method="wilson")
    found = stats.wilson(np.full((2, 3), successes), count)
    np.testing.assert_array_equal(found, np.full((2, 2, 3), np.reshape(expected, (2, 1, 1))))


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
        (lambda runs: stats.wilson([3, 11], 10), "successes=.*11.* of 10: needs numbers from 0"),
        (lambda runs: stats.wilson(-1, 10), "successes=-1 of 10"),
    ],
)
def test_bad_questions_are_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call(dataset({"first": [1.0, 2], "second": [2.0, 3]}))


LAWS = {
    "normal": (lambda rng, size: rng.normal(size=size), 0.0),
    "exponential": (lambda rng, size: rng.exponential(size=size), 1.0),
    "lognormal": (lambda rng, size: rng.lognormal(size=size), math.exp(0.5)),
}
COUNTS = (2, 3, 5, 8, 20)


def coverage(interval, law: str, count: int, samples: int = 1500) -> tuple[float, float]:
    """Return how often an interval of so many numbers holds the mean of their law, and lies below it."""
    draw, mean = LAWS[law]
    ends = [interval(values) for values in draw(np.random.default_rng(count), (samples, count))]
    low, high = np.transpose(ends)[-2:]
    return np.mean((low <= mean) & (mean <= high)), np.mean(high < mean)


def percentile_bootstrap(values: np.ndarray) -> np.ndarray:
    """Return what many programs call the 95 % interval of a mean."""
    chosen = np.random.default_rng(0).integers(len(values), size=(500, len(values)))
    return np.quantile(values[chosen].mean(axis=1), [0.025, 0.975])


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("law", LAWS)
def test_intervals_of_few_numbers_cover(law, count):
    """At least 93 %, less two standard errors of the simulation; and a mean on its bound lies beyond it seldom."""
    covered, below = coverage(stats.mean_interval, law, count)
    noise = 2 * (0.93 * 0.07 / 1500) ** 0.5
    assert covered >= 0.93 - noise
    assert below <= (0.07 if law == "lognormal" else 0.05) + noise


@pytest.mark.parametrize(("count", "most"), [(2, 0.55), (3, 0.80), (5, 0.90)])
def test_the_percentile_bootstrap_does_not_cover(count, most):
    """The control: what the test above refuses, already for normal numbers."""
    assert coverage(percentile_bootstrap, "normal", count, 300)[0] < most


def test_a_mean_interval_is_students_where_nothing_is_skewed():
    """At α = 0.05·n/(n + 6), which is the usual 0.05 for many numbers; mirrored numbers have the mirrored interval."""
    for values in (np.array([1.0, 2.0]), np.array([0.0, 1.0, 2.0]), np.array([-3.0, -1.0, 1.0, 3.0])):
        count = len(values)
        half = scipy.stats.t.ppf(1 - 0.025 * count / (count + 6), count - 1) * values.std(ddof=1) / count**0.5
        np.testing.assert_allclose(stats.mean_interval(values), values.mean() + np.array([0, -half, half]))
    skewed = np.random.default_rng(0).exponential(size=9)
    mean, low, high = stats.mean_interval(skewed)
    np.testing.assert_allclose(stats.mean_interval(-skewed), [-mean, -high, -low])
    assert high - mean > 1.2 * (mean - low)
    many = np.random.default_rng(1).normal(size=4000)
    np.testing.assert_allclose(np.diff(stats.mean_interval(many)[1:]), 2 * 1.96 * many.std() / 4000**0.5, rtol=0.02)


@pytest.mark.parametrize("values", [[3.0], [1.0, np.inf], [1.0, np.nan, 2.0]])
def test_what_gives_no_interval(values):
    assert np.isnan(stats.mean_interval(np.array(values))[1:]).all()


def test_equal_numbers_are_certain():
    assert stats.mean_interval(np.full(4, 0.3)) == (0.3, 0.3, 0.3)


def test_the_splits_are_what_is_independent():
    """Starts within a split do not narrow its interval; one split has none, and an error of zero no ratio."""
    rows = np.random.default_rng(1).normal(size=(5, 1))
    one = stats.paired_errors(np.exp(rows), np.ones((5, 1)))
    assert stats.paired_errors(np.exp(np.repeat(rows, 30, axis=1)), np.ones((5, 30)))[:3] == pytest.approx(one[:3])
    assert (
        stats.paired_errors(np.exp(rows[:1]), np.ones((1, 1))).why
        == "one of the splits gives no interval: take at least 5"
    )
    assert "an error is zero" in stats.paired_errors(np.ones((5, 1)), np.zeros((5, 1))).why


@pytest.mark.parametrize("count", [5, 10, 72])
def test_undecided_arrivals_say_how_many_seeds_decide(count):
    """All agree: Wilson's upper end z²/(n + z²) is at most 5 % from 19·z² = 73 seeds on, and not at 72."""
    found = compared(scattered(count, 5, 0.0))
    assert found.verdict == "inconclusive"
    assert f"on none of {count} starts only one arrived" in found.why
    assert "about 73 seeds decide at this rate" in found.why
    assert "interval holds" not in found.why
    assert compared(scattered(73, 5, 0.0)).verdict == "equivalent"


def test_undecided_times_say_how_many_seeds_decide():
    """Ratios that scatter by ±25 % around 1.01: as many seeds as it says decide, a tenth fewer do not."""

    def scattering(count: int) -> stats.PairedTimes:
        sides = np.resize([-0.25, 0.25], count)
        return compared({"first": 1e6 * np.exp(np.log(1.01) + sides), "second": np.full(count, 1e6)})

    found = scattering(80)
    assert found.verdict == "inconclusive"
    needed = int(re.search(r"the interval holds 1.05: about (\d+) seeds decide if they scatter", found.why)[1])
    assert needed == pytest.approx((1.96 * 0.25 / np.log(1.05 / 1.01)) ** 2, rel=0.1)
    assert [scattering(count).verdict for count in (2 * round(0.45 * needed), needed)] == ["inconclusive", "equivalent"]


@pytest.mark.parametrize(
    ("hit", "options", "words"),
    [
        ({"first": [NAN] * 9, "second": [NAN] * 9}, {}, "^no start arrived with either$"),
        ({"first": [INF] * 9, "second": [NAN] * 9}, {}, "^no start arrived with either$"),
        ({"first": [5.0] + [NAN] * 79, "second": [7.0] + [NAN] * 79}, {}, "^both arrived on 1 start, and"),
        ({"first": [9.0] * 80, "second": [9.0] * 80}, {"check_every": 5.0}, "^the times are too coarse .*check_every"),
        ({"first": [105.0] * 80, "second": [100.0] * 80}, {"check_every": 0.1}, "^the times are too coarse"),
        (
            {"first": [9.0] * 76 + [NAN] * 4, "second": [9.0] * 80},
            {"check_every": 0.1},
            "^on 4 of 80 starts only one arrived",
        ),
    ],
)
def test_undecided_pairs_say_why(hit, options, words):
    found = compared(hit, **options)
    assert found.verdict == "inconclusive"
    assert re.search(words, found.why)


def test_a_decided_pair_needs_no_reason():
    assert compared(scattered(200, 5, 0.01)).why == compared(scattered(200, 5, 0.01, 1.1)).why == ""


def test_variants_are_judged_at_the_coarsest_level_of_all():
    hit = {"plain": [10.0, 20], "balanced": [10.0, 20], "noisy": [5.0, 6]}
    runs = dataset(hit, tolerance={"plain": 1e-5, "balanced": 1e-5, "noisy": 0.1})
    assert stats.judged_levels(runs) == {0.1: ["plain", "balanced", "noisy"], 1e-5: ["plain", "balanced"]}
    assert stats.judged_levels(dataset(hit["plain"])) == {1e-5: [""]}
    assert stats.judged_levels(dataset(hit["plain"], tolerance=NAN)) == {1e-5: [""]}


def test_variants_are_judged_where_all_were_timed():
    """One that was run to 0.02 has no place on the other's ladder, which is no failure: both met 0.1."""
    hit = {"coarse": [[4.0, 9.0, NAN], [5.0, NAN, NAN]], "fine": [[3.0, NAN, 20.0], [6.0, NAN, NAN]]}
    steps = {"coarse": [9, 50], "fine": [20, 50]}
    runs = xr.Dataset(
        {
            "hit": (("variant", "seed", "level"), list(hit.values())),
            "steps": (("variant", "seed"), list(steps.values())),
            "tolerance": ("variant", [0.02, 1e-3]),
        },
        {"variant": list(hit), "level": [0.1, 0.02, 1e-3]},
    )
    assert stats.judged_levels(runs) == {0.1: ["coarse", "fine"], 1e-3: ["fine"]}
    cut_off = runs.assign(hit=runs.hit.where(runs.level > 0.05))  # nobody went on: then nothing is known to be left out
    assert list(stats.judged_levels(cut_off))[0] == 0.02
