"""Work beside: a second thread changes neither order nor errors, and is done without where none may start."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from vlmtrace.formats.beside import beside

CHUNKS = [bytes([number]) * 3 for number in range(20)]


def twice(chunk: bytes) -> bytes:
    return chunk * 2


def test_chunks_keep_their_order() -> None:
    assert list(beside(twice, CHUNKS)) == [chunk * 2 for chunk in CHUNKS]


def test_the_work_is_done_by_another_thread_which_has_ended_afterwards() -> None:
    seen: set[threading.Thread] = set()

    def noted(chunk: bytes) -> bytes:
        seen.add(threading.current_thread())
        return chunk

    list(beside(noted, CHUNKS))
    (thread,) = seen
    assert thread is not threading.current_thread()
    assert not thread.is_alive()


@pytest.mark.parametrize("bad", [0, 10, 19])
def test_an_error_of_the_work_is_the_callers_behind_all_chunks_before_it(bad: int) -> None:
    def failing(chunk: bytes) -> bytes:
        if chunk == CHUNKS[bad]:
            raise MemoryError("no room")
        return chunk

    before = set(threading.enumerate())
    made: list[bytes] = []
    with pytest.raises(MemoryError, match="no room"):
        made.extend(beside(failing, CHUNKS))
    assert made == CHUNKS[: len(made)]
    assert set(threading.enumerate()) <= before


def test_an_error_of_the_chunks_is_the_callers() -> None:
    def broken() -> Iterator[bytes]:
        yield b"a"
        raise ValueError("cut short")

    with pytest.raises(ValueError, match="cut short"):
        list(beside(twice, broken()))


def test_no_more_chunks_are_made_than_a_few_ahead_of_the_one_asked_for() -> None:
    asked = iter(CHUNKS)
    made = beside(twice, asked)
    next(made)
    assert len(list(asked)) > len(CHUNKS) // 2
    made.close()


def test_a_program_that_is_ending_writes_all_the_same(tmp_path: Path) -> None:
    out = tmp_path / "chunks"
    program = f"""
import atexit, pathlib
from vlmtrace.formats.beside import beside
chunks = [bytes([number]) for number in range(9)]
atexit.register(lambda: pathlib.Path({str(out)!r}).write_bytes(b"".join(beside(bytes.upper, chunks))))
list(beside(bytes.upper, chunks))
"""
    subprocess.run([sys.executable, "-c", program], check=True)
    assert out.read_bytes() == bytes(range(9))
