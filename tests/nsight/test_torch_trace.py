"""torch.profiler's trace read as a report: each operation beside the call that launched it, times exact."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.nsight.torch_events import PROCESS, called, copied, kernel, ranged, written
from vlmtrace.errors import VlmtraceError
from vlmtrace.nsight import torch_trace
from vlmtrace.nsight.report import COPY, KERNEL, SET, Report, process_of, thread_of, tid_of
from vlmtrace.nsight.torch_trace import report_of, short_name
from vlmtrace.timeline import names
from vlmtrace.timeline.spans import NONE

TID = 4711
LONG = "void at::native::vectorized_elementwise_kernel<4, at::native::FillFunctor<float>, char*>(int, float)"


def told(report: Report, row: int, column: str) -> str | None:
    at = getattr(report.work, column)[row]
    return None if at == NONE else report.strings[at]


def test_each_operation_stands_beside_the_call_that_launched_it() -> None:
    report = report_of(
        [
            kernel(LONG, 9_001, 9_977, correlation=5),
            called("cudaLaunchKernel", 1_000, 2_345, TID, correlation=5),
            copied("Memcpy HtoD (Pageable -> Device)", 10_000, 11_000, correlation=6, size=4096),
            copied("Memset (Device)", 12_000, 12_500, correlation=7, size=64),
            called("cudaMemcpyAsync", 2_500, 2_900, TID + 1, correlation=6),
        ],
        "2.13.0",
    )

    work = report.work
    assert list(work.kind) == [KERNEL, COPY, SET]
    assert list(zip(work.start, work.end, strict=True)) == [(9_001, 9_977), (10_000, 11_000), (12_000, 12_500)]
    assert list(work.call_start) == [1_000, 2_500, NONE]
    assert list(work.call_end) == [2_345, 2_900, NONE]
    assert list(work.thread) == [thread_of(PROCESS, TID), thread_of(PROCESS, TID + 1), NONE]
    assert [told(report, row, "call") for row in range(3)] == ["cudaLaunchKernel", "cudaMemcpyAsync", None]
    assert [told(report, row, "name") for row in range(3)] == [
        "vectorized_elementwise_kernel",
        "Memcpy HtoD",
        "Memset",
    ]
    assert [told(report, row, "full") for row in range(3)] == [LONG, None, None]
    assert (told(report, 0, "grid"), told(report, 0, "block"), told(report, 1, "grid")) == ("64×1×1", "128×1×1", None)
    assert list(work.size) == [NONE, 4096, 64]
    assert (list(work.device), list(work.stream)) == ([0, 0, 0], [7, 7, 7])
    assert (report.tool, report.product) == ("torch.profiler", "2.13.0")


def test_of_two_calls_with_one_number_the_outer_one_launched_it() -> None:
    for order in (1, -1):
        calls = [
            called("cudaLaunchKernelExC", 1_000, 5_000, TID, correlation=5),
            called("cuLaunchKernelEx", 2_000, 4_000, TID, correlation=5, cat="cuda_driver"),
        ]
        report = report_of([*calls[::order], kernel("gemm", 9_000, 9_100, correlation=5)], "2")
        assert (told(report, 0, "call"), report.work.call_start[0]) == ("cudaLaunchKernelExC", 1_000)


def test_only_our_ranges_are_ranges_and_the_outer_one_comes_first() -> None:
    report = report_of(
        [
            ranged(names.STEP, 100, 200, TID, number=0),
            ranged("a:b\n√", 120, 150, TID),
            ranged(names.GENERATE, 100, 900, TID),
            kernel(names.in_profile(names.STEP), 120, 150, 1),
            ranged("x", 1, 2, TID) | {"name": "aten::add"},
            ranged("x", 1, 2, TID) | {"name": "vlmtrace:x:y"},
        ],
        "2",
    )

    assert report.ranges.name == (names.GENERATE, names.STEP, "a:b\n√")
    assert list(report.ranges.number) == [NONE, 0, NONE]
    assert list(report.ranges.end) == [900, 200, 150]
    assert {tid_of(thread) for thread in report.ranges.thread} == {TID}
    assert {process_of(thread) for thread in report.ranges.thread} == {thread_of(PROCESS, 0)}


def test_the_calls_that_record_an_event_are_marks_in_order() -> None:
    calls = [
        called("cudaEventRecord", 500, 600, TID, 1),
        called("cudaEventRecordWithFlags", 300, 400, TID, 2),
        called("cudaEventQuery", 100, 200, TID, 3),
    ]
    assert list(report_of(calls, "2").marks.start) == [300, 500]


@given(st.text(), st.none() | st.integers(min_value=0))
def test_a_range_s_name_comes_back_whatever_it_is(name: str, number: int | None) -> None:
    try:
        name.encode()
    except UnicodeEncodeError:
        return
    written_name = names.in_profile(name, number)
    assert names.of_profile(written_name) == (name, number)
    assert written_name.isascii()
    assert written_name.isprintable()


@pytest.mark.parametrize(
    ("full", "short"),
    [
        (LONG, "vectorized_elementwise_kernel"),
        ("void at::native::(anonymous namespace)::softmax_warp_forward<float, 5>(float*)", "softmax_warp_forward"),
        ("void cutlass::Kernel2<cutlass_80_tensorop_bf16_s16816gemm>(Params)", "Kernel2"),
        ("sm90_xmma_gemm_bf16bf16_tn", "sm90_xmma_gemm_bf16bf16_tn"),
        ("triton_poi_fused_add_0", "triton_poi_fused_add_0"),
        ("<unnamed>", "<unnamed>"),
    ],
)  # fmt: skip
def test_a_kernel_s_short_name_is_that_of_its_function(full: str, short: str) -> None:
    assert short_name(full) == short


def test_a_file_is_read_event_by_event_and_to_the_nanosecond(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at = 4_620_019_786_013_711
    events = [kernel(LONG, at + 7 * n, at + 7 * n + 3, n) for n in range(50)]
    path = written(events, tmp_path / "profile.json")
    whole = torch_trace.read(path, "2")

    monkeypatch.setattr(torch_trace, "_CHUNK", 37)

    assert torch_trace.read(path, "2") == whole
    assert [end - start for start, end in zip(whole.work.start, whole.work.end, strict=True)] == [3] * 50
    assert list(whole.work.start) == [at + 7 * n for n in range(50)]


@pytest.mark.parametrize("left", [0, 40, 300, -40])
def test_a_file_that_was_cut_short_is_refused(tmp_path: Path, left: int) -> None:
    path = written([kernel(LONG, 1, 2, 3)], tmp_path / "profile.json")
    path.write_text(path.read_text()[:left])
    if left == -40:
        path.write_text(path.read_text().rpartition("]")[0])
    with pytest.raises(VlmtraceError, match=r"no whole trace of torch\.profiler"):
        torch_trace.read(path, "2")
