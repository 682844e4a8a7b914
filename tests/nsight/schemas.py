"""Schemas of Nsight Systems' SQLite exports: which tables and columns an export of each version has.

``schema-3.20.3.sql`` is the DDL of a real export, as nsys 2025.3 wrote it. The others are that one with columns added
or left out: 3.25.0 with those that came since, 3.11.7 without those that exports before green contexts lack, and
``oldest``, which is no version of nsys but a lower bound: ranges have their names in ``text`` and no payload, and
nothing tells a version.
Tables exist only where they have rows.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

__all__ = [
    "ALWAYS",
    "CALLS",
    "CUPTI",
    "FIELDS",
    "KERNELS",
    "NEWEST",
    "OLD",
    "OLDEST",
    "REAL",
    "VERSIONS",
    "Column",
    "columns",
    "ddl",
]

NEWEST: Final = "3.25.0"
REAL: Final = "3.20.3"
OLD: Final = "3.11.7"
OLDEST: Final = "oldest"
VERSIONS: Final = (NEWEST, REAL, OLD, OLDEST)
"""From new to old."""

CUPTI: Final = "CUPTI_ACTIVITY_KIND_"
KERNELS: Final = f"{CUPTI}KERNEL"
CALLS: Final = f"{CUPTI}RUNTIME"

_ON_STREAM = "start end deviceId contextId greenContextId streamId correlationId globalPid"
FIELDS: Final = {
    "NVTX_EVENTS": "start end eventType rangeId color text globalTid endGlobalTid textId domainId int64Value",
    CALLS: "start end globalTid correlationId nameId eventClass",
    KERNELS: f"{_ON_STREAM} demangledName shortName mangledName gridId graphNodeId",
    f"{CUPTI}MEMCPY": f"{_ON_STREAM} bytes copyKind",
    f"{CUPTI}MEMSET": f"{_ON_STREAM} bytes",
    f"{CUPTI}GRAPH_TRACE": f"{_ON_STREAM} graphId graphExecId",
    f"{CUPTI}SYNCHRONIZATION": "start end deviceId contextId streamId correlationId globalPid syncType eventId",
    f"{CUPTI}CUDA_EVENT": "timestamp deviceId contextId greenContextId streamId correlationId globalPid eventId",
}
"""What a row of the tables of events is given, in this order."""

ALWAYS: Final = {
    CALLS: {"returnValue": 0},
    KERNELS: {
        **dict.fromkeys(("launchType", "cacheConfig", "gridY", "gridZ", "blockY", "blockZ"), 1),
        **dict.fromkeys(("staticSharedMemory", "dynamicSharedMemory", "localMemoryPerThread"), 0),
        "gridX": 132,
        "blockX": 128,
        "registersPerThread": 32,
        "localMemoryTotal": 250_871_808,
        "sharedMemoryExecuted": 32_768,
        "sharedMemoryLimitConfig": 0,
    },
    f"{CUPTI}MEMCPY": {"srcKind": 0, "dstKind": 2, "copyCount": 1},
    f"{CUPTI}MEMSET": {"value": 0, "memKind": 2},
}
"""What every row of such a table has."""


class Column(NamedTuple):
    """One column as it is declared, and whether it must have a value."""

    name: str
    type: str
    required: bool


_COLUMN = re.compile(r"^ {4}(\w+) +(INTEGER|TEXT|REAL)( +NOT NULL)?", re.MULTILINE)

# Tables that the real export has no rows for. A trailing "!" is NOT NULL; columns are integers unless said.
_MORE: Final = {
    "PROCESSES": "globalPid pid name:TEXT",
    "ThreadNames": "nameId! priority globalTid",
    "CUPTI_ACTIVITY_KIND_GRAPH_TRACE": (
        "start! end! deviceId! contextId! greenContextId streamId! correlationId globalPid graphId! graphExecId!"
    ),
}

_ADDED: Final = {
    NEWEST: {
        "TARGET_INFO_SESSION_START_TIME": "systemClockNs",
        "CUPTI_ACTIVITY_KIND_CUDA_EVENT": "timestamp!",
        "CUPTI_ACTIVITY_KIND_KERNEL": (
            "qmdBulkReleaseDone qmdPreexitDone qmdLastCtaDone graphId clusterX clusterY clusterZ "
            "clusterSchedulingPolicy maxPotentialClusterSize maxActiveClusters "
            "sharedMemoryRequestedPercentage tensorSizeMinusOneElements"
        ),
        "PROFILER_OVERHEAD": "correlationId overheadType",
    }
}

_GREEN: Final = dict.fromkeys(
    ("CUDA_EVENT", "GRAPH_TRACE", "KERNEL", "MEMCPY", "MEMSET", "SYNCHRONIZATION"), "greenContextId"
)
_LEFT_OUT: Final = {
    NEWEST: {"PROFILER_OVERHEAD": "returnValue"},
    OLD: {
        **{f"CUPTI_ACTIVITY_KIND_{kind}": columns for kind, columns in _GREEN.items()},
        "CUPTI_ACTIVITY_KIND_CUDA_EVENT": "greenContextId eventSyncId",
        "CUPTI_ACTIVITY_KIND_MEMCPY": "greenContextId copyCount",
        "CUPTI_ACTIVITY_KIND_SYNCHRONIZATION": "greenContextId deprecatedSyncType eventSyncId",
        "NVTX_EVENTS": "binaryData",
    },
    OLDEST: {
        "CUPTI_ACTIVITY_KIND_KERNEL": "launchType cacheConfig graphNodeId sharedMemoryLimitConfig mangledName",
        "CUPTI_ACTIVITY_KIND_MEMCPY": "migrationCause graphNodeId virtualAddress",
        "CUPTI_ACTIVITY_KIND_MEMSET": "graphNodeId memKind",
        "CUPTI_ACTIVITY_KIND_RUNTIME": "eventClass callchainId",
        "NVTX_EVENTS": (
            "textId uint64Value int64Value doubleValue uint32Value int32Value floatValue jsonTextId jsonText"
        ),
    },
}
_NO_TABLE: Final = {
    OLDEST: ("META_DATA_EXPORT PROCESSES CUPTI_ACTIVITY_KIND_GRAPH_TRACE CUPTI_ACTIVITY_KIND_CUDA_EVENT")
}


@cache
def columns(version: str, table: str) -> tuple[Column, ...]:
    """The columns of a table, in order; none where that version does not have the table."""
    if table in _NO_TABLE.get(version, "").split():
        return ()
    found = _declared(_MORE[table]) if table in _MORE else _of_the_real_export(table)
    missing = set(_LEFT_OUT.get(version, {}).get(table, "").split())
    if version == OLDEST:
        missing |= set(_LEFT_OUT[OLD].get(table, "").split())
    added = _declared(_ADDED.get(version, {}).get(table, ""))
    return (*(column for column in found if column.name not in missing), *added)


def ddl(version: str, table: str) -> str:
    """The statement that creates a table; that of the real version is the real one, comments and all."""
    if version == REAL and table not in _MORE:
        return _statements()[table]
    lines = (f"    {name:<27} {kind}{'   NOT NULL' * required}" for name, kind, required in columns(version, table))
    return f"CREATE TABLE {table} (\n" + ",\n".join(lines) + "\n)"


@cache
def _statements() -> dict[str, str]:
    text = Path(__file__).with_name("schema-3.20.3.sql").read_text()
    statements = (statement.strip() for statement in text.split("\n);"))
    return {one.split()[2]: one + "\n)" for one in statements if one}


def _of_the_real_export(table: str) -> tuple[Column, ...]:
    found = _COLUMN.findall(_statements()[table])
    return tuple(Column(name, kind, bool(required)) for name, kind, required in found)


def _declared(text: str) -> tuple[Column, ...]:
    parts = ((*part.rstrip("!").partition(":"), part.endswith("!")) for part in text.split())
    return tuple(Column(name, kind or "INTEGER", required) for name, _, kind, required in parts)
