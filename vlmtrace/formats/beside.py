"""Beside: work on chunks, done by a second thread while the first makes the next, for what leaves Python's lock."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

__all__ = ["beside"]

_AHEAD: Final = 4
"""Chunks that may wait for the second thread, so that memory stays bounded where it is the slower one."""


def beside(work: Callable[[bytes], bytes], chunks: Iterable[bytes]) -> Iterator[bytes]:
    """``work`` of each of ``chunks``, in their order. What either raises is raised here, and the thread has ended then.

    A program that is ending starts no threads any more: what is left is then done here.
    """
    with ThreadPoolExecutor(1, "vlmtrace-write") as thread:
        under_way: deque[Future[bytes]] = deque()
        for chunk in chunks:
            try:
                under_way.append(thread.submit(work, chunk))
            except RuntimeError:
                yield from _ended(under_way)
                yield work(chunk)
            if len(under_way) > _AHEAD:
                yield under_way.popleft().result()
        yield from _ended(under_way)


def _ended(under_way: deque[Future[bytes]]) -> Iterator[bytes]:
    while under_way:
        yield under_way.popleft().result()
