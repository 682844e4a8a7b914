"""Export files: SQLite files as ``nsys export`` writes them, made up from a small script of what a program did.

A script is told thread by thread: each :class:`Thread` has a host time that its calls advance, and each stream of a
device runs its work in order. All times are integer nanoseconds since the start of the session, as in an export.
"""

from __future__ import annotations

import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path
from typing import Any, Final

from tests.nsight.laid import Kernel, Laid, Work
from tests.nsight.schemas import ALWAYS, CALLS, CUPTI, FIELDS, KERNELS, OLDEST, REAL, columns, ddl
from vlmtrace.timeline import names

__all__ = ["US", "Export", "Process", "Thread"]

US: Final = 1_000
VM: Final = 1 << 48
"""The bits of a serialised identifier above the process: which machine it ran on."""

PUSH_POP, START_END, MARK, DOMAIN_CREATE = 59, 60, 34, 75
NO_EVENT: Final = 0xFFFFFFFF
_BUFFERED: Final = 50_000


class Export:
    """An export being written to ``path``; closing it completes the file.

    ``leave_out`` are beginnings of the names of tables that the file shall not have. A session starts at ``start_ns``
    of the system's clock. A mark lies ``beside_ns`` before its range begins, or behind its end. The call of
    cudaEventRecord begins a tenth of that time after the mark and ends after four fifths of it; with 0 all are at once.
    """

    def __init__(
        self,
        path: Path,
        version: str = REAL,
        *,
        leave_out: Sequence[str] = (),
        start_ns: int = 30_889_200_239,
        beside_ns: int = 5 * US,
    ) -> None:
        self.version, self.start_ns, self.beside_ns = version, start_ns, beside_ns
        self.leave_out = tuple(leave_out)
        self.utc_ns = 1_795_434_274_570_719_309
        self.outside = Work()  # launched in no range
        self.orphans = Work()  # launched before the capture
        self.rows: Counter[str] = Counter()
        self.processes: list[Process] = []
        self._latest = 0
        self._strings: dict[str, int] = {}
        self._kernels: dict[Kernel, tuple[int, int, int]] = {}
        self._buffers: defaultdict[str, list[tuple[Any, ...]]] = defaultdict(list)
        self._statements: dict[str, tuple[str, Any] | None] = {}
        path.unlink(missing_ok=True)
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA journal_mode = OFF")
        self._db.execute("PRAGMA synchronous = OFF")
        self._db.execute("BEGIN")

    def __enter__(self) -> Export:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def process(self, pid: int = 470, name: str = "python3", first_correlation: int = 4_000) -> Process:
        """A process. Correlation ids are its own: those of two processes are the same unless begun apart."""
        made = Process(self, pid, first_correlation)
        self.processes.append(made)
        self.add("PROCESSES", globalPid=made.id, pid=pid, name=name)
        return made

    def string(self, text: str) -> int:
        """The position of a text in StringIds; as in a real export they do not begin at 0."""
        return self._strings.setdefault(text, 21 + len(self._strings))

    def strings_of(self, kernel: Kernel) -> tuple[int, int, int]:
        """The names of a kernel: demangled, short, mangled."""
        if kernel not in self._kernels:
            texts = (kernel.demangled, kernel.name, kernel.mangled)
            first, second, third = map(self.string, texts)
            self._kernels[kernel] = (first, second, third)
        return self._kernels[kernel]

    def row(self, table: str, *values: Any) -> None:
        """A row of a table of which many are written, values in the order of its fields."""
        buffer = self._buffers[table]
        buffer.append(values)
        if len(buffer) >= _BUFFERED:
            self._flush(table)

    def add(self, table: str, **values: Any) -> None:
        """A row of any table, by its columns' names; what the version has no column for is left out."""
        known = [column.name for column in self._created(table) if column.name in values]
        if known:
            marks = ", ".join("?" * len(known))
            self._db.execute(
                f"INSERT INTO {table} ({_listed(known)}) VALUES ({marks})", [values[name] for name in known]
            )
            self.rows[table] += 1

    def reach(self, at: int) -> None:
        """Something was at that time: the session lasts until then."""
        self._latest = max(self._latest, at)

    def close(self) -> None:
        for table in list(self._buffers):
            self._flush(table)
        self._describe()
        for text, number in self._strings.items():
            self.add("StringIds", id=number, value=text)
        self._db.execute("COMMIT")
        self._db.close()

    def _created(self, table: str) -> Sequence[Any]:
        """The columns of a table, created when first asked for; none where the file shall not have it."""
        found = () if table.startswith(self.leave_out) else columns(self.version, table)
        if found and not self.rows[table]:
            exists = self._db.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchone()
            if exists is None:
                self._db.execute(ddl(self.version, table))
        return found

    def _flush(self, table: str) -> None:
        if table not in self._statements:
            self._statements[table] = self._statement(table)
        rows, statement = self._buffers.pop(table), self._statements[table]
        if statement is not None:
            sql, chosen = statement
            self._db.executemany(sql, map(chosen, rows))
            self.rows[table] += len(rows)

    def _statement(self, table: str) -> tuple[str, Any] | None:
        """How rows of a table are inserted: the statement, and what picks a row's values for it."""
        has = {column.name for column in self._created(table)}
        if not has:
            return None
        fields = FIELDS[table].split()
        chosen = [at for at, name in enumerate(fields) if name in has]
        always = {name: value for name, value in ALWAYS.get(table, {}).items() if name in has}
        given = [*(fields[at] for at in chosen), *always]
        values = [*"?" * len(chosen), *map(str, always.values())]
        return f"INSERT INTO {table} ({_listed(given)}) VALUES ({', '.join(values)})", itemgetter(*chosen)

    def _describe(self) -> None:
        """What an export says of the session, the machine and itself."""
        if self.version != OLDEST:
            parts = self.version.split(".")
            told = {"EXPORT_PRODUCT_NAME": "NVIDIA Nsight Systems", "EXPORT_SCHEMA_VERSION": self.version}
            keys = ("MAJOR", "MINOR", "MICRO")
            told |= {f"EXPORT_SCHEMA_VERSION_{key}": part for key, part in zip(keys, parts, strict=True)}
            for name, value in told.items():
                self.add("META_DATA_EXPORT", name=name, value=value)
        until = self.start_ns + self._latest
        spanned = {"duration": self._latest, "startTime": self.start_ns, "stopTime": until}
        self.add("ANALYSIS_DETAILS", globalVid=VM, **spanned)
        texts = dict.fromkeys(("utcTime", "localTime"), "2026-11-23T11:44:34")
        self.add("TARGET_INFO_SESSION_START_TIME", utcEpochNs=self.utc_ns, systemClockNs=self.start_ns, **texts)
        seen = {(device, stream) for process in self.processes for device, stream in process.free}
        for device in sorted({device for device, _ in seen}):
            self.add("TARGET_INFO_GPU", vmId=VM, id=device, cuDevice=device, smCount=132, name="NVIDIA H100 80GB HBM3")
        for process in self.processes:
            for device, stream in sorted(process.free):
                known = {"hwId": 0, "vmId": 1, "processId": process.pid, "priority": 0, "flag": 1}
                self.add("TARGET_INFO_CUDA_STREAM", streamId=stream, contextId=device + 1, **known)


class Process:
    """A process: its threads, its NVTX domains, and how far each stream of each device is."""

    def __init__(self, export: Export, pid: int, first_correlation: int) -> None:
        self.export, self.pid, self.correlation = export, pid, first_correlation
        self.id = VM | pid << 24
        self.free: defaultdict[tuple[int, int], int] = defaultdict(int)
        self.generated: list[Any] = []
        self.domains: dict[str | None, int] = {None: 0}
        self.events = self.ranges = 0

    def thread(self, tid: int | None = None, name: str = "MainThread", at: int = 0) -> Thread:
        """A thread whose host time is ``at``; that of the process itself if no id is given."""
        made = Thread(self, self.pid if tid is None else tid, name, at)
        self.export.add("ThreadNames", nameId=self.export.string(name), priority=20, globalTid=made.id)
        return made

    def domain(self, name: str | None, thread: int) -> int:
        """The number of an NVTX domain, which are a process's own; it was created before the capture began."""
        if name not in self.domains:
            self.domains[name] = len(self.domains)
            at = -19_757_857_047 + self.domains[name]
            created = (DOMAIN_CREATE, None, None, name, thread, None, None, self.domains[name], None)
            self.export.row("NVTX_EVENTS", at, None, *created)
        return self.domains[name]

    def next_correlation(self) -> int:
        self.correlation += 1
        return self.correlation

    def run(self, kernel: Kernel, start: int, on: tuple[int, int], correlation: int, node: int | None = None) -> int:
        """A kernel's row, and when it ends; ``on`` are device and stream."""
        end = start + kernel.ns
        where = (start, end, on[0], on[0] + 1, 0, on[1], correlation, self.id)
        self.export.row(KERNELS, *where, *self.export.strings_of(kernel), correlation, node)
        self.free[on] = max(self.free[on], end)
        self.export.reach(end)
        return end

    def orphan(self, kernel: Kernel, start: int, device: int = 0, stream: int = 7) -> None:
        """A kernel that runs in the capture but was launched before it: no row tells of its launch."""
        end = self.run(kernel, start, (device, stream), self.next_correlation())
        self.export.orphans.add_kernel(kernel.name, start, end)


class Thread:
    """A thread: its host time ``at``, and what it does at that time.

    Its work goes to ``stream`` of ``device`` and begins ``delay_ns`` after its call at the earliest. A call takes
    ``call_ns``, and ``idle_ns`` follow.
    """

    def __init__(self, process: Process, tid: int, name: str, at: int) -> None:
        self.process, self.export, self.tid, self.name, self.at = process, process.export, tid, name, at
        self.id = process.id | tid
        self.device, self.stream = 0, 7
        self.delay_ns, self.call_ns, self.idle_ns = 10 * US, 5 * US, 1 * US
        self.laid: list[Laid] = []
        self._open: list[Laid] = []

    @contextmanager
    def range(
        self,
        name: str,
        number: int | None = None,
        *,
        marks: bool = False,
        domain: str | None = names.DOMAIN,
        closed: bool = True,
    ) -> Iterator[Laid]:
        """A range that is pushed now and popped afterwards; not ``closed``: the capture ended before.

        With ``marks`` events are recorded right before and right behind it, as vlmtrace's marks do. Only ranges of
        vlmtrace's own domain are told of the work launched in them. Names are registered strings.
        """
        own = domain == names.DOMAIN
        found = Laid(name, number, self.id, self.at)
        if marks:
            found.marks.append(self.mark())
            found.start = self.at
        if own:
            (self._open[-1].children if self._open else self.laid).append(found)
            self._open.append(found)
        yield found
        if own:
            self._open.pop()
        if closed:
            found.end = self.at
        self._range_row(PUSH_POP, found, domain)
        if marks and closed:
            self.at += self.export.beside_ns
            found.marks.append(self.mark())

    def start_end(self, name: str, start: int, end: int | None, ended_by: Thread | None = None) -> None:
        """A range that is started and ended, perhaps by another thread or not at all."""
        self.process.ranges += 1
        found = Laid(name, None, self.id, start, end)
        self._range_row(START_END, found, names.DOMAIN, self.process.ranges, (ended_by or self).id)

    def point(self, text: str, domain: str | None = None) -> None:
        """An NVTX mark of somebody's."""
        self._range_row(MARK, Laid(text, None, self.id, self.at), domain)

    def _range_row(
        self, kind: int, found: Laid, domain: str | None, number: int | None = None, ended_by: int | None = None
    ) -> None:
        number_of_domain = self.process.domain(domain, self.id)
        registered = self.export.version != OLDEST
        text, text_id = (None, self.export.string(found.name)) if registered else (found.name, None)
        colour = 255 if domain == names.DOMAIN else None
        more = (colour, text, self.id, ended_by, text_id, number_of_domain, found.number)
        self.export.row("NVTX_EVENTS", found.start, found.end, kind, number, *more)
        self.export.reach(found.start if found.end is None else found.end)

    def mark(self) -> tuple[int, int]:
        """A mark of vlmtrace's, with no range: the host's time, and when the stream reached it."""
        host, beside = self.at, self.export.beside_ns
        self.at += beside // 10
        reached = self.record_event(beside * 7 // 10)
        self.at = host + beside
        return host, reached

    def record_event(self, ns: int) -> int:
        """A call of cudaEventRecord, and when the stream reached the event."""
        correlation = self._call("cudaEventRecordWithFlags_v11010", ns)
        self.process.events += 1
        on = (self.device, self.stream)
        reached = self.process.free[on] = self._begins(self.at - ns)
        where = (reached, self.device, self.device + 1, 0, self.stream, correlation, self.process.id)
        self.export.row(f"{CUPTI}CUDA_EVENT", *where, self.process.events)
        self.export.reach(reached)
        return reached

    def call(self, name: str, *, driver: bool = False) -> None:
        """A call that brings no work to a device."""
        self._call(name, self.call_ns, driver=driver)
        self.at += self.idle_ns

    def launch(self, kernel: Kernel, call: str = "cudaLaunchKernel_v7000") -> None:
        start = self.at
        correlation = self._call(call, self.call_ns, driver=call.startswith("cu") and not call.startswith("cuda"))
        self.at += self.idle_ns
        begins = self._begins(start)
        end = self.process.run(kernel, begins, (self.device, self.stream), correlation)
        self._work.add_kernel(kernel.name, begins, end)

    def copy(self, size: int = 8, kind: int = 1, ns: int = US) -> None:
        """A copy between host and device; ``kind`` 1: to the device, 2: to the host, 8: on the device."""
        work = self._work
        work.copies += 1
        work.copied_bytes += size
        work.add(*self._operation("MEMCPY", "cudaMemcpyAsync_v3020", ns, size, kind))

    def memset(self, size: int = 4, ns: int = 800) -> None:
        work = self._work
        work.memsets += 1
        work.add(*self._operation("MEMSET", "cudaMemsetAsync_v3020", ns, size))

    def launch_graph(self, kernels: Sequence[Kernel], graph: int, level: str = "node") -> None:
        """One launch of a graph of ``kernels``, seen ``node`` by node or as one (``graph``).

        A graph's nodes have the same numbers in each launch.
        """
        start = self.at
        correlation = self._call("cudaGraphLaunch_v10000", self.call_ns)
        self.at += self.idle_ns
        on, work = (self.device, self.stream), self._work
        begins = end = self._begins(start)
        for number, kernel in enumerate(kernels):
            began = end
            if level == "node":
                end = self.process.run(kernel, began, on, correlation, graph << 20 | number + 1)
                work.add_kernel(kernel.name, began, end)
            else:
                end += kernel.ns
        work.graphs += 1
        if level == "graph":
            where = (begins, end, self.device, self.device + 1, 0, self.stream, correlation, self.process.id)
            self.export.row(f"{CUPTI}GRAPH_TRACE", *where, graph, graph + 1)
            work.add(begins, end)
        self.process.free[on] = end
        self.export.reach(end)

    def synchronize(self, call: str = "cudaStreamSynchronize_v3020") -> None:
        """Wait until the stream has done everything."""
        start, kinds = self.at, {"cudaE": 1, "cudaS": 3, "cudaD": 4}
        ns = max(self.call_ns, self.process.free[self.device, self.stream] + 2 * US - start)
        correlation = self._call(call, ns)
        where = (start, self.at, self.device, self.device + 1, self.stream, correlation, self.process.id)
        self.export.row(f"{CUPTI}SYNCHRONIZATION", *where, kinds[call[:5]], NO_EVENT)
        self.at += self.idle_ns

    @property
    def _work(self) -> Work:
        """Where work launched now is counted."""
        return self._open[-1].own if self._open else self.export.outside

    def _begins(self, called: int) -> int:
        """When the stream begins what a call that began then brings it."""
        return max(self.process.free[self.device, self.stream], called + self.delay_ns)

    def _call(self, name: str, ns: int, *, driver: bool = False) -> int:
        start, correlation = self.at, self.process.next_correlation()
        self.at += ns
        self.export.row(CALLS, start, self.at, self.id, correlation, self.export.string(name), int(driver))
        self.export.reach(self.at)
        return correlation

    def _operation(self, table: str, call: str, ns: int, *told: int) -> tuple[int, int]:
        start = self.at
        correlation = self._call(call, self.call_ns)
        self.at += self.idle_ns
        begins = self._begins(start)
        end = self.process.free[self.device, self.stream] = begins + ns
        where = (begins, end, self.device, self.device + 1, 0, self.stream, correlation, self.process.id)
        self.export.row(f"{CUPTI}{table}", *where, *told)
        self.export.reach(end)
        return begins, end


def _listed(columns: Sequence[str]) -> str:
    return ", ".join(f'"{name}"' for name in columns)
