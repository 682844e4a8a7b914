"""Wraps: methods of single instances, shadowed while somebody listens, and put back whoever leaves first.

What takes a method's place is bound to the instance, as the method was: a deep copy of the instance that is made
meanwhile calls itself, not the one it was copied from.
"""

from __future__ import annotations

import functools
import inspect
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from types import FunctionType, MethodType
from typing import Any, Final

__all__ = ["Method", "Wrapper", "Wraps"]

Method = Callable[..., Any]
"""A method as a function: the instance comes first."""

Wrapper = Callable[[Method], Method]
"""Makes what takes a method's place. Two are the same where their functions and given arguments are."""

_MADE: Final = weakref.WeakSet[Any]()
"""The functions that stand, or stood, in a method's place."""


class Wraps:
    """What one listener has wrapped. Several may have wrapped the same method; the same wrapper works once.

    What was made for a method is kept for the next time: a listener comes and goes with every ``generate()``.
    """

    def __init__(self) -> None:
        self._made: list[tuple[_Shadowed, Wrapper]] = []
        self._kept: dict[tuple[int, str], _Shadowed] = {}

    def __bool__(self) -> bool:
        return bool(self._made)

    def add(self, owner: Any, name: str, wrapper: Wrapper) -> None:
        """Wrap a method of ``owner``; nothing where it has none of that name."""
        with _LOCK:
            key = (id(owner), name)
            shadowed = _SHADOWED.get(key)
            if shadowed is not None:
                shadowed.shared |= self._kept.get(key) is not shadowed
            else:
                shadowed = self._kept.get(key)
                if shadowed is None or not shadowed.is_as_found():
                    shadowed = _Shadowed.of(owner, name)
                    if shadowed is None:
                        return
                    self._kept[key] = shadowed
            made = (shadowed, wrapper)
            self._made.append(made)
            try:
                shadowed.wrappers.append(wrapper)
                shadowed.show()
            except BaseException:
                self._made.remove(made)
                shadowed.drop(wrapper)
                raise

    def remove(self) -> None:
        """Take all of them off again."""
        with _LOCK:
            while self._made:
                shadowed, wrapper = self._made[-1]
                shadowed.drop(wrapper)
                with suppress(IndexError):  # a signal's handler may have removed all meanwhile
                    self._made.pop()


@dataclass(slots=True, eq=False)
class _Shadowed:
    """One method of one instance: what it was (``before``, where the instance held it itself), and its wrappers.

    ``shown`` is what stands in its place now. Where the program has put something else there, it is left alone.
    ``method`` is what stood there last, made of the wrappers ``made_of``; where another listener's were ``shared`` in
    it, it goes with the last of them.
    """

    owner: Any
    name: str
    original: Method
    before: Any
    wrappers: list[Wrapper] = field(default_factory=list)
    shown: Any = None
    method: Any = None
    made_of: tuple[Any, ...] = ()
    shared: bool = False

    @classmethod
    def of(cls, owner: Any, name: str) -> _Shadowed | None:
        own = vars(owner).get(name)
        if isinstance(own, MethodType) and own.__func__ in _MADE:  # ``owner`` is a copy of one that was listened to
            own = None
            del vars(owner)[name]
        defined = next((vars(kind)[name] for kind in type(owner).__mro__ if name in vars(kind)), None)
        if own is None and isinstance(defined, FunctionType):
            return cls(owner, name, defined, None)
        held = getattr(owner, name, None) if own is None else own
        return None if held is None else cls(owner, name, _with_self(held), own)

    def is_as_found(self) -> bool:
        """Whether the method is the class's own and the same still, as when :meth:`of` looked."""
        return self.name not in vars(self.owner) and getattr(type(self.owner), self.name, None) is self.original

    def show(self) -> None:
        """Put what the wrappers make of the method in its place; with none of them, what was there."""
        held, key = vars(self.owner), (id(self.owner), self.name)
        alone = self.shown is not None and held.get(self.name) is not self.shown
        if not self.wrappers:
            _SHADOWED.pop(key, None)
            self.shown = None
            if self.shared:
                self.method, self.made_of, self.shared = None, (), False
            if alone:
                return
            if self.before is None:
                held.pop(self.name, None)
            else:
                held[self.name] = self.before
            return
        _SHADOWED[key] = self
        if alone:
            return
        wrappers = {_key(wrapper): wrapper for wrapper in self.wrappers}
        keys = tuple(wrappers)
        if self.method is None or self.made_of != keys:
            made = self.original
            for wrapper in wrappers.values():
                made = wrapper(made)
            _MADE.add(functools.update_wrapper(made, self.original))  # transformers reads signatures
            self.method, self.made_of = MethodType(made, self.owner), keys
        if not self.wrappers:  # a signal's handler has removed them meanwhile
            return
        held[self.name] = self.shown = self.method

    def drop(self, wrapper: Wrapper) -> None:
        """Do without a wrapper, if it is still there."""
        with suppress(ValueError):
            self.wrappers.remove(wrapper)
        self.show()


def _key(wrapper: Wrapper) -> Any:
    return (wrapper.func, wrapper.args) if isinstance(wrapper, functools.partial) else wrapper


def _with_self(held: Callable[..., Any]) -> Method:
    """A callable that knows its instance, as a method that is told it."""

    @functools.wraps(held)
    def method(_self: Any, /, *args: Any, **kwargs: Any) -> Any:
        return held(*args, **kwargs)

    first = inspect.Parameter("_instance", inspect.Parameter.POSITIONAL_ONLY)
    with suppress(TypeError, ValueError):  # it has no signature: built in, say
        known = inspect.signature(held)
        own = known.replace(parameters=[first, *known.parameters.values()])
        method.__signature__ = own  # type: ignore[attr-defined]
    return method


_LOCK: Final = threading.RLock()  # a signal's handler, or a collected generator, may end a recording on this thread
_SHADOWED: Final[dict[tuple[int, str], _Shadowed]] = {}
"""All methods that are wrapped now. It holds their owners, so that no other object has the same id."""
