"""The page: whole or absent, readable without a network, and nothing in it that was not meant to be code."""

import base64
import dataclasses
import html
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

import jaxfact as jf
from jaxfact.jobs import sentences
from jaxfact.jobs.settings import ComparisonSettings
from jaxfact.reports import comparison as report
from jaxfact.reports import pages

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FIGURES = ("distance", "survival", "imbalance", "singular_values", "worst")
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome is installed to open the page")


@pytest.fixture(scope="module")
def found() -> jf.Comparison:
    problem = jf.Factorization([1.0, 0.5], shape=(6, 5))
    return jf.compare(problem, ComparisonSettings(width=2, seeds=6, max_steps=400))


@pytest.fixture(scope="module")
def folder(found, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("report") / "out"
    jf.report(found).write(folder)
    return folder


@pytest.fixture(scope="module")
def page(folder) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


class Outline(HTMLParser):
    """Collects tags, images and captions."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.images, self.captions = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "img":
            self.images.append(dict(attrs))
        if tag == "figcaption":
            self.captions.append("")

    def handle_data(self, data):
        if self.tags[-1:] == ["figcaption"]:
            self.captions[-1] += data


def pictures(page: str) -> list[str]:
    """Return the SVG inside the page's images."""
    sources = [image["src"].partition(";base64,") for image in Outline(page).images]
    assert {kind for kind, _, _ in sources} == {"data:image/svg+xml"}
    return [base64.b64decode(data, validate=True).decode() for _, _, data in sources]


def outside_references(text: str) -> list[str]:
    """Return addresses, but for those that name XML vocabularies and are never fetched."""
    names = r'xmlns(:\w+)?="[^"]*"|<!DOCTYPE[^>]*>|<metadata>.*?</metadata>'
    return re.findall(r"https?://[^\s\"'<)]*", re.sub(names, "", text, flags=re.DOTALL))


def test_five_figures_with_caption_and_alternative_text(page, folder):
    outline = Outline(page)
    assert outline.tags.count("figure") == 5
    assert [image["alt"] for image in outline.images] == [caption.strip() for caption in outline.captions]
    assert min(len(caption) for caption in outline.captions) > 60
    assert len(set(outline.captions)) == 5
    stored = [path.read_text(encoding="utf-8") for path in (folder / "figures").glob("*.svg")]
    assert sorted(pictures(page)) == sorted(stored)


def test_page_needs_no_network(page):
    assert outside_references(page) == []
    for picture in pictures(page):
        assert picture.startswith("<?xml")
        assert outside_references(picture) == []
        assert "<script" not in picture
    assert outside_references('<img src="https://example.org/a.png">') == ["https://example.org/a.png"]
    assert not set(Outline(page).tags) & {"script", "link", "iframe"}


def test_page_says_what_the_terminal_says(page, found):
    """Every line and every cell of the tables; brackets, which the terminal could take for markup, included."""
    stream = io.StringIO()
    jf.report(found).print(Console(file=stream, width=400))
    printed, text = stream.getvalue(), html.unescape(re.sub(r"<[^>]*>", "\n", page))
    for line in (*report.heading(found), *report.paired_lines(found), *found.notes):
        assert line in printed
        assert line in text
    assert re.search(r"time ratio \d\.\d+ \[\d\.\d+, \d\.\d+\]", printed)
    cells = {cell for _, columns, rows in report.tables(found) for row in [columns, *rows] for cell in row}
    assert {"plain", "noisy", "→ 0", "1e-05"} <= cells
    assert all(cell in printed for cell in cells)
    assert cells <= set(text.splitlines())
    assert json.dumps(report.as_json(found), indent=2, ensure_ascii=False) in text


def test_a_page_begins_with_what_was_found_and_ends_with_how(page, found):
    """The settings in the line are those of the runs."""
    sentence = sentences.of_comparison(found)
    first = r"^100 % \(95 % interval 61–100\) of 6 starts of plain descent arrived at distance .*; whether balanced "
    assert re.search(first, sentence)
    assert page.index("<h1>") < page.index(html.escape(sentence)) < page.index("<figure>") < page.index("<table>")
    line = html.unescape(re.findall(r'<pre class="again">(.*?)</pre>\s*</body>', page, re.DOTALL)[0])
    assert line.startswith(
        'jax.config.update("jax_enable_x64", True)\nfound = jf.compare(problem, jf.ComparisonSettings('
    )
    assert eval(re.search(r"jf\.ComparisonSettings\([^)]*\)", line)[0]) == found.settings
    assert sentence in html.unescape(found._repr_html_())


def test_a_sentence_where_nothing_arrived_and_of_one_method(found):
    plain = found.methods[0]
    alone = dataclasses.replace(found, methods=[plain], judged=dataclasses.replace(found.judged, pairs={}))
    assert sentences.of_comparison(alone).count(";") == 0
    failed = dataclasses.replace(
        plain, reached=dict.fromkeys(plain.reached, (0.0, 0.0, 0.39)), outcomes={"budget": (1.0, 0.61, 1.0)}
    )
    none = sentences.of_comparison(dataclasses.replace(alone, methods=[failed]))
    assert none.startswith("No start arrived at distance ")
    assert none.endswith("with any method: 100 % (95 % interval 61–100) of plain ended as budget.")


def test_text_is_never_markup(found, folder):
    evil = '<script>alert("1")</script> & <img src=x onerror=alert(1)>'
    plain = Outline(pages.page(jf.report(found), folder / "figures")).tags
    made = pages.page(jf.report(dataclasses.replace(found, notes=[*found.notes, evil])), folder / "figures")
    assert f"<li>{html.escape(evil)}</li>" in made
    assert sorted(Outline(made).tags) == sorted([*plain, "li"])


def open_in_browser(path: Path, *options: str) -> str:
    """Open a page in a browser that finds no host, and return what it prints."""
    quiet = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"]
    quiet += [f"--disable-{name}" for name in ("background-networking", "component-update", "sync")]
    offline = ["--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={path.parent / 'profile'}"]
    ended = subprocess.run(
        [BROWSER, *quiet, *offline, *options, path.as_uri()], capture_output=True, encoding="utf-8", timeout=60
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@needs_browser
def test_every_figure_is_drawn(page, tmp_path):
    """The browser reports the width of every image; a damaged one has none."""
    script = "document.title = [...document.images].map(image => image.naturalWidth)"
    watched = page.replace("</body>", f"<script>onload = () => {{ {script} }}</script></body>")
    damaged = watched.replace("base64,PD94", "base64,AAAA", 1)
    assert damaged != watched
    widths = []
    for name, text in (("whole", watched), ("damaged", damaged)):
        (tmp_path / f"{name}.html").write_text(text, encoding="utf-8")
        shown = open_in_browser(tmp_path / f"{name}.html", "--dump-dom")
        widths.append([int(width) for width in re.search(r"<title>([\d,]*)</title>", shown)[1].split(",")])
    assert widths[0] == [302] * 5  # 3.15 inches of 96 pixels
    assert widths[1] == [0, *[302] * 4]


@needs_browser
def test_page_is_not_blank(page, tmp_path):
    """Seen at desktop size: table and figures leave ink over the whole page, in the methods' colours."""
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    open_in_browser(tmp_path / "page.html", f"--screenshot={tmp_path / 'shot.png'}", "--window-size=1200,1800")
    with Image.open(tmp_path / "shot.png") as shot:
        pixels = np.asarray(shot.convert("RGB")).astype(int)
    assert pixels.shape == (1800, 1200, 3)
    inked = np.any(pixels < 200, axis=2)
    assert 0.005 < inked.mean() < 0.5
    assert all(band.any() for band in np.array_split(inked, 6))
    for colour in ((0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)):
        assert np.sum(np.abs(pixels - colour).max(axis=2) < 40) > 100


def test_a_failure_half_way_leaves_nothing(found, tmp_path):
    """A figure that cannot be drawn comes after the results are on disk."""
    seen = []

    def fail():
        seen.extend(path for path in tmp_path.rglob("*") if path.name == pages.RESULTS)
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        dataclasses.replace(jf.report(found), draw=fail).write(tmp_path / "out")
    assert seen
    assert list(tmp_path.iterdir()) == []


def test_a_notebook_shows_tables_and_figures(found, page):
    shown = jf.report(found)._repr_html_()
    outline = Outline(shown)
    assert outline.tags.count("table") == len(report.tables(found))
    assert len(pictures(shown)) == len(FIGURES)
    assert [image["alt"] for image in outline.images] == [image["alt"] for image in Outline(page).images]
    assert not set(outline.tags) & {"html", "script", "style"}


def test_what_is_no_result_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is not a Zarr 3 store"):
        jf.report(tmp_path)
