"""Images for tests, pushed with plain `requests`: Stagefleet must not make its own evidence."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from http.client import CREATED, HTTPConnection
from typing import Any, Self
from urllib.parse import urljoin

import requests

from tests.services.registry import RegistryServer

_TIMEOUT_SECONDS = 60
_DOCKER = {
    "manifest": "application/vnd.docker.distribution.manifest.v2+json",
    "index": "application/vnd.docker.distribution.manifest.list.v2+json",
    "config": "application/vnd.docker.container.image.v1+json",
    "layer": "application/vnd.docker.image.rootfs.diff.tar.gzip",
}
_OCI = {
    "manifest": "application/vnd.oci.image.manifest.v1+json",
    "index": "application/vnd.oci.image.index.v1+json",
    "config": "application/vnd.oci.image.config.v1+json",
    "layer": "application/vnd.oci.image.layer.v1.tar+gzip",
}
_ACCEPT = ", ".join(types[kind] for types in (_DOCKER, _OCI) for kind in ("manifest", "index"))


def digest_of(content: bytes) -> str:
    """`sha256:HEX` of some bytes."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def stage_id_of(seed: str, created_ms: int | None = 1_700_000_000_000) -> str:
    """A stage id that depends on the seed alone; without time, that of a multi-platform stage."""
    digest = hashlib.sha3_224(seed.encode()).hexdigest()
    return digest if created_ms is None else f"{digest}-{created_ms}"


@dataclass(frozen=True, slots=True)
class Pushed:
    """What was pushed; `config` is {} and `layers` are () for an index."""

    host: str
    repository: str
    tag: str | None
    digest: str
    manifest: bytes
    media_type: str
    config: Mapping[str, Any]
    layers: tuple[str, ...] = ()
    platform: Mapping[str, str] | None = None

    @property
    def document(self) -> dict[str, Any]:
        """The manifest, parsed."""
        document: dict[str, Any] = json.loads(self.manifest)
        return document


class ImageMaker:
    """Pushes images into one registry; close it, or use it in `with`."""

    def __init__(self, registry: RegistryServer | str, *, session: requests.Session | None = None) -> None:
        """Make one.

        Args:
            registry: The registry, or its `host:port` (plain HTTP, no login).
            session: The session to use, the registry's own by default.
        """
        if isinstance(registry, RegistryServer):
            self.host, url = registry.host, registry.url
            self._session = session or registry.session()
        else:
            self.host, url = registry, f"http://{registry}"
            self._session = session or requests.Session()
        self._base = f"{url}/v2"
        self._pushed: set[tuple[str, str]] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close its connections."""
        self._session.close()

    def push_blob(self, repository: str, content: bytes) -> str:
        """Push a blob, unless this maker has pushed it there before; returns its digest."""
        digest = digest_of(content)
        if (repository, digest) in self._pushed:
            return digest
        begun = self._session.post(f"{self._base}/{repository}/blobs/uploads/", timeout=_TIMEOUT_SECONDS)
        begun.raise_for_status()
        location = urljoin(f"{self._base}/", begun.headers["Location"])
        separator = "&" if "?" in location else "?"
        self._session.put(
            f"{location}{separator}digest={digest}", data=content, timeout=_TIMEOUT_SECONDS
        ).raise_for_status()
        self._pushed.add((repository, digest))
        return digest

    def push_manifest(self, repository: str, name: str, manifest: bytes, media_type: str) -> str:
        """Push a manifest under a tag or its digest; returns its digest."""
        self._session.put(
            f"{self._base}/{repository}/manifests/{name}",
            data=manifest,
            headers={"Content-Type": media_type},
            timeout=_TIMEOUT_SECONDS,
        ).raise_for_status()
        return digest_of(manifest)

    def push_image(
        self,
        repository: str,
        tag: str | None,
        *,
        layers: Sequence[bytes] = (b"layer",),
        labels: Mapping[str, str] | None = None,
        env: Sequence[str] = (),
        created: str = "2024-01-02T03:04:05Z",
        config: Mapping[str, Any] | None = None,
        oci: bool = False,
        foreign_layers: Sequence[tuple[bytes, Sequence[str]]] = (),
        platform: Mapping[str, str] | None = None,
        annotations: Mapping[str, str] | None = None,
    ) -> Pushed:
        """Push an image.

        Args:
            repository: The path of the repository.
            tag: The tag, None to push by digest.
            layers: The layers' content as it is; it need not be an archive.
            labels: Labels.
            env: `KEY=VALUE` each.
            created: The creation time.
            config: More keys for the configuration's document.
            oci: OCI media types instead of Docker's.
            foreign_layers: Non-distributable layers, which are only referred to: content and URLs.
            platform: The platform, as `{"os": "linux", "architecture": "arm64"}`.
            annotations: Annotations of the manifest.
        """
        types = _OCI if oci else _DOCKER
        platform = platform or {"os": "linux", "architecture": "amd64"}
        descriptors = [
            {"mediaType": types["layer"], "size": len(layer), "digest": self.push_blob(repository, layer)}
            for layer in layers
        ]
        foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
        if oci:
            foreign = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
        foreigners: list[dict[str, Any]] = [
            {"mediaType": foreign, "size": len(layer), "digest": digest_of(layer), "urls": list(urls)}
            for layer, urls in foreign_layers
        ]
        document = {
            **platform,
            "created": created,
            "config": {"Labels": dict(labels or {}), "Env": list(env)},
            "rootfs": {"type": "layers", "diff_ids": [layer["digest"] for layer in foreigners + descriptors]},
            "history": [{"created": created} for _ in foreigners + descriptors],
            **(config or {}),
        }
        raw_config = json.dumps(document).encode()
        manifest: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": types["manifest"],
            "config": {
                "mediaType": types["config"],
                "size": len(raw_config),
                "digest": self.push_blob(repository, raw_config),
            },
            "layers": foreigners + descriptors,
        }
        if annotations:
            manifest["annotations"] = dict(annotations)
        # Indented, as no program of ours writes it: a copy that is not byte for byte shows.
        raw = json.dumps(manifest, indent=3).encode()
        digest = self.push_manifest(repository, tag or digest_of(raw), raw, types["manifest"])
        return Pushed(
            host=self.host,
            repository=repository,
            tag=tag,
            digest=digest,
            manifest=raw,
            media_type=types["manifest"],
            config=document,
            layers=tuple(str(layer["digest"]) for layer in descriptors),
            platform=platform,
        )

    def push_index(
        self, repository: str, tag: str | None, members: Sequence[Pushed], *, oci: bool = True
    ) -> Pushed:
        """Push an index of images that are in the repository already."""
        types = _OCI if oci else _DOCKER
        document = {
            "schemaVersion": 2,
            "mediaType": types["index"],
            "manifests": [
                {
                    "mediaType": member.media_type,
                    "size": len(member.manifest),
                    "digest": member.digest,
                    "platform": dict(member.platform or {}),
                }
                for member in members
            ],
        }
        raw = json.dumps(document, indent=3).encode()
        digest = self.push_manifest(repository, tag or digest_of(raw), raw, types["index"])
        return Pushed(self.host, repository, tag, digest, raw, types["index"], config={})

    def push_tag(self, pushed: Pushed, tag: str) -> None:
        """Give an image one more tag."""
        self.push_manifest(pushed.repository, tag, pushed.manifest, pushed.media_type)

    def push_tags(self, pushed: Pushed, tags: Iterable[str]) -> None:
        """Give an image thousands of tags, without a login, by a client that costs a fifth of `requests`."""
        with closing(HTTPConnection(self.host, timeout=_TIMEOUT_SECONDS)) as connection:
            for tag in tags:
                path = f"/v2/{pushed.repository}/manifests/{tag}"
                connection.request("PUT", path, pushed.manifest, {"Content-Type": pushed.media_type})
                answer = connection.getresponse()
                answer.read()
                assert answer.status == CREATED, (tag, answer.status)

    def tags(self, repository: str) -> list[str]:
        """The repository's tags, sorted; [] for one that does not exist."""
        answer = self._session.get(f"{self._base}/{repository}/tags/list", timeout=_TIMEOUT_SECONDS)
        if answer.status_code == requests.codes.not_found:
            return []
        answer.raise_for_status()
        return sorted(answer.json()["tags"] or [])

    def manifest(self, repository: str, name: str) -> bytes | None:
        """A manifest by tag or digest, None if there is none."""
        answer = self._session.get(
            f"{self._base}/{repository}/manifests/{name}",
            headers={"Accept": _ACCEPT},
            timeout=_TIMEOUT_SECONDS,
        )
        if answer.status_code == requests.codes.not_found:
            return None
        answer.raise_for_status()
        return answer.content

    def digest(self, repository: str, name: str) -> str | None:
        """The digest of the manifest under a tag, from its bytes; None if there is none."""
        manifest = self.manifest(repository, name)
        return None if manifest is None else digest_of(manifest)

    def blob(self, repository: str, digest: str) -> bytes | None:
        """A blob, None if there is none."""
        answer = self._session.get(f"{self._base}/{repository}/blobs/{digest}", timeout=_TIMEOUT_SECONDS)
        if answer.status_code == requests.codes.not_found:
            return None
        answer.raise_for_status()
        return answer.content


def push_image(registry: RegistryServer | str, repository: str, tag: str | None, **options: Any) -> Pushed:
    """Push one image; options as `ImageMaker.push_image`."""
    with ImageMaker(registry) as maker:
        return maker.push_image(repository, tag, **options)


def push_index(
    registry: RegistryServer | str,
    repository: str,
    tag: str | None,
    members: Sequence[Pushed],
    **options: Any,
) -> Pushed:
    """Push one index; options as `ImageMaker.push_index`."""
    with ImageMaker(registry) as maker:
        return maker.push_index(repository, tag, members, **options)


def push_stages(registry: RegistryServer | str, repository: str, count: int, **options: Any) -> list[Pushed]:
    """Push stages that share all layers but one of their own; the tag of each is its stage id."""
    shared = list(options.pop("layers", (b"shared layer",)))
    created_ms = int(time.time() * 1000)
    with ImageMaker(registry) as maker:
        return [
            maker.push_image(
                repository,
                stage_id_of(f"{repository} {number}", created_ms + number),
                layers=[*shared, f"layer of {number}".encode()],
                **options,
            )
            for number in range(count)
        ]
