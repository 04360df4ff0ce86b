"""Versions of what releases write one another."""

import pytest
from hypothesis import given, strategies as st

from stagefleet.errors import IncompatibleVersionError
from stagefleet.runs.versions import SCHEMA_VERSION, WriterVersion, own_version

OWN = own_version()
MAJOR, MINOR = map(int, SCHEMA_VERSION.split("."))


def test_this_release_names_itself_and_its_schema():
    assert SCHEMA_VERSION == OWN.schema
    assert f"stagefleet {OWN.release} (schema {SCHEMA_VERSION})" == str(OWN)


@pytest.mark.parametrize(
    ("schema", "compatible"),
    [
        (SCHEMA_VERSION, True),
        (f"{MAJOR}.{MINOR + 7}", True),
        (f"{MAJOR + 1}.0", False),
        (f"{MAJOR - 1}.9", False),
        ("", False),
        ("1", False),
        ("one.two", False),
        ("\u0661.\u0660", False),
    ],
)
def test_the_major_part_decides(schema, compatible):
    assert compatible == WriterVersion("9.9.9", schema).is_compatible


@pytest.mark.parametrize(
    ("schema", "knows"), [(SCHEMA_VERSION, True), ("1.0", False), ("2.7", False), ("", False), ("1.", False)]
)
def test_runs_that_start_early_are_known_from_one_minor_version_on(schema, knows):
    assert knows is WriterVersion("9.9.9", schema).knows_early_starts


def test_another_major_version_is_refused_with_both_named():
    """O-A2: what another release wrote is refused in one line that names both versions."""
    other = WriterVersion("9.9.9", f"{MAJOR + 1}.0")

    with pytest.raises(IncompatibleVersionError) as refused:
        other.check("run 21177baa3ad5")

    message = str(refused.value)
    assert all(part in message for part in ("run 21177baa3ad5", str(other), str(OWN), "update this one"))
    assert "\n" not in message
    assert 2 == refused.value.exit_code


def test_an_older_one_is_told_to_update():
    refusal = WriterVersion("0.0.1", f"{MAJOR - 1}.0").refusal("run 1")

    assert "update the other" in str(refusal)


def test_what_was_written_before_there_were_versions_is_tried():
    WriterVersion().check("run 1")


@given(st.none() | st.text() | st.binary() | st.integers(), st.none() | st.text() | st.binary())
def test_whatever_stands_there_is_read(release, schema):
    version = WriterVersion.read(release, schema)

    assert len(version.release) <= 40
    assert len(version.schema) <= 40
    assert str(version)
