"""Papers: each claim holds at a reduced size, and with a wrong setting its verdict is another."""

import re
from pathlib import Path

import numpy as np
import pytest
import scipy.special
import xarray as xr

import jaxfact as jf
from jaxfact import papers
from jaxfact.papers import chen_2024, rules, wind_2023
from jaxfact.papers.claims import Sweeps, verdict_of
from jaxfact.papers.rules import Verdict
from jaxfact.reports import claims as reports

CLAIMS = papers.claims()
HOLDS, VIOLATED, INCONCLUSIVE = Verdict.HOLDS, Verdict.VIOLATED, Verdict.INCONCLUSIVE


def verdicts(findings, part=""):
    return [finding.verdict for finding in findings if part in finding.what]


def judged(claim, **changed):
    """Return the runs of a claim at its control's size, its findings and its verdict."""
    runs = claim.preset.run(Sweeps(claim.control.seeds), **{**claim.control.small, **changed})
    findings = claim.judge(runs)
    return runs, findings, verdict_of(findings, claim.hypotheses(runs))


@pytest.mark.filterwarnings("ignore:.* rows have no observed entry", "ignore:.* columns have no observed entry")
@pytest.mark.parametrize("name", CLAIMS)
def test_a_control_changes_the_verdict(name):
    """The same size and rule, and only what is broken is another."""
    _, claim = CLAIMS[name]
    runs, findings, verdict = judged(claim)
    assert verdict is HOLDS, [finding for finding in findings if finding.verdict not in (HOLDS, None)]
    _, broken, other = judged(claim, **claim.control.changed)
    assert other is not HOLDS, broken
    figure = jf.figures.claim(claim.plot(runs), name)
    assert figure.axes[0].get_xlabel()
    assert len([finding for finding in findings if finding.verdict is not None]) <= 12


@pytest.mark.parametrize("name", CLAIMS)
def test_a_rule_notices_the_deviation_that_is_stated(name):
    """In at least 95 % of 60 draws, less three standard errors of that: none of the numbers may hold."""
    _, claim = CLAIMS[name]
    rng = np.random.default_rng(0)
    draws = 60
    noticed = [set(verdicts(claim.power.findings(rng))) != {HOLDS} for _ in range(draws)]
    assert np.mean(noticed) >= 0.95 - 3 * (0.95 * 0.05 / draws) ** 0.5
    assert claim.power.seeds <= claim.preset.seeds


def test_the_chance_of_a_false_alarm_of_all_claims_is_below_one_per_cent():
    """No more than forty claims with a dozen numbers each, every one with a chance of 2e-5."""
    assert len(CLAIMS) <= 40
    assert 40 * 12 * rules.ALARM < 0.01


@pytest.fixture(scope="module")
def sensed():
    """At n=10 a matrix has 100 entries: 50 Gaussian numbers are far from an isometry, and all entries are one."""
    return wind_2023.sensings(Sweeps(4), sizes=((10, 50), (10, None)), norms=(1e-1, 1e-2, 1e-3))


def test_wind_needs_measurements_for_the_rate(sensed):
    few, many = sensed.values()
    findings = wind_2023.judged(sensed)
    assert set(verdicts(findings, "slope")) == {HOLDS}
    assert set(verdicts(findings, "max ‖[U; V]‖")) == {HOLDS}
    assert few.attrs["rip_lower_bound"] > 1 > many.attrs["rip_lower_bound"] == 0
    assert list(few.norm.values) == [1e-1, 1e-2, 1e-3]
    swapped = wind_2023.of_operator(few, rules.above) + wind_2023.of_operator(many, rules.below)
    assert HOLDS not in verdicts(swapped, "slope")


def test_wind_records_are_spectral_norms(sensed):
    """‖[U; V]‖ starts at a₀; at the end U and V are balanced to leading order, σ₁ = 1 each, so it is √2."""
    runs = next(iter(sensed.values()))
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


def test_row_times_are_first_passages():
    path = np.array([[0.0, 0.0], [0.5, 0.1], [0.2, 0.24], [0.9, 0.2]])
    runs = xr.Dataset({"rows_signal_path": (("step", "rows_signal_0"), path)}, {"step": [0, 2, 4, 6]})
    np.testing.assert_array_equal(chen_2024.row_times(runs, np.array([1.0, 0.5])), [2, np.inf])


def test_intervals_and_verdicts():
    values = np.random.default_rng(0).normal(3, 1, 400)
    found = rules.above("", values, 2.5)
    # The standard error is 1/20: the 95 % interval is 1.96 of them to either side.
    assert found.low == pytest.approx(values.mean() - 1.96 / 20, abs=0.02)
    assert found.high == pytest.approx(values.mean() + 1.96 / 20, abs=0.02)
    judged = [found, rules.above("", values, 3.0), rules.below("", values, 3.5), rules.within("", values, 2.8, 3.2)]
    assert [finding.verdict for finding in judged] == [HOLDS, INCONCLUSIVE, HOLDS, HOLDS]
    refuted = [rules.above("", values, 3.5), rules.below("", values, 2.5), rules.within("", values, 3.3, 3.5)]
    assert [finding.verdict for finding in refuted] == [VIOLATED] * 3
    assert rules.above("", values[:1], 2.5).verdict is INCONCLUSIVE
    assert rules.above("", np.array([9.0, np.inf]), 2.5).verdict is VIOLATED
    assert rules.bounded("", np.array([1.0, np.nan]), 2.0).verdict is VIOLATED
    assert rules.always("", np.array([True, False])).verdict is VIOLATED


@pytest.mark.parametrize("count", [2, 3, 5, 8, 20])
@pytest.mark.parametrize("law", ["normal", "exponential"])
def test_a_mean_on_its_bound_seldom_holds(law, count):
    """In at most 5 % of cases and two standard errors of the simulation, where a bootstrap said it in 27 % at 2."""
    drawn = getattr(np.random.default_rng(count), law)(size=(600, count))
    bound = {"normal": 0.0, "exponential": 1.0}[law]
    most = 0.05 + 2 * (0.05 * 0.95 / 600) ** 0.5
    for expect in (rules.above, rules.below):
        assert np.mean([expect("", values, bound).verdict is HOLDS for values in drawn]) <= most
    assert rules.above("", np.full(count, bound), bound).verdict is not HOLDS


def test_what_is_left_open_says_what_would_decide():
    values = np.array([1.4, 1.1, 0.9, 1.3])
    found = rules.above("", values, 1.0)
    needed = int(
        re.fullmatch(r"the interval holds 1: about (\d+) seeds decide if they scatter like these 4", found.why)[1]
    )
    assert found.verdict is INCONCLUSIVE
    assert rules.above("", np.resize(values, needed), 1.0).verdict is HOLDS
    assert rules.within("", values, 0.0, 1.2).why.startswith("the interval holds 1.2: ")
    assert rules.above("", values[:1], 2.5).why == "one seed gives no interval: take at least 5"
    for decided in (rules.above("", values, -9.0), rules.near("", values, 1.0), rules.bounded("", values, 2.0)):
        assert decided.why == ""


@pytest.mark.parametrize(("most", "loose"), [(0.5, False), (0.011, False), (0.009, True), (1e-9, True), (0.0, False)])
def test_a_bound_that_says_little_is_called_loose(most, loose):
    found = rules.bounded("", np.array([0.0, most]), 1.0)
    assert (found.expected, found.verdict) == ("≤ 1 (loose)" if loose else "≤ 1", HOLDS)


def test_findings_are_printed_without_nan():
    values = np.array([1.0, 2.0])
    findings = [
        rules.above("one", values[:1], 0.5),
        rules.above("failed", np.array([1.0, np.inf]), 0.5),
        rules.above("open", values, 0.5),
        rules.Finding("δ", 0.4, 0.4, np.inf, "a lower bound, by search", "–", None),
    ]
    printed = [reports._cells(finding) for finding in findings]
    assert not any("nan" in cell or "inf" in cell for cells in printed for cell in cells)
    assert [cells[-1] for cells in printed] == ["inconclusive", "violated", "inconclusive", "–"]
    assert printed[-1][2] == "at least 0.4 (a lower bound, by search)"


PAPERS = [
    "chen-2024",
    "du-hu-lee-2018",
    "found-here",
    "jia-2023",
    "jiang-2023",
    "kim-chung-2023",
    "ma-fattahi-2024",
    "ma-li-chi-2021",
    "min-2021",
    "tong-ma-chi-2021",
    "tu-2016",
    "wang-2022",
    "ward-kolda-2023",
    "wind-2023",
    "xiong-2024",
    "xu-2024",
    "xu-2025",
    "ye-du-2021",
]


def test_names_and_precision():
    assert papers.names() == PAPERS
    found = [papers.find(name) for name in PAPERS]
    assert [paper.name for paper in found] == PAPERS
    assert papers.find("ma-li-chi-2021").citation == "Ma, Li & Chi (2021)"
    assert papers.find("wind-2023").citation == "Wind (2023)"
    assert papers.find("found-here").citation == "jaxfact (2026)"
    assert list(CLAIMS) == sorted(CLAIMS, key=lambda name: int(name[1:]))
    assert len(CLAIMS) == sum(len(paper.claims) for paper in found)
    assert all(preset.seconds <= 60 for paper in found for preset in paper.presets)
    with pytest.raises(ValueError, match="paper=nothing: the papers are chen-2024, .*choose one"):
        papers.find("nothing")


def test_every_claim_has_its_paragraph_and_figure():
    folder = Path(__file__).parent.parent / "docs"
    page = (folder / "claims.md").read_text(encoding="utf-8")
    assert page.count("\n### ") == len(CLAIMS)
    for name, (_, claim) in CLAIMS.items():
        assert f"\n### {name}: {claim.title}\n" in page
        assert f"\n![{name}](claims/{name}.png)\n" in page
        assert (folder / "claims" / f"{name}.png").exists()


def test_what_a_hypothesis_decides():
    """Outside its hypotheses a theorem says nothing, whatever is seen; a constant that is not known decides nothing."""
    fails, holds = rules.bounded("", np.ones(2), 0.5), rules.bounded("", np.ones(2), 2.0)
    unmet, unknown = (papers.Hypothesis("δ", 1.0, "< 1", met) for met in (False, None))
    assert verdict_of([fails], [unmet]) is Verdict.OUTSIDE
    assert verdict_of([holds, fails], [unknown]) is VIOLATED
    assert verdict_of([holds, rules.unjudged("", np.ones(2))], []) is HOLDS
    assert verdict_of([holds, rules.above("", np.array([0.0, 1.0]), 0.4)], []) is INCONCLUSIVE
    assert verdict_of([rules.unjudged("", np.ones(2))], []) is INCONCLUSIVE


def test_a_bracket_holds_the_point_at_which_half_succeed():
    """With 100 seeds Wilson's interval of 60 successes is above one half, and that of 57 is not."""
    shares = {0.5: 100, 0.8: 61, 0.9: 57, 1.1: 43, 1.2: 39, 1.5: 0}
    successes = np.arange(100) < np.array(list(shares.values()))[:, None]
    found = rules.bracketed("", list(shares), successes, 0.7, 1.3)
    assert (found.low, found.high, found.verdict) == (0.8, 1.2, HOLDS)
    assert rules.bracketed("", list(shares), successes, 0.9, 1.3).verdict is INCONCLUSIVE
    assert rules.bracketed("", list(shares), successes, 2.0, 3.0).verdict is VIOLATED
    beyond = rules.bracketed("", list(shares), successes < 2, 0.7, 1.3)  # all succeed, up to the end of the grid
    assert (beyond.measured, beyond.low, beyond.verdict) == (1.5, 1.5, VIOLATED)


def test_what_is_rare_is_seldom_called_frequent_by_chance():
    """At the bound itself, by the binomial law; Wilson's interval would do it in 1e-4 of cases."""
    runs, most = np.arange(10_000), 1e-3
    first = next(count for count in range(60) if rules.rare("", runs < count, most).verdict is VIOLATED)
    assert scipy.special.bdtrc(first - 1, len(runs), most) <= rules.ALARM


def test_a_bootstrap_is_over_seeds():
    """The mean's standard error is s/√n; a run that never arrives leaves no interval."""
    values = np.random.default_rng(0).normal(1.0, 1.0, 400)
    found = rules.estimated("", lambda at: values[at].mean(), 400, 0.5, 1.5)
    assert (found.high - found.low) / 2 == pytest.approx(1.96 / 20, rel=0.2)
    assert found.verdict is HOLDS
    values[0] = np.inf
    assert rules.estimated("", lambda at: values[at].mean(), 400, 0.5, 1.5).verdict is VIOLATED
    exact = rules.measured("", 1.0, 0.1, 0.5, 1.5)
    assert exact.high == pytest.approx(1.196, abs=1e-3)
    assert [rules.measured("", x, 0.1, 0.5, 1.5).verdict for x in (1.4, 1.7, 2.0)] == [INCONCLUSIVE] * 2 + [VIOLATED]


def test_an_extreme_on_its_bound_is_not_refuted():
    """The largest of 30 means lies some three of its errors beyond the truth: too far for the normal interval by which
    a mean is refuted, and far within Student's, as 2e-5 of cases could not be counted."""
    rng, refuted, furthest = np.random.default_rng(0), 0, 0.0
    for _ in range(150):
        slopes = rng.normal(size=(20, 30))
        found = rules.estimated("", lambda at, slopes=slopes: slopes[at].mean(axis=0).max(), 20, -np.inf, 0.0)
        assert found.verdict is not VIOLATED
        error = (found.high - found.low) / (2 * scipy.special.ndtri(0.975))
        refuted += found.measured > scipy.special.ndtri(1 - rules.ALARM / 2) * error
        furthest = max(furthest, found.measured / error)
    assert refuted > 0.02 * 150
    assert furthest < 0.75 * scipy.special.stdtrit(8, 1 - rules.ALARM / 2)
    far = rules.estimated("", lambda at: slopes[at].mean(axis=0).max() + 3, 20, -np.inf, 0.0)
    assert far.verdict is VIOLATED, "it can refute"
