"""Examines one way of generating: the same tokens, the right stages, the compiler undisturbed, nothing left behind."""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
import torch._dynamo.utils
from torch import nn

import vlmtrace
from tests.leftovers import leftovers, snapshot
from tests.ways.bench import Bench, Shows, Way, bench
from vlmtrace.analysis.summary import summarise
from vlmtrace.errors import InvalidRecordingError
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import Generation, Recording

__all__ = ["COLUMNS", "Result", "examine"]

COLUMNS = ("stages", "tokens", "dynamo", "left")

_COUNTED = ("frames", "stats", "graph_break", "recompiles")


@dataclass
class Result:
    """``wrong`` lists what is, by column; a way is right where it is empty."""

    wrong: dict[str, list[str]] = field(default_factory=dict)

    def note(self, column: str, complaint: str | None) -> None:
        self.wrong.setdefault(column, [])
        if complaint is not None:
            self.wrong[column].append(complaint)

    def right(self) -> dict[str, bool]:
        """By column, whether all is well."""
        return {column: not self.wrong[column] for column in COLUMNS}


def examine(way: Way, detail: str = "layer") -> Result:
    """Run ``way`` untraced and traced, each as often as the other, and lay the two beside each other."""
    result = Result()
    expected, plain = _untraced(way)
    made = bench(way)
    _reset()
    way.run(made)
    before, state = snapshot(), state_of(made.model)
    answer, recording = _traced(way, made, detail, result)
    result.note("left", "; ".join(leftovers(before)) or None)
    result.note("left", None if state_of(made.model) == state else "the model's attributes or hooks differ")
    way.run(made)
    _check_tokens(result, expected, answer)
    _check_dynamo(result, plain, _counted(), "attached to compiled code")
    if recording is not None:
        _check_stages(result, way, recording)
    if way.compiles:
        _check_fresh(way, detail, result, expected, plain)
    return result


def _untraced(way: Way) -> tuple[Any, dict[str, Any]]:
    """What ``way`` answers without tracing, and what the compiler counted in three runs of it."""
    made = bench(way)
    _reset()
    answers = [way.run(made) for _ in range(3)]
    return answers[-1], _counted()


def _traced(way: Way, made: Bench, detail: str, result: Result) -> tuple[Any, Recording | None]:
    answer: Any = None
    try:
        with vlmtrace.trace(detail=detail) as session:
            answer = way.run(made)
        recording = session.recording
    except InvalidRecordingError as error:
        result.note("stages", f"the identities do not hold: {error}")
        return answer, None
    return answer, recording


def _check_fresh(way: Way, detail: str, result: Result, expected: Any, plain: dict[str, Any]) -> None:
    """Attached before anything has been compiled, and taken off again."""
    made = bench(way)
    _reset()
    for _ in range(2):
        answer, _recording = _traced(way, made, detail, result)
    way.run(made)
    _check_tokens(result, expected, answer)
    _check_dynamo(result, plain, _counted(), "attached before compiling")


def _check_tokens(result: Result, expected: Any, answer: Any) -> None:
    result.note("tokens", None if _equal(expected, answer) else "the answers differ")


def _check_dynamo(result: Result, plain: dict[str, Any], traced: dict[str, Any], when: str) -> None:
    result.note("dynamo", None if plain == traced else f"{when}: {plain} became {traced}")


def _check_stages(result: Result, way: Way, recording: Recording) -> None:
    said = {finding.slug for finding in summarise(recording).findings}
    for wanted in {one.says for one in way.shows_here} - {None}:
        result.note("stages", None if wanted in said else f"it is not said: {wanted}")
    result.note("stages", None)
    if len(recording.generations) != len(way.shows_here):
        result.note("stages", f"{len(recording.generations)} generations, not {len(way.shows_here)}")
    found: dict[int, Counter[str]] = {g.index: Counter() for g in recording.generations}
    for span in recording.spans:
        if span.generation is not None:
            found[span.generation][span.name] += 1
    for generation, shows in zip(recording.generations, way.shows_here, strict=False):
        for what, (should, is_) in _wanted(shows, generation, found[generation.index]).items():
            result.note("stages", None if should == is_ else f"{what}: {is_}, not {should}")


def _wanted(shows: Shows, generation: Generation, count: Counter[str]) -> dict[str, tuple[Any, Any]]:
    """What a generation should have and what it has, by what it is."""
    steps, tokens = count[names.STEP], count[names.TOKEN]
    return {
        names.PREFILL: (shows.prefill, count[names.PREFILL]),
        names.VISION: (shows.vision, count[names.VISION]),
        names.PREFILL_CHUNK: (shows.chunks, count[names.PREFILL_CHUNK]),
        names.STEP: (tokens - 1 if shows.steps is None else shows.steps, steps),
        names.TOKEN: (max(2, steps + 1) if shows.tokens is None else shows.tokens, tokens),
        names.DECODE: (int(steps > 0), count[names.DECODE]),
        "new tokens": (shows.new_tokens, generation.new_tokens),
        "error": (shows.error, generation.error),
    }


def state_of(model: nn.Module) -> list[tuple[str, list[str], int, int]]:
    """What tracing could leave on a model: instance attributes and hooks, of each module."""
    return [
        (name, sorted(module.__dict__), len(module._forward_hooks), len(module._forward_pre_hooks))
        for name, module in model.named_modules()
    ]


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(_equal(a, b) for a, b in zip(one, other, strict=True))
    return bool(one == other)


def _reset() -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    warnings.simplefilter("ignore")


def _counted() -> dict[str, Any]:
    """Graphs, breaks and recompilations, as dynamo counts them; breaks by their first line, without numbers of ours."""
    counters = torch._dynamo.utils.counters
    made: dict[str, Any] = {name: dict(counters[name]) for name in _COUNTED if counters[name]}
    breaks: Counter[str] = Counter()
    for reason, count in made.pop("graph_break", {}).items():
        breaks[reason.partition("\n")[0]] += count
    return made | ({"graph_break": dict(breaks)} if breaks else {})
