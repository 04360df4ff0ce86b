"""What goes wrong with one request of a stage ends the others, and nothing is left under way."""

from __future__ import annotations

import threading
import time
from contextlib import nullcontext

import pytest

from stagefleet.errors import (
    BrokenStageError,
    ForbiddenError,
    ItemCancelledError,
    LeaseLostError,
    RegistryUnreachableError,
)
from stagefleet.manifests import Descriptor
from stagefleet.names import Digest, StageId
from stagefleet.registry import blob_upload_api
from stagefleet.registry.blob_source import BlobStream
from stagefleet.registry.client import RegistryClient
from stagefleet.registry.http.adapter import CHUNK_BYTES
from stagefleet.settings import HttpSettings, Settings

STAGE_ID = StageId("a" * 56, 1700000000000)
LAYERS = [bytes([number]) * 1000 for number in range(4)]
LONG = 30


@pytest.fixture
def near(course):
    """The registries answer at once."""
    course.rounds.quiet_seconds = 0
    course.push(str(STAGE_ID), *LAYERS)
    return course


class Lease:
    """Ends with an error once a test says so; reports waits."""

    def __init__(self):
        self.error = None
        self.told = []

    def check(self):
        if self.error is not None:
            raise self.error

    def require(self, seconds):
        self.check()

    def note_bytes(self, moved, expected=0):
        pass

    def note_progress(self, seconds, text):
        pass

    def check_run(self):
        self.check()

    def waiting(self, seconds, host, text):
        self.told.append((host, text))
        return threading.Lock()  # any context


def hang(release, asked, method):
    """Let requests of one kind wait."""

    def on_request(request):
        if request.startswith(method):
            asked.set()
            release.wait(LONG)

    return on_request


def assert_quiet(course):
    """Assert that no request comes any more, and no manifest came."""
    before = course.rounds.total
    time.sleep(0.2)
    assert before == course.rounds.total
    assert {} == course.destination.manifests


@pytest.mark.parametrize("kind", ["POST uploads/", "PUT uploads/session"])
def test_a_refusal_ends_the_requests_beside_it(near, kind):
    asked, release = threading.Event(), threading.Event()
    near.source.on_request = hang(release, asked, f"GET {near.entry(LAYERS[0])['digest']}")
    taken = [kind]  # the first one is

    def refuse(request):
        if request == kind:
            return None if taken and taken.pop() else (403, {}, b"")
        return None

    near.destination.on_request = refuse
    began = time.monotonic()
    with pytest.raises(ForbiddenError):
        near.copy(STAGE_ID)
    assert time.monotonic() - began < LONG / 2
    assert_quiet(near)
    release.set()


@pytest.mark.parametrize("error", [LeaseLostError("lost"), ItemCancelledError("the worker has to stop")])
def test_the_end_of_the_lease_ends_all_requests(near, error):
    asked, release, lease = threading.Event(), threading.Event(), Lease()
    near.destination.on_request = hang(release, asked, "PUT uploads")

    def end():
        assert asked.wait(LONG)
        lease.error = error

    ending = threading.Thread(target=end)
    ending.start()
    with pytest.raises(type(error)):
        near.copy(STAGE_ID, lease=lease)
    ending.join()
    assert_quiet(near)
    release.set()


def test_a_slow_source_of_one_layer_holds_up_no_other(near):
    asked, release = threading.Event(), threading.Event()
    slow = near.entry(LAYERS[0])["digest"]
    near.source.on_request = hang(release, asked, f"GET {slow}")
    copying = threading.Thread(target=near.copy, args=(STAGE_ID,))
    copying.start()
    deadline = time.monotonic() + LONG
    while len(near.destination.blobs) < len(LAYERS) and time.monotonic() < deadline:
        time.sleep(0.01)
    there = set(near.destination.blobs)
    release.set()
    copying.join()
    assert slow not in there
    assert len(LAYERS) == len(there), "the other layers and the configuration"
    assert str(STAGE_ID) in near.destination.manifests


def test_a_blob_that_the_source_lacks_ends_the_stage(near):
    del near.source.blobs[near.entry(LAYERS[2])["digest"]]
    with pytest.raises(BrokenStageError):
        near.copy(STAGE_ID)
    assert_quiet(near)


def test_a_destination_that_asks_for_a_pause_gets_it_and_the_stage(near):
    answers = iter([(429, {"Retry-After": "3"}, b"")])
    near.destination.on_request = lambda request: next(answers, None) if "POST" in request else None
    lease, began = Lease(), time.monotonic()
    near.copy(STAGE_ID, lease=lease)
    assert time.monotonic() - began >= 3
    assert near.destination.host in {host for host, _ in lease.told}
    assert 5 + 3 * len(LAYERS) + 1 == near.rounds.total


def test_a_bounded_number_of_layers_is_in_memory(course, monkeypatch):
    """A process holds two chunks of each, and one that is on its way, whatever the number of layers."""
    opened, most, lock = [0], [0], threading.Lock()

    class Counted(BlobStream):
        def __init__(self, *arguments):
            with lock:
                opened[0] += 1
                most[0] = max(most[0], opened[0])
            super().__init__(*arguments)

        def close(self):
            super().close()
            with lock:
                opened[0] -= 1

    monkeypatch.setattr(blob_upload_api, "BlobStream", Counted)
    course.rounds.quiet_seconds = 0
    course.push(str(STAGE_ID), *(bytes([number]) * (CHUNK_BYTES + 1) for number in range(60)))
    course.copy(STAGE_ID)
    assert 0 == opened[0]
    assert 1 < most[0] <= 16 + 1


@pytest.mark.parametrize("seconds", [LONG, 0.3])
def test_the_answer_to_a_layer_has_a_time_limit_of_its_own(near, seconds):
    """A registry that assembles a large blob from its parts answers late."""
    near.destination.on_request = lambda request: time.sleep(1) if request.startswith("PUT uploads") else None
    http = HttpSettings(
        read_timeout_seconds=20 if seconds < 1 else 0.5, upload_timeout_seconds=seconds, retries=0
    )
    source, destination = near.repositories
    layer = near.entry(LAYERS[0])
    blob = Descriptor(layer["mediaType"], Digest.parse(layer["digest"]), layer["size"])
    with RegistryClient(Settings(http=http)) as client:
        ends = pytest.raises(RegistryUnreachableError, match="its answer took longer")
        with ends if seconds < 1 else nullcontext():
            client.upload_blob(
                destination, blob, lambda: client.open_blob(source, blob), mount_from=destination
            )
