"""Facts: what ran on what, how far to trust it, and how to run it again, as pairs of words and values."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from typing import Final, TypeAlias

from vlmtrace.analysis.summary import Summary
from vlmtrace.report import lines
from vlmtrace.report.cells import clean, range_text
from vlmtrace.report.overhead import added_parts, lowered_text
from vlmtrace.timeline.recording import UNKNOWN, Json
from vlmtrace.units import bytes_text, duration_text

__all__ = ["Fact", "command_of", "environment", "trust", "versions", "workload"]

Fact: TypeAlias = tuple[str, str]
"""A word and its value, both fit to be shown."""

_LONGEST: Final = 200
_MOST: Final = 40
_MOST_MODELS: Final = 4
_VERSIONED: Final = ("transformers", "torch", "cuda", "driver", "vlmtrace")
_FIRST: Final = ("gpu", "driver", "cuda", "torch", "transformers", "vlmtrace", "python", "platform", "cpu")


def environment(summary: Summary) -> list[Fact]:
    """The model, what it was given, and the machine and versions."""
    facts: list[Fact] = []
    for model in summary.models[:_MOST_MODELS]:
        facts.append(("model", lines.model_text(model)))
        known = (lines.kind_text(model.dtype), clean(model.attention), clean(model.device))
        facts.append(("type · attention · device", " · ".join(part for part in known if part and part != UNKNOWN)))
    facts.append(("mode", "/".join(map(clean, summary.modes[:_MOST_MODELS])) or UNKNOWN))
    counts = summary.counts
    for name, counted in (
        ("batch", counts.batch),
        ("images", counts.images),
        ("visual tokens", counts.visual_tokens),
        ("prompt tokens", counts.prompt_tokens),
        ("new tokens", counts.new_tokens),
    ):
        if counted is not None:
            facts.append((name, range_text(counted)))
    facts.append(("detail", clean(summary.detail)))
    return [(name, value) for name, value in (*facts, *_machine(summary.environment)) if value]


def versions(summary: Summary) -> list[str]:
    """``transformers 5.23.0``, ``torch 2.11.0`` and the like, of what decides most about the times."""
    known = ((name, summary.environment.get(name)) for name in _VERSIONED)
    return [f"{name} {clean(value)}" for name, value in known if isinstance(value, str) and value]


def _machine(known: Mapping[str, Json]) -> Iterator[Fact]:
    ordered = [key for key in _FIRST if key in known] + [key for key in known if key not in _FIRST]
    for key in ordered[:_MOST]:
        value = known[key]
        if value is None:
            continue
        if key == "gpu_memory_bytes" and isinstance(value, int):
            yield "gpu memory", bytes_text(value)
        elif key == "gpu_clock_mhz" and isinstance(value, int | float):
            yield "gpu clock", f"{value:,.0f} MHz"
        else:
            yield clean(key).replace("_", " "), _value(value)


def trust(summary: Summary) -> list[Fact]:
    """What tracing cost, how good the clock is, what was counted and left out, and what was checked."""
    tracing, counts = summary.tracing, summary.counts
    left = ", ".join(f"{count:,} {clean(why)}" for why, count in counts.left_out.items())
    facts = [
        ("generations counted", f"{counts.generations:,}" + ("" if counts.generations else ": no figure here is one")),
        ("left out", left or "none"),
        ("clock", f"GPU’s, ± {duration_text(tracing.clock_bound)} on the host’s" if tracing.clock_bound is not None
         else "GPU’s" if summary.on_device else "the host’s: every time on this page is the host’s"),
        ("cost of tracing", "not known" if tracing.cost_share is None else
         f"{'< 0.01' if 0 < tracing.cost_share < 0.00005 else format(100 * tracing.cost_share, '.2f')} % of the host’s "
         "time in generate(), counted"),
        ("added waits", "not known" if tracing.waits is None else f"{tracing.waits:.3g} per generation, after it"),
    ]  # fmt: skip
    added = " · ".join(added_parts(tracing.added))
    if added:
        facts.append(("measured with and without", added))
    if tracing.lowered is not None:
        facts.append(("detail", lowered_text(tracing.lowered, summary.detail)))
    facts.append(("marks by", clean(tracing.path)))
    if summary.counted:
        facts.append(("identities", _identities(summary)))
    if summary.nearest is not None and summary.nearest.clock_bound is not None:
        apart = f"{summary.nearest.account.host_minus_device / 1e6:z.3f}".replace("-", "−")
        facts.append(("host wall − device", f"{apart} ms in generation #{summary.nearest.generation.index}"))
    if summary.audited:
        facts.append(("synchronisations", f"audited in {summary.audited:,} further generations"))
    return facts


def _identities(summary: Summary) -> str:
    held = sum(one.account.parts_total == one.account.generate for one in summary.counted)
    steps = [one.account for one in summary.counted if one.account.decode is not None]
    held_steps = sum(account.decode == sum(account.steps) + sum(account.gaps) for account in steps)
    return (
        f"generate = vision + prefill + decode + other, to the nanosecond, in {held:,} of {len(summary.counted):,}; "
        f"decode = steps + gaps in {held_steps:,} of {len(steps):,}"
    )


def command_of(summary: Summary) -> str | None:
    """The command that made the recording as it is stored (redacted), fit for a shell; ``None`` where it is not."""
    words = summary.workload.get("command")
    if not isinstance(words, list) or not words:
        return None
    return clean(shlex.join(str(word) for word in words), 4_000)


def workload(summary: Summary) -> list[Fact]:
    """What else is stored of the work."""
    known = [
        (key, value) for key, value in summary.workload.items() if key != "command" and value not in (None, {}, [])
    ]
    return [(clean(key).replace("_", " "), _value(value)) for key, value in known[:_MOST]]


def _value(value: Json) -> str:
    return clean(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), _LONGEST)
