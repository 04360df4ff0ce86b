"""The API for referrers, and the registries that lack it (OCI distribution specification 1.1)."""

from __future__ import annotations

import json

import pytest

from stagefleet.errors import RegistryUnavailableError
from stagefleet.manifests import OCI_INDEX, OCI_MANIFEST
from stagefleet.names import Digest, Repository
from stagefleet.registry import client as registry_client
from stagefleet.registry.referrers import cosign_tags, fallback_tag, is_referrer_tag
from tests.unit.registry.asking import MANIFEST
from tests.unit.registry.scripted import RegistryResponse

SUBJECT = MANIFEST.digest


def index(*names, **headers):
    entries = [
        {
            "mediaType": OCI_MANIFEST,
            "digest": f"sha256:{name * 64}",
            "size": 7,
            "artifactType": "application/x",
        }
        for name in names
    ]
    document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
    return RegistryResponse(200, json.dumps(document).encode(), {"Content-Type": OCI_INDEX, **headers})


def test_referrers_are_read_page_by_page(serve, client, repository_at):
    """ "Listing Referrers": a `Link` header leads to the next page."""

    def script(asked):
        if "page=2" in asked.path:
            return index("b")
        path = f"/v2/{repository.path}/referrers/{SUBJECT}"
        return index("a", Link=f'<{path}?page=2>; rel="next"')

    server = serve(script)
    repository = repository_at(server)
    found = client.referrers(repository, SUBJECT)
    assert ["a", "b"] == [descriptor.digest.hex[0] for descriptor in found]
    assert {"application/x"} == {descriptor.artifact_type for descriptor in found}


@pytest.mark.parametrize("status", [400, 403, 404, 405, 501, 200])
def test_a_registry_without_the_api_is_asked_once(serve, client, repository_at, status):
    """404 after the specification; gateways and old registries answer otherwise, also with a page of HTML."""
    server = serve(lambda _: RegistryResponse(status, b"<html>not here</html>"))
    for _ in range(2):
        assert client.referrers(repository_at(server), SUBJECT) is None
    assert 1 == len(server.asked)


@pytest.mark.parametrize("status", [403, 404])
def test_what_one_repository_lacks_another_may_have(serve, client, repository_at, status):
    """A login may see one repository alone, and one host may be several registries, by path."""
    server = serve(lambda asked: index("a") if "/other/" in asked.path else RegistryResponse(status))
    repository = repository_at(server)
    assert client.referrers(repository, SUBJECT) is None
    assert 1 == len(client.referrers(Repository(repository.host, "group/other"), SUBJECT))


@pytest.mark.parametrize("code", ["NAME_UNKNOWN", "MANIFEST_UNKNOWN"])
def test_what_does_not_exist_yet_says_nothing_of_the_api(serve, client, repository_at, code):
    """The first push makes the repository: what it lists then counts."""
    unknown = json.dumps({"errors": [{"code": code, "message": "unknown"}]}).encode()
    answers = [index("a"), RegistryResponse(404, unknown)]
    repository = repository_at(serve(lambda _: answers.pop()))
    assert client.referrers(repository, SUBJECT) is None
    assert 1 == len(client.referrers(repository, SUBJECT))


def test_the_repositories_that_lack_it_are_remembered_within_bounds(
    serve, client, repository_at, monkeypatch
):
    monkeypatch.setattr(registry_client, "_MOST_REPOSITORIES", 3)
    server = serve(lambda _: RegistryResponse(404))
    for number in range(8):
        assert client.referrers(Repository(server.host, f"group/{number}"), SUBJECT) is None
    assert 3 >= len(client._without_referrers)


def test_a_registry_that_fails_is_no_registry_without_the_api(serve, client, repository_at):
    answers = [RegistryResponse(500)] * 20

    def script(_):
        return answers.pop() if answers else index("a")

    repository = repository_at(serve(script))
    with pytest.raises(RegistryUnavailableError):
        client.referrers(repository, SUBJECT)
    answers.clear()
    assert 1 == len(client.referrers(repository, SUBJECT))


def test_the_tags_that_lead_to_referrers():
    """ "Referrers Tag Schema", and cosign's SIGNATURE_SPEC.md; stages and people's tags are none of them."""
    tags = [fallback_tag(SUBJECT), *cosign_tags(SUBJECT)]
    assert [f"sha256-{SUBJECT.hex}{suffix}" for suffix in ("", ".sig", ".att", ".sbom")] == tags
    assert all(map(is_referrer_tag, tags))
    assert not any(
        map(is_referrer_tag, ["latest", "sha256-abc", f"sha256-{SUBJECT.hex}.txt", SUBJECT.hex[:56]])
    )


def test_the_tags_of_a_long_digest_are_tags():
    """A tag has 128 characters at most: the specification cuts the digest, and cosign knows sha256 alone."""
    subject = Digest.parse(f"sha512:{'a' * 128}")
    assert f"sha512-{'a' * 64}" == Repository("a.example", "app").tagged(fallback_tag(subject)).tag
    assert [] == cosign_tags(subject)
