"""The report of a run, or of a chain of runs, in the forms that people and CI systems read."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any
from xml.etree import ElementTree as ET

from stagefleet.reports.advice import advice_for
from stagefleet.reports.junit import junit_of, printable
from stagefleet.runs.figures import FailureGroup, OutcomeCounts, RunFigures, instant
from stagefleet.runs.messages import subject_of
from stagefleet.runs.models import Outcome, Run


class Report:
    """The report of a run as it stands: what was done, how fast, what failed and why.

    Runs that follow it in its chain, as in a mirror or a purge, are part of it. The page and the JSON
    document have bounded lists beside exact totals: both stay small, however large a run is. Outcomes are
    read from the ledger when they are needed: once for page and JSON, once for JUnit.

    Attributes:
        run: The run, as it was when the report was asked for.
        runs: The run and those that follow it.
    """

    def __init__(self, runs: Sequence[Run], read_outcomes: Callable[[str], Iterable[Outcome]]) -> None:
        self.run = runs[0]
        self.runs = tuple(runs)
        self._read_outcomes = read_outcomes

    @cached_property
    def _figures(self) -> list[tuple[Run, RunFigures]]:
        found = [(run, RunFigures(run)) for run in self.runs]
        for run, figures in found:
            for outcome in self._read_outcomes(run.id):
                figures.add(outcome)
        return found

    def as_json(self) -> dict[str, Any]:
        """Return the report as one JSON document."""
        first, *following = [_document(run, figures) for run, figures in self._figures]
        return first | {"following": following}

    def html(self) -> str:
        """Return the report as one HTML page, which needs no script, no network and no other file."""
        return report_page(self._figures)

    def junit(self) -> Iterator[bytes]:
        """Yield JUnit XML for GitLab and Jenkins, in parts: a run is a test suite, an item is a test case.

        It has at most 28 MB, as GitLab takes no more: items that did not fail are left out first, and the
        properties of the suites tell how many. All outcomes are read before the first part.
        """
        return junit_of((run, self._read_outcomes(run.id)) for run in self.runs)


def _document(run: Run, figures: RunFigures) -> dict[str, Any]:
    """Return what the page tells of a run."""
    seconds = max(run.seconds, 0.001)
    return {
        **run.summary(),
        "is_finished": run.state.is_final,
        "left": max(0, run.total - figures.read),
        **subject_of(run.spec).facts,
        "parallel": run.spec.parallel,
        "key": run.spec.key,
        "parent": run.spec.parent,
        "version": str(run.version),
        "created_at": instant(run.created_at),
        "finished_at": None if run.finished_at is None else instant(run.finished_at),
        "error": None
        if run.error is None
        else run.error.model_dump() | {"advice": advice_for(run.error.type)},
        "bytes": figures.all.bytes,
        "bytes_per_second": round(figures.all.bytes / seconds),
        "items_per_second": round(figures.read / seconds, 3),
        "attempts": figures.attempts,
        "retried": figures.retried,
        "durations": figures.durations.as_json(),
        "bar_seconds": figures.bar_seconds,
        "failures": [
            {
                "type": group.type,
                "count": group.count,
                "advice": advice_for(group.type),
                "examples": group.examples,
            }
            for group in figures.failures
        ],
        **{
            name: [counts.as_json() | {"time_line": counts.time_line(figures.bars)} for counts in found]
            for name, found in (("hosts", figures.hosts), ("registries", figures.registries))
        },
        "slowest": figures.slowest,
        "notes": dict(figures.notes.most_common()),
    }


# The HTML page, which needs nothing else: no script, no network, no file beside it.
#
# It is built as a tree, so that every text is escaped by the one who writes it out. Charts are inline SVG
# whose colours are attributes: a server that forbids styles, as Jenkins does for archived files, still shows
# them.

_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.45 system-ui, sans-serif; max-width: 70rem; margin: 1.5rem auto; padding: 0 1rem; }
section + section { margin-top: 3rem; }
h1 { font-size: 1.4rem; margin: 0 0 .2rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1.2rem 0 .2rem; }
p { margin: .3rem 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .25rem .8rem .25rem 0; overflow-wrap: anywhere; }
th { font-weight: 600; }
thead th, td { border-bottom: 1px solid #8884; }
td.number, th.number { text-align: right; white-space: nowrap; }
td.host { white-space: nowrap; }
.facts th { width: 10rem; border-bottom: 1px solid #8884; }
.note { border-left: 4px solid #b26a00; padding: .3rem .8rem; background: #b26a0018; }
.state { font-weight: 600; }
.quiet { opacity: .75; }
code { font: .9em ui-monospace, monospace; }
svg { display: block; width: 100%; height: 60px; }
svg.key { display: inline-block; width: 10px; height: 10px; margin: 0 .3rem 0 .8rem; }
"""
_COLOURS = {"succeeded": "#2e7d32", "skipped": "#7d8590", "failed": "#c62828", "cancelled": "#b26a00"}
_BAR_WIDTH, _BAR_ROOM, _HEIGHT = 6, 7, 60
_FEWEST_BARS = 20  # for which there is room: those of a short run are no wider
_UNITS = ("bytes", "kB", "MB", "GB", "TB", "PB")
_LARGEST_OF_UNIT = 1000
_SHORT_SECONDS, _MINUTE_SECONDS, _HOUR_SECONDS = 0.1, 60, 3600

Child = ET.Element | str


def report_page(runs: Sequence[tuple[Run, RunFigures]]) -> str:
    """Build the page of a run and of those that follow it in its chain."""
    (first, _), *following = runs
    states = ", ".join(str(run.state) for run, _ in runs)
    digest = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    head = _tag(
        "head",
        _tag("meta", charset="utf-8"),
        _tag("meta", {"http-equiv": "Content-Security-Policy"}, content=policy),
        _tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        _tag("meta", name="referrer", content="no-referrer"),
        _tag("title", f"{_title(first)}: {states}"),
        _tag("style", _STYLE),
    )
    main = _tag("main")
    if following:
        main.append(_chain([run for run, _ in runs]))
    for run, figures in runs:
        main.append(_tag("section", _tag("h1", _title(run)), *_sections(run, figures)))
    written = ET.tostring(
        _tag("html", head, _tag("body", main), lang="en"), encoding="unicode", method="html"
    )
    return f"<!DOCTYPE html>\n{written}\n"


def _title(run: Run) -> str:
    return f"{run.spec.operation} {subject_of(run.spec)}".strip()


def _chain(runs: Sequence[Run]) -> ET.Element:
    """Build the table of the runs of a chain."""
    rows = [
        (_number(number), _title(run), str(run.state), _number(run.total), _number(run.failed))
        for number, run in enumerate(runs, 1)
    ]
    title = f"A chain of {len(runs)} runs: each starts when the one before it has ended"
    return _tag("section", _tag("h1", title), _table(("Run", "What", "State", "Items", "Failed"), rows))


def _sections(run: Run, figures: RunFigures) -> Iterable[ET.Element]:
    yield _tag("p", "Run ", _tag("code", run.id), " ", _tag("span", str(run.state), {"class": "state"}), ".")
    left = max(0, run.total - figures.read)
    if not run.state.is_final:
        text = (
            f"This run was not finished when the report was written, at {instant(run.now_at)}: "
            f"{left:,} of {run.total:,} items had no outcome yet."
        )
        yield _tag("p", text, {"class": "note"})
    if run.error is not None:
        yield _tag("p", f"{run.error.type}: {run.error.message}", {"class": "note"})
    yield _facts(run, figures, left)
    yield from _failures(figures.failures)
    yield from _time_lines("Hosts", figures.hosts, figures)
    yield from _time_lines("Registries", figures.registries, figures)
    yield from _slowest(figures.slowest)
    if figures.notes:
        yield _tag("h2", "Notes")
        rows = [(_number(count), note) for note, count in figures.notes.most_common()]
        yield _table(("Items", "Note"), rows)


def _facts(run: Run, figures: RunFigures, left: int) -> ET.Element:
    told = ", ".join(f"{getattr(run, state):,} {state}" for state in _COLOURS if getattr(run, state))
    durations, seconds = figures.durations, max(run.seconds, 0.001)
    sent = figures.all.bytes
    facts = {
        "Items": f"{run.total:,}: {told or 'none has ended'}",
        "Without outcome": f"{left:,}" if left else "",
        "Begun": instant(run.created_at),
        "Ended": "" if run.finished_at is None else instant(run.finished_at),
        "Took": _duration(run.seconds),
        "Sent": f"{_size(sent)}, {_size(sent / seconds)}/s" if sent else "",
        "Rate": f"{figures.read / seconds:,.1f} items a second, at most {run.spec.parallel} at once",
        "An item took": f"{_duration(durations.below(0.5))} in the middle, nine of ten at most "
        f"{_duration(durations.below(0.9))}, the longest {_duration(durations.longest)}",
        "Attempts": f"{figures.attempts:,}; {figures.retried:,} items were tried more than once",
        "Project": subject_of(run.spec).project,
        "Key": run.spec.key,
        "Continues": run.spec.parent,
        "Release": str(run.version),
    }
    rows = [_tag("tr", _tag("th", name), _tag("td", value)) for name, value in facts.items() if value]
    return _tag("table", _tag("tbody", *rows), {"class": "facts"})


def _failures(groups: Sequence[FailureGroup]) -> Iterable[ET.Element]:
    if not groups:
        return
    yield _tag("h2", "Failures")
    for group in groups:
        yield _tag("h3", f"{group.type}: {_items(group.count)}")
        yield _tag("p", advice_for(group.type))
        rows = [
            (_tag("code", row["item"]), _host(row), (row["error"] or {}).get("message", ""))
            for row in group.examples
        ]
        yield _table(("Item", "Host", "Message"), rows)
        if group.count > len(rows):
            yield _tag("p", f"and {group.count - len(rows):,} more", {"class": "quiet"})


def _time_lines(title: str, lines: Sequence[OutcomeCounts], figures: RunFigures) -> Iterable[ET.Element]:
    if not lines:
        return
    yield _tag("h2", title)
    width = f"each bar is {_duration(figures.bar_seconds)}"
    begins, ends = instant(figures.begins_at), instant(figures.begins_at + figures.bars * figures.bar_seconds)
    yield _tag("p", f"From {begins} to {ends}; {width}:", *_legend(), {"class": "quiet"})
    for line in lines:
        counts = ", ".join(f"{line.states[state]:,} {state}" for state in _COLOURS if line.states[state])
        sent = f", {_size(line.bytes)}" if line.bytes else ""
        yield _tag("h3", line.name)
        yield _tag("p", f"{counts}{sent}, {_duration(line.seconds)} of work")
        if line.bars:
            yield _chart(line, figures.bars)


def _legend() -> Iterable[Child]:
    for state, colour in _COLOURS.items():
        square = _tag("rect", width="10", height="10", fill=colour)
        yield _tag("svg", square, {"class": "key", "aria-hidden": "true"}, width="10", height="10")
        yield state


def _chart(counts: OutcomeCounts, bars: int) -> ET.Element:
    """Draw the bars of a time line, each a stack of its states; the highest bar has the full height."""
    line = counts.time_line(bars)
    highest = max(map(sum, zip(*line.values(), strict=True)))
    width = str(max(bars, _FEWEST_BARS) * _BAR_ROOM)
    chart = _tag(
        "svg",
        _tag("title", f"Outcomes of {counts.name} over time; the highest bar is {_items(highest)}"),
        role="img",
        viewBox=f"0 0 {width} {_HEIGHT}",
        preserveAspectRatio="none",
        height=str(_HEIGHT),
        width="100%",
    )
    tops = [float(_HEIGHT)] * bars
    for state, colour in _COLOURS.items():
        for number, count in enumerate(line.get(state, ())):
            if count:
                height = max(1.0, count / highest * _HEIGHT)
                tops[number] = max(0.0, tops[number] - height)
                place = {"x": str(number * _BAR_ROOM), "y": f"{tops[number]:.1f}", "width": str(_BAR_WIDTH)}
                text = _tag("title", f"{count:,} {state}")
                chart.append(_tag("rect", text, place, height=f"{height:.1f}", fill=colour))
    floor = {"y": str(_HEIGHT - 1), "width": width, "height": "1"}
    chart.append(_tag("rect", floor, x="0", fill="#8888"))
    return chart


def _slowest(rows: Sequence[dict[str, Any]]) -> Iterable[ET.Element]:
    if not rows:
        return
    yield _tag("h2", "Slowest items")
    yield _table(
        ("Took", "Sent", "Attempts", "State", "Item", "Host"),
        [
            (
                _number(_duration(row["seconds"])),
                _number(_size(row["bytes"])),
                _number(row["attempts"]),
                row["state"],
                _tag("code", row["item"]),
                _host(row),
            )
            for row in rows
        ],
    )


def _table(names: Sequence[str], rows: Sequence[Sequence[Child]]) -> ET.Element:
    """Build a table; cells are texts, or elements of their own. Columns without any text are left out."""
    cells = [
        [_tag("td", cell) if isinstance(cell, str) or cell.tag != "td" else cell for cell in row]
        for row in rows
    ]
    kept = [number for number in range(len(names)) if any("".join(row[number].itertext()) for row in cells)]
    classes = [cells[0][number].attrib for number in kept] if cells else []
    head = [_tag("th", names[number], attributes) for number, attributes in zip(kept, classes, strict=True)]
    body = [_tag("tr", *(row[number] for number in kept)) for row in cells]
    table = _tag("table", _tag("thead", _tag("tr", *head)), _tag("tbody", *body))
    return _tag("div", table, {"class": "scroll"})


def _number(value: object) -> ET.Element:
    text = f"{value:,}" if isinstance(value, int) else str(value)
    return _tag("td", text, {"class": "number"})


def _host(row: Mapping[str, Any]) -> ET.Element:
    return _tag("td", row["host"] or "", {"class": "host"})


def _tag(tag: str, /, *children: Child | dict[str, str], **attributes: str) -> ET.Element:
    """Build an element of texts and elements; a dictionary holds attributes that are no Python names."""
    made = ET.Element(tag, attributes)
    last: ET.Element | None = None
    for child in children:
        if isinstance(child, dict):
            made.attrib.update(child)
        elif not isinstance(child, str):
            made.append(child)
            last = child
        elif last is None:
            made.text = (made.text or "") + printable(child)
        else:
            last.tail = (last.tail or "") + printable(child)
    return made


def _items(count: int) -> str:
    return "1 item" if count == 1 else f"{count:,} items"


def _duration(seconds: float) -> str:
    """Format a duration: `25 ms`, `0.25 s`, `12.3 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds < _SHORT_SECONDS:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 1:
        return f"{seconds:.2f} s"
    if seconds < _MINUTE_SECONDS:
        return f"{seconds:.1f} s"
    if seconds < _HOUR_SECONDS:
        return f"{int(seconds // 60)} min {int(seconds % 60)} s"
    return f"{int(seconds // 3600):,} h {int(seconds % 3600 // 60)} min"


def _size(count: float) -> str:
    """Format a number of bytes in decimal units, as the command line does."""
    unit = 0
    while count >= _LARGEST_OF_UNIT and unit < len(_UNITS) - 1:
        count, unit = count / _LARGEST_OF_UNIT, unit + 1
    return f"{count:,.1f} {_UNITS[unit]}" if unit else f"{count:,.0f} bytes"
