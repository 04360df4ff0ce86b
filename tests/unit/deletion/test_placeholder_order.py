"""A placeholder is never there without its rejection, for other tools stumble over it."""

from __future__ import annotations

import contextlib

import pytest

from stagefleet.deletion import tag_deletion as unfinished_deletions
from stagefleet.errors import ForbiddenError, ItemCancelledError, RegistryUnavailableError, StagefleetError
from stagefleet.manifests import Manifest
from stagefleet.names import StageId
from stagefleet.records.image import is_placeholder, make_placeholder

MOST_WRITES = 16
ERRORS = [
    ForbiddenError("denied", status=403),
    RegistryUnavailableError("503", status=503),
    ItemCancelledError("cancelled"),
]


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr(unfinished_deletions, "SECOND_LOOK_SECONDS", 0)


@pytest.fixture(params=["one image", "an index"])
def stage_id(request, fakes):
    """A stage that shares its digest with the tag `release`."""
    member = fakes.registries.push(fakes.source, None)
    found = fakes.stage(1) if request.param == "one image" else StageId(fakes.stage(1).digest)
    for tag in (str(found), "release"):
        if found.is_multiplatform:
            fakes.registries.push_index(fakes.source, tag, [member])
        else:
            fakes.registries.push(fakes.source, tag, layers=(b"shared",))
    return found


@pytest.fixture
def watched(fakes, stage_id, monkeypatch):
    """Looks after each write; how often the tag was seen to lead to a placeholder."""
    seen = []
    written = fakes.registries._written

    def look(verb, what):
        stored = fakes.registries.stored(fakes.source)
        manifest = stored.manifests.get(stored.tags.get(str(stage_id)))
        if manifest is not None and is_placeholder(manifest.annotations):
            assert stage_id.rejected_tag in stored.tags
            seen.append(what)
        written(verb, what)

    monkeypatch.setattr(fakes.registries, "_written", look)
    return seen


def execute(fakes, stage_id):
    with contextlib.suppress(fakes.registries.crash, StagefleetError):
        fakes.delete(stage_id)
    fakes.registries.crash_at, fakes.registries.on_request = None, lambda verb, name: None
    fakes.delete(stage_id, run_id="again")


@pytest.mark.parametrize("at", range(1, MOST_WRITES))
def test_no_placeholder_is_ever_there_without_its_rejection(fakes, stage_id, watched, at):
    """I5: rejected first, and withdrawn last, whatever write a killed attempt ends at."""
    fakes.registries.crash_at = at
    execute(fakes, stage_id)
    assert watched
    assert {"release"} == {tag for tag in fakes.tags(fakes.source) if "probe" not in tag}


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_nor_where_a_registry_refuses_or_an_item_is_cancelled(fakes, stage_id, watched, error, number):
    """I5: the tag is put back before the rejection goes."""
    left = [number]

    def on_request(verb, _name):
        if verb == "DELETE" and stage_id.rejected_tag in fakes.tags(fakes.source):
            left[0] -= 1
            if left[0] == 0:
                raise error

    fakes.registries.on_request = on_request
    execute(fakes, stage_id)
    assert watched
    assert left[0] <= 0
    assert {"release"} == fakes.tags(fakes.source)


def test_a_placeholder_is_an_index_without_members():
    """I5: what werf takes for a stage without labels; docs/deletion.md says why it is no other."""
    placeholder = Manifest.of(make_placeholder())
    assert (True, ()) == (placeholder.is_index, placeholder.members)
