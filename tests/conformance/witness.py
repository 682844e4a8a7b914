"""The witness: every module call of a generation, in order, by torch's global hooks; it knows nothing of vlmtrace."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from transformers.generation.utils import GenerationMixin

__all__ = ["Call", "Log", "witnessed"]


@dataclass(slots=True, eq=False)
class Call:
    """One call of the module at ``path``, from ``begin`` to ``end`` (ns, monotonic).

    ``made`` tells its output apart from others by its numbers, ``width`` is the output's last dimension.
    """

    path: str
    begin: int
    parent: Call | None
    end: int = 0
    made: tuple[int, ...] = ()
    width: int = 0
    children: list[Call] = field(default_factory=list)

    def inside(self, path: str) -> bool:
        """Whether this call was made during a call of ``path``, or is one."""
        at: Call | None = self
        while at is not None:
            if at.path == path:
                return True
            at = at.parent
        return False


@dataclass(slots=True, eq=False)
class Log:
    """All calls of one generation in the order in which they began; ``loops`` are (path, begin, end) of token loops."""

    calls: list[Call] = field(default_factory=list)
    loops: list[tuple[str, int, int]] = field(default_factory=list)

    def by_path(self) -> dict[str, list[Call]]:
        found: dict[str, list[Call]] = {}
        for call in self.calls:
            found.setdefault(call.path, []).append(call)
        return found


@contextmanager
def witnessed(model: nn.Module) -> Iterator[Log]:
    """The log of what runs in ``model`` within the context."""
    log = Log()
    paths = {id(module): path for path, module in model.named_modules()}
    open_calls: list[Call] = []

    def entered(module: nn.Module, args: Any) -> None:
        if id(module) in paths:
            parent = open_calls[-1] if open_calls else None
            call = Call(paths[id(module)], time.monotonic_ns(), parent)
            if parent is not None:
                parent.children.append(call)
            log.calls.append(call)
            open_calls.append(call)

    def left(module: nn.Module, args: Any, output: Any) -> None:
        if id(module) in paths:
            call = open_calls.pop()
            call.end = time.monotonic_ns()
            tensors = list(_tensors(output))
            call.made = tuple(map(_numbers, tensors))
            call.width = tensors[0].shape[-1] if tensors and tensors[0].dim() else 0

    sample = GenerationMixin._sample

    @functools.wraps(sample)
    def loop(self: Any, *args: Any, **kwargs: Any) -> Any:
        begin = time.monotonic_ns()
        try:
            return sample(self, *args, **kwargs)
        finally:
            log.loops.append((paths.get(id(self), "another model"), begin, time.monotonic_ns()))

    GenerationMixin._sample = loop
    hooks = (
        torch_module.register_module_forward_pre_hook(entered),
        torch_module.register_module_forward_hook(left, always_call=True),
    )
    try:
        yield log
    finally:
        GenerationMixin._sample = sample
        for hook in hooks:
            hook.remove()


def _tensors(output: Any) -> Iterator[Tensor]:
    """The tensors that a module answers; what it keeps in a cache is no answer."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from _tensors(value)
    elif isinstance(output, list | tuple):
        for value in output:
            yield from _tensors(value)


def _numbers(tensor: Tensor) -> int:
    plain = tensor.detach().cpu()
    plain = plain.float() if plain.dtype == torch.bfloat16 else plain
    return hash((tuple(plain.shape), plain.contiguous().numpy().tobytes()))
