"""Plans: what is traced of each model, made at its first generation and kept with it, so that it dies with it."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import nn

from vlmtrace.capture.attachment import Attachment
from vlmtrace.capture.discovery.anatomy import Anatomy
from vlmtrace.capture.discovery.search import discover
from vlmtrace.capture.environment import describe_model, working_device
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import TracedModel

__all__ = ["Plan", "Plans"]

_PLAN: Final = "_vlmtrace_plan"


@dataclass(slots=True, eq=False)
class Plan:
    """What is traced of one model: its parts, the listeners on them, its number, and the ids of what generates.

    ``plans`` are those of the recording that it belongs to.
    """

    plans: Plans
    anatomy: Anatomy
    attachment: Attachment
    index: int
    generating: frozenset[int]
    _told: dict[tuple[Any, torch.device | None], torch.device | None] = field(default_factory=dict)

    def working_device(self, model: nn.Module) -> torch.device | None:
        """Where the work of ``model`` runs. All of its modules are asked only once for each place it has been moved to.

        That takes milliseconds, which ``generate()`` would be longer by. What moves a model, or lets it run elsewhere
        than its weights rest, changes its first parameter's device or puts a hook on the model itself.
        """
        first = _first_parameter(model)
        key = (getattr(model, "_hf_hook", None), None if first is None else first.device)
        if key not in self._told:
            self._told = {key: working_device(model)}
        return self._told[key]

    def __reduce__(self) -> tuple[type, tuple[()]]:
        """A copied or pickled model takes no plan along: a plan is about one instance."""
        return type(None), ()


class Plans:
    """The plans of all models in a recording. ``models`` and ``paths`` (module paths by stage) go by a plan's index."""

    def __init__(self, detail: str, stages: Mapping[str, tuple[str, ...]]) -> None:
        self.models: list[TracedModel] = []
        self.paths: list[dict[str, tuple[str, ...]]] = []
        self._detail = detail
        self._stages = stages
        self._prepared: list[tuple[nn.Module, Plan]] = []
        self._planned: list[weakref.ref[nn.Module]] = []
        self._lock = threading.RLock()

    def of(self, model: nn.Module) -> Plan:
        """The plan of ``model``; two threads that generate first at the same time get the same one.

        Raises:
            UsageError: for a stage path that the model does not have.
        """
        with self._lock:
            plan: Plan | None = model.__dict__.get(_PLAN)
            if plan is not None and plan.plans is not self:  # of a recording that has ended, left by a late thread
                plan.attachment.close()
                plan = None
            if plan is None:
                plan = self._made(model)
                self._keep(model, plan)
            return plan

    def prepare(self, model: nn.Module) -> Plan:
        """The plan of ``model``, which is not with it before :meth:`put`: another recording may be running.

        Raises:
            UsageError: for a stage path that the model does not have.
        """
        for known, plan in self._prepared:
            if model is known or model is plan.anatomy.root:
                return plan
        plan = self._made(model)
        self._prepared.append((model, plan))
        return plan

    def put(self) -> None:
        """Put what was prepared where it is found."""
        while self._prepared:
            self._keep(*self._prepared.pop())

    def _made(self, model: nn.Module) -> Plan:
        anatomy = discover(model, self._stages)
        generating = frozenset(id(part.module) for part in anatomy.generating) | {id(anatomy.root)}
        plan = Plan(self, anatomy, Attachment(anatomy, self._detail), len(self.models), generating)
        self.models.append(describe_model(anatomy))
        self.paths.append(_paths(anatomy))
        return plan

    def _keep(self, model: nn.Module, plan: Plan) -> None:
        for owner in {id(m): m for m in (model, plan.anatomy.root)}.values():
            owner.__dict__[_PLAN] = plan
            self._planned.append(weakref.ref(owner))

    def forget(self) -> None:
        """Take the plans off the models, and what is attached to them, also where a generation is still running."""
        for reference in self._planned:
            model = reference()
            plan = None if model is None else model.__dict__.pop(_PLAN, None)
            if plan is not None:
                plan.attachment.close()
        self._planned.clear()


def _first_parameter(module: nn.Module) -> nn.Parameter | None:
    """As the first of ``parameters()``, which takes three times as long to get there."""
    for parameter in module._parameters.values():
        if parameter is not None:
            return parameter
    for child in module._modules.values():
        found = None if child is None else _first_parameter(child)
        if found is not None:
            return found
    return None


def _paths(anatomy: Anatomy) -> dict[str, tuple[str, ...]]:
    """Module paths by stage, in the order of the numbers that marks carry."""
    head = () if anatomy.lm_head is None else (anatomy.lm_head,)
    return {
        names.ENCODER: tuple(part.path for part in anatomy.encoders),
        names.PROJECTOR: tuple(part.path for part in (*anatomy.projectors, *anatomy.inner_projectors)),
        names.LM_HEAD: tuple(part.path for part in head),
    }
