"""An image by its name: the engine of this host is asked first, then the registry."""

from __future__ import annotations

import pytest

from stagefleet.errors import NotFoundError
from stagefleet.locks import MemoryLocks
from stagefleet.names import Repository
from stagefleet.project_addresses import Project
from stagefleet.projects.lookup import StageLookup
from stagefleet.storages.docker_engine import EngineHost
from tests.integration.engine.conftest import LABELS
from tests.stage_tasks import make_storages


@pytest.fixture
def make_lookup(client, repository, cleanup):
    """Makes the look-up of a host with the engine, or of one without any."""

    def make(connection=None):
        locks = MemoryLocks()
        cleanup.callback(locks.close)
        host = None if connection is None else EngineHost(connection, "here", locks)
        return StageLookup(make_storages(client, locks=locks, host=host), Project("app", repository))

    return make


def test_what_the_engine_has_is_asked_of_no_registry(engine, connection, make_lookup, registry, repository):
    engine.import_image(f"{repository}:local", labels={**LABELS, "of": "the engine"})
    before = len(registry.requests())
    found = make_lookup(connection).image_info(repository.tagged("local"))

    assert ("local", "the engine") == (found.tag, found.labels["of"])
    assert before == len(registry.requests())
    with pytest.raises(NotFoundError):
        make_lookup().image_info(repository.tagged("local"))


def test_what_the_engine_lacks_comes_from_the_registry(connection, make_lookup, repository, push):
    stage_id, pushed = push("one")
    found = make_lookup(connection).image_info(repository.tagged(str(stage_id)))

    assert f"{repository}@{pushed.digest}" == found.repo_digest
    with pytest.raises(NotFoundError):
        make_lookup(connection).image_info(Repository(repository.host, "nowhere").tagged("nothing"))
