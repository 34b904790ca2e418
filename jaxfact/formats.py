"""The formats that results are exported to; light enough for the command line to list them."""

import enum


class Format(enum.StrEnum):
    """A table with one row a run, as text or in columns, or the whole dataset."""

    CSV = "csv"
    PARQUET = "parquet"
    NETCDF = "netcdf"
