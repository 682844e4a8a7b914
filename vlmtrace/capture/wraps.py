"""Wraps: methods of single instances, shadowed while somebody listens, and put back whoever leaves first.

What takes a method's place is bound to the instance, as the method was: a copy of the instance that is made meanwhile
calls itself, not the one it was copied from.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import FunctionType, MethodType
from typing import Any, Final

__all__ = ["Method", "Wrapper", "Wraps"]

Method = Callable[..., Any]
"""A method as a function: the instance comes first."""

Wrapper = Callable[[Method], Method]
"""Makes what takes a method's place. Two are the same where their functions and given arguments are."""

_OURS: Final = "_vlmtrace_wrap"


class Wraps:
    """What one listener has wrapped. Several may have wrapped the same method; the same wrapper works once."""

    def __init__(self) -> None:
        self._made: list[tuple[_Shadowed, Wrapper]] = []

    def __bool__(self) -> bool:
        return bool(self._made)

    def add(self, owner: Any, name: str, wrapper: Wrapper) -> None:
        """Wrap a method of ``owner``; nothing where it has none of that name."""
        with _LOCK:
            shadowed = _SHADOWED.get((id(owner), name)) or _Shadowed.of(owner, name)
            if shadowed is None:
                return
            _SHADOWED[id(owner), name] = shadowed
            shadowed.wrappers.append(wrapper)
            shadowed.show()
            self._made.append((shadowed, wrapper))

    def remove(self) -> None:
        """Take all of them off again."""
        with _LOCK:
            while self._made:
                shadowed, wrapper = self._made.pop()
                shadowed.wrappers.remove(wrapper)
                shadowed.show()
                if not shadowed.wrappers:
                    del _SHADOWED[id(shadowed.owner), shadowed.name]


@dataclass(slots=True, eq=False)
class _Shadowed:
    """One method of one instance: what it was (``before``, where the instance held it itself), and its wrappers."""

    owner: Any
    name: str
    original: Method
    before: Any
    wrappers: list[Wrapper] = field(default_factory=list)

    @classmethod
    def of(cls, owner: Any, name: str) -> _Shadowed | None:
        own = vars(owner).get(name)
        if hasattr(own, _OURS):  # ``owner`` was copied while the other was listened to
            own = None
        defined = inspect.getattr_static(type(owner), name, None)
        if own is None and isinstance(defined, FunctionType):
            return cls(owner, name, defined, None)
        held = getattr(owner, name, None) if own is None else own
        return None if held is None else cls(owner, name, _with_self(held), own)

    def show(self) -> None:
        """Put what the wrappers make of the method in its place; with none of them, what was there."""
        made = self.original
        for wrapper in {_key(wrapper): wrapper for wrapper in self.wrappers}.values():
            made = wrapper(made)
        if self.wrappers:
            # transformers reads signatures.
            functools.update_wrapper(made, self.original)
            setattr(made, _OURS, True)
            vars(self.owner)[self.name] = MethodType(made, self.owner)
        elif self.before is None:
            vars(self.owner).pop(self.name, None)
        else:
            vars(self.owner)[self.name] = self.before


def _key(wrapper: Wrapper) -> Any:
    return (wrapper.func, wrapper.args) if isinstance(wrapper, functools.partial) else wrapper


def _with_self(held: Callable[..., Any]) -> Method:
    """A callable that knows its instance, as a method that is told it."""

    @functools.wraps(held)
    def method(_self: Any, /, *args: Any, **kwargs: Any) -> Any:
        return held(*args, **kwargs)

    try:
        known = inspect.signature(held)
    except (TypeError, ValueError):  # built in, say
        return method
    first = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    method.__signature__ = known.replace(parameters=[first, *known.parameters.values()])  # type: ignore[attr-defined]
    return method


_LOCK: Final = threading.Lock()
_SHADOWED: Final[dict[tuple[int, str], _Shadowed]] = {}
"""All methods that are wrapped now. It holds their owners, so that no other object has the same id."""
