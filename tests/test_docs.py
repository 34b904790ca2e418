"""The pages of the documentation: their code runs, their links lead somewhere, and the tests that they name are there.

The site itself is built by `nox -s docs`, where warnings and missing public names are errors.
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
CODE = [
    *(ROOT / "docs" / f"{name}.md" for name in ("tutorial", "gradients")),
    *sorted((ROOT / "docs" / "howto").glob("*.md")),
]
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def label(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", [path for path in CODE if "```python" in path.read_text("utf-8")], ids=label)
def test_code_of_a_page_runs(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", path.read_text("utf-8"), re.DOTALL)
    exec(compile("\n".join(blocks), str(path), "exec"), {"__name__": path.stem})


@pytest.mark.parametrize("path", PAGES, ids=label)
def test_links_of_a_page_lead_somewhere(path):
    """Those to headings too; what is elsewhere on the web is not looked up."""
    text = FENCED.sub("", path.read_text("utf-8"))
    places = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'src="([^"]+)"', text)
    for place in places:
        if "://" in place:
            continue
        file, _, heading = place.partition("#")
        target = path.parent / file if file else path
        assert target.exists(), place
        assert not heading or heading in headings(target), place


def headings(path):
    """Return the names by which a code host and the site know the headings of a page."""
    lines = re.findall(r"^#+ (.+)$", FENCED.sub("", path.read_text("utf-8")), re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines]


@pytest.mark.parametrize("path", PAGES, ids=label)
def test_tests_that_a_page_names_are_there(path):
    """A file by its path; a test by its name, in the file named before it or in any."""
    text = path.read_text("utf-8")
    files = re.findall(r"\btests/\w+\.py\b", text)
    assert not [file for file in files if not (ROOT / file).is_file()]
    known = set(re.findall(r"^def (test_\w+)", "\n".join(f.read_text() for f in (ROOT / "tests").glob("*.py")), re.M))
    named = set(re.findall(r"`(test_\w+)`", text))
    assert named <= known
