"""The environment: what machine, which versions and which model a recording was made with."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vlmtrace.capture.discovery.anatomy import Anatomy
from vlmtrace.timeline.recording import Json, TracedModel

__all__ = ["describe_model", "environment", "working_device"]

_PACKAGES = ("vlmtrace", "torch", "transformers", "accelerate", "nvtx", "torchvision", "pillow")


def environment() -> dict[str, Json]:
    """Versions, machine and GPU. No host name, user or path: a trace is made to be shared."""
    found: dict[str, Json] = {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": _cpu(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "cpu_threads": torch.get_num_threads(),
        "cuda": torch.version.cuda,
        "hip": torch.version.hip,
        "gpu": None,
        "gpus": 0,
    }
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        properties = torch.cuda.get_device_properties(torch.cuda.current_device())
        found |= {
            "gpu": properties.name,
            "gpus": torch.cuda.device_count(),
            "gpu_memory_bytes": properties.total_memory,
            "compute_capability": f"{properties.major}.{properties.minor}",
            "driver": _driver(),
            "gpu_clock_mhz": _gpu_clock_mhz(),
        }
    return found


def describe_model(anatomy: Anatomy) -> TracedModel:
    """What a person calls the model, how large it is, and where its stages were found."""
    root = anatomy.root
    config = getattr(root, "config", None)
    name = str(getattr(config, "name_or_path", "") or "")
    first = next(root.parameters(), None)
    device = working_device(root)
    return TracedModel(
        name=Path(name).name if name.startswith(("/", ".", "~")) else name or type(root).__name__,
        class_name=type(root).__name__,
        model_type=str(getattr(config, "model_type", "") or ""),
        parameters=count_parameters(root),
        random_weights=False,
        dtype="" if first is None else str(first.dtype).removeprefix("torch."),
        device="" if device is None else str(device),
        attention=str(getattr(config, "_attn_implementation", "") or ""),
        stages=anatomy.stages(),
        notes=(*anatomy.notes, *_offloaded(root)),
    )


def working_device(model: nn.Module) -> torch.device | None:
    """Where a model's work runs: as accelerate's hooks say, else where its parameters are; ``None`` if nothing tells.

    Offloaded weights rest elsewhere, on ``meta`` between calls. The outermost hook that names a device counts: that of
    an offloaded model's root may name none.
    """
    for module in model.modules():
        for one in _hooks(module):
            device = getattr(one, "execution_device", None)
            if device is not None:
                return torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
    return next((p.device for p in model.parameters() if p.device.type != "meta"), None)


def _offloaded(model: nn.Module) -> tuple[str, ...]:
    """A note where accelerate brings weights in for each call and takes them away after it."""
    if not any(getattr(hook, "offload", False) for module in model.modules() for hook in _hooks(module)):
        return ()
    return ("weights are offloaded: bringing them in for each call is part of the stages",)


def _hooks(module: nn.Module) -> tuple[Any, ...]:
    """The hooks that accelerate has put on a module."""
    hook = getattr(module, "_hf_hook", None)
    return tuple(getattr(hook, "hooks", (hook,)))


def count_parameters(model: nn.Module) -> int:
    """Elements of all parameters, each shared tensor once."""
    return sum(parameter.numel() for parameter in model.parameters())


def _cpu() -> str:
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as lines:
            return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    except OSError:
        return platform.processor()


def _driver() -> str | None:
    try:
        with Path("/proc/driver/nvidia/version").open(encoding="utf-8") as lines:
            words = next(lines).split()
    except (OSError, StopIteration):
        return None
    return next((word for word in words if word[0].isdigit() and "." in word), None)


def _gpu_clock_mhz() -> int | None:
    """The SM clock right now, where NVML can be asked (torch's own query needs it too)."""
    try:
        return int(torch.cuda.clock_rate())
    except (ImportError, ModuleNotFoundError, RuntimeError, OSError):
        return None
