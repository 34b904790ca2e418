"""Phase diagrams and their thresholds."""

import jax
import numpy as np
import pytest
import scipy.special
import scipy.stats

import jaxfact as jf
from jaxfact import figures
from jaxfact.jobs.phase import threshold


def test_threshold_covers_the_truth_as_often_as_it_says():
    # 95 % intervals of 400 simulated curves: fewer than 360 hits has probability below 1e-4 at 95 %, and a 90 %
    # interval would have 40 misses on average.
    rng, x, truth = np.random.default_rng(0), np.geomspace(0.1, 1, 6), 0.33
    chance = scipy.special.expit((np.log(x) - np.log(truth)) / 0.2)
    fits = [threshold(x, rng.random((6, 80)) < chance[:, None]) for _ in range(400)]
    covered = sum(fit.low <= truth <= fit.high for fit in fits)
    assert scipy.stats.binom(400, 0.95).cdf(covered) > 1e-4
    assert abs(np.median([fit.at for fit in fits]) / truth - 1) < 0.02
    assert sum(fit.low <= 1.3 * truth <= fit.high for fit in fits) < 200  # a wrong place is seen


def successes(counts: list[int], seeds: int) -> np.ndarray:
    """Return which of the seeds succeed at each place: the first so many."""
    return np.arange(seeds) < np.array(counts)[:, None]


@pytest.mark.parametrize(("seeds", "shared"), [(2, True), (3, True), (5, True), (8, False), (20, True)])
def test_threshold_of_few_or_shared_seeds_covers(seeds, shared):
    """A seed is one start at every place: where its successes go together, places are not so many observations.

    χ²'s deviance of 3.84, which takes them for that, covered 51 % at 3 and 61 % at 20 shared seeds on 16 places.
    """
    rng, x, truth = np.random.default_rng(seeds), np.geomspace(0.1, 1, 12), 0.33
    chance = scipy.special.expit((np.log(x) - np.log(truth)) / 0.2)[:, None]
    fits = [threshold(x, rng.random((1 if shared else 12, seeds)) < chance) for _ in range(40)]
    covered = sum(fit.low <= truth <= fit.high for fit in fits)
    assert scipy.stats.binom(40, 0.93).cdf(covered) > 0.01
    closed = np.mean([fit.low > 0 and fit.high < np.inf for fit in fits])
    assert closed == 0 if seeds == 2 else closed > 0.5 if seeds >= 5 else True


def test_threshold_of_one_seed_is_open():
    assert threshold(np.array([1.0, 2.0, 4.0]), successes([0, 1, 1], 1))[1:] == (0, np.inf)


def test_threshold_of_a_sudden_change_is_in_the_gap():
    at, low, high = threshold(np.array([1.0, 2.0, 4.0, 8.0]), successes([0, 0, 50, 50], 50))
    assert at == pytest.approx(8**0.5, rel=0.02)
    assert 1.8 < low < 2.2
    assert 3.6 < high < 4.4


def test_threshold_falls_as_well_as_rises():
    x, rising = np.array([1.0, 2.0, 4.0, 8.0]), successes([3, 20, 38, 40], 40)
    assert threshold(x, rising) == pytest.approx(threshold(x, ~rising), rel=1e-9)


@pytest.mark.parametrize("count", [0, 20])
def test_no_crossing_has_no_threshold(count):
    at, low, high = threshold(np.array([1.0, 2.0]), successes([count, count], 20))
    assert np.isnan(at)
    assert (low, high) == (0, np.inf)


@pytest.fixture(scope="module")
def diagram():
    problem = jf.Factorization(np.array([1.0, 0.7, 0.4]), shape=(12, 9))

    def experiment(step_size, scale):
        return jf.Run(problem, jf.starts.Gaussian(3, scale=scale), jf.methods.gradient_descent(step_size))

    sizes = np.array([0.4, 0.7, 0.9, 0.97, 1.04, 1.15, 1.6])
    options = {"seeds": 20, "max_steps": 4000, "tolerance": 1e-6}
    return jf.phase_diagram(experiment, axes={"step_size": sizes}, scale=[1e-3, 1e-2], **options)


def test_the_edge_of_stability_is_found(diagram):
    # No minimiser is stable above 1/σ₁, and from small starts all runs below it converge.
    assert np.all((diagram.threshold_low > 0.9) & (diagram.threshold_high < 1.1))
    assert np.all((diagram.threshold > 0.97) & (diagram.threshold < 1.04))
    assert np.all(diagram.converged.sel(step_size=0.4) == 1)
    assert np.all(diagram.diverged.sel(step_size=1.6) > 0.9)
    assert np.all(diagram.fitted == 0)


def test_the_figure_draws_every_cell(diagram):
    figure = figures.phase_diagram(diagram)
    mesh = figure.axes[0].collections[0]
    np.testing.assert_array_equal(np.ravel(mesh.get_array()), np.ravel(diagram.converged.values.T))
    assert figure.axes[0].get_xlabel() == r"step size $\eta\,\sigma_1$"
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == ["0.001", "0.01"]


def test_two_axes_are_needed():
    with pytest.raises(ValueError, match="a phase diagram has two"):
        jf.phase_diagram(lambda step_size: None, seeds=2, max_steps=10, tolerance=1e-3, step_size=[0.1])


def test_the_first_axis_is_positive():
    """Also where it is called like an option."""
    options = {"max_steps": 10, "tolerance": 1e-3, "seeds": 2}
    with pytest.raises(ValueError, match="^a=.* fitted in its logarithm"):
        jf.phase_diagram(lambda a, b: None, a=[0.0, 1.0], b=[1.0], **options)
    with pytest.raises(ValueError, match="^seeds=.* fitted in its logarithm"):
        jf.phase_diagram(lambda seeds, store: None, axes={"seeds": [0.0, 1.0], "store": [1.0]}, **options)


def test_more_entries_complete_higher_ranks():
    """A padded rank is completed as that rank; without its mask all would be as hard as the largest."""

    def completed(key, fraction, rank):
        masked, drawn = jax.random.split(key)
        truth = jf.random_target(drawn, (30, 31), jf.data.singular_values(rank, 1.0, padded_to=3))
        problem = jf.Completion.of(truth, fraction, masked)
        return jf.Run(problem, jf.starts.Gaussian(rank, norm=1e-2, padded_to=3), jf.methods.gradient_descent(0.25))

    diagram = jf.phase_diagram(
        completed, seeds=16, max_steps=1500, tolerance=1e-3, fraction=[0.04, 0.2, 0.35, 0.5, 0.8], rank=[1, 3]
    )
    assert np.all(diagram.converged.sel(fraction=0.8) == 1)
    assert np.all(diagram.converged.sel(fraction=0.04) == 0)
    assert float(diagram.threshold.sel(rank=1)) < float(diagram.threshold_low.sel(rank=3))
    assert float(diagram.fitted.max()) > 0
