"""Pages of HTML where content was asked for: of a login, a portal, or a web site that is no registry."""

from __future__ import annotations

import pytest

from stagefleet.errors import RegistryUnavailableError
from stagefleet.manifests import Descriptor, digest_of
from stagefleet.names import Reference
from tests.unit.registry.asking import BLOB, CONTENT, MANIFEST
from tests.unit.registry.scripted import RegistryResponse

HTML = {"Content-Type": "text/html; charset=utf-8"}
SHORT = b"<!DOCTYPE html><html>please log in</html>"
SAME_SIZE = b"<html>".ljust(BLOB.size)


def by_tag(client, repository):
    return client.fetch_manifest(repository.tagged("one"))


def by_digest(client, repository):
    return client.fetch_manifest(Reference.of(repository, MANIFEST.digest))


def blob(client, repository):
    return client.fetch_blob(repository, BLOB)


def whole_blob(client, repository):
    return client.hash_blob(repository, BLOB)


def has_blob(client, repository):
    return client.has_blob(repository, BLOB.digest, size=BLOB.size)


@pytest.mark.parametrize("page", [SHORT, SAME_SIZE], ids=["short", "same-size"])
@pytest.mark.parametrize("ask", [by_tag, by_digest, blob, whole_blob])
def test_a_page_proves_nothing_about_content(serve, client, repository_at, ask, page):
    """Kind of W9 (harbor #23882): a stage that is called broken for it could be rejected."""
    server = serve(lambda _: RegistryResponse(200, page, HTML))
    with pytest.raises(RegistryUnavailableError, match="answered with a page of HTML"):
        ask(client, repository_at(server))


@pytest.mark.parametrize("ask", [by_tag, blob, whole_blob, has_blob])
def test_where_a_redirect_leads_to_a_login_page_its_host_is_named(serve, client, repository_at, ask):
    portal = serve(lambda _: RegistryResponse(200, SHORT, HTML))
    server = serve(lambda _: RegistryResponse(302, headers={"Location": f"http://{portal.host}/login"}))
    with pytest.raises(RegistryUnavailableError, match=f"{portal.host} answered with a page of HTML"):
        ask(client, repository_at(server))


def test_a_page_that_goes_is_asked_for_again(serve, client, repository_at):
    answers = [RegistryResponse(200, SHORT, HTML), RegistryResponse(200, MANIFEST.raw)]
    server = serve(lambda _: answers.pop(0))
    assert MANIFEST == by_tag(client, repository_at(server))


def test_content_that_is_html_is_content(serve, client, repository_at):
    page = Descriptor("text/html", digest_of(SHORT), len(SHORT))
    server = serve(lambda _: RegistryResponse(200, SHORT, HTML))
    repository = repository_at(server)
    assert SHORT == client.fetch_blob(repository, page)
    assert page.digest == client.hash_blob(repository, page)
    assert client.has_blob(repository, page.digest, size=page.size)


def test_a_manifest_under_html_s_name_is_a_manifest(serve, client, repository_at):
    server = serve(lambda _: RegistryResponse(200, MANIFEST.raw, HTML))
    assert MANIFEST == by_tag(client, repository_at(server))
    assert CONTENT.startswith(b"{")
