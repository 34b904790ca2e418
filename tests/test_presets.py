"""Presets: each shows what its paper says at a reduced size, and says so where a wrong setting does not show it."""

import json
import sys

import jax
import numpy as np
import pytest
import xarray as xr

import jaxfact as jf
from jaxfact.cli import main as cli
from jaxfact.cli import terminal
from jaxfact.papers import base, chen_2024, kim_chung_2023, ma_fattahi_2024, ma_li_chi_2021, wind_2023


def verdicts(findings, part=""):
    return [finding.holds for finding in findings if part in finding.what]


@pytest.fixture(scope="module")
def sensed():
    """At n=10 a matrix has 100 entries: 50 Gaussian numbers are far from an isometry, 500 nearer than at n=20."""
    sizes = {(10, 50): base.below, (10, 600): base.above}
    return wind_2023.run(4, sizes=sizes, norms=(1e-1, 1e-2, 1e-3))


def test_wind_needs_measurements_for_the_rate(sensed):
    few, many = sensed.runs.values()
    assert set(verdicts(sensed.findings, "slope")) == {True}
    assert set(verdicts(sensed.findings, "max ‖[U; V]‖")) == {True}
    assert few.attrs["rip_lower_bound"] > 1 > many.attrs["rip_lower_bound"] > 0
    assert list(few.norm.values) == [1e-1, 1e-2, 1e-3]
    swapped = wind_2023.judged("", few, base.above, 0.0) + wind_2023.judged("", many, base.below, 0.0)
    assert verdicts(swapped, "slope") == [False, False]


def test_wind_records_are_spectral_norms(sensed):
    """‖[U; V]‖ starts at a₀; at the end U and V are balanced to leading order, σ₁ = 1 each, so it is √2."""
    runs = next(iter(sensed.runs.values()))
    begin = runs.stacked_norm_path.sel(step=0)
    np.testing.assert_allclose(begin, np.broadcast_to(runs.norm.values[:, None], begin.shape), rtol=1e-12)
    np.testing.assert_allclose(runs.stacked_norm_path.sel(norm=1e-3).isel(step=-1), 2**0.5, rtol=5e-3)
    factors = jf.Factors(*(np.random.default_rng(side).normal(size=(6, 3)) for side in range(2)))
    matrix = np.random.default_rng(2).normal(size=(6, 6))
    problem, scaled = jf.Factorization(matrix), matrix / np.linalg.norm(matrix, 2)
    assert float(wind_2023.stacked_norm(problem, factors)) == pytest.approx(
        np.linalg.norm(np.vstack(factors), 2), rel=1e-12
    )
    error = np.linalg.norm(factors.U @ factors.V.T - scaled, 2)
    assert float(wind_2023.spectral_error(problem, factors)) == pytest.approx(error, rel=1e-12)


def test_ma_fattahi_the_exact_width_forgets_its_start():
    norms = (1e-2, 1e-4, 1e-6)
    found = ma_fattahi_2024.run(2, widths=[3, 4], norms=norms, fractions=(0.3, 0.5, 1.0))
    assert set(verdicts(found.findings)) == {True}
    assert len(verdicts(found.findings, "r′=3")) == len(verdicts(found.findings, "r′=4")) == 2
    # Paired along the norms; the point both sweeps have in common is one run, to the last bit.
    both = [found.runs[f"width4_{name}"].distance.sel(norm=1e-6, fraction=0.5) for name in ("norms", "fractions")]
    np.testing.assert_array_equal(*both)
    large = ma_fattahi_2024.run(2, widths=[3, 4], norms=(0.5, 0.8, 8.0), fractions=(0.3, 0.5, 1.0))
    assert verdicts(large.findings, "α") == [False, False]  # from α = 8 the first step is beyond all bounds


@pytest.mark.filterwarnings("ignore:.* rows have no observed entry", "ignore:.* columns have no observed entry")
def test_kim_chung_finds_and_spreads_unless_too_little_is_seen():
    found = kim_chung_2023.run(3, size=100, fraction=0.5)
    assert set(verdicts(found.findings)) == {True}
    slope = next(finding for finding in found.findings if "slope" in finding.what)
    assert slope.measured == pytest.approx(0.1 / np.log(1.1), rel=0.05)  # growth by 1 + η a step
    scarce = kim_chung_2023.run(3, size=100, fraction=0.03)
    assert False in verdicts(scarce.findings, "fraction of runs")
    assert verdicts(scarce.findings, "slope") == [False]


def test_chen_learns_rows_in_order_of_distinct_eigenvalues():
    found = chen_2024.run(6)
    assert set(verdicts(found.findings)) == {True}
    times = found.runs["runs"].row_time
    assert np.all(times.sel(row=1, scale=0.001) > times.sel(row=1, scale=2.0))  # a small start has further to grow
    equal = np.concatenate([[1, 1], chen_2024.EIGENVALUES[2:]])
    wrong = chen_2024.run(6, eigenvalues=equal, too_large=1.5)
    assert False in verdicts(wrong.findings, "row 1 before row 2")
    assert verdicts(wrong.findings, "diverge") == [False]


def test_row_times_are_first_passages():
    path = np.array([[0.0, 0.0], [0.5, 0.1], [0.2, 0.24], [0.9, 0.2]])
    runs = xr.Dataset({"rows_signal_path": (("step", "rows_signal_0"), path)}, {"step": [0, 2, 4, 6]})
    np.testing.assert_array_equal(chen_2024.row_times(runs, np.array([1.0, 0.5])), [2, np.inf])


def test_balancing_changes_nothing_unless_it_is_strong():
    few = {"size": 60, "fraction": 0.5, "conditions": (2.0,)}
    found = ma_li_chi_2021.run(4, **few)
    assert set(verdicts(found.findings)) == {True, None}
    runs = found.runs["condition2"]
    assert dict(runs.sizes) | {"seed": 4, "variant": 2} == dict(runs.sizes)
    first = runs.distance_path.isel(step=0)
    np.testing.assert_array_equal(first.sel({"variant": "plain"}), first.sel({"variant": "balanced"}))
    assert len(np.unique(first)) == 4  # every seed has a mask of its own
    strong = ma_li_chi_2021.run(4, **few, weight=0.6)  # beyond its stability edge 1/(8·weight) = 0.2
    assert verdicts(strong.findings, "down to an error") == [False]


def test_intervals_and_verdicts():
    values = np.random.default_rng(0).normal(3, 1, 400)
    found = base.above("", values, 2.5)
    # The standard error is 1/20: the bootstrap's 95 % interval is 1.96 of them to either side.
    assert found.low == pytest.approx(values.mean() - 1.96 / 20, abs=0.02)
    assert found.high == pytest.approx(values.mean() + 1.96 / 20, abs=0.02)
    judged = [found, base.above("", values, 3.0), base.below("", values, 3.5), base.within("", values, 2.8, 3.2)]
    assert [finding.holds for finding in judged] == [True, False, True, True]
    assert base.above("", values[:1], 2.5).holds is None
    assert base.above("", np.array([9.0, np.inf]), 2.5).holds is False
    assert base.bounded("", np.array([1.0, np.nan]), 2.0).holds is False
    assert base.always("", np.array([True, False])).holds is False


def test_names_and_precision():
    assert list(papers.ALL) == [preset.name for preset in papers.ALL.values()]
    assert all(papers.find(name).seconds < 60 for name in papers.ALL)
    with pytest.raises(ValueError, match="preset=nothing: the presets are wind_small, .*choose one"):
        papers.find("nothing")
    with pytest.raises(ValueError, match="seeds=0"):
        papers.find("chen_fig1_small").run(0)
    with jax.enable_x64(False), pytest.raises(ValueError, match="float32"):
        papers.find("wind_small").run(1)


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    """Return a function that runs the command in this process, in an empty folder, in the session's precision."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(terminal, "configure", lambda x64: None)
    monkeypatch.setenv("COLUMNS", "140")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["jaxfact", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, *capsys.readouterr()

    return run


def test_the_command_lists_presets(call):
    code, out, err = call("presets")
    assert (code, err) == (0, "")
    for preset in papers.ALL.values():
        assert preset.name in out
        assert preset.statement.split()[0] in out


def test_the_command_runs_a_preset(call, tmp_path):
    code, out, err = call("compare", "--preset", "chen_fig1_small", "--seeds", "2", "--out", "new")
    assert (code, err) == (0, "")
    assert "ϖ=10: fraction of runs that diverge" in out
    assert " yes" in out
    stored = jf.open_results(tmp_path / "new" / "runs.zarr")
    assert stored.sizes["seed"] == 2
    assert set(np.unique(stored.outcome.sel(scale=10.0))) == {"diverged"}
    code, out, err = call("compare", "--preset", "chen_fig1_small", "--seeds", "2", "--json")
    printed = json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert (code, err) == (0, "")
    assert [finding["holds"] for finding in printed["findings"] if "diverge" in finding["what"]] == [True]
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


REFUSED = {
    "--preset chen_fig1_small matrix.npy": "a matrix is given too",
    "--preset chen_fig1_small --shape 3x3": "--shape is given too",
    "--preset chen_fig1_small --width 3": "--width is given too",
    "--preset nothing": "preset=nothing: the presets are",
    "--preset chen_fig1_small --seeds 0": "seeds=0",
}


@pytest.mark.parametrize("arguments", REFUSED)
def test_what_a_preset_cannot_take_is_refused_in_one_line(call, tmp_path, arguments):
    code, out, err = call("compare", *arguments.split())
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert REFUSED[arguments] in err
    assert list(tmp_path.iterdir()) == []
