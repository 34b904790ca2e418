"""Results survive their telling: on terminals that lack letters, into pipes that are closed, on disks that are full."""

import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure

import jaxfact as jf
from jaxfact import papers
from jaxfact.cli import main as cli
from jaxfact.cli import output
from jaxfact.jobs import comparison
from jaxfact.papers import rules
from jaxfact.reports import report as reporting
from jaxfact.reports.pages import Report

SAID = "σ₁ ≤ √2·‖UᵀU−VᵀV‖_F, 95 % → ½ × 10² … ∞ 雪"
ENCODINGS = ["ascii", "latin-1", "cp1252", "cp437", "utf-8"]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_what_an_encoding_lacks_is_spelt_out(encoding):
    told = output.spelt(SAID, encoding)
    assert told.encode(encoding).decode(encoding) == told
    kept = [letter for letter in SAID if output.can_print(letter, encoding)]
    assert set(kept) <= set(told)
    assert (told == SAID) == (encoding == "utf-8")


def test_spellings():
    plain = "sigma1 <= sqrt 2*||U^T U-V^T V||_F, 95 % -> 1/2 x 10^2 ... inf ?"
    assert output.spelt(SAID, "ascii") == plain
    assert output.spelt("Σ_d ΔD", "ascii") == "Sigma_d DeltaD"
    assert output.spelt("\udcff.npy", "utf-8") == "?.npy"  # a file's name that is no text


class Refusing(io.StringIO):
    """Takes so many letters and then fails."""

    encoding = "utf-8"

    def __init__(self, number: int, room: int = 0):
        super().__init__()
        self.number, self.room = number, room

    def write(self, text: str) -> int:
        if len(self.getvalue()) + len(text) > self.room:
            raise OSError(self.number, os.strerror(self.number))
        return super().write(text)


class Late(io.StringIO):
    """Takes everything and fails when it is to be passed on, as files do."""

    encoding = "utf-8"

    def flush(self) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


STREAMS = {
    "closed": (lambda: Refusing(errno.EPIPE), None),
    "closed later": (lambda: Refusing(errno.EPIPE, 30), None),
    "full": (lambda: Refusing(errno.ENOSPC), "No space left on device"),
    "full late": (Late, "No space left on device"),
    "broken": (lambda: Refusing(errno.EIO, 10), "Input/output error"),
}
TOLD = Report("", ["σ of the run", "one line", "and another"], [], ["‖U‖ ≤ 1"], {}, {"σ": "‖U‖"}, {}, dict)


@pytest.fixture
def telling(monkeypatch):
    """Let `compare` find the report above at once."""
    monkeypatch.setattr(comparison, "compare", lambda *_, **__: None)
    monkeypatch.setattr(reporting, "report", lambda _: TOLD)
    return ["compare", "--shape", "4x1", "--rank", "1"]


def ended_on(stream, monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "argv", ["jaxfact", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code


@pytest.mark.parametrize("kind", STREAMS)
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_results_are_there_though_nothing_can_be_told(call, telling, monkeypatch, capsys, tmp_path, kind, options):
    """A closed pipe is no error; a full disk under the output is said, and the results are named."""
    make, said = STREAMS[kind]
    assert ended_on(make(), monkeypatch, *telling, *options) == 0
    assert {path.name for path in (tmp_path / "jaxfact-compare").iterdir()} >= {"report.html", "summary.json"}
    noted = capsys.readouterr().err.splitlines()
    assert [line for line in noted if line.startswith("jaxfact: ")] == [
        f"jaxfact: note: standard output could not be written ({said}); the results are in jaxfact-compare"
    ] * (said is not None)


@pytest.mark.parametrize("kind", ["closed", "full late"])
@pytest.mark.parametrize("arguments", [["info"], ["paper"], ["status"], ["status", "--json"], ["report"], ["replay"]])
def test_every_command_survives_its_output(call, stored, monkeypatch, capsys, tmp_path, kind, arguments):
    """What leaves nothing else behind has failed where its output is lost, but for a pipe that nobody reads."""
    make, said = STREAMS[kind]
    name, *options = arguments
    more = {"replay": [str(stored), "--seed", "1", "--variant", "plain", "step_size=0.5"]}.get(name, [str(stored)])
    code = ended_on(make(), monkeypatch, name, *(more if name in ("status", "report", "replay") else []), *options)
    assert code == (0 if said is None or name == "report" else 1)
    assert (tmp_path / "jaxfact-report" / "report.html").exists() == (name == "report")
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1"])
def test_terminals_without_letters(call, telling, monkeypatch, encoding, tmp_path):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    assert ended_on(stream, monkeypatch, *telling) == 0
    told = stream.buffer.getvalue().decode(encoding)
    assert "sigma of the run\none line\nand another\n" in told
    assert "||U|| <= 1" in told
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    assert ended_on(stream, monkeypatch, *telling, "--json") == 0
    assert json.loads(stream.buffer.getvalue()) == TOLD.summary  # without loss
    assert (tmp_path / "jaxfact-compare-2" / "report.html").exists()


def test_a_full_disk_does_not_take_the_numbers_along(call, telling, monkeypatch, tmp_path):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Report, "write", full)
    code, out, err = call(*telling)
    assert (code, out) == (1, "\n".join([*TOLD.heading, f"• {TOLD.lines[0]}", ""]))
    assert err.startswith("jaxfact: the results could not be written ([Errno 28] No space left on device)")
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_while_telling_says_that_the_results_are_written(call, telling, monkeypatch, tmp_path):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Report, "print", interrupted)
    assert call(*telling) == (130, "", "jaxfact: interrupted while telling; the results are written\n")
    assert (tmp_path / "jaxfact-compare" / "report.html").exists()


def test_a_full_disk_does_not_take_the_findings_of_a_paper_along(call, monkeypatch, tmp_path):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    finding, (paper, claim) = rules.always("it holds", np.array([True])), papers.claims()["C15"]
    runs = {"runs": xr.Dataset(attrs={"dtype": "float32", "devices": 1, "device": "cpu", "jax": "0"})}
    found = jf.Verified(claim, paper, 20, runs, [finding], [], {}, papers.Verdict.HOLDS, 0.0, "")
    monkeypatch.setattr("jaxfact.jobs.verifying.verify", lambda *_, **__: jf.Verification((found,)))
    monkeypatch.setattr(Report, "write", full)
    code, out, err = call("paper", "chen-2024", "--out", "new")
    assert code == 1
    assert "it holds" in out
    assert "page: new" not in out
    assert err.startswith("jaxfact: the results could not be written")


def test_a_folder_that_another_run_has_taken_meanwhile_is_left_alone(call, telling, monkeypatch, tmp_path):
    def meanwhile(*_, **__):
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "theirs").write_text("theirs")

    monkeypatch.setattr(comparison, "compare", meanwhile)
    code, out, _ = call(*telling, "--out", "mine")
    assert code == 0
    assert out.splitlines()[-1].endswith("page: mine-2/report.html")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["theirs"]


def test_a_figure_that_fails_leaves_the_results(tmp_path):
    def fail() -> dict[str, Figure]:
        raise RuntimeError("a bug of the figure")

    told = Report("", ["σ"], [], [], {}, {"a": 1}, {}, fail)
    with pytest.warns(UserWarning, match="not every figure could be drawn: a bug of the figure"):
        told.write(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "summary.json").read_text()) == {"a": 1}
    assert (tmp_path / "out" / "report.html").exists()


FULL = "standard output could not be written (No space left on device)"
SHELL = {
    "jaxfact status {store} | head -1": (0, ""),
    "jaxfact status {store} | true": (0, ""),
    "jaxfact status {store} > /dev/full": (
        1,
        "jaxfact: standard output could not be written (No space left on device)\n",
    ),
    "jaxfact status {store} >&-": (0, ""),
    "jaxfact status {store} >&- 2>&-": (0, ""),
    "PYTHONIOENCODING=cp1252 jaxfact compare --help": (0, ""),
    "LC_ALL=C PYTHONCOERCECLOCALE=0 PYTHONUTF8=0 jaxfact compare --help": (0, ""),
}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full is needed")
def test_real_processes(stored):
    """All at once, as each loads Python's libraries anew."""
    where = (
        f'jaxfact() {{ "{sys.executable}" -c "from jaxfact.cli.main import main; main()" "$@"; }}; set -o pipefail; '
    )
    started = [
        subprocess.Popen(["bash", "-c", where + line.format(store=stored)], stdout=-1, stderr=-1) for line in SHELL
    ]
    for process, (line, (code, said)) in zip(started, SHELL.items(), strict=True):
        out, err = process.communicate(timeout=60)
        assert (process.returncode, err.decode()) == (code, said), line
        assert ("compare" in line) == (b"sigma" in out)
        assert b"\xcf\x83" not in out  # σ in UTF-8, which such a terminal shows as two letters


def test_a_stream_hides_its_bytes():
    """By which Typer would write UTF-8 to a terminal that says it is ASCII."""
    stream = output.Output(io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert not hasattr(stream, "buffer")
    assert (stream.encoding, stream.isatty()) == ("ascii", False)


def test_what_is_said_beside_may_be_lost_too(monkeypatch):
    """A note or a line of progress must not end a run; a stream that is closed from the beginning takes everything."""
    monkeypatch.setattr(sys, "stderr", Refusing(errno.EPIPE))
    monkeypatch.setattr(sys, "stdout", None)
    with output.forgiving_streams() as told:
        print("jaxfact: note: nobody reads this", file=sys.stderr)
        print("nor this")
        assert isinstance(sys.stderr.failure, BrokenPipeError)
        assert told.failure is None
    assert sys.stdout is None
