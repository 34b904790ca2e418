"""What is said while a command gets ready, where no bar shows that it goes on."""

import sys
import threading
import time

_SILENT_SECONDS, _CHECKING_SECONDS = 1.5, 0.5


class Waiting:
    """Says once what is waited for, some time after JAX began to load; never before what was given is checked.

    So a mistake still ends in one line, and a command that is quick says nothing.
    """

    def __init__(self):
        self._begun: float | None = None
        self._over = threading.Event()

    def begin(self) -> None:
        """Count the time from here."""
        self._begun = time.monotonic()

    def say_if_long(self) -> None:
        """From now on it may be said."""
        if self._begun is not None:
            seconds = max(self._begun + _SILENT_SECONDS - time.monotonic(), _CHECKING_SECONDS)
            threading.Thread(target=self._say, args=(seconds,), daemon=True).start()

    def end(self) -> None:
        """Something else has been said."""
        self._over.set()

    def _say(self, seconds: float) -> None:
        if not self._over.wait(seconds):
            print("jaxfact: reading and compiling", file=sys.stderr, flush=True)
