"""Assembly: the marks of a tape become the tree of stages. Pure: integers in, spans out.

While the model runs only boundaries are written: forwards, encoder and projector calls, feature calls, tokens. What
they mean together is decided here, once: which encoder calls form a vision span, which forwards are chunks of one
prefill, where decode begins and ends, and how the rest of ``generate`` is named. Neighbours share marks, so that parts
add up to their whole exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from vlmtrace.timeline import names
from vlmtrace.timeline.marks import POINT, UNRESOLVED, Marks
from vlmtrace.timeline.spans import NONE

__all__ = ["TRACK_OF", "Node", "forest", "stage_tree"]

Mark = tuple[int, int]
"""(axis, host), both in ns."""

TRACK_OF: Final = {
    names.REQUEST: "generations",
    names.GENERATE: "generations",
    names.VISION: "stages",
    names.PREFILL: "stages",
    names.DECODE: "stages",
    names.H2D: "stages",
    **dict.fromkeys(names.OTHER_PARTS, "stages"),
    names.STEP: "steps",
    names.GAP: "steps",
    names.PREFILL_CHUNK: "steps",
    names.ENCODER: "modules",
    names.PROJECTOR: "modules",
    names.MERGE: "modules",
    names.LM_HEAD: "modules",
    names.LAYER: "layers",
    names.VISION_LAYER: "layers",
    names.TOKEN: "tokens",
    names.DRAFT: "drafts",
    names.PREPROCESS: "host",
    names.DETOKENIZE: "host",
    names.WAIT: "host",
    names.GC: "host",
    names.COMPILE: "host",
    names.CAPTURE: "host",
}
"""The kind of row that each stage lies on; what is named here by none is a user's span."""

_FORWARDS: Final = frozenset((names.PREFILL, names.STEP))
_STAGES: Final = frozenset(names.KINDS) - {names.DRAFT}
_LOOSE_VISION: Final = frozenset((names.ENCODER, names.PROJECTOR))
_LOOKS: Final = frozenset((names.VISION, names.ENCODER))
_SEES: Final = _LOOKS | _LOOSE_VISION


@dataclass(slots=True)
class Node:
    """A span in the making. ``begin`` and ``end`` are (axis, host); ``number`` as the mark carried it."""

    name: str
    begin: Mark
    end: Mark
    number: int = NONE
    incomplete: bool = False
    children: list[Node] = field(default_factory=list)
    args: dict[str, int | str] = field(default_factory=dict)

    def walk(self, not_into: Collection[str] = ()) -> Iterator[Node]:
        """This node and all below it, parents first; nothing of what lies below nodes named in ``not_into``."""
        stack = [self]
        while stack:
            node = stack.pop()
            yield node
            if node.children and node.name not in not_into:
                stack.extend(reversed(node.children))

    def branches(self) -> Iterator[Node]:
        """This node and those below it that have children, parents first: few of many."""
        stack = [self]
        while stack:
            node = stack.pop()
            yield node
            stack.extend([child for child in reversed(node.children) if child.children])


def forest(marks: Marks, positions: Iterable[int], text: Callable[[int], str]) -> Iterator[Node]:
    """The marks of one thread, nested as they were entered and left: each outermost span as soon as it is whole.

    ``positions`` are where each mark's device time lies on the axis, in ns; ``text`` names a kind. A mark that the
    device never reached (:data:`UNRESOLVED`) takes its host time, and its span is incomplete. So is a span that was
    never left, or left out of turn: it ends where its parent does.
    """
    open_nodes: list[tuple[int, Node]] = []
    latest = 0
    for code, number, host, position in zip(marks.code, marks.number, marks.host, positions, strict=True):
        lost = position == UNRESOLVED
        # A time that stands in for a lost one must not run backwards against its neighbours.
        latest = max(latest, host if lost else position)
        at = (latest, host)
        if code < 0:
            if open_nodes:
                outermost = open_nodes[0][1]
                _close(open_nodes, ~code, at, lost)
                if not open_nodes:
                    yield outermost
            continue
        kind = code & ~POINT
        node = Node(text(kind), at, at, number, lost)
        if open_nodes:
            open_nodes[-1][1].children.append(node)
        if code == kind:
            open_nodes.append((kind, node))
        elif not open_nodes:
            yield node
    if open_nodes:
        last = (latest, marks.host[-1])
        for _, node in open_nodes:
            node.end, node.incomplete = last, True
        yield open_nodes[0][1]


def _close(open_nodes: list[tuple[int, Node]], kind: int, at: Mark, lost: bool) -> None:
    open_kind, node = open_nodes[-1]
    if open_kind != kind and all(open_kind != kind for open_kind, _ in open_nodes):
        return
    while True:
        open_kind, node = open_nodes.pop()
        node.end = at
        if open_kind == kind:
            node.incomplete |= lost
            return
        node.incomplete = True


def stage_tree(generate: Node, detail: str) -> Node:
    """The stages of one generation, from its raw boundaries; ``generate`` is rebuilt in place and answered.

    ``detail`` is ``stage``, ``module`` or ``layer``; what is finer is used (an encoder's exit) and then left out.
    """
    raw = list(_hoisted(generate.children))
    generate.children = [node for node in raw if node.name in _STAGES]
    mine = [node for node in raw if node.name not in _STAGES]
    _drop_idle_projectors(generate)
    _join_vision(generate)
    for node in generate.children:
        if node.name in _FORWARDS:
            inside = {child.name for child in node.children}
            if inside & _LOOSE_VISION:
                _join_vision(node)
            if names.MERGE in inside:
                _merge_span(node)
    tokens = [node for node in generate.children if node.name == names.TOKEN]
    tiles = _with_rest(generate, list(_runs(generate.children)), tokens)
    generate.children = tiles + [node for node in mine if not _adopt(tiles, node)]
    _note_encoder_exit(generate)
    if finer := _FINER[detail]:
        _prune(generate, finer)
    generate.children.extend(tokens)
    return generate


def _hoisted(children: Sequence[Node]) -> Iterator[Node]:
    """A user's span does not hide the stages inside it: they belong to the generation beside it."""
    for node in children:
        yield node
        if node.name not in names.KIND_OF:
            inner = list(_hoisted(node.children))
            node.children = [child for child in inner if child.name not in _STAGES]
            yield from (child for child in inner if child.name in _STAGES)


def _drop_idle_projectors(generate: Node) -> None:
    """Leave out projector calls that saw no image: of a projector that a feature call runs, or before any encoder ran.

    Gemma 3n asks its projector for the embeddings of its image tokens in every forward, with an image or without one.
    """
    parents = (generate, *(node for node in generate.children if node.name in _FORWARDS))
    if not any(node.name == names.PROJECTOR for parent in parents for node in parent.children):
        return
    features = [node for parent in parents for node in parent.children if node.name == names.VISION]
    featured = {inner.number for node in features for inner in node.walk() if inner.name == names.PROJECTOR}
    looked = False

    def kept(children: Sequence[Node]) -> Iterator[Node]:
        nonlocal looked
        for node in children:
            looked = looked or node.name in _LOOKS
            if node.name in _FORWARDS and any(inner.name in _SEES for inner in node.children):
                node.children = list(kept(node.children))
            if node.name != names.PROJECTOR or (looked and node.number not in featured):
                yield node

    generate.children = list(kept(generate.children))


def _join_vision(parent: Node) -> None:
    """Encoder and projector calls outside a feature call form ``vision`` spans; neighbours join."""
    children: list[Node] = []
    joined: Node | None = None
    for node in parent.children:
        if node.name in _LOOSE_VISION:
            if joined is None:
                joined = Node(names.VISION, node.begin, node.end)
                children.append(joined)
            joined.end = node.end
            joined.incomplete |= node.incomplete
            joined.children.append(node)
            continue
        if node.name != names.TOKEN:
            joined = None
        children.append(node)
    parent.children = children


def _merge_span(forward: Node) -> None:
    """In a prefill, from its entry (or the end of a vision inside it) to the language model's entry."""
    begin = forward.begin
    for node in forward.children:
        if node.name == names.VISION:
            begin = node.end
        elif node.name == names.MERGE:
            node.begin, node.end = begin, node.end
    if forward.name != names.PREFILL:
        forward.children = [node for node in forward.children if node.name != names.MERGE]


def _runs(children: Sequence[Node]) -> Iterator[Node]:
    """Neighbouring prefill forwards are the chunks of one prefill, neighbouring steps one decode.

    A token ends a prefill: what comes after it is another one. What lies between two forwards of a run is inside it.
    """
    run: list[Node] = []
    between: list[Node] = []
    kind = ""
    for node in children:
        if node.name == names.TOKEN:
            kind = "" if kind == names.PREFILL else kind
        elif node.name == names.VISION:
            between.append(node)
        elif node.name not in _FORWARDS:
            continue  # a layer or head called outside of any forward of the generating model
        elif node.name == kind:
            run += [*between, node]
            between = []
        else:
            yield from _closed(run)
            yield from between
            run, between, kind = [node], [], node.name
    yield from _closed(run)
    yield from between


def _closed(run: Sequence[Node]) -> Iterator[Node]:
    if run:
        yield _prefill(run) if run[0].name == names.PREFILL else _decode(run)


def _prefill(run: Sequence[Node]) -> Node:
    """One prefill, from the first chunk's entry to the last one's logits."""
    first = run[0]
    chunks = [node for node in run if node.name == names.PREFILL]
    known = all(chunk.number != NONE for chunk in chunks)
    args: dict[str, int | str] = {"input_tokens": sum(chunk.number for chunk in chunks)} if known else {}
    if len(run) == 1:
        first.number = NONE
        first.args.update(args)
        return first
    for number, chunk in enumerate(chunks):
        chunk.name, chunk.number = names.PREFILL_CHUNK, number
    incomplete = any(chunk.incomplete for chunk in chunks)
    return Node(names.PREFILL, first.begin, run[-1].end, NONE, incomplete, list(run), args)


def _decode(run: Sequence[Node]) -> Node:
    """One decode, from the first step's entry to the last one's logits; what lies between two steps is a gap."""
    decode = Node(names.DECODE, run[0].begin, run[-1].end)
    before: Node | None = None
    inside: list[Node] = []
    number = 0
    for node in run:
        if node.name != names.STEP:
            inside.append(node)
            continue
        if before is not None:
            decode.children.append(Node(names.GAP, before.end, node.begin, number - 1, children=inside))
            inside = []
        node.number = number
        decode.children.append(node)
        decode.incomplete |= node.incomplete
        before, number = node, number + 1
    return decode


def _with_rest(generate: Node, tiles: Sequence[Node], tokens: Sequence[Node]) -> list[Node]:
    """What lies between the stages, named by where it lies, so that ``generate`` is tiled without a hole."""
    whole: list[Node] = []
    at = generate.begin
    before: Node | None = None
    for node in tiles:
        if before is None:
            name = names.OTHER_SETUP
        elif node.name == names.DECODE and before.name == names.PREFILL:
            name = names.OTHER_FIRST_TOKEN
        else:
            name = names.OTHER_BETWEEN
        whole.append(Node(name, at, node.begin))
        whole.append(node)
        at, before = node.end, node
    if before is None:
        whole.append(Node(names.OTHER_SETUP, at, generate.end))
        return whole
    if before.name == names.PREFILL and tokens and at[0] <= tokens[0].begin[0] <= generate.end[0]:
        whole.append(Node(names.OTHER_FIRST_TOKEN, at, tokens[0].begin))
        at = tokens[0].begin
    whole.append(Node(names.OTHER_TAIL, at, generate.end))
    return whole


def _within(node: Node, other: Node) -> bool:
    return other.begin[0] <= node.begin[0] and node.end[0] <= other.end[0]


def _adopt(tiles: Sequence[Node], node: Node) -> bool:
    """Give a user's span to the innermost tile that it lies in, if it lies in one."""
    for tile in tiles:
        if _within(node, tile):
            inner = tile.children if tile.name == names.DECODE else []
            next((t for t in inner if _within(node, t)), tile).children.append(node)
            return True
    return False


def _note_encoder_exit(generate: Node) -> None:
    """On each vision, how long it took up to the encoder's exit, and how far the device was behind the host there.

    Some models wait for the device right after it, still inside the stage: only this tells who waited for whom before.
    """
    for node in generate.branches():
        if node.name == names.VISION:
            ends = [child.end for child in node.walk() if child.name == names.ENCODER]
            if ends:
                at, host = ends[-1]
                node.args["encoder_ns"], node.args["encoder_lead_ns"] = at - node.begin[0], at - host


_FINER: Final = {
    "stage": frozenset((names.ENCODER, names.PROJECTOR, names.MERGE, names.LM_HEAD, names.LAYER, names.VISION_LAYER)),
    "module": frozenset((names.LAYER, names.VISION_LAYER)),
    "layer": frozenset[str](),
}


def _prune(parent: Node, finer: frozenset[str]) -> None:
    for node in parent.branches():
        if any(child.name in finer for child in node.children):
            node.children = list(_kept(node.children, finer))


def _kept(children: Sequence[Node], finer: frozenset[str]) -> Iterator[Node]:
    for node in children:
        if node.name in finer:
            yield from _kept(node.children, finer)
        else:
            yield node
