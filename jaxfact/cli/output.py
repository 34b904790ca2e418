"""What is printed, on streams that may not take it: a terminal without σ, a pipe that was closed, a full disk.

Commands write their results before they tell them, and return where they are, so that what cannot be told is not lost.
"""

import os
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, TextIO

_SPELT = {
    "‖": "||",
    "ᵀ": "^T ",
    "√": "sqrt ",
    "×": "x",
    "·": "*",
    "−": "-",
    "–": "-",
    "≤": "<=",
    "≥": ">=",
    "≈": "~",
    "→": "->",
    "∞": "inf",
    "•": "*",
    "±": "+-",
    "½": "1/2",
    "∇": "grad ",
    "′": "'",
    "⋆": "*",
}


class Output:
    """A stream that spells out what its encoding lacks, and takes in silence what can no longer be written.

    Attributes:
        failure: why writing ended; None as long as it goes on.
    """

    def __init__(self, stream: TextIO):
        self._stream = stream
        self.failure: OSError | None = None

    def write(self, text: str) -> int:
        """Write a text as far as the stream takes it."""
        if self.failure is None:
            try:
                self._stream.write(spelt(text, self._stream.encoding))
            except OSError as error:
                self._give_up(error)
        return len(text)

    def flush(self) -> None:
        """Pass on what was written."""
        if self.failure is None:
            try:
                self._stream.flush()
            except OSError as error:
                self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self.failure = error
        # What the stream still holds would fail once more when Python ends.
        with suppress(OSError), open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), self._stream.fileno())

    def __getattr__(self, name: str) -> Any:
        if name == "buffer":  # by which bytes would pass by
            raise AttributeError(name)
        return getattr(self._stream, name)


@contextmanager
def forgiving_streams() -> Iterator[Output]:
    """Let standard output and error be such streams; yield the former.

    A stream that is closed from the beginning takes everything: print would turn to the other one, and a file of
    results could get its number.
    """
    before = sys.stdout, sys.stderr
    with ExitStack() as opened:
        nowhere = [opened.enter_context(open(os.devnull, "w", encoding="utf-8")) for stream in before if stream is None]
        made = [Output(stream or nowhere.pop()) for stream in before]
        sys.stdout, sys.stderr = made  # pyright: ignore[reportAttributeAccessIssue]
        try:
            yield made[0]
        finally:
            for stream in made:
                stream.flush()
            sys.stdout, sys.stderr = before


def spelt(text: str, encoding: str | None) -> str:
    """Return a text with what an encoding lacks spelt out: sigma for σ, <= for ≤, and ? for what has no spelling."""
    return text if can_print(text, encoding) else "".join(_letter(letter, encoding) for letter in text)


def can_print(text: str, encoding: str | None) -> bool:
    """Tell whether an encoding has every letter of a text; None is that of a stream that takes all."""
    try:
        text.encode(encoding or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _letter(letter: str, encoding: str | None) -> str:
    if can_print(letter, encoding):
        return letter
    if letter in _SPELT:
        return _SPELT[letter]
    name = unicodedata.name(letter, "")
    if name.startswith("GREEK "):
        word = name.rpartition(" ")[2].lower()
        return word if " SMALL " in name else word.capitalize()
    power = "^" if name.startswith("SUPERSCRIPT ") else ""
    plain = unicodedata.normalize("NFKD", letter).encode("ascii", "ignore").decode()
    return power + plain if plain else "?"
