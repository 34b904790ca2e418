"""How long the explorer takes from a move to the drawn picture, in headless Chromium on this machine.

    python benchmarks/explorer.py [--moves 100] [--flat 1000] [--methods plain,balanced,momentum]

Prints the latency of moves (median and 95 %), the server's memory over many of them, and how a map of 500×500 scalar
problems fills in. A move is a slider's value set in the page; the picture is there two animation frames after its data.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from playwright.sync_api import Page, sync_playwright

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
FIND = """() => {
window.find = (test) => {
  for (const d of Bokeh.documents) for (const m of d._all_models.values()) if (test(m)) return m }
window.figure = (name) => find((m) => m.type == 'Figure' && m.name == name)
window.moved = (title, value, name) => new Promise((done) => {
  const slider = find((m) => (m.title ?? '').startsWith?.(title) && m.value !== undefined)
  const source = figure(name).renderers.at(-1).data_source
  const begun = performance.now()
  const seen = () => { source.properties.data.change.disconnect(seen)
    requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now() - begun))) }
  source.properties.data.change.connect(seen)
  slider.value = value }) }"""
# Sliders of the page by how their titles begin, and between which places they are moved here.
MOVED = {
    "step size": (-1.0, -0.05),
    "scale": (-4.0, -0.7),
    "imbalance": (-1.0, 1.0),
    "condition": (0.1, 1.0),
    "balancing": (0.0, 0.5),
    "rows": (1.3, 2.9),
}


def serve(*options: str) -> tuple[subprocess.Popen, str]:
    """Start the page; return the process and its address."""
    command = [sys.executable, "-m", "jaxfact", "explore", "--no-browser", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    found = re.match(r"http://\S+", process.stdout.readline())
    assert found is not None
    return process, found[0]


def opened(browser, url: str) -> Page:
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    for _ in range(60):
        try:
            page.goto(url)
            break
        except Exception:
            time.sleep(0.5)
    page.wait_for_function("window.Bokeh && Bokeh.documents.length > 0")
    page.evaluate(FIND)
    page.wait_for_function("figure('times').renderers[0].data_source.get_length() > 0", timeout=120_000)
    return page


def memory(process: subprocess.Popen) -> float:
    """Return the resident memory of a process in MB."""
    text = Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) / 1024


def idle(process: subprocess.Popen) -> None:
    """Wait until the server has compiled what it may need later: until it has had nothing to do for three seconds."""
    used = [-np.inf]
    while len(used) < 4 or used[-1] - used[-4] > 0.1:
        time.sleep(1)
        times = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        used.append(sum(map(int, times)) / os.sysconf("SC_CLK_TCK"))


def moves(page: Page, count: int, seed: int) -> np.ndarray:
    """Return the milliseconds from each of so many random moves to its picture."""
    random, names = np.random.default_rng(seed), list(MOVED)
    found = []
    for number in range(count):
        name = names[number % len(names)]
        value = float(random.uniform(*MOVED[name]))
        found.append(page.evaluate("([n, v]) => moved(n, v, 'outcomes')", [name, value]))
    return np.array(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--moves", type=int, default=100)
    parser.add_argument("--flat", type=int, default=1000)
    parser.add_argument("--methods", default="plain,balanced,momentum")
    parser.add_argument("--width", type=int, default=3)
    asked = parser.parse_args()
    state = f"methods={asked.methods}&width={asked.width}&rank={asked.width}"
    process, url = serve("--at", state)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        try:
            begun = time.perf_counter()
            page = opened(browser, url)
            print(f"first picture after {time.perf_counter() - begun:.1f} s, programs and all")
            idle(process)
            moves(page, 10, 1)
            took = moves(page, asked.moves, 0)
            middle, high = np.quantile(took, [0.5, 0.95])
            print(f"{asked.moves} moves, {state}, 1000 starts each: median {middle:.0f} ms, 95 % {high:.0f} ms")
            before = memory(process)
            for part in range(asked.flat // 100):
                moves(page, 100, part)
            print(f"memory {before:.0f} MB before, {memory(process):.0f} MB after {asked.flat} more moves")
            page.close()
            the_map(browser, url)
        finally:
            browser.close()
            process.terminate()


def the_map(browser, url: str) -> None:
    """Print when a map of 500×500 scalar problems has its first picture, and when it is complete."""
    page = opened(browser, f"{url.partition('?')[0]}?width=1&rank=1&methods=plain")
    page.get_by_text("Map", exact=True).click()
    page.wait_for_function("figure('map')")
    time.sleep(20)
    print("map of 500 x 500, d = 1:", page.evaluate(MAP))


MAP = """() => new Promise((done) => {
  const source = figure('map').renderers[0].data_source
  const begun = performance.now(); let first = null
  const points = find((m) => m.title == 'points a side')
  const seconds = () => ((performance.now() - begun) / 1000).toFixed(2)
  source.properties.data.change.connect(() => requestAnimationFrame(() => { first ??= seconds() }))
  const said = () => find((m) => m.type == 'panel.models.markup.HTML' && m.text?.includes?.('drawing'))
  points.value = '500'
  const ended = () => done(`first picture ${first} s, complete ${seconds()} s`)
  const wait = () => (first !== null && !said()) ? ended() : setTimeout(wait, 20)
  setTimeout(wait, 100) })"""


if __name__ == "__main__":
    main()
