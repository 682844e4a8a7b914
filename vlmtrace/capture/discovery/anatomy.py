"""The anatomy of a model: which of its modules and methods are traced, and how each was found."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from vlmtrace.capture.discovery.module_tree import within
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import FoundStage

__all__ = ["Anatomy", "FeatureMethod", "Part"]


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One traced module.

    ``path`` is dotted and counts from :attr:`Anatomy.root` (``""`` for the root itself). ``how`` is a short phrase
    that a person reads; ``guess`` tells that nothing but the module's name spoke for it.
    """

    module: nn.Module
    path: str
    how: str
    guess: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class FeatureMethod:
    """A ``get_image_features`` or ``get_video_features`` to wrap on the instance ``owner``, found at ``path``."""

    owner: nn.Module
    path: str
    method: str
    how: str


@dataclass(frozen=True, slots=True, eq=False)
class Anatomy:
    """What discovery found in one model.

    ``root`` is the model with its wrappers peeled. ``encoders`` turn pixels into features, ``projectors`` turn these
    into the language model's width; a projector that lies inside an encoder is one of ``inner_projectors``, and then
    the encoder's time includes it. ``layers`` and ``vision_layers`` are blocks in order. ``generating`` holds the
    modules whose own ``generate()`` may run, the outermost first; the last one's forward is prefill and decode.
    ``notes`` are sentences a person should read before trusting the rest.
    """

    root: nn.Module
    feature_methods: tuple[FeatureMethod, ...] = ()
    encoders: tuple[Part, ...] = ()
    projectors: tuple[Part, ...] = ()
    inner_projectors: tuple[Part, ...] = ()
    language_model: Part | None = None
    layers: tuple[Part, ...] = ()
    vision_layers: tuple[Part, ...] = ()
    lm_head: Part | None = None
    generating: tuple[Part, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def entry(self) -> Part | None:
        """The module whose call begins the language model's own work, after its inputs have been merged.

        The language model where it is a module apart; else its first block: where the vision side lies inside of it,
        and where it is a container, which is never called.
        """
        core = self.language_model
        apart = (
            core is not None
            and core.module is not self.root
            and not isinstance(core.module, nn.ModuleDict | nn.ModuleList)
            and not any(within(part.path, core.path) for part in self.encoders)
        )
        return core if apart else next(iter(self.layers), None)

    def stages(self) -> tuple[FoundStage, ...]:
        """What will be traced, in the order in which a generation runs it; numbered siblings are one entry."""
        found = [FoundStage(names.VISION, _join(m.path, m.method), m.how) for m in self.feature_methods]
        parts = (*self.encoders, *self.projectors)
        if not found and parts:
            path = " + ".join(entry.path for entry in _grouped(names.VISION, parts))
            found.append(FoundStage(names.VISION, path, "their calls", any(part.guess for part in parts)))
        found += _grouped(names.ENCODER, self.encoders)
        found += _grouped(names.VISION_LAYER, self.vision_layers)
        found += _grouped(names.PROJECTOR, (*self.projectors, *self.inner_projectors))
        if self.generating:
            last = self.generating[-1]
            path = _join(last.path, "generate")
            found += [FoundStage(stage, path, last.how, last.guess) for stage in (names.PREFILL, names.DECODE)]
        found += _grouped(names.LAYER, self.layers)
        if self.lm_head is not None:
            found += _grouped(names.LM_HEAD, (self.lm_head,))
        return tuple(found)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _grouped(stage: str, parts: Iterable[Part]) -> list[FoundStage]:
    """One entry per part, but one for a run of parts that differ only in their number: ``model.layers × 28``."""
    runs: list[tuple[str, list[Part]]] = []
    for part in parts:
        parent, _, name = part.path.rpartition(".")
        family = parent if name.isdecimal() else part.path
        if runs and runs[-1][0] == family and name.isdecimal():
            runs[-1][1].append(part)
        else:
            runs.append((family, [part]))
    return [
        FoundStage(
            stage,
            run[0].path if len(run) == 1 else f"{family} × {len(run)}",
            run[0].how,
            any(part.guess for part in run),
        )
        for family, run in runs
    ]
