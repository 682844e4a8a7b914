"""``vlmtrace record``: run a model or a program, trace its ``generate()`` calls, write the trace."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import click

from vlmtrace import api
from vlmtrace.analysis.overhead import detail_within
from vlmtrace.analysis.summary import summarise
from vlmtrace.capture import demo, loading, program, workload
from vlmtrace.capture.samples import Sample, batches
from vlmtrace.cli import boundary, destination, record_nsys, record_options, record_request
from vlmtrace.cli.redaction import redacted
from vlmtrace.cli.summary import show
from vlmtrace.cli.talk import Talk
from vlmtrace.errors import EXIT_ERROR, EXIT_OK, UsageError, VlmtraceError
from vlmtrace.report import plan_text
from vlmtrace.report.overhead import lowered_text
from vlmtrace.report.pairing import pairing_text
from vlmtrace.timeline.recording import Json, Lowered, Recording
from vlmtrace.units import bytes_text

if TYPE_CHECKING:
    from vlmtrace.capture.recorder import RecorderOptions

__all__ = ["record"]


@click.command(context_settings={"allow_interspersed_args": False, "show_default": True})
@record_options.model_options
@record_options.trace_options
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[-- PROGRAM ARGS...]")
@click.pass_context
def record(context: click.Context, /, **given: Any) -> int:
    """Trace generate() calls: where their time goes, stage by stage.

    \b
    vlmtrace record --demo
    vlmtrace record --model ID|FOLDER --image cat.jpg --prompt "What is this?"
    vlmtrace record -- script.py args | -m module args | python script.py args

    vlmtrace open shows the trace in the Perfetto UI. A program runs unchanged, and its exit code is passed on.
    """
    record_options.check_one_way_in(context, given)
    record_options.check_nsys(given)
    talk = Talk(quiet=given["quiet"])
    state = context.ensure_object(boundary.State)
    words = redacted(["vlmtrace", *state.words], keep_text=given["keep_text"])
    labels: dict[str, Json] = dict(record_options.key_values(given["labels"], "--label", "KEY=VALUE"))
    facts: dict[str, Json] = {"command": list[Json](words), "labels": labels}
    loading.check_installed()
    if given["nsys"]:
        return record_nsys.record_under_nsys(context, given, talk)
    from vlmtrace.capture import gpu_sampler, memory

    given["handover"] = state.handover
    if given["dry_run"]:
        return _dry_run(given, talk)
    if given["sample_gpu"] is not None:
        gpu_sampler.check()
    if given["memory"]:
        memory.check()
    if given["command"]:
        return _record_program(given, facts, talk)
    return _record_model(given, facts, talk)


def _record_model(given: Mapping[str, Any], facts: dict[str, Json], talk: Talk) -> int:
    """The demo or a model: everything that can be wrong is looked at before the weights are loaded."""
    from vlmtrace.capture import kernel_profile, sync_audit
    from vlmtrace.capture.discovery.search import discover
    from vlmtrace.capture.recorder import Recorder

    name = demo.DEMO_NAME if given["use_demo"] else loading.short_name(given["model"])
    place = destination.choose(given["output"], name, force=given["force"])
    traced = _recorder_options(name, given)
    if not given["use_demo"]:
        loading.check_source(given["model"])
    if given["audit_syncs"]:
        sync_audit.check_device(loading.check_device(given["device"]))
    if given["kernels"]:
        kernel_profile.check_device(loading.check_device(given["device"]))
    samples = record_request.samples_of(given)
    options = record_request.workload_options(given)
    talk.begin(f"Loading {name}")
    if traced.stages:
        discover(_load(given, "meta", talk).model, traced.stages)
    loaded = _load(given, given["device"], talk)
    asker = workload.Asker(loaded, options)
    asker.check(samples)
    run, lowered = _Run(asker, batches(samples, options.batch), traced, talk), None
    if given["max_overhead"] is not None:
        run, lowered = _within_limit(run, given["max_overhead"])
    recorder = Recorder(run.traced, [loaded.model])
    recorder.random_weights = loaded.random_weights
    recorder.workload = facts | record_request.workload_facts(given, options, samples)
    failure: VlmtraceError | KeyboardInterrupt | None = None
    try:
        with recorder, talk.counting() as progress:
            workload.run(asker, run.requests, recorder, progress)
    except (VlmtraceError, KeyboardInterrupt) as error:
        failure = error
    cut_short = None if failure is None else str(failure) or type(failure).__name__
    recording = replace(recorder.finish(cut_short), lowered=lowered)
    # The profiler comes last: it leaves the process slower than it found it.
    for asked, further in (
        ("measure_overhead", _with_overhead),
        ("audit_syncs", _with_syncs),
        ("kernels", _with_kernels),
    ):
        if given[asked] and failure is None:
            # The recording is whole by now, and is kept whatever becomes of this.
            try:
                recording = further(run, recording)
            except (VlmtraceError, KeyboardInterrupt) as error:
                failure = error
    _deliver(recording, place, given, talk)
    if failure is not None:
        raise failure
    return EXIT_OK


@dataclass(frozen=True, slots=True)
class _Run:
    """A model that is asked ``requests``, and how that is traced."""

    asker: workload.Asker
    requests: tuple[tuple[Sample, ...], ...]
    traced: RecorderOptions
    talk: Talk


def _within_limit(run: _Run, limit_ppm: int) -> tuple[_Run, Lowered | None]:
    """The same run at the finest detail whose cost keeps the limit: told by warm-ups, in recordings of their own."""
    from vlmtrace.capture.recorder import Recorder

    def warmed_up(detail: str) -> Recording:
        recorder = Recorder(replace(run.traced, detail=detail), [run.asker.model])
        with recorder, run.talk.counting() as progress:
            workload.run_warmups(run.asker, run.requests, recorder, progress)
        return recorder.finish()

    if run.asker.options.warmup == 0:
        run.talk.say("--max-overhead asks once before the timed requests, to count the cost of tracing: --warmup is 0")
    detail, lowered = detail_within(limit_ppm, run.traced.detail, warmed_up)
    if lowered is not None:
        run.talk.say(lowered_text(lowered, detail))
    return replace(run, traced=replace(run.traced, detail=detail)), lowered


def _with_overhead(run: _Run, recording: Recording) -> Recording:
    from vlmtrace.capture.overhead import measure_overhead, pairs_for

    pairs = pairs_for(run.asker.options.repeats)
    with run.talk.counting() as progress:
        return replace(recording, overhead=measure_overhead(run.asker, run.requests, run.traced, pairs, progress))


def _with_syncs(run: _Run, recording: Recording) -> Recording:
    from vlmtrace.capture.sync_audit import SyncAudit

    with SyncAudit([run.asker.model], run.traced.stages) as audit, run.talk.counting() as progress:
        workload.run_once(run.asker, run.requests, progress)
    return audit.onto(recording)


def _with_kernels(run: _Run, recording: Recording) -> Recording:
    from vlmtrace.capture.kernel_profile import KernelProfile

    with KernelProfile([run.asker.model], run.traced) as profile, run.talk.counting() as progress:
        workload.run_profiled(run.asker, run.requests, profile.recorder, progress)
    made = api.with_kernels(recording, profile)
    if made.pairing is not None:
        run.talk.say(pairing_text(made, made.pairing))
    return made


def _record_program(given: Mapping[str, Any], facts: dict[str, Json], talk: Talk) -> int:
    """Somebody's program: whatever ends it, what was recorded until then is written, and its exit code passed on."""
    from vlmtrace.capture.recorder import Recorder

    if given["output"] == destination.STDOUT:
        raise UsageError("'-o -' would mix the trace with the program's own output", "give -o FILE")
    job = program.parse(given["command"])
    place = destination.choose(given["output"], job.name, force=given["force"])
    recorder = Recorder(_recorder_options(job.name, given))
    recorder.workload = facts
    recorder.random_weights = given["random_weights"]
    with recorder:
        outcome = program.run(job)
    recording = recorder.finish(outcome.error)
    if not recording.generations:
        line = f"'{job.target if job.kind != 'code' else 'python -c'}' "
        failed = outcome.error is not None
        line += "failed before a generation began" if failed else "called no generate() of a transformers model"
        if recorder.batching:
            line += " but generate_batch(), which is not traced"
        click.echo(f"vlmtrace: error: {line}: nothing was recorded", err=True)
        return outcome.exit_code or EXIT_ERROR
    _deliver(recording, place, given, talk)
    return outcome.exit_code


def _dry_run(given: Mapping[str, Any], talk: Talk) -> int:
    from vlmtrace.capture.discovery.search import discover
    from vlmtrace.capture.environment import describe_model

    stages = record_options.stage_paths(given)
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


def _recorder_options(name: str, given: Mapping[str, Any]) -> RecorderOptions:
    from vlmtrace.capture.recorder import RecorderOptions

    if given["every"] > 1 and given["detail"] == "stage":
        raise UsageError(f"'--every {given['every']}' does nothing at --detail stage", "add --detail layer")
    return RecorderOptions(
        name=name,
        every=given["every"],
        detail=given["detail"],
        stages=record_options.stage_paths(given),
        keep_text=given["keep_text"],
        sample_gpu=given["sample_gpu"],
        memory=given["memory"],
    )


def _deliver(recording: Recording, place: destination.Destination, given: Mapping[str, Any], talk: Talk) -> None:
    """Show the summary and write the trace, if there is anything to show. Under nsys, whoever started it shows both."""
    if not recording.generations:
        return
    if given["handover"] is not None:
        given["handover"].trace = place.numbered().write(recording)
        return
    to_stderr = place.path is None or bool(given["command"])
    if given["summary"] and not (to_stderr and talk.quiet):
        show(summarise(recording), given["form"], err=to_stderr)
    written = place.write(recording)
    if written is None:
        return
    talk.say("")
    talk.say(f"Wrote {written} ({bytes_text(written.stat().st_size)})")
    talk.say(f"Next: vlmtrace open {written}")
