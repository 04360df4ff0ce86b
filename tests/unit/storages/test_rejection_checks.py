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
from stagefleet.leases import NO_LEASE
from stagefleet.manifests import digest_of
from stagefleet.names import StageId
from stagefleet.storages import verification
from stagefleet.storages.verification import RejectionCheck

BASE, OWN = b"base layer", b"own layer"


class Changes(list[Callable[[], object]]):
    """Functions to be called between two looks; `waits` has the seconds of each wait."""

    def __init__(self):
        super().__init__()
        self.waits: list[float] = []


@pytest.fixture
def between(monkeypatch):
    changes = Changes()

    def pause(seconds, lease, *_told):
        changes.waits.append(seconds)
        lease.check()
        for change in changes:
            change()

    monkeypatch.setattr(verification, "pause", pause)
    return changes


@pytest.fixture
def stage(fakes):
    stage_id = fakes.stage(1)
    fakes.registries.push(fakes.source, str(stage_id), layers=(BASE, OWN))
    return stage_id


def examine(fakes, stage_id, *members, lease=NO_LEASE):
    return RejectionCheck(fakes.registries, fakes.source, stage_id, lease).find_fault(members)


def blobs(fakes):
    return fakes.registries.stored(fakes.source).blobs


def parts(fakes, stage_id):
    manifest = fakes.manifest(fakes.source, str(stage_id))
    return {"config": manifest.config, "layer": manifest.layers[1]}


@pytest.mark.parametrize("part", ["config", "layer"])
@pytest.mark.parametrize("there", [None, b"altered", b""], ids=["missing", "altered", "empty"])
def test_what_is_missing_or_altered_at_two_looks_is_a_fault(fakes, stage, between, part, there):
    """R5: five seconds apart at the least, each on connections of its own."""
    content = parts(fakes, stage)[part]
    blobs(fakes).pop(content.digest)
    if there is not None:
        blobs(fakes)[content.digest] = there
    faulty = examine(fakes, stage)
    assert (content, "" if there is None else str(digest_of(there)), None) == (
        faulty.content,
        faulty.look.detail,
        faulty.member,
    )
    assert str(content.digest) in str(faulty)
    assert ([True], 2) == ([seconds >= 5 for seconds in between.waits], fakes.registries.fresh)


def test_a_stage_that_is_whole_is_looked_at_once(fakes, stage, between):
    assert examine(fakes, stage) is None
    assert [] == between.waits


@pytest.mark.parametrize(
    ("before", "after"),
    [(None, OWN), (None, b"half"), (b"half", None), (b"half", OWN), (b"half", b"another half")],
    ids=["missing, whole", "missing, altered", "altered, missing", "altered, whole", "altered, otherwise"],
)
def test_two_looks_that_differ_are_no_fault(fakes, stage, between, before, after):
    """R5: a backend that comes back, a proxy that has half of it now and less of it then."""
    layer = parts(fakes, stage)["layer"]

    def put(content):
        blobs(fakes).pop(layer.digest, None)
        if content is not None:
            blobs(fakes)[layer.digest] = content

    put(before)
    between.append(lambda: put(after))
    assert examine(fakes, stage) is None


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
def test_a_look_that_fails_says_nothing_about_the_stage(fakes, stage, between, error, look):
    """R5: at the first look and at the second."""
    layer = parts(fakes, stage)["layer"]
    blobs(fakes).pop(layer.digest)

    def fail(*_, **__):
        raise error

    def break_down():
        fakes.registries.hash_blob = fail

    if look == 1:
        break_down()
    between.append(break_down)
    with pytest.raises(type(error)):
        examine(fakes, stage)


def test_a_stage_that_was_replaced_meanwhile_has_no_fault(fakes, stage, between):
    """R5: what was seen first was of another manifest."""
    blobs(fakes).pop(parts(fakes, stage)["layer"].digest)
    between.append(lambda: fakes.registries.push(fakes.source, str(stage), layers=(b"new",)))
    assert examine(fakes, stage) is None


def test_a_stage_that_went_meanwhile_is_gone(fakes, stage, between):
    blobs(fakes).pop(parts(fakes, stage)["layer"].digest)
    between.append(fakes.registries.stored(fakes.source).tags.clear)
    with pytest.raises(StageNotFoundError):
        examine(fakes, stage)


def test_layers_that_are_kept_elsewhere_need_not_be_there(fakes, between):
    """R5: known by their media type, and not by having URLs."""
    foreign, ordinary = fakes.stage(2), fakes.stage(3)
    urls = {"urls": ["https://example.com/layer"]}
    kind = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
    fakes.registries.push(fakes.source, str(foreign), layers=(b"foreign",), mediaType=kind, **urls)
    fakes.registries.push(fakes.source, str(ordinary), layers=(b"ordinary",), **urls)
    for content in (b"foreign", b"ordinary"):
        blobs(fakes).pop(digest_of(content))
    assert examine(fakes, foreign) is None
    assert digest_of(b"ordinary") == examine(fakes, ordinary).content.digest


def test_only_the_members_that_are_asked_for_are_looked_at(fakes, between):
    """W3, R5: an index may lack what nobody wants."""
    sound, broken, missing = (
        fakes.registries.push(fakes.source, None, layers=(layer,)) for layer in (b"1", b"2", b"3")
    )
    index = StageId(fakes.stage(1).digest)
    fakes.registries.push_index(fakes.source, str(index), [sound, broken, missing])
    blobs(fakes).pop(digest_of(b"2"))
    del fakes.registries.stored(fakes.source).manifests[missing]
    assert examine(fakes, index, sound) is None
    part = examine(fakes, index, sound, broken)
    assert (digest_of(b"2"), broken) == (part.content.digest, part.member)
    part = examine(fakes, index, missing)
    assert (missing, "", missing) == (part.content.digest, part.look.detail, part.member)


def test_what_is_missing_is_read_before_what_is_large(fakes, stage, between):
    """R5: the layers that are there are not read for the one that is not."""
    blobs(fakes).pop(parts(fakes, stage)["layer"].digest)
    fakes.registries.reads.clear()
    examine(fakes, stage)
    read = [what for verb, what in fakes.registries.reads if verb == "blob"]
    assert [str(parts(fakes, stage)["layer"].digest)] * 2 == read


def test_a_cancelled_item_waits_for_no_second_look(fakes, stage, between):
    """R5: nor does one whose lease is lost."""

    class Lease:
        def check(self):
            if between.waits:
                raise ItemCancelledError("cancelled")

        def require(self, seconds):
            raise NotImplementedError

    blobs(fakes).pop(parts(fakes, stage)["layer"].digest)
    with pytest.raises(ItemCancelledError):
        examine(fakes, stage, lease=Lease())
    assert 1 == fakes.registries.fresh


def test_a_multi_platform_stage_is_never_rejected(fakes):
    """I2: builders would refuse to build its image for good."""
    stage_id = StageId(fakes.stage(1).digest)
    with pytest.raises(UsageError, match=f"stagefleet delete {fakes.source} {stage_id}"):
        fakes.stage_tasks.storages.open(fakes.source).reject(stage_id, project="app", lease=NO_LEASE)
    assert set() == fakes.tags(fakes.source)
