"""The main job's own arithmetic: predicted floors, predicted drift, the unbalanced start, and its notes."""

import dataclasses
import json
import re

import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

import jaxfact as jf
from jaxfact import data, measures
from jaxfact.jobs import compared as table
from jaxfact.jobs import comparison, remarks
from jaxfact.jobs.settings import ComparisonSettings
from jaxfact.reports import comparison as reports
from jaxfact.reports.comparison import as_json
from jaxfact.results import stats

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


def test_methods_are_known_by_name(with_noise):
    """In whatever order they were run: noise alone is compressed in law, and each can be followed again."""
    assert with_noise.runs.variant.values.tolist() == ["plain", "balanced", "noisy"]
    kinds = "plain exactly, balanced exactly, noisy exactly in law"
    assert f"runs compressed to the rows that move: {kinds}" in with_noise.notes
    backwards = with_noise.runs.sortby("variant", ascending=False)
    alone = backwards.sel(variant="balanced")
    for runs, name in ((with_noise.runs, "noisy"), (backwards, "plain"), (alone, "balanced")):
        followed = jf.replay(runs, seed=3, variant=name)
        assert followed.run.outcome == with_noise.runs.sel(variant=name, seed=3).outcome
        assert followed.steps[-1] == with_noise.runs.sel(variant=name, seed=3).steps


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
    ratio = found.judged.pairs["balanced"]
    assert ratio.verdict == "different"
    assert ratio.high < 0.95
    even = compared(EXACT, scale=1e-3, step_size=0.1).judged.pairs["balanced"]
    assert even.verdict == "equivalent"


def test_noisy_is_judged_above_its_floor(with_noise):
    found = with_noise
    level, pair = found.judged.level, found.judged.pairs["noisy"]
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
    assert found.judged.times["plain"][0.5] == np.inf
    # `float`, as settings from the command line are plain numbers, not arrays.
    printed = json.dumps(as_json(found), allow_nan=False, default=float)
    assert json.loads(printed)["judged"]["times"]["plain"]["0.5"] is None
    assert np.isnan(found.judged.pairs["balanced"].ratio)
    assert found.judged.pairs["balanced"].verdict == "inconclusive"
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
    assert any(words in note for note in remarks.notes(EXACT, settings))


def test_a_tie_is_noted():
    assert any("not unique" in note for note in remarks.notes(jf.Factorization(np.eye(5)), ComparisonSettings()))


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
    width = ComparisonSettings().columns
    assert values[width - 1] / values[width] > 1.15


def test_a_fourth_method_is_a_row(monkeypatch):
    """It is run, summarised and paired with the first; without weight and noise it takes no part in completion."""
    row = table.Compared("scaled", lambda s: jf.methods.scaled_gd(s.step_size, damping=1e-3), None)
    monkeypatch.setattr(table, "COMPARED", (*table.COMPARED, row))
    found = jf.compare(
        jf.Factorization([1, 0.5], shape=(5, 4)), ComparisonSettings(width=2, seeds=4, scale=0.1, max_steps=300)
    )
    assert [summary.method for summary in found.methods] == ["plain", "balanced", "noisy", "scaled"]
    assert list(found.judged.pairs) == ["balanced", "noisy", "scaled"]
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


def test_methods_are_judged_at_the_level_that_all_can_reach(with_noise):
    """And those that went on apart from that; in the tables no row of one level stands beside that of another."""
    judged, (finer,) = with_noise.judged, with_noise.finer
    tolerances = {row.method: row.tolerance for row in with_noise.methods}
    assert judged.level == max(tolerances.values()) > finer.level == min(tolerances.values())
    assert list(judged.times) == ["plain", "balanced", "noisy"]
    assert list(finer.times) == ["plain", "balanced"]
    for judgement in (judged, finer):
        for name, times in judgement.times.items():
            hit = with_noise.runs.hit.sel({"variant": name, "level": judgement.level}).values
            assert list(times.values()) == np.quantile(hit, list(times), method="inverted_cdf").tolist()
        assert list(judgement.pairs) == list(judgement.times)[1:]
    tables = reports.tables(with_noise)
    arrivals = [(title, [row[0] for row in rows]) for title, _, rows in tables if "had arrived" in title]
    assert [names for _, names in arrivals] == [list(judged.times), list(finer.times)]
    assert f"at distance {judged.level:g}, which every method can reach" in arrivals[0][0]
    assert f"at distance {finer.level:g}, to which only plain and balanced went on" in arrivals[1][0]
    shares = [columns[1:] for title, columns, _ in tables if "reached each distance" in title]
    assert [float(level) for levels in shares for level in levels] == with_noise.runs.level.values.tolist()
    assert float(shares[0][-1]) == judged.level
    lines = reports.paired_lines(with_noise)
    for level, line in zip([judged.level, judged.level, finer.level], lines, strict=True):
        assert f"to distance {level:g}: time ratio" in line


def test_survival_is_drawn_at_that_level(with_noise):
    shared, finer = jf.figures.survival(with_noise.runs).axes
    assert [axes.get_ylabel() for axes in (shared, finer)] == [
        f"fraction not yet at {level:g}" for level in (with_noise.judged.level, with_noise.finer[0].level)
    ]
    assert [len(axes.lines) for axes in (shared, finer)] == [3, 2]
    noisy = with_noise.runs.hit.sel({"variant": "noisy", "level": with_noise.judged.level}).values
    steps, left = shared.lines[2].get_xdata(), shared.lines[2].get_ydata()
    np.testing.assert_allclose(left, [np.mean(noisy > step) for step in steps], atol=1e-12)


@pytest.mark.parametrize(
    ("q", "time", "failed", "said"),
    [
        (0.5, 12.0, 0.4, "12"),
        (0.5, np.inf, 0.0, "> 100"),  # all were cut off
        (0.5, np.inf, 0.5, "> 100"),  # half failed, and the other half may yet arrive
        (0.5, np.inf, 0.51, "never"),
        (0.05, np.inf, 0.9, "> 100"),
        (0.95, np.inf, 0.1, "never"),
        (0.95, np.inf, 1.0, "never"),
    ],
)
def test_cut_off_is_not_never(q, time, failed, said):
    assert reports._steps(q, time, failed, 100) == said


def cut(shares: dict[str, float]):
    """Return runs of which these shares were cut off by their budget."""
    outcome = [np.where(np.arange(20) < 20 * share, "budget", "converged") for share in shares.values()]
    return xr.Dataset({"outcome": (("variant", "seed"), outcome)}, {"variant": list(shares)})


def test_budgets_that_cut_off_say_what_to_raise():
    """To twice what the linear rates predict: growth to √σ_d, then the gap's rate; and never below twice the budget."""
    settings = ComparisonSettings(width=2, step_size=0.5, scale=1e-3, tolerance=1e-5, max_steps=100)
    truth = jf.Factorization([1, 0.2], shape=(9, 8))
    growth = np.log(0.2**0.5 / 1e-3) / np.log(1.1)
    settling = np.log(1e5) / -np.log(0.9)
    assert remarks.advised_steps(truth, settings) == pytest.approx(2 * (growth + settling))
    (line,) = remarks.budget_lines(cut({"plain": 1, "noisy": 1}), truth, settings)
    assert line == "the budget of 100 steps cut off every run, which have not failed: raise max_steps to about 350"
    (spare,) = remarks.budget_lines(cut({"plain": 1}), jf.Factorization([1.0], shape=(9, 8)), settings)
    assert spare.endswith("start smaller (scale), as columns beyond the rank shrink slowly, or raise max_steps")
    (some,) = remarks.budget_lines(cut({"plain": 0, "noisy": 0.25}), truth, settings)
    assert "cut off 25 % of noisy, which" in some
    assert remarks.budget_lines(cut({"plain": 0, "noisy": 0}), truth, settings) == []
    large = dataclasses.replace(settings, max_steps=4000)
    assert "about 8000" in remarks.budget_lines(cut({"plain": 1}), truth, large)[0]
    (wild,) = remarks.budget_lines(cut({"plain": 1}), truth, dataclasses.replace(settings, step_size=1.1))
    assert wild.endswith("lower step_size")
    tied = remarks.advised_steps(jf.Factorization(np.ones(4), shape=(9, 8)), settings)
    assert np.isfinite(tied)


SOON_CUT_OFF = jf.Factorization([1, 0.5], shape=(6, 5)), ComparisonSettings(seeds=4, max_steps=20)


@pytest.fixture(scope="module")
def cut_off():
    return jf.compare(*SOON_CUT_OFF)


def test_the_advised_budget_is_enough(cut_off):
    """Where all were cut off, all arrive with the budget that was named, at several steps; it is that of `remarks`."""
    problem, short = SOON_CUT_OFF
    named = int(re.search(r"cut off every run.* to about (\d+)$", cut_off.notes[0])[1])
    assert named == pytest.approx(remarks.advised_steps(problem, cut_off.settings), rel=0.1)
    slower = dataclasses.replace(short, step_size=0.2)
    advised = remarks.advised_steps(problem, dataclasses.replace(slower, width=2, scale=cut_off.settings.scale))
    for settings, budget in ((short, named), (slower, advised)):
        enough = jf.compare(problem, dataclasses.replace(settings, max_steps=5 * int(budget // 5 + 1)))
        assert [row.outcomes["converged"][0] for row in enough.methods] == [1, 1, 1]


def test_a_usual_width_above_the_rank_is_lowered_and_said(cut_off):
    """Only where it was not given, and where it is above."""
    problem, found = SOON_CUT_OFF[0], cut_off
    assert found.settings.width == 2
    assert "width 2: the rank of the 6×5 matrix; the usual 4 would be above it" in found.notes
    assert "of width 2" in " ".join(reports.heading(found))
    assert "σ/σ₁: 1, 0.5" in reports.heading(found)[0]
    assert "…" not in reports.heading(found)[0]
    assert not any("over-parametrised" in note for note in found.notes)
    assert any("over-parametrised" in note for note in remarks.notes(problem, ComparisonSettings(width=4)))


@pytest.mark.parametrize(
    ("values", "said"),
    [([2.0], "rank 1, σ₁ = 2 (the unit)"), ([2.0, 1.0], "σ/σ₁: 1, 0.5"), (np.arange(9, 0, -1.0), "0.444, …")],
)
def test_the_spectrum_is_cut_only_where_there_is_more(with_noise, values, said):
    problem = jf.Factorization(values, shape=(12, 11))
    settings = ComparisonSettings(width=min(4, len(values)), scale=1e-3)
    line = reports.heading(dataclasses.replace(with_noise, problem=problem, truth=problem, settings=settings))[0]
    assert line.endswith(said)


@pytest.mark.parametrize("step_size", [1.2, 2.0, 3.0])
@pytest.mark.parametrize("shape", [(2, 2), (3, 3), (4, 2)])
def test_a_step_beyond_the_edge_is_not_blamed_on_the_noise(shape, step_size):
    """A square matrix has no entries beyond its rank: 0·inf of them must not spoil the floor."""
    problem = jf.Factorization(np.linspace(1, 0.5, min(shape)), shape=shape)
    floor = table.predicted_floor(problem, ComparisonSettings(width=2, step_size=step_size))
    assert floor == np.inf
    row = table.COMPARED[2]
    assert table.judged_level(row, 1e-5, floor) == 1e-5
    assert table.floor_notes(row, 1e-5, floor) == [
        "with this step size noisy has no stationary floor; it is run to the tolerance"
    ]


@pytest.mark.parametrize(
    ("measured", "rule", "predicted", "said"),
    [
        (2e-4, "≤", 0.71, "≤ 0.71 (loose)"),
        (0.1, "≤", 0.71, "≤ 0.71"),
        (0.0, "≤", 0.71, "≤ 0.71 (loose)"),
        (1e-9, "≈", 0.71, "≈ 0.71"),
        (0.1, "≈", np.nan, "–"),
        (0.1, "≤", np.inf, "–"),
        (np.inf, "≤", 0.71, "≤ 0.71"),
        (0.1, "→", 0.0, "→ 0"),
    ],
)
def test_loose_bounds_are_called_so_and_nothing_is_nan(with_noise, measured, rule, predicted, said):
    row = dataclasses.replace(with_noise.methods[0], imbalance=measured, prediction=rule, predicted_imbalance=predicted)
    cells = reports._imbalance_cells(row)
    assert cells[2] == said
    assert "nan" not in "".join(cells)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"verdict": "different", "ratio": 0.6, "low": 0.5, "high": 0.7},
            "not equivalent .*: 40 % fewer steps",
        ),
        ({"verdict": "different", "ratio": 3.0, "low": 2.5, "high": 3.5}, "200 % more steps"),
        ({"verdict": "different"}, "they do not arrive on the same starts"),
        ({"verdict": "inconclusive", "why": "a reason"}, r"\], inconclusive at 5 %: a reason \(both"),
        ({"both": 0, "verdict": "inconclusive", "why": "nobody did"}, "^nothing to compare, as nobody did$"),
    ],
)
def test_the_words_for_a_pair(changes, words):
    pair = stats.PairedTimes(1.0, 0.99, 1.01, 80, 0, 0, 0, 1.0, "equivalent", "")
    assert re.search(words, reports._compared("plain", "noisy", pair._replace(**changes)))
