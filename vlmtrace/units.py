"""Units: numbers to text, once, at the very edge. Inside the package times are integer nanoseconds."""

from __future__ import annotations

__all__ = ["NS_PER_MS", "NS_PER_S", "NS_PER_US", "bytes_text", "duration_text", "parameters_text"]

NS_PER_US = 1_000
NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000


def duration_text(ns: float) -> str:
    """A duration in the unit a person would choose: ``412 ns``, ``9.1 µs``, ``33.2 ms``, ``1.25 s``."""
    size = abs(ns)
    if size < NS_PER_US:
        return f"{ns:.0f} ns"
    if size < NS_PER_MS:
        return f"{ns / NS_PER_US:.3g} µs"
    if size < NS_PER_S:
        return f"{ns / NS_PER_MS:.3g} ms" if size < 100 * NS_PER_MS else f"{ns / NS_PER_MS:.0f} ms"
    return f"{ns / NS_PER_S:.3g} s" if size < 100 * NS_PER_S else f"{ns / NS_PER_S:.0f} s"


def bytes_text(size: int) -> str:
    """A file size in decimal units: ``812 B``, ``212 kB``, ``1.4 MB``."""
    if size < 1_000:
        return f"{size} B"
    if size < 1_000_000:
        return f"{size / 1_000:.0f} kB"
    return f"{size / 1_000_000:.1f} MB"


def parameters_text(count: int) -> str:
    """A parameter count as model cards write it: ``8.29 B``, ``494 M``, ``61.3 k``."""
    for size, unit in ((1_000_000_000, "B"), (1_000_000, "M"), (1_000, "k")):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return str(count)
