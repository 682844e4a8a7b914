"""Inflation: how much longer each stage takes under a profiler, against a recording of the same work without it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from vlmtrace.analysis.measured import Measured, counted, measure
from vlmtrace.analysis.stats import median, ratio
from vlmtrace.errors import NotComparableError
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import Recording

__all__ = ["Inflation", "StageInflation", "inflation"]


@dataclass(frozen=True, slots=True)
class StageInflation:
    """One stage's median in both recordings, in ns: of its sum per generation, of ``decode.step`` each step."""

    stage: str
    paired: float
    baseline: float

    @property
    def difference(self) -> float:
        return self.paired - self.baseline

    @property
    def share(self) -> float | None:
        """The difference as a part of the baseline."""
        return ratio(self.difference, self.baseline)


@dataclass(frozen=True, slots=True)
class Inflation:
    """Every stage that ran in both, and how many generations the medians are over in each."""

    generations: int
    baseline_generations: int
    stages: tuple[StageInflation, ...]


def inflation(recording: Recording, chosen: Sequence[Measured], baseline: Recording) -> Inflation:
    """How much longer the stages of the generations ``chosen`` took than those that count in ``baseline``.

    Raises:
        NotComparableError: if they are not of the same models, inputs and outputs on the same GPU, looked at as finely;
            or ``baseline`` was recorded under a profiler as well.
    """
    if baseline.pairing is not None:
        raise _different("it holds kernels itself: it was recorded under Nsight Systems too")
    others = counted(measure(baseline))
    if not chosen or not others:
        raise _different(f"{'it' if chosen else 'the paired trace'} has no complete generation")
    for what, told in _FACTS:
        here, there = told(recording, chosen), told(baseline, others)
        if here != there:
            raise _different(f"{what}: {_text(there - here or there)} there, {_text(here - there or here)} here")
    ours, theirs = _samples(chosen), _samples(others)
    return Inflation(
        generations=len(chosen),
        baseline_generations=len(others),
        stages=tuple(
            StageInflation(stage, median(samples) or 0, median(theirs[stage]) or 0)
            for stage, samples in ours.items()
            if samples and theirs.get(stage)
        ),
    )


def _samples(chosen: Iterable[Measured]) -> Mapping[str, list[int]]:
    """The durations of each stage in the order in which they are told."""
    found: dict[str, list[int]] = {stage: [] for stage in _STAGES}
    for one in chosen:
        account = one.account
        other: defaultdict[str, int] = defaultdict(int)
        for name, ns in account.other:
            other[name] += ns
        found[names.GENERATE].append(account.generate)
        for stage, part in ((names.VISION, account.vision), (names.PREFILL, account.prefill)):
            found[stage] += [] if part is None else [part]
        found[names.STEP] += account.steps
        found[names.GAP] += [sum(account.gaps)] if account.gaps else []
        for name, ns in other.items():
            found[name].append(ns)
    return found


_STAGES: Final = (names.GENERATE, names.VISION, names.PREFILL, names.STEP, names.GAP, *names.OTHER_PARTS)

_Facts: TypeAlias = frozenset[str]


def _models(recording: Recording, chosen: Sequence[Measured]) -> _Facts:
    used = [recording.models[at] for at in {one.generation.model for one in chosen}]
    return frozenset(
        f"{model.class_name} of {model.parameters:,} parameters, {model.dtype}, {model.attention}" for model in used
    )


def _input(key: str) -> Callable[[Recording, Sequence[Measured]], _Facts]:
    return lambda _, chosen: frozenset(str(one.generation.inputs.get(key)) for one in chosen)


_FACTS: Final[tuple[tuple[str, Callable[[Recording, Sequence[Measured]], _Facts]], ...]] = (
    ("another model", _models),
    ("another GPU", lambda recording, _: frozenset((str(recording.environment.get("gpu")),))),
    ("another detail", lambda recording, _: frozenset((recording.detail,))),
    ("another way of decoding", lambda _, chosen: frozenset(one.generation.mode for one in chosen)),
    ("another batch size", _input("batch")),
    ("another number of images", _input("images")),
    ("another number of visual tokens", _input("visual_tokens")),
    ("another length of the prompt", _input("prompt_tokens")),
    (
        "another number of new tokens",
        lambda _, chosen: frozenset(", ".join(map(str, one.generation.new_tokens)) for one in chosen),
    ),
)
"""What must be the same for times to be comparable, most telling first."""


def _different(why: str) -> NotComparableError:
    return NotComparableError(
        f"the baseline is not comparable: {why}", "record it with the same command, without Nsight Systems"
    )


def _text(facts: _Facts) -> str:
    """A few of these, escaped, for they are foreign."""
    first, *more = sorted(facts)
    return f"{first[:100]!r}" + (f" and {len(more)} more" if more else "")
