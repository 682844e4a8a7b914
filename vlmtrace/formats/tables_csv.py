"""CSV: each table as a file that every tool reads, and ``tables.json``, which says what is in them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from typing import Final

from vlmtrace.formats.table_columns import Cell
from vlmtrace.formats.tables import Table, about, tables
from vlmtrace.timeline.recording import Json, Recording

__all__ = ["written"]

_ROWS_AT_ONCE: Final = 10_000


def written(recording: Recording) -> Iterator[tuple[str, Iterator[bytes]]]:
    """The name and the bytes of each file; ``tables.json`` comes last, so that where it is, all of them are."""
    told: dict[str, Json] = {}
    for table in tables(recording):
        yield f"{table.name}.csv", _file(table)
        columns: list[Json] = [
            {"name": one.name, "type": one.type, "unit": one.unit, "meaning": one.meaning} for one in table.columns
        ]
        told[table.name] = {"file": f"{table.name}.csv", "rows": len(table), "columns": columns}
    document = {"format": "vlmtrace-tables", **about(recording), "tables": told}
    yield "tables.json", iter((json.dumps(document, ensure_ascii=False, indent=1).encode() + b"\n",))


def _file(table: Table) -> Iterator[bytes]:
    """The table in the manner of RFC 4180, but with plain line feeds; text is always quoted, what is absent is empty.

    The standard library's writer has no such quoting before Python 3.12.
    """
    yield ",".join(column.name for column in table.columns).encode() + b"\n"
    rows = table.rows()
    while lines := "".join(",".join(map(_cell, row)) + "\n" for row in islice(rows, _ROWS_AT_ONCE)):
        yield lines.encode()


def _cell(value: Cell) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return '"' + value.replace('"', '""') + '"'
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value)
