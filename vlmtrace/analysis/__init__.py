"""Recordings in, recordings or numbers out: statistics, accounting, metrics, launch verdicts, summaries."""
