"""``python -m vlmtrace``: the command line."""

from __future__ import annotations

from vlmtrace.cli.main import main

if __name__ == "__main__":
    main()
