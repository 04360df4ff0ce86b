"""A deletion is done when the tag is gone, and not when a registry says that it accepted it."""

from __future__ import annotations

import pytest

from stagefleet.deletion import checks as deletion_confirmation
from stagefleet.errors import NotFoundError, RegistryUnavailableError
from stagefleet.names import StageId


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr(deletion_confirmation, "PAUSES_SECONDS", (0, 0))


@pytest.fixture
def stored(fakes):
    return fakes.registries.stored(fakes.source)


@pytest.fixture
def stage(fakes):
    fakes.registries.push(fakes.source, str(fakes.stage(1)), layers=(b"own",))
    return fakes.stage(1)


@pytest.fixture
def deletes(fakes, monkeypatch):
    """Gives what each DELETE is, to be done by the registry or not."""
    delete = fakes.registries.delete_manifest

    def deletes(function):
        monkeypatch.setattr(
            fakes.registries,
            "delete_manifest",
            lambda reference, **options: function(lambda: delete(reference, **options), reference),
        )

    return deletes


def accepting(fakes, *kept):
    """Accept a DELETE and keep what it is about, of these digests."""

    def accept(delete, reference):
        if reference.digest not in fakes.registries.stored(fakes.source).manifests:
            raise NotFoundError("unknown", status=404)
        if reference.digest not in kept:
            delete()

    return accept


def test_a_deletion_that_is_accepted_and_not_done_is_none(fakes, stored, stage, deletes):
    """Kind 3, W12: 202 and the stage is there still: the item fails, to be tried again, and says so."""
    deletes(accepting(fakes, stored.tags[str(stage)]))
    with pytest.raises(RegistryUnavailableError, match="is there still, though the registry accepted"):
        fakes.delete(stage)
    assert {str(stage)} == set(stored.tags)


def test_a_tag_that_cannot_be_moved_away_for_the_same_reason_is_put_back(fakes, stored, stage, deletes):
    """Kind 3, R12: where the placeholder's deletion is accepted and not done, the stage stays visible."""
    content = stored.tags["release"] = stored.tags[str(stage)]
    fakes.registries.push(fakes.source, str(fakes.stage(2)), layers=(b"2",))
    fakes.delete(fakes.stage(2))  # how it deletes is known
    deletes(lambda _delete, _reference: None)
    with pytest.raises(RegistryUnavailableError, match="is there still"):
        fakes.delete(stage)
    assert content == stored.tags[str(stage)]


def test_a_registry_that_deletes_a_moment_later_has_deleted(fakes, stored, stage, deletes, monkeypatch):
    """Kind 3: an accepted deletion may be carried out later, and caches may know the tag for a while."""
    waiting = []

    def later(delete, reference):
        if reference.digest == stored.tags.get(str(stage)):
            waiting.append(delete)
        else:
            delete()

    deletes(later)
    monkeypatch.setattr(deletion_confirmation, "pause", lambda *_: waiting.pop()())
    fakes.delete(stage)
    assert {} == stored.tags


def test_a_probe_that_is_accepted_and_not_removed_is_named(fakes, stored, stage, deletes, caplog):
    """R48, W37, kind 3: tags of a probe whose deletion is accepted and not done are warned of, once."""
    deletes(lambda _delete, _reference: None)
    with pytest.raises(RegistryUnavailableError):
        fakes.delete(stage)
    probes = [tag for tag in stored.tags if "probe" in tag]
    told = [entry.message for entry in caplog.records if "allow their deletion" in entry.message]
    assert (2, 1) == (len(probes), len(told))
    assert all(tag in told[0] for tag in probes)


def test_an_index_that_is_pushed_again_at_once_keeps_its_members(fakes, stored, deletes):
    """R25, kind 3: who builds it again, right after its DELETE, finds it whole."""
    member = fakes.registries.push(fakes.source, None, layers=(b"member",))
    index = StageId(fakes.stage(9).digest)
    top = fakes.registries.push_index(fakes.source, str(index), [member])

    def delete_and_push(delete, reference):
        delete()
        if reference.digest == top:
            fakes.registries.push_index(fakes.source, str(index), [member])

    deletes(delete_and_push)
    with pytest.raises(RegistryUnavailableError):
        fakes.delete(index)
    assert {member, top} == set(stored.manifests)


def test_an_index_that_is_pushed_again_a_moment_later_keeps_its_members(fakes, stored, deletes):
    """R25, kind 3: also where that was seen to be gone before."""
    members = [fakes.registries.push(fakes.source, None, layers=(b"%d" % n,)) for n in (1, 2)]
    index = StageId(fakes.stage(9).digest)
    fakes.registries.push_index(fakes.source, str(index), members)

    def push_before(delete, reference):
        delete()
        if reference.digest == members[0]:
            fakes.registries.push(fakes.source, None, layers=(b"1",))
            fakes.registries.push_index(fakes.source, str(index), members)

    deletes(push_before)
    fakes.delete(index)
    assert members[1] in stored.manifests
