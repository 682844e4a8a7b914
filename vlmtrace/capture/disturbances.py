"""Disturbances: what the host can see of why a step took long. Garbage collections, compilations, captures of graphs.

They are kept apart from the tapes: a collection may begin in the middle of a mark.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from vlmtrace.capture.clocks import monotonic_ns
from vlmtrace.timeline import names

__all__ = ["Disturbance", "Disturbances"]

_DYNAMO: Final = "torch._dynamo.callback"
_FRAMES: Final = "torch._dynamo.eval_frame"

_CALLS: Final = (
    ("torch._inductor.cudagraph_trees", "CUDAGraphTreeManager", "run_eager", names.CAPTURE, "graph warm-up"),
    ("torch._inductor.cudagraph_trees", "CUDAGraphTreeManager", "record_function", names.CAPTURE, "graph"),
    ("torch._inductor.runtime.triton_heuristics", "CachingAutotuner", "autotune_to_one_config", names.COMPILE, "tune"),
)
"""What the compiler does at the first calls of what it has compiled: module, class, method, and what it is told as."""

_SHORTEST_NS: Final = 50_000
"""A collection or compilation shorter than this explains no outlier, and young generations are collected often."""


@dataclass(frozen=True, slots=True)
class Disturbance:
    """``name`` is ``names.GC``, ``COMPILE`` or ``CAPTURE``; ``begin`` and ``end`` are host times in ns of ``thread``.

    ``args`` say more: the collector's generation and how much it collected, or what set the compiler off.
    """

    name: str
    thread: int
    begin: int
    end: int
    args: Mapping[str, int | str]


class Disturbances:
    """Listens to the garbage collector, and to dynamo once that is loaded, between ``install`` and ``remove``."""

    def __init__(self, now: Callable[[], int] = monotonic_ns, shortest_ns: int = _SHORTEST_NS) -> None:
        self.seen: list[Disturbance] = []
        self._shortest = shortest_ns
        self._now = now
        self._begun: dict[tuple[str, int], int] = {}
        self._dynamo: Any = None
        self._wrapped: dict[tuple[type, str], Any] = {}
        self._kept_from_compiler = False
        self._loaded = 0

    def install(self) -> None:
        gc.callbacks.append(self._on_collection)
        self.watch_compiler()

    def remove(self) -> None:
        gc.callbacks.remove(self._on_collection)
        if self._dynamo is not None:
            with contextlib.suppress(ValueError):  # torch._dynamo.reset() has dropped them
                self._dynamo.remove_start_callback(self._on_compile_start)
                self._dynamo.remove_end_callback(self._on_compile_end)
            self._dynamo = None
        for (owner, method), original in self._wrapped.items():
            setattr(owner, method, original)
        self._wrapped.clear()

    def watch_loaded(self) -> None:
        """:meth:`watch_compiler` where a module has been loaded since: cheap enough to be asked at every token."""
        if len(sys.modules) != self._loaded:
            self.watch_compiler()

    def watch_compiler(self) -> None:
        """Listen to the compiler if it has been loaded by now; that takes seconds, and most programs never need it."""
        self._loaded = len(sys.modules)
        handler: Any = getattr(sys.modules.get(_DYNAMO), "callback_handler", None)
        listening = getattr(handler, "start_callbacks", None)
        if listening is not None and self._on_compile_start not in listening:
            handler.register_start_callback(self._on_compile_start)
            handler.register_end_callback(self._on_compile_end)
            self._dynamo = handler
        skip = getattr(sys.modules.get(_FRAMES), "skip_code", None)
        if skip is not None and not self._kept_from_compiler:
            # A collection begins wherever it does, between the graphs of a compiled function too; dynamo would compile
            # what runs then as if it were the function's own.
            for ours in (self._on_collection, self._begin, self._end, Disturbance.__init__):
                skip(ours.__code__)
            self._kept_from_compiler = True
        for name, owner_name, method, told, trigger in _CALLS:
            owner = getattr(sys.modules.get(name), owner_name, None)
            original = getattr(owner, method, None)
            if isinstance(owner, type) and original is not None and (owner, method) not in self._wrapped:
                self._wrapped[owner, method] = original
                setattr(owner, method, self._around(original, told, trigger))

    def _around(self, original: Any, name: str, trigger: str) -> Any:
        @functools.wraps(original)
        def call(*args: Any, **kwargs: Any) -> Any:
            self._begin(name)
            try:
                return original(*args, **kwargs)
            finally:
                self._end(name, {"trigger": trigger})

        return call

    def _on_collection(self, phase: str, info: Mapping[str, int]) -> None:
        if phase == "start":
            self._begin(names.GC)
        else:
            self._end(names.GC, {"gc_generation": info["generation"], "collected": info["collected"]})

    def _on_compile_start(self, args: Any) -> None:  # noqa: ARG002
        self._begin(names.COMPILE)

    def _on_compile_end(self, args: Any) -> None:
        trigger = getattr(getattr(args, "callback_trigger", None), "name", "")
        self._end(names.COMPILE, {"trigger": trigger.lower()})

    def _begin(self, name: str) -> None:
        self._begun[name, threading.get_native_id()] = self._now()

    def _end(self, name: str, args: Mapping[str, int | str]) -> None:
        thread = threading.get_native_id()
        begin = self._begun.pop((name, thread), None)
        if begin is None:
            return
        end = self._now()
        if end - begin >= self._shortest:
            self.seen.append(Disturbance(name, thread, begin, end, args))
