"""Viewer: what shows a trace as Perfetto sees it: a server for its UI, and its trace processor for SQL and checks.

This room takes files, not recordings: what a trace should hold is told to it. The API and the command line may import
it; it imports errors, units and the timeline's names, and beside perfetto only what the extras ``offline`` and
``query`` bring, where they are installed.
"""
