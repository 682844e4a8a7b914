"""Facts: what really ran in a generation, told from the witness's logs of three runs that differ in image or text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tests.conformance.witness import Call, Log, witnessed
from tests.tiny.models import PICTURES, TinyModel

__all__ = ["Facts", "Sight", "forwards", "sight", "within"]


def within(path: str, outer: str) -> bool:
    return outer in ("", path) or path.startswith(f"{outer}.")


def forwards(log: Log) -> list[Call]:
    """The calls of the module whose token loop ran, made in that loop and not inside of one another."""
    ((path, begin, end),) = log.loops
    mine = [call for call in log.calls if call.path == path and begin <= call.begin and call.end <= end]
    return [call for call in mine if call.parent is None or not call.parent.inside(path)]


@dataclass(frozen=True, slots=True, eq=False)
class Sight:
    """Which calls saw the image, and which read the text: ``(path, how many of its calls came before)`` for each."""

    image: frozenset[tuple[str, int]]
    text: frozenset[tuple[str, int]]

    @staticmethod
    def among(log: Log, seen: frozenset[tuple[str, int]]) -> list[Call]:
        """The calls of ``log`` that are in ``seen``."""
        return [
            call for path, calls in log.by_path().items() for number, call in enumerate(calls) if (path, number) in seen
        ]


def sight(tiny: TinyModel, new_tokens: int) -> tuple[Tensor, Sight]:
    """The token ids of an unwatched generation, and what three watched ones say of the calls in it."""
    ids = tiny.generate(new_tokens)
    logs = [_logged(tiny, new_tokens, changed) for changed in ({}, _another_image(tiny), _another_text(tiny))]
    plain, image, text = ({path: [c.made for c in calls] for path, calls in log.by_path().items()} for log in logs)
    calls = [(path, number, numbers) for path, made in plain.items() for number, numbers in enumerate(made)]
    saw, read = (
        frozenset((path, number) for path, number, numbers in calls if _differs(other.get(path, ()), number, numbers))
        for other in (image, text)
    )
    return ids, Sight(saw, read)


def _differs(others: Sequence[tuple[int, ...]], number: int, numbers: tuple[int, ...]) -> bool:
    return number >= len(others) or others[number] != numbers


def _logged(tiny: TinyModel, new_tokens: int, changed: dict[str, Any]) -> Log:
    with witnessed(tiny.model) as log:
        tiny.generate(new_tokens, **changed)
    return log


def _another_image(tiny: TinyModel) -> dict[str, Any]:
    """The same places and sizes with other numbers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        changed = {name: torch.randn_like(tiny.inputs[name]) for name in PICTURES if name in tiny.inputs}
    if "flattened_patches" in changed:  # the first two numbers of each patch are its place
        changed["flattened_patches"][..., :2] = tiny.inputs["flattened_patches"][..., :2]
    return changed


def _another_text(tiny: TinyModel) -> dict[str, Any]:
    """Other words in the same places; where there are none, another beginning of the answer."""
    changed: dict[str, Any] = {}
    for name in ("input_ids", "qformer_input_ids"):
        if name in tiny.inputs:
            ids = tiny.inputs[name].clone()
            ids[ids == 5], ids[ids == 7] = 11, 13
            changed[name] = ids
    return changed or {"decoder_start_token_id": 13}


@dataclass(frozen=True, slots=True, eq=False)
class Facts:
    """What the witness saw in one generation.

    ``forwards`` are those of the model whose loop ran. ``seeing`` are the outermost calls with weights that saw the
    image alone, outside of the decoder blocks; ``looks`` all of them, inner ones too. ``asking`` are the calls that saw
    the image and words before any decoder block ran: a projector may read the question. ``reading`` are all
    others that read text. ``layers`` are the paths of the decoder blocks, ``head`` that of the output head.
    """

    log: Log
    forwards: list[Call]
    seeing: list[Call]
    looks: list[Call]
    asking: list[Call]
    reading: list[Call]
    layers: tuple[str, ...]
    head: str

    @classmethod
    def of(cls, model: Any, log: Log, seen: Sight) -> Facts:
        weights = {
            path: sum(parameter.numel() for parameter in module.parameters()) for path, module in model.named_modules()
        }
        found = forwards(log)
        families = _blocks(found)
        blocks = tuple(path for family in families for path in family)
        layers = tuple(max(families, key=lambda family: sum(weights[path] for path in family), default=()))
        looked = seen.among(log, seen.image - seen.text)
        # What also reads words (the embedding that a tokenised image shares with them) is no part that sees.
        reads = {call.path for call in seen.among(log, seen.text)}
        looks = [
            call
            for call in looked
            if weights[call.path] and call.path not in reads and not any(within(call.path, block) for block in blocks)
        ]
        own = set(map(id, looks))
        seeing = [call for call in looks if not any(id(outer) in own for outer in _around(call))]
        seeing.sort(key=lambda call: call.begin)
        first = min(call.begin for call in log.calls if call.path in layers)
        asking = [call for call in seen.among(log, seen.image & seen.text) if call.end < first]
        reading = [call for call in seen.among(log, seen.text) if call not in asking]
        return cls(log, found, seeing, looks, asking, reading, layers, _head(found, weights))

    def calls_of(self, *paths: str) -> list[Call]:
        return [call for call in self.log.calls if call.path in paths]


def _around(call: Call) -> Iterator[Call]:
    at = call.parent
    while at is not None:
        yield at
        at = at.parent


def _below(call: Call) -> Iterator[Call]:
    for child in call.children:
        yield child
        yield from _below(child)


def _blocks(found: Sequence[Call]) -> list[list[str]]:
    """The outermost families of numbered modules that ran in every forward: the decoder blocks and the like."""
    always = set.intersection(*({call.path for call in _below(one)} for one in found))
    order = {call.path: number for number, call in enumerate(_below(found[-1]))}
    families: dict[str, list[str]] = {}
    for path in sorted(always, key=order.__getitem__):
        family, _, name = path.rpartition(".")
        if name.isdecimal():
            families.setdefault(family, []).append(path)
    members = [path for family in families.values() for path in family]
    return [
        family
        for family in families.values()
        if not any(within(family[0], other) and family[0] != other for other in members)
    ]


def _head(found: Sequence[Call], weights: dict[str, int]) -> str:
    """The last leaf with weights in a forward that is as wide as its answer, the logits."""
    for call in reversed(list(_below(found[-1]))):
        if not call.children and weights[call.path] and call.width == found[-1].width and call.width > 0:
            return call.path
    return ""
