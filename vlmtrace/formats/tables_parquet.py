"""Parquet: each table as one typed, compressed file, with what it is in the file's and the columns' metadata."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pyarrow as pa
from pyarrow import parquet

from vlmtrace.formats.table_columns import INTEGER, REAL, TEXT, TRUTH
from vlmtrace.formats.tables import Table, about, tables
from vlmtrace.timeline.recording import Json, Recording

__all__ = ["written"]

_TYPES: Final = {INTEGER: pa.int64(), REAL: pa.float64(), TEXT: pa.string(), TRUTH: pa.bool_()}


def written(recording: Recording) -> Iterator[tuple[str, Iterator[bytes]]]:
    """The name and the bytes of each file."""
    told = about(recording)
    for table in tables(recording):
        yield f"{table.name}.parquet", _file(table, told)


def _file(table: Table, told: dict[str, Json]) -> Iterator[bytes]:
    fields = [
        pa.field(one.name, _TYPES[one.type], metadata={"unit": one.unit, "meaning": one.meaning})
        for one in table.columns
    ]
    schema = pa.schema(fields, metadata={"table": table.name, **{key: str(value) for key, value in told.items()}})
    columns = [pa.array(cells, field.type) for cells, field in zip(table.cells, fields, strict=True)]
    sink = pa.BufferOutputStream()
    parquet.write_table(pa.Table.from_arrays(columns, schema=schema), sink, compression="zstd")
    yield sink.getvalue().to_pybytes()
