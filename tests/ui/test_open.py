"""``vlmtrace open --offline`` shows a trace in a real browser, with nothing from anywhere else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.synthetic import recording
from tests.ui.perfetto_ui import show
from tests.ui.test_perfetto_ui import assert_sound, written

pytestmark = pytest.mark.ui

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["run.pftrace", "a b&c#d%é.pftrace", "run.json.gz"])
def test_the_ui_of_this_machine_shows_the_trace_and_asks_nobody_else(tmp_path: Path, name: str) -> None:
    trace = written(recording(), tmp_path / name)
    command = [sys.executable, "-m", "vlmtrace", "open", "--offline", "--print-url", "-q", str(trace)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        try:
            shown = show(process.stdout.readline().strip(), f"open-{trace.suffix[1:]}.png", "--expand")
        finally:
            process.send_signal(signal.SIGINT)
    assert process.returncode == 0
    assert_sound(shown)
    assert shown.elsewhere == ()
    assert [row for _, row in shown.tree if "Stages" in row]
