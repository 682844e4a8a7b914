"""The plan: what of a model is traced, as a tree with module paths and how each part was found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich.cells import cell_len

from vlmtrace.analysis.summary import Summary
from vlmtrace.report.cells import clean
from vlmtrace.report.lines import kind_text, model_text
from vlmtrace.report.sections import Section
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import DETAILS, FoundStage, Json, TracedModel

__all__ = ["plan_document", "plan_sections", "plan_text"]

_PARENTS: Final = {
    names.ENCODER: names.VISION,
    names.PROJECTOR: names.VISION,
    names.VISION_LAYER: names.VISION,
    names.MERGE: names.PREFILL,
}
_ORDER: Final = (
    names.VISION,
    names.ENCODER,
    names.VISION_LAYER,
    names.PROJECTOR,
    names.PREFILL,
    names.MERGE,
    names.DECODE,
    names.LAYER,
    names.LM_HEAD,
)
_SHOWN_FROM: Final = {
    names.ENCODER: "module",
    names.PROJECTOR: "module",
    names.MERGE: "module",
    names.LM_HEAD: "module",
    names.VISION_LAYER: "layer",
    names.LAYER: "layer",
}
_LONGEST_PATH: Final = 400
_HEADINGS: Final = ("stage", "module or method", "how it was found")


def plan_text(model: TracedModel, *, detail: str | None = None) -> str:
    """What would be traced, one line per part: the stage, the module path, and how it was found; newline at the end.

    A guess is marked ``?`` and explained below. With a ``detail`` (``stage``, ``module``, ``layer``), parts that only
    a higher one shows say which. Discovery's notes follow, one a line (``no vision part found: …``).
    """
    head = " · ".join(
        part
        for part in (model_text(model), clean(model.class_name), kind_text(model.dtype), clean(model.attention))
        if part
    )
    rows = _rows(model, detail)
    widths = [max((cell_len(row[at]) for row in rows), default=0) for at in (0, 1)]
    lines = [clean(head, 200), names.GENERATE]
    for row in rows:
        padded = (cell + " " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=False))
        lines.append("   ".join((*padded, row[2])).rstrip())
    if not rows:
        lines.append("└ nothing was found to trace inside it")
    return "\n".join((*lines, *_notes(model))) + "\n"


def plan_sections(summary: Summary) -> list[Section]:
    """What was traced of each model that is counted, to be shown below a summary."""
    return [
        Section(
            title=f"stages of {clean(model.class_name)}",
            headings=_HEADINGS,
            rows=tuple(_rows(model, None)),
            notes=tuple((note,) for note in _notes(model)),
            words=frozenset(_HEADINGS),
        )
        for model in summary.models
    ]


def plan_document(model: TracedModel) -> dict[str, Json]:
    """The same as JSON values."""
    found: list[Json] = [
        {"stage": part.stage, "path": part.path, "how": part.how, "guess": part.guess} for part in model.stages
    ]
    return {"stages": found, "notes": list(model.notes)}


def _rows(model: TracedModel, detail: str | None) -> list[tuple[str, str, str]]:
    return [(branch + label, path, how) for branch, label, path, how in _branches(model.stages, detail)]


def _notes(model: TracedModel) -> list[str]:
    """What a guess is and how to mend it, then what discovery has to say."""
    guess = next((part for part in model.stages if part.guess), None)
    told = [f"note: {clean(note, _LONGEST_PATH)}" for note in model.notes]
    if guess is None:
        return told
    return [f"? a guess: confirm or correct it with --stage {clean(guess.stage)}=MODULE.PATH", *told]


def _branches(stages: Sequence[FoundStage], detail: str | None) -> list[tuple[str, str, str, str]]:
    """Branch, label, path and origin of every part, children behind their parents."""
    ranked = sorted(stages, key=lambda part: _ORDER.index(part.stage) if part.stage in _ORDER else len(_ORDER))
    present = {part.stage for part in ranked}
    tops = [part for part in ranked if _PARENTS.get(part.stage) not in present]
    rows = []
    for at, top in enumerate(tops):
        last = at == len(tops) - 1
        rows.append(_branch("└ " if last else "├ ", top, top.stage, detail))
        # Several parts of one stage (image and video features) share its children: they hang below the last of them.
        if not last and tops[at + 1].stage == top.stage:
            continue
        children = [part for part in ranked if _PARENTS.get(part.stage) == top.stage]
        for position, child in enumerate(children):
            trunk = "  " if last else "│ "
            branch = "└ " if position == len(children) - 1 else "├ "
            rows.append(_branch(trunk + branch, child, child.stage.rpartition(".")[2], detail))
    return rows


def _branch(branch: str, part: FoundStage, label: str, detail: str | None) -> tuple[str, str, str, str]:
    path = clean(part.path, _LONGEST_PATH) or "(the model itself)"
    how = clean(part.how, _LONGEST_PATH) + (" ?" if part.guess else "")
    needed = _SHOWN_FROM.get(part.stage, "stage")
    if detail in DETAILS and DETAILS.index(detail) < DETAILS.index(needed):
        how += f" (shown with --detail {needed})"
    return branch, clean(label), path, how
