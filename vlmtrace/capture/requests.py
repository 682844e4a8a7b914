"""Requests: a generation together with the preprocessing before it and the detokenizing after it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from heapq import merge

from vlmtrace.timeline import names
from vlmtrace.timeline.assembly import Node

__all__ = ["requests"]


def requests(*voices: Iterator[tuple[int | None, Node]]) -> Iterator[tuple[int | None, Node]]:
    """The (device, node) roots of one thread, those that belong to one request under one ``request`` node.

    Those of each voice come in the order of their host times. No more than one request is taken in ahead.
    Only the last ``preprocess`` before a generation is known to be its own; one that is followed by another is not.
    """
    group: list[tuple[int | None, Node]] = []
    has_generate = False
    for device, node in merge(*voices, key=lambda item: (item[1].begin[1], item[1].end[1])):
        if node.name == names.PREPROCESS or (node.name == names.GENERATE and has_generate):
            yield from _request(group)
            group, has_generate = [(device, node)], node.name == names.GENERATE
        elif node.name == names.GENERATE:
            group.append((device, node))
            has_generate = True
        elif group and node.name == (names.DETOKENIZE if has_generate else names.H2D):
            group.append((device, node))
        else:
            yield device, node
    yield from _request(group)


def _request(group: Sequence[tuple[int | None, Node]]) -> Iterator[tuple[int | None, Node]]:
    generate = next(((device, node) for device, node in group if node.name == names.GENERATE), None)
    if generate is None or len(group) == 1:
        yield from group
        return
    nodes = [node for _, node in group]
    begin = min(node.begin for node in nodes)
    end = max(node.end for node in nodes)
    whole = Node(names.REQUEST, begin, end, children=nodes)
    whole.args["generation"] = generate[1].number
    yield generate[0], whole
