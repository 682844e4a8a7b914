"""What a test could leave behind in its process: patched classes, hooks, import finders, threads, arguments, folder.

Only what is already imported is looked at, so observing costs little where a test needs no model.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FunctionType
from typing import Any, Final

__all__ = ["Snapshot", "leftovers", "snapshot"]

_ROOTS: Final = (
    ("transformers.generation.utils", "GenerationMixin"),
    ("transformers.modeling_utils", "PreTrainedModel"),
    ("transformers.processing_utils", "ProcessorMixin"),
    ("transformers.tokenization_utils_base", "PreTrainedTokenizerBase"),
    ("transformers.tokenization_utils_base", "BatchEncoding"),
    ("transformers.feature_extraction_utils", "BatchFeature"),
    ("transformers.image_processing_base", "ImageProcessingMixin"),
    ("torch.nn.modules.module", "Module"),
)
"""The classes whose methods a tracer could wrap; their subclasses are looked at too."""

_HOOKS: Final = ("_global_forward_hooks", "_global_forward_pre_hooks", "_global_backward_hooks")

_METHODS: Final = (FunctionType, classmethod, staticmethod, property)

_FOREIGN_THREADS: Final = ("TMonitor",)
"""Threads that other packages start once and keep: tqdm's monitor of progress bars."""

_FOREIGN_METHODS: Final = ("smart_apply",)
"""What transformers adds to torch's ``Module`` when it first initialises weights."""

_FOREIGN_FINDERS: Final = ("_distutils_hack", "six", "transformers")
"""Packages that put an import finder of their own in place when they are first imported."""


@dataclass(frozen=True)
class Snapshot:
    """The state of a process as :func:`leftovers` compares it; methods are held by reference and compared by it."""

    methods: dict[type, dict[str, Any]]
    module_hooks: tuple[int, ...]
    finders: tuple[object, ...]
    threads: frozenset[threading.Thread]
    interrupt: object
    main_module: object
    arguments: tuple[str, ...]
    folder: str


def snapshot() -> Snapshot:
    """The state now."""
    return Snapshot(
        methods={cls: _methods(cls) for cls in _classes()},
        module_hooks=_module_hooks(),
        finders=tuple(finder for finder in sys.meta_path if not _is_foreign_finder(finder)),
        threads=frozenset(threading.enumerate()),
        interrupt=signal.getsignal(signal.SIGINT),
        main_module=sys.modules.get("__main__"),
        arguments=tuple(sys.argv),
        folder=os.getcwd(),
    )


def leftovers(before: Snapshot) -> list[str]:
    """What differs now from ``before``, one line each; threads that are just ending get a second to do so."""
    for thread in threading.enumerate():
        if thread not in before.threads and not _is_foreign_thread(thread):
            thread.join(timeout=1.0)
    now = snapshot()
    found = [f"{cls.__qualname__}.{name} was left patched" for cls, name in _patched(before.methods, now.methods)]
    found += [
        f"thread {thread.name!r} still runs"
        for thread in now.threads - before.threads
        if not _is_foreign_thread(thread)
    ]
    if now.finders != before.finders:
        found.append(f"sys.meta_path was {before.finders} and is {now.finders}")
    for what, get in _SAME:
        if get(now) != get(before):
            found.append(f"{what} was {get(before)!r} and is {get(now)!r}")
    return found


_SAME: Final[tuple[tuple[str, Callable[[Snapshot], object]], ...]] = (
    ("the number of global module hooks", lambda state: state.module_hooks),
    ("the handler of SIGINT", lambda state: state.interrupt),
    ("sys.modules['__main__']", lambda state: state.main_module),
    ("sys.argv", lambda state: state.arguments),
    ("the working folder", lambda state: state.folder),
)


def _classes() -> Iterator[type]:
    pending = [getattr(sys.modules.get(module), name, None) for module, name in _ROOTS]
    seen: set[type] = set()
    while pending:
        cls = pending.pop()
        if isinstance(cls, type) and cls not in seen:
            seen.add(cls)
            yield cls
            pending.extend(type.__subclasses__(cls))


def _methods(cls: type) -> dict[str, Any]:
    return {
        name: value for name, value in vars(cls).items() if isinstance(value, _METHODS) and name not in _FOREIGN_METHODS
    }


def _patched(before: dict[type, dict[str, Any]], now: dict[type, dict[str, Any]]) -> Iterator[tuple[type, str]]:
    for cls, methods in now.items():
        old = before.get(cls)
        if old is None:  # imported or defined since
            continue
        for name in sorted(methods.keys() | old.keys()):
            if methods.get(name) is not old.get(name) and not _is_dynamos(methods.get(name)):
                yield cls, name


def _is_dynamos(method: Any) -> bool:
    """The compiler replaces two methods of ``Module`` for good when it is first used."""
    return getattr(method, "__module__", "") == "torch._dynamo.mutation_guard"


def _module_hooks() -> tuple[int, ...]:
    module = sys.modules.get("torch.nn.modules.module")
    return tuple(len(getattr(module, name, ())) for name in _HOOKS)


def _is_foreign_finder(finder: object) -> bool:
    return type(finder).__module__.partition(".")[0] in _FOREIGN_FINDERS


def _is_foreign_thread(thread: threading.Thread) -> bool:
    return type(thread).__name__ in _FOREIGN_THREADS
