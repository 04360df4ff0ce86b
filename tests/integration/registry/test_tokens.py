"""Token logins: what is asked for, how often, and what happens when a token ends."""

from __future__ import annotations

import os
import time

import pytest

from stagefleet.errors import CredentialsError, ForbiddenError
from stagefleet.leases import NO_LEASE
from stagefleet.manifests import Descriptor, Manifest, digest_of
from stagefleet.names import Digest, Reference, StageId
from stagefleet.registry.blob_source import UploadSource
from stagefleet.registry.upload_sessions import CurrentUpload
from stagefleet.shared_state.implementations import MemorySharedState
from tests.services import ImageMaker, push_image
from tests.services.registry import copy_blob
from tests.stage_tasks import StageTasks

LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
PULL, PUSH = "repository:team/app:pull", "repository:team/app:pull,push"


@pytest.fixture
def guarded(make_registry, token_server):
    return make_registry(token=token_server)


def blob(content):
    return Descriptor(LAYER, digest_of(content), len(content))


def push_blob(registry, content, path="team/app"):
    with ImageMaker(registry) as maker:
        maker.push_blob(path, content)
    return blob(content)


def test_a_token_is_asked_for_with_the_scopes_of_the_work(guarded, token_server, client, at):
    pushed = push_image(guarded, "team/app", "one")
    for _ in range(3):
        client.head_manifest(at(guarded).tagged("one"))
    client.put_manifest(at(guarded).tagged("two"), Manifest.parse(pushed.manifest, pushed.media_type))
    client.delete_manifest(Reference.of(at(guarded), Digest.parse(pushed.digest)))
    assert [(PULL,), (PUSH,), ("repository:team/app:delete",)] == token_server.issued


def test_a_copy_of_many_stages_asks_each_registry_for_one_token(
    guarded, token_server, make_registry, make_token_server, client, at
):
    other_tokens = make_token_server()
    destination = make_registry(token=other_tokens)
    stages = [StageId(f"{number:056x}", 1_700_000_000_000 + number) for number in range(12)]
    with ImageMaker(guarded) as maker:
        for number, stage in enumerate(stages):
            maker.push_image("team/app", str(stage), layers=[b"shared", f"own {number}".encode()])
    stage_tasks = StageTasks(client, MemorySharedState())
    for stage in stages:
        stage_tasks.copy_stage(at(guarded), at(destination), stage, run_id="run")
    with ImageMaker(destination) as maker:
        assert sorted(map(str, stages)) == maker.tags("team/app")
    assert [(PULL,)] == token_server.issued
    assert [(PUSH,)] == other_tokens.issued


def test_a_token_that_is_over_is_replaced(guarded, token_server, client, at):
    push_image(guarded, "team/app", "one")
    token_server.lifetime_seconds = 1
    reference = at(guarded).tagged("one")
    client.head_manifest(reference)
    deadline = time.monotonic() + 10
    while len(token_server.issued) < 2 and time.monotonic() < deadline:
        client.head_manifest(reference)
    assert 2 <= len(token_server.issued)


def test_a_token_that_the_registry_takes_no_more_is_replaced_at_once(guarded, token_server, client, at):
    push_image(guarded, "team/app", "one")
    reference = at(guarded).tagged("one")
    token_server.lifetime_seconds = -1  # over when it is handed out; the server says so, to nobody's help
    with pytest.raises(ForbiddenError, match="clocks"):
        client.head_manifest(reference)
    token_server.lifetime_seconds = 300
    client.head_manifest(reference)


def test_tokens_that_end_in_the_middle_of_a_long_copy_are_renewed(
    guarded, token_server, make_registry, make_token_server, make_proxy, client, at
):
    """The source's token and the destination's end while the first blob is on its way."""
    content = os.urandom(2_000_000)
    descriptor = push_blob(guarded, content)
    other_tokens = make_token_server()
    destination = make_registry(token=other_tokens)
    token_server.lifetime_seconds = other_tokens.lifetime_seconds = 1
    began = time.time()

    def linger(_):
        while time.time() < began + 2.1:
            time.sleep(0.05)

    source, target = at(guarded), at(destination)
    sent = copy_blob(client, source, target, descriptor, mount_from=target, on_bytes=linger)
    assert descriptor.size == sent
    pushed = client.fetch_blob(target, descriptor)
    assert content == pushed
    small = push_blob(guarded, b"another")
    assert small.size == copy_blob(client, source, target, small, mount_from=target)
    assert 2 <= len(token_server.issued)
    assert 2 <= sum(PUSH in scopes for scopes in other_tokens.issued)


def test_a_token_that_ends_between_post_and_put_is_renewed_for_the_put(guarded, token_server, client, at):
    token_server.lifetime_seconds = 1
    content = os.urandom(3_000_000)
    upload = client.begin_upload(at(guarded), digest_of(content), mount_from=None)
    assert upload is not None
    time.sleep(2.1)  # a token ends by the clock alone
    client.upload_bytes(upload, content)
    assert {(PUSH,)} == set(token_server.issued)
    assert len(token_server.issued) >= 2, "a slow machine may need one more: they last a second"
    assert content == client.fetch_blob(at(guarded), blob(content))


def test_a_token_that_is_refused_in_the_middle_sends_the_blob_again_from_its_start(
    guarded, token_server, make_registry, client, at
):
    """The client's clock thinks the token good, the registry does not: 401 on a PUT with a large body."""
    content = os.urandom(3_000_000)
    source = make_registry()
    descriptor = push_blob(source, content)
    target = at(guarded)
    client.begin_upload(target, descriptor.digest, mount_from=None)
    slot = client._http_client._authorizer._slots[guarded.host, (PUSH,)]
    stale = token_server.mint([PUSH], lifetime_seconds=-1)
    grant = slot.grant
    assert grant is not None
    upload = client.begin_upload(target, descriptor.digest, mount_from=None)
    assert upload is not None
    slot.grant = type(grant)(f"Bearer {stale}", grant.login, grant.fresh_until)
    body = UploadSource(lambda *_, **__: client.open_blob(at(source), descriptor), lambda: None)
    client._send_source(CurrentUpload(upload, lambda _: None), body, NO_LEASE)
    assert content == client.fetch_blob(target, descriptor)
    assert 401 in [request.status for request in guarded.requests() if request.method == "PUT"]


def test_who_may_only_pull_gets_a_typed_error_on_a_push(guarded, token_server, client, at, config_file):
    pushed = push_image(guarded, "team/app", "one")
    token_server.refused_actions = {"push"}
    client.head_manifest(at(guarded).tagged("one"))
    with pytest.raises(ForbiddenError) as caught:
        client.put_manifest(at(guarded).tagged("two"), Manifest.parse(pushed.manifest, pushed.media_type))
    assert "the login may not do this" in str(caught.value)
    assert str(config_file) in str(caught.value)
    assert (("PUT", 401), f"{guarded.host}/team/app") == (
        (caught.value.method, caught.value.status),
        caught.value.repository,
    )
    with pytest.raises(ForbiddenError):
        client.begin_upload(at(guarded), digest_of(b"x"), mount_from=None)
    client.head_manifest(at(guarded).tagged("one"))


def test_a_mount_asks_for_both_scopes(guarded, token_server, client, at):
    descriptor = push_blob(guarded, b"layer", "team/base")
    assert client.begin_upload(at(guarded), descriptor.digest, mount_from=at(guarded, "team/base")) is None
    assert [("repository:team/app:pull,push", "repository:team/base:pull")] == [
        tuple(sorted(scopes)) for scopes in token_server.issued
    ]


def test_a_mount_without_rights_on_the_other_repository_becomes_an_upload(
    guarded, token_server, client, at, monkeypatch
):
    descriptor = push_blob(guarded, b"layer", "secret/base")
    allow = token_server._allow
    monkeypatch.setattr(
        token_server,
        "_allow",
        lambda scope: allow(scope) | ({"actions": []} if scope.startswith("repository:secret/") else {}),
    )
    upload = client.begin_upload(at(guarded), descriptor.digest, mount_from=at(guarded, "secret/base"))
    assert upload is not None
    client.upload_bytes(upload, b"layer")
    assert b"layer" == client.fetch_blob(at(guarded), descriptor)


@pytest.fixture
def strict_tokens(make_token_server):
    return make_token_server(users={"ci": "right"})


@pytest.fixture
def strict(make_registry, strict_tokens):
    return make_registry(token=strict_tokens)


def test_the_login_goes_to_the_token_server(strict, strict_tokens, client, log_in):
    log_in(strict.host, "ci", "right")
    client.ping(strict.host)
    assert [("ci", ())] == strict_tokens.grants


def test_a_login_that_the_token_server_refuses_names_the_file_and_no_secret(
    strict, client, log_in, config_file
):
    log_in(strict.host, "ci", "hunter2")
    with pytest.raises(CredentialsError) as caught:
        client.ping(strict.host)
    assert str(config_file) in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_an_identity_token_is_exchanged(strict, strict_tokens, client, at, write_config):
    push_image(strict, "team/app", "one")
    token = strict_tokens.new_refresh_token("robot")
    write_config({"auths": {strict.host: {"auth": "PHRva2VuPjo=", "identitytoken": token}}})
    assert ["one"] == list(client.tags(at(strict)))
    assert [("robot", (PULL,))] == strict_tokens.grants


def test_a_helper_may_keep_an_identity_token(strict, strict_tokens, client, write_config, install_helper):
    install_helper("of-tests", user="<token>", secret=strict_tokens.new_refresh_token("robot"))
    write_config({"credHelpers": {strict.host: "of-tests"}})
    client.ping(strict.host)
    assert ["robot"] == [grant.account for grant in strict_tokens.grants]


def test_an_identity_token_that_is_over_is_a_refused_login(strict, client, write_config, config_file):
    write_config({"auths": {strict.host: {"identitytoken": "hunter2"}}})
    with pytest.raises(CredentialsError) as caught:
        client.ping(strict.host)
    assert str(config_file) in str(caught.value)
    assert "hunter2" not in str(caught.value)
