"""The lines of a text file that hold data: one encoding, one line end, no comments, with their numbers in the file."""

import codecs
import csv
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from jaxfact.inputs import problem_with

_MARKED = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins like UTF-16
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_EXCEL = ("#N/A", "#NA", "#DIV/0!", "#VALUE!", "#REF!", "#NUM!", "#NAME?", "#NULL!")
_BLANKS = tuple(mark.encode() for mark in "\u00a0\u2007\u2009\u202f")  # of typesetters and spreadsheets
_NEWLINE, _SPACE, _TAB = ord("\n"), ord(" "), ord("\t")

SPACES = " "  # runs of spaces and tabs
NOTHING = "\x01"  # what separates the fields of a single column


class Lines(NamedTuple):
    """Lines of a text as UTF-8, each ended by a newline, and where they were in the file.

    Attributes:
        content: the lines.
        ends: the place of each line's newline.
        left_out: the numbers, from 0, of the file's lines that are not among them.
        comment: the last comment before the first of them, without its mark.
        remarks: what was done to the text, for the user.
    """

    content: bytes
    ends: Int[np.ndarray, " lines"]
    left_out: Int[np.ndarray, " k"]
    comment: str
    remarks: tuple[str, ...]

    @property
    def starts(self) -> Int[np.ndarray, " lines"]:
        """Where each line begins."""
        return np.append(0, self.ends[:-1] + 1)[: len(self.ends)]

    @property
    def octets(self) -> Int[np.ndarray, " size"]:
        """The content as numbers, which share its memory."""
        return np.frombuffer(self.content, np.uint8)

    @property
    def blank(self) -> Bool[np.ndarray, " lines"]:
        """Which lines hold nothing but spaces and tabs."""
        starts = self.starts
        blank = starts == self.ends
        first = self.octets[starts]
        padded = (first == _SPACE) | (first == _TAB)
        if padded.any():
            blank |= _per_line(_begun(self.octets), self.ends) == 0
        return blank

    def number(self, place: int) -> int:
        """Return the number that a line has in the file, from 1."""
        for left_out in self.left_out:
            if left_out > place:
                break
            place += 1
        return place + 1

    def line(self, place: int, most: int | None = None) -> str:
        """Return a line, or at most so many bytes of it."""
        start, end = int(self.ends[place - 1]) + 1 if place else 0, int(self.ends[place])
        return self.content[start : end if most is None else min(end, start + most)].decode(errors="replace")

    def after(self, count: int) -> "Lines":
        """Return the lines but for the first few, as a header."""
        if not count:
            return self
        cut = int(self.ends[count - 1]) + 1
        first = [self.number(place) - 1 for place in range(count)]
        left_out = np.union1d(self.left_out, first).astype(int)
        return self._replace(content=self.content[cut:], ends=self.ends[count:] - cut, left_out=left_out)

    def without(self, dropped: Bool[np.ndarray, " lines"], *remarks: str) -> "Lines":
        """Return the lines but for some."""
        if not dropped.any():
            return self
        starts = self.starts
        kept = np.repeat(~dropped, self.ends - starts + 1)
        everywhere = np.ones(len(dropped) + len(self.left_out), bool)
        everywhere[self.left_out] = False
        numbers = np.flatnonzero(everywhere)[dropped]
        return self._replace(
            content=self.octets[kept].tobytes(),
            ends=np.cumsum((self.ends - starts + 1)[~dropped]) - 1,
            left_out=np.union1d(self.left_out, numbers).astype(int),
            remarks=(*self.remarks, *remarks),
        )

    def blocks(self, size: int) -> Iterator[tuple[int, bytes]]:
        """Walk over pieces of whole lines, of about so many bytes: the number of each piece's first line, and it."""
        first, begun = 0, 0
        while first < len(self.ends):
            last = max(int(np.searchsorted(self.ends, begun + size)), first + 1)
            end = int(self.ends[last - 1]) + 1
            yield first, self.content[begun:end]
            first, begun = last, end


def lines_of(raw: bytes) -> Lines:
    """Return the lines of a text that are no comments, whatever its encoding and its line ends.

    Raises ValueError, or UnicodeError, for bytes that are no text.
    """
    content, encoding = _as_utf8(raw)
    if b"\0" in content:
        raise ValueError("a zero byte")
    for blank in _BLANKS:
        if blank in content:
            content = content.replace(blank, b" ")
    if b"\r" in content:
        content = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    content = content.removesuffix(b"\x1a")
    if not content.endswith(b"\n"):
        content += b"\n"
    ends = np.flatnonzero(np.frombuffer(content, np.uint8) == _NEWLINE)
    remarks = (encoding,) if encoding else ()
    lines = Lines(content, ends, np.zeros(0, int), "", remarks)
    return _without_comments(lines)


def _without_comments(lines: Lines) -> Lines:
    first = lines.octets[lines.starts]
    comments = (first == ord("#")) | (first == ord("%"))
    for place in np.flatnonzero(comments):
        comments[place] = not lines.line(int(place), 8).startswith(_EXCEL)
    if not comments.any():
        return lines
    data = np.flatnonzero(~comments & ~lines.blank)
    leading = np.flatnonzero(comments[: data[0] if len(data) else None])
    comment = lines.line(leading[-1]).lstrip("#% ") if len(leading) else ""
    return lines.without(comments, counted(int(comments.sum()), "comment line") + " left out")._replace(comment=comment)


def counted(count: int, what: str) -> str:
    """Return so many things in words."""
    return f"{count} {what}{'s' if count > 1 else ''}"


def _as_utf8(raw: bytes) -> tuple[bytes, str]:
    """Return a text as UTF-8, and the name of its encoding where that is worth a word."""
    for mark, encoding in _MARKED:
        if raw.startswith(mark):
            return raw.decode(encoding).encode(), "" if "8" in encoding else encoding.upper()
    head = raw[:200]
    if len(head) > 1 and b"\0" in head:
        for encoding, zeros in (("utf-16-le", head[1::2]), ("utf-16-be", head[0::2])):
            if not any(zeros):
                return raw.decode(encoding).encode(), encoding.upper()
    try:
        if not raw.isascii():
            raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1").encode(), "read as Latin-1"
    return raw, ""


def fields_of(lines: Iterable[str], separator: str) -> Iterator[list[str]]:
    """Split lines into fields, of which one in quotes may hold the separator."""
    if separator == SPACES:
        lines = (line.replace("\t", " ").strip() for line in lines)
    return csv.reader(lines, delimiter=separator, skipinitialspace=True)


def check_widths(path: object, lines: Lines, separator: str, width: int) -> None:
    """Refuse lines of another number of fields than `width`, naming the first."""
    if separator != SPACES and _are_even(lines, separator, width):
        return
    counts = _marks(lines, separator)
    if np.all(counts == width):
        return
    if b'"' in lines.content:
        text = lines.content.decode().split("\n")[:-1]
        counts = np.array([len(record) for record in fields_of(text, separator)])
    wrong = np.flatnonzero(counts != width)
    if len(wrong) or len(counts) != len(lines.ends):
        place = int(wrong[0]) if len(wrong) else 0
        found = f"line {lines.number(place)} has {int(counts[place])} and others have {width}"
        instead = "fill short rows with NA, and quote text that holds a separator"
        raise problem_with("file", path, f"needs rows with equally many fields ({found})", instead)


def _are_even(lines: Lines, separator: str, width: int) -> bool:
    """Return whether every line has as many separators, which is quickly seen where it is so."""
    marks = np.flatnonzero(lines.octets == ord(separator))
    if len(marks) != len(lines.ends) * (width - 1):
        return False
    by_line = marks.reshape(len(lines.ends), width - 1)
    return width == 1 or bool(np.all(by_line[:, -1] < lines.ends) and np.all(by_line[:, 0] >= lines.starts))


def _marks(lines: Lines, separator: str) -> Int[np.ndarray, " lines"]:
    """Return how many fields each line has, quotes not regarded."""
    if separator == SPACES:
        return _per_line(_begun(lines.octets), lines.ends)
    return _per_line(lines.octets == ord(separator), lines.ends) + 1


def _begun(octets: Int[np.ndarray, " size"]) -> Bool[np.ndarray, " size"]:
    """Return where something begins behind a space, a tab or the end of a line."""
    begun = octets > _SPACE
    begun[1:] &= octets[:-1] <= _SPACE
    return begun


def _per_line(marks: Bool[np.ndarray, " size"], ends: Int[np.ndarray, " lines"]) -> Int[np.ndarray, " lines"]:
    """Return how many marks each line has; numpy.add.reduceat would make eight bytes of each."""
    return np.diff(np.searchsorted(np.flatnonzero(marks), ends), prepend=0)
