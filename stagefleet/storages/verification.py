"""Verification of a stage: all that a storage has of it is read to its end, or asked for.

A part counts as missing or altered only if a second look, some seconds later and over new connections, finds
the same. A storage that fails, breaks off or does not answer proves nothing: the item is tried again. Each
blob is looked at once in a run of the whole fleet, and what was found is shared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from functools import partial
from itertools import repeat
from typing import Any

from stagefleet import errors
from stagefleet.attempt import Attempt, ItemResult
from stagefleet.image_config import diff_ids_in
from stagefleet.layers import ByteStream, diff_id_of
from stagefleet.leases import Lease
from stagefleet.manifests import Descriptor, Manifest, MemberReader
from stagefleet.names import Digest, Reference, Repository, StageId
from stagefleet.registry.client import RegistryClient
from stagefleet.registry.http.adapter import CHUNK_BYTES
from stagefleet.registry.http.waits import pause
from stagefleet.shared_state.base import RUN_TTL_SECONDS, SharedState
from stagefleet.storages.base import CONFIG_BYTES, ManifestStorage
from stagefleet.storages.repository import fetch_stage_manifest

SECOND_LOOK_SECONDS = 5.0
"""Shortest time between the two looks."""
_KEY_CHARACTERS = 40
_DIFF_ID_CHARACTERS = 24
"""Characters of a diff id that are kept and compared: `sha256:` and 17 digits tell layers apart."""
_TOLD = 20


class Fault(StrEnum):
    """Fault of a part of a stage."""

    MISSING = "missing"
    ALTERED = "altered"
    UNREADABLE = "unreadable"


_ERRORS = {
    Fault.MISSING: errors.MissingContentError,
    Fault.ALTERED: errors.AlteredContentError,
    Fault.UNREADABLE: errors.UnreadableContentError,
}
"""The error for each, the one that counts if there are several first."""


@dataclass(frozen=True, slots=True)
class Look:
    """Result of a look at a part, as JSON can hold it; `fault` is "" for one that is whole.

    `diff_ids` are those that a configuration names, or the one of a layer.
    """

    fault: str = ""
    detail: str = ""
    diff_ids: list[str] | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the fields that are set."""
        return {name: value for name, value in asdict(self).items() if value or value == []}


@dataclass(slots=True)
class VerificationResult:
    """Result of a verification of one stage.

    Attributes:
        faults: What is wrong, in words, by its kind.
        absent: Non-distributable layers that the storage does not have.
        is_image: True if it is known to be a single image.
        read_bytes: Bytes that this verification has read itself.
    """

    faults: list[tuple[Fault, str]] = field(default_factory=list)
    absent: list[Digest] = field(default_factory=list)
    is_image: bool = False
    manifests: int = 0
    blobs: int = 0
    read_bytes: int = 0

    def note(self, look: Look, part: str) -> None:
        """Add what a look found wrong with a part, if anything."""
        detail = f" ({look.detail})" if look.detail else ""
        told = f"{part} is {look.fault}{detail}"
        if look.fault and all(told != text for _, text in self.faults):
            self.faults.append((Fault(look.fault), told))

    @property
    def is_damaged(self) -> bool:
        """True if a part is not as it was pushed."""
        return any(fault is not Fault.UNREADABLE for fault, _ in self.faults)

    @property
    def error(self) -> errors.BrokenStageError | None:
        """The error that names all faults; None without one."""
        for kind, error in _ERRORS.items():
            if any(fault is kind for fault, _ in self.faults):
                more = len(self.faults) - _TOLD
                named = [text for _, text in self.faults[:_TOLD]] + ([f"{more:,} more"] if more > 0 else [])
                return error("; ".join(named))
        return None

    @property
    def item_result(self) -> ItemResult:
        """The result of a stage without faults."""
        notes = [f"the non-distributable layer {digest} is absent" for digest in self.absent]
        counts = {"manifests": self.manifests, "blobs": self.blobs}
        return ItemResult(counts | ({"notes": notes} if notes else {}), bytes=self.read_bytes)


class ContentVerification:
    """Verification of one stage in a storage of manifests and blobs; `shallow` reads no blobs."""

    def __init__(
        self,
        storage: ManifestStorage,
        stage_id: StageId,
        attempt: Attempt,
        shared_state: SharedState,
        *,
        shallow: bool,
    ) -> None:
        self._storage = storage
        self._stage_id = stage_id
        self._lease = attempt.lease
        self._shallow = shallow
        self._result = VerificationResult()
        self._once = partial(
            shared_state.get_or_compute,
            attempt.run_id,
            ttl_seconds=RUN_TTL_SECONDS,
            wait_seconds=RUN_TTL_SECONDS,
            lease=attempt.lease,
        )

    def execute(self) -> VerificationResult:
        """Verify the stage.

        Raises:
            StageNotFoundError: It does not exist, or no longer.
            StorageStateChangedError: It was replaced meanwhile.
            StagefleetError: A look failed, which proves nothing about the stage.
        """
        manifest = self._manifest(f"the manifest of {self._stage_id}", self._fetch_stage)
        if manifest is None:
            return self._result
        self._result.is_image = not manifest.is_index
        self._verify_image(manifest)
        try:
            for member in MemberReader(self._fetch_member, self._storage.address).walk(manifest):
                if member.manifest is None:
                    self._verify_blob(member.descriptor, "blob")
                else:
                    self._verify_image(member.manifest, f" of the member {member.descriptor.digest}")
        except errors.UnsupportedManifestError as error:  # nested too deep, or too large
            self._result.note(Look(Fault.UNREADABLE, str(error)), "the index")
        if self._result.faults:
            self._confirm(manifest)
        return self._result

    def _confirm(self, manifest: Manifest) -> None:
        """Raise if the stage was deleted or replaced meanwhile, which may take its blobs along."""
        with self._storage.reopened() as storage:
            if storage.find_digest(self._stage_id) != manifest.digest:
                raise errors.StorageStateChangedError(
                    f"stage {self._stage_id} was replaced while it was verified"
                )

    def _fetch_stage(self, storage: ManifestStorage) -> Manifest:
        """Fetch the manifest of the stage; one that is listed without it is broken, and not gone."""
        try:
            return storage.fetch_manifest(self._stage_id)
        except errors.StageNotFoundError:
            if any(stage_id == self._stage_id for stage_id in storage.stage_ids()):
                raise errors.MissingContentError("its tag leads to no manifest") from None
            raise

    def _fetch_member(self, digest: Digest) -> Manifest:
        """Fetch a member of an index; one that is broken is noted, and empty."""
        found = self._manifest(f"the member {digest}", lambda storage: storage.fetch_member(digest))
        return found or Manifest(b"", "", digest)

    def _manifest(self, part: str, fetch: Callable[[ManifestStorage], Manifest]) -> Manifest | None:
        fetched: list[Manifest] = []

        def look(storage: ManifestStorage) -> Look:
            fetched.append(fetch(storage))
            return Look()

        seen = self._look_twice(part, look)
        self._result.note(seen, part)
        if seen.fault:
            return None
        self._result.manifests += 1
        self._result.read_bytes += fetched[-1].size
        return fetched[-1]

    def _verify_image(self, manifest: Manifest, where: str = "") -> None:
        """Verify the configuration and the layers of an image; an index has neither."""
        if manifest.config is None:
            return
        layers = manifest.layers
        named = self._verify_blob(manifest.config, "config", where).diff_ids
        if named is not None and len(named) != len(layers):
            if all(layer.is_image_layer for layer in layers):
                look = Look(Fault.UNREADABLE, f"it names {len(named)} diff ids for {len(layers)} layers")
                self._result.note(look, f"the config {manifest.config.digest}{where}")
            named = None
        # The small ones first: they are a stage's own, while others may be reading the large ones.
        pairs: list[tuple[Descriptor, str]] = list(zip(layers, named or repeat(""), strict=False))
        for layer, diff_id in sorted(pairs, key=lambda pair: pair[0].size):
            seen = self._verify_blob(layer, "layer", where).diff_ids
            if diff_id and seen and seen[0] != diff_id:
                look = Look(Fault.ALTERED, f"it unpacks to {seen[0]}..., its config says {diff_id}...")
                self._result.note(look, f"the layer {layer.digest}{where}")

    def _verify_blob(self, blob: Descriptor, kind: str, where: str = "") -> Look:
        """Look at a blob, unless that was done in this run; a non-distributable layer may be absent."""
        part, kind = f"the {kind} {blob.digest}", self._kind_of(blob, kind)
        key = f"{kind} {blob.digest.hex[:_KEY_CHARACTERS]} {blob.size}"  # a run may have millions
        look = partial(self._look_at_blob, blob, kind)
        seen = Look(**self._once(key, lambda: self._look_twice(part, look).as_json()))
        if seen.fault == Fault.MISSING and not blob.is_distributable:
            self._result.absent.append(blob.digest)
            return Look()
        self._result.blobs += 1
        self._result.note(seen, f"{part}{where}")
        return seen

    def _kind_of(self, blob: Descriptor, kind: str) -> str:
        """Return how a blob is looked at: artifacts have configurations and layers of any kind."""
        if self._shallow or not blob.size:
            return "asked"
        if kind == "config" and blob.is_image_config and blob.size <= CONFIG_BYTES:
            return "config"
        return "layer" if blob.is_image_layer else "blob"

    def _look_at_blob(self, blob: Descriptor, kind: str, storage: ManifestStorage) -> Look:
        if kind == "asked":
            return Look() if storage.has_blob(blob) else Look(Fault.MISSING)
        with closing(storage.open_blob(blob, lease=self._lease)) as stream:
            found: list[str] | None = None
            if kind == "config":
                named = diff_ids_in(b"".join(_pieces(stream)))
                found = [diff_id[:_DIFF_ID_CHARACTERS] for diff_id in named]
            elif kind == "layer":
                found = [str(diff_id_of(stream, blob.size, lease=self._lease))[:_DIFF_ID_CHARACTERS]]
            else:
                for _ in _pieces(stream):
                    pass  # at its end it raises if its digest is another
        self._result.read_bytes += blob.size
        return Look(diff_ids=found)

    def _look_twice(self, part: str, look: Callable[[ManifestStorage], Look]) -> Look:
        """Look at a part, and again if it is missing or altered; a fault that does not stay is no fault."""
        self._lease.check()
        seen = self._look(lambda: look(self._storage))
        if seen.fault in {"", Fault.UNREADABLE}:
            return seen
        pause(SECOND_LOOK_SECONDS, self._lease, "", f"before a second look at {part}")
        with self._storage.reopened() as storage:
            again = self._look(lambda: look(storage))
        if again.fault and again != seen:
            raise errors.TruncatedError(
                f"{self._storage.address}: two looks at {part} differ: {seen.fault} ({seen.detail}), then "
                f"{again.fault} ({again.detail}); try again"
            )
        return again

    def _look(self, look: Callable[[], Look]) -> Look:
        """Return what a look found; a failure that proves nothing about the part is raised."""
        try:
            return look()
        except (errors.UnreadableContentError, errors.UnsupportedManifestError) as error:
            return Look(Fault.UNREADABLE, str(error))
        except (errors.NotFoundError, errors.BrokenStageError):
            return Look(Fault.MISSING)
        except errors.DigestMismatchError as error:
            return Look(Fault.ALTERED, error.found or str(error))
        except errors.ShortContentError as error:
            return Look(Fault.ALTERED, str(error))


def _pieces(stream: ByteStream) -> Iterator[bytes]:
    return iter(partial(stream.read, CHUNK_BYTES), b"")


@dataclass(frozen=True, slots=True)
class StageFault:
    """Fault of a stage: a registry cannot deliver the manifest of a member, a configuration or a layer.

    `member` is the member of an index that it belongs to; None if the stage is one image.
    """

    content: Descriptor
    look: Look
    member: Digest | None = None

    def __str__(self) -> str:
        """Describe the fault, as `lacks sha256:...`."""
        if self.look.fault == Fault.ALTERED:
            return f"has other content for {self.content.digest} ({self.look.detail})"
        return f"lacks {self.content.digest}"


@dataclass(frozen=True, slots=True)
class RejectionCheck:
    """Check that a registry cannot deliver a stage, before it is rejected for good.

    A registry restarts, a backend is away for a moment, a proxy has half of a blob. So both looks go over
    connections of their own and past every cache on the way, nothing that others found counts, and only
    the same result twice does, while the tag still names the same manifest.
    """

    client: RegistryClient
    repository: Repository
    stage_id: StageId
    lease: Lease

    def find_fault(self, members: Sequence[Digest]) -> StageFault | None:
        """Return a part that is missing or altered at two looks; None if there is none, or no proof.

        `members` are those of an index to read; empty for one image. A failed read proves nothing about the
        stage, and is raised, as is `StageNotFoundError`.
        """
        with self.client.reopened() as client:
            manifest = fetch_stage_manifest(client, self.repository, self.stage_id)
            part = next(self._faulty_parts(client, manifest, members), None)
        if part is None:
            return None
        what = f"before a second look at {self.repository.tagged(str(self.stage_id))}"
        pause(SECOND_LOOK_SECONDS, self.lease, self.repository.host, what)
        with self.client.reopened() as client:
            if fetch_stage_manifest(client, self.repository, self.stage_id).digest != manifest.digest:
                return None
            is_member = part.content.digest == part.member
            look = self._look_at_member if is_member else self._look_at_blob
            return part if look(client, part.content) == part.look else None

    def _faulty_parts(
        self, client: RegistryClient, manifest: Manifest, members: Sequence[Digest]
    ) -> Iterator[StageFault]:
        if not manifest.is_index:
            yield from self._faulty_blobs(client, manifest)
            return
        for member in {each.digest: each for each in manifest.members if each.digest in members}.values():
            seen = self._look_at_member(client, member)
            if isinstance(seen, Look):
                yield StageFault(member, seen, member.digest)
            else:
                yield from self._faulty_blobs(client, seen, member.digest)

    def _faulty_blobs(
        self, client: RegistryClient, manifest: Manifest, member: Digest | None = None
    ) -> Iterator[StageFault]:
        """Look at the blobs that the registry must have; layers that are stored elsewhere are left out."""
        named = [*([] if manifest.config is None else [manifest.config]), *manifest.layers]
        blobs = {blob.digest: blob for blob in named if blob.is_distributable}.values()
        for blob in sorted(blobs, key=lambda blob: self._seems_there(client, blob)):
            look = self._look_at_blob(client, blob)
            if look.fault:
                yield StageFault(blob, look, member)

    def _seems_there(self, client: RegistryClient, blob: Descriptor) -> bool:
        """Ask for a blob by HEAD; the answer only decides which blob is read first."""
        with suppress(errors.RegistryError, errors.DigestMismatchError):
            return client.has_blob(self.repository, blob.digest, size=blob.size)
        return True

    def _look_at_blob(self, client: RegistryClient, blob: Descriptor) -> Look:
        self.lease.check()
        try:
            found = client.hash_blob(self.repository, blob)
        except errors.NotFoundError:
            return Look(Fault.MISSING)
        return Look() if found == blob.digest else Look(Fault.ALTERED, str(found))

    def _look_at_member(self, client: RegistryClient, member: Descriptor) -> Manifest | Look:
        """Read the manifest of a member, or return its fault."""
        self.lease.check()
        try:
            return client.fetch_manifest(Reference.of(self.repository, member.digest))
        except errors.NotFoundError:
            return Look(Fault.MISSING)
        except errors.DigestMismatchError as error:
            return Look(Fault.ALTERED, error.found or str(error))
