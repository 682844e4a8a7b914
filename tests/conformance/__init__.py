"""Conformance: what vlmtrace tells of a model against what really ran in it, seen by other means."""
