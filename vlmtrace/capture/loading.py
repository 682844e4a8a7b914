"""Loading: a model and its processor from a folder or the Hugging Face hub, or random weights from a config alone."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from vlmtrace.errors import UsageError, VlmtraceError

if TYPE_CHECKING:
    import torch

__all__ = [
    "DTYPES",
    "LoadOptions",
    "Loaded",
    "check_device",
    "check_installed",
    "check_source",
    "load",
    "load_demo",
    "one_line",
    "short_name",
]

DTYPES: Final = ("auto", "float32", "float16", "bfloat16")
_AUTO_CLASSES: Final = ("AutoModelForImageTextToText", "AutoModelForMultimodalLM", "AutoModelForCausalLM")
"""Tried in this order; the last one is for text-only models and for code of a repository's own."""

_LONGEST_REASON: Final = 240


_KNOWN_FAILURES: Final = (
    (
        ("couldn't connect", "offline mode"),
        "is neither a folder here nor in the cache, and the hub cannot be reached",
        "give a folder, or try again with a network",
    ),
    (
        ("is not a local folder and is not a valid model identifier", "is not a valid model identifier"),
        "is neither a folder here nor on the hub",
        "look at its spelling; a private one needs: hf auth login",
    ),
    (
        ("Error no file named", "does not appear to have a file named"),
        "comes without weights",
        "give --random-weights to build it from its config alone",
    ),
    (
        (
            "Can't load image processor",
            "Can't load tokenizer",
            "Can't load feature extractor",
            "Unrecognized processing",
        ),
        "comes without a processor",
        "save one beside it: processor.save_pretrained(FOLDER)",
    ),
)
"""What transformers says at length, what that means in short, and what to do about it."""


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """What to load and how. ``dtype`` is one of :data:`DTYPES`; ``device`` ``None`` takes the first GPU or the CPU.

    ``random_weights`` builds from the config alone, on the device; device ``meta`` gives a model without storage,
    which cannot run but whose modules can be looked at. ``bars`` lets the libraries draw their progress on stderr.
    """

    model: str
    dtype: str = "auto"
    device: str | None = None
    attention: str | None = None
    trust_remote_code: bool = False
    random_weights: bool = False
    seed: int = 0
    bars: bool = False


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model in evaluation mode, and the processor (or, for a text-only model, the tokenizer) that feeds it.

    ``processor`` is ``None`` on device ``meta``, where nothing can run.
    """

    name: str
    model: Any
    processor: Any
    random_weights: bool


def check_installed() -> None:
    """Refuse in one line where recording cannot work at all.

    Raises:
        VlmtraceError: torch, transformers or Pillow is not installed.
    """
    missing = [
        name
        for name, module in (("torch", "torch"), ("transformers", "transformers"), ("Pillow", "PIL"))
        if importlib.util.find_spec(module) is None
    ]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise VlmtraceError(
            f"recording needs {' and '.join(missing)}, which {verb} not installed", "pip install 'vlmtrace[record]'"
        )


def check_source(model: str) -> None:
    """Refuse a model that cannot be there, before anything heavy is imported.

    Raises:
        UsageError: ``model`` is a folder without ``config.json``, a file, or a path to nothing.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UsageError(f"folder '{model}' has no config.json", "give a folder made by save_pretrained()")
    elif path.exists():
        raise UsageError(f"'{model}' is a file", "give the model's folder or its hub ID")
    elif not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", model):
        raise UsageError(f"there is no model folder '{model}'", "give an existing folder or a hub ID such as org/name")


def check_device(device: str | None) -> torch.device:
    """The torch device that ``device`` names; ``None`` is the current GPU where there is one, else the CPU.

    Raises:
        UsageError: no such kind of device.
        VlmtraceError: a GPU is asked for that is not there.
    """
    import torch

    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        made = torch.device(device)
    except RuntimeError:
        made = None
    if made is None or made.type not in {"cpu", "cuda", "meta"}:
        raise UsageError(f"unknown device '{device}'", "give cpu, cuda or cuda:N")
    if made.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count == 0:
            raise VlmtraceError(f"device '{device}' was asked for, but torch sees no CUDA GPU", "give --device cpu")
        if made.index is not None and made.index >= count:
            raise VlmtraceError(f"there is no device '{device}': torch sees {count}", "give cuda:0 or the like")
    return made


def load(options: LoadOptions) -> Loaded:
    """The model and processor of ``options``, the model on its device and in evaluation mode.

    Raises:
        VlmtraceError: anything that keeps them from loading, in one line; the cause is chained.
    """
    check_source(options.model)
    device = check_device(options.device)
    if options.dtype not in DTYPES:
        raise UsageError(f"unknown dtype '{options.dtype}'", f"give one of {', '.join(DTYPES)}")
    transformers = _transformers()
    transformers.set_seed(options.seed)
    folder = Path(options.model).expanduser()
    source = str(folder) if folder.is_dir() else options.model
    trust = options.trust_remote_code
    try:
        with _progress_bars(options.bars):
            config = transformers.AutoConfig.from_pretrained(source, trust_remote_code=trust)
            processor = None
            if device.type != "meta":
                # Small and quick to fail: before the weights.
                processor = transformers.AutoProcessor.from_pretrained(source, trust_remote_code=trust)
            model = _model(source, config, options, device)
    except VlmtraceError:
        raise
    except Exception as error:
        raise _explained(error, options) from error
    random_weights = options.random_weights or device.type == "meta"
    return Loaded(short_name(options.model), model.eval(), processor, random_weights)


def load_demo(seed: int, device: str | None) -> Loaded:
    """The built-in model and its processor, on ``device``."""
    from vlmtrace.capture import demo

    place = check_device(device)
    model, processor = demo.build(seed)
    return Loaded(demo.DEMO_NAME, model.to(place), processor, random_weights=True)


def short_name(model: str) -> str:
    """What a model is called in titles and file names: the last part of its ID or path, in lower case."""
    parts = [part for part in Path(model).expanduser().parts if part not in {"/", ".", ".."}]
    last = parts[-1] if parts else Path(model).resolve().name
    return re.sub(r"[^a-z0-9._-]+", "-", last.lower()).strip("-.") or "model"


def one_line(error: BaseException) -> str:
    """An exception as one line of bounded length: its type and what it says."""
    text = " ".join(str(error).split())
    if len(text) > _LONGEST_REASON:
        text = text[:_LONGEST_REASON].rstrip() + "…"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _transformers() -> Any:
    """The library, imported only when a model is loaded, and as ``Any``: which of its parts are typed varies."""
    return importlib.import_module("transformers")


@contextlib.contextmanager
def _progress_bars(shown: bool) -> Iterator[None]:
    """The bars of transformers and of the hub, shown or not; afterwards as they were."""
    logging = _transformers().utils.logging
    before = logging.is_progress_bar_enabled()
    switch = {True: logging.enable_progress_bar, False: logging.disable_progress_bar}
    switch[shown]()
    try:
        yield
    finally:
        switch[before]()


def _model(source: str, config: Any, options: LoadOptions, device: torch.device) -> Any:
    import torch

    auto = _auto_class(config, options)
    more: dict[str, Any] = {"trust_remote_code": options.trust_remote_code}
    if options.attention is not None:
        more["attn_implementation"] = options.attention
    if not options.random_weights and device.type != "meta":
        return auto.from_pretrained(source, dtype=options.dtype, **more).to(device)
    with torch.device(device):
        model = auto.from_config(config, dtype=_built_dtype(config, options.dtype), **more)
    _take_generation_config(model, source)
    return model


def _auto_class(config: Any, options: LoadOptions) -> Any:
    """The first of the auto classes that knows this config, by transformers' tables or by the repository's own."""
    transformers = _transformers()
    own = getattr(config, "auto_map", None) or {}
    for name in _AUTO_CLASSES:
        auto = getattr(transformers, name, None)
        if auto is None:
            continue
        if type(config) in auto._model_mapping or name in own:
            return auto
    raise VlmtraceError(
        f"model '{options.model}' is of type '{config.model_type}', which transformers cannot load to generate text",
        "give an image-text-to-text or a causal language model",
    )


def _built_dtype(config: Any, dtype: str) -> torch.dtype:
    """The dtype to build random weights in: the given one, else the config's or its text part's, else float32."""
    import torch

    if dtype != "auto":
        made: torch.dtype = getattr(torch, dtype)
        return made
    for place in (config, config.get_text_config()):
        found = getattr(place, "dtype", None)
        found = getattr(torch, found, None) if isinstance(found, str) else found
        if isinstance(found, torch.dtype):
            return found
    return torch.float32


def _take_generation_config(model: Any, source: str) -> None:
    """The checkpoint's generation settings, where it has some: what ``from_pretrained`` would have done."""
    try:
        model.generation_config = _transformers().GenerationConfig.from_pretrained(source)
    except OSError:
        return


def _explained(error: Exception, options: LoadOptions) -> VlmtraceError:
    """The one line that says what to do about the failures people meet, and what happened for all others."""
    import torch

    text = str(error)
    subject = f"model '{options.model}'"
    if "trust_remote_code" in text:
        return VlmtraceError(f"{subject} comes with code of its own", "read it, then give --trust-remote-code")
    if importlib.util.find_spec("torchvision") is None and "torchvision" in text.lower():
        return VlmtraceError(f"{subject} needs torchvision, which is not installed", "pip install 'vlmtrace[vision]'")
    if options.attention is not None and ("attn_implementation" in text or "flash" in text.lower()):
        return VlmtraceError(f"{subject} cannot run with --attn '{options.attention}' here", "give sdpa or eager")
    if isinstance(error, torch.OutOfMemoryError):
        return VlmtraceError(f"{subject} does not fit into the GPU's memory", "give --dtype bfloat16 or --device cpu")
    for phrases, what, remedy in _KNOWN_FAILURES:
        if any(phrase in text for phrase in phrases):
            return VlmtraceError(f"{subject} {what}", remedy)
    return VlmtraceError(f"{subject} could not be loaded: {one_line(error)}")
