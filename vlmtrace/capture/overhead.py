"""Overhead: the same requests with and without tracing, in turn, to see from outside what it adds.

Untraced is as it would be without vlmtrace: no recorder, no hooks, no patches. Traced is timed as it is recorded:
``generate()`` with its marks; attaching comes before, and the wait that reads the device's times after.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import torch
from torch import nn

from vlmtrace.capture.clocks import monotonic_ns
from vlmtrace.capture.ended import Ended
from vlmtrace.capture.observed import Observed
from vlmtrace.capture.recorder import Recorder, RecorderOptions, execution_device
from vlmtrace.capture.samples import Sample
from vlmtrace.capture.workload import TRACED, UNTRACED, Asker, Progress, ask
from vlmtrace.errors import VlmtraceError
from vlmtrace.timeline.recording import WARMED, OverheadPair

__all__ = ["FEWEST_PAIRS", "Stopwatch", "measure_overhead", "pairs_for"]

FEWEST_PAIRS: Final = 10

T = TypeVar("T")


def pairs_for(repeats: int) -> int:
    """As many pairs as repeats, :data:`FEWEST_PAIRS` at least, and an even number: each order equally often."""
    pairs = max(FEWEST_PAIRS, repeats)
    return pairs + pairs % 2


class Stopwatch:
    """Times one call at a time by the host's clock, from an idle device to an idle device (a CUDA device's number)."""

    def __init__(self, device: int | None, now: Callable[[], int] = monotonic_ns) -> None:
        self._device = device
        self._now = now
        self._taken: list[int] = []

    def time(self, call: Callable[[], T]) -> T:
        """Make the call, and keep how long it took."""
        # Discovery and attachment leave garbage and a cold cache behind: with or without them, both begin alike.
        gc.collect()
        self._settle()
        begin = self._now()
        result = call()
        self._settle()
        self._taken.append(self._now() - begin)
        return result

    def lap(self) -> int:
        """Nanoseconds that the one call took which was timed since the last lap.

        Raises:
            VlmtraceError: it was not one.
        """
        taken, self._taken = self._taken, []
        if len(taken) != 1:
            raise VlmtraceError(
                f"a request made {len(taken)} calls of generate() that can be timed, not 1",
                "leave --measure-overhead out",
            )
        return taken[0]

    def _settle(self) -> None:
        if self._device is not None:
            torch.cuda.synchronize(self._device)


def measure_overhead(
    asker: Asker, requests: Sequence[tuple[Sample, ...]], options: RecorderOptions, pairs: int, progress: Progress
) -> tuple[OverheadPair, ...]:
    """Make ``pairs`` of ``requests``, taken in turn, twice each: untraced, traced, traced, untraced, and so on.

    One more pair comes first and is not kept: what has not run without tracing yet is not warm. No recorder may be
    running.

    Raises:
        VlmtraceError: a request failed, in one line, or is not one ``generate()`` that is traced.
    """
    watch = Stopwatch(execution_device(asker.model))
    recorder = _TimedRecorder(options, [asker.model], watch)
    recorder.role = WARMED  # to a tool that listens, they are none of the recording's timed generations

    def untraced(batch: tuple[Sample, ...]) -> int:
        ask(asker, batch, UNTRACED, around=watch.time)
        return watch.lap()

    def traced(batch: tuple[Sample, ...]) -> int:
        with recorder:
            ask(asker, batch, TRACED)
        return watch.lap()

    made: list[OverheadPair] = []
    try:
        for pair in range(-1, pairs):
            batch, at = requests[pair % len(requests)], 2 * pair + 2
            order = [(UNTRACED, untraced), (TRACED, traced)]
            took: dict[str, int] = {}
            for number, (role, run) in enumerate(order if pair % 2 == 0 else order[::-1], start=at):
                progress(number, 2 * pairs + 2, role)
                took[role] = run(batch)
            made.append(OverheadPair(took[UNTRACED], took[TRACED]))
    finally:
        # What it recorded is not wanted, and a request that failed may have left it incomplete: no finish().
        for lane in recorder.lanes.all:
            for voice in lane.voices.values():
                voice.tape.close()
    return tuple(made[1:])


class _TimedRecorder(Recorder):
    """A recorder with a stopwatch around what the marks of a generation enclose, these marks included."""

    def __init__(self, options: RecorderOptions, models: Sequence[nn.Module], watch: Stopwatch) -> None:
        super().__init__(options, models)
        self._watch = watch

    def _timed(self, ended: Ended, observed: Observed, call: Callable[[], Any]) -> Any:
        timed = super()._timed
        return self._watch.time(lambda: timed(ended, observed, call))
