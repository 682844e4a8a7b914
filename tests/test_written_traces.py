"""The check of what tests write finds what it should, and takes offence at nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.synthetic import recording
from tests.written_traces import check_written_traces, written_traces
from vlmtrace import formats


def written(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(formats.write(recording(), formats.format_of(path))))
    return path


@pytest.mark.parametrize("suffix", formats.FORMATS)
def test_a_trace_anywhere_below_the_folder_is_found_and_clean(tmp_path: Path, suffix: str) -> None:
    path = written(tmp_path / "deep" / f"inside{suffix}")
    assert [found for found, _ in written_traces(tmp_path)] == [path]
    check_written_traces(tmp_path)


def test_a_slice_that_vlmtrace_does_not_read_and_perfetto_shows_is_told(tmp_path: Path) -> None:
    path = written(tmp_path / "more.json")
    extra = '{"ph":"X","dur":1.000,"pid":1,"tid":9,"ts":1.000,"cat":"derived","name":"ghost","args":{}},\n'
    before, opening, after = path.read_text().partition('"traceEvents":[\n')
    path.write_text(before + opening + extra + after)
    assert formats.read(path) == recording()
    with pytest.raises(AssertionError, match=r"(?s)in more\.json .*ghost"):
        check_written_traces(tmp_path)
    path.unlink()


def test_damaged_traces_and_other_peoples_json_are_left_alone(tmp_path: Path) -> None:
    path = written(tmp_path / "half.pftrace")
    path.write_bytes(path.read_bytes()[:-100])
    (tmp_path / "config.json").write_text('{"model_type": "llava"}')
    (tmp_path / "empty.json").touch()
    assert list(written_traces(tmp_path)) == []
