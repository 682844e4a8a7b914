"""Ended generations: what is kept of each until the recording is composed."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import torch

from vlmtrace.capture import outcome
from vlmtrace.capture.cache_layout import CacheLayout, CacheLayouts
from vlmtrace.capture.memory import Reading
from vlmtrace.timeline.recording import Json
from vlmtrace.timeline.spans import NONE

if TYPE_CHECKING:
    from vlmtrace.capture.lanes import Voice
    from vlmtrace.capture.observed import Observed

__all__ = ["STILL_RUNNING", "Ended"]

STILL_RUNNING: Final = "still running when the recording ended"


@dataclass(slots=True, eq=False)
class Ended:
    """What is kept of a generation until the recording is composed. ``first`` and ``last`` bound its marks.

    ``readings`` are the allocator's at the borders of its stages, if they were asked for; ``reading_ns`` is how long
    those inside of it took on the host, ``growing_ns`` how long its tape took to grow. It is ``running`` until
    everything about it is known; ``settling`` is held while that is found out.
    """

    voice: Voice
    model: int
    role: str
    device: int | None
    first: int
    last: int = 0
    anchors: int = 0
    wait: tuple[int, int] | None = None
    waits: int = 0
    error: str | None = None
    mode: str = "eager"
    prompt_tokens: int = NONE
    visual_tokens: int = 0
    uses_cache: bool = True
    beams: int = 1
    proposed: tuple[int, ...] = ()
    inputs: dict[str, Json] = field(default_factory=dict)
    output: dict[str, Json] = field(default_factory=dict)
    tags: dict[str, Json] = field(default_factory=dict)
    device_state: dict[str, Json] = field(default_factory=dict)
    memory_before: Mapping[str, Json] = field(default_factory=dict)
    readings: Sequence[Reading] = ()
    reading_ns: int = 0
    growing_ns: int = 0
    cache: CacheLayout | None = None
    new_tokens: tuple[int, ...] = ()
    running: bool = True
    was_cut: bool = False
    settling: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def noting_errors(self) -> Iterator[None]:
        """Keep the first error that passes through as this generation's."""
        try:
            yield
        except BaseException as error:
            self.error = self.error or f"{type(error).__name__}: {error}".strip().rstrip(":")
            raise

    def cut(self) -> None:
        """The recording ends. If the generation has not, it stays as it is, and says so."""
        with self.settling:
            if self.running:
                self.running = False
                self.error = self.error or STILL_RUNNING
                self.last = self.voice.tape.written
                self.was_cut = True

    def observe(self, observed: Observed, inputs: dict[str, Json], layouts: CacheLayouts) -> None:
        """Take over what the wraps saw on the host."""
        config = observed.generation_config
        self.mode = observed.mode
        self.prompt_tokens = observed.prompt_tokens
        self.visual_tokens = observed.visual_tokens or observed.projected_tokens
        self.uses_cache = getattr(config, "use_cache", None) is not False
        self.proposed = tuple(observed.proposed)
        self.beams = getattr(config, "num_beams", None) or 1
        self.cache, observed.cache = layouts.of(self.model, observed.cache), None
        meter = self.voice.meter
        if meter is not None:
            self.readings, self.reading_ns = meter.readings, meter.host_ns
        self.inputs = inputs
        if observed.prompt_tokens > 0:
            self.inputs["prompt_tokens"] = observed.prompt_tokens
        if self.visual_tokens:
            self.inputs["visual_tokens"] = self.visual_tokens
        if self.beams > 1:
            self.inputs["beams"] = self.beams
        if not self.uses_cache:
            self.inputs["use_cache"] = False

    def own_peak(self) -> dict[str, Json]:
        """The allocator's peak in this generation alone; empty where that was not asked for."""
        return {"peak_bytes": max(one.peak for one in self.readings[1:])} if len(self.readings) > 1 else {}

    def count(self, answers: Sequence[tuple[int, torch.Tensor]], ends: frozenset[int]) -> None:
        """Count each sequence's new tokens, over all loops.

        ``answers`` are (prompt length, token ids); the ids have shape (sequences, prompt + new), on the host. Where
        loops answer different numbers of sequences, or the prompt's length is unknown, nothing is counted.
        """
        if not answers or any(prompt == NONE for prompt, _ in answers):
            return
        loops = [ids[:, prompt:].tolist() for prompt, ids in answers]
        if len({len(rows) for rows in loops}) == 1:
            counts = [outcome.count_until_end(rows, ends) for rows in loops]
            self.new_tokens = tuple(sum(column) for column in zip(*counts, strict=True))
        self.output |= outcome.output_of([row for rows in loops for row in rows])
