"""Compare counts that no clock touches with committed ones: `python -m scripts.bench.check [--update]`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from scripts.bench.counts import count_all
from tests.services import make_workspace

COMMITTED = Path(__file__).with_name("counts.json")


def main() -> int:
    """Count, and compare or write; 1 if a count differs."""
    parser = argparse.ArgumentParser(prog="scripts.bench.check", description=__doc__)
    parser.add_argument("--update", action="store_true", help="write what is counted, to be committed")
    options = parser.parse_args()
    with make_workspace() as folder:
        counted = count_all(folder)
    if options.update:
        COMMITTED.write_text(json.dumps(counted, indent=2) + "\n", "utf-8")
        return 0
    committed = json.loads(COMMITTED.read_text("utf-8"))
    problems = [line for name in committed | counted if (line := compare(name, committed, counted))]
    sys.stderr.writelines(line + "\n" for line in problems)
    if problems:
        sys.stderr.write("if it is meant, run scripts.bench.check --update, and say why in the commit\n")
    return 1 if problems else 0


def compare(name: str, committed: dict[str, int], counted: dict[str, int]) -> str:
    """Say how a count differs from the committed one; "" if it does not."""
    before, now = committed.get(name, "none"), counted.get(name, "none")
    return "" if before == now else f"{name}: {now} (committed: {before})"


if __name__ == "__main__":
    sys.exit(main())
