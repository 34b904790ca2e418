"""What shows itself: progress while somebody waits, cards in notebooks, sentences, and the accessor of a dataset."""

import dataclasses
import io
import math
import re
import subprocess
import sys
import threading
import types
from html.parser import HTMLParser

import numpy as np
import pytest
import xarray as xr
from commands import SWEPT
from matplotlib.figure import Figure
from runs import NARROW

import jaxfact as jf
from jaxfact.descent import Trajectory
from jaxfact.jobs import sentences
from jaxfact.reports import again, phase
from jaxfact.results.stats import PairedErrors, PairedTimes
from jaxfact.results.success import finished, in_one_sentence
from jaxfact.showing import progress
from jaxfact.showing.pace import WORK, Pace, duration
from jaxfact.store import experiment_file

EVIL = "<script>alert(1)</script>"


def test_pace_counts_what_this_process_did():
    """100 runs were there; 50 more in 10 s are five a second, and leave 850 for 170 s. Outcomes are read each 5 s."""
    clock, reads = [0.0], []

    def counts():
        reads.append(clock[0])
        return {"diverged": 3, "converged": 147}

    pace = Pace(counts=counts, clock=lambda: clock[0])
    assert (pace.amount(), pace.speed()) == ("reading and compiling", "")
    pace.told(100, 1000)
    for clock[0], done in ((1, 105), (2, 110), (10, 150)):
        pace.told(done, 1000)
        said = pace.speed()
    assert pace.amount() == "150 of 1000 runs"
    assert said == "5 runs/s, 2 min 50 s left; converged 147, diverged 3"
    assert reads == [1, 10]
    work = Pace(WORK, clock=lambda: clock[0])
    work.told(3, 9)
    assert work.speed() == "time left unknown"


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "0 s"), (59.4, "59 s"), (60, "1 min 0 s"), (3725, "1 h 2 min"), (200000, "2 d 7 h")]
)
def test_durations(seconds, words):
    assert duration(seconds) == words


class Stream(io.StringIO):
    """An error stream that tells when it was written to so many times."""

    def __init__(self, wanted: int, terminal: bool = False):
        super().__init__()
        self.wanted, self.terminal, self.met = wanted, terminal, threading.Event()

    def isatty(self) -> bool:
        return self.terminal

    def flush(self) -> None:
        self.wanted -= 1
        if self.wanted <= 0:
            self.met.set()


def watched(monkeypatch, stream: Stream, **more) -> None:
    """Show the progress of 7 of 9 runs until the stream has been written to as often as it wants."""
    monkeypatch.setattr(sys, "stderr", stream)
    with progress.shown_progress(True, **more) as tell:
        tell(0, 9)
        tell(7, 9)
        assert stream.met.wait(20)


def test_a_log_gets_a_line_now_and_then(monkeypatch, capsys):
    """And at first after ten seconds, so that what is quick says nothing; nothing is said on standard output."""
    monkeypatch.setattr(progress, "_LINE", 0.02)
    stream = Stream(2)
    watched(monkeypatch, stream, counts=lambda: {"converged": 7})
    first, *_ = lines = stream.getvalue().splitlines()
    assert len(lines) >= 2
    assert first.startswith("jaxfact: 7 of 9 runs, ")
    assert first.endswith("; converged 7")
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(sys, "stderr", quick := Stream(1))
    monkeypatch.setattr(progress, "_LINE", 10.0)
    with progress.shown_progress(True) as tell:
        tell(9, 9)
    assert quick.getvalue() == ""


def test_a_terminal_gets_a_bar_that_goes(monkeypatch, capsys):
    monkeypatch.setattr(progress, "_QUICK", 0.01)
    monkeypatch.setattr(progress, "_REFRESHED", 0.01)
    monkeypatch.setenv("TERM", "xterm")
    stream = Stream(4, terminal=True)
    watched(monkeypatch, stream)
    drawn = stream.getvalue()
    assert "7 of 9 runs" in drawn
    assert drawn.endswith("\x1b[2K")  # the line is erased
    assert capsys.readouterr().out == ""


def test_a_notebook_gets_a_display_that_empties(monkeypatch):
    """By a stand-in for IPython that keeps what it is to display."""
    shown, drawn = [], threading.Event()

    class Handle:
        def update(self, content, raw):
            shown.append(content)

    def display(content, raw, display_id):
        shown.append(content)
        drawn.set()
        return Handle()

    kernel = types.SimpleNamespace(kernel=1)
    module = types.SimpleNamespace(get_ipython=lambda: kernel)
    monkeypatch.setitem(sys.modules, "IPython", module)
    monkeypatch.setitem(sys.modules, "IPython.display", types.SimpleNamespace(display=display))
    monkeypatch.setattr(progress, "_QUICK", 0.01)
    with progress.shown_progress(True) as tell:
        tell(7, 9)
        assert drawn.wait(20)
    assert '<progress value="7" max="9"' in shown[0]["text/html"]
    assert shown[-1] == {"text/plain": "", "text/html": ""}


def test_progress_may_be_a_function_or_nothing_and_is_shown_once(monkeypatch):
    told, before = [], threading.active_count()
    with progress.shown_progress(lambda *counts: told.append(counts)) as tell, progress.shown_progress(False) as silent:
        tell(1, 2)
        silent(2, 2)
        assert threading.active_count() == before
    assert told == [(1, 2)]
    with progress.shown_progress(True), progress.shown_progress(True):
        assert threading.active_count() == before + 1
    monkeypatch.setattr(progress, "_LINE", 0.0)
    monkeypatch.setattr(sys, "stderr", None)
    with progress.shown_progress(True) as tell:  # no stream, and no error
        tell(1, 2)
    with pytest.raises(ValueError, match="progress='on': needs a function of two counts, True or False"):
        progress.shown_progress("on").__enter__()


class Words(HTMLParser):
    """Collects the text and the tags of HTML."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.text += f"{data}\n"


def card(thing) -> str:
    """Return the text of what a notebook shows, which is small and without scripts, styles and colours of its own."""
    text = thing._repr_html_()
    words = Words(text)
    assert len(text) < 6000
    assert not {*words.tags} & {"script", "style", "link", "img"}
    assert set(re.findall(r"(?<![-\w])(?:color|background):([^;\"]*)", text)) <= {"inherit", "none"}
    return words.text


def test_problems_and_runs_show_themselves():
    method = jf.methods.balanced(0.5, 0.125)
    assert "5×4\n" in card(NARROW)
    assert "1, 0.6\n" in card(NARROW)
    for problem in (jf.Tied(jf.Factorization(np.eye(3))), jf.Completion.from_matrix([[1.0, 2], [np.nan, 4]])):
        assert f"{type(problem).__name__}\n" in card(problem)
    said = card(jf.Run(NARROW, jf.starts.Gaussian(2, scale=0.1), method))
    assert "Gaussian(width=2, scale=" in said
    assert "add_balancing(weight=0.125) → scale(step_size=-0.5)" in said
    assert "U (5, 2), V (4, 2), float64" in card(jf.Run(NARROW, jf.Factors(np.ones((5, 2)), np.ones((4, 2))), method))


def test_a_status_shows_itself(unfinished):
    said = card(jf.status(unfinished))
    assert "36 of 54 runs (66.7 %)" in said
    assert "nobody" in said
    evil = dataclasses.replace(jf.status(unfinished), path=EVIL)
    assert EVIL not in evil._repr_html_()
    assert EVIL in card(evil)


def test_the_accessor_is_the_statistics(stored):
    runs = jf.open_results(stored)
    xr.testing.assert_identical(runs.jaxfact.outcomes(), jf.stats.outcome_fractions(runs))
    xr.testing.assert_identical(runs.jaxfact.times(1e-4).hit, jf.stats.time_to(runs, 1e-4).hit)
    assert repr(runs.jaxfact.times(1e-4)).startswith(f"Times({runs.sizes['step_size']} step_size, ")
    plain = runs.jaxfact.sel_variant("plain")
    xr.testing.assert_identical(plain, runs.sel(variant="plain"))
    assert plain.jaxfact.sel_variant("plain") is plain
    assert runs.jaxfact.sel_variant("slow", "plain").variant.values.tolist() == ["slow", "plain"]
    with pytest.raises(ValueError, match="variant='plaim': the variants are plain, slow; plain may be meant"):
        runs.jaxfact.sel_variant("plaim")
    assert isinstance(plain.sel(step_size=0.2).jaxfact.plot.curve("distance"), Figure)
    said = card(runs.jaxfact)
    assert "From 0 % (95 % interval 0–39) of the runs of plain at step_size 5 to 100 % (95 % interval 61–100)" in said
    assert "0 – 100 – 100\n" in said
    assert "distance, imbalance\n" in said


@pytest.mark.parametrize("other", [xr.Dataset({"x": ("seed", [1.0])}), xr.Dataset()])
def test_the_accessor_refuses_what_is_no_sweep(other):
    """But only when asked: whoever lists the attributes of a dataset must not stumble over it."""
    assert hasattr(other, "jaxfact")
    for asked in ("outcomes", "times", "_repr_html_", "__repr__"):
        with pytest.raises(ValueError, match="^dataset=.*: is no sweep's, .*; take what jf.sweep or"):
            getattr(other.jaxfact, asked)()


def test_statistics_are_beside_a_dataset_without_matplotlib():
    """And the package loads neither xarray nor JAX until it is asked for something."""
    light = "import sys, jaxfact; assert not {'xarray', 'jax', 'numpy'} & set(sys.modules)"
    asked = "import xarray, jaxfact.store.files; xarray.Dataset().jaxfact; assert 'matplotlib' not in sys.modules"
    ended = subprocess.run([sys.executable, "-c", f"{light}; {asked}"], capture_output=True, text=True)
    assert (ended.stdout, ended.stderr) == ("", "")


def test_what_is_not_begun_is_left_out(stored):
    """A new axis value of which no run is done, a variant half done, and seeds that were not run anywhere."""
    runs = jf.open_results(stored).load()
    outcome = runs.outcome.astype(object)
    outcome.loc[{"step_size": 5.0}] = "pending"
    assert finished(runs.assign(outcome=outcome)).step_size.values.tolist() == [0.2, 0.5]
    outcome.loc[{"seed": [1, 4]}] = "pending"
    left = finished(runs.assign(outcome=outcome))
    assert (left.seed.values.tolist(), left.sizes["variant"]) == ([0, 2, 3, 5], 2)
    outcome.loc[{"step_size": 0.2, "variant": "slow"}] = "pending"
    left = finished(runs.assign(outcome=outcome))  # slow has no seed that is done at 0.2
    assert (left.outcome != "pending").all()
    assert finished(runs.assign(outcome=xr.full_like(outcome, "pending"))) is None
    assert jf.report(runs.assign(outcome=outcome)).found.startswith("So far: ")


def test_one_sentence_of_a_sweep(stored):
    """By hand: six of six runs have Wilson's interval from 0.61, none of six to 0.39."""
    runs = jf.open_results(stored).load()
    one = runs.sel(step_size=0.5, variant="plain")
    middle = np.quantile(one.hit.sel(level=1e-4), 0.5, method="inverted_cdf")
    half = f", half of all at 0.0001 by step {middle:.0f}."
    both = runs.sel(step_size=0.5).load()
    apart = both.assign(tolerance=("variant", [1e-4, 1e-2]))  # both are judged at the coarser one
    assert in_one_sentence(apart).count("half of all at 0.01 by step") == 2
    assert in_one_sentence(one) == f"100 % (95 % interval 61–100) of 6 runs converged{half}"
    gone = runs.sel(step_size=5.0)
    late = np.sort(gone.steps.values, axis=None)[5]  # the sixth of twelve
    assert in_one_sentence(gone) == f"None of 12 runs converged: all of them diverged, half by step {late}."
    same = in_one_sentence(runs.sel(step_size=[0.2, 0.5], variant="plain"))
    assert same == "100 % (95 % interval 61–100) of 6 runs converged at each of 2 points."


def test_the_line_of_python_makes_the_runs_again(stored, experiments):
    """It is executed: the same numbers, though here with records by name and without a store."""
    runs = jf.open_results(stored)
    line = again.of_sweep(runs, None)
    assert line.startswith(
        'jax.config.update("jax_enable_x64", True)\nruns = jf.sweep(methods, seeds=6, max_steps=200, '
    )
    names = {"jf": jf, "jax": types.SimpleNamespace(config=types.SimpleNamespace(update=lambda *_: None))}
    exec(line, names | {"methods": experiment_file.load(f"{experiments}:methods")}, names)
    made = names["runs"]
    for name in ("outcome", "steps", "hit", "distance", "distance_path", "imbalance_path"):
        np.testing.assert_array_equal(made[name], runs[name])
    assert f"store={str(stored)!r}" in again.of_sweep(runs, str(stored))
    assert f"step_size={SWEPT['step_size']}" in line


def paired(ratio, low, high, verdict, *counts):
    return PairedTimes(ratio, low, high, *(counts or (9, 0, 0, 0)), 1.0, verdict, "the reason")


@pytest.mark.parametrize(
    ("pair", "words"),
    [
        (
            paired(1.0, 0.98, 1.02, "equivalent"),
            "b needs as many steps within 5 % (time ratio 1.000, 95 % interval 0.980–",
        ),
        (paired(0.42, 0.4, 0.45, "different"), "b needs 58 % fewer steps (time ratio 0.420, "),
        (
            paired(1.0, 0.9, 1.1, "different", 5, 4, 0, 0),
            "b does not arrive from the same starts (only b on 4, only a on 0",
        ),
        (paired(1.0, 0.9, 1.1, "inconclusive"), "whether b differs by 5 % is left open (time ratio 1.000, "),
        (paired(math.nan, math.nan, math.nan, "inconclusive"), "whether b differs by 5 % is left open (the reason)"),
    ],
)
def test_pairs_in_words(pair, words):
    assert sentences._pair("b", "a", pair).startswith(words)


@pytest.mark.parametrize(
    ("pair", "words"),
    [
        (
            PairedErrors(0.77, 0.7, 0.8, "different", ""),
            "23 % below that of x (95 % interval 30 % below to 20 % below)",
        ),
        (PairedErrors(1, 1, 1, "equivalent", ""), "the same as that of x"),
        (
            PairedErrors(1.01, math.nan, math.nan, "inconclusive", "w"),
            "1 % above that of x on one split, which gives no",
        ),
        (
            PairedErrors(math.nan, math.nan, math.nan, "inconclusive", "it diverged"),
            "no ratio to that of x, as it diverged",
        ),
    ],
)
def test_errors_in_words(pair, words):
    assert sentences._error(pair, "that of x", 5).startswith(words)


def test_a_phase_diagram_says_where_it_changes():
    """Also in memory, with a row of which no run converged."""
    axes = {"fraction": [0.1, 0.2, 0.4], "rank": [1, 2]}
    share = np.array([[0.0, 0.5, 1.0], [0.0, 0.0, 0.0]])
    values = {f"{name}{end}": (("rank", "fraction"), share) for name in ("converged",) for end in ("", "_low", "_high")}
    ends = {"threshold": [0.2, np.nan], "threshold_low": [0.15, 0.0], "threshold_high": [0.3, np.inf]}
    found = xr.Dataset(values | {name: ("rank", of) for name, of in ends.items()}, axes)
    found.attrs = {
        "along": "fraction",
        "across": "rank",
        "seeds": 4,
        "max_steps": 9,
        "tolerance": 0.1,
        "check_every": 3,
    }
    report = jf.report(found)
    assert report.found == (
        "Half of the runs converge at fraction 0.2 [0.15, 0.3] at rank 1 (95 % intervals); at 1 other value of rank "
        "there is none."
    )
    assert report.again.startswith("diagram = jf.phase_diagram(experiment, seeds=4, max_steps=9, tolerance=0.1, ")
    none = phase._in_one_sentence(found.isel(rank=[1]))
    assert none.startswith("No threshold lies within these values of fraction: at every point 0 (0–0) % of the runs")


def test_a_trajectory_is_told_in_under_ten_lines():
    """However much was recorded of it; the numbers are where each record of numbers begins and ends."""
    factors = jf.Factors(np.ones((20, 2)), np.ones((15, 2)))
    records = {"loss": np.array([0.5, 0.25, 0.125]), "values": np.ones((3, 4))} | {
        f"r{k}": np.ones(3) for k in range(9)
    }
    lines = repr(Trajectory(factors, (), np.arange(3), records)).splitlines()
    assert len(lines) < 10
    assert lines[:4] == [
        "Trajectory",
        "  factors: U (20, 2), V (15, 2), float64",
        "  state: nothing",
        "  steps: (3,) from 0 to 2",
    ]
    assert {"  loss: (3,) from 0.5 to 0.125", "  values: (3, 4)", "  and 7 more"} <= set(lines)
