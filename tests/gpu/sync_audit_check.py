#!/usr/bin/env python3
"""What a sync audit sees on a real GPU, to lay beside what a Nsight export counts for the same shapes.

python tests/gpu/sync_audit_check.py                                     one JSON line per shape, with its sites
python tests/gpu/sync_audit_check.py --shape qwen2.5-vl-7b --shape llava-1.5-7b --new 8

An export counts runtime calls, an audit what torch reports: a sort or a unique made by CUB or Thrust waits unreported,
so an audit may see fewer. Qwen2.5-VL waits three times in each block of its tower, so that a tower of 12 blocks instead
of 32 has 60 waits fewer.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

NSIGHT: Final = {
    ("qwen2.5-vl-7b", 8): {"generate": 134, "vision": 109, "prefill": 2, "decode.step": 0},
    ("qwen2.5-vl-0.5b", 8): {"generate": 74, "vision": 49, "prefill": 2, "decode.step": 0},
    ("llava-1.5-7b", 8): {"generate": 14, "vision": 0, "prefill": 2, "decode.step": 0},
}
"""cudaStreamSynchronize calls per generate(), transformers 5.23; those of the 0.5b shape are reckoned from the 7b's."""


def generate(model: Any, inputs: Any, new: int) -> list[list[int]]:
    import torch

    on_device = inputs.to("cuda", model.dtype)
    with torch.inference_mode():
        ids: list[list[int]] = model.generate(**on_device, max_new_tokens=new, do_sample=False).tolist()
    return ids


def check(shape: str, new: int) -> None:
    """Audit two generations of a warm model, put them into a timed recording, and look at what the summary says."""
    import random_vlm
    import torch
    import transformers

    import vlmtrace

    model = random_vlm.build(shape, "cuda", torch.bfloat16)
    inputs = random_vlm.make_inputs(model, shape)
    for _ in range(2):
        generate(model, inputs, new)
    with vlmtrace.trace(model, name=shape, random_weights=True) as session:
        for _ in range(5):
            generate(model, inputs, new)
    with vlmtrace.audit_syncs(model) as audit:
        for _ in range(2):
            generate(model, inputs, new)
    recording = audit.onto(session.recording)
    summary = json.loads(vlmtrace.render(recording, "json"))
    stages: Counter[str] = Counter()
    for site in audit.sites:
        stages[site.stage] += site.count
    print(
        json.dumps(
            {
                "check": "sync audit",
                "shape": shape,
                "new_tokens": new,
                "gpu": torch.cuda.get_device_name(),
                "torch": torch.__version__,
                "transformers": transformers.__version__,
                "generations": audit.generations,
                "per_generation": sum(stages.values()) / audit.generations,
                "by_stage": {stage: count / audit.generations for stage, count in stages.most_common()},
                "nsight": NSIGHT.get((shape, new)),
                "verdicts": {row["stage"]: row["verdict"] and row["verdict"]["verdict"] for row in summary["stages"]},
                "findings": [finding["slug"] for finding in summary["findings"]],
                "sites": summary["syncs"]["sites"],
            }
        ),
        flush=True,
    )
    print(vlmtrace.render(recording), file=sys.stderr)
    assert audit.generations == 2
    assert audit.sites, "torch reported nothing: the warnings were not caught"
    assert all(site.count % 2 == 0 for site in audit.sites), "two equal generations do not wait alike"
    assert all(site.line > 0 and "/" in site.file for site in audit.sites), "a site has no source line"
    assert not any(site.file.startswith(("torch/", "vlmtrace/")) for site in audit.sites)
    assert torch.cuda.get_sync_debug_mode() == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", action="append", help="default: qwen2.5-vl-0.5b and llava-1.5-7b")
    parser.add_argument("--new", type=int, default=8)
    options = parser.parse_args()
    for shape in options.shape or ["qwen2.5-vl-0.5b", "llava-1.5-7b"]:
        check(shape, options.new)


if __name__ == "__main__":
    main()
