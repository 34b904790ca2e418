"""Animations over steps: where the runs are, at one step after another."""

import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.animation import AbstractMovieWriter, FFMpegWriter, PillowWriter
from matplotlib.figure import Figure

from jaxfact.choices import Venue
from jaxfact.figures.curves import path_of, shown_steps
from jaxfact.figures.labels import asks_for_log, plain_name, symbol_label
from jaxfact.figures.sheets import Look, Sheet, count_of, drawing
from jaxfact.figures.styles import at_one_point, name_few_minor_ticks, variants_of
from jaxfact.inputs import positive, positive_integer, problem_with

_WRITERS: dict[str, type[AbstractMovieWriter]] = {".gif": PillowWriter, ".mp4": FFMpegWriter}
_BINS, _DPI = 40, 200


def animate(
    runs: xr.Dataset,
    name: str,
    path: str | Path,
    *,
    target: Sequence[float] = (),
    frames: int = 60,
    per_second: float = 10.0,
    size: tuple[float, float] | None = None,
    title: str | None = None,
    style: Venue | str | None = None,
) -> Path:
    """Write an animation of a record over the steps, as GIF or MP4 by the path's suffix, and return the path.

    Of a record of one number, `"distance"` say, a frame has how the runs are spread, a histogram per variant; of one of
    several, `"singular_values"`, a dot for each number of each run. A run that has ended stays where it was.

    Args:
        runs: results at one point, along `seed`, `step`, and perhaps `variant`.
        name: of the record.
        path: of the file; one that exists is replaced.
        target: numbers that are drawn as lines, such as the singular values of the target.
        frames: at most so many, evenly among the recorded steps.
        per_second: how many are shown in a second.
        size, title, style: as in `curve`.

    Raises:
        ValueError: For another suffix, MP4 where ffmpeg is not there or fails, a name without a path, a record that is
            never finite, and runs with axes left.
    """
    writer = _writer(Path(path), per_second)
    at_one_point(runs)
    record, count = path_of(runs, name), positive_integer("frames", frames, "60 are six seconds")
    steps = shown_steps(runs)
    steps = steps[np.unique(np.linspace(0, len(steps) - 1, min(count, len(steps))).round().astype(int))]
    if not np.isfinite(record.sel(step=steps)).any():
        needed = f"the {record.sizes['seed']} runs have no finite number of it at any recorded step"
        raise problem_with("name", name, needed, "choose another record, or see jf.figures.outcomes")
    several = [dim for dim in record.dims if dim not in ("seed", "variant", "step")]
    with drawing(Look(None, size, title, style), 2.6) as sheet:
        begin = _dots if several else _histograms
        show = begin(sheet, runs[["outcome"]].assign(record=record.sel(step=steps)), several, target)
        words = plain_name(record, name)
        sheet.axes.set_title("step 0", loc="right", y=1.0, fontsize=mpl.rcParams["axes.titlesize"])
        figure = sheet.finish(f"{words[0].upper()}{words[1:]}", count_of(runs))
        figure.draw_without_rendering()
        figure.set_layout_engine(None)  # so that nothing moves but the runs
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=Path(path).parent) as made:
            whole = Path(made) / Path(path).name
            with mpl.rc_context({"savefig.bbox": None}), _saving(writer, figure, whole, path):
                for step in steps.tolist():
                    sheet.axes.set_title(f"step {step}", loc="right", y=1.0)
                    show(step)
                    writer.grab_frame()
            return whole.replace(path)


@contextmanager
def _saving(writer: AbstractMovieWriter, figure: Figure, whole: Path, path: str | Path) -> Iterator[None]:
    """Write the frames that are grabbed; say in one line where ffmpeg cannot, with its settings in matplotlib's."""
    try:
        with writer.saving(figure, str(whole), _DPI):
            yield
    except (subprocess.CalledProcessError, BrokenPipeError):
        codec = mpl.rcParams["animation.codec"]
        needed = f"ffmpeg could not write it, with the codec {codec}"
        raise problem_with("path", path, needed, "set matplotlib's animation.codec, or write a .gif") from None


def _writer(path: Path, per_second: float) -> AbstractMovieWriter:
    positive("per_second", per_second, "10 is usual")
    if path.suffix not in _WRITERS:
        raise problem_with("path", path, "needs the suffix .gif or .mp4", "choose one of them")
    kind = _WRITERS[path.suffix]
    if not kind.isAvailable():  # pyright: ignore[reportAttributeAccessIssue]
        raise problem_with("path", path, "MP4 is written by ffmpeg, which is not there", "install it, or write a .gif")
    return kind(fps=per_second)  # pyright: ignore[reportArgumentType]


def _histograms(
    sheet: Sheet, runs: xr.Dataset, several: Sequence[object], target: Sequence[float]
) -> Callable[[int], None]:
    """Prepare the axes for a number of each run; return what shows a step."""
    axes, values = sheet.axes, runs.record.values
    known = values[np.isfinite(values)]
    is_log = asks_for_log(known)
    shown = known[known > 0] if is_log else known
    # What goes off would leave no room for the others.
    low, high = float(shown.min()), float(np.quantile(shown, 0.999))
    high = high if high > low else low + 1
    edges = np.geomspace(low, high, _BINS + 1) if is_log else np.linspace(low, high, _BINS + 1)
    lines = []
    for name, part, colour, line in variants_of(runs):
        steps = axes.stairs(np.zeros(_BINS), edges, color=colour, linestyle=line, label=name or None)
        lines.append((steps, part.record))
    for value in target:
        axes.axvline(value, color="0.35", linewidth=0.6, zorder=0)
    axes.set(xlabel=symbol_label(runs.record), ylabel="fraction of runs", ylim=(0, 1.02))
    if is_log:
        axes.set_xscale("log")
        name_few_minor_ticks(axes.xaxis)

    def show(step: int) -> None:
        for steps, record in lines:
            now = np.clip(np.nan_to_num(record.sel(step=step).values, nan=np.inf), edges[0], edges[-1])
            steps.set_data(np.histogram(now, edges)[0] / now.size)

    return show


def _dots(sheet: Sheet, runs: xr.Dataset, several: Sequence[object], target: Sequence[float]) -> Callable[[int], None]:
    """Prepare the axes for several numbers of each run; return what shows a step."""
    axes, rng = sheet.axes, np.random.default_rng(0)
    flat = runs.record.stack(number=several)
    count, kinds = flat.sizes["number"], runs.sizes.get("variant", 1)
    spread = rng.uniform(-0.3, 0.3, (flat.sizes["seed"], count)) / kinds
    dots = []
    for place, (name, part, colour, _) in enumerate(variants_of(flat.to_dataset(name="record"))):
        at = np.arange(1, count + 1) + 0.8 * ((place + 0.5) / kinds - 0.5) + spread
        line = {"color": colour, "markersize": 2.5, "markeredgewidth": 0, "alpha": 0.4, "label": name or None}
        (points,) = axes.plot(at.ravel(), np.full(at.size, np.nan), "o", **line)
        dots.append((points, part.record))
    for value in target:
        axes.axhline(value, color="0.35", linewidth=0.6, zorder=0)
    known = runs.record.values[np.isfinite(runs.record.values)]
    top = 1.1 * max([float(np.quantile(known, 0.999)) if known.size else 1.0, *target])
    limits = {"xlim": (0.5, count + 0.5), "ylim": (float(known.min(initial=-0.03 * top)), top)}
    axes.set(xlabel="place in the order $k$", ylabel=symbol_label(runs.record), **limits)
    axes.set_xticks(range(1, count + 1))

    def show(step: int) -> None:
        for points, record in dots:
            points.set_ydata(record.sel(step=step).transpose("seed", "number").values.ravel())

    return show
