"""Deletions by digest where not all can be known: what nobody can read counts as using everything."""

from __future__ import annotations

import pytest

from stagefleet.deletion import index_members, reference_scan
from stagefleet.deletion.checks import FRESH_SECONDS
from stagefleet.errors import (
    BrokenRecordError,
    RegistryError,
    RegistryUnavailableError,
    RegistryUnreachableError,
    SharedDigestError,
)
from stagefleet.leases import elapsed_seconds
from stagefleet.names import StageId
from stagefleet.records.ids import RecordId, RecordKind
from stagefleet.records.models import ManagedImage

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"


@pytest.fixture
def stored(fakes):
    return fakes.registries.stored(fakes.source)


@pytest.fixture
def member(fakes, stored):
    """A stage, and its digest."""
    stage_id = fakes.stage(1)
    return stage_id, fakes.registries.push(fakes.source, str(stage_id), layers=(b"own",))


@pytest.fixture
def tried(fakes):
    """It is known already how the registry deletes."""
    fakes.registries.push(fakes.source, str(fakes.stage(99)), layers=(b"99",))
    fakes.delete(fakes.stage(99), run_id="another")
    fakes.registries.reads.clear()
    fakes.registries.writes.clear()


def entry(digest, media_type=OCI_MANIFEST, size=2):
    return {"mediaType": media_type, "digest": str(digest), "size": size}


def index_of(*entries, media_type=OCI_INDEX):
    return {"schemaVersion": 2, "mediaType": media_type, "manifests": list(entries)}


def foreign_algorithm(fakes, digest):
    """An index with one member that is named by an algorithm that we do not know."""
    other = {**entry(digest), "digest": "sha3-256:" + "a" * 64}
    fakes.registries.push_odd(fakes.source, "release", index_of(entry(digest), other))


def too_many_members(fakes, digest):
    others = [entry(f"sha256:{number:064x}") for number in range(10_001)]
    fakes.registries.push_odd(fakes.source, "release", index_of(*others, entry(digest)))


def more_members_than_are_read(fakes, digest):
    others = [entry(f"sha256:{number:064x}") for number in range(1_500)]
    fakes.registries.push_odd(fakes.source, "release", index_of(*others, entry(digest)))


def too_deep(fakes, digest):
    for _ in range(5):
        digest = fakes.registries.push_index(fakes.source, None, [digest])
    fakes.registries.push_index(fakes.source, "release", [digest])


def without_a_type(fakes, digest):
    fakes.registries.push_odd(fakes.source, "release", index_of(entry(digest)), media_type="")


def of_an_unknown_type(fakes, digest):
    kind = "application/vnd.example.index.v7+json"
    fakes.registries.push_odd(
        fakes.source, "release", index_of(entry(digest), media_type=kind), media_type=kind
    )


def of_a_type_that_says_nothing(fakes, digest):
    fakes.registries.push_odd(
        fakes.source, "release", index_of(entry(digest)), media_type="application/octet-stream"
    )


def no_json(fakes, digest):
    fakes.registries.push_odd(fakes.source, "release", b"\x00 no JSON")


def whose_inner_index_is_gone(fakes, digest):
    inner = fakes.registries.push_index(fakes.source, None, [digest])
    fakes.registries.push_index(fakes.source, "release", [inner])
    del fakes.registries.stored(fakes.source).manifests[inner]


def whose_inner_index_is_damaged(fakes, digest):
    inner = fakes.registries.push_index(fakes.source, None, [digest])
    fakes.registries.push_index(fakes.source, "release", [inner])
    fakes.registries.damaged.add(str(inner))


def with_an_untyped_inner_index(fakes, digest):
    inner = fakes.registries.push_index(fakes.source, None, [digest])
    fakes.registries.push_odd(fakes.source, "release", index_of(entry(inner, media_type="")))


def with_a_member_whose_type_says_nothing(fakes, digest):
    kind = "application/octet-stream; charset=binary"
    fakes.registries.push_odd(fakes.source, "release", index_of(entry(digest, media_type=kind)))


INDEXES = [
    with_a_member_whose_type_says_nothing,
    foreign_algorithm,
    too_many_members,
    more_members_than_are_read,
    too_deep,
    without_a_type,
    of_an_unknown_type,
    of_a_type_that_says_nothing,
    no_json,
    whose_inner_index_is_gone,
    whose_inner_index_is_damaged,
    with_an_untyped_inner_index,
]


@pytest.mark.parametrize("tag", ["release", "stage"])
@pytest.mark.parametrize("push_index", INDEXES, ids=lambda function: function.__name__)
def test_an_index_that_cannot_be_read_to_its_ground_counts_as_using_everything(
    fakes, stored, member, push_index, tag
):
    """R21: a stage that such an index may have as a member goes by its tag alone, and its content stays."""
    stage_id, digest = member
    push_index(fakes, digest)
    if tag == "stage":
        tag = fakes.stage(9).digest
        stored.tags[tag] = stored.tags.pop("release")
    fakes.delete(stage_id)
    assert {tag} == fakes.tags(fakes.source)
    assert digest in stored.manifests


@pytest.mark.parametrize("kind", ["application/octet-stream", "application/json"])
def test_what_an_index_names_without_a_type_that_tells_does_not_go_with_it(fakes, stored, member, kind):
    """R21: it may be a blob of others; the index goes, and the stages that it uses are no obstacle."""
    stage_id, digest = member
    del stored.tags[str(stage_id)]
    index = StageId(fakes.stage(9).digest)
    fakes.registries.push_odd(fakes.source, str(index), index_of(entry(digest, media_type=kind)))
    fakes.delete(index)
    assert ({}, {digest}) == (stored.tags, set(stored.manifests))


def test_an_inner_index_that_is_named_as_an_image_is_not_read(fakes, stored, member):
    """R21: the limit: that a member is an image is believed, for to ask would cost a request each."""
    stage_id, digest = member
    inner = fakes.registries.push_index(fakes.source, None, [digest])
    fakes.registries.push_odd(fakes.source, "release", index_of(entry(inner, media_type=OCI_MANIFEST)))
    fakes.delete(stage_id)
    assert ({"release"}, False) == (set(stored.tags), digest in stored.manifests)


@pytest.mark.parametrize("kind", ["v1+json", "v1+prettyjws"])
def test_a_manifest_of_an_old_kind_that_names_no_others_is_no_obstacle(fakes, stored, member, kind):
    """R21: what cannot be an index is not taken for one."""
    stage_id, digest = member
    media_type = f"application/vnd.docker.distribution.manifest.{kind}"
    fakes.registries.push_odd(fakes.source, "old", {"schemaVersion": 1}, media_type=media_type)
    fakes.delete(stage_id)
    assert ({"old"}, False) == (fakes.tags(fakes.source), digest in stored.manifests)


def test_an_index_that_is_itself_asked_for_goes_whatever_it_is(fakes, stored, member):
    """R21: what cannot be read uses everything, and not itself."""
    index = StageId(fakes.stage(9).digest)
    fakes.registries.push_odd(fakes.source, str(index), index_of({**entry(member[1]), "digest": "sha3:aa"}))
    fakes.delete(index)
    assert {str(member[0])} == fakes.tags(fakes.source)
    assert [] == [what for verb, what in fakes.registries.writes if verb == "put" and what == str(index)]


def test_where_nothing_can_be_moved_aside_the_error_names_what_cannot_be_read(fakes, member):
    """R21: where a tag cannot be moved aside, the item fails and names the index that nobody can read."""
    foreign_algorithm(fakes, member[1])
    fakes.registries.forbidden = {str(member[0])}
    with pytest.raises(SharedDigestError, match="release"):
        fakes.delete(member[0])
    assert {str(member[0]), "release"} == fakes.tags(fakes.source)


@pytest.mark.parametrize("damaged", ["foreign", "stage"])
def test_a_damaged_tag_blocks_no_deletion_of_sound_ones(fakes, stored, member, damaged):
    """x2: a tag that is answered with 500 may share anything; sound stages go all the same."""
    tag = "latest" if damaged == "foreign" else str(fakes.stage(5))
    other = fakes.stage(2)
    fakes.registries.push(fakes.source, tag, layers=(b"own",))
    fakes.registries.push(fakes.source, str(other), layers=(b"other",))
    fakes.registries.damaged.add(tag)
    for stage_id in (member[0], other):
        fakes.delete(stage_id, [member[0], other])
    assert {tag} == fakes.tags(fakes.source)
    assert member[1] in stored.manifests


@pytest.mark.usefixtures("tried")
def test_a_tag_at_which_a_registry_breaks_off_is_damaged_too(fakes, stored, member):
    """x2: a registry that dies of one manifest, and so cuts the connection, is there for the others."""
    other = fakes.stage(5)
    fakes.registries.push(fakes.source, str(other), layers=(b"5",))

    def cut(verb, name):
        if verb in {"HEAD", "GET"} and name == str(other):
            raise RegistryUnreachableError("cut off", host="a.example")

    fakes.registries.on_request = cut
    fakes.delete(member[0])
    assert {str(other)} == fakes.tags(fakes.source)


@pytest.mark.usefixtures("tried")
def test_a_registry_that_is_gone_is_no_damaged_tag(fakes, member):
    """x2: a registry that answers nothing at all lets the item fail, to be tried again."""

    def cut(verb, name):
        raise RegistryUnreachableError("cut off", host="a.example")

    def tags(repository):
        raise RegistryUnreachableError("cut off", host="a.example")

    fakes.registries.on_request, fakes.registries.tags = cut, tags
    with pytest.raises(RegistryUnreachableError):
        fakes.delete(member[0])
    assert {str(member[0])} == fakes.tags(fakes.source)


@pytest.mark.usefixtures("tried")
def test_where_no_tags_are_listed_a_tag_is_moved_aside(fakes, stored, member):
    """R21: a registry that lists no tags says of no digest that it may go."""

    def tags(repository):
        raise RegistryError("no listing", method="GET", status=405)

    fakes.registries.tags = tags
    fakes.delete(member[0])
    assert (set(), {member[1]}) == (fakes.tags(fakes.source), set(stored.manifests))


@pytest.mark.parametrize("tag", ["damaged", "unknown"])
def test_a_damaged_tag_that_is_asked_for_goes(fakes, stored, tag):
    """x2, W12: a tag that is answered with 500, or is listed and not there, is overwritten and deleted."""
    stage_id, other = fakes.stage(1), fakes.stage(2)
    for pushed in (stage_id, other):
        fakes.registries.push(fakes.source, str(pushed), layers=(str(pushed).encode(),))
    getattr(fakes.registries, tag).add(str(stage_id))
    fakes.delete(stage_id)
    assert {str(other)} == fakes.tags(fakes.source)
    fakes.delete(other)
    assert set() == fakes.tags(fakes.source)


def test_a_damaged_tag_that_has_recovered_is_no_obstacle_any_more(fakes, stored, member):
    """x2: what could not be read is tried again, and then deletions go by digest as ever."""
    fakes.registries.push(fakes.source, str(fakes.stage(5)), layers=(b"5",))
    fakes.registries.push(fakes.source, str(fakes.stage(6)), layers=(b"6",))
    fakes.registries.damaged.add(str(fakes.stage(5)))
    fakes.delete(fakes.stage(6), [fakes.stage(6), member[0]])
    fakes.registries.damaged.clear()
    fakes.shared_state._forget_cached("r", f"fresh scan {fakes.source}")
    fakes.shared_state.clock_offset_ms += 9000
    fakes.delete(member[0])
    assert ({str(fakes.stage(5))}, False) == (fakes.tags(fakes.source), member[1] in stored.manifests)


@pytest.mark.usefixtures("tried")
def test_a_registry_that_fails_altogether_is_no_damaged_tag(fakes, member, monkeypatch):
    """x2: where the registry itself fails, so does the item, to be tried again; nothing is moved."""
    monkeypatch.setattr(reference_scan, "_MOST_UNREADABLE", 2)
    for number in range(2, 8):
        fakes.registries.push(fakes.source, str(fakes.stage(number)), layers=(b"own",))
    calls = []

    def fail(verb, name):
        calls.append(name)
        if len(calls) > 2:
            raise RegistryUnavailableError("down", method=verb, status=503)

    def tags(repository):
        if len(calls) > 2:
            raise RegistryUnavailableError("down", method="GET", status=503)
        return iter(sorted(fakes.registries.stored(repository).tags))

    fakes.registries.on_request, fakes.registries.tags = fail, tags
    with pytest.raises(RegistryUnavailableError):
        fakes.delete(member[0])
    fakes.registries.on_request = lambda *_: None
    assert 7 == len(fakes.tags(fakes.source))


def test_a_bomb_of_indexes_costs_a_bounded_number_of_requests(fakes, stored, member):
    """R17: indexes that name one another over and over are each read once, and then all is said."""
    inner = member[1]
    for level in range(3):
        entries = [entry(inner, OCI_INDEX if level else OCI_MANIFEST)] * 1_000
        inner = fakes.registries.push_odd(fakes.source, None, {**index_of(*entries), "level": level})
    stored.tags["bomb"] = inner
    fakes.delete(member[0])
    assert {"bomb"} == fakes.tags(fakes.source)
    assert 3 == sum(verb == "get" for verb, name in fakes.registries.reads if name.startswith("sha256:"))


def test_a_wide_bomb_ends_where_it_is_too_much(fakes, stored, member, monkeypatch):
    """R17: an index of very many others is read up to a bound, and then counts as using everything."""
    monkeypatch.setattr(index_members, "_MOST_INDEXES", 5)
    inner = [
        fakes.registries.push_odd(fakes.source, None, {**index_of(entry(member[1])), "n": number})
        for number in range(20)
    ]
    fakes.registries.push_odd(fakes.source, "bomb", index_of(*(entry(one, OCI_INDEX) for one in inner)))
    fakes.delete(member[0])
    assert ({"bomb"}, True) == (fakes.tags(fakes.source), member[1] in stored.manifests)
    assert 5 == sum(verb == "get" for verb, name in fakes.registries.reads if name.startswith("sha256:"))


class Stale:
    """A clock by which each look at a tag takes its time."""

    def __init__(self, monkeypatch, fakes, seconds):
        self.now = self.began = elapsed_seconds()
        deletion = ("reference_scan", "digest_deletion", "placeholder_swap", "checks")
        for module in (
            *(f"deletion.{name}" for name in deletion),
            "shared_state.implementations",
        ):
            monkeypatch.setattr(f"stagefleet.{module}.elapsed_seconds", lambda: self.now)

        def pass_time(verb, name):
            self.now += seconds if verb == "HEAD" else 0

        fakes.registries.on_request = pass_time


@pytest.mark.usefixtures("tried")
def test_tags_that_take_too_long_to_look_at_are_no_ground_for_a_delete(fakes, stored, member, monkeypatch):
    """R6: a look at many tags counts from its start; where it takes too long, tags are moved aside."""
    for number in range(20):
        fakes.registries.push(fakes.source, f"v{number}", layers=(f"{number}".encode(),))
    Stale(monkeypatch, fakes, seconds=1.0)
    fakes.delete(member[0])
    assert {f"v{number}" for number in range(20)} == fakes.tags(fakes.source)
    assert member[1] in stored.manifests
    heads = [name for verb, name in fakes.registries.reads if verb == "head" and name.startswith("v")]
    assert 20 >= len(heads)


@pytest.mark.usefixtures("tried")
def test_what_a_delete_is_allowed_by_holds_for_ten_seconds_from_its_first_look(fakes, member, monkeypatch):
    """R6: the time until which a DELETE may leave counts from before the first tag was looked at."""
    fakes.registries.push(fakes.source, "v1", layers=(b"v1",))
    clock = Stale(monkeypatch, fakes, seconds=1.0)
    allowed = []
    delete = fakes.registries.delete_manifest

    def delete_manifest(reference, *, lease, precheck=None):
        allowed.append((precheck(), clock.now))
        return delete(reference, lease=lease)

    monkeypatch.setattr(fakes.registries, "delete_manifest", delete_manifest)
    fakes.delete(member[0])
    ((until, now),) = allowed
    assert until <= clock.began + FRESH_SECONDS  # from before the stage's own HEAD
    assert now >= clock.began + 2


@pytest.mark.usefixtures("tried")
def test_a_tag_that_comes_between_the_look_and_the_delete_goes_along(fakes, stored, member):
    """R6: the limit: registries have no "delete if", so what is tagged in these seconds goes along."""

    def tag_it(verb, name):
        if verb == "DELETE":
            stored.tags["release"] = member[1]

    fakes.registries.on_request = tag_it
    fakes.delete(member[0])
    assert set() == fakes.tags(fakes.source)


@pytest.mark.usefixtures("tried")
def test_an_index_without_a_tag_is_not_seen(fakes, stored, member):
    """R21: the limit: no registry lists what has no tag: an index kept by digest alone loses its member."""
    index = fakes.registries.push_index(fakes.source, None, [member[1]])
    fakes.delete(member[0])
    assert {index} == set(stored.manifests)


@pytest.mark.usefixtures("tried")
def test_a_record_that_is_none_any_more_when_its_delete_leaves_stays(fakes, stored):
    """R6: that a tag is a record of ours is looked at again before its DELETE is sent once more."""
    record_id = RecordId.of(RecordKind.MANAGED_IMAGE, "web")
    fakes.stage_tasks.records.write(fakes.source, "app", ManagedImage("web"))
    failures = [RegistryUnavailableError("later", method="DELETE", status=503)]
    delete = fakes.registries.delete_manifest

    def delete_manifest(reference, *, lease, precheck=None):
        """As the client does: whatever fails is tried again on another look."""
        precheck()
        while failures:
            failures.pop()
            fakes.registries.push(fakes.source, record_id.tag, layers=(b"somebody else's",))
            precheck()
        delete(reference, lease=lease)

    fakes.registries.delete_manifest = delete_manifest
    with pytest.raises(BrokenRecordError):
        fakes.stage_tasks.records.delete(
            fakes.source, record_id, run_id="r", to_delete=lambda: [record_id.tag]
        )
    assert {record_id.tag} == fakes.tags(fakes.source)


@pytest.mark.usefixtures("tried")
def test_what_moved_before_its_delete_was_sent_again_is_looked_at_anew(fakes, stored, member):
    """R6: a tag that names something else by the time of the next try is deleted as what it is then."""
    moved: list[object] = []
    delete = fakes.registries.delete_manifest

    def delete_manifest(reference, *, lease, precheck=None):
        precheck()
        if not moved:
            moved.append(fakes.registries.push(fakes.source, str(member[0]), layers=(b"rebuilt",)))
            fakes.registries.push(fakes.source, "release", layers=(b"own",))
            precheck()
        delete(reference, lease=lease)

    fakes.registries.delete_manifest = delete_manifest
    fakes.delete(member[0])
    assert ({"release": member[1]}, {member[1]}) == (stored.tags, set(stored.manifests))


@pytest.mark.usefixtures("tried")
@pytest.mark.parametrize("what", ["stage", "member"])
def test_a_look_after_a_refusal_is_a_new_one(fakes, stored, member, what):
    """R6: before a DELETE is sent again it is really looked, and not at what was seen a moment before."""
    stage_id, digest = member
    index = StageId(fakes.stage(9).digest)
    if what == "member":
        stored.tags.clear()
        fakes.registries.push_index(fakes.source, str(index), [digest])
    refused: list[object] = []
    delete = fakes.registries.delete_manifest

    def delete_manifest(reference, *, lease, precheck=None):
        precheck()
        if reference.digest == digest and not refused:
            refused.append(reference)
            stored.tags["release"] = digest
            precheck()
        delete(reference, lease=lease)

    fakes.registries.delete_manifest = delete_manifest
    fakes.delete(index if what == "member" else stage_id)
    assert ({"release": digest}, {digest}, 1) == (stored.tags, set(stored.manifests), len(refused))
