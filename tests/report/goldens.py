"""Golden texts: what a summary and a plan look like, kept in ``golden/``.

After a deliberate change, write them anew and read the difference: ``python -m tests.report.goldens``.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.analysis.paired import Op, paired
from tests.synthetic import COLD, MS, ORIGIN, US, WARMED, Shape, recording
from vlmtrace.analysis.summary import summarise
from vlmtrace.report import VIEWS, plan_text, render
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import FoundStage, Lowered, OverheadPair, Recording, SyncSite, TracedModel
from vlmtrace.timeline.spans import Span

FOLDER = Path(__file__).parent / "golden"

MODEL = TracedModel(
    name="Qwen2.5-VL",
    class_name="Qwen2_5_VLForConditionalGeneration",
    model_type="qwen2_5_vl",
    parameters=8_290_000_000,
    random_weights=True,
    dtype="bfloat16",
    device="cuda:0",
    attention="sdpa",
    stages=(
        FoundStage(names.VISION, "model.get_image_features", "method of the model"),
        FoundStage(names.ENCODER, "model.visual", "get_encoder(image)"),
        FoundStage(names.PROJECTOR, "model.visual.merger", "touched by visual.forward", guess=True),
        FoundStage(names.PREFILL, "", "generates"),
        FoundStage(names.DECODE, "", "generates"),
        FoundStage(names.LAYER, "model.language_model.layers × 28", "get_decoder()"),
        FoundStage(names.LM_HEAD, "lm_head", "get_output_embeddings()"),
    ),
)


def on_a_gpu() -> Recording:
    """Twelve generations, two of them warm-up, of a decode that waits for the host."""
    shapes = [
        Shape(
            setup=1_600 * US,
            vision=143 * MS + slower * 111 * US,
            between=900 * US,
            prefill=44 * MS + slower * 57 * US,
            first_token=1_200 * US,
            step=33_200 * US + slower * 70 * US,
            gap=800 * US + slower * 3 * US,
            tail=1 * MS,
            steps=31,
            lead=600 * US,
            role=WARMED if slower > 9 else "timed",
        )
        for slower in (11, 10, 4, 0, 7, 2, 9, 1, 3, 8, 5, 6)
    ]
    made = recording(*shapes, detail="stage")
    inputs = {"batch": 1, "prompt_tokens": 551, "visual_tokens": 529, "images": 1}
    return replace(
        made,
        models=(MODEL,),
        environment={"gpu": "H100", "gpu_clock_mhz": 1980},
        generations=tuple(replace(generation, inputs=inputs) for generation in made.generations),
    )


def on_the_host() -> Recording:
    """Three generations of a tiny model on the host's clock, vision inside prefill in one."""
    shapes = [Shape(vision=4_321 * US, prefill=2_500 * US, step=1_250 * US, gap=210 * US, steps=7)] * 2
    return recording(*shapes, Shape(vision=4_400 * US, vision_inside=True, steps=3), device=None)


def cold_with_one_token() -> Recording:
    """One generation, the first of its shape, that made a single token and was the last before an interrupt."""
    return replace(recording(Shape(role=COLD, steps=0)), incomplete="interrupted")


def audited() -> Recording:
    """The one on a GPU, and the lines that its model waited at in two generations under a sync audit."""
    qwen = "transformers/models/qwen2_5_vl/modeling_qwen2_5_vl.py"
    tower = "Qwen2_5_VLVisionAttention.forward"
    sites = (
        SyncSite(qwen, 235, tower, names.ENCODER, 192),
        SyncSite(qwen, 412, "Qwen2_5_VisionTransformerPretrainedModel.get_window_index", names.ENCODER, 24),
        SyncSite("transformers/generation/utils.py", 2790, "GenerationMixin._sample", names.GAP, 60),
        SyncSite("job.py", 17, "<lambda>", names.MERGE, 3),
        SyncSite(qwen, 1180, "Qwen2_5_VLModel.get_image_features", names.VISION, 2),
    )
    return replace(on_a_gpu(), syncs=sites, audited=2)


def measured() -> Recording:
    """The one on a GPU, its detail lowered, and fourteen pairs of requests with and without tracing."""
    pairs = tuple(
        OverheadPair(1_240 * MS + drift * MS, 1_243 * MS + other * MS)
        for drift, other in ((0, 4), (30, -9), (-12, 3), (8, 31), (21, -2), (-7, 14), (2, 2)) * 2
    )
    return replace(on_a_gpu(), overhead=pairs, lowered=Lowered("layer", 26 * MS, 1_238 * MS, 10_000))


def with_kernels() -> Recording:
    """Two generations and a warm-up, eager on two streams with a step replayed as a graph, and what ran around them."""
    made = recording(Shape(role=WARMED), Shape(), Shape())
    ops = [Op(ORIGIN + 5 * MS, ORIGIN + 5 * MS + 40 * US, "h2d", None, name="Memcpy HtoD", full=None, copied=2_408_448)]
    for generation in made.generations:
        for span in made.spans_of(generation):
            if span.name in (names.VISION, names.PREFILL, names.STEP, names.GAP):
                ops += _work(span)
    ops += [Op(ORIGIN + at * MS, ORIGIN + at * MS + 8 * US, None, None) for at in range(3)]
    return paired(made, ops)


def _work(span: Span) -> list[Op]:
    """What one span launched: two kinds of matrix product and a copy of what both need; a gap samples, and waits."""
    index, begin, us = span.generation, span.begin, span.duration // (100 * US)

    def op(first: int, last: int, **more: Any) -> Op:
        return Op(begin + first * US, begin + last * US, span.name, index, span.number, **more)

    if span.name == names.GAP:
        return [
            op(20, 60, name="softmax_warp_forward", full="void softmax_warp_forward<float, 10>(float*, int)"),
            op(60, 63, name="Memcpy DtoH", full=None, copied=8),
        ]
    call = (span.host_begin + 2 * US, span.host_begin + (150 if span.number == 3 else 9) * US)
    graph = "cudaGraphLaunch" if span.number == 3 else "cudaLaunchKernel"
    one, other = (
        "void cutlass::Kernel2<cutlass_80_wmma_tensorop_bf16_s161616gemm>(Params)",
        "void gemm<bf16, 128>(float*)",
    )
    return [
        op(4, 30 * us, name="Kernel2", full=one, call=call, api=graph),
        op(20 * us, 60 * us, name="Kernel2", full=one.replace("161616", "884"), stream=13, call=call, api=graph),
        op(70 * us, 90 * us, name="gemm", full=other, call=(call[1] + US, call[1] + 8 * US)),
        op(90 * us, 95 * us, name="Memset", full=None, copied=4_096),
    ]


def texts() -> dict[str, str]:
    """Every golden text by its file name, as the code renders it now."""
    gpu, host, cold = map(summarise, (on_a_gpu(), on_the_host(), cold_with_one_token()))
    kernels = summarise(with_kernels(), recording(Shape(vision=29 * MS, step=9_400 * US, gap=1_050 * US)))
    return {
        "gpu.txt": render(gpu),
        "gpu-wide.txt": render(gpu, width=120),
        "gpu.md": render(gpu, "markdown"),
        "gpu-views.txt": render(gpu, views=VIEWS),
        "gpu-views.md": render(gpu, "markdown", views=VIEWS),
        "host.txt": render(host),
        "host-views.txt": render(host, views=VIEWS),
        "cold.txt": render(cold),
        "audited.txt": render(summarise(audited())),
        "audited.md": render(summarise(audited()), "markdown"),
        "measured.txt": render(summarise(measured())),
        "measured.md": render(summarise(measured()), "markdown"),
        "kernels.txt": render(kernels, views=["kernels"]),
        "kernels.md": render(kernels, "markdown", views=["kernels"]),
        "plan.txt": plan_text(MODEL),
    }


if __name__ == "__main__":
    for name, text in texts().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
