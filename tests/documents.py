"""The blocks of code in the documents, as a reader finds them (https://spec.commonmark.org/0.31.2)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[1]

LANGUAGES = {
    "sh": "commands; bash runs them",
    "console": "commands after `$ `, and what they print; `...` and figures stand for any",
    "python": "a whole program; it runs",
    "toml": "settings; they are read",
    "yaml": "a job of GitLab or GitHub, whose commands run, or a registry's configuration, which starts one",
    "groovy": "a Jenkinsfile, whose shell steps run",
    "diff": "lines that a change adds to the file of the line `+++ b/FILE`; each is there, in this order",
    "json": "what a command prints or a webhook gets; its keys are compared",
    "usage": "commands with their options; each is looked up in the command line",
    "text": "a drawing, or what a command says meanwhile; no commands",
}

_MARK = re.compile(r"<!-- snippet: (?:not run: (?P<reason>.+)|(?P<alone>without a fleet)) -->")
MARKS = "`<!-- snippet: not run: REASON -->` or `<!-- snippet: without a fleet -->`"


class SnippetError(Exception):
    """A block that no test understands; the message says what to write."""


@dataclass(frozen=True, slots=True)
class Snippet:
    """A fenced block.

    Attributes:
        place: `FILE:LINE`, the line of its fence.
        language: The word behind its fence.
        text: What stands in it.
        not_run: Why it cannot run here, "" if it can: the comment on the line before its fence says it.
        alone: Whether it is for readers without a Redis; such a comment says so.
    """

    place: str
    language: str
    text: str
    not_run: str = ""
    alone: bool = False

    @property
    def page(self) -> str:
        """The file."""
        return self.place.partition(":")[0]


def pages() -> list[Path]:
    """Find all documents."""
    return [
        *sorted(ROOT.glob("*.md")),
        *sorted(ROOT.glob("docs/**/*.md")),
        *sorted(ROOT.glob("deploy/**/*.md")),
    ]


@cache
def snippets() -> tuple[Snippet, ...]:
    """Read the blocks of all documents."""
    return tuple(
        snippet
        for page in pages()
        for snippet in read_snippets(page.read_text(encoding="utf-8"), str(page.relative_to(ROOT)))
    )


def read_snippets(document: str, name: str) -> list[Snippet]:
    """Read the blocks of one document.

    Raises:
        SnippetError: A block is not fenced, its language is not known, or its comment says nothing.
    """
    found, mark, mark_end = [], "", -1
    for token in MarkdownIt("commonmark").parse(document):
        if token.map is None:
            continue
        place = f"{name}:{token.map[0] + 1}"
        if token.type == "html_block" and "snippet" in token.content:
            mark, mark_end = token.content.strip(), token.map[1]
        elif token.type == "code_block":
            raise SnippetError(f"{place}: a block is indented: put it between ``` and name its language")
        elif token.type == "fence":
            found.append(_snippet(place, token.info, token.content, mark if mark_end == token.map[0] else ""))
    return found


def _snippet(place: str, language: str, text: str, mark: str) -> Snippet:
    if language not in LANGUAGES:
        known = "; ".join(f"{name}: {meaning}" for name, meaning in LANGUAGES.items())
        raise SnippetError(
            f"{place}: {language or 'no language'!r}: write one of these behind the ```: {known}"
        )
    if not mark:
        return Snippet(place, language, text)
    said = _MARK.fullmatch(mark)
    if said is None:
        raise SnippetError(f"{place}: {mark!r} says nothing: write {MARKS}")
    return Snippet(place, language, text, not_run=said["reason"] or "", alone=said["alone"] is not None)


def transcript(text: str) -> list[tuple[str, list[str]]]:
    """Split a `console` block into commands and the lines that each prints.

    Raises:
        SnippetError: It begins with no command.
    """
    found: list[tuple[str, list[str]]] = []
    for line in filter(None, text.splitlines()):
        if line.startswith("$ "):
            found.append((line.removeprefix("$ "), []))
        elif line == "...":
            continue
        elif found:
            found[-1][1].append(line)
        else:
            raise SnippetError(f"a console block begins with `$ COMMAND`, not with {line!r}")
    return found


_ANY = re.compile(
    r"(?P<elision>\.\.\.)|(?P<time>\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)|"
    r"(?P<hex>\b(?=[0-9a-f]*[0-9])[0-9a-f]{4,}\b)|(?P<unit>\b[0-9][0-9.,]* [kMGT]?B\b)|"
    r"(?P<figure>\b[0-9][0-9.,]*)|(?P<space>\s+)"
)
_MEANT = {
    "elision": ".*",
    "time": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d",
    "hex": "[0-9a-f]+",
    "unit": "[0-9][0-9.,]* [kMGT]?B",
    "figure": "[0-9][0-9.,]*",
    "space": r"\s+",
}


def pattern_of(line: str) -> re.Pattern[str]:
    """Make a pattern of a line that a document shows: ids, figures and what it leaves out may differ."""
    parts, seen = [], 0
    for match in _ANY.finditer(line):
        parts += [re.escape(line[seen : match.start()]), _MEANT[str(match.lastgroup)]]
        seen = match.end()
    return re.compile("".join([*parts, re.escape(line[seen:])]))


def not_printed(shown: list[str], printed: str) -> list[str]:
    """The lines that a document shows and a command did not print, in this order."""
    lines = iter(line.strip() for line in printed.splitlines())
    return [line for line in shown if not any(pattern_of(line.strip()).fullmatch(one) for one in lines)]
