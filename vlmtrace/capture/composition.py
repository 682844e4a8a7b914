"""Composition: what a Recorder gathered becomes a frozen, checked Recording."""

from __future__ import annotations

import gc
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice, pairwise
from operator import itemgetter
from typing import TYPE_CHECKING, Final

from vlmtrace.capture.calibration import Prices
from vlmtrace.capture.counters import with_counters
from vlmtrace.capture.ended import Ended
from vlmtrace.capture.memory import tell_peaks
from vlmtrace.capture.requests import requests
from vlmtrace.timeline import names
from vlmtrace.timeline.alignment import AffineMap, Constraints, Rate, fit_offset, fit_rate, tightest_marks
from vlmtrace.timeline.assembly import TRACK_OF, Node, forest, stage_tree
from vlmtrace.timeline.marks import POINT, UNRESOLVED
from vlmtrace.timeline.recording import Clock, Cost, Generation, Json, Recording, Track
from vlmtrace.timeline.spans import NONE, NewSpan, SpansBuilder
from vlmtrace.timeline.validation import validate

if TYPE_CHECKING:
    from vlmtrace.capture.lanes import Lane, Voice
    from vlmtrace.capture.recorder import Recorder

__all__ = ["compose"]


def compose(recorder: Recorder, environment: dict[str, Json], incomplete: str | None) -> Recording:
    """The Recording of everything that ``recorder`` gathered; its tapes are closed.

    Raises:
        InvalidRecordingError: if what was gathered contradicts itself.
    """
    with _without_collections():
        made = _Composer(recorder)
        for lane in recorder.lanes.all:
            made.add_lane(lane)
        made.add_disturbances()
        return made.recording(environment, incomplete)


@contextmanager
def _without_collections() -> Iterator[None]:
    """No garbage collections: the trees hold no cycles, and each collection would look through torch's modules anew."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


_FORWARDS: Final = (names.PREFILL, names.STEP)
_GENERATIONS: Final = (names.GENERATE, names.WARMUP)

_TOKEN: Final = POINT | names.KIND_OF[names.TOKEN]

_NEVER: Final = (0, -1, NONE)
"""The host bounds of no generation: before every other, and nothing lies within."""


class _Composer:
    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.ended = recorder.ended
        self.index_of = {id(ended): index for index, ended in enumerate(self.ended)}
        self.builder = SpansBuilder()
        self.tracks: dict[Track, int] = {}
        self.track_of: dict[tuple[int, int | None, str], int] = {}
        self.clocks: list[Clock] = []
        self.clock_of: dict[int, int] = {}
        self.generate_handle: dict[int, int] = {}
        self.marks = 0
        self.ranges = 0
        self.anchor_waits = 0
        self.path = "host clock"
        self.prices = Prices()

    def add_lane(self, lane: Lane) -> None:
        """Everything that one thread marked, one request after another: only one is a tree at a time."""
        for device, voice in lane.voices.items():
            self._settle(voice)
            self.marks += voice.tape.total
            self.ranges += 0 if voice.ranges is None else voice.ranges.count
            self.anchor_waits += voice.tape.anchor_waits
            if device is not None or self.prices == Prices():
                self.prices = voice.prices
                if voice.tape.clock is not None:
                    self.path = voice.tape.clock.path
        for device, node in requests(*(self._roots(device, voice) for device, voice in lane.voices.items())):
            self._add(lane, device, node)

    def add_disturbances(self) -> None:
        """On the host's row of their thread, each once, and of the generation that it fell into."""
        lanes = {lane.thread: lane for lane in self.recorder.lanes.all}
        bounds = {thread: [_NEVER] for thread in lanes}
        for lane in self.recorder.lanes.all:
            own = {id(voice) for voice in lane.voices.values()}
            bounds[lane.thread] += [self._host_bounds(ended) for ended in self.ended if id(ended.voice) in own]
        for known in bounds.values():
            known.sort()
        for seen in self.recorder.disturbances.seen:
            if seen.thread not in lanes:
                continue
            known = bounds[seen.thread]
            begin, end, index = known[bisect_right(known, seen.begin, key=itemgetter(0)) - 1]
            generation = index if begin <= seen.begin <= end else None
            track = self._track(lanes[seen.thread], None, seen.name)
            self.builder.add(NewSpan(seen.name, track, (seen.begin, seen.end), generation=generation, args=seen.args))

    def _host_ns(self, ended: Ended) -> int:
        """What was done in a generation × its price, and what was measured as it was done."""
        prices, codes = self.prices, ended.voice.tape.marks.code[ended.first : ended.last]
        counted = len(codes) * prices.mark_ns + codes.count(_TOKEN) * prices.token_ns
        if prices.range_ns:  # points have none
            counted += sum(0 <= code < POINT for code in codes) * prices.range_ns
        return counted + ended.reading_ns + ended.growing_ns

    def _host_bounds(self, ended: Ended) -> tuple[int, int, int]:
        """Host times of a generation's first and last mark, and its index; empty where it has no marks."""
        host = ended.voice.tape.marks.host
        index = self.index_of[id(ended)]
        return (host[ended.first], host[ended.last - 1], index) if ended.first < ended.last <= len(host) else _NEVER

    def _settle(self, voice: Voice) -> None:
        """Resolve what is left on a tape, and close it."""
        tape = voice.tape
        in_use = any(ended.was_cut for ended in self.ended if ended.voice is voice)
        if in_use:
            # Its thread goes on asking things of the device: there is no idle moment to resolve at.
            tape.lose()
        else:
            voice.anchor()
        tape.close(in_use=in_use)

    def _roots(self, device: int | None, voice: Voice) -> Iterator[tuple[int | None, Node]]:
        """The outermost spans of one voice, in order; each generation's boundaries have become its stages."""
        own = [ended for ended in self.ended if ended.voice is voice]
        ahead = iter(own)
        for root in forest(voice.tape.marks, self._positions(voice, own), self.recorder.texts.__getitem__):
            found = [node for node in root.walk(not_into=_GENERATIONS) if node.name in _GENERATIONS]
            for ended, node in zip(islice(ahead, len(found)), found, strict=True):
                node.name = names.GENERATE
                node.incomplete |= ended.error is not None
                node.number = self.index_of[id(ended)]
                stage_tree(node, self.recorder.options.detail)
                self._describe(ended, node)
            yield device, root
        if left := list(ahead):
            raise ValueError(f"{len(left)} generations have no marks")

    def _positions(self, voice: Voice, own: Sequence[Ended]) -> Iterable[int]:
        """Where this voice's device times lie on the axis, each by the map of the generation that its mark belongs to.

        A mark outside of generations goes with the next one, and after the last with the last.
        """
        tape = voice.tape
        device = tape.marks.device
        if tape.clock is None:
            return device
        rate = fit_rate(tape.anchors)
        maps = [self._fit(voice, ended, rate) for ended in own]
        if not maps:
            maps = [fit_offset(rate, 0, Constraints((), (), tape.anchors))]
        bounds = pairwise((0, *(ended.last for ended in own[:-1]), len(device)))
        return (
            at if at == UNRESOLVED else to_axis(at)
            for to_axis, (first, last) in zip(maps, bounds, strict=True)
            for at in device[first:last]
        )

    def _fit(self, voice: Voice, ended: Ended, rate: Rate) -> AffineMap:
        tape, marks = voice.tape, voice.tape.marks
        around = slice(max(0, ended.anchors - 2), ended.anchors)
        anchors = tape.anchors[around]
        chain = tape.anchor_chain_ns[around]
        own = [i for i in range(ended.first, ended.last) if marks.device[i] != UNRESOLVED]
        host, device = [marks.host[i] for i in own], [marks.device[i] for i in own]
        pivot = device[0] if own else anchors[0].device
        constraints = Constraints(
            [*zip(host[:1], device[:1], strict=True), *tightest_marks(host, device)],
            () if ended.wait is None or ended.wait[1] == UNRESOLVED else (ended.wait,),
            anchors,
            chain[-1] - chain[0],
        )
        fitted = fit_offset(rate, pivot, constraints)
        index = self.index_of[id(ended)]
        self.clock_of[index] = len(self.clocks)
        self.clocks.append(
            Clock(
                device=0 if ended.device is None else ended.device,
                generation=index,
                offset_ns=fitted.offset_ns,
                pivot_ns=fitted.pivot_ns,
                rate_ppb=fitted.rate_ppb,
                bound_ns=fitted.bound_ns,
                residual_ns=rate.residual_ns,
                chain_ns=constraints.chain_ns,
                widened_ns=fitted.widened_ns,
                anchors=tuple(anchors),
            )
        )
        return fitted

    def _describe(self, ended: Ended, generate: Node) -> None:
        """Arguments that only the generation as a whole tells: sequence lengths, image and token counts."""
        knows_cache = ended.uses_cache and ended.prompt_tokens > 0
        tokens = _number_tokens(generate, ended.prompt_tokens)
        _number_steps(generate, tokens, knows_cache)
        _count_proposals(generate, tokens, ended.proposed)
        if ended.error is not None:
            _mark_unfinished(generate, tokens)
        prefill = next((node for node in generate.children if node.name == names.PREFILL), None)
        if prefill is not None and knows_cache:
            prefill.args["kv"] = ended.prompt_tokens
        tell_peaks(generate, ended.readings, ended.voice.tape.marks)
        self._place(ended, generate)

    def _place(self, ended: Ended, generate: Node) -> None:
        """Module paths of what was numbered by discovery, and what a vision span looked at."""
        paths = self.recorder.plans.paths[ended.model]
        images = ended.inputs.get("images")
        for node in (child for branch in generate.branches() for child in branch.children):
            known = paths.get(node.name)
            if known is not None:
                number = max(0, node.number)
                node.number = NONE
                if number < len(known):
                    node.args["path"] = known[number]
            elif node.name == names.VISION and ended.visual_tokens:
                node.args["visual_tokens"] = ended.visual_tokens
                if isinstance(images, int):
                    node.args["images"] = images

    def _add(self, lane: Lane, device: int | None, root: Node) -> None:
        """Add a whole tree to the columns, parents first; it is taken apart on the way: not both are in memory."""
        builder = self.builder
        places: dict[tuple[int | None, str], tuple[int, int]] = {}
        open_levels: list[tuple[Iterator[Node], int, int, int | None]] = [(iter((root,)), NONE, NONE, device)]
        while open_levels:
            siblings, parent, generation, device = open_levels[-1]
            for node in siblings:
                name, number = node.name, node.number
                here = None if TRACK_OF.get(name) == "host" else device
                place = places.get((here, name))
                if place is None:
                    place = places[here, name] = builder.intern(name), self._track(lane, here, name)
                own = generation
                if name == names.GENERATE:
                    own, number = number, NONE
                    self.generate_handle[own] = len(builder)
                elif name == names.REQUEST:
                    own = node.args.pop("generation")  # type: ignore[assignment]
                (begin, host_begin), (end, host_end) = node.begin, node.end
                handle = builder.add_row(
                    (*place, parent, own, number, begin, end, host_begin, host_end, node.incomplete)
                )
                for key in node.args:
                    builder.set_arg(handle, key, node.args[key])
                if node.children:
                    open_levels.append((iter(node.children), handle, own, here))
                    node.children = []
                    break
            else:
                open_levels.pop()

    def _track(self, lane: Lane, device: int | None, name: str) -> int:
        known = self.track_of.get((id(lane), device, name))
        if known is None:
            kind = TRACK_OF.get(name, "spans")
            track = Track(kind, None if kind == "host" else device, lane.thread, lane.name)
            known = self.tracks.setdefault(track, len(self.tracks))
            self.track_of[id(lane), device, name] = known
        return known

    def recording(self, environment: dict[str, Json], incomplete: str | None) -> Recording:
        recorder = self.recorder
        spans, row_of = self.builder.freeze()
        generations = tuple(
            Generation(
                index=index,
                role=ended.role,
                model=ended.model,
                span=row_of[self.generate_handle[index]],
                clock=self.clock_of.get(index),
                mode=ended.mode,
                new_tokens=ended.new_tokens,
                inputs=ended.inputs,
                output=ended.output,
                tags=ended.tags,
                error=ended.error,
                device_state=ended.device_state,
            )
            for index, ended in enumerate(self.ended)
        )
        order = sorted(range(len(self.clocks)), key=lambda at: self.clocks[at].generation)
        place = {at: new for new, at in enumerate(order)}
        generations = tuple(replace(g, clock=None if g.clock is None else place[g.clock]) for g in generations)
        cost = Cost(
            path=self.path,
            marks=self.marks,
            ranges=self.ranges,
            waits=sum(ended.waits for ended in self.ended),
            anchor_waits=self.anchor_waits,
            mark_ns=self.prices.mark_ns,
            range_ns=self.prices.range_ns,
            token_ns=self.prices.token_ns,
            host_ns=tuple(self._host_ns(ended) for ended in self.ended),
        )
        random = recorder.random_weights
        sampler = recorder.sampler
        if sampler is not None:
            cost = replace(cost, samples=sampler.samples, sampling_ns=sampler.host_ns)
        made = Recording(
            name=recorder.options.name,
            detail=recorder.options.detail,
            origin_ns=recorder.origin[0],
            origin_unix_ns=recorder.origin[1],
            environment=environment,
            workload=recorder.workload | _how(recorder),
            models=tuple(replace(model, random_weights=random) for model in recorder.plans.models),
            generations=generations,
            tracks=tuple(self.tracks),
            spans=spans,
            counters=(),
            clocks=tuple(self.clocks[at] for at in order),
            cost=cost,
            incomplete=incomplete,
        )
        return validate(with_counters(made, self.ended, () if sampler is None else sampler.counters()))


def _how(recorder: Recorder) -> dict[str, Json]:
    """What is to be known of how it was recorded, where that was not in the usual way."""
    made: dict[str, Json] = {}
    if recorder.options.every > 1:
        made["every"] = recorder.options.every
    if recorder.sampler is not None and recorder.sampler.error is not None:
        made["gpu_sampling_ended"] = recorder.sampler.error
    if recorder.batching:
        made["continuous_batching"] = recorder.batching
    return made


def _number_tokens(generate: Node, prompt: int) -> list[Node]:
    """The token marks in order, numbered, with the length of the sequence and what was appended to it, if not one."""
    tokens: list[Node] = []
    length, prefills = prompt, 0
    for node in sorted(generate.children, key=lambda child: child.begin):
        if node.name == names.PREFILL:
            prefills += 1
            if prefills > 1:
                length = NONE  # another loop, with a prompt of its own
        elif node.name == names.TOKEN:
            if length >= 0 and node.number - length != 1:
                node.args["appended"] = node.number - length
            length = node.args["length"] = node.number
            node.number = len(tokens)
            tokens.append(node)
    return tokens


def _number_steps(generate: Node, tokens: Sequence[Node], knows_cache: bool) -> None:
    """Each step's tokens so far, and the length of its cache: the sequence as it stood at the token before it."""
    before = 0
    for step in (node for node in generate.walk(not_into=_FORWARDS) if node.name == names.STEP):
        while before < len(tokens) and tokens[before].begin[0] <= step.begin[0]:
            before += 1
        if knows_cache and before:
            step.args["kv"] = tokens[before - 1].args["length"]
        if tokens:
            step.args["tokens"] = before


def _count_proposals(generate: Node, tokens: Sequence[Node], proposed: Sequence[int]) -> None:
    """In assisted decoding: how many tokens each forward was to judge, and how many of these it let pass.

    ``proposed`` is one number for each forward in order, the prefill's included; a forward that accepted all but one
    of what was appended after it drew that one itself.
    """
    forwards = (node for node in generate.walk(not_into=_FORWARDS) if node.name in _FORWARDS)
    for forward, token, count in zip(forwards, tokens, proposed, strict=False):
        forward.args["proposed"] = count
        forward.args["accepted"] = int(token.args.get("appended", 1)) - 1


def _mark_unfinished(generate: Node, tokens: Sequence[Node]) -> None:
    """In a generation that was ended by an error, a forward that no token came of did not finish its work."""
    last = tokens[-1].begin[0] if tokens else generate.begin[0]
    for node in generate.walk():
        if node.name in (names.PREFILL, names.STEP, names.DECODE) and node.end[0] > last:
            node.incomplete = True
