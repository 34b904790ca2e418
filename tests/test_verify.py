"""`jaxfact verify` and `jaxfact paper`: what they run, say, write and refuse, on claims of a paper made for that."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from commands import assert_one_line

import jaxfact as jf
from jaxfact import papers
from jaxfact.engine.experiment import Run
from jaxfact.jobs import identities, verifying
from jaxfact.papers.rules import Verdict

NOBODY = """
import numpy as np

import jaxfact as jf
from jaxfact.papers import Claim, Control, Hypothesis, Paper, Power, Preset
from jaxfact.papers.rules import above, always


def descents(sweeps, *, step_size=0.5):
    problem = jf.Factorization([1.0, 0.5], shape=(4, 3))
    run = jf.Run(problem, jf.starts.Gaussian(2, scale=0.1), jf.methods.gradient_descent(step_size))
    return {"runs": sweeps("runs", lambda: run, max_steps=200, tolerance=1e-3)}


def other(sweeps):
    return {"runs": descents(sweeps, step_size=0.25)["runs"]}


def judged(runs):
    return [always("fraction that converge", (runs["runs"].outcome == "converged").values)]


def wrong(runs):
    return [above("steps", runs["runs"].hit.isel(level=-1).values, 1e6)]


def plotted(runs):
    times = np.sort(runs["runs"].hit.isel(level=-1).values)
    series = jf.figures.Series("starts", np.arange(len(times)), times)
    return jf.figures.Plot("start", "steps", [series], [jf.figures.Series("budget", series.x, 0 * times + 200)])


def unmet(runs):
    return [Hypothesis("the step", 0.5, "at most 0.1", False)]


SMALL = Preset("nobody_small", "Figure 1", "A seed draws the start.", True, 12, 5, descents)
OTHER = Preset("nobody_other", "Figure 2", "A seed draws the start.", False, 12, 5, other)
POWER = Power("that one start in three fails", 8, lambda rng: [always("", rng.random(8) > 1 / 3)])
CONTROL = Control("too large a step", {"step_size": 3.0}, {}, 5)
GIVEN = dict(formula="1 = 1", plot=plotted, power=POWER, control=CONTROL)
PAPER = Paper(
    __name__,
    title="Nothing in particular",
    authors=("A. Nobody", "Some Body"),
    year=2030,
    claims=(
        Claim("C901", "it converges", "Fact 1", "It converges.", preset=SMALL, judge=judged, **GIVEN),
        Claim("C902", "it never does", "Fact 2", "It never does.", preset=SMALL, judge=wrong, **GIVEN),
        Claim("C903", "so", "Fact 3", "So.", preset=OTHER, judge=wrong, hypotheses=unmet, **GIVEN),
    ),
)
"""
EMPTY = """
from jaxfact.papers import Paper

PAPER = Paper(__name__, title="Nothing at all", authors=("Some Body",), year=2031, claims=())
"""


@pytest.fixture
def nobody(monkeypatch, tmp_path_factory):
    """Put two papers into the folder of papers, one of them without claims."""
    folder = tmp_path_factory.mktemp("papers")
    for name, text in {"nobody_2030": NOBODY, "body_2031": EMPTY}.items():
        (folder / f"{name}.py").write_text(text)
        monkeypatch.setitem(sys.modules, f"jaxfact.papers.{name}", None)  # so that it is forgotten afterwards
        del sys.modules[f"jaxfact.papers.{name}"]
    monkeypatch.setattr(papers, "__path__", [*papers.__path__, str(folder)])


@pytest.mark.usefixtures("nobody")
def test_verdicts_come_as_objects_with_datasets():
    """Claims of one preset share its runs; hypotheses, identities and the chance of a false alarm stand beside."""
    told = []
    found = jf.verify("nobody-2030", progress=lambda *counts: told.append(counts))
    assert [one.verdict for one in found.claims] == [Verdict.HOLDS, Verdict.VIOLATED, Verdict.OUTSIDE]
    assert found.violated == ("C902",)
    assert found["C901"].runs is found["C902"].runs
    assert isinstance(found["C901"].runs["runs"], xr.Dataset)
    assert found["C901"].runs["runs"].sizes["seed"] == 12
    assert found["C901"].command == "jaxfact verify C901 --seeds 12 --x64"
    assert {"imbalance_change", "rotation"} == set(found["C901"].defects)
    assert 0 < max(found["C901"].defects.values()) <= 1
    assert found.alarm == pytest.approx(2 * 2e-5)
    assert (told[-1], {total for _, total in told}) == ((10, 10), {10})
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert repr(found) == "Verification(C901: holds, C902: violated, C903: outside hypotheses)"
    assert (
        "Of 3 claims 1 holds (C901), 1 is violated (C902) and 1 is outside its hypotheses (C903)."
        in found._repr_html_()
    )
    with pytest.raises(ValueError, match="claim=C1: is not among those that were run, C901, C902, C903"):
        found["C1"]
    one = jf.verify("c901")
    assert one["c901"].claim.id == "C901"
    assert jf.report(one).found.startswith("C901 holds: fraction that converge: 1 [")
    assert jf.report(one).again == "jaxfact verify C901 --x64"


def test_a_broken_step_breaks_an_identity():
    """Its sign is right and its size is read off the step, but V moves by a gradient of its own: 1 % of it is added."""
    problem = jf.Factorization(np.array([1.0, 0.5]), shape=(5, 4))
    start = jf.Factors(*(np.random.default_rng(side).normal(size=(size, 2)) for side, size in enumerate((5, 4))))
    sound = identities.of_run(Run(problem, start, jf.methods.gradient_descent(0.05)), 50)
    assert max(sound.values()) <= 1

    class Bent(jf.Factorization):
        def gradient(self, factors):
            found = super().gradient(factors)
            return jf.Factors(found.U, found.V + 0.01 * factors.V[0])

    bent = identities.of_run(
        Run(Bent(np.array([1.0, 0.5]), shape=(5, 4)), start, jf.methods.gradient_descent(0.05)), 50
    )
    assert max(bent.values()) > 1


@pytest.mark.usefixtures("nobody")
def test_identities_that_are_not_finite_decide_nothing(monkeypatch):
    monkeypatch.setattr(verifying, "defects", lambda made: {"rotation": float("nan")})
    found = jf.verify("C901", seeds=8)
    assert found["C901"].verdict is Verdict.INCONCLUSIVE
    assert jf.report(found).lines == ["C901: its runs are not finite from the first step on: rotation"]


def test_several_sweeps_share_no_folder_with_something_else(tmp_path):
    """A store of its own sweep is there from an earlier call; anything else in the folder is another's."""
    problem = jf.Factorization(np.array([1.0, 0.5]), shape=(4, 3))
    run = jf.Run(problem, jf.starts.Gaussian(2, scale=0.1), jf.methods.gradient_descent(0.5))
    for seeds in (2, 3):
        sweeps = papers.Sweeps(seeds, store=tmp_path / "runs", count=2)
        assert sweeps("a", lambda: run, max_steps=20).sizes["seed"] == seeds
    with pytest.raises(ValueError, match="holds something, but no runs of this claim"):
        papers.Sweeps(2, store=tmp_path / "runs", count=2)("c", lambda: run, max_steps=20)
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["a.zarr"]


@pytest.mark.usefixtures("nobody")
def test_the_command_tells_a_table_and_leaves_a_page(call, tmp_path):
    code, out, err = call("verify", "C901", "C903", "--seeds", "8")
    assert (code, err) == (0, "")
    assert "it converges" in out
    assert "outside" in out
    assert "the step is 0.5, not at most 0.1" in out
    assert out.splitlines()[-1].endswith("page: jaxfact-verify/report.html")
    page = (tmp_path / "jaxfact-verify" / "report.html").read_text()
    assert page.count("<figure>") == 2
    assert "Made again by: jaxfact verify C901 --seeds 8" in page
    stored = jf.open_results(tmp_path / "jaxfact-verify" / "nobody_small" / "runs.zarr")
    assert stored.sizes["seed"] == 8
    code, out, err = call("verify", "nobody-2030", "--out", "new", "--json")
    printed = json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert (code, err) == (1, "page: new/report.html\n")
    assert {name: claim["verdict"] for name, claim in printed["claims"].items()} == {
        "C901": "holds",
        "C902": "violated",
        "C903": "outside hypotheses",
    }
    assert printed["claims"]["C902"]["findings"][0]["expected"] == "> 1e+06"


@pytest.mark.usefixtures("nobody")
def test_a_store_goes_on_with_more_seeds_and_is_of_one_claim(call, tmp_path):
    assert call("verify", "C901", "--seeds", "8", "--store", "runs.zarr", "--out", "a").code == 0
    assert call("verify", "C901", "--seeds", "12", "--store", "runs.zarr", "--out", "b").code == 0
    assert jf.open_results(tmp_path / "runs.zarr").sizes["seed"] == 12
    assert not (tmp_path / "b" / "nobody_small").exists()
    for claim in ("C31", "C903"):
        refused = call("verify", claim, "--store", "runs.zarr")
        assert_one_line(refused, re.escape("store=runs.zarr: was made by another sweep: "))
    assert not (tmp_path / "jaxfact-verify").exists()


@pytest.mark.usefixtures("nobody")
def test_an_interrupt_keeps_the_claims_that_are_done(call, monkeypatch, tmp_path):
    real = verifying._of_preset

    def interrupted(preset, *rest):
        if preset.name == "nobody_other":
            raise KeyboardInterrupt
        return real(preset, *rest)

    monkeypatch.setattr(verifying, "_of_preset", interrupted)
    code, out, err = call("verify", "nobody-2030")
    assert code == 130
    assert "it converges" in out
    assert err == "jaxfact: interrupted before C903\n"
    assert (tmp_path / "jaxfact-verify" / "report.html").exists()


@pytest.mark.usefixtures("nobody")
def test_a_claim_that_fails_does_not_take_the_others_with_it(call, monkeypatch, tmp_path):
    """One fails as it is judged, beside another of the same runs, and one as it is run; what was alone is raised."""
    paper = papers.find("nobody-2030")
    _, never, other = paper.claims

    def fails(*_, **__):
        raise ZeroDivisionError("no number\nhere")

    monkeypatch.setitem(never.__dict__, "judge", fails)
    monkeypatch.setitem(other.preset.__dict__, "job", fails)
    code, out, err = call("verify", "nobody-2030", "--seeds", "8")
    told = [f"{name}: ended in ZeroDivisionError: no number here" for name in ("C902", "C903")]
    assert (code, err) == (2, f"jaxfact: {'; '.join(told)}\n")
    assert "it converges" in out
    assert jf.open_results(tmp_path / "jaxfact-verify" / "nobody_small" / "runs.zarr").sizes["seed"] == 8
    code, out, err = call("paper", "nobody-2030", "--seeds", "8", "--json")
    assert (code, err) == (2, f"page: {Path('jaxfact-paper', 'report.html')}\njaxfact: {'; '.join(told)}\n")
    assert list(json.loads(out)["claims"]) == ["C901"]
    assert list(json.loads(out)["failed"]) == ["C902", "C903"]
    found = jf.verify("nobody-2030", seeds=8)
    assert repr(found) == "Verification(C901: holds, C902: ZeroDivisionError, C903: ZeroDivisionError)"
    assert found.left_out == ()
    with pytest.raises(ValueError, match="claim=C903: ended in ZeroDivisionError: no number"):
        found["C903"]
    with pytest.raises(ZeroDivisionError):
        jf.verify("C903")


@pytest.mark.usefixtures("nobody")
def test_the_commands_list_claims(call):
    code, out, err = call("verify", "--list")
    assert (code, err) == (0, "")
    assert all(name in out for name in papers.claims())
    listed = json.loads(call("verify", "C901", "C1", "--list", "--json").out)
    assert list(listed) == ["C1", "C901"]
    assert listed["C901"]["control"] == "too large a step"
    code, out, err = call("paper")
    assert (code, err) == (0, "")
    for paper in map(papers.find, papers.names()):
        assert f"{paper.name}: {paper.citation}" in out
        for claim in paper.claims:
            assert f"{claim.id} ({claim.place}): {claim.statement.split()[0]}" in out


@pytest.mark.usefixtures("nobody")
def test_the_command_prints_all_numbers_of_a_paper(call, tmp_path):
    code, out, err = call("paper", "nobody-2030", "--seeds", "8", "--out", "new")
    assert (code, err) == (0, "")
    assert "C901, it converges: holds (Nobody & Body (2030), Fact 1)" in out
    assert "fraction that converge" in out
    assert out.splitlines()[-1] == "page: new/report.html"
    page = (tmp_path / "new" / "report.html").read_text(encoding="utf-8")
    assert "<h1>Nobody &amp; Body (2030), " in page
    assert '<p class="found">Of 3 claims 1 holds (C901)' in page
    assert (page.count("<figure>"), page.count("<h3")) == (3, 3)
    assert '<pre class="again">jaxfact paper nobody-2030 --seeds 8</pre>' in page
    assert jf.open_results(tmp_path / "new" / "nobody_other" / "runs.zarr").sizes["seed"] == 8


REFUSED = {
    "paper nothing": "paper=nothing: the papers are body-2031, ",
    "paper nobody-2030 --seeds 0": "seeds=0",
    "paper nobody-2030 --width 3": "No such option: --width",
    "paper nobody-2030 matrix.npy": "unexpected extra argument",
    "paper --seeds 3": "paper=None: --seeds, --out and --json need a name",
    "verify C9011": "claim=C9011: is neither the id of a claim nor the name of a paper; C901 may be meant",
    "verify ye-du-2012": "claim=ye-du-2012: is neither the id of a claim nor the name of a paper; ye-du-2021 may be",
    "verify body-2031": "paper=body-2031: has no claims yet",
    "verify C901 --seeds 5": "seeds=5: C901 needs 8 to notice, with probability 0.95, that one start in three fails",
    "verify C901 C903 --store a.zarr": "store=a.zarr: holds the runs of one preset, and these claims have 2",
    "verify C901 --store s4://a/b.zarr": "store=s4://a/b.zarr: needs a path, or a URL that begins with s3://",
    "verify --list --seeds 5": "--list=--seeds: runs nothing",
}


@pytest.mark.usefixtures("nobody")
@pytest.mark.parametrize("arguments", REFUSED)
def test_what_cannot_be_done_is_refused_in_one_line(call, tmp_path, arguments):
    assert_one_line(call(*arguments.split()), re.escape(REFUSED[arguments]))
    assert list(tmp_path.iterdir()) == []
