"""Facts: what a person who clicks on a trace's instant ``recording`` is told about it.

For reading only; a recording is restored from the document.
"""

from __future__ import annotations

from typing import TypeAlias

from vlmtrace.timeline.recording import Json, Pairing, Recording

__all__ = ["Fact", "facts"]

Fact: TypeAlias = "int | str | dict[str, Fact]"

_LONGEST = 2_000


def facts(recording: Recording, findings: int) -> dict[str, Fact]:
    """Name, models, environment and workload of a recording with that many findings, as text and numbers."""
    made: dict[str, Fact] = {
        "name": _text(recording.name),
        "detail": _text(recording.detail),
        "clock": "device" if recording.on_device else "host",
        "generations": len(recording.generations),
        "findings": findings,
    }
    for number, model in enumerate(recording.models):
        weights = ", random weights" if model.random_weights else ""
        text = f"{model.name} ({model.class_name}, {model.parameters} parameters{weights})"
        made[f"model {number}"] = _text(text)
    if recording.pairing is not None:
        made["kernels"] = _of(recording.pairing)
    if recording.incomplete is not None:
        made["incomplete"] = _text(recording.incomplete)
    for title, known in (("environment", recording.environment), ("workload", recording.workload)):
        inner = {_text(key): _fact(value) for key, value in known.items() if value is not None}
        if inner:
            made[title] = dict(inner)
    return made


def _of(pairing: Pairing) -> dict[str, Fact]:
    """Where the kernels come from, how many lie in no stage and why, and how far to trust their times."""
    made: dict[str, Fact] = {
        "seen by": _text(f"{pairing.tool} {pairing.product}".strip()),
        "report": _text(pairing.report),
        "kernels": pairing.kernels,
        "clock bound (ns)": pairing.bound_ns,
    }
    lost = {_text(reason): _fact(count) for reason, count in pairing.unattributed.items()}
    return made | ({"in no stage": dict(lost)} if lost else {})


def _fact(value: Json) -> Fact:
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53:
        return value
    if isinstance(value, list):
        return _text(" ".join(str(one) for one in value))
    return _text(str(value))


def _text(text: str) -> str:
    cut = text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
    return cut.encode(errors="replace").decode()
