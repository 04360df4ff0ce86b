"""What a run is about, from its options."""

import json

import pytest
from hypothesis import given, strategies as st

from stagefleet.runs.messages import Subject, subject_of
from stagefleet.runs.models import RunSpec

PROJECT = {
    "project": "app",
    "primary": "a.test/app",
    "final": "f.test/app",
    "caches": ["c.test/1", "c.test/2"],
}


@pytest.mark.parametrize(
    ("operation", "options", "source", "destination"),
    [
        ("copy_stage", {"source": "a.test/app", "destination": "b.test/app"}, "a.test/app", "b.test/app"),
        ("delete_stage", {"repository": "a.test/app"}, "a.test/app", ""),
        ("publish_stage", PROJECT, "a.test/app", "f.test/app"),
        ("cache_stage", PROJECT, "a.test/app", "c.test/1, c.test/2"),
        ("take_stage", {"primary": "a.test/app", "secondaries": ["s.test/app"]}, "s.test/app", "a.test/app"),
        (
            "fetch_stage",
            {"primary": "a.test/app", "hosts": [*"abcde"]},
            "a.test/app",
            "a, b, c and 2 more",
        ),
        (
            "copy_stage",
            {"source": "a.test/app", "destination": "docker-daemon:app", "hosts": ["one"]},
            "a.test/app",
            "docker-daemon:app on one",
        ),
        (
            "delete_stage",
            {"repository": "docker-daemon:app", "hosts": ["one"]},
            "docker-daemon:app on one",
            "",
        ),
        ("wait", {}, "", ""),
        ("copy_stage", {"source": 7, "destination": {"x": 1}}, "", ""),
    ],
)
def test_from_where_to_where(operation, options, source, destination):
    subject = subject_of(RunSpec(operation=operation, options=options))
    assert (source, destination) == (subject.source, subject.destination)


def test_no_address_of_a_callback_is_shown():
    """R16: webhooks may hold a token in their path."""
    spec = RunSpec(
        operation="copy_stage",
        options={"source": "a.test/app", "destination": "b.test/app"},
        callback_target="https://ci.test/hunter2",
        finish_url="https://ci.test/hunter2",
    )
    assert "hunter2" not in subject_of(spec).shown


@given(st.text(), st.text(), st.text())
def test_what_is_shown_is_bounded_and_survives_json(source, destination, project):
    shown = Subject("copy_stage", source * 50, destination * 50, project).shown
    assert len(shown) <= 512
    assert json.loads(f'"{json.dumps(shown)[1:-1]}"') == shown
