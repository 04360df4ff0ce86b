"""Deletions in distribution 2, which deletes by digest and with it all tags: nothing else goes or breaks."""

from __future__ import annotations

import json
import shutil

import pytest

from stagefleet.names import StageId
from tests.services import Answer, ImageMaker, stage_id_of

PATH = "team/app"
FEW_TRIES = {"STAGEFLEET_HTTP__RETRIES": "1"}


@pytest.fixture
def push(registry):
    """Pushes an image of its own content; gives it."""

    def push(tag):
        with ImageMaker(registry) as maker:
            return maker.push_image(PATH, tag, layers=[tag.encode()])

    return push


@pytest.fixture
def push_index(registry):
    def push_index(tag, *members):
        with ImageMaker(registry) as maker:
            return maker.push_index(PATH, tag, list(members))

    return push_index


def stage(number):
    return stage_id_of(f"deleted {number}", 1_700_000_000_000 + number)


def index_id(number):
    return StageId.parse(stage(number)).digest


def damage(registry, image):
    """Let the file of an image's manifest be what a crash leaves of it."""
    hexadecimal = image.digest.partition(":")[2]
    blobs = registry.root / "docker/registry/v2/blobs/sha256"
    (blobs / hexadecimal[:2] / hexadecimal / "data").write_bytes(b"{")


def test_a_tag_that_comes_while_a_registry_makes_us_wait_keeps_its_content(
    command, registry, make_front, push, digests_in
):
    """R6: a DELETE that was answered 429 is sent again on another look: what was tagged meanwhile stays."""
    image = push(stage(1))
    tagged: list[str] = []

    def tag_and_refuse(method, path):
        if method != "DELETE" or not path.endswith(image.digest) or tagged:
            return None
        with ImageMaker(registry) as maker:
            maker.push_tag(image, "prod")
        tagged.append("prod")
        return Answer(429, b"", (("Retry-After", "1"),))

    front = make_front(registry.host, tag_and_refuse)
    result = command("delete", f"{front.host}/{PATH}", stage(1))
    assert (0, {"prod": image.digest}) == (result.code, digests_in(registry, PATH)), result.err


def test_a_damaged_tag_blocks_no_deletion(command, registry, push):
    """x2: a manifest that is cut in the registry's storage keeps no stage from its deletion, nor itself."""

    def tags():
        with ImageMaker(registry) as maker:
            return maker.tags(PATH)

    for number in (1, 2):
        push(stage(number))
    damage(registry, push(stage(9)))
    result = command("delete", f"{registry.host}/{PATH}", stage(1), stage(2), **FEW_TRIES)
    assert (0, [stage(9)]) == (result.code, tags()), result.err
    result = command("delete", f"{registry.host}/{PATH}", stage(9), **FEW_TRIES)
    assert (0, []) == (result.code, tags()), result.err


def lose(registry, image):
    """Take an image's manifest away and leave its tag, as a DELETE that is broken off does (#3191)."""
    hexadecimal = image.digest.partition(":")[2]
    manifests = registry.root / f"docker/registry/v2/repositories/{PATH}/_manifests"
    shutil.rmtree(manifests / "revisions/sha256" / hexadecimal)


def test_tags_without_a_manifest_go_and_a_copy_that_verifies_heals_them(command, registry, push):
    """W12: what HEAD says is gone is deleted if it is listed, by a list for all; what is put heals a tag."""
    numbers = range(1, 6)
    for number in numbers:
        lose(registry, push(stage(number)))
    with ImageMaker(registry) as maker:
        sound = maker.push_image("source/app", stage(1), layers=[b"sound"])
        assert {stage(number) for number in numbers} == set(maker.tags(PATH))

    where = f"{registry.host}/{PATH}"
    source = f"{registry.host}/source/app"
    # Without --verify the tag list alone decides: a request a stage would be the price.
    assert 1 == command("copy", source, where, "--json").objects[-1]["skipped"]
    healed = command("copy", source, where, "--verify")
    with ImageMaker(registry) as maker:
        assert (0, sound.digest) == (healed.code, maker.digest(PATH, stage(1))), healed.err

    dead = [stage(number) for number in numbers if number > 1]
    result = command("delete", where, *dead, "--json", **FEW_TRIES)
    assert (0, 4) == (result.code, result.objects[-1]["succeeded"]), result.err
    with ImageMaker(registry) as maker:
        assert [stage(1)] == maker.tags(PATH)


@pytest.mark.usefixtures("fleet")
def test_an_index_goes_before_its_members_or_both_stay(
    command, registry, make_front, push, push_index, digests_in
):
    """R25: an index is deleted before the stages that it has; where it cannot be, those stay and say so."""
    members = [push(stage(number)) for number in (1, 2)]
    index = push_index(index_id(9), *members)
    refused = json.dumps({"errors": [{"code": "DENIED", "message": "immutable"}]}).encode()
    front = make_front(
        registry.host,
        lambda method, path: (
            Answer(412, refused) if method == "DELETE" and path.endswith(index.digest) else None
        ),
    )
    before = digests_in(registry, PATH)
    result = command("delete", f"{front.host}/{PATH}", stage(1), stage(2), index_id(9), "--json")
    *outcomes, summary = result.objects
    assert (1, 3, before) == (result.code, summary["failed"], digests_in(registry, PATH))
    errors = {outcome["item"]: outcome["error"] for outcome in outcomes}
    assert {"IndexNotDeletedError"} == {errors[stage(number)]["type"] for number in (1, 2)}
    assert all(f"{PATH}:{index_id(9)}" in errors[stage(number)]["message"] for number in (1, 2))

    result = command("delete", f"{registry.host}/{PATH}", stage(1), stage(2), index_id(9), "--json")
    *outcomes, summary = result.objects
    assert (0, 3, {}) == (result.code, summary["succeeded"], digests_in(registry, PATH)), result.err
    assert index_id(9) == outcomes[0]["item"]
    assert {1} == {outcome["attempts"] for outcome in outcomes}
    deletions = [path.rpartition("/")[2] for method, path, status in registry.requests() if status == 202]
    assert [index.digest] == [name for name in deletions if name == index.digest]
