"""Indexes as werf writes them, over images that may be used."""

from __future__ import annotations

import json

import pytest

from stagefleet.errors import UsageError
from stagefleet.manager.multiplatform import IndexPublication
from stagefleet.names import Reference, StageId
from stagefleet.platforms import Platform
from stagefleet.registry import Manifest
from stagefleet.registry.manifests import DOCKER_INDEX, DOCKER_MANIFEST

INDEX = StageId("cd" * 28)
AMD = {"architecture": "amd64", "os": "linux"}
ARM = {"architecture": "arm64", "os": "linux", "variant": "v8"}
WINDOWS = {"architecture": "amd64", "os": "windows", "os.version": "10.0.1", "os.features": ["win32k"]}


@pytest.fixture
def push(world):
    """Pushes a stage whose configuration says the platform; the reference of it."""

    def push(number, platform):
        stage_id = world.stage(number)
        config = {**dict(reversed(platform.items())), "n": number}
        world.registries.push(world.source, str(stage_id), config=config)
        return world.source.tagged(str(stage_id))

    return push


@pytest.fixture
def publish(world):
    def publish(images, stage_id=INDEX):
        publication = IndexPublication(world.registries, world.book, world.source, run="r")
        parsed = {Platform.parse(name): reference for name, reference in images.items()}
        return publication.publish(stage_id, parsed)

    return publish


@pytest.fixture
def images(push):
    return {"linux/arm64/v8": push(1, ARM), "linux/amd64": push(2, AMD)}


@pytest.fixture
def reject(world):
    def reject(stage_id):
        world.registries.push(world.source, stage_id.rejected_tag, labels={"werf": "app"})

    return reject


def member(world, reference, platform):
    image = world.registries.fetch_manifest(reference)
    return {
        "mediaType": image.media_type,
        "size": image.size,
        "digest": str(image.digest),
        "platform": platform,
    }


def written(world, tag=INDEX):
    return world.manifest(world.source, str(tag)).raw.decode()


def compact(document):
    return json.dumps(document, separators=(",", ":"))


def test_descriptors_and_platforms_are_written_as_werf_writes_them(world, push, publish):
    """I6: the keys in go-containerregistry's order, platforms as configurations say and callers order."""
    images = {"windows/amd64": push(3, WINDOWS), "linux/arm64": push(1, ARM), "linux/amd64": push(2, AMD)}
    publish(images)
    members = [
        member(world, image, platform)
        for image, platform in zip(images.values(), (WINDOWS, ARM, AMD), strict=True)
    ]
    assert compact(members) in written(world)


def test_over_dockers_images_the_whole_index_is_werfs(world, publish):
    """I6: byte for byte, so that the next build finds its own and does not move the tag."""
    config = world.registries.fetch_manifest(
        Reference.of(world.source, world.registries.push(world.source, None, config={**AMD, "n": 1}))
    ).config
    document = {
        "schemaVersion": 2,
        "mediaType": DOCKER_MANIFEST,
        "config": {"mediaType": config.media_type, "size": config.size, "digest": str(config.digest)},
        "layers": [],
    }
    world.registries.put_manifest(world.source.tagged("image"), Manifest.of(document))
    image = world.source.tagged("image")
    publish({"linux/amd64": image})
    size, digest = len(compact(document)), Manifest.of(document).digest
    expected = (
        f'{{"schemaVersion":2,"mediaType":"{DOCKER_INDEX}","manifests":[{{"mediaType":"{DOCKER_MANIFEST}",'
        f'"size":{size},"digest":"{digest}","platform":{{"architecture":"amd64","os":"linux"}}}}]}}'
    )
    assert expected == written(world)


def test_a_variant_that_the_caller_alone_knows_is_kept(world, push, publish):
    """I6: a configuration may say less than the caller, or nothing."""
    images = {"linux/arm/v7": push(1, {"architecture": "arm", "os": "linux"}), "linux/s390x": push(2, {})}
    publish(images)
    assert [
        {"architecture": "arm", "os": "linux", "variant": "v7"},
        {"architecture": "s390x", "os": "linux"},
    ] == [found["platform"] for found in json.loads(written(world))["manifests"]]


def test_fields_that_can_be_none_of_a_platform_are_left_out(world, push, publish):
    """I6: what a damaged configuration says goes into no index."""
    publish({"linux/amd64": push(1, {**AMD, "os.version": {"a": 1}, "os.features": [1], "variant": 0})})
    assert [AMD] == [found["platform"] for found in json.loads(written(world))["manifests"]]


@pytest.mark.parametrize("order", [1, -1], ids=["same", "reversed"])
def test_an_index_of_the_same_members_is_the_same_whatever_its_bytes(world, images, publish, order):
    """I6: keys, blanks, order and the platform's spelling say nothing."""
    platforms = [{"os": "linux", "architecture": "arm64"}, AMD]
    members = [
        member(world, image, platform) for image, platform in zip(images.values(), platforms, strict=True)
    ]
    document = {"manifests": members[::order], "mediaType": DOCKER_INDEX, "schemaVersion": 2}
    before = json.dumps(document, indent=3).encode()
    world.registries.push_odd(world.source, str(INDEX), before, media_type=DOCKER_INDEX)
    assert publish(images).skipped
    assert before.decode() == written(world)


@pytest.mark.parametrize("kind", ["fewer", "more", "swapped", "other"])
def test_an_index_of_other_members_is_refused(world, images, push, publish, kind):
    """I6: one that lacks an image, has one more, or says another platform of one, is another."""
    arm, amd = (member(world, image, p) for image, p in zip(images.values(), (ARM, AMD), strict=True))
    members = {
        "fewer": [amd],
        "more": [arm, amd, amd],
        "swapped": [{**arm, "platform": AMD}, {**amd, "platform": ARM}],
        "other": [arm, member(world, push(5, AMD), AMD)],
    }[kind]
    document = {"schemaVersion": 2, "mediaType": DOCKER_INDEX, "manifests": members}
    world.registries.push_odd(world.source, str(INDEX), document, media_type=DOCKER_INDEX)
    with pytest.raises(UsageError, match="with other images: delete it first"):
        publish(images)


class TestRejected:
    """No image of a rejected stage becomes a member, by whatever name it goes."""

    @pytest.fixture(params=["its id", "its digest", "a tag of people", "an index", "an index by its digest"])
    def name(self, request, world, images, publish):
        reference = images["linux/amd64"]
        digest = world.registries.head_manifest(reference).digest
        match request.param:
            case "its digest":
                return Reference.of(world.source, digest)
            case "a tag of people":
                world.registries.shelf(world.source).tags["v1"] = digest
                return world.source.tagged("v1")
            case "an index" | "an index by its digest":
                publish(images, StageId("ef" * 28))
                index = world.source.tagged("ef" * 28)
                found = Reference.of(world.source, world.registries.head_manifest(index).digest)
                return index if request.param == "an index" else found
            case _:
                return reference

    def test_it_is_refused(self, world, name, publish, reject):
        """I6: whoever names it, nobody is to take a rejected stage."""
        reject(world.stage(2))
        with pytest.raises(UsageError, match="is the image of a rejected stage"):
            publish({"linux/amd64": name})
        assert str(INDEX) not in world.tags(world.source)

    def test_another_of_the_repository_is_taken(self, world, images, name, publish, reject):
        """I6: rejections of other stages, gone or damaged ones too, are in nobody's way."""
        for number in (7, 8, 9):
            reject(world.stage(number))
        world.registries.push(world.source, str(world.stage(8)))
        world.registries.damaged.add(str(world.stage(8)))
        assert not publish({"linux/amd64": name}).skipped

    def test_a_member_of_a_rejected_index_is_refused(self, world, images, publish, reject):
        """I6: an index is a stage too."""
        publish(images)
        reject(INDEX)
        with pytest.raises(UsageError, match="is the image of a rejected stage"):
            publish({"linux/amd64": world.source.tagged(str(INDEX))}, StageId("0e" * 28))
