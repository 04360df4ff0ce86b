"""Stages between two registries that are far away."""

from __future__ import annotations

import json

from stagefleet.leases import NO_LEASE
from stagefleet.manifests import OCI_MANIFEST
from stagefleet.names import Repository
from stagefleet.registry.client import RegistryClient
from stagefleet.settings import Settings
from tests.services.rounds import FarRegistry, Rounds
from tests.stage_tasks import StageTasks


class Course:
    """Two registries, and a client between them."""

    def __init__(self, stack):
        self.rounds = Rounds()
        self.source, self.destination = (
            stack.enter_context(FarRegistry(self.rounds).running()) for _ in range(2)
        )
        self.client = stack.enter_context(RegistryClient(Settings()))
        self.tasks = StageTasks(self.client)

    @property
    def repositories(self):
        return Repository(self.source.host, "app"), Repository(self.destination.host, "app")

    def push(self, tag, *layers):
        """Push an image into the source; returns its descriptor."""
        config = self.entry(b'{"config": {}, "created_by": "%s"}' % tag.encode())
        entries = [self.entry(layer) for layer in layers]
        document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": entries}
        raw = json.dumps(document).encode()
        return {
            "mediaType": OCI_MANIFEST,
            "size": len(raw),
            "digest": self.source.put(tag, OCI_MANIFEST, raw),
        }

    def entry(self, content):
        digest = self.source.push(content)
        return {"mediaType": "application/octet-stream", "size": len(content), "digest": digest}

    def copy(self, stage_id, *, lease=NO_LEASE):
        source, destination = self.repositories
        self.tasks.storages.registries.rejected_lately(source, list, NO_LEASE)  # no list is asked for
        result = self.tasks.copy_stage(source, destination, stage_id, run_id="r", lease=lease)
        assert self.source.manifests[str(stage_id)] == self.destination.manifests[str(stage_id)]
        return result
