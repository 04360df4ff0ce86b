"""Total size of images: a blob of several images counts once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from itertools import islice

from stagefleet.errors import ContentError, NotFoundError, RateLimitedError, RegistryError
from stagefleet.leases import LeaseBoundThreads
from stagefleet.manifests import Descriptor, Manifest, MemberReader
from stagefleet.names import Digest, Reference, Repository
from stagefleet.registry.client import RegistryClient

_THREADS = 8
_AT_A_TIME = 1000  # bounds the manifests in memory
_MOST_NAMED = 1000


class UniqueSize:
    """Compute the sizes of images; content that was weighed before counts zero.

    Registries store a blob once for all of their repositories, so one scale counts it once per registry.
    `unweighed` has images that could not be weighed in full, and why; of many, some.
    """

    def __init__(self, client: RegistryClient) -> None:
        self.unweighed: dict[str, str] = {}
        self._client = client
        # Hashes: a million blobs take some 60 MB, their digests three times that.
        self._seen: set[int] = set()

    def add(self, images: Iterable[tuple[Repository, str]]) -> int:
        """Return the bytes of images that nothing weighed before has: manifests, configurations and layers.

        Missing images count zero; unreadable ones, too, and are listed in `unweighed`. A registry that does
        not answer, refuses the login or limits the rate for too long is an error.
        """
        total = 0
        waiting, read = iter(images), partial(_ImageSize.of, self._client)
        with LeaseBoundThreads(_THREADS, "scale") as pool:
            while some := list(islice(waiting, _AT_A_TIME)):
                references = [repository.tagged(tag) for repository, tag in some]
                total += sum(map(self._put, pool.map(read, references)))
        return total

    def _put(self, load: _ImageSize) -> int:
        """Weigh one image; return its additional bytes."""
        if load.trouble and len(self.unweighed) < _MOST_NAMED:
            self.unweighed[str(load.image)] = load.trouble.removeprefix(f"{load.image}: ")
        host = load.image.repository.host
        return sum(size for digest, size in load.blobs if self._is_new(host, digest))

    def _is_new(self, host: str, digest: Digest) -> bool:
        key = hash((host, digest.algorithm, digest.hex))
        if key in self._seen:
            return False
        self._seen.add(key)
        return True


@dataclass(slots=True)
class _ImageSize:
    """One image to weigh: digest and size of each manifest and blob, and why the list is incomplete."""

    image: Reference
    blobs: list[tuple[Digest, int]] = field(default_factory=list)
    trouble: str = ""

    @classmethod
    def of(cls, client: RegistryClient, image: Reference) -> _ImageSize:
        load = cls(image)
        load._read(client)
        return load

    def _read(self, client: RegistryClient) -> None:
        lenient = _LenientReads(client, self)
        repository = self.image.repository
        reader = MemberReader(
            lambda digest: lenient.fetch_manifest(Reference.of(repository, digest)), repository
        )
        manifest = lenient.fetch_manifest(self.image)
        self._add(manifest)
        try:
            for member in reader.walk(manifest):
                if member.manifest is None:
                    self._add_blob(member.descriptor)
                else:
                    self._add(member.manifest)
        except ContentError as error:
            self.trouble = str(error)

    def _add(self, manifest: Manifest) -> None:
        self.blobs.append((manifest.digest, manifest.size))
        if manifest.config is not None:
            self._add_blob(manifest.config)
        for layer in manifest.layers:
            if layer.is_distributable:
                self._add_blob(layer)

    def _add_blob(self, blob: Descriptor) -> None:
        self.blobs.append((blob.digest, blob.size))


class _LenientReads:
    """Manifests for one image: an unreadable one is empty, and noted in `trouble`."""

    def __init__(self, client: RegistryClient, load: _ImageSize) -> None:
        self._client = client
        self._load = load

    def fetch_manifest(self, reference: Reference) -> Manifest:
        try:
            return self._client.fetch_manifest(reference)
        except RateLimitedError:
            raise
        except NotFoundError:
            pass  # gone, as members of an index may be
        except (RegistryError, ContentError) as error:
            self._load.trouble = str(error)
        return Manifest(b"", "", reference.digest or _NOTHING)


_NOTHING = Digest("sha256", "0" * 64)
