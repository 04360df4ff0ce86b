"""What images weigh together: a blob that several have counts once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from stagefleet.errors import ContentError, NotFoundError
from stagefleet.names import Digest, Reference, Repository
from stagefleet.registry import Manifest, RegistryClient

__all__ = ["Scale"]

_THREADS = 8
_AT_A_TIME = 1000  # bounds the manifests in memory
_MAX_DEPTH = 4


class Scale:
    """Weighs images; what was on it before weighs nothing.

    Registries keep a blob once for all of their repositories, so one scale counts it once for each registry.

    Args:
        client: Speaks to registries.
    """

    def __init__(self, client: RegistryClient) -> None:
        self._client = client
        self._seen: set[int] = (
            set()
        )  # hashes: a million blobs take some 60 MB, their digests three times that

    def weigh(self, images: Iterable[tuple[Repository, str]]) -> int:
        """The bytes of images that nothing weighed before has: manifests, configurations and layers.

        What is gone or broken weighs nothing.

        Args:
            images: Repository and tag of each.
        """
        total = 0
        waiting = iter(images)
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="scale") as pool:
            while some := list(islice(waiting, _AT_A_TIME)):
                for (repository, _), manifests in zip(some, pool.map(self._fetch, some), strict=True):
                    total += sum(self._add(repository, manifest) for manifest in manifests)
        return total

    def _fetch(self, image: tuple[Repository, str]) -> list[Manifest]:
        repository, tag = image
        return list(self._whole(repository.tagged(tag)))

    def _whole(self, reference: Reference, depth: int = 1) -> Iterator[Manifest]:
        """A manifest, with those of an index's members."""
        try:
            manifest = self._client.fetch_manifest(reference)
        except (NotFoundError, ContentError):
            return
        yield manifest
        if depth <= _MAX_DEPTH:
            for member in manifest.members:
                yield from self._whole(Reference.of(reference.repository, member.digest), depth + 1)

    def _add(self, repository: Repository, manifest: Manifest) -> int:
        blobs = [(manifest.digest, manifest.size)]
        if manifest.config is not None:
            blobs.append((manifest.config.digest, manifest.config.size))
        blobs += [(layer.digest, layer.size) for layer in manifest.layers if not layer.urls]
        return sum(size for digest, size in blobs if self._is_new(repository.host, digest))

    def _is_new(self, host: str, digest: Digest) -> bool:
        key = hash((host, digest.algorithm, digest.hex))
        if key in self._seen:
            return False
        self._seen.add(key)
        return True
