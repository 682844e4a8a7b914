"""The check: one generation traced, and every stage that was told held against what the witness saw."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import torch
from torch import nn

import vlmtrace
from tests.conformance.facts import Facts, Sight, sight, within
from tests.conformance.witness import Call, Log, witnessed
from tests.leftovers import leftovers, snapshot
from tests.tiny.models import TinyModel
from vlmtrace.analysis.case import Slug
from vlmtrace.analysis.summary import summarise
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import Recording
from vlmtrace.timeline.spans import Span

__all__ = ["COLUMNS", "NEW", "Verdicts", "check"]

NEW: Final = 4
"""Tokens of each generation."""
COLUMNS: Final = ("tokens", "stages", "vision", "encoder", "projector", "layers", "lm_head", "left")
RIGHT: Final = "right"
_HOST: Final = (names.GC, names.COMPILE)


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What was right: ``right``, ``none`` where a model has no such part, or what is told instead of it.

    ``when`` is when vision ran: before the first forward, inside it, or both. ``problems`` are differences from what
    ran that nothing in the recording tells of.
    """

    tokens: str
    stages: str
    vision: str
    encoder: str
    projector: str
    layers: str
    lm_head: str
    left: str
    when: str
    problems: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "problems": list(self.problems)}


def check(tiny: TinyModel, stages: Mapping[str, str] | None = None) -> Verdicts:
    """Generate unwatched, watched and traced; compare.

    The traced run is watched too, so that both tell of the same calls on the same clock. ``stages`` are given to
    ``trace()`` in the place of what would be found.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums in one order: equal inputs give equal numbers
    try:
        ids, seen = sight(tiny, NEW)
        state, before = _state(tiny.held), snapshot()
        with witnessed(tiny.model) as log, vlmtrace.trace(tiny.held, detail="layer", stages=stages) as session:
            traced = tiny.generate(NEW)
        left = leftovers(before)
    finally:
        torch.set_num_threads(threads)
    if _state(tiny.held) != state:
        left.append("something is left on the model")
    return _Comparison(tiny.model, session.recording, log, seen).verdicts(torch.equal(ids, traced), left)


def _state(model: nn.Module) -> list[tuple[str, list[str], int, int]]:
    """Instance attributes and hooks of each module: what tracing could leave."""
    return [
        (path, sorted(module.__dict__), len(module._forward_hooks), len(module._forward_pre_hooks))
        for path, module in model.named_modules()
    ]


class _Comparison:
    def __init__(self, model: nn.Module, recording: Recording, log: Log, seen: Sight) -> None:
        self.recording = recording
        self.facts = Facts.of(model, log, seen)
        self.told = recording.models[0]
        self.spans = [span for span in recording.spans if span.name not in _HOST]
        self.found = Counter(span.name for span in self.spans)
        self.problems: list[str] = []

    def verdicts(self, same: bool, left: Sequence[str]) -> Verdicts:
        self.problems += left
        parts = (self.stages, self.vision, self.encoder, self.projector, self.layers, self.lm_head)
        made = [self._judged(part) for part in parts]
        self._findings()
        if not same:
            self.problems.append("tracing changed the tokens")
        counted = set(self.recording.generations[0].new_tokens) == {NEW}
        tokens = RIGHT if same and counted else "wrong"
        return Verdicts(tokens, *made, "wrong" if left else "nothing", self._when(), tuple(self.problems))

    def _judged(self, part: Any) -> str:
        known = len(self.problems)
        verdict: str = part()
        return "wrong" if len(self.problems) > known else verdict

    def _named(self, *stages: str) -> list[Span]:
        return sorted((span for span in self.spans if span.name in stages), key=lambda span: span.begin)

    def _expect(self, what: str, told: Any, ran: Any) -> None:
        if told != ran:
            self.problems.append(f"{what}: told {told}, ran {ran}")

    def _findings(self) -> None:
        """Nothing was done twice here, so no finding may say so; but a model may be made without a cache."""
        found = {finding.slug for finding in summarise(self.recording).findings}
        if Slug.VISION_REPEATED in found:
            self.problems.append(f"{Slug.VISION_REPEATED} is found in one look at one image")
        uncached = self.recording.generations[0].inputs.get("use_cache") is False
        self._expect(Slug.PREFILL_RECOMPUTED, Slug.PREFILL_RECOMPUTED in found, uncached)
        guessed = any(one.guess for one in self.told.stages)
        self._expect(Slug.GUESSED_STAGE, Slug.GUESSED_STAGE in found, guessed)

    def stages(self) -> str:
        """One prefill, then N - 1 steps, each in its forward; a mark for each token; sums exact."""
        ran = self.facts.forwards
        self._expect("forwards", self.found[names.PREFILL] + self.found[names.STEP], len(ran))
        self._expect("prefills", self.found[names.PREFILL], 1)
        self._expect("steps", self.found[names.STEP], NEW - 1)
        self._expect("token marks", self.found[names.TOKEN], NEW)
        for span, call in zip(self._named(names.PREFILL, names.STEP), ran, strict=False):
            if not _inside(call, span):
                self.problems.append(f"{span.name} {span.number} is not where its forward ran")
        for whole, parts in (
            (names.GENERATE, (names.VISION, names.PREFILL, names.DECODE, *names.OTHER_PARTS)),
            (names.DECODE, (names.STEP, names.GAP)),
        ):
            for span in self._named(whole):
                inner = [child for child in self.spans if child.parent == span.row and child.name in parts]
                self._expect(f"sum of {whole}", sum(child.duration for child in inner), span.duration)
        return RIGHT

    def vision(self) -> str:
        """Spans where something looked at the image, before or inside the first forward, and nowhere else."""
        spans = self._named(names.VISION)
        for call in self.facts.looks:
            # A mark of the module's own is made just outside of what the witness sees of its call.
            if not any(span.begin <= call.end <= span.end for span in spans):
                self.problems.append(f"{call.path} saw the image outside of vision")
        for span in spans:
            if not any(span.begin <= call.end <= span.end for call in self.facts.looks):
                self.problems.append("a vision span in which nothing saw the image")
            if any(span.begin < call.end < span.end for call in self.facts.calls_of(*self.facts.layers)):
                self.problems.append("a vision span over decoder blocks")
            self._expect("vision in a step", self._parent_name(span) == names.STEP, False)
        if not self.facts.seeing:
            return "none"
        first = self.facts.forwards[0]
        for span in spans:
            inside = first.begin <= span.begin and span.end <= first.end
            self._expect("vision in the prefill", self._parent_name(span) == names.PREFILL, inside)
        return RIGHT

    def _parent_name(self, span: Span) -> str:
        return "" if span.parent is None else self.recording.spans[span.parent].name

    def _when(self) -> str:
        first = self.facts.forwards[0]
        found = {"inside" if call.begin > first.begin else "before" for call in self.facts.seeing}
        return " and ".join(sorted(found))

    def encoder(self) -> str:
        """What looked first; each told one ran, saw the image alone, and is shown as often as it did."""
        told = self._paths(names.ENCODER)
        self._really_ran(names.ENCODER, told)
        if not self.facts.seeing:
            return "none" if not told else self._silent(f"encoder {', '.join(told)} saw no image alone")
        first = self.facts.seeing[0].path
        if any(within(first, path) or within(path, first) for path in told):
            return self._how(names.ENCODER)
        return self._said(first) or self._silent(f"{first} looked first and is no encoder")

    def projector(self) -> str:
        """Whatever else saw the image alone is told as a projector, or lies in an encoder."""
        told = (*self._paths(names.ENCODER), *self._paths(names.PROJECTOR))
        self._really_ran(names.PROJECTOR, self._paths(names.PROJECTOR))
        looked = {call.path for call in self.facts.looks}
        left = dict.fromkeys(call.path for one in self.facts.seeing for call in _uncovered(one, told))
        unsaid = [path for path in left if path in looked and not self._said(path)]
        if unsaid:
            return self._silent(f"nothing is told of {', '.join(unsaid)}")
        if not self._paths(names.PROJECTOR):
            return "none"
        return self._how(names.PROJECTOR)

    def _really_ran(self, stage: str, told: Sequence[str]) -> None:
        shown = Counter(str(span.args.get("path")) for span in self._named(stage))
        facts = self.facts
        looks, reads = set(map(id, facts.looks)), set(map(id, facts.reading))
        (looks if stage == names.PROJECTOR else reads).update(map(id, facts.asking))
        for path in told:
            calls = self.facts.calls_of(path)
            saw = sum(id(call) in looks for call in calls)
            if not max(1, saw) <= shown[path] <= len(calls):
                self.problems.append(f"{stage} {path}: told {shown[path]} times, saw the image {saw} times")
            if not any(id(call) in looks for call in calls) or any(id(call) in reads for call in calls):
                self._silent(f"{stage} {path} did not see the image alone")

    def _paths(self, stage: str) -> tuple[str, ...]:
        """The module paths that were told for a stage and ran, as their spans carry them."""
        return tuple(dict.fromkeys(str(span.args["path"]) for span in self._named(stage)))

    def _how(self, stage: str) -> str:
        return "guess" if any(one.guess for one in self.told.stages if one.stage == stage) else RIGHT

    def _said(self, path: str) -> str:
        """What the recording says of a module that it does not tell as a part."""
        for note in self.told.notes:
            if within(path, note.partition(" ")[0]):
                return "said"
        return ""

    def _silent(self, problem: str) -> str:
        self.problems.append(problem)
        return "wrong"

    def layers(self) -> str:
        """Each block once a forward; one that looks at an image may be passed over where there is none."""
        told = [path for one in self.told.stages if one.stage == names.LAYER for path in _unfolded(one.path)]
        ran = tuple(path for path in told if self.facts.calls_of(path))
        self._expect("decoder blocks", ran, self.facts.layers)
        calls = self.facts.calls_of(*self.facts.layers)
        self._expect("calls of decoder blocks", self.found[names.LAYER], len(calls))
        return RIGHT

    def lm_head(self) -> str:
        told = {one.path for one in self.told.stages if one.stage == names.LM_HEAD}
        self._expect("output head", told, {self.facts.head} - {""})
        self._expect("calls of the head", self.found[names.LM_HEAD], len(self.facts.calls_of(self.facts.head)))
        return self._how(names.LM_HEAD) if told else "none"


def _inside(call: Call, span: Span) -> bool:
    """Whether a span is that of a call: it covers all that ran in it, and lies in no other."""
    inner = call.children
    covers = all(span.begin <= child.begin and child.end <= span.end for child in inner)
    return covers and span.begin <= call.end <= span.end


def _uncovered(call: Call, told: Sequence[str]) -> Iterator[Call]:
    """What in a call belongs to no told part: itself, or, where parts lie in it, those of its children."""
    if any(within(call.path, path) for path in told):
        return
    if not any(within(path, call.path) for path in told):
        yield call
        return
    for child in call.children:
        yield from _uncovered(child, told)


def _unfolded(path: str) -> list[str]:
    family, times, count = path.partition(" × ")
    return [f"{family}.{number}" for number in range(int(count))] if times else [path]
