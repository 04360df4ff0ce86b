"""Statuses of success besides the one that the specification names."""

from __future__ import annotations

import json

import pytest

from stagefleet.settings import RegistrySettings
from tests.unit.registry.asking import BLOB, CONTENT, tags
from tests.unit.registry.scripted import RegistryResponse


def taking(**statuses):
    """Make a registry that answers methods of an upload with these statuses."""

    def script(asked):
        path = asked.path.partition("?")[0]
        headers = {} if asked.method == "PUT" else {"Location": f"{path.removesuffix('/s')}/s"}
        return RegistryResponse(statuses.get(asked.method, 202), headers=headers)

    return script


@pytest.mark.parametrize("put", [200, 201, 202, 204])
@pytest.mark.parametrize("post", [200, 202, 204])
def test_an_upload_succeeds_by_any_status_of_success(serve, client, repository_at, post, put):
    """Kind of W11 (containerd/containerd #3750): Quay has said 202 where the specification has 201."""
    server = serve(taking(POST=post, PUT=put))
    upload = client.begin_upload(repository_at(server), BLOB.digest, mount_from=None)
    client.upload_bytes(upload, CONTENT)
    assert ["POST", "PUT"] == [asked.method for asked in server.asked]


@pytest.mark.parametrize("patch", [200, 201, 202, 204])
def test_a_chunk_succeeds_by_any_status_of_success(serve, connect, repository_at, patch):
    """Kind of W6 (pulp/pulp_container #2199)."""
    server = serve(taking(PATCH=patch, PUT=201))
    client = connect(registries={server.host: RegistrySettings(chunk_bytes=64 * 1024)})
    upload = client.begin_upload(repository_at(server), BLOB.digest, mount_from=None)
    client.upload_bytes(upload, bytes(65 * 1024))
    assert ["POST", "PATCH", "PATCH", "PUT"] == [asked.method for asked in server.asked]


@pytest.mark.parametrize("status", [200, 201, 202])
def test_a_token_comes_by_any_status_of_success(serve, client, repository_at, status):
    """Kind of W24: Go's tools take each below 400."""

    def script(asked):
        if asked.path.startswith("/token"):
            return RegistryResponse(status, json.dumps({"token": "ours"}).encode())
        if asked.headers.get("Authorization") == "Bearer ours":
            return RegistryResponse(body=b'{"tags": ["one"]}')
        realm = f'Bearer realm="http://{asked.headers["Host"]}/token"'
        return RegistryResponse(401, headers={"WWW-Authenticate": realm})

    assert ["one"] == tags(client, repository_at(serve(script)))
