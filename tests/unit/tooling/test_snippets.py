"""The blocks of code in the documents are of kinds that tests run, and name what there is."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from collections import Counter

import pytest
import typer
import yaml

from stagefleet.cli.app import app
from stagefleet.settings import load_settings
from tests.documents import LANGUAGES, ROOT, SnippetError, not_printed, read_snippets, snippets, transcript

MOST_NOT_RUN = 6
COMMANDS = typer.main.get_command(app)
A_COMMAND = re.compile(r"(?:\$ |stagefleet [a-z]|make [a-z]|docker |curl |pip |pipx |python3? |kubectl )")


def of(*languages):
    chosen = [snippet for snippet in snippets() if snippet.language in languages]
    return pytest.mark.parametrize("snippet", chosen, ids=lambda snippet: snippet.place)


def test_there_are_snippets_of_each_kind():
    found = Counter(snippet.language for snippet in snippets())
    assert set(LANGUAGES) == set(found)


def test_few_snippets_cannot_run_here_and_each_says_why():
    reasons = {snippet.place: snippet.not_run for snippet in snippets() if snippet.not_run}
    assert len(reasons) <= MOST_NOT_RUN, f"make them run, or say why there have to be more: {reasons}"


@of("sh")
def test_shells_understand_it(snippet):
    subprocess.run(["bash", "-n"], input=snippet.text, text=True, check=True, timeout=30)


@of("console")
def test_a_transcript_shows_commands_that_shells_understand(snippet):
    commands = [command for command, _ in transcript(snippet.text)]
    assert commands
    subprocess.run(["bash", "-n"], input="\n".join(commands), text=True, check=True, timeout=30)


@of("python")
def test_python_understands_it(snippet):
    compile(snippet.text, snippet.place, "exec", dont_inherit=True)


@of("toml")
def test_settings_are_read(snippet, tmp_path, monkeypatch):
    file = tmp_path / "stagefleet.toml"
    file.write_text(snippet.text)
    monkeypatch.setenv("STAGEFLEET_CONFIG", str(file))
    settings = load_settings().model_dump(exclude_unset=True)
    assert set(tomllib.loads(snippet.text)) <= set(settings)


@of("yaml")
def test_yaml_is_understood(snippet):
    assert isinstance(yaml.safe_load(snippet.text), dict)


@of("json")
def test_json_is_understood(snippet):
    assert objects_of(snippet.text)


@of("text")
def test_what_is_no_command_holds_none(snippet):
    assert [] == [line for line in snippet.text.splitlines() if A_COMMAND.match(line)]


@of("diff")
def test_what_a_change_adds_is_there(snippet):
    """Lines of `...` stand for any others."""
    assert [] == list(lines_not_there(snippet.text))


def lines_not_there(diff):
    lines = iter(())
    for line in diff.splitlines():
        if line.startswith("+++ b/"):
            lines = iter((ROOT / line.removeprefix("+++ b/")).read_text().splitlines())
        elif line != "..." and not (line.startswith("+") and line[1:] in lines):
            yield line


@of("usage")
def test_commands_and_options_exist(snippet):
    lines = re.sub(r"\n\s+", " ", snippet.text).splitlines()
    assert lines
    assert [] == [problem for line in lines for problem in problems_of(line)]


def objects_of(text):
    decoder, found, text = json.JSONDecoder(), [], text.strip()
    while text:
        value, end = decoder.raw_decode(text)
        found.append(value)
        text = text[end:].lstrip()
    return found


def problems_of(line):
    """What a line of a synopsis names and the command line does not have."""
    program, *words = re.sub(r"\s#\s.*|\s{3,}\S.*", "", line).split()
    if program != "stagefleet":
        return [f"{line!r} begins with no `stagefleet`"]
    command = COMMANDS
    while hasattr(command, "commands"):
        name, *words = words or [""]
        if name not in command.commands:
            return [f"{line!r}: there is no {name!r}"]
        others = re.findall(r"\| ([a-z][a-z-]*)", " ".join(words))
        group, command = command, command.commands[name]
        if group is not COMMANDS:
            gone = [other for other in others if other not in group.commands]
            known = {option for one in group.commands.values() for option in options_of(one)}
            return [f"{line!r}: there is no {one!r}" for one in [*gone, *(set(named(words)) - known)]]
    return [f"{line!r}: there is no {one!r}" for one in set(named(words)) - options_of(command)]


def named(words):
    return re.findall(r"(?<![\w-])--?[a-z][a-z-]*", " ".join(words))


def options_of(command):
    return {name for parameter in command.params for name in [*parameter.opts, *parameter.secondary_opts]}


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ("```fortran\nend\n```\n", "'fortran': write one of these"),
        ("```\nls\n```\n", "'no language': write one of these"),
        ("text\n\n    ls\n", "indented: put it between ```"),
        (
            "<!-- snippet: skip -->\n```sh\nls\n```\n",
            "says nothing: write `<!-- snippet: not run: REASON -->`",
        ),
        ("<!-- snippet: not run -->\n```sh\nls\n```\n", "says nothing"),
    ],
)
def test_a_block_that_no_test_understands_says_what_to_write(document, told):
    with pytest.raises(SnippetError, match=r"page\.md:\d") as caught:
        read_snippets(document, "page.md")
    assert told in str(caught.value)


def test_a_comment_on_the_line_before_says_why_a_block_does_not_run():
    document = "<!-- snippet: not run: needs a cluster -->\n```sh\nls\n```\n\n```sh\nls\n```\n"
    assert ["needs a cluster", ""] == [snippet.not_run for snippet in read_snippets(document, "page.md")]


def test_a_synopsis_is_held_against_the_command_line():
    assert [] == problems_of("stagefleet list REPO [-l] [--json]       what is there  --nonsense")
    assert [] == problems_of("stagefleet runs list | show RUN | cancel RUN [--now]")
    assert 1 == len(problems_of("stagefleet lst REPO"))
    assert 1 == len(problems_of("stagefleet list REPO [--jsn]"))
    assert 1 == len(problems_of("stagefleet runs list | shw RUN"))


def test_what_a_command_prints_may_differ_in_ids_and_figures_alone():
    shown = [
        "run b09c9fde1c98 succeeded: 81 stages (81 copied), 13.6 MB in 4.4 s",
        "3f1c...e07b-1764028800000",
    ]
    assert [] == not_printed(
        shown, "a note\nrun 00ffee001122 succeeded: 3 stages (3 copied), 600 B in 0.4 s\n3f1c11e07b-17"
    )
    assert shown[:1] == not_printed(shown[:1], "run 00ffee001122 failed: 3 stages (3 copied), 600 B in 0.4 s")
    assert shown[1:] == not_printed(shown, "run 00ffee001122 succeeded: 3 stages (3 copied), 6 kB in 0.4 s")
    assert [] == not_printed(["2026-11-29T07:05:02+00:00  run"], "2026-12-01T23:59:08+00:00    run")
