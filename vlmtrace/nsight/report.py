"""A report of Nsight Systems, as its SQLite export holds it: our NVTX ranges, CUDA calls, and what ran on the devices.

The export's schema moves from version to version, and a table exists only if something was put into it. So columns are
read from the file: what it lacks is absent here, and a missing table is an empty part. All times are integer
nanoseconds of the report's own clock. A thread is Nsight's serialised id: the process in its upper bits, the operating
system's thread id in its lower 24.
"""

from __future__ import annotations

import sqlite3
from array import array
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

from vlmtrace.errors import VlmtraceError
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import NSIGHT
from vlmtrace.timeline.spans import NONE

__all__ = [
    "COPY",
    "GRAPH",
    "KERNEL",
    "SET",
    "Marks",
    "Ranges",
    "Report",
    "Work",
    "process_of",
    "read",
    "thread_of",
    "tid_of",
]

KERNEL: Final = 0
COPY: Final = 1
SET: Final = 2
GRAPH: Final = 3
"""A whole CUDA graph, where the report does not tell its nodes apart."""

_PUSH_POP: Final = 59
_DOMAIN: Final = 75
_TID_BITS: Final = 24
_CHUNK: Final = 500
"""Rows fetched at once: few enough that Python makes those of the next chunk where it kept these."""

_COPIES: Final = {1: "HtoD", 2: "DtoH", 8: "DtoD", 10: "PtoP"}
"""``cudaMemcpyKind`` as CUPTI numbers it; others are called by their number."""


@dataclass(frozen=True, slots=True)
class Ranges:
    """The closed push/pop ranges of the domain ``vlmtrace``, by start. ``number`` is the payload, if any."""

    name: tuple[str, ...]
    start: array[int]
    end: array[int]
    thread: array[int]
    number: array[int]

    def __len__(self) -> int:
        return len(self.start)


@dataclass(frozen=True, slots=True)
class Marks:
    """The calls that record an event, by start: vlmtrace's marks are among them."""

    start: array[int]
    thread: array[int]


@dataclass(frozen=True, slots=True)
class Work:
    """What ran on the devices: parallel columns, in no order.

    ``kind`` is :data:`KERNEL`, :data:`COPY`, :data:`SET` or :data:`GRAPH`. ``name`` and ``full`` are the short and the
    full name, ``grid`` and ``block`` texts like ``128×1×1``, ``call`` the CUDA call that launched it: all positions in
    the report's strings, or ``NONE``. ``size`` is in bytes. ``call_start``, ``call_end`` and ``thread`` are that
    call's; ``NONE`` where the report holds no such call, as for what was launched before the capture began.
    """

    kind: array[int]
    start: array[int]
    end: array[int]
    device: array[int]
    stream: array[int]
    process: array[int]
    name: array[int]
    full: array[int]
    grid: array[int]
    block: array[int]
    size: array[int]
    call: array[int]
    call_start: array[int]
    call_end: array[int]
    thread: array[int]

    def __len__(self) -> int:
        return len(self.start)


@dataclass(frozen=True, slots=True)
class Report:
    """One report of ``tool``. ``schema`` is its export's version, ``product`` the tool's; "unknown" where it is silent.

    ``unix_ns`` is the wall-clock time at its time 0, ``host_ns`` that of the host's clock; ``None`` where it is silent.
    ``pending`` counts our ranges that were still open when the capture ended.
    """

    product: str
    schema: str
    unix_ns: int | None
    host_ns: int | None
    strings: tuple[str, ...]
    ranges: Ranges
    marks: Marks
    work: Work
    pending: int
    gpus: dict[int, str]
    tool: str = NSIGHT


def thread_of(process: int, tid: int) -> int:
    """Nsight's serialised id of a thread, by the operating system's ids of its process and itself."""
    return process << _TID_BITS | tid & (1 << _TID_BITS) - 1


def tid_of(thread: int) -> int:
    """The operating system's id of a thread."""
    return thread & (1 << _TID_BITS) - 1


def process_of(thread: int) -> int:
    """Nsight's id of the process that a thread belongs to: its own id with no thread in it."""
    return thread >> _TID_BITS << _TID_BITS


def read(path: Path) -> Report:
    """Read the SQLite export of a report.

    Raises:
        VlmtraceError: it cannot be read, is no SQLite database, is cut short, or is no export of Nsight Systems.
    """
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise VlmtraceError(f"'{path}' cannot be read", (error.strerror or str(error)).lower()) from None
    if head != b"SQLite format 3\0":
        raise VlmtraceError(f"'{path}' is no SQLite database", "export the report with: nsys export --type=sqlite")
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)) as db:
            db.execute("PRAGMA temp_store = MEMORY")
            return _Reader(db, path).read()
    except sqlite3.Error as error:
        raise VlmtraceError(f"'{path}' is damaged ({error})", "export the report again") from None


class _Reader:
    def __init__(self, db: sqlite3.Connection, path: Path) -> None:
        self.db = db
        self.path = path
        tables = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        # Of each table its columns, and whether one is never NULL.
        self.columns = {
            table: {row[1]: bool(row[3]) for row in db.execute(f'PRAGMA table_info("{table}")')} for table in tables
        }

    def read(self) -> Report:
        if "StringIds" not in self.columns and "NVTX_EVENTS" not in self.columns:
            raise VlmtraceError(f"'{self.path}' is no export of Nsight Systems", "make one: nsys export --type=sqlite")
        facts = self._facts()
        known = dict(self.db.execute("SELECT id, value FROM StringIds")) if "StringIds" in self.columns else {}
        strings = _Strings(known)
        ranges, pending = self._ranges()
        return Report(
            product=facts.get("EXPORT_PRODUCT_VERSION", "unknown"),
            schema=facts.get("EXPORT_SCHEMA_VERSION", "unknown"),
            unix_ns=self._one("TARGET_INFO_SESSION_START_TIME", "utcEpochNs"),
            host_ns=self._one("ANALYSIS_DETAILS", "startTime"),
            ranges=ranges,
            marks=self._marks(),
            work=self._work(strings),
            pending=pending,
            gpus=self._gpus(),
            strings=tuple(strings.texts),
        )

    def _facts(self) -> dict[str, str]:
        if not {"name", "value"} <= self.columns.get("META_DATA_EXPORT", {}).keys():
            return {}
        return {str(name): str(value) for name, value in self.db.execute("SELECT name, value FROM META_DATA_EXPORT")}

    def _one(self, table: str, column: str) -> int | None:
        if column not in self.columns.get(table, ()):
            return None
        row = self.db.execute(f"SELECT {column} FROM {table} LIMIT 1").fetchone()
        return None if row is None or row[0] is None else int(row[0])

    def _gpus(self) -> dict[int, str]:
        """Names of the devices, as CUDA numbers them."""
        if {"cudaId", "gpuId"} <= self.columns.get("TARGET_INFO_CUDA_DEVICE", {}).keys():
            rows = self.db.execute(
                "SELECT d.cudaId, g.name FROM TARGET_INFO_CUDA_DEVICE d JOIN TARGET_INFO_GPU g ON g.id = d.gpuId"
            )
        elif "TARGET_INFO_GPU" in self.columns:
            rows = self.db.execute("SELECT id, name FROM TARGET_INFO_GPU")
        else:
            return {}
        return {int(number): str(name) for number, name in rows}

    def _text(self, table: str, texts: Sequence[str], ids: Sequence[str]) -> str:
        """SQL for a name that may stand in the table itself or among the strings."""
        here = [f"t.{column}" for column in texts if column in self.columns[table]]
        if "StringIds" in self.columns:
            there = [column for column in ids if column in self.columns[table]]
            here += [f"(SELECT value FROM StringIds WHERE id = t.{column})" for column in there]
        return f"COALESCE({', '.join(here)}, '')" if here else "''"

    def _or_none(self, table: str, column: str) -> str:
        never_null = self.columns[table].get(column)
        if never_null is None:
            return str(NONE)
        return f"t.{column}" if never_null else f"COALESCE(t.{column}, {NONE})"

    def _ranges(self) -> tuple[Ranges, int]:
        table = "NVTX_EVENTS"
        if not {"start", "end", "eventType", "globalTid"} <= self.columns.get(table, {}).keys():
            return Ranges((), *(array("q") for _ in range(4))), 0
        text = self._text(table, ("text",), ("textId",))
        where = f"t.eventType = {_PUSH_POP}"
        if "domainId" in self.columns[table]:
            domains = [
                domain
                for (domain,) in self.db.execute(
                    f"SELECT t.domainId FROM {table} t WHERE t.eventType = {_DOMAIN} AND {text} = ?", (names.DOMAIN,)
                )
            ]
            # A domain made before the capture began has no row of its own: then stage names tell.
            where += f" AND t.domainId IN ({', '.join(map(str, map(int, domains)))})" if domains else ""
        payload = (
            "COALESCE("
            + ", ".join(
                [
                    f"t.{c}"
                    for c in ("int64Value", "uint64Value", "int32Value", "uint32Value")
                    if c in self.columns[table]
                ]
                + [str(NONE), str(NONE)]
            )
            + ")"
        )
        (pending,) = self.db.execute(f"SELECT COUNT(*) FROM {table} t WHERE {where} AND t.end IS NULL").fetchone()
        rows = self.db.execute(
            f"SELECT {text}, t.start, t.end, t.globalTid, {payload} FROM {table} t "
            f"WHERE {where} AND t.end IS NOT NULL ORDER BY t.start, t.end DESC"
        ).fetchall()
        name, *columns = zip(*rows, strict=True) if rows else [()] * 5
        return Ranges(tuple(name), *(array("q", column) for column in columns)), pending

    def _marks(self) -> Marks:
        told = {"start", "globalTid", "nameId"} <= self.columns.get(_CALLS, {}).keys()
        if not told or "StringIds" not in self.columns:
            return Marks(array("q"), array("q"))
        rows = self.db.execute(
            f"SELECT start, globalTid FROM {_CALLS} WHERE nameId IN "
            "(SELECT id FROM StringIds WHERE value LIKE 'cudaEventRecord%') ORDER BY start"
        ).fetchall()
        return Marks(*(array("q", (row[at] for row in rows)) for at in (0, 1)))

    def _work(self, strings: _Strings) -> Work:
        columns = [array("q") for _ in fields(Work)]
        self._index_calls()
        for kind, table in _TABLES.items():
            if not {"start", "end", "correlationId"} <= self.columns.get(table, {}).keys():
                continue
            (count,) = self.db.execute(f"SELECT COUNT(*) FROM {table}").fetchone()
            begun = len(columns[0])
            self._extend(columns, kind, table, _INDEXED, strings)
            if len(columns[0]) != begun + count:
                # Two calls with one number: each operation is told once, of the earlier call.
                for column in columns:
                    del column[begun:]
                once = f"(SELECT *, MIN(start) FROM {_INDEXED} GROUP BY correlationId, globalTid >> {_TID_BITS})"
                self._extend(columns, kind, table, once, strings)
        return Work(*columns)

    def _index_calls(self) -> None:
        """Copy what is wanted of the calls, indexed: each table that is joined with them would make its own index."""
        known = self.columns.get(_CALLS, {}).keys()
        if known >= _JOINED:
            wanted = ", ".join(sorted(_JOINED.union(_CALL.values()) & known))
            self.db.execute(f"CREATE TEMP TABLE {_INDEXED} AS SELECT {wanted} FROM {_CALLS}")
            self.db.execute(f"CREATE INDEX temp.by_number ON {_INDEXED} (correlationId)")

    def _extend(self, columns: list[array[int]], kind: int, table: str, calls: str, strings: _Strings) -> None:
        rows = self.db.execute(self._select(table, kind, calls))
        while chunk := rows.fetchmany(_CHUNK):
            columns[0].extend([kind] * len(chunk))
            for column, name, values in zip(columns[1:], _WORK[1:], zip(*chunk, strict=True), strict=True):
                known = strings if name in _TEXTS else strings.shapes if name in _SHAPES else None
                column.extend(values if known is None else map(known.__getitem__, values))

    def _select(self, table: str, kind: int, calls: str) -> str:
        """SQL for the rows of a table, beside the calls that launched them, as the columns of Work after the first."""
        has = self.columns[table].keys()
        told = {column: self._or_none(table, source) for column, source in _sources(_NAMES.get(kind, "")).items()}
        told |= {"start": "t.start", "end": "t.end"}
        for key in ("grid", "block"):
            if {f"{key}X", f"{key}Y", f"{key}Z"} <= has:
                # In one integer: a text for each row would take longer than all the rest.
                told[key] = f"(t.{key}X << 32) + (t.{key}Y << 16) + t.{key}Z"
        if kind == COPY:
            told["name"] = (
                f"'Memcpy ' || CASE {told['name']} "
                + " ".join(f"WHEN {number} THEN '{text}'" for number, text in _COPIES.items())
                + f" ELSE {told['name']} END"
            )
        elif kind == SET:
            told["name"] = "'Memset'"
        elif kind == GRAPH:
            told["name"] = f"'CUDA graph ' || {told['name']}"
        elif "demangledName" not in has:
            told["full"] = self._or_none(table, "mangledName")
        known = self.columns.get(_CALLS, {}).keys()
        join = ""
        if known >= _JOINED:
            told |= {column: f"COALESCE(c.{source}, {NONE})" for column, source in _CALL.items() if source in known}
            same = f" AND c.globalTid >> {_TID_BITS} = t.globalPid >> {_TID_BITS}" if "globalPid" in has else ""
            join = f"LEFT JOIN {calls} c ON c.correlationId = t.correlationId{same}"
        wanted = ", ".join(told.get(column, str(NONE)) for column in _WORK[1:])
        return f"SELECT {wanted} FROM {table} t {join}"


class _Strings(dict[int | str | None, int]):
    """Positions of names in the report's strings, by the name itself or the number that the export gave it."""

    def __init__(self, known: dict[int, str]) -> None:
        super().__init__({NONE: NONE, None: NONE})
        self._known = known
        self.texts: dict[str, int] = {}
        self.shapes = _Shapes(self)

    def __missing__(self, key: int | str | None) -> int:
        text = key if isinstance(key, str) else self._known.get(key or 0, f"name {key}")
        made = self[key] = self.texts.setdefault(text, len(self.texts))
        return made


class _Shapes(dict[int | None, int]):
    """Positions of the texts of grids and blocks, by X, Y and Z in one integer."""

    def __init__(self, strings: _Strings) -> None:
        super().__init__({NONE: NONE, None: NONE})
        self._strings = strings

    def __missing__(self, key: int | None) -> int:
        size = key or 0
        made = self[key] = self._strings[f"{size >> 32}×{size >> 16 & 0xFFFF}×{size & 0xFFFF}"]
        return made


_CALLS: Final = "CUPTI_ACTIVITY_KIND_RUNTIME"
_INDEXED: Final = "indexed_calls"
_JOINED: Final = frozenset(("start", "end", "globalTid", "correlationId"))
_TABLES: Final = {
    KERNEL: "CUPTI_ACTIVITY_KIND_KERNEL",
    COPY: "CUPTI_ACTIVITY_KIND_MEMCPY",
    SET: "CUPTI_ACTIVITY_KIND_MEMSET",
    GRAPH: "CUPTI_ACTIVITY_KIND_GRAPH_TRACE",
}
_WORK: Final = tuple(field.name for field in fields(Work))
_TEXTS: Final = frozenset(("name", "full", "call"))
_SHAPES: Final = frozenset(("grid", "block"))
_CALL: Final = {"call": "nameId", "call_start": "start", "call_end": "end", "thread": "globalTid"}


def _sources(name: str) -> dict[str, str]:
    return {
        "device": "deviceId",
        "stream": "streamId",
        "process": "globalPid",
        "name": name,
        "full": "demangledName",
        "size": "bytes",
    }


_NAMES: Final = {KERNEL: "shortName", COPY: "copyKind", GRAPH: "graphId"}
