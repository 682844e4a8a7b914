"""What ``vlmtrace record`` asks a model, and how often: samples and workload from the options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from vlmtrace.capture import demo, workload
from vlmtrace.capture.samples import Sample, check_image, parse_size, read_samples
from vlmtrace.errors import UsageError
from vlmtrace.timeline.recording import Json

__all__ = ["samples_of", "workload_facts", "workload_options"]

_DEFAULT_PROMPT: Final = "Describe this image."


def workload_options(given: Mapping[str, Any]) -> workload.WorkloadOptions:
    """How often and how it is asked."""
    repeats = given["repeats"]
    if repeats is None:
        repeats = 10 if given["inputs"] is None else 1
    return workload.WorkloadOptions(
        batch=given["batch"],
        warmup=given["warmup"],
        repeats=repeats,
        ignore_eos=given["ignore_eos"],
        cache=given["cache"],
        sample=given["sample"],
        seed=given["seed"],
    )


def samples_of(given: Mapping[str, Any]) -> tuple[Sample, ...]:
    """What is asked: the lines of --inputs, or the one question that the other options make."""
    images, size, prompt, inputs = given["images"], given["image_size"], given["prompt"], given["inputs"]
    if inputs is not None:
        if images or size is not None or prompt is not None:
            raise UsageError(f"'--inputs {inputs}' brings its own images and prompts", "leave out --image and --prompt")
        return read_samples(inputs, given["max_new_tokens"])
    if images and size is not None:
        raise UsageError(f"'--image-size {size}' draws an image and --image gives one", "give one of them")
    if size is not None:
        pictures: tuple[Any, ...] = (demo.draw(*parse_size(size)),)
    elif images:
        pictures = tuple(check_image(path) for path in images)
    else:
        pictures = (demo.draw(*demo.PICTURE_SIZE),) if given["use_demo"] else ()
    if prompt is None and not pictures:
        raise UsageError(
            f"there is nothing to ask '{given['model']}'", "give --image FILE or --image-size WxH, or --prompt"
        )
    if prompt is None:
        prompt = demo.DEMO_PROMPT if given["use_demo"] else _DEFAULT_PROMPT
    return (Sample("0", prompt, pictures, given["max_new_tokens"]),)


def workload_facts(
    given: Mapping[str, Any], options: workload.WorkloadOptions, samples: tuple[Sample, ...]
) -> dict[str, Json]:
    """What a recording holds of the request; the prompt itself only where text is kept."""
    facts: dict[str, Json] = {
        "samples": len(samples),
        "batch": options.batch,
        "warmup": options.warmup,
        "repeats": options.repeats,
        "seed": options.seed,
        "decoding": "sampled" if options.sample else "greedy",
        "ignore_eos": options.ignore_eos,
        "cache": options.cache,
        "max_new_tokens": max(sample.max_new_tokens for sample in samples),
    }
    if len(samples) == 1:
        facts["prompt"] = workload.digest(samples[0].prompt, given["keep_text"])
    return facts
