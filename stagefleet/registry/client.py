"""Client of the OCI distribution API (specification 1.1, opencontainers/distribution-spec)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Unpack
from urllib.parse import quote

import requests

from stagefleet import errors
from stagefleet.leases import NO_LEASE, Lease, current_lease
from stagefleet.manifests import ACCEPTED, MANIFEST_BYTES, OCI_INDEX, Descriptor, Manifest, digest_of
from stagefleet.names import Digest, Reference, Repository
from stagefleet.registry.api import RequestOptions, scopes_of
from stagefleet.registry.blob_upload_api import BlobUploadApi
from stagefleet.registry.error_mapping import is_refusal, may_be_unknown, refuse_errors
from stagefleet.registry.http import responses
from stagefleet.registry.http.client import ApiRequest, read_content
from stagefleet.registry.http.origins import base_url
from stagefleet.registry.tag_list import MalformedPageError, Page, PagingHabits, TagList, TagPage
from stagefleet.settings import Settings

_REFERRER_PAGES = 50
_MOST_REPOSITORIES = 1024
_UNKNOWN_CODES = frozenset({"NAME_UNKNOWN", "MANIFEST_UNKNOWN"})
_TAGS_BYTES = 256 * 1024 * 1024  # one page of a registry without paging, with millions of tags
_ACCEPT = {"Accept": ACCEPTED}


class RegistryClient(BlobUploadApi):
    """Read and write tags, manifests and blobs; `Api` lists what all methods raise."""

    def __init__(self, settings: Settings, **options: Any) -> None:
        super().__init__(settings, **options)
        self._habits = PagingHabits()
        self._without_referrers: set[Repository] = set()

    def ping(self, host: str, *, lease: Lease = NO_LEASE) -> None:
        """Check that a registry answers and accepts the login ("Determining Support").

        `NotFoundError` if the host answers, but is no registry.
        """
        url = f"{base_url(host, self._settings)}/v2/"
        call = ApiRequest("GET", host, url, host, host, lease=current_lease(lease))
        try:
            self._http_client.read(call)
        except errors.NotFoundError as error:
            message = f"{host} answers, but is no registry: there is no /v2/"
            raise call.error(message, errors.NotFoundError, status=404) from error

    def tags(self, repository: Repository, *, lease: Lease = NO_LEASE) -> Iterator[str]:
        """List all tags of a repository, each once; a page is requested when its first tag is.

        Raises:
            NotFoundError: The repository does not exist.
            RegistryError: The list is incomplete; see `TagList`.
        """

        def fetch(url: str, stop_at: str) -> Page:
            request = self._request("GET", repository, url, f"the tags of {repository}", lease=lease)
            return self._http_client.consume(
                request, lambda response: self._read_page(repository, request, response, stop_at)
            )

        return iter(TagList(repository, self._url(repository, "tags/list"), fetch, self._habits))

    def has_repository(self, repository: Repository, *, lease: Lease = NO_LEASE) -> bool:
        """Return True if a repository exists, even if it is empty: it has a list of tags."""
        url = f"{self._url(repository, 'tags/list')}?n=1"
        try:
            request = self._request("GET", repository, url, f"the tags of {repository}", lease=lease)
            self._http_client.open(request).close()
        except errors.NotFoundError:
            return False
        return True

    def _read_page(
        self, repository: Repository, request: ApiRequest, response: requests.Response, stop_at: str
    ) -> Page:
        page = TagPage()
        try:
            for piece in responses.pieces_of(response, _TAGS_BYTES):
                page.feed(piece)
                if stop_at and page.first == stop_at:
                    response.close()  # the first page again
                    return Page(page, None)
            page.close()
        except (MalformedPageError, responses.TooManyBytesError) as error:
            response.close()
            message = f"{request.host} answered with what is no list of tags ({error}): is it a registry?"
            raise request.error(message, status=response.status_code) from None
        following = responses.next_link(response.headers.get("Link", ""))
        return Page(page, following and self._same_registry(repository, request.url, following))

    def head_manifest(self, reference: Reference, *, lease: Lease = NO_LEASE) -> Descriptor:
        """Resolve a tag or digest, by HEAD if possible ("Pulling manifests"); `NotFoundError` for none.

        A HEAD counts if it names digest and media type. Some gateways leave these out, or answer 404, 405 or
        501 where GET works: then a GET decides.
        """
        try:
            request = self._manifest_request("HEAD", reference, lease)
            response, _ = self._http_client.read(request, MANIFEST_BYTES)
        except errors.RegistryError as error:
            if not may_be_unknown(error):
                raise
        else:
            digest, kind = responses.content_digest(response.headers), responses.media_type(response.headers)
            if digest is not None and kind and reference.digest in {None, digest}:
                return Descriptor(kind, digest, responses.content_length(response.headers) or 0)
        raw, digest, told = self._fetch(reference, lease)
        try:
            kind = Manifest.parse(raw, told).media_type
        except errors.UnsupportedManifestError:
            kind = told.partition(";")[0].strip()  # not every caller needs it
        return Descriptor(kind, digest, len(raw))

    def fetch_manifest(self, reference: Reference, *, lease: Lease = NO_LEASE) -> Manifest:
        """Fetch a manifest or index byte for byte and verify its digest.

        Raises:
            NotFoundError: There is no such manifest.
            UnsupportedManifestError: Its media type is not supported.
            DigestMismatchError: The content does not match the digest.
            BrokenStageError: The registry lists it, but sends nothing.
            RegistryUnavailableError: It sends a page of HTML.
        """
        raw, digest, told = self._fetch(reference, lease)
        return Manifest.parse(raw, told, algorithm=digest.algorithm)

    def _fetch(self, reference: Reference, lease: Lease) -> tuple[bytes, Digest, str]:
        """Fetch the bytes of a manifest, their digest, and the media type that the registry names."""
        for _ in range(2):
            request = self._manifest_request("GET", reference, lease)
            response, raw = self._http_client.consume(request, partial(_read_manifest, request))
            if raw:
                break
        else:
            raise errors.BrokenStageError(
                f"the registry knows {reference} but sends nothing of it: build it again"
            )
        wanted = reference.digest
        digest = digest_of(raw, "sha256" if wanted is None else wanted.algorithm)
        told = responses.content_digest(response.headers)
        if wanted is None and told is not None and told.algorithm == digest.algorithm:
            wanted = told
        if wanted not in {None, digest}:
            raise errors.DigestMismatchError(
                f"the registry sent another manifest for {reference}: {digest}", found=str(digest)
            )
        return raw, digest, response.headers.get("Content-Type", "")

    def referrers(
        self, repository: Repository, subject: Digest, *, lease: Lease = NO_LEASE
    ) -> tuple[Descriptor, ...] | None:
        """List the referrers of a manifest that exists; None if the registry has no API for that.

        "Listing Referrers": a registry without the API answers 404. Gateways forbid what they do not know,
        and others answer 400, 405 or a page of HTML. That is remembered for the repository, as one host may
        be several registries, and a login may see one repository alone; not if the repository or the
        manifest is what the registry does not know.
        """
        found: list[Descriptor] = []
        url: str | None = self._url(repository, f"referrers/{subject}")
        for _ in range(_REFERRER_PAGES):
            if url is None or repository in self._without_referrers:
                break
            request = self._request("GET", repository, url, f"the referrers of {subject}", lease=lease)
            try:
                response, raw = self._http_client.read(request, MANIFEST_BYTES)
                found += Manifest.parse(raw, OCI_INDEX).members
            except (errors.RegistryError, errors.UnsupportedManifestError) as error:
                if isinstance(error, errors.RegistryError) and not may_be_unknown(error):
                    raise
                if not _UNKNOWN_CODES & set(getattr(error, "codes", ())):
                    self._note_without_referrers(repository)
                return None
            following = responses.next_link(response.headers.get("Link", ""))
            url = following and self._same_registry(repository, url, following)
        return None if repository in self._without_referrers else tuple(found)

    def _note_without_referrers(self, repository: Repository) -> None:
        if len(self._without_referrers) >= _MOST_REPOSITORIES:
            self._without_referrers.clear()  # to ask once more costs little
        self._without_referrers.add(repository)

    def put_manifest(self, reference: Reference, manifest: Manifest, *, lease: Lease = NO_LEASE) -> None:
        """Push a manifest under a tag or its digest, byte for byte ("Pushing Manifests").

        Raises:
            ManifestRefusedError: The registry lacks blobs or members of it.
            StoredDigestError: The registry reports another digest.
            LeaseLostError: The lease would not outlast the request.
        """
        headers = {"Content-Type": manifest.media_type}
        request = self._manifest_request("PUT", reference, lease, body=manifest.raw, headers=headers)

        def finish(response: requests.Response) -> Mapping[str, str]:
            read_content(response, request, MANIFEST_BYTES)
            return response.headers

        try:
            stored = self._http_client.consume(request, finish)
        except errors.RegistryError as error:
            # An immutable tag takes no second PUT, and the answer to the first may be lost (buildkit #3776).
            if not is_refusal(error) or not self._names(reference, manifest.digest, lease):
                raise
            return
        responses.check_stored(stored, str(reference), manifest.digest, manifest.raw)

    def _names(self, reference: Reference, digest: Digest, lease: Lease) -> bool:
        try:
            return self.head_manifest(reference, lease=lease).digest == digest
        except (errors.RegistryError, errors.ContentError):
            return False

    def delete_manifest(
        self, reference: Reference, *, lease: Lease = NO_LEASE, precheck: Callable[[], float] | None = None
    ) -> None:
        """Delete a tag, or a digest with all of its tags ("Content Management").

        `precheck` checks before each attempt that it may be deleted. It returns the latest time for the
        request to leave, on `elapsed_seconds`, or raises.

        Raises:
            DeadlineMissedError: The request could not leave in time at any attempt.
            NotFoundError: There is no such manifest.
            RegistryError: With status 400 or 405 if the registry does not support this.
            LeaseLostError: The lease would not outlast the request.
        """
        request = self._manifest_request("DELETE", reference, lease, precheck=precheck)
        self._http_client.read(request, MANIFEST_BYTES)

    def _manifest_request(
        self, method: str, reference: Reference, lease: Lease, **options: Unpack[RequestOptions]
    ) -> ApiRequest:
        actions = {"PUT": "pull,push", "DELETE": "delete"}.get(method, "pull")
        scopes = scopes_of(reference.repository, actions)
        url = self._url(reference.repository, f"manifests/{quote(reference.identifier, safe=':')}")
        options = {
            "expected": frozenset({200, 201, 202, 204}),
            "headers": _ACCEPT,
            "is_write": method in {"PUT", "DELETE"},
            **options,
        }
        return self._request(
            method, reference.repository, url, str(reference), scopes=scopes, lease=lease, **options
        )


def _read_manifest(request: ApiRequest, response: requests.Response) -> tuple[requests.Response, bytes]:
    """Read a manifest's bytes; those of a page of HTML, or of errors, are none."""
    raw = read_content(response, request, MANIFEST_BYTES)
    if raw[:1] != b"{":
        responses.refuse_page(response, request.subject)
    if b'"errors"' in raw:
        refuse_errors(response, request.subject, raw)
    return response, raw
