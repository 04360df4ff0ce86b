"""What belongs to a stage goes along: signatures and other artifacts, by each way that leads to them."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from stagefleet.errors import UsageError
from stagefleet.fleet.storage_reader import StorageReader
from stagefleet.names import Reference, parse_address
from stagefleet.operations.copy import CopyOperation
from stagefleet.operations.publish import PublishOperation
from stagefleet.project_addresses import Project
from stagefleet.registry import referrers
from stagefleet.registry.referrers import ReferrerLookup, cosign_tags, fallback_tag, is_referrer_tag
from stagefleet.settings import Settings


@pytest.fixture
def signed(fakes):
    """A stage with a signature, a bill of materials, and the signature of that."""
    registries = fakes.registries

    def sign():
        image = registries.push(fakes.source, str(fakes.stage(1)))
        signature = registries.push_referrer(fakes.source, image, b"signature")
        bill = registries.push_referrer(fakes.source, image, b"bill")
        return image, {signature, bill, registries.push_referrer(fakes.source, bill, b"signature of bill")}

    return sign


def found(fakes, repository, subject):
    lookup = ReferrerLookup(fakes.registries, repository)
    return {referrer.descriptor.digest for referrer in lookup.find_all([subject])}


def copy(fakes, number=1, *, run_id="r", **options):
    return fakes.copy(fakes.stage(number), run_id=run_id, referrers=True, **options)


@pytest.mark.parametrize("source_has_api", [True, False])
@pytest.mark.parametrize("destination_has_api", [True, False])
def test_referrers_and_theirs_go_along(fakes, signed, source_has_api, destination_has_api):
    """OCI distribution specification 1.1, "Listing Referrers" and "Referrers Tag Schema"."""
    if not source_has_api:
        fakes.registries.without_referrers.add(fakes.source.host)
    if not destination_has_api:
        fakes.registries.without_referrers.add(fakes.destination.host)
    image, expected = signed()
    copied = copy(fakes)
    assert (3, False) == (copied.result["referrers"], copied.skipped)
    assert expected == found(fakes, fakes.destination, image)
    fallback = {tag for tag in fakes.tags(fakes.destination) if is_referrer_tag(tag)}
    assert bool(fallback) == (not destination_has_api)


def test_what_came_later_goes_along_later_and_what_is_there_is_not_sent_again(fakes, signed):
    image, expected = signed()
    copy(fakes, run_id="first")
    later = fakes.registries.push_referrer(fakes.source, image, b"attestation")
    again = copy(fakes, run_id="second")
    assert (1, False) == (again.result["referrers"], again.skipped)
    assert {*expected, later} == found(fakes, fakes.destination, image)
    fakes.registries.writes.clear()
    last = copy(fakes, run_id="third")
    assert (0, True, []) == (last.result["referrers"], last.skipped, fakes.registries.writes)


def test_entries_of_others_stay_in_the_fallback_index(fakes, signed):
    """Read, changed and written again: what it says of others' referrers stays as it is."""
    fakes.registries.without_referrers.add(fakes.destination.host)
    image, expected = signed()
    theirs = fakes.registries.push_referrer(fakes.destination, image, b"scan")
    copy(fakes)
    assert {*expected, theirs} == found(fakes, fakes.destination, image)
    index = fakes.manifest(fakes.destination, fallback_tag(image))
    described = {entry["digest"]: entry for entry in json.loads(index.raw)["manifests"]}
    kinds = {
        described[str(digest)].get("artifactType")
        for digest in expected & {*map(type(image).parse, described)}
    }
    assert {"application/vnd.example.sbom"} == kinds


def test_what_is_no_index_under_the_fallback_tag_stays(fakes, signed):
    """ "Pushing Manifests with Subject": a manifest other than an index is reported, and left alone."""
    fakes.registries.without_referrers.add(fakes.destination.host)
    image, _ = signed()
    theirs = fakes.registries.push(fakes.destination, fallback_tag(image), layers=(b"theirs",))
    copied = copy(fakes)
    assert theirs == fakes.manifest(fakes.destination, fallback_tag(image)).digest
    assert ["no index of referrers" in note for note in copied.result["notes"]] == [True]


def test_cosigns_tags_go_along(fakes):
    image = fakes.registries.push(fakes.source, str(fakes.stage(1)))
    tags = cosign_tags(image)
    for tag in tags:
        fakes.registries.push_referrer(fakes.source, image, tag.encode(), tag=tag)
    assert 3 == copy(fakes).result["referrers"]
    assert set(tags) <= fakes.tags(fakes.destination)


@pytest.mark.parametrize("has_own", [False, True])
def test_a_signature_that_only_the_destination_has_is_not_lost(fakes, has_own):
    """A signature is a layer: cosign adds one by a new image under the same tag."""
    image = fakes.registries.push(fakes.source, str(fakes.stage(1)))
    tag = cosign_tags(image)[0]
    there = fakes.registries.push_referrer(
        fakes.destination, image, b"one", tag=tag, layers=(b"own",) if has_own else ()
    )
    here = fakes.registries.push_referrer(fakes.source, image, b"two", tag=tag, layers=(b"one",))
    copied = copy(fakes)
    assert (there if has_own else here) == fakes.manifest(fakes.destination, tag).digest
    assert has_own == bool(copied.result.get("notes"))


def test_the_members_of_an_index_have_referrers_of_their_own(fakes):
    registries = fakes.registries
    member = registries.push(fakes.source, "member")
    index_id = type(fakes.stage(1))(f"{9:056x}")
    registries.push_index(fakes.source, str(index_id), [member])
    signature = registries.push_referrer(fakes.source, member, b"signature")
    copied = fakes.copy(index_id, referrers=True)
    assert 1 == copied.result["referrers"]
    assert {signature} == found(fakes, fakes.destination, member)


def test_a_stage_with_other_content_gets_no_referrers(fakes, signed):
    """They belong to what the source has, which a copy without `verify` does not bring."""
    image, _ = signed()
    fakes.registries.push(fakes.destination, str(fakes.stage(1)), layers=(b"other",))
    copied = copy(fakes)
    assert (True, None) == (copied.skipped, copied.result)
    assert not found(fakes, fakes.destination, image)


def test_a_referrer_that_is_gone_is_told_and_stops_nothing(fakes, signed):
    fakes.registries.without_referrers.add(fakes.source.host)
    image, expected = signed()
    gone = fakes.registries.push_referrer(fakes.source, image, b"gone")
    del fakes.registries.stored(fakes.source).manifests[gone]
    copied = copy(fakes)
    assert 3 == copied.result["referrers"]
    (note,) = copied.result["notes"]
    assert str(gone) in note
    assert expected == found(fakes, fakes.destination, image)


def test_a_chain_of_referrers_has_an_end(fakes, monkeypatch):
    """A document that refers to itself over others costs a bounded number of requests."""
    monkeypatch.setattr(referrers, "MAX_REFERRERS", 5)
    image = fakes.registries.push(fakes.source, str(fakes.stage(1)))
    for number in range(9):
        fakes.registries.push_referrer(fakes.source, image, b"%d" % number)
    copied = copy(fakes)
    assert 5 == copied.result["referrers"]
    assert 1 == len(copied.result["notes"])


def test_without_the_option_nothing_is_asked(fakes, signed):
    signed()
    fakes.copy(fakes.stage(1))
    assert [] == [
        name for verb, name in fakes.registries.reads if verb == "referrers" or is_referrer_tag(name)
    ]


def test_a_registry_without_any_costs_one_list_a_run(fakes):
    """Tags that are not on the list are not asked for: of the API alone each stage costs a request."""
    for number in (1, 2):
        fakes.registries.push(fakes.source, str(fakes.stage(number)), layers=(b"%d" % number,))
    copy(fakes, 1)
    reads = fakes.registries.reads
    lists = [verb for verb, _ in reads].count("tags")
    copy(fakes, 2)
    assert lists == [verb for verb, _ in reads].count("tags")
    assert [] == [name for verb, name in reads if verb != "referrers" and is_referrer_tag(name)]


@pytest.fixture
def listed(fakes):
    """Lists the referrers of all stages as a client does, by stage."""

    def listed():
        fakes.registries.reads.clear()
        connections: Any = SimpleNamespace(storages=fakes.stage_tasks.storages, settings=Settings())
        found = StorageReader(connections, print).referrers(fakes.source, None, parallel=1, missing_ok=False)
        return {
            str(stage_id): {referrer.descriptor.digest for referrer in referrers}
            for stage_id, referrers in found
        }

    return listed


@pytest.mark.parametrize("has_api", [True, False])
def test_a_list_of_stages_without_any_costs_two_requests_a_stage(fakes, listed, has_api):
    """The digest, and its list where there is the API: a tag that is on no list is not asked for."""
    if not has_api:
        fakes.registries.without_referrers.add(fakes.source.host)
    for number in range(5):
        fakes.registries.push(fakes.source, str(fakes.stage(number)), layers=(b"%d" % number,))
    assert 5 == len(listed())
    reads = [verb for verb, _ in fakes.registries.reads if verb != "tags"]
    assert 5 * ["head"] + 5 * ["referrers"] == sorted(reads)


def test_a_list_asks_for_the_tags_that_are_there(fakes, listed, signed):
    fakes.registries.without_referrers.add(fakes.source.host)
    image, expected = signed()
    fakes.registries.push(fakes.source, str(fakes.stage(2)), layers=(b"unsigned",))
    tag = cosign_tags(image)[1]
    expected.add(fakes.registries.push_referrer(fakes.source, image, b"attested", tag=tag))
    assert {str(fakes.stage(1)): expected, str(fakes.stage(2)): set()} == listed()
    asked = {name for _, name in fakes.registries.reads if is_referrer_tag(name)}
    assert {fallback_tag(image), tag} < asked <= fakes.tags(fakes.source)


def test_a_list_has_those_of_an_indexs_members(fakes, listed):
    """As a copy takes them along: without a request for the members."""
    registries = fakes.registries
    member = registries.push(fakes.source, "member")
    index_id = type(fakes.stage(1))(f"{9:056x}")
    registries.push_index(fakes.source, str(index_id), [member])
    signature = registries.push_referrer(fakes.source, member, b"signature")
    assert {str(index_id): {signature}} == listed()
    assert str(member) not in [name for verb, name in registries.reads if verb != "referrers"]


def test_a_publication_takes_them_along_unless_told_otherwise(fakes, signed):
    image, expected = signed()
    project = Project("app", fakes.source, fakes.destination)
    tasks = fakes.stage_tasks.project(project)
    assert "referrers" not in PublishOperation.of(project).options
    tasks.publish_stage(fakes.stage(1), run_id="r", referrers=False)
    assert not found(fakes, fakes.destination, image)
    published = tasks.publish_stage(fakes.stage(1), run_id="s")
    assert 3 == published.result["referrers"]
    assert expected == found(fakes, fakes.destination, image)


def test_referrers_go_from_repository_to_repository(tmp_path):
    with pytest.raises(UsageError, match="leave out --referrers"):
        CopyOperation(
            source=parse_address("a.example/app"),
            destination=parse_address(f"oci:{tmp_path}"),
            referrers=True,
        )


def test_a_referrer_is_kept_byte_for_byte(fakes, signed):
    _, expected = signed()
    copy(fakes)
    for digest in expected:
        here, there = (
            fakes.registries.fetch_manifest(Reference.of(repository, digest)).raw
            for repository in (fakes.source, fakes.destination)
        )
        assert here == there
