"""The options of ``vlmtrace record``: what they are called, what they take, and which do nothing together."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from vlmtrace.capture import loading
from vlmtrace.cli.destination import STDOUT
from vlmtrace.errors import UsageError
from vlmtrace.report import FORMATS
from vlmtrace.timeline.recording import DETAILS

__all__ = ["check_nsys", "check_one_way_in", "key_values", "model_options", "stage_paths", "trace_options"]

_WEIGHTS: Final = frozenset(("dtype", "attn", "trust_remote_code"))
_SAMPLES: Final = frozenset(("images", "image_size", "prompt", "inputs"))
_ANY_MODEL: Final = _WEIGHTS | _SAMPLES | {
    "device", "batch", "max_new_tokens", "ignore_eos", "cache", "sample", "warmup", "repeats", "seed", "dry_run",
}  # fmt: skip

_RUN_SEVERAL_TIMES: Final = {
    "audit_syncs": (
        "a program runs once, and an audited run cannot be timed",
        "leave it out, or audit in Python: with vlmtrace.audit_syncs(model): …",
    ),
    "kernels": (
        "a program runs once, and a profiled run cannot be timed",
        "record it with --nsys, or profile in Python: with vlmtrace.profile_kernels(model): …",
    ),
    "measure_overhead": (
        "a program runs once, and overhead is what tracing adds to the same request made again",
        "leave it out, or record the model itself: --model ID|FOLDER",
    ),
    "max_overhead": (
        "what tracing costs is known once the same request was made, and a program is run once",
        "leave it out and choose --detail: the summary tells what tracing cost",
    ),
}
"""What cannot be done with a program: why, and what to do instead."""

C = TypeVar("C", bound=Callable[..., Any])


def model_options(command: C) -> C:
    """The options that say which model is run, and on what."""
    count = click.IntRange(min=1)
    options = (
        click.option("--demo", "use_demo", is_flag=True, help="Run the built-in tiny model: no network, no GPU."),
        click.option("--model", metavar="ID|FOLDER", help="Run this model, from the hub or a folder."),
        click.option("--image", "images", multiple=True, type=click.Path(path_type=Path), help="An image. Repeatable."),
        click.option("--image-size", metavar="WxH", help="Draw an image of this size instead."),
        click.option("--prompt", metavar="TEXT", help="The question. Alone, the request is text only."),
        click.option(
            "--inputs",
            type=click.Path(path_type=Path),
            metavar="JSONL",
            help="Samples, one JSON object a line: prompt, image, id, max_new_tokens.",
        ),
        click.option("--dtype", type=click.Choice(loading.DTYPES), default="auto"),
        click.option("--device", metavar="cpu|cuda[:N]", help="Default: the GPU, if there is one."),
        click.option("--attn", metavar="NAME", help="Attention implementation, such as sdpa or flash_attention_2."),
        click.option(
            "--random-weights",
            is_flag=True,
            help="Build the model from its config, without its weights. With a program: say that its weights are so.",
        ),
        click.option("--trust-remote-code", is_flag=True, help="Let the model's repository run code of its own."),
        click.option("--batch", type=count, metavar="N", default=1, help="Samples in one request."),
        click.option("--max-new-tokens", type=count, metavar="N", default=32),
        click.option("--ignore-eos", is_flag=True, help="Always generate --max-new-tokens."),
        click.option("--cache", type=click.Choice(("dynamic", "static")), help="KV cache. Default: the model's own."),
        click.option("--sample", is_flag=True, help="Draw tokens at random instead of greedily."),
        click.option(
            "--warmup",
            type=click.IntRange(min=0),
            metavar="N",
            default=2,
            help="Untimed requests first.",
        ),
        click.option(
            "--repeats", type=count, metavar="N", help="Timed requests. Default: 10; with --inputs 1 for each sample."
        ),
        click.option("--seed", type=click.IntRange(min=0), metavar="N", default=0),
        click.option(
            "--dry-run", is_flag=True, help="Show what would be traced, as a tree; load no weights, run nothing."
        ),
    )
    return _all(options, command)


def trace_options(command: C) -> C:
    """The options that say what is traced and what becomes of it."""
    options = (
        click.option("--detail", type=click.Choice(DETAILS), default="stage"),
        click.option(
            "--every",
            type=click.IntRange(min=1),
            metavar="N",
            default=1,
            help="Tell the modules and layers of one decode step in N only.",
        ),
        click.option("--stage", "stages", multiple=True, metavar="NAME=PATH", help="Say where a stage is. Repeatable."),
        click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="Store a label. Repeatable."),
        click.option(
            "--audit-syncs",
            is_flag=True,
            help="Afterwards ask once more, untimed, and list the lines that make the host wait for the GPU.",
        ),
        click.option(
            "--kernels",
            is_flag=True,
            help="Afterwards ask once more under torch.profiler, untimed, and show the kernels of each stage.",
        ),
        click.option(
            "--measure-overhead",
            is_flag=True,
            help="Afterwards ask in pairs, with and without tracing, and tell what it adds.",
        ),
        click.option(
            "--sample-gpu",
            type=click.IntRange(1, 100),
            metavar="HZ",
            help="Ask NVML for utilisation, clock, power and temperature of the GPU, HZ times a second.",
        ),
        click.option(
            "--memory",
            is_flag=True,
            help="Read torch's allocator where stages begin and end, and tell each stage's peak. Resets the peak "
            "statistics that a program of yours may read.",
        ),
        click.option(
            "--max-overhead",
            callback=_parts_per_million,
            metavar="P%",
            help="Lower the detail until the counted cost of tracing is at most this share of generate; refuse if "
            "nothing helps.",
        ),
        click.option("--nsys", is_flag=True, help="Record under Nsight Systems; its report lies beside the trace."),
        click.option(
            "--nsys-path", type=click.Path(path_type=Path), metavar="PATH", help="The nsys to use: a file or folder."
        ),
        click.option("--nsys-arg", "nsys_args", multiple=True, metavar="ARG", help="Give nsys this too. Repeatable."),
        click.option("--keep-text", is_flag=True, help="Store prompts and outputs, not only their hash and length."),
        click.option("-o", "--output", metavar="FILE", help="*.pftrace, *.json or *.json.gz; - is stdout."),
        click.option("--force", is_flag=True, help="Overwrite an existing file."),
        click.option("--summary/--no-summary", "summary", default=True, help="Show the stage table at the end."),
        click.option("--format", "form", type=click.Choice(FORMATS), default="table", help="How to show it."),
        click.option("--quiet", is_flag=True, help="Say nothing on stderr but errors."),
    )
    return _all(options, command)


def _all(options: tuple[Callable[[C], C], ...], command: C) -> C:
    return functools.reduce(lambda made, option: option(made), reversed(options), command)


def _parts_per_million(_context: click.Context, _option: click.Parameter, given: str | None) -> int | None:
    """A share, written ``1%`` or ``0.01``."""
    if given is None:
        return None
    number = given.strip().removesuffix("%")
    try:
        share = Decimal(number.strip()) / (1 if number == given.strip() else 100)
    except InvalidOperation:
        share = Decimal(0)
    if not (share.is_finite() and Decimal("0.000001") <= share < 1):
        raise click.BadParameter(f"'{given}' is no share between 0 and 100 %: write 1% or 0.01")
    return round(share * 1_000_000)


def check_one_way_in(context: click.Context, given: Mapping[str, Any]) -> None:
    """Exactly one of demo, model and program, and no option that would do nothing for it."""
    ways = [
        way
        for way, asked in (
            ("--demo", given["use_demo"]),
            ("--model", given["model"] is not None),
            (f"the program '{' '.join(given['command'][:2])}'", bool(given["command"])),
        )
        if asked
    ]
    if not ways:
        raise UsageError("there is nothing to record", "try --demo, or give --model ID|FOLDER or -- script.py")
    if len(ways) > 1:
        hint = " (--image takes one file: repeat it for each)" if given["images"] and given["command"] else ""
        raise UsageError(f"{' and '.join(ways)} cannot be recorded at once", f"give one of them{hint}")
    for name, (why, remedy) in _RUN_SEVERAL_TIMES.items():
        if given["command"] and given[name]:
            raise UsageError(f"'--{name.replace('_', '-')}' needs --demo or --model: {why}", remedy)
    any_model = _ANY_MODEL - {"dry_run"} if given["nsys"] else _ANY_MODEL
    useless = any_model if given["command"] else _WEIGHTS if given["use_demo"] else frozenset[str]()
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if parameter.name in useless and source is click.core.ParameterSource.COMMANDLINE:
            raise UsageError(f"'{parameter.opts[0]}' does nothing with {ways[0]}", "leave it out")


def check_nsys(given: Mapping[str, Any]) -> None:
    """No option for nsys without it, and none with it that would measure it or has no file to lie beside."""
    if not given["nsys"]:
        for name, option in (("nsys_path", "--nsys-path"), ("nsys_args", "--nsys-arg")):
            if given[name]:
                raise UsageError(f"'{option}' does nothing without --nsys", "add --nsys, or leave it out")
        return
    if given["output"] == STDOUT:
        raise UsageError("'-o -' and --nsys: the report needs a file beside the trace", "give -o FILE, or leave -o out")
    if given["measure_overhead"]:
        raise UsageError(
            "'--measure-overhead' and --nsys: what tracing adds cannot be told from what nsys adds",
            "leave one of them out",
        )
    if given["kernels"]:
        raise UsageError(
            "'--kernels' and --nsys: two profilers cannot watch one GPU, and nsys sees the kernels already",
            "leave one of them out",
        )
    for word in given["nsys_args"]:
        if word.startswith(("-o", "--output")):
            raise UsageError(f"'--nsys-arg {word}': the report is named after the trace", "name both with -o FILE")


def stage_paths(given: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """The module paths of each stage that --stage names; several for one stage add up."""
    stages: dict[str, tuple[str, ...]] = {}
    for name, path in key_values(given["stages"], "--stage", "NAME=PATH"):
        stages[name] = (*stages.get(name, ()), path)
    return stages


def key_values(words: tuple[str, ...], option: str, form: str) -> Iterator[tuple[str, str]]:
    """Each of an option's words as key and value; ``form`` is how it should be written."""
    for word in words:
        key, equals, value = word.partition("=")
        if not key or not equals or not value:
            raise UsageError(f"'{option} {word}' is not of the form {form}", f"write {option} {form}")
        yield key, value
