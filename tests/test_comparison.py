"""The main job's own arithmetic: predicted floors, predicted drift, the unbalanced start, and its notes."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

import jaxfact as jf
from jaxfact import data, measures
from jaxfact.jobs import compared as table
from jaxfact.jobs import comparison
from jaxfact.jobs.settings import ComparisonSettings
from jaxfact.reports.comparison import as_json

EXACT = jf.Factorization([1, 0.7, 0.4], shape=(40, 10))
FULL = jf.Factorization(np.concatenate([[1, 0.8, 0.5], np.linspace(0.3, 0.05, 12)]), shape=(25, 15))


@pytest.mark.parametrize("problem", [EXACT, FULL], ids=["exact rank", "full rank"])
@pytest.mark.parametrize("step_size", [0.1, 0.7])
def test_predicted_floor(problem, step_size):
    """The stationary distance under noise matches the linear prediction within 3 %, tail and finite step included."""
    settings = ComparisonSettings(width=3, step_size=step_size, noise=1e-4)
    runs = jf.sweep(
        lambda step_size: jf.Run(problem, jf.starts.Spectral(3), jf.methods.perturbed(step_size, settings.noise)),
        step_size=[step_size],
        seeds=64,
        max_steps=2_000,
        tolerance=None,
        every=list(range(1_000, 2_001, 50)),
        record=[measures.distance],
    )
    measured = float(np.sqrt((runs.distance_path**2).mean()))
    assert table.predicted_floor(problem, settings) == pytest.approx(measured, rel=0.03)


def test_floor_reduces_to_the_known_formula():
    """For exact rank and a small step: √(ν²(m+n)d/(2η)), less the d² entries that both factors share."""
    settings = ComparisonSettings(width=3, step_size=1e-3, noise=1e-4)
    expected = 1e-4 * np.sqrt((50 * 3 - 9) / (2 * 1e-3)) / np.linalg.norm([1, 0.7, 0.4])
    assert table.predicted_floor(EXACT, settings) == pytest.approx(expected, rel=2e-3)
    assert table.predicted_floor(EXACT, ComparisonSettings(width=3, noise=0)) == 0


def compared(problem, step_size=0.5, scale=1e-3, weight=0.125, noise=1e-5, **options):
    """Compare with one number of seeds, one budget and hyperparameters as arrays: then all share compiled programs."""
    numbers = {"step_size": step_size, "scale": scale, "weight": weight, "noise": noise}
    arrays = {name: jnp.asarray(number, float) for name, number in numbers.items()}
    return comparison.compare(problem, ComparisonSettings(width=3, seeds=100, max_steps=6_000, **arrays, **options))


@pytest.fixture(scope="module")
def with_noise():
    return compared(EXACT, noise=1e-3, scale=1e-4)


def test_predicted_imbalance(with_noise):
    """The noisy runs' final imbalance is the predicted random walk and drift; plain ones stay within their bound."""
    rows = {row.method: row for row in with_noise.methods}
    noisy = rows["noisy"]
    assert noisy.imbalance == pytest.approx(noisy.predicted_imbalance, rel=0.15)
    plain = rows["plain"]
    assert plain.imbalance_start < plain.imbalance <= plain.predicted_imbalance
    assert rows["balanced"].imbalance < 1e-3 * plain.imbalance


def test_unbalanced_start_is_where_the_regulariser_helps():
    """From ‖U‖/‖V‖ = 25 plain descent keeps its imbalance and is slower; the pair is not equivalent."""
    found = compared(EXACT, unbalanced=25, scale=0.1, step_size=0.1, weight=0.125)
    first = found.runs.isel(step=0)
    assert float(first.imbalance_path.median()) > 0.5
    ratio = found.pairs["balanced"][1]
    assert ratio.verdict == "different"
    assert ratio.high < 0.95
    even = compared(EXACT, scale=1e-3, step_size=0.1).pairs["balanced"][1]
    assert even.verdict == "equivalent"


def test_noisy_is_judged_above_its_floor(with_noise):
    found = with_noise
    level, pair = found.pairs["noisy"]
    row = next(row for row in found.methods if row.method == "noisy")
    assert row.floor < level
    assert level in (1e-1, 1e-2)
    assert row.floor > level / 10
    assert pair.both == 100
    assert row.outcomes["converged"][0] == 1
    assert row.reached[1e-5] is None
    assert any("floor" in note or "stalls noisy" in note for note in found.notes)


def test_too_large_steps_end_as_values():
    """Beyond the edge runs cycle or diverge; nothing stops, and failures count as never."""
    found = compared(EXACT, step_size=1.1, weight=0.01, noise=0, scale=0.01)
    plain = next(row for row in found.methods if row.method == "plain")
    assert plain.outcomes["cycle"][0] > 0.5
    assert "converged" not in plain.outcomes
    assert plain.times[0.5] == np.inf
    # `float`, as settings from the command line are plain numbers, not arrays.
    printed = json.dumps(as_json(found), allow_nan=False, default=float)
    assert json.loads(printed)["methods"][0]["times"]["0.5"] is None
    assert np.isnan(found.pairs["balanced"][1].ratio)
    assert found.pairs["balanced"][1].verdict == "inconclusive"
    assert any("no minimiser is stable" in note for note in found.notes)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"width": 20}, "above min"),
        ({"weight": 0.5}, "own edge"),
        ({"width": 5}, "above the rank 3"),
    ],
)
def test_notes(options, words):
    settings = ComparisonSettings(**{"width": 3, **options})
    assert any(words in note for note in comparison.notes(EXACT, settings))


def test_a_tie_is_noted():
    assert any("not unique" in note for note in comparison.notes(jf.Factorization(np.eye(5)), ComparisonSettings()))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"noise": 1.0}, "lower the noise"),
        ({"tolerance": 1e-17}, "rounding floor"),
    ],
)
def test_settings_that_cannot_work(options, words):
    with pytest.raises(ValueError, match=words):
        compared(EXACT, **options)


def test_zero_target_is_refused_here_only():
    with pytest.raises(ValueError, match="non-zero"):
        compared(jf.Factorization(np.zeros((4, 4))))


def test_default_width_has_a_gap():
    """The default width cuts the elevation matrix where its spectrum falls by a sixth."""
    values = np.asarray(jf.Factorization(data.load("elevation")).singular_values)
    width = ComparisonSettings().width
    assert values[width - 1] / values[width] > 1.15


def test_a_fourth_method_is_a_row(monkeypatch):
    """It is run, summarised and paired with the first; without weight and noise it takes no part in completion."""
    row = table.Compared("scaled", lambda s: jf.methods.scaled_gd(s.step_size, damping=1e-3), None)
    monkeypatch.setattr(table, "COMPARED", (*table.COMPARED, row))
    found = jf.compare(
        jf.Factorization([1, 0.5], shape=(5, 4)), ComparisonSettings(width=2, seeds=4, scale=0.1, max_steps=300)
    )
    assert [summary.method for summary in found.methods] == ["plain", "balanced", "noisy", "scaled"]
    assert list(found.pairs) == ["balanced", "noisy", "scaled"]
    assert found.methods[-1].prediction == "≤"
    assert jf.report(found).title.endswith("plain, balanced, noisy, scaled")
    assert list(table.completing()) == ["plain", "balanced", "noisy"]


@pytest.mark.parametrize(
    ("problem", "words"),
    [
        (np.eye(3), r"problem=ndarray: needs a problem; pass jf\.Factorization\(matrix\); jf\.complete"),
        (
            jf.Completion.from_matrix(np.where(np.eye(3) > 0, np.nan, 1.0)),
            r"problem=Completion: needs a known truth; jf\.complete",
        ),
    ],
)
def test_what_cannot_be_compared_names_what_can_be_done(problem, words):
    with pytest.raises(ValueError, match=words):
        jf.compare(problem)
