#!/usr/bin/env python3
"""What must hold of pairing with a real report of Nsight Systems: each kernel in the stage that plain SQL gives it.

    python tests/gpu/pairing_check.py PAIRED.pftrace REPORT.sqlite

The SQL knows nothing of the package: a kernel's launch is the call with its correlation id in its process, and its
stage is told by the innermost of vlmtrace's ranges around that call on its thread. One line of JSON; exit code 1 if
the two differ anywhere or a kernel is lost or counted twice.
"""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing

INNERMOST = """
CREATE TEMP TABLE ranges AS
  SELECT n.globalTid AS thread, n.start AS begins, n.end AS ends,
         COALESCE(n.text, (SELECT value FROM StringIds WHERE id = n.textId)) AS name
  FROM NVTX_EVENTS n
  JOIN NVTX_EVENTS d ON d.eventType = 75 AND d.domainId = n.domainId AND d.globalTid >> 24 = n.globalTid >> 24
  WHERE n.eventType = 59 AND d.text = 'vlmtrace';
CREATE INDEX temp.of_thread ON ranges (thread, begins);
CREATE TEMP TABLE calls AS
  SELECT globalTid AS thread, globalTid >> 24 AS process, correlationId AS id, start
  FROM CUPTI_ACTIVITY_KIND_RUNTIME;
CREATE INDEX temp.of_call ON calls (id, process);
CREATE TEMP TABLE launched AS SELECT correlationId AS id, globalPid >> 24 AS process FROM CUPTI_ACTIVITY_KIND_KERNEL;
"""
GRAPHS = """
INSERT INTO launched SELECT correlationId, globalPid >> 24 FROM CUPTI_ACTIVITY_KIND_GRAPH_TRACE;
"""
WITHIN = ("vision", "prefill", "decode.step")
"""Stages that are ranges; what is in ``decode`` or ``generate`` only lies between them."""

AROUND = "ranges.thread = calls.thread AND begins <= calls.start AND (ends IS NULL OR ends >= calls.start)"
COUNTS = f"""
SELECT COALESCE((SELECT name FROM ranges WHERE {AROUND} AND name IN {WITHIN} ORDER BY begins DESC LIMIT 1),
                (SELECT 'between' FROM ranges WHERE {AROUND} LIMIT 1), 'nowhere') AS stage, COUNT(*)
FROM launched LEFT JOIN calls ON calls.id = launched.id AND calls.process = launched.process GROUP BY stage
"""


def by_sql(report: str) -> Counter[str]:
    found: Counter[str] = Counter()
    with closing(sqlite3.connect(f"file:{report}?mode=ro", uri=True)) as db:
        db.executescript(INNERMOST)
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master")}
        if "CUPTI_ACTIVITY_KIND_GRAPH_TRACE" in tables:
            db.execute(GRAPHS)
        found.update(dict(db.execute(COUNTS)))
    return found


def by_vlmtrace(trace: str) -> tuple[Counter[str], dict[str, object]]:
    command = [sys.executable, "-m", "vlmtrace", "summary", "--kernels", "--format", "json", trace]
    document = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    document = document[0] if isinstance(document, list) else document
    kernels = document["kernels"]
    found: Counter[str] = Counter()
    for stage in kernels["stages"]:
        name = stage["stage"]
        within = "decode.step" if name == "step" else name
        found[within if within in WITHIN else "between"] += stage["kernels_in_all"]
    found["nowhere"] = sum(kernels["unattributed"].values())
    whole = {key: kernels[key] for key in ("kernels", "in_stages", "unattributed", "outside", "report")}
    return found, whole


def main() -> None:
    trace, report = sys.argv[1:]
    sql, (ours, whole) = by_sql(report), by_vlmtrace(trace)
    lost = whole["kernels"] != sum(ours.values()) or whole["kernels"] != sum(sql.values())
    same = +sql == +ours
    print(json.dumps({"check": "pairing", "trace": trace, "same": same, "sql": sql, "vlmtrace": ours, **whole}))
    sys.exit(lost or not same)


if __name__ == "__main__":
    main()
