"""The module tree: every module of a model under the dotted path a person would type, shells peeled off."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

__all__ = ["ModuleTree", "children", "peel", "within"]

_WRAPS_ONE = frozenset(("_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"))


def peel(module: nn.Module) -> nn.Module:
    """``module`` without the shells around it: ``torch.compile``, DDP, FSDP, activation checkpointing, PEFT."""
    while True:
        inner = _inside(module)
        if inner is None:
            return module
        module = inner


def _inside(module: nn.Module) -> nn.Module | None:
    held = module._modules
    if len(held) == 1 and not _WRAPS_ONE.isdisjoint(held):
        return next(iter(held.values()))
    # PEFT: PeftModel.base_model is a tuner (LoraModel) with the model as its one child, or, for prompt tuning, the
    # model itself. Asking the instance would not tell them apart: a tuner forwards every attribute to its model.
    base = held.get("base_model")
    if base is not None and hasattr(module, "peft_config"):
        only = base._modules.get("model") if len(base._modules) == 1 else None
        return base if only is None or hasattr(type(base), "config_class") else only
    return None


def children(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """The named children of ``module`` (its shells peeled) that are there; a ``vision_tower`` of None is not."""
    return [(name, child) for name, child in peel(module)._modules.items() if child is not None]


class ModuleTree:
    """Every module below ``root`` by its path, in the model's own order; a shared module keeps its first path.

    Paths skip shells: the merger of a compiled ``model.visual`` is ``model.visual.merger``, and ``model.visual`` is
    the compiled module, since that is the one whose call can be seen from outside the graph.
    """

    def __init__(self, root: nn.Module) -> None:
        self.root = root
        self.modules: dict[str, nn.Module] = {}
        self._paths: dict[int, str] = {}
        self._add("", root)

    def _add(self, path: str, module: nn.Module) -> None:
        inner = peel(module)
        if id(inner) in self._paths:
            return
        self.modules[path] = module
        self._paths[id(module)] = self._paths[id(inner)] = path
        for name, child in children(inner):
            self._add(f"{path}.{name}" if path else name, child)

    def path_of(self, module: object) -> str | None:
        """The path of ``module``, with or without its shells; ``None`` for what is not a module of this tree."""
        return self._paths.get(id(module))

    def ancestors(self, path: str) -> tuple[nn.Module, ...]:
        """The modules on the way from the root to ``path``, both included, shells peeled."""
        names = path.split(".") if path else []
        return tuple(peel(self.modules[".".join(names[:end])]) for end in range(len(names) + 1))

    def below(self, path: str) -> Iterator[tuple[str, nn.Module]]:
        """Path and module of everything strictly below ``path``."""
        return ((at, module) for at, module in self.modules.items() if at != path and within(at, path))


def within(path: str, ancestor: str) -> bool:
    """Whether ``path`` is ``ancestor`` or lies below it."""
    return not ancestor or path == ancestor or path.startswith(f"{ancestor}.")
