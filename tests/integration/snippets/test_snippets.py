"""Each block of code in the documents runs as it stands, with hosts replaced by the tests' own."""

from __future__ import annotations

import itertools
import json
import re
import textwrap
from contextlib import ExitStack

import pytest
import yaml
from junitparser import JUnitXml

from tests.documents import not_printed, snippets, transcript
from tests.integration.snippets.stand import Stand
from tests.services import push_image, stage_id_of

JOB_KEYS = {"image", "variables", "before_script", "script", "after_script", "retry", "artifacts"}
"""Those of a GitLab job (https://docs.gitlab.com/ci/yaml/) that the documents use."""
RUNNER_KEYS = {"runs-on", "container", "env", "steps"}
STEP_KEYS = {"uses", "with", "run", "if"}
PRINTED = "\0next\n"
STEPS_OF_JENKINS = re.compile(r"""sh (?:'{3}(.*?)'{3}|'([^'\n]+)')""", re.DOTALL)


@pytest.fixture(scope="module")
def made_stand(service_folder):
    with ExitStack() as stack:
        yield Stand(service_folder, stack)


@pytest.fixture
def stand(made_stand):
    made_stand.renew()
    return made_stand


@pytest.fixture
def run(stand):
    """Runs a script; what it started in the fleet has to succeed."""

    def run(script, **options):
        stand.needs(script)
        before, calls = stand.runs(), len(stand.receiver.calls)
        ended = stand.run(script, **options)
        assert 0 == ended.code, f"ended with {ended.code}:\n{ended.out}\n{ended.err}"
        if stand.receiver.url in script:
            stand.receiver.wait_for(
                lambda came: any("summary" in call.message["data"] for call in came[calls:])
            )
        assert [] == stand.unsuccessful(stand.runs() - before), ended.err
        return ended

    return run


def of(language):
    chosen = [snippet for snippet in snippets() if snippet.language == language and not snippet.not_run]
    return pytest.mark.parametrize("snippet", chosen, ids=lambda snippet: snippet.place)


def bash(text):
    """A script that ends with the first failure, also inside pipes that are read to their end."""
    return f"set -eu{'' if '| head' in text else 'o pipefail'}\n{text}"


@of("sh")
def test_commands_run(snippet, stand, run):
    run(bash(stand.replaced(snippet.text)), alone=snippet.alone)


@of("console")
def test_commands_print_what_is_shown(snippet, stand, run):
    shown = transcript(stand.replaced(snippet.text))
    script = "".join(f"{command}\nprintf '%b' '\\0next\\n'\n" for command, _ in shown)
    printed = run(bash(script), alone=snippet.alone).out.split(PRINTED)
    for (command, lines), came in zip(shown, printed, strict=False):
        assert [] == not_printed(lines, came), f"$ {command}\n{came}"


@of("python")
def test_a_program_runs(snippet, stand, run):
    run(stand.replaced(snippet.text), file="snippet.py", alone=snippet.alone)


@of("yaml")
def test_a_job_runs(snippet, stand, run, make_registry):
    document = yaml.safe_load(stand.replaced(snippet.text))
    if "jobs" in document:
        run_github(document, run)
    elif "storage" in document:
        check_registry(document, make_registry)
    else:
        run_gitlab(document, run)


def run_gitlab(document, run):
    ((_, job),) = document.items()
    assert set() == set(job) - JOB_KEYS
    parts = (job.get(name, []) for name in ("before_script", "script", "after_script"))
    script = "\n".join(["set -eo pipefail", *itertools.chain.from_iterable(parts)])
    ended = run(script, **{name: str(value) for name, value in job["variables"].items()})
    kept = [(ended.folder / path).read_text() for path in job["artifacts"]["paths"]]
    assert "succeeded" == json.loads(kept[0].splitlines()[-1])["state"]
    (suite,) = JUnitXml.fromstring((ended.folder / job["artifacts"]["reports"]["junit"]).read_bytes())
    assert suite.tests > 0
    assert suite.tests == json.loads(kept[0].splitlines()[-1])["total"]


def run_github(document, run):
    ((_, job),) = document["jobs"].items()
    assert set() == set(job) - RUNNER_KEYS
    assert set() == {key for step in job["steps"] for key in step} - STEP_KEYS
    steps = [step["run"] for step in job["steps"] if "run" in step]
    run("\n".join(["set -e", *steps]), **job.get("env", {}))


@of("groovy")
def test_the_shell_steps_of_a_jenkinsfile_run(snippet, stand, run):
    text = stand.replaced(snippet.text)
    (environment,) = re.findall(r"environment \{(.*?)\n *\}\n", text, re.DOTALL)
    exports = [f"export {name}={value}" for name, value in re.findall(r"([A-Z_]+) = (.+)", environment)]
    steps = [first or last for first, last in STEPS_OF_JENKINS.findall(text)]
    assert len(steps) > 1
    run("\n".join(["set -xe", *exports, *map(textwrap.dedent, steps)]))


def check_registry(document, make_registry):
    registry = make_registry(delete=document["storage"]["delete"]["enabled"])
    pushed = push_image(registry, "app", stage_id_of("a stage"))
    with registry.session() as session:
        answer = session.delete(f"{registry.url}/v2/app/manifests/{pushed.digest}", timeout=10)
    assert 202 == answer.status_code


@of("json")
def test_what_is_shown_has_the_keys_of_what_is_printed(snippet, stand, run):
    shown = [shape_of(value) for value in values_of(snippet.text)]
    printed = calls(stand, run) if "type" in shown[0] else purge_report(run, stand)
    for one in shown:
        assert any(fits(one, shape_of(other)) for other in printed), f"nothing looks like {one}: {printed}"


def calls(stand, run):
    before = len(stand.receiver.calls)
    told = "--on-outcome-url https://ci.example.com/told --on-finish-url https://ci.example.com/told"
    run(stand.replaced(f"stagefleet copy SRC DST {told}\n"))
    return [call.message for call in stand.receiver.calls[before:]]


def purge_report(run, stand):
    ended = run(stand.replaced("stagefleet purge SRC --yes --json\n"))
    return [json.loads(line) for line in ended.out.splitlines()]


def values_of(text):
    decoder, text = json.JSONDecoder(), text.strip()
    while text:
        value, end = decoder.raw_decode(text)
        yield value
        text = text[end:].lstrip()


def shape_of(value):
    """The keys, and of each the type of its value; None of a value that may be null."""
    if isinstance(value, dict):
        return {key: shape_of(inner) for key, inner in value.items()}
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float
    return None if value is None else type(value)


def fits(shown, printed):
    """Whether a document shows the shape of what was printed; the key `…` stands for others."""
    if shown is None or printed is None:
        return True
    if not isinstance(shown, dict) or not isinstance(printed, dict):
        return shown == printed
    if "…" not in shown and set(shown) != set(printed):
        return False
    return all(key == "…" or (key in printed and fits(inner, printed[key])) for key, inner in shown.items())
