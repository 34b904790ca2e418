"""Ending a sweep between tiles, so that nothing that was run is lost."""

import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jaxfact.engine.program import Program


@contextmanager
def drained_by_signals(program: Program, path: Path) -> Iterator[None]:
    """Finish the tiles in flight at the first interrupt or SIGTERM, stop at once at the second.

    Raises KeyboardInterrupt that says how to go on, where the block was cut short.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught: list[int] = []

    def handle(number: int, _: object) -> None:
        caught.append(number)
        program.drain()
        if len(caught) > 1:
            raise KeyboardInterrupt(f"stopped at once; {_resume(path)}")
        warnings.warn("finishing the tiles in flight; interrupt again to stop at once", stacklevel=2)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if caught:
        raise KeyboardInterrupt(f"stopped; {_resume(path)}")


def _resume(path: Path) -> str:
    return f"what is in {path} is safe: repeat the call, which makes the other runs alone"
