"""How a text file is laid out: its separator, its decimal mark, and whether it names its rows and columns.

Everything is decided by the first lines, and refused where they allow two readings.
"""

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxfact.choices import Labels
from jaxfact.data.lines import NOTHING, SPACES, Lines, counted, fields_of
from jaxfact.inputs import problem_with

_LINES, _BYTES = 1000, 2**16  # of a file's beginning, and of each of its lines, that decide
_WORDS = ("na", "nan", "null", "none", "n/a", "#n/a", "#na", "<na>", "nat", "-nan", "+nan", "missing")
MISSING = frozenset(form for word in _WORDS for form in (word, word.upper(), word.capitalize()))
MISSING |= {
    "",
    "?",
    "-",
    ".",
    "NaN",
    "-NaN",
    "+NaN",
    "NaT",
    "#N/A N/A",
    "1.#QNAN",
    "1.#IND",
    "-1.#IND",
    "nan(ind)",
    "-nan(ind)",
}
_INDEX_NAMES = ("index", "id", "rownames", "row_names", "rowname", "unnamed: 0")
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|[-+]?inf(?:inity)?", re.IGNORECASE)
_ALMOST = re.compile(r"[-+(\u2212$€£<>~]*\s?[.,]?\d")
_COMMA_NUMBER = re.compile(r"[-+]?(?:\d+,\d*|,\d+)(?:[eE][-+]?\d+)?")
_MAYBE_THOUSANDS = re.compile(r"[-+]?[1-9]\d{0,2},\d{3}")
_THOUSANDS = re.compile(r"[-+]?\d{1,3}(?:,\d{3})+(?:,\d{3}|\.\d*)|[-+]?\d{1,3}(?:\.\d{3})+(?:\.\d{3}|,\d*)")
_COMMA_DECIDED = re.compile(rb"(?<![\d.])0\d*,\d|,(?:\d{1,2}|\d{4,})(?=\D)")
_NAMED = {",": "", "\t": "tabs", ";": "semicolons", "|": "bars", "::": "'::'", SPACES: "spaces", NOTHING: ""}


def number(field: str, decimal: str = ".") -> float | None:
    """Return the number that a field holds, or None for text and what is missing."""
    field = field.strip()
    if decimal != ".":
        field = "x" if "." in field else field.replace(decimal, ".")
    return float(field) if _NUMBER.fullmatch(field) else None


def is_missing(field: str) -> bool:
    """Return whether a field says that there is no entry."""
    return field.strip() in MISSING


def as_labels(names: Sequence[str]) -> np.ndarray:
    """Return names as labels: whole numbers where all are written as such, and text otherwise."""
    if all(re.fullmatch(r"0|-?[1-9]\d{0,17}", name) for name in names):
        return np.array([int(name) for name in names])
    return np.array(names)


class Sample(NamedTuple):
    """The first lines of a text, and what they say of how it is laid out.

    Attributes:
        records: their fields; of a long line, those of its beginning.
        quoted: whether nothing but the first field of every line is in quotes, a header aside.
        whole: whether no line was cut off.
        separator: what stands between fields; SPACES is a run of spaces and tabs.
        decimal: the decimal mark.
        width: how many fields a line of data has.
        trailing: how many separators end every line, so that as many last fields are none.
        remarks: what was found, for the user.
    """

    records: list[list[str]]
    quoted: bool
    whole: bool
    separator: str
    decimal: str
    width: int
    trailing: int
    remarks: tuple[str, ...]

    def is_text(self, field: str) -> bool:
        """Return whether a field is neither a number nor missing."""
        return number(field, self.decimal) is None and not is_missing(field)


class Layout(NamedTuple):
    """What of a table is data: its columns' names or None, whether a line begins with its row's, and remarks."""

    names: list[str] | None
    labelled: bool
    remarks: tuple[str, ...]


def separated(path: object, lines: Lines) -> tuple[Lines, str]:
    """Return the lines without blank ones, which are entries only where there is one column, and the separator."""
    blank = lines.blank
    if blank.all():
        raise problem_with("file", path, "holds no line of data", "check that it is complete")
    given = re.fullmatch(r'"?sep=(.)"?', lines.line(int(np.argmin(blank)), 10).strip())
    if given:
        lines = lines.after(int(np.argmin(blank)) + 1)
        return lines.without(lines.blank), SPACES if given[1] == " " else given[1]
    places = np.flatnonzero(~blank)
    separator = _separator([_cut(lines.line(int(place), _BYTES)) for place in places[:_LINES]])
    if separator == NOTHING:
        last = places[-1] + 1
        ends = np.arange(len(blank)) >= last
        return lines.without(ends, counted(len(blank) - last, "blank line") + " left out at the end"), separator
    inner = blank[: places[-1]].sum()
    lines = lines.without(blank, *([counted(int(inner), "blank line") + " left out"] if inner else []))
    if separator == "::":
        content = lines.content.replace(b"::", NOTHING.encode())
        ends = np.flatnonzero(np.frombuffer(content, np.uint8) == ord("\n"))
        lines = lines._replace(content=content, ends=ends)
    return lines, separator


def _cut(line: str) -> str:
    return re.sub(r'"[^"]*"', '""', line)


def _separator(lines: list[str]) -> str:
    """Return what separates the fields of all lines but the first, which may be a header of a single name."""
    body = lines[1:] or lines
    for mark in ("::", "\t", ";", "|"):
        if all(mark in line for line in body):
            return mark
    between_numbers = all(re.search(r",\d+\s+[-+]?[\d,]", line) for line in body)
    if all("," in line for line in body) and not between_numbers:
        return NOTHING if _decimals(body) else ","
    spaced = [re.search(r"\S\s+\S", line) is not None for line in body]
    if all(spaced):
        return SPACES
    for mark in ("\t", ";", "|", ","):  # some lines lack a field, which will be said of them
        if any(mark in line for line in lines):
            return mark
    numbers = len(lines[0].split()) > 1 and all(number(field) is not None for field in lines[0].split())
    return SPACES if any(spaced) or numbers else NOTHING


def _decimals(lines: list[str]) -> bool:
    """Return whether the comma in every line can only be a decimal mark, as in 0,05."""
    pairs = [line.strip().split(",") for line in lines]
    if not all(len(pair) == 2 and re.fullmatch(r"[-+]?\d*", pair[0]) and pair[1].isdecimal() for pair in pairs):
        return False
    return any(pair[1].startswith("0") and len(pair[1]) > 1 for pair in pairs)


def sampled(path: object, lines: Lines, separator: str) -> Sample:
    """Return what the first lines say; what separates them is known.

    Raises ValueError for a quote that is not closed, and for what may be a decimal mark or one between thousands.
    """
    count = min(_LINES, len(lines.ends), max(2, int(np.searchsorted(lines.ends, 16 * _BYTES))))
    whole = int(np.max(np.diff(lines.ends[:count], prepend=-1))) <= _BYTES
    texts = [lines.line(place, _BYTES) for place in range(count)]
    unclosed = [place for place, text in enumerate(texts) if text.count('"') % 2]
    if unclosed and whole:
        found = f"line {lines.number(unclosed[0])} opens a quote that it does not close"
        raise problem_with("file", path, found, "close it, and keep each row on one line")
    mark = NOTHING if separator == "::" else separator
    records = [record or [""] for record in fields_of(texts, mark)]
    if not whole:
        records = [record[:-1] if len(record) > 1 else record for record in records]
    decimal = _decimal(path, lines, records, mark)
    width = Counter(map(len, records[1:] or records)).most_common(1)[0][0]
    width = width if whole else _width(lines.line(min(1, count - 1)), mark)
    trailing = _trailing(lines, records, mark, width, whole)
    said = [f"separated by {_NAMED[separator]}"] if _NAMED.get(separator) else []
    said += ["decimal commas"] if decimal == "," else []
    if trailing:
        said.append("an empty last column left out" if trailing == 1 else f"{trailing} empty last columns left out")
    quoted = all(text.startswith('"') and text.count('"') == 2 for text in texts[1:] or texts)
    return Sample(records, quoted, whole, mark, decimal, width, trailing, tuple(said))


def _decimal(path: object, lines: Lines, records: list[list[str]], mark: str) -> str:
    """Return the decimal mark, or refuse marks between thousands."""
    fields = [(place, field.strip()) for place, record in enumerate(records) for field in record]
    for place, field in fields:
        if _THOUSANDS.fullmatch(field):
            raise _ambiguous(path, lines.number(place), field)
    numbers = [(place, field) for place, field in fields if _COMMA_NUMBER.fullmatch(field)]
    if not numbers:
        return "."
    if all(_MAYBE_THOUSANDS.fullmatch(field) for _, field in numbers):
        decided = mark != "," and _COMMA_DECIDED.search(lines.content)
        if not decided:
            raise _ambiguous(path, lines.number(numbers[0][0]), numbers[0][1])
    return ","


def _ambiguous(path: object, line: int, field: str) -> ValueError:
    found = f"{field} on line {line} holds a mark between thousands, or may hold one"
    return problem_with("file", path, found, "write numbers with a decimal point and no other mark")


def _width(text: str, mark: str) -> int:
    if '"' in text:
        return len(next(fields_of([text], mark)))
    return max(1, len(text.split()) if mark == SPACES else text.count(mark) + 1)


def _trailing(lines: Lines, records: list[list[str]], mark: str, width: int, whole: bool) -> int:
    """Return how many separators end every line, except perhaps a header, which then is as much shorter."""
    if mark in (SPACES, NOTHING):
        return 0
    tails = [_tail(lines, place, mark) for place in range(len(records))]
    header = tails[0] or (whole and max(width - len(records[0]), 0))
    return min(header, width - 1, *tails[1:])


def _tail(lines: Lines, place: int, mark: str) -> int:
    """Return how many separators end a line."""
    start, end = int(lines.starts[place]), int(lines.ends[place])
    while end > start and lines.content[end - 1] == ord(mark):
        end -= 1
    return int(lines.ends[place]) - end


def layout_of(path: object, lines: Lines, sample: Sample, labels: Labels | None) -> tuple[Lines, Layout]:
    """Return the lines of data below a header, and what of a table they are; `labels` decides where it is given.

    Raises ValueError where the first lines allow two readings, naming the way to say which.
    """
    header, labelled = _labels(path, sample) if labels is None else _said(labels)
    remarks = _counting(path, sample, header, labelled) if labels is None else ()
    if not header:
        return lines, Layout(None, labelled, remarks)
    if len(lines.ends) == 1:
        raise problem_with("file", path, "holds a line of names and no data", "check that it is complete")
    named = [name.strip() for name in next(fields_of([lines.line(0)], sample.separator))]
    needed = sample.width - labelled - sample.trailing
    while named[-1] == "" and len(named) > needed + labelled:  # separators end this line, too or alone
        named.pop()
    if labelled and len(named) == needed + 1:
        named = named[1:]
    if len(named) != needed:
        found = f"its first line has {len(named)} names for {needed} columns"
        raise problem_with("file", path, found, "name every column, or leave the names out")
    return lines.after(1), Layout(named, labelled, remarks)


def _said(labels: Labels) -> tuple[bool, bool]:
    return labels in (Labels.COLUMNS, Labels.BOTH), labels in (Labels.ROWS, Labels.BOTH)


def _labels(path: object, sample: Sample) -> tuple[bool, bool]:
    """Return whether the first line names the columns, and the first field of every other its row."""
    first, body = sample.records[0], sample.records[1:]
    text = [sample.is_text(field) for field in first]
    corner, rest = first[0].strip(), first[1 : sample.width - sample.trailing]
    column = [record[0] for record in body]
    named = any(sample.is_text(field) for field in column) and sample.width > 1
    numbered = len(rest) > 1 and _counts(rest)
    if _lacks_corner(sample):
        return True, True
    if named and not all(sample.is_text(field) or is_missing(field) for field in column) and corner != "":
        with_names, without = (Labels.BOTH, Labels.COLUMNS) if any(text) else (Labels.ROWS, Labels.NONE)
        raise _two_readings(path, "its first column holds both text and numbers", with_names, without)
    if any(text[1:]):
        if _resembles_data(sample, first):
            raise _two_readings(path, "its first line holds both text and numbers", Labels.COLUMNS, Labels.NONE)
        index = corner.lower() in _INDEX_NAMES and _counts(column)
        return True, named or corner == "" or index or (sample.quoted and sample.width > 1)
    if text[0] and (not body or named):
        if not numbered and body and all(field.strip().isdecimal() for field in rest) and _fractional(body):
            raise _two_readings(path, "its first line may name the columns or be data", Labels.BOTH, Labels.ROWS)
        return numbered and bool(body), True
    if text[0]:
        if rest and not numbered:
            raise _two_readings(path, "its first line may name the columns or be data", Labels.BOTH, Labels.COLUMNS)
        return True, bool(rest)
    if corner == "" and body and rest:
        return _with_empty_corner(path, sample, rest, column, named)
    return False, named or (sample.quoted and sample.width > 1)


def _lacks_corner(sample: Sample) -> bool:
    """Return whether the first line has names for all columns but that of the rows' own names, as R writes it."""
    first, column = sample.records[0], [record[0] for record in sample.records[1:]]
    names = first[: sample.width - sample.trailing]
    if not (sample.whole and column and len(names) == sample.width - sample.trailing - 1):
        return False
    begins = len(column) > 1 and _counts(column) and int(column[0]) in (0, 1)
    numbered = _counts(names) and (begins or all(sample.is_text(field) for field in column))
    return numbered or all(sample.is_text(name) for name in names)


def _with_empty_corner(
    path: object, sample: Sample, rest: list[str], column: list[str], named: bool
) -> tuple[bool, bool]:
    """Return the same where the first field of all is empty and the first line holds numbers."""
    if named:
        return True, True
    columns, rows = (_counts(fields) and (int(fields[0]) in (0, 1) or len(fields) > 2) for fields in (rest, column))
    if columns and rows:
        return True, True
    doubtful = not _fractional([rest]) and _fractional(sample.records[1:]) and _only_corner_is_empty(sample)
    if columns or rows or doubtful:
        raise _two_readings(path, "its first line may name the columns or lack an entry", Labels.BOTH, Labels.NONE)
    return False, False


def _resembles_data(sample: Sample, first: list[str]) -> bool:
    """Return whether a first line of numbers and text may be data of which some cannot be read, as 5% or 1.0D+00."""
    known = [field.strip() for field in first if not is_missing(field)]
    return any(not sample.is_text(field) for field in known) and all(_ALMOST.match(field) for field in known)


def _only_corner_is_empty(sample: Sample) -> bool:
    fields = [field for record in sample.records for field in record[: sample.width - sample.trailing]]
    return sum(map(is_missing, fields)) == 1


def _counting(path: object, sample: Sample, header: bool, labelled: bool) -> tuple[str, ...]:
    """Say that a first column or line of data goes up by one; refuse it where nothing else is a whole number."""
    records = sample.records[header:]
    if not records:
        return ()
    table = [record[: sample.width - sample.trailing] for record in records]
    remarks = []
    column = [record[0] for record in table]
    if not labelled and len(table[0]) > 1 and len(column) > 2 and _counts(column):
        found = f"its first column counts from {column[0].strip()} up"
        if not header and _fractional([record[1:] for record in table]):
            raise _two_readings(path, f"{found}, as names of rows do", Labels.ROWS, Labels.NONE)
        remarks.append(f"the first column, which counts from {column[0].strip()} up, is data")
    row = table[0][labelled:]
    if not header and len(table) > 1 and len(row) > 2 and _counts(row):
        found = f"its first line counts from {row[0].strip()} up"
        if _fractional([record[labelled:] for record in table[1:]]):
            with_names, without = (Labels.BOTH, Labels.ROWS) if labelled else (Labels.COLUMNS, Labels.NONE)
            raise _two_readings(path, f"{found}, as names of columns do", with_names, without)
        remarks.append(f"the first line, which counts from {row[0].strip()} up, is data")
    return tuple(remarks)


def _counts(fields: list[str]) -> bool:
    """Return whether fields are whole numbers that go up by one."""
    if not all(re.fullmatch(r"\d{1,9}", field.strip()) for field in fields):
        return False
    numbers = [int(field) for field in fields]
    return all(after - before == 1 for before, after in zip(numbers, numbers[1:], strict=False))


def _fractional(records: list[list[str]]) -> bool:
    """Return whether some field is written as anything but a whole number."""
    fields = [field.strip() for record in records for field in record]
    return any(not re.fullmatch(r"[-+]?\d+", field) and not is_missing(field) for field in fields)


def _two_readings(path: object, found: str, one: Labels, other: Labels) -> ValueError:
    instead = f'say which: labels="{one}" (--labels {one}) or labels="{other}" (--labels {other})'
    return problem_with("file", path, found, instead)
