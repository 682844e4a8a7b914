"""Patches: the class-level wraps that find every ``generate()``, processor call and copy in a program, unedited.

A method is wrapped wherever a class of its family defines it in its own body, in classes that exist now and in those
defined later (remote code, lazily imported models), and transformers itself may be imported later too: environment
variables that a script sets before importing it must still count. Everything is put back by :meth:`Patches.remove`.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import FunctionType, ModuleType
from typing import Any, Final

__all__ = ["Family", "Patches"]

Around = Callable[..., Any]
"""Called as ``around(original, self, args, kwargs)`` in the method's place."""


@dataclass(frozen=True, slots=True)
class Family:
    """A base class by module and name, and what to wrap of it and of all its subclasses: method name → around."""

    module: str
    name: str
    methods: dict[str, Around]


class Patches:
    """Wraps families of classes while installed."""

    def __init__(self, families: Sequence[Family]) -> None:
        self._families = tuple(families)
        self._undo: list[Callable[[], None]] = []
        self._installed = False
        self._watch: _ImportWatch | None = None

    def install(self) -> None:
        self._installed = True
        missing: dict[str, list[Family]] = {}
        for family in self._families:
            module = sys.modules.get(family.module)
            if module is None or not hasattr(module, family.name):
                missing.setdefault(family.module, []).append(family)
            else:
                self._patch_family(module, family)
        if missing:
            self._watch = _ImportWatch(missing, self._patch_family)
            sys.meta_path.insert(0, self._watch)

    def shadow(self, owner: Any, name: str, around: Around) -> None:
        """Wrap a method that ``owner`` holds itself, in the place of its class's; nothing where it holds none.

        FSDP2 gives a model such a one, bound to what the class had before.
        """
        own = vars(owner).get(name)
        if own is None:
            return

        @functools.wraps(own)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if not self._installed:
                return own(*args, **kwargs)
            return around(lambda _, *given, **named: own(*given, **named), owner, args, kwargs)

        def restore() -> None:
            if vars(owner).get(name) is wrapper:
                vars(owner)[name] = own

        vars(owner)[name] = wrapper
        self._undo.append(restore)

    def remove(self) -> None:
        self._installed = False
        if self._watch is not None:
            with contextlib.suppress(ValueError):  # the program may have changed the list
                sys.meta_path.remove(self._watch)
            self._watch = None
        while self._undo:
            self._undo.pop()()

    def _patch_family(self, module: ModuleType, family: Family) -> None:
        base: type = getattr(module, family.name)
        for cls in _subclasses(base):
            self._patch_class(cls, family.methods)
        self._watch_subclasses(base, family.methods)

    def _patch_class(self, cls: type, methods: dict[str, Around]) -> None:
        for name, around in methods.items():
            original = cls.__dict__.get(name)
            if isinstance(original, FunctionType) and not hasattr(original, _MARK):
                wrapper = self._wrapped(original, around)
                setattr(cls, name, wrapper)
                self._undo.append(functools.partial(_put_back, cls, name, wrapper, original))

    def _wrapped(self, original: Callable[..., Any], around: Around) -> Callable[..., Any]:
        @functools.wraps(original)
        def wrapper(owner: Any, /, *args: Any, **kwargs: Any) -> Any:
            if not self._installed:  # somebody took the method while it was wrapped, and keeps it
                return original(owner, *args, **kwargs)
            return around(original, owner, args, kwargs)

        setattr(wrapper, _MARK, original)
        return wrapper

    def _watch_subclasses(self, base: type, methods: dict[str, Around]) -> None:
        """Patch classes defined from now on, after whatever the base does with its new subclasses."""
        own = base.__dict__.get("__init_subclass__")
        inherited = base.__init_subclass__

        def init_subclass(cls: Any, /, **kwargs: Any) -> None:
            if own is None:
                super(base, cls).__init_subclass__(**kwargs)  # type: ignore[arg-type]
            else:
                inherited.__func__(cls, **kwargs)  # type: ignore[attr-defined]
            self._patch_class(cls, methods)

        setattr(base, _HOOK, classmethod(init_subclass))

        def restore() -> None:
            if own is None:
                delattr(base, _HOOK)
            else:
                setattr(base, _HOOK, own)

        self._undo.append(restore)


_MARK: Final = "_vlmtrace_original"
_HOOK: Final = "__init_subclass__"


def _put_back(cls: type, name: str, wrapper: Any, original: Any) -> None:
    if cls.__dict__.get(name) is wrapper:  # else the program has put something of its own there since
        setattr(cls, name, original)


def _subclasses(base: type) -> Iterator[type]:
    """``base`` and every class below it, each once."""
    seen: set[type] = set()
    stack = [base]
    while stack:
        cls = stack.pop()
        if cls not in seen:
            seen.add(cls)
            yield cls
            stack.extend(cls.__subclasses__())


class _ImportWatch(MetaPathFinder):
    """Finds nothing itself; patches a watched module as soon as it has been executed."""

    def __init__(self, wanted: dict[str, list[Family]], patch: Callable[[ModuleType, Family], None]) -> None:
        self._wanted = wanted
        self._patch = patch

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in self._wanted:
            return None
        for finder in sys.meta_path:
            if finder is self or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(name, path, target)
            if spec is not None and spec.loader is not None:
                spec.loader = _PatchingLoader(spec.loader, lambda module: self._done(name, module))
                return spec
        return None

    def _done(self, name: str, module: ModuleType) -> None:
        for family in self._wanted.pop(name, ()):
            if hasattr(module, family.name):
                self._patch(module, family)


class _PatchingLoader(Loader):
    """The module's own loader, with a call after it has run."""

    def __init__(self, loader: Loader, done: Callable[[ModuleType], None]) -> None:
        self._loader = loader
        self._done = done

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # The module keeps its own loader, as `inspect` and `importlib.resources` expect to find it.
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        self._done(module)
