"""The sections of docs/performance.md, made from the raw data of the benchmarks of a million spans and kernels."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import million_kernels
import million_spans
from markdown_table import table
from million_spans import MB

DATA: Final = Path(__file__).resolve().parents[1] / "docs" / "data" / "cpu-2026-11-29"

CLOCKS: Final = {"host": "million_spans.json", "device": "million_spans-device.json"}


def _run(name: str) -> dict[str, Any]:
    made: dict[str, Any] = json.loads((DATA / name).read_text())
    return made


def _machine(made: Mapping[str, Any]) -> str:
    one = made["machine"]
    return f"{one['cores']} cores ({one['cpu']}), Python {one['python']}, {one['date']}"


def _growth(rows: list[dict[str, Any]], count: str, load: str) -> str:
    """How elapsed times grew over the last step of sizes, beside what there was more of."""
    small, large = rows[-2:]
    worked = sum(large["seconds"].values()) / sum(small["seconds"].values())
    return (
        f"from {small[count]:,} to {large[count]:,} there are {large[count] / small[count]:.1f} times as many {count}; "
        f"the sum of the seconds is {worked:.1f} times as large, and loading takes {large[load] / small[load]:.1f} "
        "times as long"
    )


def span_seconds() -> str:
    def row(clock: str, one: Mapping[str, Any]) -> Iterator[str]:
        yield clock
        yield f"{one['spans']:,}"
        yield from (f"{one['seconds'][phase]:.2f}" for phase in million_spans.PHASES)
        yield f"{sum(one['seconds'].values()):.2f}"
        yield f"{one['load_seconds']:.2f}"

    runs = {clock: _run(name) for clock, name in CLOCKS.items()}
    head = ("Clock", "Spans", *(phase.capitalize() for phase in million_spans.PHASES), "Sum", "Load")
    rows = [row(clock, one) for clock, made in runs.items() for one in made["rows"]]
    grown = " ".join(
        f"On the {clock}'s clock: {_growth(m['rows'], 'spans', 'load_seconds')}." for clock, m in runs.items()
    )
    return f"{_machine(runs['host'])}. Seconds:\n\n{table(head, rows)}\n\n{grown}"


def span_memory() -> str:
    def row(clock: str, one: Mapping[str, Any]) -> Iterator[str]:
        yield clock
        yield f"{one['spans']:,}"
        for key in ("record_peak_mb", "load_peak_mb", "bytes_per_span_marked", "bytes_per_span_recorded"):
            yield f"{one[key]:.0f}"
        yield f"{one['file_bytes'] / one['spans']:.0f}"

    head = ("Clock", "Spans", "Peak, recording, MB", "Peak, loading, MB", "Bytes a span, marked", "recorded", "on disk")
    return table(head, (row(clock, one) for clock, name in CLOCKS.items() for one in _run(name)["rows"]))


def span_import() -> str:
    def row(clock: str, one: Mapping[str, Any]) -> Iterator[str]:
        yield clock
        yield f"{one['spans']:,}"
        yield f"{one['imported_slices']:,}"
        yield "yes" if not one["problems"] else "**no**"
        yield f"{one['import_seconds']:.2f}"
        yield f"{one['compare_seconds']:.2f}"
        yield f"{one['check_peak_mb']:,.0f}"

    head = ("Clock", "Spans", "Slices in Perfetto", "All as recorded", "Import, s", "Compare, s", "Peak, MB")
    return table(head, (row(clock, one) for clock, name in CLOCKS.items() for one in _run(name)["rows"]))


def kernels() -> str:
    def row(one: Mapping[str, Any]) -> Iterator[str]:
        yield f"{one['kernels']:,}"
        yield f"{one['report_bytes'] / MB:.0f}"
        for phase in million_kernels.PHASES:
            yield f"{one['seconds'][phase]:.2f}"
        yield f"{one['load_seconds']:.2f}"
        yield f"{one['pair_peak_mb']:.0f}"
        yield f"{one['load_peak_mb']:.0f}"
        yield f"{one['file_bytes'] / one['kernels']:.0f}"

    made = _run("million_kernels.json")
    head = (
        "Kernels",
        "Report, MB",
        "Pair, s",
        "Summarise, s",
        "Save, s",
        "Load, s",
        "Peak, pairing, MB",
        "Peak, loading, MB",
    )
    grown = _growth(made["rows"], "kernels", "load_seconds").capitalize()
    return f"{_machine(made)}.\n\n{table((*head, 'Bytes a kernel, on disk'), map(row, made['rows']))}\n\n{grown}."


SECTIONS: Final[Mapping[str, Callable[[], str]]] = {
    "million-spans-seconds": span_seconds,
    "million-spans-memory": span_memory,
    "million-spans-import": span_import,
    "million-kernels": kernels,
}
