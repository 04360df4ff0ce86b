import pytest

from stagefleet.errors import (
    BrokenStageError,
    DigestMismatchError,
    ItemCancelledError,
    NotFoundError,
    RegistryError,
    RegistryUnavailableError,
    ShortContentError,
    TruncatedError,
)
from stagefleet.manifests import Descriptor, digest_of
from tests.services.registry import copy_blob
from tests.unit.registry.scripted import RegistryResponse

CONTENT = bytes(range(256)) * 4096  # 1 MiB
BLOB = Descriptor("application/x", digest_of(CONTENT), len(CONTENT))


class Source:
    """Gives a blob, breaking off after so many bytes each time."""

    def __init__(self, pieces=(), *, ranges=True, content=CONTENT):
        self.pieces = list(pieces)
        self.ranges = ranges
        self.content = content

    def __call__(self, asked):
        start = 0
        if self.ranges and "Range" in asked.headers:
            start = int(asked.headers["Range"].removeprefix("bytes=").rstrip("-"))
        cut_at = self.pieces.pop(0) if self.pieces else None
        body = self.content[start:]
        if start:
            headers = {"Content-Range": f"bytes {start}-{len(self.content) - 1}/{len(self.content)}"}
            return RegistryResponse(206, body, headers, cut_at)
        return RegistryResponse(200, body, cut_at=cut_at)


class Destination:
    """Takes uploads, failing the first PUTs as told."""

    def __init__(self, failures=(), *, has_it=False):
        self.failures = list(failures)
        self.has_it = has_it
        self.posts = 0
        self.content = None

    def __call__(self, asked):
        if asked.method == "POST":
            if self.has_it and "mount=" in asked.path:
                return RegistryResponse(201)
            self.posts += 1
            return RegistryResponse(202, headers={"Location": f"/v2/group/app/blobs/uploads/{self.posts}"})
        if asked.method == "DELETE":
            return RegistryResponse(204)
        if self.failures:
            failure = self.failures.pop(0)
            return failure if isinstance(failure, RegistryResponse) else RegistryResponse(failure)
        self.content = asked.body
        return RegistryResponse(201)


@pytest.fixture
def copy(serve, client, repository_at):
    """Copies BLOB from a source to a destination."""

    def copy(source, destination, descriptor=BLOB, **more):
        into = repository_at(serve(destination))
        return copy_blob(
            client, repository_at(serve(source)), into, descriptor, **{"mount_from": into, **more}
        )

    return copy


def test_a_blob_streams_from_one_registry_to_the_other(copy):
    destination = Destination()
    pieces: list[int] = []

    assert len(CONTENT) == copy(Source(), destination, on_bytes=pieces.append)
    assert CONTENT == destination.content
    assert len(CONTENT) == sum(pieces)
    assert len(pieces) >= 2


def test_a_blob_that_is_there_is_not_asked_of_the_source(copy):
    def source(_):
        raise AssertionError

    assert 0 == copy(source, Destination(has_it=True))


def test_an_existence_answer_that_was_stale_is_not_asked_for_again(copy):
    destination = Destination(has_it=True)

    copy(Source(), destination, mount_from=None)

    assert CONTENT == destination.content


def test_a_source_that_breaks_off_is_resumed_where_it_did(copy, serve):
    destination = Destination()

    copy(Source([1000, 5000, 300_000]), destination)

    assert CONTENT == destination.content


def test_a_source_that_knows_no_ranges_is_read_over_again(copy):
    destination = Destination()

    copy(Source([1000, 700_000], ranges=False), destination)

    assert CONTENT == destination.content


def test_a_source_that_ends_at_the_same_byte_each_time_has_lost_the_rest(copy):
    with pytest.raises(ShortContentError, match="sends only 1000 of its 1048576 bytes"):
        copy(Source([1000] + [0] * 50), Destination())


def test_a_source_that_sends_a_byte_at_a_time_is_given_up(copy):
    source = Source([1] * 50)

    with pytest.raises(TruncatedError, match="at byte 6 of 1048576"):
        copy(source, Destination())
    assert 44 == len(source.pieces)


def test_a_source_that_has_no_such_bytes_has_lost_the_rest(copy):
    def source(asked):
        return (
            RegistryResponse(416, b"past the end")
            if "Range" in asked.headers
            else RegistryResponse(body=CONTENT, cut_at=1000)
        )

    with pytest.raises(ShortContentError, match="sends only 1000"):
        copy(source, Destination())


def test_a_source_that_fails_is_not_asked_again_for_each_upload(copy):
    asked = []

    def source(request):
        asked.append(request)
        return RegistryResponse(503)

    destination = Destination()

    with pytest.raises(RegistryUnavailableError, match="GET answered 503"):
        copy(source, destination)
    assert (4, 1) == (len(asked), destination.posts)


def test_a_source_that_sends_nothing_twice_has_the_blob_in_name_only(copy):
    with pytest.raises(ShortContentError, match="sends nothing"):
        copy(lambda _: RegistryResponse(200), Destination())


def test_a_source_that_tells_a_length_and_sends_nothing_twice_has_the_blob_in_name_only(copy):
    with pytest.raises(ShortContentError, match="sends nothing"):
        copy(Source([0] * 50), Destination())


def test_other_content_than_the_digest_names_never_becomes_a_whole_upload(copy):
    destination = Destination()
    wrong = b"!" + CONTENT[1:]

    with pytest.raises(DigestMismatchError, match="other content"):
        copy(Source(content=wrong), destination)
    assert destination.content is None


def test_another_size_than_the_manifest_names_is_refused(copy):
    with pytest.raises(DigestMismatchError, match="its manifest"):
        copy(Source(content=CONTENT + b"more"), Destination())


def test_a_blob_that_the_source_lacks_is_not_asked_for_again(copy):
    asked = []

    def source(request):
        asked.append(request)
        return RegistryResponse(404)

    with pytest.raises(NotFoundError) as caught:
        copy(source, Destination())
    assert "GET" == caught.value.method
    assert 1 == len(asked)


def test_an_upload_that_failed_begins_anew(copy):
    destination = Destination([500, 404])

    copy(Source(), destination)

    assert CONTENT == destination.content
    assert 3 == destination.posts


def test_a_small_blob_whose_upload_failed_is_sent_anew(serve, client, repository_at):
    destination = Destination([503])
    repository = repository_at(serve(destination))

    client.upload_bytes(client.begin_upload(repository, BLOB.digest, mount_from=None), CONTENT)

    assert CONTENT == destination.content
    assert 2 == destination.posts


def test_an_upload_that_is_asked_to_wait_does_so(copy, naps):
    destination = Destination([RegistryResponse(429, headers={"Retry-After": "7"})])

    copy(Source(), destination)

    assert CONTENT == destination.content
    assert any(7 <= nap <= 8 for nap in naps)


def test_an_upload_that_keeps_failing_is_given_up(copy):
    destination = Destination([500] * 50)

    with pytest.raises(RegistryError, match="500"):
        copy(Source(), destination)
    assert 4 == destination.posts


def test_an_upload_that_is_refused_is_not_tried_again(copy):
    destination = Destination([400] * 50)

    with pytest.raises(RegistryError, match="400"):
        copy(Source(), destination)
    assert 1 == destination.posts


def test_an_empty_blob_can_be_copied(copy):
    destination = Destination()

    assert 0 == copy(Source(content=b""), destination, Descriptor("application/x", digest_of(b""), 0))
    assert b"" == destination.content


def test_a_copy_stops_between_pieces_when_its_item_is_cancelled(copy):
    class Cancelled:
        checks = 0

        def check(self):
            self.checks += 1
            if self.checks > 1:
                raise ItemCancelledError("cancelled")

        def require(self, seconds):
            raise AssertionError

    destination = Destination()

    with pytest.raises(ItemCancelledError):
        copy(Source(), destination, lease=Cancelled())
    assert destination.content is None


def test_a_small_blob_is_read_at_once(serve, client, repository_at):
    server = serve(Source([100]))

    assert CONTENT == client.fetch_blob(repository_at(server), BLOB)


def test_a_blob_larger_than_the_limit_is_not_read(serve, client, repository_at):
    server = serve(Source())

    with pytest.raises(BrokenStageError, match="at most 1000"):
        client.fetch_blob(repository_at(server), BLOB, limit_bytes=1000)
    assert [] == server.asked


def test_a_redirect_to_object_storage_is_followed_without_the_login(
    serve, client, repository_at, monkeypatch
):
    monkeypatch.setattr(client._http_client._authorizer, "header", lambda host, scopes: "Basic c2VjcmV0")
    storage = serve(Source())
    server = serve(
        lambda _: RegistryResponse(307, headers={"Location": f"http://{storage.host}/bucket?signature=x"})
    )

    assert CONTENT == client.fetch_blob(repository_at(server), BLOB)
    assert "Basic c2VjcmV0" == server.asked[0].headers["Authorization"]
    assert "Authorization" not in storage.asked[0].headers


def test_redirects_in_circles_are_refused(serve, client, repository_at):
    server = serve(lambda asked: RegistryResponse(307, headers={"Location": asked.path}))

    with pytest.raises(RegistryError, match="in circles"):
        client.fetch_blob(repository_at(server), BLOB)
    assert 5 == len(server.asked)
