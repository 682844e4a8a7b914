"""``vlmtrace record``: run a model or a program, trace its ``generate()`` calls, write the trace."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from vlmtrace.analysis.summary import summarise
from vlmtrace.capture import demo, loading, program, workload
from vlmtrace.cli import boundary, destination
from vlmtrace.cli.redaction import redacted
from vlmtrace.cli.summary import show
from vlmtrace.cli.talk import Talk
from vlmtrace.errors import EXIT_ERROR, EXIT_OK, UsageError, VlmtraceError
from vlmtrace.report import FORMATS, plan_text
from vlmtrace.timeline.recording import DETAILS, Json, Recording
from vlmtrace.units import bytes_text

if TYPE_CHECKING:
    from torch import nn

    from vlmtrace.capture.recorder import Recorder

__all__ = ["record"]

_DEFAULT_PROMPT: Final = "Describe this image."
_WEIGHTS: Final = frozenset(("dtype", "attn", "trust_remote_code"))
_SAMPLES: Final = frozenset(("images", "image_size", "prompt", "inputs"))
_ANY_MODEL: Final = _WEIGHTS | _SAMPLES | {
    "device", "batch", "max_new_tokens", "ignore_eos", "cache", "sample", "warmup", "repeats", "seed", "dry_run",
}  # fmt: skip

C = TypeVar("C", bound=Callable[..., Any])


def _model_options(command: C) -> C:
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


def _trace_options(command: C) -> C:
    """The options that say what is traced and what becomes of it."""
    options = (
        click.option("--detail", type=click.Choice(DETAILS), default="stage"),
        click.option("--stage", "stages", multiple=True, metavar="NAME=PATH", help="Say where a stage is. Repeatable."),
        click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="Store a label. Repeatable."),
        click.option(
            "--audit-syncs",
            is_flag=True,
            help="Afterwards ask once more, untimed, and list the lines that make the host wait for the GPU.",
        ),
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


@click.command(context_settings={"allow_interspersed_args": False, "show_default": True})
@_model_options
@_trace_options
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[-- PROGRAM ARGS...]")
@click.pass_context
def record(context: click.Context, /, **given: Any) -> int:
    """Trace generate() calls: where their time goes, stage by stage.

    \b
    vlmtrace record --demo
    vlmtrace record --model ID|FOLDER --image cat.jpg --prompt "What is this?"
    vlmtrace record -- script.py args | -m module args | python script.py args

    The trace opens in https://ui.perfetto.dev. A program runs unchanged, and its exit code is passed on.
    """
    _check_one_way_in(context, given)
    talk = Talk(quiet=given["quiet"])
    words = redacted(["vlmtrace", *context.ensure_object(boundary.State).words], keep_text=given["keep_text"])
    labels: dict[str, Json] = dict(_pairs(given["labels"], "--label", "KEY=VALUE"))
    facts: dict[str, Json] = {"command": list[Json](words), "labels": labels}
    loading.check_installed()
    if given["dry_run"]:
        return _dry_run(given, talk)
    if given["command"]:
        return _record_program(given, facts, talk)
    return _record_model(given, facts, talk)


def _check_one_way_in(context: click.Context, given: Mapping[str, Any]) -> None:
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
    useless = _ANY_MODEL if given["command"] else _WEIGHTS if given["use_demo"] else frozenset[str]()
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if parameter.name in useless and source is click.core.ParameterSource.COMMANDLINE:
            raise UsageError(f"'{parameter.opts[0]}' does nothing with {ways[0]}", "leave it out")


def _record_model(given: Mapping[str, Any], facts: dict[str, Json], talk: Talk) -> int:
    """The demo or a model: everything that can be wrong is looked at before the weights are loaded."""
    from vlmtrace.capture import sync_audit
    from vlmtrace.capture.discovery.search import discover

    name = demo.DEMO_NAME if given["use_demo"] else loading.short_name(given["model"])
    place = destination.choose(given["output"], name, force=given["force"])
    stages = _stages(given)
    if not given["use_demo"]:
        loading.check_source(given["model"])
    if given["audit_syncs"]:
        sync_audit.check_device(loading.check_device(given["device"]))
    samples = _samples(given)
    options = _workload_options(given)
    talk.begin(f"Loading {name}")
    if stages:
        discover(_load(given, "meta", talk).model, stages)
    loaded = _load(given, given["device"], talk)
    asker = workload.Asker(loaded, options)
    asker.check(samples)
    recorder = _recorder(name, given, stages, [loaded.model])
    recorder.random_weights = loaded.random_weights
    recorder.workload = facts | _workload_facts(given, options, samples)
    requests = workload.batches(samples, options.batch)
    failure: VlmtraceError | KeyboardInterrupt | None = None
    try:
        with recorder, talk.counting() as progress:
            workload.run(asker, requests, recorder, progress)
    except (VlmtraceError, KeyboardInterrupt) as error:
        failure = error
    cut_short = None if failure is None else str(failure) or type(failure).__name__
    recording = recorder.finish(cut_short)
    if given["audit_syncs"] and failure is None:
        # The recording is whole by now, and is kept whatever becomes of the audit.
        try:
            with sync_audit.SyncAudit([loaded.model], stages) as audit, talk.counting() as progress:
                workload.run_once(asker, requests, progress)
            recording = audit.onto(recording)
        except (VlmtraceError, KeyboardInterrupt) as error:
            failure = error
    _deliver(recording, place, given, talk)
    if failure is not None:
        raise failure
    return EXIT_OK


def _record_program(given: Mapping[str, Any], facts: dict[str, Json], talk: Talk) -> int:
    """Somebody's program: whatever ends it, what was recorded until then is written, and its exit code passed on."""
    if given["audit_syncs"]:
        raise UsageError(
            "'--audit-syncs' needs --demo or --model: a program runs once, and an audited run cannot be timed",
            "leave it out, or audit in Python: with vlmtrace.audit_syncs(model): …",
        )
    if given["output"] == destination.STDOUT:
        raise UsageError("'-o -' would mix the trace with the program's own output", "give -o FILE")
    job = program.parse(given["command"])
    place = destination.choose(given["output"], job.name, force=given["force"])
    recorder = _recorder(job.name, given, _stages(given), None)
    recorder.workload = facts
    recorder.random_weights = given["random_weights"]
    with recorder:
        outcome = program.run(job)
    recording = recorder.finish(outcome.error)
    if not recording.generations:
        line = f"'{job.target if job.kind != 'code' else 'python -c'}' called no generate() of a transformers model"
        click.echo(f"vlmtrace: error: {line}: nothing was recorded", err=True)
        return outcome.exit_code or EXIT_ERROR
    _deliver(recording, place, given, talk)
    return outcome.exit_code


def _dry_run(given: Mapping[str, Any], talk: Talk) -> int:
    from vlmtrace.capture.discovery.search import discover
    from vlmtrace.capture.environment import describe_model

    stages = _stages(given)
    talk.begin("Reading the model's modules")
    traced = describe_model(discover(_load(given, "meta", talk).model, stages))
    traced = replace(traced, random_weights=given["use_demo"] or given["random_weights"])
    click.echo(plan_text(traced, detail=given["detail"]), nl=False)
    return EXIT_OK


def _load(given: Mapping[str, Any], device: str | None, talk: Talk) -> loading.Loaded:
    if given["use_demo"]:
        return loading.load_demo(given["seed"], device)
    return loading.load(
        loading.LoadOptions(
            model=given["model"],
            dtype=given["dtype"],
            device=device,
            attention=given["attn"],
            trust_remote_code=given["trust_remote_code"],
            random_weights=given["random_weights"],
            seed=given["seed"],
            bars=talk.shows_progress,
        )
    )


def _recorder(
    name: str, given: Mapping[str, Any], stages: dict[str, tuple[str, ...]], models: list[nn.Module] | None
) -> Recorder:
    from vlmtrace.capture.recorder import Recorder, RecorderOptions

    return Recorder(RecorderOptions(name, given["detail"], stages, given["keep_text"]), models)


def _workload_options(given: Mapping[str, Any]) -> workload.WorkloadOptions:
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


def _samples(given: Mapping[str, Any]) -> tuple[workload.Sample, ...]:
    """What is asked: the lines of --inputs, or the one question that the other options make."""
    images, size, prompt, inputs = given["images"], given["image_size"], given["prompt"], given["inputs"]
    if inputs is not None:
        if images or size is not None or prompt is not None:
            raise UsageError(f"'--inputs {inputs}' brings its own images and prompts", "leave out --image and --prompt")
        return workload.read_samples(inputs, given["max_new_tokens"])
    if images and size is not None:
        raise UsageError(f"'--image-size {size}' draws an image and --image gives one", "give one of them")
    if size is not None:
        pictures: tuple[Any, ...] = (demo.draw(*workload.parse_size(size)),)
    elif images:
        pictures = tuple(workload.check_image(path) for path in images)
    else:
        pictures = (demo.draw(*demo.PICTURE_SIZE),) if given["use_demo"] else ()
    if prompt is None and not pictures:
        raise UsageError(
            f"there is nothing to ask '{given['model']}'", "give --image FILE or --image-size WxH, or --prompt"
        )
    if prompt is None:
        prompt = demo.DEMO_PROMPT if given["use_demo"] else _DEFAULT_PROMPT
    return (workload.Sample("0", prompt, pictures, given["max_new_tokens"]),)


def _workload_facts(
    given: Mapping[str, Any], options: workload.WorkloadOptions, samples: tuple[workload.Sample, ...]
) -> dict[str, Json]:
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


def _deliver(recording: Recording, place: destination.Destination, given: Mapping[str, Any], talk: Talk) -> None:
    """Show the summary and write the trace, if there is anything to show."""
    if not recording.generations:
        return
    to_stderr = place.path is None or bool(given["command"])
    if given["summary"] and not (to_stderr and talk.quiet):
        show(summarise(recording), given["form"], err=to_stderr)
    written = place.write(recording)
    if written is None:
        return
    talk.say("")
    talk.say(f"Wrote {written} ({bytes_text(written.stat().st_size)})")
    talk.say(f"Next: vlmtrace summary {written} · or drag it into https://ui.perfetto.dev")


def _stages(given: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """The module paths of each stage that --stage names; several for one stage add up."""
    stages: dict[str, tuple[str, ...]] = {}
    for name, path in _pairs(given["stages"], "--stage", "NAME=PATH"):
        stages[name] = (*stages.get(name, ()), path)
    return stages


def _pairs(words: tuple[str, ...], option: str, form: str) -> Iterator[tuple[str, str]]:
    for word in words:
        key, equals, value = word.partition("=")
        if not key or not equals or not value:
            raise UsageError(f"'{option} {word}' is not of the form {form}", f"write {option} {form}")
        yield key, value
