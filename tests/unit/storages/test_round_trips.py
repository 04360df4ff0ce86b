"""A stage takes as few round trips as its requests have to wait for one another."""

from __future__ import annotations

import json
from contextlib import ExitStack

import pytest

from stagefleet.leases import NO_LEASE
from stagefleet.names import Repository, StageId
from stagefleet.registry.client import RegistryClient
from stagefleet.settings import Settings
from tests.services.rounds import FarRegistry, Rounds
from tests.stage_tasks import StageTasks

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
STAGE_ID = StageId("a" * 56, 1700000000000)
INDEX_ID = StageId("b" * 56)


class Course:
    """Two registries far away, and a client between them."""

    def __init__(self, stack, *, settings=None):
        self.rounds = Rounds()
        self.source, self.destination = (
            stack.enter_context(FarRegistry(self.rounds).running()) for _ in range(2)
        )
        self.client = stack.enter_context(RegistryClient(settings or Settings()))
        self.tasks = StageTasks(self.client)

    def push(self, tag, *layers):
        config = self.entry(b'{"config": {}, "created_by": "%s"}' % tag.encode())
        entries = [self.entry(layer) for layer in layers]
        document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": entries}
        raw = json.dumps(document).encode()
        digest = self.source.put(tag, OCI_MANIFEST, raw)
        return {"mediaType": OCI_MANIFEST, "size": len(raw), "digest": digest}

    def entry(self, content):
        return {
            "mediaType": "application/octet-stream",
            "size": len(content),
            "digest": self.source.push(content),
        }

    def copy(self, stage_id):
        self.tasks.storages.registries.rejected_lately(self.source_repository, list, NO_LEASE)
        result = self.tasks.copy_stage(
            self.source_repository, self.destination_repository, stage_id, run_id="r"
        )
        assert self.source.manifests[str(stage_id)] == self.destination.manifests[str(stage_id)]
        return result

    @property
    def source_repository(self):
        return Repository(self.source.host, "app")

    @property
    def destination_repository(self):
        return Repository(self.destination.host, "app")


@pytest.fixture
def course():
    with ExitStack() as stack:
        yield Course(stack)


@pytest.mark.parametrize("layers", [1, 3], ids=["one layer", "three layers"])
def test_a_stage_takes_five_round_trips_whatever_the_number_of_its_layers(course, layers):
    course.push(str(STAGE_ID), *(bytes([number]) * 1000 for number in range(layers)))
    course.copy(STAGE_ID)
    assert 5 == course.rounds.count, course.rounds.requests
    assert 5 + 3 * layers == course.rounds.total


def test_the_members_of_an_index_go_side_by_side(course):
    members = [course.push(f"member-{number}", bytes([number]) * 1000) for number in range(3)]
    document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": members}
    course.source.put(str(INDEX_ID), OCI_INDEX, json.dumps(document).encode())
    course.copy(INDEX_ID)
    copied = [
        requests for requests in course.rounds.requests if any("PUT" in request for request in requests)
    ]
    assert 3 == len(copied), course.rounds.requests
    # and one looks for a deletion's left-over rejection of the stage
    assert 1 + 3 * 8 + 1 + 1 == sum(
        "tags" not in request for requests in course.rounds.requests for request in requests
    )
