"""Which devices work, in how many threads, and under which settings of JAX."""

import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import jax

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

_GROUPS, _MINE = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def working_devices(count: int | None = None) -> list[Any]:
    """Return the device of every thread that works.

    They are those of JAX's default platform, or the one set by `default_device`, and at most `count`. CPU devices are
    all the same cores: there the first one has as many threads as `count` says, by default one for each core.
    """
    chosen = jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue]
    if chosen is None:
        found = jax.local_devices()
    else:
        found = jax.local_devices(backend=chosen) if isinstance(chosen, str) else [chosen]
    return [found[0]] * (count or cores()) if found[0].platform == "cpu" else found[:count]


def cores() -> int:
    """Return how many cores this process may use: those it is bound to, within its container's share of CPU time."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # A share of one and a half keeps two threads busy, each three quarters of the time.
    return max(1, math.ceil(min([bound, *_shares(_GROUPS, _MINE)])))


def made_ahead(items: Iterable[T], most: int, *, while_light: Callable[[T], bool]) -> Iterator[T]:
    """Yield items of which the next few are made in another thread while one is in use that is light on memory.

    What making one raises is raised where it would have been: when it is asked for.
    """
    iterator, over = iter(items), object()
    make: Callable[[], Any] = in_this_context(lambda: next(iterator, over))
    item, coming = make(), deque[Future[Any]]()
    with ThreadPoolExecutor(1) as thread:
        while item is not over:
            while while_light(item) and len(coming) < most:
                coming.append(thread.submit(make))
            yield item
            item = coming.popleft().result() if coming else make()


def in_this_context(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function run in other threads under the settings of JAX that hold for this one, as set by its contexts."""
    settings: list[tuple[Any, Any]] = [
        (jax.enable_x64, jax.config.jax_enable_x64),  # pyright: ignore[reportAttributeAccessIssue]
        (jax.default_matmul_precision, jax.config.jax_default_matmul_precision),  # pyright: ignore[reportAttributeAccessIssue]
        # NaN is a result here, of runs that diverge and of what nobody knows, and ends no sweep.
        (jax.debug_nans, False),
        (jax.debug_infs, False),
    ]

    @wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        with ExitStack() as contexts:
            for context, value in settings:
                contexts.enter_context(context(value))
            return function(*args, **kwargs)

    return called


def _shares(groups: Path, mine: Path) -> Iterator[float]:
    """Yield the shares of CPU time, in cores, that bound this process: of its control group and of all above it."""
    try:
        lines = mine.read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, names, path = line.split(":", 2)
        if names and "cpu" not in names.split(","):
            continue
        top = groups / "cpu" if names else groups
        # Within a container the path may be that of the host, and only the topmost group is there.
        group = top / path.strip("/")
        for folder in (group, *group.parents):
            if (share := _share(folder, bool(names))) is not None:
                yield share
            if folder == top:
                break


def _share(group: Path, first_version: bool) -> float | None:
    """Return the share of CPU time of a control group, in cores; None where there is no bound."""
    files = ("cpu.cfs_quota_us", "cpu.cfs_period_us") if first_version else ("cpu.max",)
    try:
        quota, period = " ".join((group / file).read_text() for file in files).split()
    except (OSError, ValueError):
        return None
    return None if quota in ("max", "-1") else int(quota) / int(period)
