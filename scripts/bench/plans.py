"""A plan that compares two tag lists of a million stages: its time and its memory.

The lists come from a server in a process of its own, as no registry has a million tags within minutes.
"""

from __future__ import annotations

import subprocess
import sys
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from scripts.bench.figures import Figures, median_of, spread_of
from scripts.bench.memory import peak_megabytes
from tests.services import clean_environment

__all__ = ["measure_plans"]

_STAGES = 1_000_000
_LACKING = 1000
"""The destination lacks one stage of so many."""
_PAGE = 1000
_STEP = 16**56 // _STAGES
_DRY_RUN = """
import sys, time
from pathlib import Path
from stagefleet import CopyOperation, Fleet
begins_at = time.monotonic()
with Fleet.embedded() as fleet:
    plan = fleet.plan(CopyOperation(source=sys.argv[1], destination=sys.argv[2]))
print(len(plan.items), len(plan.skipped), time.monotonic() - begins_at, time.process_time())
print(Path("/proc/self/status").read_text())
"""


def measure_plans(figures: Figures, _folder: Path, rounds: int) -> None:
    """Compare two lists of a million stages, in pages of a thousand, in a process of its own each time."""
    with _serving() as host:
        plans = [_plan(host) for _ in range(rounds)]
    seconds, cpu_seconds, megabytes = map(list, zip(*plans, strict=True))
    figures.add("a million stages compared with a million", spread_of(seconds), "< 15 s")
    figures.add("  CPU of the process", f"{median_of(cpu_seconds):.1f} s")
    figures.add("  its memory", f"{max(megabytes):.0f} MiB", "< 150 MB")


def _plan(host: str) -> tuple[float, float, float]:
    done = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-c", _DRY_RUN, f"{host}/app/all", f"{host}/app/most"],
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    counts, _, status = done.stdout.partition("\n")
    items, skipped, seconds, cpu_seconds = counts.split()
    if (int(items), int(skipped)) != (_STAGES // _LACKING, _STAGES - _STAGES // _LACKING):
        raise RuntimeError(f"the plan is wrong: {counts}")
    return float(seconds), float(cpu_seconds), peak_megabytes(status)


@contextmanager
def _serving() -> Iterator[str]:
    """Serve the lists in another process; yields `host:port`."""
    command = [sys.executable, "-m", "scripts.bench.plans"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:  # noqa: S603 - this module
        assert server.stdout is not None
        try:
            yield server.stdout.readline().strip()
        finally:
            server.kill()


class _TagLists(BaseHTTPRequestHandler):
    """Tag lists in order: `app/all` has all stages, `app/most` all but one of a thousand."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer a page, with a link to the next one."""
        parts = urlsplit(self.path)
        query = parse_qs(parts.query)
        begin = bisect_right(range(_STAGES), query.get("last", [""])[0], key=_stage)
        end = min(begin + min(int(query.get("n", [str(_PAGE)])[0]), _PAGE), _STAGES)
        numbers: Iterable[int] = range(begin, end)
        if "/most/" in parts.path:
            numbers = (number for number in numbers if number % _LACKING)
        body = b'{"name":"app","tags":["' + '","'.join(map(_stage, numbers)).encode() + b'"]}'
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if end < _STAGES:
            self.send_header("Link", f'<{parts.path}?n={_PAGE}&last={_stage(end - 1)}>; rel="next"')
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _stage(number: int) -> str:
    return f"{number * _STEP:056x}-{1_700_000_000_000 + number}"


def _serve() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _TagLists)
    sys.stdout.write(f"127.0.0.1:{server.server_port}\n")
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    _serve()
