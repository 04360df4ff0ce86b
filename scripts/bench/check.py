"""Compare counts that no clock touches with committed ones: `python -m scripts.bench.check [--update]`."""

from __future__ import annotations

import argparse
import json
import sys
from math import inf
from pathlib import Path

from scripts.bench.counts import count_all
from tests.services import make_workspace

COMMITTED = Path(__file__).with_name("counts.json")


def main() -> int:
    """Count, and compare or write; 1 if a count has risen, or is on one side only."""
    parser = argparse.ArgumentParser(prog="scripts.bench.check", description=__doc__)
    parser.add_argument("--update", action="store_true", help="write what is counted, to be committed")
    options = parser.parse_args()
    with make_workspace() as folder:
        counted = count_all(folder)
    if options.update:
        COMMITTED.write_text(json.dumps(counted, indent=2) + "\n", "utf-8")
        return 0
    committed = json.loads(COMMITTED.read_text("utf-8"))
    changed = [name for name in committed | counted if committed.get(name) != counted.get(name)]
    for name in changed:
        sys.stderr.write(f"{name}: {counted.get(name)} (committed: {committed.get(name)})\n")
    if changed:
        sys.stderr.write("if it is meant, run scripts.bench.check --update, and say why in the commit\n")
    has_risen = any(counted.get(name, inf) > committed.get(name, -inf) for name in changed)
    return 1 if has_risen else 0


if __name__ == "__main__":
    sys.exit(main())
