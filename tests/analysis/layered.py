"""Synthetic recordings with layers: what ``--detail layer`` might have seen."""

from __future__ import annotations

from dataclasses import replace

from tests.analysis.altered import rebuilt
from tests.synthetic import Shape, recording
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import Recording, Track
from vlmtrace.timeline.spans import NewSpan

__all__ = ["layered"]

_LAYER_OF = {names.VISION: names.VISION_LAYER, names.PREFILL: names.LAYER, names.STEP: names.LAYER}


def layered(*shapes: Shape, layers: int = 3, every: int = 1) -> Recording:
    """A recording whose visions, prefills and one in ``every`` steps are made of layers of one length each."""
    made = recording(*shapes, detail="layer")
    track = len(made.tracks)
    made = replace(made, tracks=(*made.tracks, Track("layers", 0, 4711, "MainThread")))
    inside = {vision.parent: vision.end for vision in made.spans.named(names.VISION)}
    spans = []
    for span in made.spans:
        if span.name not in _LAYER_OF or (span.name == names.STEP and (span.number or 0) % every):
            continue
        begin = inside.get(span.row, span.begin)
        each = (span.end - begin) // layers
        for number in range(layers):
            axis = (begin + number * each, begin + (number + 1) * each)
            layer = _LAYER_OF[span.name]
            spans.append(NewSpan(layer, track, axis, axis, span.row, span.generation, number))
    return rebuilt(made, more=tuple(spans))
