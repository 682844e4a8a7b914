"""The benchmark of a million kernels, at five thousand: what it says is so. How fast it was is not tested."""

from __future__ import annotations

import sqlite3
import sys
from argparse import Namespace
from contextlib import closing
from pathlib import Path

import pytest

import vlmtrace

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import million_kernels


@pytest.mark.parametrize("layers", [0, 28])
def test_the_report_has_as_many_kernels_as_asked_for_and_the_trace_is_its_own(layers: int, tmp_path: Path) -> None:
    made = million_kernels.make_part(Namespace(sizes=[5_000], layers=layers, folder=tmp_path))
    with closing(sqlite3.connect(tmp_path / "report.sqlite")) as db:
        kernels, calls, ranges = (
            db.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0]
            for table in ("CUPTI_ACTIVITY_KIND_KERNEL", "CUPTI_ACTIVITY_KIND_RUNTIME", "NVTX_EVENTS")
        )
        steps = "SELECT COUNT(*) FROM NVTX_EVENTS n JOIN StringIds s ON s.id = n.textId WHERE s.value = 'decode.step'"
        (stepped,) = db.execute(steps).fetchone()
    assert (made["kernels"], made["calls"], made["ranges"]) == (kernels, calls, ranges)
    assert 5_000 <= kernels < 5_000 + million_kernels.FORWARD
    recording = vlmtrace.load(tmp_path / "trace.pftrace")
    assert len(recording.spans) == made["spans"]
    assert len(list(recording.spans.named("decode.step"))) == stepped == 3
    assert len(list(recording.spans.named("layer"))) == 4 * layers


def test_what_was_paired_is_written_and_every_phase_is_in_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a stand-in for the pairing, which answers the trace as it is."""
    options = Namespace(sizes=[2_000], layers=0, folder=tmp_path)
    asked = []
    monkeypatch.setattr(million_kernels, "paired", lambda trace, report: asked.append(report) or vlmtrace.load(trace))
    row = {}
    for part in million_kernels.PARTS.values():
        row |= part(options)
    assert asked == [tmp_path / "report.sqlite"]
    assert vlmtrace.load(tmp_path / "paired.pftrace") == vlmtrace.load(tmp_path / "trace.pftrace")
    text = million_kernels.table([row])
    heads, _, line = ([cell.strip() for cell in one.strip("|").split("|")] for one in text.splitlines())
    assert len(heads) == len(line)
    cells = dict(zip(heads, line, strict=True))
    assert cells["Kernels"] == f"{row['kernels']:,}"
    assert set(row["seconds"]) == set(row["processor_seconds"]) == set(million_kernels.PHASES)
    assert float(cells["Sum"]) == pytest.approx(sum(row["seconds"].values()), abs=0.01)
    assert cells["Same when loaded"] == "yes"
    assert row["pair_peak_mb"] >= row["start_mb"] > 0
