"""The task of a verification, of stages in an engine."""

from __future__ import annotations

import pytest

from stagefleet.attempt import Attempt
from stagefleet.errors import AlteredContentError, StageNotFoundError
from stagefleet.names import StageId
from tasks.verify import verify_stage
from tests.integration.engine.conftest import LABELS
from tests.services import stage_id_of

ONE = StageId.parse(stage_id_of("one"))


def verify(host, **options):
    return verify_stage(host.storages, Attempt("r", str(ONE), {"repository": "docker-daemon:app", **options}))


@pytest.mark.parametrize("shallow", [False, True])
def test_a_stage_that_is_whole_is_verified(engine, host, shallow):
    engine.import_image(f"app:{ONE}", labels=LABELS)
    assert {"manifests": 1, "blobs": 1} == verify(host, shallow=shallow, reject=True).result


def test_a_broken_one_is_not_rejected_and_that_is_said(engine, host, monkeypatch):
    engine.import_image(f"app:{ONE}", labels=LABELS)
    connection = host.storages.host.engine
    find, named = connection.find, "sha256:" + "0" * 64
    monkeypatch.setattr(connection, "find", lambda name: {**find(name), "RootFS": {"Layers": [named]}})
    with pytest.raises(
        AlteredContentError, match=f"docker-daemon:app: the layer {named} .*; not rejected, as"
    ):
        verify(host, reject=True)


def test_a_stage_that_is_not_there_fails(host):
    with pytest.raises(StageNotFoundError):
        verify(host)
