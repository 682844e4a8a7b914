"""vlmtrace: where a vision-language model spends its time, measured inside one real ``generate()``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlmtrace.api import (
        Session,
        audit_syncs,
        export,
        install,
        load,
        pair,
        profile_kernels,
        render,
        report_page,
        save,
        span,
        tag,
        trace,
    )
    from vlmtrace.errors import VlmtraceError
    from vlmtrace.timeline.recording import Recording

__all__ = [
    "Recording",
    "Session",
    "VlmtraceError",
    "audit_syncs",
    "export",
    "install",
    "load",
    "pair",
    "profile_kernels",
    "render",
    "report_page",
    "save",
    "span",
    "tag",
    "trace",
]

_HOME = {"VlmtraceError": "vlmtrace.errors", "Recording": "vlmtrace.timeline.recording"}


def __getattr__(name: str) -> Any:
    """Import on first use: ``import vlmtrace`` costs nothing, and reading a trace never needs torch."""
    if name == "__version__":
        from importlib.metadata import version

        return version("vlmtrace")
    if name not in __all__:
        raise AttributeError(f"module 'vlmtrace' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME.get(name, "vlmtrace.api")), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
