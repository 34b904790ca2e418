"""Matrices in files of text: tables with or without names, in whatever form programs write them, and lists of entries.

A table is read in pieces of whole lines whose fields are set below each other, so that pandas reads one column: a
line of a million fields then takes no more memory than a million lines.
"""

import numpy as np
import xarray as xr
from jaxtyping import Float

from jaxfact.data import entries
from jaxfact.data.arrays import ReadOptions, check_size, labelled
from jaxfact.data.layout import MISSING, Layout, Sample, as_labels, is_missing, layout_of, number, sampled, separated
from jaxfact.data.lines import NOTHING, SPACES, Lines, check_widths, fields_of, lines_of
from jaxfact.inputs import problem_with, shown

SUFFIXES = (".csv", ".tsv", ".txt", ".dat", ".data", ".tab", ".asc")
_BLOCK = 2**20  # bytes read at a time


def read_text(path: object, raw: bytes, options: ReadOptions) -> xr.DataArray:
    """Return the matrix in the bytes of a text file, with the names that it gives as labels.

    What was found beyond its shape is in the attribute `read`. Raises ValueError for rows of different lengths, text
    where a number belongs, more entries than `options.largest`, and for what allows two readings.
    """
    lines, sample = opened(path, raw, options)
    columns = entries.columns_of(path, lines, sample, options.entries)
    if columns is not None:
        return entries.listed(path, lines, sample, columns).matrix(path, options)
    lines, layout = layout_of(path, lines, sample, options.labels)
    if options.entries is None:
        entries.question(path, sample, layout)
    _check_sample(path, lines, sample, layout)
    count = sample.width - layout.labelled
    check_size(path, (len(lines.ends), count), options.largest)
    check_widths(path, lines, sample.separator, sample.width)
    values, rows = _values(path, lines, sample, layout)
    if sample.trailing:
        values = _without_last(path, lines, values, sample.trailing)
    matrix = labelled(values, rows and as_labels(rows), layout.names and as_labels(layout.names))
    return matrix.assign_attrs(read="; ".join((*lines.remarks, *sample.remarks, *layout.remarks)))


def opened(path: object, raw: bytes, options: ReadOptions) -> tuple[Lines, Sample]:
    """Return the lines of a text file, and what the first of them say."""
    if options.variable is not None:
        raise problem_with("file", f"{path}:{options.variable}", "holds one table without a name", f"give {path} alone")
    try:
        lines = lines_of(raw)
    except ValueError as error:
        instead = "save it as UTF-8, or give it the suffix of its format"
        raise problem_with("file", path, f"is no text ({error})", instead) from None
    lines, separator = separated(path, lines)
    sample = sampled(path, lines, separator)
    _check_numbers(path, lines, sample)
    return lines, sample


def _check_numbers(path: object, lines: Lines, sample: Sample) -> None:
    """Refuse prose, and whatever else has no field that could be an entry; a line of names alone is another mistake."""
    is_header = len(sample.records) == 1 and sample.width > 1
    if not is_header and all(sample.is_text(field) for record in sample.records for field in record):
        first, last = lines.number(0), lines.number(len(sample.records) - 1)
        where = f"lines {first} to {last}, which begin" if last > first else f"line {first},"
        needed = f"needs numbers, and has none on {where} {shown(lines.line(0, 40).strip())}"
        raise problem_with("file", path, needed, "give a table, with names in the first line or column alone")


def _values(
    path: object, lines: Lines, sample: Sample, layout: Layout
) -> tuple[Float[np.ndarray, "rows columns"], list[str] | None]:
    count = sample.width - layout.labelled
    values, labels = np.empty((len(lines.ends), count)), []
    for first, raw in lines.blocks(_BLOCK):
        names, fields = _fields(raw, sample, layout.labelled)
        labels += names
        found = _numbers(fields, sample.decimal)
        if found is None:
            place, field = _no_number(fields, sample.decimal)
            line, column = lines.number(first + place // count), place % count + 1 + layout.labelled
            raise _no_entry(path, field, line, column)
        rows = len(found) // count
        values[first : first + rows] = found.reshape(rows, count)
    return values, labels if layout.labelled else None


def _check_sample(path: object, lines: Lines, sample: Sample, layout: Layout) -> None:
    """Refuse text among the first entries, truth values included, which pandas would read as numbers."""
    for place, record in enumerate(sample.records[layout.names is not None :]):
        for column in range(layout.labelled, len(record)):
            if sample.is_text(record[column]):
                raise _no_entry(path, record[column].strip(), lines.number(place), column + 1)


def _no_entry(path: object, field: str, line: int, column: int) -> ValueError:
    needed = f"{field!r} on line {line}, field {column}, is neither a number nor a mark of a missing entry"
    instead = "write NA where an entry is missing, and names in the first line or column alone"
    return problem_with("file", path, needed, instead)


def _fields(raw: bytes, sample: Sample, has_labels: bool) -> tuple[list[str], bytes]:
    """Return the labels of some lines, and their other fields, one per line."""
    mark = sample.separator
    if (b'"' in raw and (has_labels or mark == sample.decimal)) or (has_labels and mark == SPACES):
        records = list(fields_of(raw.decode().split("\n")[:-1], mark))
        fields = [field for record in records for field in record[has_labels:]]
        return [record[0].strip() for record in records if has_labels], "\n".join([*fields, ""]).encode()
    if mark == SPACES:
        return [], b"\n".join([*raw.split(), b""])
    if not has_labels:
        return [], raw.replace(mark.encode(), b"\n")
    parts = [line.partition(mark) for line in raw.decode().split("\n")[:-1]]
    fields = "\n".join([rest for _, _, rest in parts] + [""]).replace(mark, "\n")
    return [label.strip() for label, _, _ in parts], fields.encode()


def _numbers(fields: bytes, decimal: str) -> Float[np.ndarray, " k"] | None:
    """Return a column of numbers, or None where a field holds none; in pieces, for pandas needs 40 bytes per field."""
    found, begun = [], 0
    while begun < len(fields):
        end = fields.find(b"\n", begun + _BLOCK) + 1 or len(fields)
        piece = _numbers_of(fields[begun:end], decimal)
        if piece is None:
            return None
        found.append(piece)
        begun = end
    return np.concatenate(found) if len(found) > 1 else found[0]


def _numbers_of(fields: bytes, decimal: str) -> Float[np.ndarray, " k"] | None:
    stripped = [b"\n".join([field.strip() for field in fields.split(b"\n")])] if b" " in fields else []
    for form in (fields, *stripped):
        try:
            options = {"na_values": sorted(MISSING), "decimal": decimal, "sep": NOTHING}
            return entries.parsed(form, names=[0], dtype=np.float64, **options)[0].to_numpy()
        except ValueError:
            continue
    return None


def _no_number(fields: bytes, decimal: str) -> tuple[int, str]:
    for place, field in enumerate(fields.decode().split("\n")):
        bare = field.strip().strip('"')
        if number(bare, decimal) is None and not is_missing(bare):
            return place, bare
    return 0, fields.decode().partition("\n")[0]


def _without_last(path: object, lines: Lines, values: Float[np.ndarray, "m n"], count: int) -> Float[np.ndarray, "m k"]:
    """Drop the columns behind separators that end every line, where they are empty throughout."""
    filled = np.flatnonzero(~np.isnan(values[:, -count:]).all(axis=1))
    if len(filled):
        found = f"line {lines.number(int(filled[0]))} goes on behind the separator that ends the first lines"
        raise problem_with("file", path, found, "write NA for what is missing, and no separator at the end of lines")
    return np.ascontiguousarray(values[:, :-count])
