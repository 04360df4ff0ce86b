import email.utils
import json
import time

import pytest

from stagefleet.errors import (
    BrokenStageError,
    DigestMismatchError,
    ForbiddenError,
    ItemCancelledError,
    ManifestRefusedError,
    NotFoundError,
    RateLimitedError,
    RegistryError,
    RegistryUnavailableError,
    RegistryUnreachableError,
)
from stagefleet.manifests import OCI_MANIFEST, Manifest, digest_of
from stagefleet.names import Repository
from tests.unit.registry.scripted import RegistryResponse

MANIFEST = Manifest.of(
    {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": "application/x", "digest": f"sha256:{'c' * 64}", "size": 2},
        "layers": [],
    }
)
TAGS = RegistryResponse(body=b'{"name": "group/app", "tags": ["one"]}')


def refusal(status, code, message="no", **headers):
    body = json.dumps({"errors": [{"code": code, "message": message, "detail": headers.pop("detail", None)}]})
    return RegistryResponse(status, body.encode(), headers)


def sequence(*answers):
    left = list(answers)
    return lambda _: left.pop(0) if len(left) > 1 else left[0]


class Lease:
    def __init__(self, *, cancelled=False):
        self.required = []
        self.cancelled = cancelled

    def check(self):
        if self.cancelled:
            raise ItemCancelledError("cancelled")

    def require(self, seconds):
        self.required.append(seconds)


def test_a_server_error_is_tried_again_with_a_longer_pause_each_time(serve, client, naps, repository_at):
    server = serve(sequence(RegistryResponse(503), RegistryResponse(500), RegistryResponse(502), TAGS))

    assert ["one"] == list(client.tags(repository_at(server)))
    assert 3 == len(naps)
    assert all(0 < nap <= 0.04 for nap in naps)


def test_a_server_that_keeps_failing_is_given_up(serve, client, repository_at):
    server = serve(lambda _: RegistryResponse(503, b"<html>sorry</html>"))

    with pytest.raises(RegistryUnavailableError, match="503") as caught:
        list(client.tags(repository_at(server)))
    assert 4 == len(server.asked)
    assert ("GET", 503) == (caught.value.method, caught.value.status)


def test_retry_after_in_seconds_is_waited_for(serve, client, naps, repository_at):
    server = serve(sequence(RegistryResponse(429, headers={"Retry-After": "120"}), TAGS))

    assert ["one"] == list(client.tags(repository_at(server)))
    assert 120 <= naps[0] <= 121


def test_retry_after_as_a_date_is_waited_for(serve, client, naps, repository_at):
    date = email.utils.formatdate(time.time() + 100, usegmt=True)
    server = serve(sequence(RegistryResponse(429, headers={"Retry-After": date}), TAGS))

    list(client.tags(repository_at(server)))

    assert 95 <= naps[0] <= 101


def test_a_registry_that_asks_one_call_to_wait_holds_up_the_others(serve, client, naps, repository_at):
    server = serve(sequence(RegistryResponse(429, headers={"Retry-After": "120"}), TAGS))
    list(client.tags(repository_at(server)))
    naps.clear()

    list(client.tags(repository_at(server)))

    assert 100 <= naps[0] <= 122


def test_a_longer_wait_than_the_settings_allow_fails_and_says_how_long(serve, client, naps, repository_at):
    server = serve(lambda _: RegistryResponse(429, headers={"Retry-After": "7200"}))

    with pytest.raises(RateLimitedError, match="asks to wait 7200 s") as caught:
        list(client.tags(repository_at(server)))
    assert 7200 == caught.value.retry_after_seconds
    assert [] == naps


def test_a_wait_ends_when_the_item_is_cancelled(serve, client, repository_at):
    server = serve(lambda _: RegistryResponse(503))
    reference = repository_at(server).tagged("one")

    with pytest.raises(ItemCancelledError):
        client.put_manifest(reference, MANIFEST, lease=Lease(cancelled=True))


def test_a_registry_out_of_reach_is_named(client):
    with pytest.raises(
        RegistryUnreachableError, match=r"127\.0\.0\.1:1 does not answer \(connection refused\)"
    ):
        list(client.tags(Repository.parse("127.0.0.1:1/app")))


def test_errors_carry_the_registrys_own_codes_on_one_line(serve, client, repository_at):
    server = serve(lambda _: refusal(404, "NAME_UNKNOWN", "no such\n\x1b[31mname"))

    with pytest.raises(NotFoundError, match=r"NAME_UNKNOWN no such \[31mname") as caught:
        list(client.tags(repository_at(server)))
    assert ("NAME_UNKNOWN",) == caught.value.codes
    assert f"{server.host}/group/app" == caught.value.repository


@pytest.mark.parametrize(
    "body", [b"<html>", b"[]", b"7", b'{"errors": 7}', b'{"errors": [7]}', b"x" * 1_000_000]
)
def test_an_error_answer_may_have_any_body(serve, client, repository_at, body):
    server = serve(lambda _: RegistryResponse(403, body))

    with pytest.raises(ForbiddenError) as caught:
        list(client.tags(repository_at(server)))
    assert len(str(caught.value)) < 500


def test_every_page_of_tags_is_read(serve, client, repository_at):
    def pages(asked):
        if "last=b" in asked.path:
            return RegistryResponse(body=b'{"tags": ["c"]}')
        if "last=a" in asked.path:
            link = f"<http://{asked.headers['Host']}/v2/group/app/tags/list?last=b>; rel=next"
            return RegistryResponse(body=b'{"tags": ["b"]}', headers={"Link": link})
        link = '</v2/group/app/tags/list?last=a&n=1>; rel="next"'
        return RegistryResponse(body=b'{"tags": ["a"]}', headers={"Link": link})

    assert ["a", "b", "c"] == list(client.tags(repository_at(serve(pages))))


def test_pages_that_go_in_circles_are_refused(serve, client, repository_at):
    link = '</v2/group/app/tags/list?last=a>; rel="next"'
    server = serve(lambda _: RegistryResponse(body=b'{"tags": ["a"]}', headers={"Link": link}))

    with pytest.raises(RegistryError, match="in circles"):
        list(client.tags(repository_at(server)))
    assert 2 == len(server.asked)


def test_a_page_elsewhere_without_tls_is_refused(serve, client, repository_at):
    link = '<ftp://elsewhere.example.com/v2/tags>; rel="next"'
    server = serve(lambda _: RegistryResponse(body=b'{"tags": ["a"]}', headers={"Link": link}))

    with pytest.raises(RegistryError, match="not safe"):
        list(client.tags(repository_at(server)))


@pytest.mark.parametrize("body", [b"<html>a portal</html>", b"[]", b"", b"[" * 100_000])
def test_a_tag_list_that_is_none_is_refused(serve, client, repository_at, body):
    server = serve(lambda _: RegistryResponse(body=body))

    with pytest.raises(RegistryError, match="is it a registry"):
        list(client.tags(repository_at(server)))


def test_no_tags_are_no_tags(serve, client, repository_at):
    assert [] == list(client.tags(repository_at(serve(lambda _: RegistryResponse(body=b'{"tags": null}')))))


def test_a_digest_that_no_header_tells_is_computed(serve, client, repository_at):
    headers = {"Content-Type": OCI_MANIFEST}
    server = serve(lambda _: RegistryResponse(body=MANIFEST.raw, headers=headers))

    assert MANIFEST.digest == client.head_manifest(repository_at(server).tagged("one")).digest


def test_another_manifest_than_the_digest_asked_for_is_refused(serve, client, repository_at):
    server = serve(lambda _: RegistryResponse(body=MANIFEST.raw, headers={"Content-Type": OCI_MANIFEST}))
    other = digest_of(b"other")

    with pytest.raises(DigestMismatchError):
        client.fetch_manifest(repository_at(server).tagged("one").of(repository_at(server), other))


def test_a_manifest_of_no_bytes_is_a_broken_stage(serve, client, repository_at):
    server = serve(lambda _: RegistryResponse(headers={"Content-Type": OCI_MANIFEST}))

    with pytest.raises(BrokenStageError):
        client.fetch_manifest(repository_at(server).tagged("one"))
    assert 2 == len(server.asked)


def test_the_blobs_that_a_refusal_names_are_told(serve, client, repository_at):
    missing = f"sha256:{'c' * 64}"
    server = serve(lambda _: refusal(400, "MANIFEST_BLOB_UNKNOWN", detail={"digest": missing}))

    with pytest.raises(ManifestRefusedError) as caught:
        client.put_manifest(repository_at(server).tagged("one"), MANIFEST)
    assert (missing,) == caught.value.missing


def test_every_attempt_at_a_write_asks_the_lease_for_its_whole_timeout(serve, client, repository_at):
    lease = Lease()
    server = serve(sequence(RegistryResponse(500), RegistryResponse(201)))

    client.put_manifest(repository_at(server).tagged("one"), MANIFEST, lease=lease)

    assert [20, 20] == lease.required
    assert [MANIFEST.raw] * 2 == [asked.body for asked in server.asked]


def test_a_deletion_goes_to_the_tag_and_asks_the_lease(serve, client, repository_at):
    lease = Lease()
    server = serve(lambda _: RegistryResponse(202))

    client.delete_manifest(repository_at(server).tagged("one"), lease=lease)

    assert ("DELETE", "/v2/group/app/manifests/one") == (server.asked[0].method, server.asked[0].path)
    assert [20] == lease.required


def test_an_upload_without_a_location_is_refused(serve, client, repository_at):
    server = serve(lambda _: RegistryResponse(202))

    with pytest.raises(RegistryError, match="no Location"):
        client.begin_upload(repository_at(server), digest_of(b"x"), mount_from=None)


def test_an_upload_goes_where_the_location_says_with_its_query(serve, client, repository_at):
    location = {"Location": "/v2/group/app/blobs/uploads/7?state=s%2Bt"}
    server = serve(
        lambda asked: (
            RegistryResponse(202, headers=location) if asked.method == "POST" else RegistryResponse(201)
        )
    )
    repository, content = repository_at(server), b"some content"

    upload = client.begin_upload(repository, digest_of(content), mount_from=repository)
    client.upload_bytes(upload, content)

    post, put = server.asked
    assert f"/v2/group/app/blobs/uploads/?mount={digest_of(content)}&from=group/app" == post.path
    assert f"/v2/group/app/blobs/uploads/7?state=s%2Bt&digest={digest_of(content)}" == put.path
    assert content == put.body


def test_a_location_with_the_wrong_scheme_behind_a_proxy_is_mended(serve, client, repository_at):
    server = serve(
        lambda asked: RegistryResponse(
            202, headers={"Location": f"https://{asked.headers['Host']}/v2/upload"}
        )
    )

    upload = client.begin_upload(repository_at(server), digest_of(b"x"), mount_from=None)

    assert f"http://{server.host}/v2/upload" == upload.url


def test_a_mounted_blob_needs_no_upload(serve, client, repository_at):
    server = serve(lambda _: RegistryResponse(201))

    assert (
        client.begin_upload(repository_at(server), digest_of(b"x"), mount_from=repository_at(server)) is None
    )
