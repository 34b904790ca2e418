"""Lists of entries: one line per observed entry, with the names of its row and column, its value, perhaps its time."""

import io
import re
from typing import NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float, Int

from jaxfact.choices import Absent
from jaxfact.data.arrays import ReadOptions, check_size, labelled
from jaxfact.data.layout import MISSING, Layout, Sample, as_labels, is_missing, number
from jaxfact.data.lines import NOTHING, SPACES, Lines, check_widths, counted, fields_of
from jaxfact.inputs import problem_with

_ROWS = "user userid uid row rowid i customer customerid reviewer reviewerid person personid member memberid subject"
_COLUMNS = "item itemid iid column columnid col colid j movie movieid film filmid product productid asin book bookid"
_COLUMNS += " isbn song songid track trackid artist artistid anime animeid business businessid article articleid"
_VALUES = "rating value x score stars overall val v count plays weight entry preference bookrating starrating"
_KINDS = tuple(frozenset(names.split()) for names in (_ROWS, _COLUMNS, _VALUES))
_TIMES = ((10**8, 10**10), (10**11, 10**13))  # seconds, milliseconds since 1970
# pandas rounds correctly by itself from version 3.1 on, and warns of being asked to.
_EXACT = {"float_precision": "round_trip"} if [int(x) for x in pd.__version__.split(".")[:2]] < [3, 1] else {}


class Columns(NamedTuple):
    """Which columns of a list hold rows, columns and values; whether a line of names precedes it, and remarks."""

    places: tuple[int, int, int]
    header: bool
    remarks: tuple[str, ...]


class Listed(NamedTuple):
    """Entries out of a list, and what its rows and columns are called, in order.

    Attributes:
        rows, columns: the place of each entry among the labels.
        values: the entries, in the user's unit.
        row_labels, column_labels: the names, whole numbers where all of them are.
        remarks: what was found, for the user.
    """

    rows: Int[np.ndarray, " k"]
    columns: Int[np.ndarray, " k"]
    values: Float[np.ndarray, " k"]
    row_labels: np.ndarray
    column_labels: np.ndarray
    remarks: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """The number of rows and of columns."""
        return len(self.row_labels), len(self.column_labels)

    def matrix(self, path: object, options: ReadOptions) -> xr.DataArray:
        """Return the matrix, whose other entries are missing unless they are asked to be zeros.

        Raises ValueError for more than `options.largest` of them.
        """
        advice = (
            f"keep it as a list, by data.read_entries, or allow {self.shape[0] * self.shape[1]} by largest= (--largest)"
        )
        check_size(path, self.shape, options.largest, advice)
        zeros = options.absent is Absent.ZERO
        values = np.full(self.shape, 0.0 if zeros else np.nan)
        values.ravel()[self.rows * self.shape[1] + self.columns] = self.values
        said = f"a list of {len(self.values)} entries, the others {'zero' if zeros else 'missing'}"
        matrix = labelled(values, self.row_labels, self.column_labels)
        return matrix.assign_attrs(read="; ".join((said, *self.remarks)))


def columns_of(path: object, lines: Lines, sample: Sample, entries: bool | None) -> Columns | None:
    """Return where a list has its rows, columns and values, or None for a table.

    A list is known by the names of its columns, by separators `::`, by the times that follow its entries, or because
    the user says so; then, without names that are known, its first three columns count.
    """
    if entries is False:
        return None
    width, first = sample.width - sample.trailing, sample.records[0]
    shift = sample.whole and len(sample.records) > 1 and len(first) == sample.width - 1 and not sample.trailing
    for names, header in ((first, True), (_commented(lines, sample), False)):
        places = _known(names)
        if places is not None and len(names) in (width, sample.width, width - 1):
            row, column, value = (place + (shift and header) for place in places)
            return Columns((row, column, value), header, _unused(names, places))
    if entries is None and width == 2 and _names_ids_alone(first):
        found = "names the row and the column of an entry per line, and no value"
        raise problem_with("file", path, found, "add a column of values, or pass entries=False (--no-entries)")
    if entries is None and not _evident(sample, lines, width):
        return None
    if width < 3:
        found = f"has {width} columns, and a list of entries has a row, a column and a value per line"
        raise problem_with("file", path, found, "add what lacks, or pass entries=False (--no-entries)")
    header = len(sample.records) > 1 and sample.is_text(first[2])
    rest = (f"not used: field{' 4' if width == 4 else f's 4 to {width}'}",) if width > 3 else ()
    return Columns((0, 1, 2), header, ("row, column and value by their place", *rest))


def _known(names: list[str]) -> tuple[int, int, int] | None:
    """Return the places of the names that rows, columns and values are known by, each of which must be there once."""
    plain = [re.sub(r"[\s_.\-]", "", name.partition(":")[0]).lower() for name in names]
    places = [[place for place, name in enumerate(plain) if name in kind] for kind in _KINDS]
    return (places[0][0], places[1][0], places[2][0]) if [len(found) for found in places] == [1, 1, 1] else None


def _names_ids_alone(names: list[str]) -> bool:
    plain = [re.sub(r"[\s_.\-]", "", name).lower() for name in names]
    return len(plain) == 2 and any(one in _KINDS[0] and other in _KINDS[1] for one, other in (plain, plain[::-1]))


def _commented(lines: Lines, sample: Sample) -> list[str]:
    names = next(fields_of([lines.comment], sample.separator), []) if lines.comment else []
    return names if len(names) == sample.width else []


def _unused(names: list[str], places: tuple[int, int, int]) -> tuple[str, ...]:
    unused = [name for place, name in enumerate(names) if place not in places and name.strip()]
    return (f"not used: {', '.join(unused)}",) if unused else ()


def _evident(sample: Sample, lines: Lines, width: int) -> bool:
    """Return whether nothing but a list looks like this: `::` between fields, or ids, a value and a time."""
    if sample.separator == NOTHING:
        return width >= 3
    if width != 4 or not _looks_listed(sample.records):
        return False
    times = [number(record[3]) for record in sample.records]
    return all(time is not None and any(low <= time < high for low, high in _TIMES) for time in times)


def _looks_listed(records: list[list[str]]) -> bool:
    """Return whether the first two fields look like ids: whole numbers or text that come again, pairs that do not."""
    pairs = [tuple(field.strip() for field in record[:2]) for record in records if len(record) > 2]
    if len(pairs) < len(records) or len(set(pairs)) < len(pairs):
        return False
    numbers = [number(field) for pair in pairs for field in pair]
    if not all(x is None or (x >= 0 and x.is_integer()) for x in numbers):
        return False
    return any(len(set(ids)) < len(ids) for ids in zip(*pairs, strict=True))


def question(path: object, sample: Sample, layout: Layout) -> None:
    """Refuse a table that may as well be a list: of three or four columns, the first two of which look like ids."""
    records = sample.records[layout.names is not None :]
    width = sample.width - sample.trailing
    if width not in (3, 4) or len(records) <= 2 * width or not _looks_listed(records):
        return
    if not layout.labelled and any(is_missing(field) for record in records for field in record[:2]):
        return
    found = f"its {width} columns may be row, column and value of an entry per line, or a matrix"
    instead = "say which: entries=True (--entries) or entries=False (--no-entries)"
    raise problem_with("file", path, found, instead)


def listed(path: object, lines: Lines, sample: Sample, columns: Columns) -> Listed:
    """Return the entries of a list, each with its place.

    Ids are told apart as they are written: as whole numbers, or as text beyond 2⁶³. Raises ValueError for lines without
    three fields, ids or finite values, and for an entry that is given twice.
    """
    lines = lines.after(int(columns.header))
    if not len(lines.ends):
        raise problem_with("file", path, "holds a line of names and no entry", "check that it is complete")
    check_widths(path, lines, sample.separator, sample.width)
    rows, cols, values = _read(path, lines, sample, columns.places)
    infinite = np.flatnonzero(np.isinf(values))
    if len(infinite):
        found = f"the value on line {lines.number(int(infinite[0]))} is infinite"
        raise problem_with("file", path, found, "write NA, or leave the line out")
    (row, row_labels), (column, column_labels) = (
        _coded(path, lines, ids, name) for ids, name in ((rows, "row"), (cols, "column"))
    )
    _check_repeats(path, lines, (row, column), (row_labels, column_labels))
    known = ~np.isnan(values)
    remarks = (*lines.remarks, *sample.remarks, *columns.remarks)
    if not known.all():
        row, column, values = row[known], column[known], values[known]
        remarks += (counted(int(np.sum(~known)), "line") + " without a value",)
    return Listed(row, column, values, row_labels, column_labels, remarks)


def _read(
    path: object, lines: Lines, sample: Sample, places: tuple[int, int, int]
) -> tuple[pd.Series, pd.Series, Float[np.ndarray, " k"]]:
    """Return ids of rows and columns, as whole numbers where all are written as such, and values."""
    plain = _are_plain(lines, sample)
    row, column, value = places
    for kinds in ((np.int64, np.float64), (str, np.float64), (str, str)):  # categories would make numbers of 007
        if kinds[0] is np.int64 and not plain:
            continue
        try:
            found = parsed(
                lines.content,
                sep=r"\s+" if sample.separator == SPACES else sample.separator,
                names=range(sample.width),
                usecols=places,
                dtype={row: kinds[0], column: kinds[0], value: kinds[1]},
                na_values={value: sorted(MISSING)},
                decimal=sample.decimal,
            )
        except (ValueError, OverflowError):
            continue
        rows, columns, values = (pd.Series(found[place]) for place in places)
        if kinds[1] is str:
            return rows, columns, _converted(path, lines, values, sample.decimal)
        return rows, columns, values.to_numpy()
    raise problem_with("file", path, "cannot be read as a list of entries", "check its quotes and separators")


def parsed(text: bytes, **options: object) -> pd.DataFrame:
    """Return what pandas reads of a text without a header, its numbers correctly rounded."""
    usual: dict[str, object] = {"header": None, "keep_default_na": False, "skip_blank_lines": False}
    usual |= {"skipinitialspace": b" " in text, **_EXACT}  # it costs as much as all else
    return pd.read_csv(io.BytesIO(text), **(usual | options))  # pyright: ignore[reportCallIssue, reportArgumentType]


def _are_plain(lines: Lines, sample: Sample) -> bool:
    """Return whether no whole number is written with a leading zero or plus, which would make two ids one."""
    octets = lines.octets
    begins, digits = np.zeros(256, bool), np.zeros(256, bool)
    begins[[ord(mark) for mark in f'\n "-{sample.separator}']] = True
    begins[ord("\t")] |= sample.separator == SPACES
    digits[ord("0") : ord("9") + 1] = True
    zeros = np.flatnonzero(octets == ord("0"))  # the last octet is a newline
    padded = digits[octets[zeros + 1]] & ((zeros == 0) | begins[octets[zeros - 1]])
    signs = np.flatnonzero(octets == ord("+"))
    return not (padded.any() or ((signs == 0) | begins[octets[signs - 1]]).any())


def _converted(path: object, lines: Lines, values: pd.Series, decimal: str) -> Float[np.ndarray, " k"]:
    """Return values that pandas could not convert, or refuse the first that holds no number."""
    codes, known = pd.factorize(values.to_numpy(object))
    texts = [str(text) for text in known]
    numbers = [np.nan if is_missing(text) else number(text, decimal) for text in texts]
    bad = np.flatnonzero(np.isin(codes, [place for place, x in enumerate(numbers) if x is None]))
    if len(bad):
        found = f"{texts[codes[bad[0]]]!r} on line {lines.number(int(bad[0]))} is not a value"
        instead = "write a number, or NA, and pass entries=False (--no-entries) if this is no list of entries"
        raise problem_with("file", path, found, instead)
    return np.append(np.array(numbers, float), np.nan)[codes]


def _coded(path: object, lines: Lines, ids: pd.Series, name: str) -> tuple[Int[np.ndarray, " k"], np.ndarray]:
    """Return the place of each id among all in order, and these: numbers by size, other names by the alphabet."""
    if ids.dtype == np.int64:
        codes, labels = pd.factorize(ids.to_numpy(), sort=True)
        return codes, np.asarray(labels)
    codes, known = pd.factorize(ids.to_numpy(object))
    texts = [str(text).strip() for text in known]
    empty = np.flatnonzero((codes < 0) | np.isin(codes, [place for place, text in enumerate(texts) if not text]))
    if len(empty):
        found = f"line {lines.number(int(empty[0]))} names no {name}"
        raise problem_with("file", path, found, "name the row and the column of every entry")
    texts = _as_whole(texts)
    whole = all(re.fullmatch(r"-?\d+", text) for text in texts)
    ordered = sorted(set(texts), key=(lambda text: (int(text), text)) if whole else None)
    places = {text: place for place, text in enumerate(ordered)}
    return np.array([places[text] for text in texts])[codes], as_labels(ordered)


def _as_whole(texts: list[str]) -> list[str]:
    """Return ids that are all whole numbers in a floating-point form, as 1.000e+00, as such; other text as it is."""
    numbers = [number(text) if re.search(r"[.eE]", text) else None for text in texts]
    if any(x is None or not x.is_integer() or abs(x) >= 2**53 for x in numbers):
        return texts
    return [str(int(x)) for x in numbers if x is not None]


def _check_repeats(
    path: object, lines: Lines, places: tuple[np.ndarray, np.ndarray], labels: tuple[np.ndarray, np.ndarray]
) -> None:
    cells = places[0].astype(np.int64) * len(labels[1]) + places[1]
    again = pd.Series(cells).duplicated().to_numpy()
    if again.any():
        second = int(np.argmax(again))
        first = int(np.argmax(cells == cells[second]))
        row, column = (name[place[second]] for name, place in zip(labels, places, strict=True))
        found = f"row {row}, column {column} is given on line {lines.number(first)} and on line {lines.number(second)}"
        more = f", and {int(again.sum()) - 1} more repeat others" if again.sum() > 1 else ""
        raise problem_with("file", path, f"{found}{more}", "average the repeats, or keep the last of each")
