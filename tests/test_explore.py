"""The live explorer: its address, its runs, its maps, and the page itself in headless Chromium, without a network."""

import re
import shutil
import socket
import subprocess
import sys
import time
import zipfile
from urllib.request import urlopen

import numpy as np
import panel as pn
import pytest
from bokeh.events import Tap
from commands import assert_one_line
from numpy.testing import assert_allclose, assert_array_equal
from playwright.sync_api import sync_playwright

import jaxfact as jf
from jaxfact.explore.controls import GIVEN, MADE_UP, METHODS, Choice, Control, address_of, read_address, usual
from jaxfact.explore.laboratory import Laboratory
from jaxfact.explore.map_tab import _ticks
from jaxfact.explore.mapping import CODES, Asked, drawn, pixels, values_along
from jaxfact.explore.page import Page
from jaxfact.explore.pictures import Pictures
from jaxfact.explore.serving import page_of
from jaxfact.explore.summaries import look, sentence, singular_values
from jaxfact.explore.times import Times
from jaxfact.figures.sheets import said_of

CHROMIUM = shutil.which("chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
KNOWN = {one.name: one for one in MADE_UP}


@pytest.fixture(scope="module")
def laboratory():
    return Laboratory()


def at(address):
    return read_address(address, MADE_UP)


@pytest.mark.parametrize(
    "address", ["", "step_size=0.3", "methods=plain,noisy", "width=5&spectrum=step&m=31", "seeds=2000&budget=2000"]
)
def test_an_address_and_a_state_are_the_same(address):
    assert address_of(at(f"?{address}"), MADE_UP) == address
    assert (at(address) == usual(MADE_UP)) == (address == "")


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("step_size=7", "step_size='7': is not in its range; give one from 0.01 to 2."),
        ("step_size=nan", "is not in its range"),
        ("width=2.5", "needs a whole number"),
        ("width=../../etc/passwd", "needs a whole number"),
        ("spectrum=flat", "choose among linear, geometric, step"),
        ("stepsize=0.3", "is no control of this page; step_size may be meant"),
        ("matrix=/etc/passwd", "is no control of this page"),
        ("methods=plain,adam", "choose among plain, balanced"),
        ("methods=", "names no method"),
        ("width=2&rank=3&condition=1", "the best approximations are a set"),
        ("width=1&rank=3&spectrum=step", "the best approximations are a set"),
    ],
)
def test_a_wrong_address_is_refused(address, said):
    with pytest.raises(ValueError, match=re.escape(said)) as refused:
        read_address(address, MADE_UP)
    assert "\n" not in str(refused.value)


def test_a_matrix_has_no_controls_of_a_made_up_target():
    with pytest.raises(ValueError, match="rank.*is no control"):
        read_address("rank=2", GIVEN)
    with pytest.raises(ValueError, match="the explorer is for fully observed matrices"):
        jf.explore(jf.Tied(jf.Factorization(np.eye(6))))
    with pytest.raises(ValueError, match="a target of zeros"):
        jf.explore(jf.Factorization(np.zeros((4, 3))))


def test_a_width_beyond_a_matrix_has_as_many_values_as_the_matrix():
    """A 1×1 matrix has one singular value at any width, and its runs find it."""
    laboratory = Laboratory(jf.Factorization([[3.0]]))
    shown = look(laboratory, read_address("methods=plain&width=4", laboratory.controls))
    (values,) = singular_values(shown, "plain")
    assert_allclose(np.nanmax(values), 1, rtol=1e-3)
    assert shown.signals.shape == (1000,)


@pytest.mark.parametrize("control", [one for one in MADE_UP if isinstance(one, Control)], ids=lambda one: one.name)
def test_a_slider_holds_every_value_of_its_control(control):
    for value in (control.low, control.usual, control.high):
        assert control.off_slider(control.on_slider(value)) == value
    assert control.off_slider(control.on_slider(control.high) + 1) == control.high


def test_a_run_alone_is_that_run_among_a_thousand(laboratory):
    """Bit for bit, by another explorer, made from the address; another seed is another run."""
    state = at("methods=plain&step_size=0.71&width=2&condition=2.5")
    among = laboratory.run(state, state.seeds).sel(variant="plain")
    alone = jf.explore(address_of(state, MADE_UP)).run("plain", seeds=[617])
    for name in ("distance_path", "imbalance_path", "singular_values_path", "steps"):
        assert_array_equal(alone[name].sel(seed=617), among[name].sel(seed=617))
    assert not np.array_equal(alone.distance_path[0], among.distance_path.sel(seed=616))
    with pytest.raises(ValueError, match="choose among plain, balanced"):
        jf.explore().run("plain&width=2")


def test_padding_leaves_the_law_of_the_runs_alone(laboratory):
    """A target padded to rank 5 and factors padded to width 5 arrive when those of rank 2 and width 2 do: medians."""
    state = at("methods=plain&width=2&rank=2&condition=2&scale=0.001")
    padded = laboratory.run(state, 2000).sel(variant="plain").hit.isel(level=-1)
    problem = jf.Factorization([1.0, 0.5], shape=(100, 80))

    def experiment(step_size):
        start = jf.starts.Gaussian(2, scale=0.001)
        return jf.Run(problem, start, jf.methods.gradient_descent(step_size))

    own = jf.sweep(
        experiment, seeds=2000, max_steps=400, tolerance=1e-4, check_every=2, base_seed=1, step_size=0.5, progress=False
    ).hit.isel(level=-1)
    for share in (0.1, 0.5, 0.9):
        assert abs(float(padded.quantile(share)) - float(own.quantile(share))) <= 2
    assert float(own.quantile(0.9) - own.quantile(0.1)) > 6  # steps, which two would not explain


def test_the_sentence_counts_who_arrived(laboratory):
    """In chaos some runs pass through the target and leave it again: they arrived, and did not converge."""
    shown = look(laboratory, at("methods=plain&width=1&rank=1&step_size=1.9"))
    summary = shown.of["plain"]
    arrived = np.isfinite(summary.arrived).sum()
    assert arrived > 1000 * summary.outcomes["converged"]
    assert f"plain: {arrived / 10:.4g} % arrive." in sentence(shown)
    assert "plain: 0 % arrive, 100 % diverge." in sentence(look(laboratory, at("methods=plain&step_size=2&scale=3")))


def test_axes_hold_what_is_drawn_and_no_more(laboratory):
    """Of what diverges at once there is one value, and so no line; what is frozen is held while it is there."""
    pictures, heights = Pictures(lambda *_: None), {}
    for name, address in (("lost", "step_size=2&scale=3"), ("usual", "")):
        shown = look(laboratory, at(f"methods=plain&{address}"))
        pictures.show(shown, "plain", laboratory.target_values(shown.state))
        heights[name] = [pictures.figures[place].y_range.end for place in (0, 4)]
        if name == "lost":
            pictures.freeze(shown)
    assert heights["lost"][0] > 1000
    lost = pictures.figures[0].renderers[-2].data_source.data["distance"][0]  # the median, frozen
    assert lost[0] < heights["lost"][0] / 30 < 1e6 < lost[1]  # it leaves the picture: every run has diverged
    assert heights["lost"][1] == heights["usual"][1] == 1.2
    assert heights["usual"][0] == heights["lost"][0]
    pictures.thaw()
    assert pictures.figures[0].y_range.end == 10


def test_what_is_rounded_to_zero_keeps_its_place(laboratory):
    """Balancing takes the imbalance below what single precision holds; the axis ends there and says so."""
    pictures, state = Pictures(lambda *_: None), at("methods=balanced&width=1&rank=1")
    shown = look(laboratory, state)
    pictures.show(shown, "balanced", laboratory.target_values(state))
    seen, median = pictures.figures[3], shown.of["balanced"].imbalance.median
    assert seen.y_range.start == 1e-9
    assert seen.yaxis.axis_label.endswith("to 10⁻⁹")
    drawn = next(r.data_source.data["median"] for r in seen.renderers if r.visible)
    known = np.isfinite(median)
    assert np.any(median[known] < 1e-9)
    assert_array_equal(np.isfinite(drawn), known)  # none of them is left out
    assert_array_equal(np.float32(drawn)[known], np.maximum(median[known], np.float32(1e-9)))


def test_a_notebook_is_sent_every_change(laboratory, monkeypatch):
    """Nothing is sent there by itself: another method's singular values, and a map that is refused and so removed."""
    sent = []
    monkeypatch.setattr(pn.io, "push_notebook", lambda *panes: sent.append(panes))
    page = Page(laboratory, at("methods=plain,balanced"))
    page.view()
    for change in (
        lambda: setattr(page._of_values, "value", "balanced"),
        lambda: setattr(page._map._y, "value", "step_size"),
    ):
        before = len(sent)
        change()
        assert len(sent) > before


def test_a_start_is_chosen_where_its_dot_is(laboratory):
    chosen = []
    times, state = Times(lambda *one: chosen.append(one)), at("methods=plain,momentum&first_seed=40&rank=1&width=1")
    shown = look(laboratory, state)
    times.show(shown)
    for method, place in (("plain", 3), ("momentum", 700)):
        x, y = -np.log(shown.signals[place]), shown.of[method].arrived[place]
        times._tapped(Tap(times.figure, x=x, y=y))
        name, seed = chosen.pop()
        found = shown.state.seeds.index(seed)
        # Dots may lie on each other, of one method or of two that take as long.
        assert_allclose([-np.log(shown.signals[found]), shown.of[name].arrived[found]], [x, y], atol=1e-6)
    x, y = -np.log(shown.signals[3]), 1e6
    times._tapped(Tap(times.figure, x=x, y=y))
    assert not chosen


@pytest.mark.parametrize(("rank", "width"), [(1, 1), (3, 3), (3, 4), (4, 2)])
def test_signals_of_starts_follow_their_law(laboratory, rank, width):
    """A₀ has normal entries of deviation ε/√2, q×d of them with q = min(r, d); NumPy draws as many by itself."""
    found = laboratory.smallest_signals(at(f"width={width}&rank={rank}&seeds=10000&scale=0.01"))
    drawn = np.random.default_rng(0).normal(size=(40_000, min(rank, width), width)) * 0.01 / 2**0.5
    wanted = np.linalg.svd(drawn, compute_uv=False)[:, -1]
    for share in (0.1, 0.5, 0.9):  # whose standard deviation is below 3.5 %
        assert_allclose(np.quantile(found, share), np.quantile(wanted, share), rtol=0.1)
    if width != 3:
        assert_allclose(
            laboratory.smallest_signals(at(f"width={width}&rank={rank}&seeds=10000&scale=0.02")), 2 * found, rtol=1e-4
        )


def test_curves_are_those_of_the_figures(laboratory):
    state = at("methods=plain&seeds=1000")
    shown = look(laboratory, state)
    columns = said_of(jf.figures.distance(laboratory.run(state, state.seeds))).columns
    (median,) = (values for name, values in columns.items() if name.endswith("median"))
    (low,) = (values for name, values in columns.items() if name.endswith("low"))
    assert_array_equal(shown.of["plain"].distance.median, median)
    assert_array_equal(shown.of["plain"].distance.low, low)
    assert np.isnan(median[-1])  # it ends where half of the runs were stopped
    for each in singular_values(shown, "plain"):  # and so do these, which may be those of runs that went on
        assert_array_equal(np.isnan(each), np.isnan(shown.of["plain"].distance.median))
    summary = shown.of["plain"]
    assert (summary.gone[0], summary.waiting[0]) == (0, 1)
    assert summary.waiting[-1] == 1 - summary.outcomes["converged"]


@pytest.mark.parametrize("name", ["rank", "damping", "m", "step_size", "weight", "ratio"])
def test_every_tick_of_a_map_is_named_as_it_is(name):
    """A name that was left to the browser would be that of a tick of another control at the same place."""
    one = KNOWN[name]
    ends = one.on_slider(one.low), one.on_slider(one.high)
    found = _ticks(one, *ends)
    ticks, names = found["ticker"].ticks, found["major_label_overrides"]
    assert len(ticks) >= 3
    assert {*ticks} == {*names}
    for tick, text in names.items():
        assert ends[0] - 1e-9 <= tick <= ends[1] + 1e-9
        assert float(text) == pytest.approx(10**tick if one.logarithmic else tick, rel=1e-3)


def asked(points, x_ends, **more):
    return Asked("plain", KNOWN["step_size"], KNOWN["scale"], x_ends, (1e-4, 1e-2), points, more.get("seeds", 4))


def test_a_map_fills_in_and_knows_the_edge(laboratory):
    """Of a scalar balanced run u ↦ u + ηu(1 − u²): stable to η = 1, then of period 2 to √5 − 1, then of period 4."""
    state = at("width=1&rank=1&methods=plain")
    maps = list(drawn(laboratory, state, asked(65, (0.5, 2.0)), lambda: True))
    first, last = maps[0].outcome, maps[-1].outcome
    assert not np.isnan(first).any()
    assert_array_equal(first[::32, ::32], last[::32, ::32])
    assert len(np.unique(first[:32, :32])) == 1 < len(np.unique(last[:32]))
    steps = values_along(KNOWN["step_size"], (0.5, 2.0), 65)

    def codes(low, high):
        part = last[:, (steps > low) & (steps < high)]
        return [CODES[int(code)] for code in np.unique(part)], part

    assert codes(0.5, 0.97)[0] == ["converged"]
    assert codes(1.03, 1.20)[0] == ["period 2"]
    assert codes(1.25, 1.28)[0] == ["period 4"]
    assert "period 2" not in codes(1.4, 2.0)[0]
    assert_array_equal(maps[-1].fraction[:, steps < 0.97], 1)
    assert np.isinf(maps[-1].time[:, steps > 1.03]).all()


def test_a_value_lies_in_the_middle_of_its_pixels():
    width, m = KNOWN["width"], KNOWN["m"]
    shown, low, high = pixels(width, values_along(width, (1, 5), 100), 100)
    assert (shown.tolist(), low, high) == ([0, 1, 2, 3, 4], 0.5, 5.5)
    values = values_along(m, (10, 40), 100)  # whole numbers, which are not evenly spaced in their logarithm
    shown, low, high = pixels(m, values, 200)
    at = low + (np.arange(200) + 0.5) * (high - low) / 200
    assert_array_equal(shown, [np.abs(np.log10(values) - place).argmin() for place in at])
    assert len(values) == 31
    assert set(shown) == set(range(31))


def test_a_map_that_is_left_stops(laboratory):
    asks = iter([True, False])
    assert len(list(drawn(laboratory, at("width=1&rank=1"), asked(64, (0.5, 0.9)), lambda: next(asks)))) == 1


def test_a_map_leaves_contradictions_out(laboratory):
    """Below the rank 3, where all singular values are equal: that is at condition number 1 alone."""
    wanted = Asked("plain", KNOWN["width"], KNOWN["condition"], (1, 3), (1.0, 10.0), 8, 1)
    (*_, last) = drawn(laboratory, usual(MADE_UP), wanted, lambda: True)
    for found in last:
        assert_array_equal(np.isnan(found), [[True, True, False], *[[False] * 3] * 7])
    with pytest.raises(ValueError, match="the best approximations are a set"):
        next(drawn(laboratory, usual(MADE_UP), wanted._replace(x_ends=(1, 2), y_ends=(1.0, 1.0)), lambda: True))


# The page


FIND = """() => {
window.all = () => Bokeh.documents.flatMap((d) => [...d._all_models.values()])
window.figure = (name) => all().find((m) => m.type == 'Figure' && m.name == name)
window.widget = (title) => all().find((m) => m.title == title && m.value !== undefined)
window.source = (name) => figure(name).renderers.at(-1).data_source
window.after = (name, act) => new Promise((done, fail) => {
  const it = source(name)
  const seen = () => { it.properties.data.change.disconnect(seen)
    requestAnimationFrame(() => requestAnimationFrame(() => done(true))) }
  it.properties.data.change.connect(seen)
  setTimeout(() => fail('no other picture'), 30000)
  act() })
}"""


@pytest.fixture(scope="module")
def server(laboratory):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    served = pn.serve(
        {"/": page_of(laboratory)},
        port=port,
        address="127.0.0.1",
        websocket_origin=[f"127.0.0.1:{port}"],
        show=False,
        verbose=False,
        threaded=True,
    )
    yield f"http://127.0.0.1:{port}/"
    served.stop()


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield made
        made.close()


@pytest.fixture
def opened(browser, server):
    """A function that opens an address, and the wrong things that pages have asked for or said."""
    wrong, pages = [], []

    def page_at(address=""):
        page = browser.new_page(viewport={"width": 1400, "height": 1000}, accept_downloads=True)
        pages.append(page)
        page.on("request", lambda request: _asked_elsewhere(request.url, wrong))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(f"{server}?{address}" if address else server)
        page.wait_for_function("window.Bokeh && Bokeh.documents.length > 0")
        page.evaluate(FIND)
        page.wait_for_function("all().length > 50 && source('outcomes') && figure('times').inner_width > 0")
        page.wait_for_function("figure('outcomes').renderers[0].data_source.get_length() > 0", timeout=60_000)
        return page

    yield page_at
    for page in pages:
        page.close()
    assert wrong == []


def _asked_elsewhere(url, wrong):
    if not url.startswith(("http://127.0.0.1", "data:", "blob:")):
        wrong.append(url)


def grid(page):
    """Return the pixels of all pictures."""
    page.wait_for_timeout(50)
    return page.screenshot(clip={"x": 250, "y": 90, "width": 1150, "height": 560})


FEW = "methods=plain"
MOVED = [
    ("step_size", -0.2), ("scale", -3.0), ("ratio", 1.0), ("width", 2), ("condition", 0.9),
    ("spectrum", "geometric"), ("rank", 2), ("m", 1.6), ("n", 1.3), ("seeds", 3.2), ("first_seed", 5),
    ("budget", "2000"),
]  # fmt: skip


def test_every_control_changes_the_pictures(opened):
    page = opened(FEW)
    assert page.evaluate(
        "['distance', 'survival', 'times', 'imbalance'].every((name) => figure(name).inner_width > 250)"
    )
    before = grid(page)
    for name, place in MOVED:
        page.evaluate(
            "([title, value]) => after('outcomes', () => { widget(title).value = value })", [KNOWN[name].label, place]
        )
        now = grid(page)
        assert now != before, name
        before = now
    address = page.evaluate("location.search")
    assert read_address(address, MADE_UP).values["budget"] == "2000"
    assert {one for one, _ in MOVED} == set(read_address(address, MADE_UP).values) - {
        "weight",
        "noise",
        "momentum",
        "damping",
    }


@pytest.mark.parametrize(
    ("method", "name", "place"),
    [("balanced", "weight", 1.0), ("momentum", "momentum", 0.9), ("noisy", "noise", -1.5), ("scaled", "damping", 0.5)],
)
def test_numbers_of_a_method_change_its_pictures(opened, method, name, place):
    page = opened(f"methods={method}")
    before = grid(page)
    page.evaluate(
        "([title, value]) => after('outcomes', () => { widget(title).value = value })", [KNOWN[name].label, place]
    )
    assert grid(page) != before


def test_a_key_moves_a_slider_and_a_box_a_method(opened):
    page = opened(FEW)
    before, pages = grid(page), page.evaluate("history.length")
    page.locator(".noUi-handle").first.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function("location.search.includes('step_size=')")
    assert page.evaluate("history.length") == pages  # going back leaves the page, and does not undo the address alone
    assert read_address(page.evaluate("location.search"), MADE_UP).values["step_size"] > 0.5
    page.evaluate("window.rows = figure('outcomes').renderers[0].data_source.get_length()")
    page.get_by_text("balanced", exact=True).first.click()
    page.wait_for_function("figure('outcomes').renderers[0].data_source.get_length() == rows + 1", timeout=60_000)
    assert grid(page) != before


def test_a_click_on_a_run_prints_the_line_that_makes_it_again(opened):
    page = opened(f"{FEW}&step_size=0.62&first_seed=7")
    place = page.evaluate(
        """() => { const view = Bokeh.index.find_one_by_id(figure('times').id), r = figure('times').renderers[0]
        const s = r.data_source.data, at = s.y.reduce((best, y, i) => y > s.y[best] ? i : best, 0)
        const box = view.canvas_view.el.getBoundingClientRect(), f = view.frame
        return [box.x + f.x_scale.compute(s.x[at]), box.y + f.y_scale.compute(s.y[at]), s.y[at]] }"""
    )
    before = grid(page)
    page.mouse.click(place[0], place[1])
    page.wait_for_selector("text=The same run again")
    line = page.locator("pre").inner_text()
    names = {"jf": jf}
    exec(f"run = {line}", names)
    run = names["run"]
    assert float(run.hit[0, -1]) == place[2]
    path = page.evaluate("[...figure('distance').renderers.at(-1).data_source.data.distance]")
    assert_array_equal(np.float32(path), run.distance_path.values[0, : len(path)])
    assert grid(page) != before


def test_what_is_frozen_stays_until_it_is_cleared(opened):
    page = opened(FEW)
    frozen = "figure('survival').renderers[0].data_source.data.step.length"
    page.get_by_text("freeze", exact=True).click()
    page.wait_for_function(f"{frozen} == 1")
    page.evaluate("after('outcomes', () => { widget('step size η · σ₁').value = -0.6 })")
    assert page.evaluate(frozen) == 1
    page.get_by_text("clear", exact=True).click()
    page.wait_for_function(f"{frozen} == 0")


def test_export_holds_figures_data_and_the_script(opened, tmp_path, monkeypatch):
    page = opened(f"{FEW}&step_size=0.4")
    with page.expect_download(timeout=60_000) as begun:
        page.get_by_text("export", exact=True).click()
    begun.value.save_as(tmp_path / "explorer.zip")
    packed = zipfile.ZipFile(tmp_path / "explorer.zip")
    assert {"again.py", "runs.csv", "distance.pdf", "survival.dat", "imbalance.tex"} <= set(packed.namelist())
    rows = packed.read("runs.csv").decode().splitlines()
    assert len(rows) == 1001
    assert rows[0] == "variant,seed,outcome,steps,distance,imbalance,T,sigma_min_A0"
    monkeypatch.chdir(tmp_path)
    exec(packed.read("again.py").decode(), names := {})
    assert (tmp_path / "distance.png").exists()
    last = dict(zip(rows[0].split(","), rows[-1].split(","), strict=True))
    assert float(names["runs"].hit[0, -1, -1]) == float(last["T"])


def test_a_wrong_address_is_said_in_a_line_and_the_usual_page_shown(opened):
    page = opened("step_size=7")
    said = page.get_by_text("step_size='7': is not in its range; give one from 0.01 to 2.")
    said.wait_for()
    assert page.evaluate("widget('step size η · σ₁').value") == pytest.approx(np.log10(0.5))
    page.evaluate("after('outcomes', () => { widget('width d').value = 2 })")
    said.wait_for(state="hidden")


def test_a_contradiction_is_refused_and_the_page_goes_on(opened):
    page = opened(f"{FEW}&rank=3&condition=1")
    page.evaluate("() => { widget('width d').value = 2 }")
    said = page.get_by_text("the best approximations are a set")
    said.wait_for()
    page.evaluate("after('outcomes', () => { widget('width d').value = 3 })")
    said.wait_for(state="hidden")


def test_nothing_is_run_while_a_control_holds_nothing(opened):
    """An emptied number and no method are refused in a line, until a move mends them."""
    page = opened(FEW)
    page.evaluate("() => { widget('first seed').value = null }")
    page.get_by_text("first_seed=nothing: needs a whole number; give one.").wait_for()
    page.get_by_text("plain", exact=True).first.click()
    none = page.get_by_text("methods=none: one is needed; choose one.")
    none.wait_for()
    shown = page.evaluate("figure('outcomes').renderers[0].data_source.data.converged[0]")
    page.evaluate("() => { widget('step size η · σ₁').value = 2 }")
    page.wait_for_timeout(500)
    assert none.is_visible()
    assert page.evaluate("figure('outcomes').renderers[0].data_source.data.converged[0]") == shown
    page.get_by_text("plain", exact=True).first.click()
    page.wait_for_function("figure('outcomes').renderers[0].data_source.data.diverged[0] == 1")
    assert not none.is_visible()


def test_a_map_is_drawn_and_dragging_zooms(opened):
    page = opened("methods=plain&width=1&rank=1")
    page.get_by_text("Map", exact=True).click()
    page.wait_for_function("widget('points a side') && figure('map')")
    page.evaluate("() => { widget('points a side').value = '100' }")
    page.wait_for_function(
        "source('map').data.image?.length && source('map').data.image[0].shape?.[0] == 100", timeout=60_000
    )
    page.get_by_text("drawing", exact=True).wait_for(state="hidden", timeout=60_000)
    image = "[...source('map').data.image[0]].filter((v) => v == {}).length"
    before = {code: page.evaluate(image.format(code)) for code in range(len(CODES))}
    assert before[0] > 2000
    assert before[CODES.index("period 2")] > 100
    box = page.evaluate(
        """() => { const view = Bokeh.index.find_one_by_id(figure('map').id), f = view.frame
        const b = view.canvas_view.el.getBoundingClientRect()
        return [[-0.05, -4], [0.2, -2]].map(([x, y]) => [b.x + f.x_scale.compute(x), b.y + f.y_scale.compute(y)]) }"""
    )
    page.mouse.move(*box[0])
    page.mouse.down()
    page.mouse.move(*box[1], steps=4)
    page.mouse.up()
    page.wait_for_function("figure('map').x_range.start > -0.1", timeout=60_000)
    assert page.evaluate("figure('map').x_range.end") < 0.25
    page.get_by_text("zoom out", exact=True).click()
    page.wait_for_function("figure('map').x_range.start < -1.9", timeout=60_000)
    page.evaluate("(label) => { widget(label).value = 2 }", KNOWN["rank"].label)
    page.get_by_text("have been moved since").wait_for()
    page.evaluate("(label) => { widget(label).value = 0 }", KNOWN["condition"].label)
    page.get_by_text("draw", exact=True).click()
    page.get_by_text("the best approximations are a set").last.wait_for()
    page.wait_for_function("source('map').data.image.length == 0")  # no other map stands beside that line


# The command, and the notebook


def test_the_command_serves_this_machine_alone():
    command = [sys.executable, "-m", "jaxfact", "explore", "--no-browser", "--at", FEW]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        url, port = re.match(
            r"(http://127\.0\.0\.1:(\d+)/\?methods=plain) \(ctrl-C ends it\)", process.stdout.readline()
        ).groups()
        for _ in range(100):
            try:
                page = urlopen(url).read().decode()
                break
            except OSError:
                time.sleep(0.1)
        assert "<title>jaxfact explore</title>" in page
        others = [info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)]
        for other in {one for one in others if not one.startswith("127.")}:
            with pytest.raises(OSError, match="refused"):
                socket.create_connection((other, int(port)), timeout=2)
        for path in ("../../etc/passwd", "static/../../../etc/passwd", "etc/passwd"):
            with pytest.raises(OSError, match="HTTP Error 40"):
                urlopen(f"http://127.0.0.1:{port}/{path}")
        for address in ("??step_size=0.3", "?a=1?b=2", "?width=%C2%B2", "?width=%ff", f"?first_seed={'1' * 5000}"):
            urlopen(f"http://127.0.0.1:{port}/{address}")  # refused on the page, and no error of the server
        assert _handshake(int(port), f"http://127.0.0.1:{port}") == "101"
        assert _handshake(int(port), "http://elsewhere.example") == "403"
        # Of a name that its owner lets mean this machine, host and origin are the same.
        for name in ("elsewhere.example", "127.0.0.1.elsewhere.example"):
            assert _handshake(int(port), f"http://{name}:{port}", f"{name}:{port}") == "403"
        assert _handshake(int(port), f"http://localhost:{port}", f"localhost:{port}") == "101"
    finally:
        process.send_signal(2)
        _, said = process.communicate(timeout=30)
    assert "Traceback" not in said


def _handshake(port, origin, host=None):
    """Return the status with which a WebSocket of a page from an origin is answered."""
    token = re.search(r'"token":"([^"]+)"', urlopen(f"http://127.0.0.1:{port}/").read().decode())[1]
    host = host or f"127.0.0.1:{port}"
    lines = [
        "GET /ws HTTP/1.1", f"Host: {host}", f"Origin: {origin}", "Upgrade: websocket", "Connection: Upgrade",
        "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
        f"Sec-WebSocket-Protocol: bokeh, {token}", "", "",
    ]  # fmt: skip
    with socket.create_connection(("127.0.0.1", port)) as connected:
        connected.sendall("\r\n".join(lines).encode())
        return connected.recv(64).split()[1].decode()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--at", "step_size=7"], "step_size='7': is not in its range"),
        (["--port", "99999"], "cannot be had"),
        (["--address", "here"], "is no address in numbers"),
        (["--address", "8.8.8.8"], "address=8.8.8.8: is none of this machine"),
        (["--address", "::1"], "is of IPv6"),
        (["nowhere.csv"], "does not exist"),
        (["--absent", "zero"], "name a file"),
    ],
)
def test_a_wrong_call_ends_in_one_line(call, arguments, said):
    assert_one_line(call("explore", "--no-browser", *arguments), said)


def test_a_notebook_shows_the_same_page(laboratory):
    explorer = jf.explore("methods=plain")
    explorer._laboratory = laboratory
    shown, _ = explorer._repr_mimebundle_()
    assert "text/html" in shown
    assert "step size" in shown["text/html"]
    assert repr(explorer) == 'jf.explore("methods=plain")'


def test_methods_have_their_controls():
    assert [one.name for one in MADE_UP if isinstance(one, Choice)] == ["spectrum", "budget"]
    assert set(jf.explore("methods=plain,noisy")._state.methods) < set(METHODS)
