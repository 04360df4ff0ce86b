"""A client of the OCI distribution API (specification 1.1, opencontainers/distribution-spec)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import quote

import requests
from requests.utils import parse_header_links

from stagefleet.errors import (
    BrokenStageError,
    DigestMismatchError,
    InvalidNameError,
    NotFoundError,
    RegistryError,
)
from stagefleet.names import Digest, Reference, Repository, is_tag
from stagefleet.registry.api import SMALL_BYTES, scopes_of
from stagefleet.registry.calls import Call
from stagefleet.registry.hosts import base_url
from stagefleet.registry.leash import UNLEASHED, Leash, current_leash
from stagefleet.registry.manifests import INDEXES, MANIFESTS, Descriptor, Manifest
from stagefleet.registry.uploads import BlobApi

__all__ = ["RegistryClient"]

_TAGS_A_PAGE = 1000  # more than that, ECR refuses
_MOST_PAGES = 20_000
_MANIFEST_BYTES = 4 * 1024 * 1024  # "Pushing manifests": registries should take up to 4 MiB
_TAGS_BYTES = 256 * 1024 * 1024  # one page of a registry that knows no pages, with millions of tags
_ACCEPT = {"Accept": ", ".join(sorted(MANIFESTS | INDEXES))}


class RegistryClient(BlobApi):
    """Speaks to registries: tags, manifests and blobs; see `Api` for what all its methods raise."""

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
        """The tags of a repository, through every page ("Listing Tags").

        Raises:
            NotFoundError: The repository does not exist.
        """
        url = self._url(repository, f"tags/list?n={_TAGS_A_PAGE}")
        seen: set[str] = set()
        while url not in seen:
            if len(seen) >= _MOST_PAGES:
                break
            seen.add(url)
            response, content = self._ask(
                "GET", repository, url, f"the tags of {repository}", limit_bytes=_TAGS_BYTES, leash=leash
            )
            document = _document(content, repository)
            tags = document.get("tags") or []
            if not isinstance(tags, list):
                break
            yield from (tag for tag in tags if isinstance(tag, str) and is_tag(tag))
            following = _next_page(response)
            if following is None:
                return
            url = self._same_registry(repository, url, following)
        raise RegistryError(
            f"the tags of {repository} have no end: the registry's pages go in circles",
            method="GET",
            repository=str(repository),
        )

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


def _document(content: bytes, repository: Repository) -> dict[str, Any]:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise RegistryError(
            f"{repository.host} answered something that is no JSON object: is it a registry?",
            method="GET",
            repository=str(repository),
        )
    return document


def _next_page(response: requests.Response) -> str | None:
    for link in parse_header_links(response.headers.get("Link", "")):
        if link.get("rel") == "next":
            return link.get("url")
    return None
