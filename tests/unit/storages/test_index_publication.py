"""Indexes as werf writes them, over images that may be used."""

from __future__ import annotations

import json

import pytest

from stagefleet.attempt import Attempt
from stagefleet.errors import UsageError
from stagefleet.images import Platform
from stagefleet.manifests import DOCKER_INDEX, DOCKER_MANIFEST, Manifest
from stagefleet.names import Reference, StageId
from stagefleet.storages.index_publication import IndexPublication

INDEX = StageId("cd" * 28)
AMD = {"architecture": "amd64", "os": "linux"}
ARM = {"architecture": "arm64", "os": "linux", "variant": "v8"}
WINDOWS = {"architecture": "amd64", "os": "windows", "os.version": "10.0.1", "os.features": ["win32k"]}


@pytest.fixture
def push(fakes):
    """Pushes a stage whose configuration says the platform; the reference of it."""

    def push(number, platform):
        stage_id = fakes.stage(number)
        config = {**dict(reversed(platform.items())), "n": number}
        fakes.registries.push(fakes.source, str(stage_id), config=config)
        return fakes.source.tagged(str(stage_id))

    return push


@pytest.fixture
def publish(fakes):
    def publish(images, stage_id=INDEX):
        publication = IndexPublication(fakes.stage_tasks.storages, fakes.source, Attempt("r"))
        parsed = {Platform.parse(name): reference for name, reference in images.items()}
        return publication.publish(stage_id, parsed)

    return publish


@pytest.fixture
def images(push):
    return {"linux/arm64/v8": push(1, ARM), "linux/amd64": push(2, AMD)}


@pytest.fixture
def reject(fakes):
    def reject(stage_id):
        fakes.registries.push(fakes.source, stage_id.rejected_tag, labels={"werf": "app"})

    return reject


def member(fakes, reference, platform):
    image = fakes.registries.fetch_manifest(reference)
    return {
        "mediaType": image.media_type,
        "size": image.size,
        "digest": str(image.digest),
        "platform": platform,
    }


def written(fakes, tag=INDEX):
    return fakes.manifest(fakes.source, str(tag)).raw.decode()


def compact(document):
    return json.dumps(document, separators=(",", ":"))


def test_descriptors_and_platforms_are_written_as_werf_writes_them(fakes, push, publish):
    """I6: the keys in go-containerregistry's order, platforms as configurations say and callers order."""
    images = {"windows/amd64": push(3, WINDOWS), "linux/arm64": push(1, ARM), "linux/amd64": push(2, AMD)}
    publish(images)
    members = [
        member(fakes, image, platform)
        for image, platform in zip(images.values(), (WINDOWS, ARM, AMD), strict=True)
    ]
    assert compact(members) in written(fakes)


def test_over_dockers_images_the_whole_index_is_werfs(fakes, publish):
    """I6: byte for byte, so that the next build finds its own and does not move the tag."""
    config = fakes.registries.fetch_manifest(
        Reference.of(fakes.source, fakes.registries.push(fakes.source, None, config={**AMD, "n": 1}))
    ).config
    document = {
        "schemaVersion": 2,
        "mediaType": DOCKER_MANIFEST,
        "config": {"mediaType": config.media_type, "size": config.size, "digest": str(config.digest)},
        "layers": [],
    }
    fakes.registries.put_manifest(fakes.source.tagged("image"), Manifest.of(document))
    image = fakes.source.tagged("image")
    publish({"linux/amd64": image})
    size, digest = len(compact(document)), Manifest.of(document).digest
    expected = (
        f'{{"schemaVersion":2,"mediaType":"{DOCKER_INDEX}","manifests":[{{"mediaType":"{DOCKER_MANIFEST}",'
        f'"size":{size},"digest":"{digest}","platform":{{"architecture":"amd64","os":"linux"}}}}]}}'
    )
    assert expected == written(fakes)


def test_a_variant_that_the_caller_alone_knows_is_kept(fakes, push, publish):
    """I6: a configuration may say less than the caller, or nothing."""
    images = {"linux/arm/v7": push(1, {"architecture": "arm", "os": "linux"}), "linux/s390x": push(2, {})}
    publish(images)
    assert [
        {"architecture": "arm", "os": "linux", "variant": "v7"},
        {"architecture": "s390x", "os": "linux"},
    ] == [found["platform"] for found in json.loads(written(fakes))["manifests"]]


def test_fields_that_can_be_none_of_a_platform_are_left_out(fakes, push, publish):
    """I6: what a damaged configuration says goes into no index."""
    publish({"linux/amd64": push(1, {**AMD, "os.version": {"a": 1}, "os.features": [1], "variant": 0})})
    assert [AMD] == [found["platform"] for found in json.loads(written(fakes))["manifests"]]


@pytest.mark.parametrize("order", [1, -1], ids=["same", "reversed"])
def test_an_index_of_the_same_members_is_the_same_whatever_its_bytes(fakes, images, publish, order):
    """I6: keys, blanks, order and the platform's spelling say nothing."""
    platforms = [{"os": "linux", "architecture": "arm64"}, AMD]
    members = [
        member(fakes, image, platform) for image, platform in zip(images.values(), platforms, strict=True)
    ]
    document = {"manifests": members[::order], "mediaType": DOCKER_INDEX, "schemaVersion": 2}
    before = json.dumps(document, indent=3).encode()
    fakes.registries.push_odd(fakes.source, str(INDEX), before, media_type=DOCKER_INDEX)
    assert publish(images).skipped
    assert before.decode() == written(fakes)


@pytest.mark.parametrize("kind", ["fewer", "more", "swapped", "other"])
def test_an_index_of_other_members_is_refused(fakes, images, push, publish, kind):
    """I6: one that lacks an image, has one more, or says another platform of one, is another."""
    arm, amd = (member(fakes, image, p) for image, p in zip(images.values(), (ARM, AMD), strict=True))
    members = {
        "fewer": [amd],
        "more": [arm, amd, amd],
        "swapped": [{**arm, "platform": AMD}, {**amd, "platform": ARM}],
        "other": [arm, member(fakes, push(5, AMD), AMD)],
    }[kind]
    document = {"schemaVersion": 2, "mediaType": DOCKER_INDEX, "manifests": members}
    fakes.registries.push_odd(fakes.source, str(INDEX), document, media_type=DOCKER_INDEX)
    with pytest.raises(UsageError, match="with other images: delete it first"):
        publish(images)


class TestRejected:
    """No image of a rejected stage becomes a member, by whatever name it goes."""

    @pytest.fixture(params=["its id", "its digest", "a tag of people", "an index", "an index by its digest"])
    def name(self, request, fakes, images, publish):
        reference = images["linux/amd64"]
        digest = fakes.registries.head_manifest(reference).digest
        match request.param:
            case "its digest":
                return Reference.of(fakes.source, digest)
            case "a tag of people":
                fakes.registries.stored(fakes.source).tags["v1"] = digest
                return fakes.source.tagged("v1")
            case "an index" | "an index by its digest":
                publish(images, StageId("ef" * 28))
                index = fakes.source.tagged("ef" * 28)
                found = Reference.of(fakes.source, fakes.registries.head_manifest(index).digest)
                return index if request.param == "an index" else found
            case _:
                return reference

    def test_it_is_refused(self, fakes, name, publish, reject):
        """I6: whoever names it, nobody is to take a rejected stage."""
        reject(fakes.stage(2))
        with pytest.raises(UsageError, match="is the image of a rejected stage"):
            publish({"linux/amd64": name})
        assert str(INDEX) not in fakes.tags(fakes.source)

    def test_another_of_the_repository_is_taken(self, fakes, images, name, publish, reject):
        """I6: rejections of other stages, gone or damaged ones too, are in nobody's way."""
        for number in (7, 8, 9):
            reject(fakes.stage(number))
        fakes.registries.push(fakes.source, str(fakes.stage(8)))
        fakes.registries.damaged.add(str(fakes.stage(8)))
        assert not publish({"linux/amd64": name}).skipped

    def test_a_member_of_a_rejected_index_is_refused(self, fakes, images, publish, reject):
        """I6: an index is a stage too."""
        publish(images)
        reject(INDEX)
        with pytest.raises(UsageError, match="is the image of a rejected stage"):
            publish({"linux/amd64": fakes.source.tagged(str(INDEX))}, StageId("0e" * 28))
