"""The engine that other tests stand on."""

from __future__ import annotations

import json

import docker.errors
import pytest

from tests.services import archive_of, push_image


def test_engine_is_empty_for_each_test(engine):
    engine.import_image("app:one")
    assert ["app:one"] == engine.tags()
    engine.renew()
    assert [] == engine.tags()


def test_two_engines_know_nothing_of_each_other(engine, make_engine):
    other = make_engine()
    engine.import_image("app:one")
    assert (["app:one"], []) == (engine.tags(), other.tags())


def test_engine_pulls_what_the_image_maker_pushed(engine, registry):
    layers = [archive_of({"a": b"first"}), archive_of({"b": b"second"})]
    pushed = push_image(registry, "app", "one", layers=layers, labels={"werf": "app"})
    engine.client().api.pull(f"{registry.host}/app", tag="one")
    assert pushed.document["config"]["digest"] == engine.image_id(f"{registry.host}/app:one")


def test_killed_engine_comes_back_with_its_images_and_without_its_containers_running(make_engine):
    engine = make_engine()
    image_id = engine.import_image("app:one", labels={"werf": "app"})
    engine.run_container("app:one", "job")
    engine.kill()
    engine.start()
    assert image_id == engine.image_id("app:one")
    states = [container["State"] for container in engine.client().api.containers(all=True)]
    assert ["exited"] == states, json.dumps(states)


def test_container_keeps_its_image_from_being_removed(engine):
    engine.import_image("app:one")
    engine.run_container("app:one", "job")
    with pytest.raises(docker.errors.APIError, match="Conflict"):
        engine.client().api.remove_image("app:one")
