"""What holds for every test: nothing is left behind in the process, and every trace written is one Perfetto accepts."""

from __future__ import annotations

import gzip
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.leftovers import leftovers, snapshot
from tests.written_traces import check_written_traces

pytest.register_assert_rewrite("tests.importer")


@pytest.fixture(autouse=True, scope="session")
def ctrl_c_is_heeded() -> None:
    """Let Ctrl-C reach what the tests start: what a shell starts in the background ignores it, and so would they."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    """Fail a test after which the process is not as it was before: see :mod:`tests.leftovers`."""
    before = snapshot()
    yield
    found = leftovers(before)
    assert not found, "left behind: " + "; ".join(found)


@pytest.fixture(autouse=True)
def every_written_trace_is_clean(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that wrote a trace in which Perfetto's importer finds other than vlmtrace: see
    :mod:`tests.written_traces`."""
    folder: Path | None = request.getfixturevalue("tmp_path") if "tmp_path" in request.fixturenames else None
    yield
    if folder is not None:
        check_written_traces(folder)


@pytest.fixture(scope="session")
def real_export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of Nsight Systems from an H100, as it was exported; only to be read. tests/nsight/data tells of it."""
    packed = Path(__file__).parent / "nsight" / "data" / "h100-tiny-qwen2.5-vl.sqlite.gz"
    path = tmp_path_factory.mktemp("nsight") / packed.stem
    path.write_bytes(gzip.decompress(packed.read_bytes()))
    path.chmod(0o444)
    return path
