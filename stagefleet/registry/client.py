"""A client of the OCI distribution API (specification 1.1, opencontainers/distribution-spec)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import quote

import requests

from stagefleet.errors import (
    BrokenStageError,
    DigestMismatchError,
    InvalidNameError,
    NotFoundError,
    RegistryError,
)
from stagefleet.names import Digest, Reference, Repository
from stagefleet.registry.api import SMALL_BYTES, scopes_of
from stagefleet.registry.calls import Call
from stagefleet.registry.hosts import base_url
from stagefleet.registry.incoming import TooManyBytesError, pieces_of
from stagefleet.registry.leash import UNLEASHED, Leash, current_leash
from stagefleet.registry.link import next_link
from stagefleet.registry.manifests import INDEXES, MANIFESTS, Descriptor, Manifest
from stagefleet.registry.tag_list import Habits, Page, TagList
from stagefleet.registry.tag_page import MalformedPageError, TagPage
from stagefleet.registry.uploads import BlobApi
from stagefleet.settings import Settings

__all__ = ["RegistryClient"]

_MANIFEST_BYTES = 4 * 1024 * 1024  # "Pushing manifests": registries should take up to 4 MiB
_TAGS_BYTES = 256 * 1024 * 1024  # one page of a registry that knows no pages, with millions of tags
_ACCEPT = {"Accept": ", ".join(sorted(MANIFESTS | INDEXES))}


class RegistryClient(BlobApi):
    """Speaks to registries: tags, manifests and blobs; see `Api` for what all its methods raise."""

    def __init__(self, settings: Settings, **options: Any) -> None:
        super().__init__(settings, **options)
        self._habits = Habits()

    def ping(self, host: str, *, leash: Leash = UNLEASHED) -> None:
        """Ask a registry whether it is one, and takes the login ("Determining Support").

        Raises:
            NotFoundError: What answers there is no registry.
        """
        url = f"{base_url(host, self._settings)}/v2/"
        call = Call("GET", host, url, host, host, frozenset({200}), leash=current_leash(leash))
        try:
            self._caller.read(call, SMALL_BYTES)
        except NotFoundError as error:
            raise NotFoundError(
                f"{host} answers, but is no registry: there is no /v2/",
                method="GET",
                repository=host,
                status=404,
            ) from error

    def tags(self, repository: Repository, *, leash: Leash = UNLEASHED) -> Iterator[str]:
        """List the tags of a repository, all of them, each once; asks for a page when its first tag is due.

        Raises:
            NotFoundError: The repository does not exist.
            RegistryError: The list cannot be had whole; see `TagList`.
        """

        def fetch(url: str, stop_at: str) -> Page:
            return self._consume(
                "GET",
                repository,
                url,
                f"the tags of {repository}",
                lambda response: self._read_page(repository, url, response, stop_at),
                leash=leash,
            )

        return iter(TagList(repository, self._url(repository, "tags/list"), fetch, self._habits))

    def _read_page(self, repository: Repository, url: str, response: requests.Response, stop_at: str) -> Page:
        page = TagPage()
        try:
            for piece in pieces_of(response, _TAGS_BYTES):
                page.feed(piece)
                if stop_at and page.first == stop_at:
                    response.close()  # the first page again
                    return Page(page, None)
            page.close()
        except (MalformedPageError, TooManyBytesError) as error:
            response.close()
            raise RegistryError(
                f"{repository.host} answered with what is no list of tags ({error}): is it a registry?",
                method="GET",
                repository=str(repository),
                status=response.status_code,
            ) from None
        following = next_link(response.headers.get("Link", ""))
        return Page(page, following and self._same_registry(repository, url, following))

    def head_manifest(self, reference: Reference, *, leash: Leash = UNLEASHED) -> Descriptor:
        """What a tag or digest names, in one HEAD ("Pulling manifests").

        Raises:
            NotFoundError: There is no such manifest.
        """
        response, _ = self._ask_manifest("HEAD", reference, leash=leash)
        media_type, size = (
            response.headers.get("Content-Type", ""),
            response.headers.get("Content-Length", ""),
        )
        try:
            digest = Digest.parse(response.headers.get("Docker-Content-Digest", ""))
        except InvalidNameError:
            manifest = self.fetch_manifest(reference, leash=leash)  # the header is optional
            return Descriptor(manifest.media_type, manifest.digest, manifest.size)
        return Descriptor(media_type.partition(";")[0].strip(), digest, int(size) if size.isdecimal() else 0)

    def fetch_manifest(self, reference: Reference, *, leash: Leash = UNLEASHED) -> Manifest:
        """A manifest or index, byte for byte, its digest checked.

        Raises:
            NotFoundError: There is no such manifest.
            UnsupportedManifestError: It is of another kind.
            DigestMismatchError: It is not what its digest says.
            BrokenStageError: The registry knows it, but sends nothing.
        """
        for _ in range(2):
            response, raw = self._ask_manifest("GET", reference, leash=leash)
            if raw:
                break
        else:
            raise BrokenStageError(f"the registry knows {reference} but sends nothing of it: build it again")
        algorithm = "sha256" if reference.digest is None else reference.digest.algorithm
        manifest = Manifest.parse(raw, response.headers.get("Content-Type", ""), algorithm=algorithm)
        told = response.headers.get("Docker-Content-Digest", "")
        wanted = (
            told if reference.digest is None and told.startswith("sha256:") else str(reference.digest or "")
        )
        if wanted and wanted != str(manifest.digest):
            raise DigestMismatchError(
                f"the registry sent another manifest for {reference}: {manifest.digest}",
                found=str(manifest.digest),
            )
        return manifest

    def put_manifest(self, reference: Reference, manifest: Manifest, *, leash: Leash = UNLEASHED) -> None:
        """Write a manifest under a tag or its digest, byte for byte ("Pushing Manifests").

        Raises:
            ManifestRefusedError: The registry lacks blobs or members that it names.
            LeaseLostError: The lease would not outlast the request.
        """
        self._ask_manifest(
            "PUT",
            reference,
            body=manifest.raw,
            headers={"Content-Type": manifest.media_type},
            leash=leash,
        )

    def delete_manifest(
        self,
        reference: Reference,
        *,
        leash: Leash = UNLEASHED,
        look: Callable[[], float] | None = None,
    ) -> None:
        """Delete a tag, or a digest with every tag that it has ("Content Management").

        Args:
            reference: What.
            leash: Holds it back.
            look: Looks whether it may be deleted, and tells until when the request may leave, on
                `elapsed_seconds`; asked before each attempt. What it raises is raised here.

        Raises:
            DeadlineMissedError: The request could not leave in time, however often it was looked.
            NotFoundError: There is none.
            RegistryError: With status 400 or 405, where the registry does not do this.
            LeaseLostError: The lease would not outlast the request.
        """
        self._ask_manifest("DELETE", reference, leash=leash, look=look)

    def _ask_manifest(
        self,
        method: str,
        reference: Reference,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] = _ACCEPT,
        leash: Leash = UNLEASHED,
        look: Callable[[], float] | None = None,
    ) -> tuple[requests.Response, bytes]:
        actions = {"PUT": "pull,push", "DELETE": "delete"}.get(method, "pull")
        return self._ask(
            method,
            reference.repository,
            self._url(reference.repository, f"manifests/{quote(reference.identifier, safe=':')}"),
            str(reference),
            scopes=scopes_of(reference.repository, actions),
            hoped=frozenset({200, 201, 202, 204}),
            headers=headers,
            body=body,
            is_write=method in {"PUT", "DELETE"},
            leash=leash,
            look=look,
            limit_bytes=_MANIFEST_BYTES,
        )
