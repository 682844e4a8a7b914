"""The processes that scripts/overhead.py measures in: each with a bench of its own, one maybe under Nsight Systems."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from overhead_bench import Configuration

SCRIPTS = Path(__file__).resolve().parent


class WorkerError(Exception):
    """A process that measures has ended by itself."""


class Worker:
    """A process with a bench of its own, asked over a socket: its standard streams are Nsight's or the log's."""

    def __init__(self, configuration: Configuration, around: tuple[str, ...] = ()) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="overhead-")
        folder = Path(self._folder.name)
        self._log = folder / "log"
        address = str(folder / "socket")
        command = [*around, sys.executable, str(SCRIPTS / "overhead.py"), "serve", address]
        with socket.socket(socket.AF_UNIX) as server, self._log.open("w") as log:
            server.bind(address)
            server.listen(1)
            server.settimeout(1)
            self._process = subprocess.Popen(
                [*command, json.dumps(asdict(configuration))],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ
                | {"PYTHONPATH": os.pathsep.join((str(SCRIPTS.parent), os.environ.get("PYTHONPATH", "")))},
            )
            connection = self._accepted(server)
        connection.settimeout(None)
        self._file = connection.makefile("rw")
        connection.close()
        self.traces = folder / "trace"
        self.visits = 0
        self._machine: dict[str, Any] | None = None

    def ready(self) -> dict[str, Any]:
        """Wait until the model is there; the configuration and the machine, part of each row."""
        if self._machine is None:
            self._machine = self._heard()
        return self._machine

    def _accepted(self, server: socket.socket) -> socket.socket:
        while True:
            try:
                return server.accept()[0]
            except TimeoutError:
                if self._process.poll() is not None:
                    raise WorkerError(self._told()) from None

    def _heard(self) -> dict[str, Any]:
        line = self._file.readline()
        if not line:
            self._process.wait()
            raise WorkerError(self._told())
        made: dict[str, Any] = json.loads(line)
        return made

    def _told(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
        return "\n".join(lines[-15:])

    def visit(self, way: str, *, write: bool = False) -> dict[str, Any]:
        """One timed generation in one of the ways: see :meth:`overhead_bench.Bench.visit`."""
        self.visits += 1
        try:
            self._file.write(json.dumps({"way": way, "path": str(self.traces) if write else None}) + "\n")
            self._file.flush()
        except OSError as error:
            raise WorkerError(f"{error}\n{self._told()}") from error
        return self._heard()

    def close(self) -> None:
        """Let it end, and whatever is around it."""
        if not self._file.closed:
            self._file.close()
        self._process.wait()
        self._folder.cleanup()

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True)
class Nsys:
    """Nsight Systems as it is installed here: some builds leave the report to ``QdstrmImporter``."""

    nsys: str
    importer: str | None
    libraries: str | None

    def around(self, prefix: Path) -> tuple[str, ...]:
        options = ("--trace=cuda,nvtx", "--sample=none", "--cpuctxsw=none", "--force-overwrite=true")
        return self.nsys, "profile", *options, f"--output={prefix}"

    def report(self, prefix: Path) -> Path:
        """The report of a run that has ended, imported where nsys did not do it."""
        made, raw = prefix.with_suffix(".nsys-rep"), prefix.with_suffix(".qdstrm")
        if not made.exists() and raw.exists() and self.importer is not None:
            paths = (str(Path(self.importer).parent), self.libraries or "", os.environ.get("LD_LIBRARY_PATH", ""))
            environment = os.environ | {"LD_LIBRARY_PATH": os.pathsep.join(filter(None, paths))}
            command = [self.importer, "-i", str(raw)]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            if not made.exists():
                raise WorkerError(f"{self.importer} made no report: {done.stderr.strip()[-500:]}")
        if not made.exists():
            hint = "it left a raw capture: give --importer" if raw.exists() else "it left no capture"
            raise WorkerError(f"{self.nsys} made no report; {hint}")
        return made


@dataclass(frozen=True)
class Processes:
    """The processes of a block: the one whose ``off`` runs are the base, and those that are a way by themselves.

    ``prefix`` is of the report of the one under Nsight Systems.
    """

    base: Worker
    others: dict[str, Worker]
    prefix: Path

    @classmethod
    @contextmanager
    def started(cls, configuration: Configuration, ways: list[str], nsys: Nsys | None) -> Iterator[Processes]:
        """One process, or two or three side by side; they end with the block of this ``with``."""
        with tempfile.TemporaryDirectory(prefix="overhead-") as folder, ExitStack() as stack:
            prefix = Path(folder) / "report"
            base = stack.enter_context(Worker(configuration))
            others: dict[str, Worker] = {}
            if "process" in ways:
                others["process"] = stack.enter_context(Worker(configuration))
            if "nsys" in ways and nsys is not None:
                others["nsys"] = stack.enter_context(Worker(configuration, nsys.around(prefix)))
            yield cls(base, others, prefix)

    def ready(self) -> dict[str, Any]:
        """Wait until all are; the configuration and the machine."""
        for worker in self.others.values():
            worker.ready()
        return self.base.ready()
