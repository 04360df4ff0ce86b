"""What is held against a stage: only what was seen twice."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from stagefleet.errors import (
    ForbiddenError,
    ItemCancelledError,
    RegistryUnavailableError,
    RegistryUnreachableError,
    StageNotFoundError,
    TruncatedError,
    UsageError,
)
from stagefleet.manager import soundness
from stagefleet.manager.soundness import Examination
from stagefleet.names import StageId
from stagefleet.registry.leash import UNLEASHED
from stagefleet.registry.manifests import digest_of

BASE, OWN = b"base layer", b"own layer"


class Changes(list[Callable[[], object]]):
    """Functions to be called between two looks; `waits` has the seconds of each wait."""

    def __init__(self):
        super().__init__()
        self.waits: list[float] = []


@pytest.fixture
def between(monkeypatch):
    changes = Changes()

    def pause(seconds, leash, *_told):
        changes.waits.append(seconds)
        leash.check()
        for change in changes:
            change()

    monkeypatch.setattr(soundness, "pause", pause)
    return changes


@pytest.fixture
def stage(world):
    stage_id = world.stage(1)
    world.registries.push(world.source, str(stage_id), layers=(BASE, OWN))
    return stage_id


def examine(world, stage_id, *members, leash=UNLEASHED):
    return Examination(world.registries, world.source, stage_id, leash=leash).find_defect(members)


def blobs(world):
    return world.registries.shelf(world.source).blobs


def parts(world, stage_id):
    manifest = world.manifest(world.source, str(stage_id))
    return {"config": manifest.config, "layer": manifest.layers[1]}


@pytest.mark.parametrize("part", ["config", "layer"])
@pytest.mark.parametrize("there", [None, b"altered", b""], ids=["missing", "altered", "empty"])
def test_what_is_missing_or_altered_at_two_looks_is_a_defect(world, stage, between, part, there):
    """R5: five seconds apart at the least, each on connections of its own."""
    content = parts(world, stage)[part]
    blobs(world).pop(content.digest)
    if there is not None:
        blobs(world)[content.digest] = there
    defect = examine(world, stage)
    assert (content, "" if there is None else str(digest_of(there)), None) == (
        defect.content,
        defect.found,
        defect.member,
    )
    assert str(content.digest) in str(defect)
    assert ([True], 2) == ([seconds >= 5 for seconds in between.waits], world.registries.fresh)


def test_a_stage_that_is_whole_is_looked_at_once(world, stage, between):
    assert examine(world, stage) is None
    assert [] == between.waits


@pytest.mark.parametrize(
    ("before", "after"),
    [(None, OWN), (None, b"half"), (b"half", None), (b"half", OWN), (b"half", b"another half")],
    ids=["missing, whole", "missing, altered", "altered, missing", "altered, whole", "altered, otherwise"],
)
def test_two_looks_that_differ_are_no_defect(world, stage, between, before, after):
    """R5: a backend that comes back, a proxy that has half of it now and less of it then."""
    layer = parts(world, stage)["layer"]

    def put(content):
        blobs(world).pop(layer.digest, None)
        if content is not None:
            blobs(world)[layer.digest] = content

    put(before)
    between.append(lambda: put(after))
    assert examine(world, stage) is None


@pytest.mark.parametrize(
    "error",
    [
        RegistryUnavailableError("503", status=503),
        RegistryUnreachableError("connection refused"),
        TruncatedError("broke off"),
        ForbiddenError("denied", status=403),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("look", [1, 2])
def test_a_look_that_fails_says_nothing_about_the_stage(world, stage, between, error, look):
    """R5: at the first look and at the second."""
    layer = parts(world, stage)["layer"]
    blobs(world).pop(layer.digest)

    def fail(*_, **__):
        raise error

    def break_down():
        world.registries.hash_blob = fail

    if look == 1:
        break_down()
    between.append(break_down)
    with pytest.raises(type(error)):
        examine(world, stage)


def test_a_stage_that_was_replaced_meanwhile_has_no_defect(world, stage, between):
    """R5: what was seen first was of another manifest."""
    blobs(world).pop(parts(world, stage)["layer"].digest)
    between.append(lambda: world.registries.push(world.source, str(stage), layers=(b"new",)))
    assert examine(world, stage) is None


def test_a_stage_that_went_meanwhile_is_gone(world, stage, between):
    blobs(world).pop(parts(world, stage)["layer"].digest)
    between.append(world.registries.shelf(world.source).tags.clear)
    with pytest.raises(StageNotFoundError):
        examine(world, stage)


def test_layers_that_are_kept_elsewhere_need_not_be_there(world, between):
    """R5: known by their media type, and not by having URLs."""
    foreign, ordinary = world.stage(2), world.stage(3)
    urls = {"urls": ["https://example.com/layer"]}
    kind = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
    world.registries.push(world.source, str(foreign), layers=(b"foreign",), mediaType=kind, **urls)
    world.registries.push(world.source, str(ordinary), layers=(b"ordinary",), **urls)
    for content in (b"foreign", b"ordinary"):
        blobs(world).pop(digest_of(content))
    assert examine(world, foreign) is None
    assert digest_of(b"ordinary") == examine(world, ordinary).content.digest


def test_only_the_members_that_are_asked_for_are_looked_at(world, between):
    """W3, R5: an index may lack what nobody wants."""
    sound, broken, missing = (
        world.registries.push(world.source, None, layers=(layer,)) for layer in (b"1", b"2", b"3")
    )
    index = StageId(world.stage(1).digest)
    world.registries.push_index(world.source, str(index), [sound, broken, missing])
    blobs(world).pop(digest_of(b"2"))
    del world.registries.shelf(world.source).manifests[missing]
    assert examine(world, index, sound) is None
    defect = examine(world, index, sound, broken)
    assert (digest_of(b"2"), broken) == (defect.content.digest, defect.member)
    defect = examine(world, index, missing)
    assert (missing, "", missing) == (defect.content.digest, defect.found, defect.member)


def test_what_is_missing_is_read_before_what_is_large(world, stage, between):
    """R5: the layers that are there are not read for the one that is not."""
    blobs(world).pop(parts(world, stage)["layer"].digest)
    world.registries.reads.clear()
    examine(world, stage)
    read = [what for verb, what in world.registries.reads if verb == "blob"]
    assert [str(parts(world, stage)["layer"].digest)] * 2 == read


def test_a_cancelled_item_waits_for_no_second_look(world, stage, between):
    """R5: nor does one whose lease is lost."""

    class Leash:
        def check(self):
            if between.waits:
                raise ItemCancelledError("cancelled")

        def require(self, seconds):
            raise NotImplementedError

    blobs(world).pop(parts(world, stage)["layer"].digest)
    with pytest.raises(ItemCancelledError):
        examine(world, stage, leash=Leash())
    assert 1 == world.registries.fresh


def test_a_multi_platform_stage_is_never_rejected(world):
    """I2: builders would refuse to build its image for good."""
    stage_id = StageId(world.stage(1).digest)
    with pytest.raises(UsageError, match=f"stagefleet delete {world.source} {stage_id}"):
        world.manager.reject_stage(world.source, stage_id, project="app", leash=UNLEASHED)
    assert set() == world.tags(world.source)
