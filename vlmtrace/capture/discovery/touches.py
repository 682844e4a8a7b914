"""Touches: which submodules a model's code uses, read from its bytecode without running it."""

from __future__ import annotations

import dis
import inspect
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import lru_cache
from types import CodeType, FunctionType
from typing import Final

from torch import nn

from vlmtrace.capture.discovery.module_tree import peel

__all__ = ["Reach", "Touch", "class_function", "reach"]

_LIBRARY: Final = ("transformers.generation", "transformers.modeling_utils")
"""Code that is the same for every model: it names no part of any, and is long."""
_LOOKUPS: Final = frozenset(("get_encoder", "get_decoder", "get_input_embeddings", "get_output_embeddings"))
"""Methods that hand a module out; what is done with it stands elsewhere."""


def class_function(module: nn.Module, name: str) -> FunctionType | None:
    """The function behind ``module.name`` as its class defines it, decorators and instance patches left out."""
    found = _class_attribute(type(module), name)
    found = found.fget if isinstance(found, property) else getattr(found, "__func__", found)
    found = inspect.unwrap(found) if callable(found) else None
    return found if isinstance(found, FunctionType) else None


def _class_attribute(cls: type, name: str) -> object:
    return next((vars(base)[name] for base in cls.__mro__ if name in vars(base)), None)


@lru_cache(maxsize=1024)
def _chains(code: CodeType, this: str) -> tuple[tuple[str, ...], ...]:
    """Attribute chains on the variable ``this`` in ``code`` and the functions nested in it, in order, once each.

    ``self.model.visual(x)`` gives ``("model", "visual")``. The variable may be a local or, inside a comprehension, a
    free one; CPython 3.13 loads two locals with one instruction.
    """
    found: dict[tuple[str, ...], None] = {}
    chain: list[str] | None = None
    for instruction in dis.get_instructions(code):
        name, value = instruction.opname, instruction.argval
        if name == "EXTENDED_ARG":
            continue
        if chain is not None and name in ("LOAD_ATTR", "LOAD_METHOD"):
            chain.append(value)
            continue
        if chain:
            found[tuple(chain)] = None
        loaded = value[-1] if isinstance(value, tuple) and value else value
        chain = [] if "LOAD" in name and name != "LOAD_CONST" and loaded == this else None
    for constant in code.co_consts:
        if isinstance(constant, CodeType) and this in constant.co_freevars:
            found.update(dict.fromkeys(_chains(constant, this)))
    return tuple(found)


@dataclass(frozen=True, slots=True, eq=False)
class Touch:
    """A submodule that the method ``where`` uses; ``via`` is what it calls on it, ``""`` for the module itself.

    ``reads`` tells that nothing is called: an attribute of the module is looked at.
    """

    module: nn.Module
    via: str
    where: str
    reads: bool = False


@dataclass(slots=True, eq=False)
class Reach:
    """Everything one method touches, following helper methods and the modules of the ``trunk``.

    ``followed`` holds the ``(id of module, method)`` pairs whose code was read, ``bypassed`` the ids of modules whose
    ``forward`` is called by name, so that their calls cannot be seen.
    """

    trunk: Collection[int]
    stop: Collection[tuple[int, str]]
    touches: list[Touch] = field(default_factory=list)
    bypassed: set[int] = field(default_factory=set)
    followed: set[tuple[int, str]] = field(default_factory=set)

    def follow(self, owner: nn.Module, method: str) -> None:
        key = (id(owner), method)
        function = class_function(owner, method)
        if function is None or key in self.followed or (self.followed and key in self.stop):
            return
        self.followed.add(key)
        if function.__module__.startswith(_LIBRARY) or method in _LOOKUPS:
            return
        code = function.__code__
        if code.co_argcount:
            for chain in _chains(code, code.co_varnames[0]):
                self._resolve(owner, chain, method)

    def _resolve(self, owner: nn.Module, chain: tuple[str, ...], method: str) -> None:
        at = owner
        for position, name in enumerate(chain):
            child = at._modules.get(name)
            if child is None:
                if not hasattr(nn.Module, name):
                    self.follow(at, name)
                elif name == "forward" and at is not owner:
                    self.bypassed.add(id(at))
                    self.follow(at, "forward")
                return
            inner = peel(child)
            if id(inner) not in self.trunk:
                rest = chain[position + 1 :]
                self.touches.append(Touch(child, _called(inner, rest), method, _is_read(inner, rest)))
                return
            at = inner
        if at is not owner:
            self.follow(at, "forward")


def _called(module: nn.Module, rest: tuple[str, ...]) -> str:
    """The method of ``module``'s own that ``self.module.rest`` names, ``""`` for a plain call, property or child."""
    name = rest[0] if rest else ""
    own = not hasattr(nn.Module, name) and isinstance(_class_attribute(type(module), name), FunctionType)
    return name if own else ""


def _is_read(module: nn.Module, rest: tuple[str, ...]) -> bool:
    """Whether ``self.module.rest`` is an attribute: no method, no child, and nothing that every module has."""
    if not rest or rest[0] in module._modules or hasattr(nn.Module, rest[0]):
        return False
    return not isinstance(_class_attribute(type(module), rest[0]), FunctionType)


def reach(owner: nn.Module, method: str, trunk: Collection[int], stop: Collection[tuple[int, str]] = ()) -> Reach:
    """What ``owner.method`` touches, each outermost submodule outside of ``trunk``.

    ``trunk`` holds the ids of the modules (peeled) whose code is followed instead of being named: the ancestors of
    the language model and itself. ``stop`` holds ``(id, method)`` pairs that are not followed into.
    """
    result = Reach(trunk, stop)
    result.follow(peel(owner), method)
    return result
