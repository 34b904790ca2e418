"""Completion of a matrix whose truth is unknown: errors at a known noise level, baselines, splits, the page."""

import json
import re

import jax
import numpy as np
import pytest
from commands import assert_one_line

import jaxfact as jf
from jaxfact.choices import Centring
from jaxfact.jobs import parting
from jaxfact.problems.completion import Completion
from jaxfact.problems.entries import Observed
from jaxfact.problems.splits import TEST, TRAINING, VALIDATION, Part, Splits
from jaxfact.reports import pages
from jaxfact.reports import recovery as recovery_report
from jaxfact.results import stats

M, N, RANK = 40, 30, 2
NOISE, LEVEL = 0.1, 3.0
QUICK = jf.RecoverySettings(width=RANK, seeds=2, max_steps=600)
SPLITS = 5
EMPTY = 7

pytestmark = pytest.mark.filterwarnings("ignore:.*no observed entry")


def low_rank(noise: float, observed: float = 0.6, level: float = LEVEL, rank: int = RANK) -> np.ndarray:
    """Draw a matrix, of which the same entries are missing in all tests, so that they share one program."""
    generator = np.random.default_rng(0)
    matrix = level + generator.normal(size=(M, rank)) @ generator.normal(size=(rank, N))
    matrix = matrix + noise * generator.normal(size=(M, N))
    matrix[np.random.default_rng(1).random((M, N)) > observed] = np.nan
    if observed < 1:
        matrix[EMPTY] = np.nan
    return matrix


@pytest.fixture(scope="module")
def clean() -> jf.Recovery:
    return jf.complete(low_rank(NOISE), QUICK, centre=Centring.MEAN, splits=SPLITS)


@pytest.fixture(scope="module")
def noisy() -> jf.Recovery:
    return jf.complete(low_rank(1.0, level=0.0), QUICK, splits=SPLITS)


def parted(matrix: np.ndarray, settings: jf.RecoverySettings) -> tuple[Observed, list[np.ndarray]]:
    rows, columns = np.nonzero(~np.isnan(matrix))
    entries = Observed(rows, columns, matrix[rows, columns])
    return entries, [parting.parts_of_split(entries, settings, number) for number in range(SPLITS)]


def oracle() -> float:
    """Return the mean test error of least squares in the tangent space of the truth: to first order nothing is better.

    It fits dU Vᵀ + U dVᵀ, with the factors of the truth given, to the noise of the training entries.
    """
    truth, seen_matrix = low_rank(0.0, observed=1.0, level=0.0), low_rank(NOISE, level=0.0)
    left, values, right = np.linalg.svd(truth)
    U, V = left[:, :RANK] * values[:RANK], right[:RANK].T
    entries, drawn = parted(seen_matrix, QUICK)
    i, j = entries.rows, entries.columns
    design = np.hstack(
        [(np.eye(M)[i][:, :, None] * V[j][:, None, :]).reshape(len(i), -1)]
        + [(np.eye(N)[j][:, :, None] * U[i][:, None, :]).reshape(len(i), -1)]
    )
    noise, errors = entries.values - truth[i, j], []
    for parts in drawn:
        seen, held = parts == TRAINING, parts == TEST
        fitted = np.linalg.lstsq(design[seen], noise[seen])[0]
        errors.append(np.sqrt(np.mean((noise - design @ fitted)[held] ** 2)))
    return float(np.mean(errors))


def test_every_method_comes_down_to_the_noise():
    """As near to the noise as an oracle that knows the row and column spaces, and stopped early, so a little nearer."""
    found, best = jf.complete(low_rank(NOISE, level=0.0), QUICK, splits=SPLITS), oracle()
    assert NOISE < best < 1.5 * NOISE
    for row in found.methods:
        assert row.diverged == 0
        assert row.test[0] == pytest.approx(best, rel=0.05)
        assert row.test[1] <= row.test[0] <= row.test[2]
    assert {pair.verdict for (_, two), pair in found.pairs.items() if two == "plain"} == {"equivalent"}
    assert max(found.pairs["plain", name].high for name in found.baselines) < 0.2


def test_the_figure_draws_errors_and_baselines(clean):
    figure = jf.figures.recovery(clean)
    assert [axes.get_ylabel() for axes in figure.axes] == ["training misfit", "validation error", "test error"]
    tests = figure.axes[2]
    levels = [line.get_ydata()[0] for line in tests.lines if len(set(line.get_ydata())) == 1]
    assert levels == [mean for mean, *_ in clean.baselines.values()]
    assert {text.get_text() for text in tests.texts} == set(clean.baselines)


def test_baselines_are_those_of_numpy(clean):
    """Means, and biases by one ridge regression on indicators, the level unshrunk."""
    matrix = low_rank(NOISE)
    entries, drawn = parted(matrix, QUICK)
    found: dict[str, list[float]] = {"mean": [], "biases": []}
    for parts in drawn:
        seen, held = parts == TRAINING, parts == TEST
        y = entries.values
        design = np.hstack([np.eye(M)[entries.rows], np.eye(N)[entries.columns], np.ones((len(y), 1))])
        penalty = np.diag([parting.SHRINKAGE] * (M + N) + [0.0])
        ridge = np.linalg.solve(design[seen].T @ design[seen] + penalty, design[seen].T @ y[seen])
        for name, level in (("mean", np.full(len(y), y[seen].mean())), ("biases", design @ ridge)):
            found[name].append(np.sqrt(np.mean((y - level)[held] ** 2)))
    for name, errors in found.items():
        np.testing.assert_allclose(clean.baselines[name][0], np.mean(errors), rtol=1e-5)


def test_splits_are_disjoint_whole_and_fixed_by_the_seed():
    matrix = low_rank(NOISE)
    entries, drawn = parted(matrix, QUICK)
    count = len(entries.values)
    for parts in drawn:
        sizes = [int(np.sum(parts == part)) for part in (TRAINING, VALIDATION, TEST)]
        assert sum(sizes) == count
        np.testing.assert_allclose(np.array(sizes) / count, [0.7, 0.1, 0.2], atol=1 / count)
    assert len({parts.tobytes() for parts in drawn}) == SPLITS
    again = parted(matrix, QUICK)[1]
    other = parted(matrix, jf.RecoverySettings(base_seed=1))[1]
    assert all(np.array_equal(one, two) for one, two in zip(drawn, again, strict=True))
    assert not any(np.array_equal(one, two) for one, two in zip(drawn, other, strict=True))


def test_a_split_is_the_problem_of_its_training_entries():
    """In the shared layout: unit, loss, gradient, misfit and data of a `Completion`, and errors by NumPy."""
    matrix = low_rank(NOISE)
    entries, drawn = parted(matrix, QUICK)
    every = Splits(entries, (M, N), [Part(entries.values - k, parts) for k, parts in enumerate(drawn)], float)
    for number, parts in enumerate(drawn):
        seen, values = parts == TRAINING, entries.values - number
        plain = Completion(entries.rows[seen], entries.columns[seen], values[seen], (M, N))
        problem = every.at(number)
        factors = jf.starts.Gaussian(3, scale=0.3).draw(jax.random.key(number), plain)
        for name in ("loss", "misfit"):
            np.testing.assert_allclose(getattr(problem, name)(factors), getattr(plain, name)(factors), rtol=1e-12)
        for one, two in zip(problem.gradient(factors), plain.gradient(factors), strict=True):
            np.testing.assert_allclose(one, two, atol=1e-13)
        np.testing.assert_allclose(problem.unit, plain.unit, rtol=1e-12)
        np.testing.assert_allclose(problem.back_projection(), plain.back_projection(), atol=1e-13)
        assert all(np.allclose(one, two) for one, two in zip(problem.entries, plain.entries, strict=True))
        predicted = np.asarray(plain.unit * factors.product)[entries.rows, entries.columns]
        for part in (VALIDATION, TEST):
            error = np.sqrt(np.mean((predicted - values)[parts == part] ** 2))
            np.testing.assert_allclose(problem.error(part, factors), error, rtol=1e-12)


def test_plain_descent_is_the_usual_one(clean):
    """The first split run by itself, as a `Completion` with `HeldOut` records and the plain method."""
    matrix = low_rank(NOISE)
    entries, (parts, *_) = parted(matrix, QUICK)
    seen, held = parts == TRAINING, parts == TEST
    mean = entries.values[seen].mean()
    problem = Completion(entries.rows[seen], entries.columns[seen], entries.values[seen] - mean, (M, N))
    record = {"test": jf.measures.HeldOut(entries.rows[held], entries.columns[held], entries.values[held] - mean)}
    settings = clean.settings
    runs = jf.sweep(
        lambda: jf.Run(
            problem, jf.starts.Gaussian(RANK, scale=settings.scale), jf.methods.gradient_descent(settings.step_size)
        ),
        seeds=2,
        max_steps=600,
        tolerance=None,
        record=record,
        every=clean.runs.step.values,
    )
    ours = clean.runs.sel({"variant": "plain", "split": 0})
    np.testing.assert_allclose(ours.test_path.values, runs.test_path.values, rtol=1e-6)


def test_early_stopping_helps_where_the_noise_is_large(noisy):
    """The noise is as large as the matrix: fitting on costs test error; the step is chosen by validation alone."""
    for row in noisy.methods:
        assert row.test[0] < row.test_at_end[0]
        assert row.best_step[1] < QUICK.max_steps
    runs = noisy.runs.sel({"variant": "plain"})
    places = runs.validation_path.argmin("step")
    np.testing.assert_array_equal(stats.best_over_time(runs, "validation").step, runs.step[places])
    assert noisy.methods[0].test[0] == pytest.approx(float(runs.test_path.isel(step=places).mean()))


def test_noise_alone_gains_nothing():
    """A matrix of nothing but noise: no method beats its mean, and the page says so."""
    found = jf.complete(low_rank(1.0, rank=0), QUICK, centre=Centring.MEAN, splits=SPLITS)
    assert found.pairs["plain", "mean"].ratio > 0.98
    assert any(note.startswith(("factors gain little", "factors gain nothing")) for note in found.notes)


def test_an_unknown_centring_is_refused():
    with pytest.raises(ValueError, match=r"^centre=median: needs one of none, mean, biases; leave it out"):
        jf.complete(low_rank(NOISE), QUICK, centre="median", splits=1)


@pytest.mark.parametrize(("centre", "low", "high"), [(Centring.NONE, 0, 0), (Centring.BIASES, 0.5, 6)])
def test_what_was_removed_is_said_and_added_back(centre, low, high):
    """The error stays that in the user's level: the same at the start as the level's own."""
    matrix = low_rank(NOISE)
    found = jf.complete(matrix, QUICK, centre=centre, splits=SPLITS)
    entries, drawn = parted(matrix, found.settings)
    levels = [parting.removed_level(entries, (M, N), parts, centre) for parts in drawn]
    errors = [
        np.sqrt(np.mean((entries.values - level)[parts == TEST] ** 2))
        for level, parts in zip(levels, drawn, strict=True)
    ]
    np.testing.assert_allclose(found.runs.test_path.isel(step=0).sel({"variant": "plain"})[:, 0], errors, rtol=1e-3)
    assert low <= min(map(np.min, levels)) <= max(map(np.max, levels)) <= high
    assert ("nothing was removed" in found.notes[0]) == (centre is Centring.NONE)


def test_the_interval_of_a_mean_error_is_that_of_its_splits(clean, noisy):
    """Student's, or further, over the means of the splits' starts; the same for the mean and the biases alone."""
    for found in (clean, noisy):
        for row in found.methods:
            ours = found.runs.sel({"variant": row.method})
            errors = ours.test_path.sel(step=stats.best_over_time(ours, "validation").step).mean("seed").values
            assert row.test == stats.mean_interval(errors)
            half = 2.776 * errors.std(ddof=1) / SPLITS**0.5  # the quantile of t with 4 degrees of freedom
            assert row.test[1] <= errors.mean() - half < errors.mean() + half <= row.test[2]


def test_errors_are_compared_in_plain_words(clean):
    lines = recovery_report.paired_lines(clean)
    ratio = clean.pairs["plain", "mean"].ratio
    assert 0 < ratio < 0.2
    assert (
        f"plain against mean: {100 * (1 - ratio):.0f} % lower test error than mean (95 % interval over 5 splits: "
        in lines[2]
    )
    assert lines[2].endswith(", not equivalent within 5 %")
    assert not any("nan" in line or "ratio" in line for line in lines)


@pytest.mark.parametrize(
    ("pair", "words"),
    [
        ((1.0, 1.0, 1.0, "equivalent", ""), "^the same test error on all 5 splits$"),
        (
            (2.5, 2.0, 3.0, "different", ""),
            r"^150 % higher .*: 100 % higher to 200 % higher\), not",
        ),
        ((0.99, 0.98, 1.01, "equivalent", ""), r"^1 % lower .*: 2 % lower to 1 % higher\), equivalent within 5 %$"),
        ((0.9, 0.7, 1.1, "inconclusive", "for a reason"), "inconclusive at 5 %: for a reason$"),
        (
            (0.9, np.nan, np.nan, "inconclusive", "few"),
            "10 % lower .* on one split, which gives no interval",
        ),
        ((np.nan, np.nan, np.nan, "inconclusive", "a run diverged"), "^no ratio of test errors: a run diverged$"),
        ((0.0, np.nan, np.nan, "inconclusive", "an error is zero"), "^no ratio of test errors: an error is zero$"),
    ],
)
def test_the_words_for_a_pair(pair, words):
    assert re.search(words, recovery_report._compared(stats.PairedErrors(*pair), "b", SPLITS))


def test_page_and_store(clean, tmp_path):
    jf.report(clean).write(tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "results.zarr",
        "report.html",
        "summary.json",
        "figures",
    }
    summary = json.loads((tmp_path / "out" / "summary.json").read_text(), parse_constant=pytest.fail)
    assert summary["methods"][0]["test"] == list(clean.methods[0].test)
    stored = jf.open_results(tmp_path / "out" / "results.zarr")
    np.testing.assert_array_equal(stored.test_path, clean.runs.test_path)
    assert stored.variant.values.tolist() == ["plain", "balanced", "noisy"]
    text = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert text.count("<figure>") == 2
    assert re.search(
        r'<p class="found">Plain descent predicts the held-out entries with an error of [\d.]+ \(95 %', text
    )
    assert "jf.complete(matrix, jf.RecoverySettings(" in text
    assert "Plain descent predicts the held-out entries" in clean._repr_html_()
    for line in (*recovery_report.heading(clean), *recovery_report.paired_lines(clean)):
        assert pages.html.escape(line) in text


@pytest.mark.parametrize(
    ("matrix", "settings", "words"),
    [
        (np.full((3, 3), np.nan), {}, "at least one observed entry"),
        (np.where(np.eye(3) > 0, 1.0, np.nan), {}, "leave a part without any"),
        (np.full((9, 9), 2.0), {}, "nothing but what centring by mean removes"),
        (np.full((9, 9), 0.1), {}, "nothing but what centring by mean removes"),  # up to rounding
        (np.full((9, 9), np.inf), {}, "infinite entries: needs finite ones"),
        (np.ones(4), {}, "needs an m×n matrix"),
        (low_rank(NOISE), {"max_steps": 205}, "multiple of check_every=10"),
    ],
)
def test_matrices_and_settings_that_will_not_do(matrix, settings, words):
    with pytest.raises(ValueError, match=words):
        jf.complete(matrix, jf.RecoverySettings(width=1, **settings), centre=Centring.MEAN, splits=SPLITS)


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"seeds": 0}, "seeds=0"), ({"step_size": -1}, "step_size=-1"), ({"test": 0.9}, "leave no training entry")],
)
def test_settings_refuse(settings, words):
    with pytest.raises(ValueError, match=words):
        jf.RecoverySettings(**settings)


ZEROS = {
    "all": (np.zeros((12, 10)), Centring.NONE, "^matrix=zero in every known entry: there is nothing to complete"),
    "all, centred": (np.zeros((12, 10)), Centring.MEAN, "^matrix=zero in every known entry"),
    "but one": (
        np.eye(9) * np.eye(9)[0],
        Centring.NONE,
        "^matrix=zero in every training entry of split",
    ),
}


@pytest.mark.parametrize("name", ZEROS)
def test_zeros_are_not_blamed_on_a_centring_that_nobody_asked_for(name):
    matrix, centre, words = ZEROS[name]
    matrix = np.where(np.eye(*matrix.shape, k=3) > 0, np.nan, matrix)
    with pytest.raises(ValueError, match=words):
        jf.complete(matrix, jf.RecoverySettings(), centre=centre, splits=20)


def test_a_usual_width_that_the_matrix_lacks_is_lowered_and_said():
    """Also where entries are few; a width that was given is taken."""
    matrix = np.arange(24.0).reshape(3, 8) ** 0.5
    matrix[0, 0] = np.nan
    quick = {"max_steps": 20, "seeds": 1}
    found = jf.complete(matrix, jf.RecoverySettings(**quick), splits=1)
    assert found.settings.width == 3
    assert found.notes[0] == "width 3: all that a 3×8 matrix has; the usual 4 would be above it"
    wide = jf.complete(matrix, jf.RecoverySettings(width=4, **quick), splits=1)
    assert wide.settings.width == 4
    assert not any("usual" in note for note in wide.notes)


SHORT = ["--width", "2", "--max-steps", "600", "--out", "out"]


def test_command_on_an_array_with_an_empty_row(call, tmp_path):
    np.save(tmp_path / "a.npy", low_rank(NOISE))
    code, out, err = call("complete", "a.npy", *SHORT, "--centre", "mean")
    note = f"jaxfact: note: 1 of {M} rows have no observed entry and cannot be completed: {EMPTY}\n"
    assert (code, err) == (0, note)
    assert "5 random splits: 70 % training, 10 % validation, 20 % test" in out
    assert "the mean of the training entries" in out
    assert (tmp_path / "out" / "report.html").is_file()


def test_command_on_a_list_of_entries(call, tmp_path):
    matrix = low_rank(NOISE)
    lines = [f"{10 * i},{j},{matrix[i, j]}" for i, j in zip(*np.nonzero(~np.isnan(matrix)), strict=True)]
    (tmp_path / "a.csv").write_text("\n".join(["row,column,value", *lines]))
    code, out, err = call("complete", "a.csv", *SHORT, "--splits", "2", "--json")
    found = json.loads(out, parse_constant=pytest.fail)
    assert code == 0
    read, told = err.splitlines()
    assert read.startswith(f"a.csv: {M - 1}×{N} matrix, labelled (rows 0 … ")
    assert told.startswith("results: ")
    assert (found["shape"], found["observed"], found["centring"]) == ([M - 1, N], len(lines), "none")
    assert (found["settings"]["max_steps"], found["splits"]) == (600, 2)


BAD = {
    "empty.csv": "needs an observed entry",
    "twice.csv": "row 1, column 2 is given on line 2 and on line 3",
    "nothing.npy": "nothing.npy: does not exist",
    "full.npy": "full.npy: has no missing entry; run jaxfact compare full.npy",
    "a.npy --tolerance 1e-3": "No such option: --tolerance",
    "a.npy --no-compress": "No such option: --no-compress",
    "a.npy --sense gaussian": "No such option: --sense",
    "a.npy --seeds 0": "seeds=0",
    "a.npy --splits 0": "splits=0",
    "a.npy --step-size 0": "step_size=0",
    "a.npy --max-steps 205": "max_steps=205: needs a multiple of check_every=10",
    "a.npy --validation 0.5 --test 0.5": "leave no training entry",
    "a.npy --centre all": "--centre",
    "": "Missing argument 'MATRIX'",
}


@pytest.mark.parametrize("arguments", BAD)
def test_command_refuses_in_one_line(call, tmp_path, arguments):
    (tmp_path / "empty.csv").write_text("nan,nan\n,\n")
    (tmp_path / "twice.csv").write_text("row,column,value\n1,2,3\n1,2,4\n")
    matrix = low_rank(NOISE)
    matrix[EMPTY, 0] = LEVEL  # as an empty row is said in a line of its own
    np.save(tmp_path / "a.npy", matrix)
    np.save(tmp_path / "full.npy", low_rank(NOISE, observed=1))
    ended = call("complete", *arguments.split(), "--out", "out")
    # What was read may be said before it turns out that it cannot be used.
    assert_one_line(ended._replace(out=re.sub(r"^a\.npy: 40×30 matrix.*\n$", "", ended.out)), re.escape(BAD[arguments]))
    assert not (tmp_path / "out").exists()


def test_a_level_that_leaves_no_error_is_said_to():
    """The mean predicts every entry of a constant matrix exactly: a ratio to its error would be infinite."""
    matrix = np.full((9, 8), 2.0)
    matrix[0, 0] = matrix[3, 4] = np.nan
    found = jf.complete(matrix, jf.RecoverySettings(width=1, seeds=1, max_steps=20), splits=2)
    assert "factors gain nothing: mean alone leaves no test error" in found.notes
    assert not any("inf" in note for note in found.notes)
