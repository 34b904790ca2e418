"""Papers: each preset shows what its paper says at a reduced size, and a wrong setting does not show it."""

import json
import re
import sys

import jax
import numpy as np
import pytest
import xarray as xr
from commands import assert_one_line

import jaxfact as jf
from jaxfact import papers
from jaxfact.papers import base, chen_2024, kim_chung_2023, ma_fattahi_2024, ma_li_chi_2021, wind_2023
from jaxfact.reports import paper as reports


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
    found = ma_fattahi_2024.run(4, widths=[3, 4], norms=norms, fractions=(0.3, 0.5, 1.0))
    assert set(verdicts(found.findings)) == {True}
    assert len(verdicts(found.findings, "r′=3")) == len(verdicts(found.findings, "r′=4")) == 2
    # Paired along the norms; the point both sweeps have in common is one run, to the last bit.
    both = [found.runs[f"width4_{name}"].distance.sel(norm=1e-6, fraction=0.5) for name in ("norms", "fractions")]
    np.testing.assert_array_equal(*both)
    large = ma_fattahi_2024.run(2, widths=[3, 4], norms=(0.5, 0.8, 8.0), fractions=(0.3, 0.5, 1.0))
    assert verdicts(large.findings, "α") == [False, False]  # from α = 8 the first step is beyond all bounds


@pytest.mark.filterwarnings("ignore:.* rows have no observed entry", "ignore:.* columns have no observed entry")
def test_kim_chung_finds_and_spreads_unless_too_little_is_seen():
    found = kim_chung_2023.run(8, size=100, fraction=0.5)
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
    # The standard error is 1/20: the 95 % interval is 1.96 of them to either side.
    assert found.low == pytest.approx(values.mean() - 1.96 / 20, abs=0.02)
    assert found.high == pytest.approx(values.mean() + 1.96 / 20, abs=0.02)
    judged = [found, base.above("", values, 3.0), base.below("", values, 3.5), base.within("", values, 2.8, 3.2)]
    assert [finding.holds for finding in judged] == [True, None, True, True]
    refuted = [base.above("", values, 3.5), base.below("", values, 2.5), base.within("", values, 3.3, 3.5)]
    assert [finding.holds for finding in refuted] == [False, False, False]
    assert base.above("", values[:1], 2.5).holds is None
    assert base.above("", np.array([9.0, np.inf]), 2.5).holds is False
    assert base.bounded("", np.array([1.0, np.nan]), 2.0).holds is False
    assert base.always("", np.array([True, False])).holds is False


@pytest.mark.parametrize("count", [2, 3, 5, 8, 20])
@pytest.mark.parametrize("law", ["normal", "exponential"])
def test_a_mean_on_its_bound_seldom_holds(law, count):
    """In at most 5 % of cases and two standard errors of the simulation, where a bootstrap said it in 27 % at 2."""
    drawn = getattr(np.random.default_rng(count), law)(size=(600, count))
    bound = {"normal": 0.0, "exponential": 1.0}[law]
    most = 0.05 + 2 * (0.05 * 0.95 / 600) ** 0.5
    for expect in (base.above, base.below):
        assert np.mean([expect("", values, bound).holds is True for values in drawn]) <= most
    assert base.above("", np.full(count, bound), bound).holds is not True


def test_what_is_left_open_says_what_would_decide():
    values = np.array([1.4, 1.1, 0.9, 1.3])
    found = base.above("", values, 1.0)
    needed = int(
        re.fullmatch(r"the interval holds 1: about (\d+) seeds decide if they scatter like these 4", found.why)[1]
    )
    assert found.holds is None
    assert base.above("", np.resize(values, needed), 1.0).holds is True
    assert base.within("", values, 0.0, 1.2).why.startswith("the interval holds 1.2: ")
    assert base.above("", values[:1], 2.5).why == "one seed gives no interval: take at least 5"
    for decided in (base.above("", values, -9.0), base.near("", values, 1.0), base.bounded("", values, 2.0)):
        assert decided.why == ""


@pytest.mark.parametrize(("most", "loose"), [(0.5, False), (0.011, False), (0.009, True), (1e-9, True), (0.0, False)])
def test_a_bound_that_says_little_is_called_loose(most, loose):
    found = base.bounded("", np.array([0.0, most]), 1.0)
    assert (found.expected, found.holds) == ("≤ 1 (loose)" if loose else "≤ 1", True)


def test_findings_are_printed_without_nan():
    values = np.array([1.0, 2.0])
    findings = [
        base.above("one", values[:1], 0.5),
        base.above("failed", np.array([1.0, np.inf]), 0.5),
        base.above("open", values, 0.5),
        base.Finding("δ", 0.4, 0.4, np.inf, "a lower bound, by search", "–", None),
    ]
    printed = [reports._cells(finding) for finding in findings]
    assert not any("nan" in cell or "inf" in cell for cells in printed for cell in cells)
    assert [cells[-1] for cells in printed] == ["open", "no", "open", "–"]
    assert printed[-1][2] == "at least 0.4 (a lower bound, by search)"


PAPERS = ["chen-2024", "kim-chung-2023", "ma-fattahi-2024", "ma-li-chi-2021", "wind-2023"]
NOBODY = """
import jaxfact as jf
from jaxfact.papers.base import Outcome, Paper, Preset, always


def run(seeds, progress=None):
    problem = jf.Factorization([1.0, 0.5], shape=(4, 3))
    descent = jf.Run(problem, jf.starts.Gaussian(2, scale=0.1), jf.methods.gradient_descent(0.5))
    runs = jf.sweep(lambda: descent, seeds=seeds, max_steps=200, tolerance=1e-3, progress=progress)
    return Outcome({"runs": runs}, [always("fraction that converge", (runs.outcome == "converged").values)])


PAPER = Paper(
    __name__,
    title="Nothing in particular",
    authors=("A. Nobody", "Some Body"),
    year=2030,
    presets=(Preset("nobody_small", "Figure 1", "It converges.", "A seed draws the start.", False, 4, 5, run),),
)
"""


def test_names_and_precision():
    assert papers.names() == PAPERS
    found = [papers.find(name) for name in PAPERS]
    assert [paper.name for paper in found] == PAPERS
    assert papers.find("ma-li-chi-2021").citation == "Ma, Li & Chi (2021)"
    assert papers.find("wind-2023").citation == "Wind (2023)"
    assert all(preset.seconds < 60 for paper in found for preset in paper.presets)
    with pytest.raises(ValueError, match="paper=nothing: the papers are chen-2024, .*choose one"):
        papers.find("nothing")
    with pytest.raises(ValueError, match="seeds=0"):
        papers.find("chen-2024").run(0)
    with jax.enable_x64(False), pytest.raises(ValueError, match="preset=wind_small: .*float32"):
        papers.find("wind-2023").run(1)


def test_the_command_lists_papers(call):
    code, out, err = call("paper")
    assert (code, err) == (0, "")
    for paper in map(papers.find, papers.names()):
        assert f"{paper.name}: {paper.citation}" in out
        for preset in paper.presets:
            assert f"{preset.name} ({preset.place}): {preset.statement.split()[0]}" in out


def test_the_command_runs_a_paper(call, tmp_path):
    code, out, err = call("paper", "chen-2024", "--seeds", "2", "--out", "new")
    assert (code, err) == (0, "")
    assert "ϖ=10: fraction of runs that diverge" in out
    assert " yes" in out
    assert out.splitlines()[-1] == "results: new"
    stored = jf.open_results(tmp_path / "new" / "chen_fig1_small" / "runs.zarr")
    assert stored.sizes["seed"] == 2
    assert set(np.unique(stored.outcome.sel(scale=10.0))) == {"diverged"}
    code, out, err = call("paper", "chen-2024", "--seeds", "2", "--json")
    printed = json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert (code, err) == (0, "")
    (preset,) = printed["presets"]
    assert (printed["name"], printed["year"], preset["name"]) == ("chen-2024", 2024, "chen_fig1_small")
    assert [finding["holds"] for finding in preset["findings"] if "diverge" in finding["what"]] == [True]
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_papers_are_found_by_being_in_the_folder(call, monkeypatch, tmp_path):
    (tmp_path / "nobody_2030.py").write_text(NOBODY)
    with monkeypatch.context() as patch:
        patch.setattr(papers, "__path__", [*papers.__path__, str(tmp_path)])
        patch.setitem(sys.modules, "jaxfact.papers.nobody_2030", None)  # so that it is forgotten afterwards
        del sys.modules["jaxfact.papers.nobody_2030"]
        assert "nobody-2030" in papers.names()
        code, out, err = call("paper", "nobody-2030", "--seeds", "3")
    assert (code, err) == (0, "")
    assert "nobody_small: Nobody & Body (2030), Figure 1" in out
    assert " yes" in out
    assert "nobody-2030" not in papers.names()


REFUSED = {
    "nothing": "paper=nothing: the papers are chen-2024, ",
    "chen-2024 --seeds 0": "seeds=0",
    "chen-2024 --width 3": "No such option: --width",
    "chen-2024 matrix.npy": "unexpected extra argument",
    "--seeds 3": "paper=None: --seeds, --out and --json need a name",
}


@pytest.mark.parametrize("arguments", REFUSED)
def test_what_a_paper_cannot_take_is_refused_in_one_line(call, tmp_path, arguments):
    assert_one_line(call("paper", *arguments.split()), re.escape(REFUSED[arguments]))
    assert list(tmp_path.iterdir()) == []
