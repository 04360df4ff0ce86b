"""Plan of a purge: all stages and records of a project, in an order that keeps descriptions consistent.

The whole plan is made from one tag list per repository, before any deletion. A tag that is neither a stage's
nor a record's nor a custom tag with its record is unknown: it is reported, and not touched. A project in a
Docker Engine has stages and import metadata; its other groups are empty.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Any

from stagefleet import errors
from stagefleet.manifests import Descriptor, Manifest, MemberReader
from stagefleet.names import Digest, Reference, Repository, StageId, StorageAddress
from stagefleet.operations.delete import InUsePolicy, refuse_referrers
from stagefleet.project_addresses import Project
from stagefleet.records.ids import RecordId, RecordKind
from stagefleet.records.models import CustomTag
from stagefleet.registry.client import RegistryClient
from stagefleet.registry.referrers import is_referrer_tag
from stagefleet.storages.storages import Storages
from stagefleet.threads import LeaseBoundThreads

_THREADS = 8
_MOST_ALSO = 10_000
"""Most tags of later groups passed to the deletion of stages: workers keep orders in memory.

Other tags are deleted, too, but with more requests.
"""

_RECORD_GROUPS: Mapping[RecordKind, tuple[str, str, Mapping[str, Any]]] = {
    RecordKind.IMPORT_METADATA: ("import-metadata", "rm_import_metadata", {}),
    RecordKind.MANAGED_IMAGE: ("managed-images", "rm_managed_image", {}),
    RecordKind.IMAGE_METADATA: ("image-metadata", "rm_record", {"kind": str(RecordKind.IMAGE_METADATA)}),
    RecordKind.CUSTOM_TAG: ("custom-tags", "delete_stage_custom_tag", {}),
    RecordKind.REJECTED_STAGE: ("rejected-stages", "delete_rejected_stage", {"unfinished": True}),
}
"""Groups of records in the order of a purge: name, operation and its options besides the repository."""


@dataclass(frozen=True, slots=True)
class PurgeGroup:
    """Deletions of one run.

    Attributes:
        repository: The repository, or the primary storage that is an engine.
        size: Bytes that no storage of the project uses once this and all earlier groups are gone; None if
            not requested, and for an engine, which does not report shared layers.
        final: The repository of `final_tags`.
        final_tags: The tags that are deleted in the final storage: custom tags, whose records are in the
            primary one.
    """

    name: str
    repository: StorageAddress
    items: tuple[str, ...]
    operation: str
    options: Mapping[str, Any] = field(hash=False)
    tags: tuple[str, ...] = field(repr=False)
    size: int | None = None
    final: Repository | None = None
    final_tags: tuple[str, ...] = field(default=(), repr=False)

    @property
    def has_stages(self) -> bool:
        """True if the items are stages, also rejected ones, and no records."""
        return self.operation in {"delete_stage", "delete_rejected_stage"}


@dataclass(frozen=True, slots=True)
class PurgePlan:
    """All deletions of a purge.

    Attributes:
        unknown: Unknown images, which stay.
        kept: Records that outlive a purge: clients, the last clean-up, the lock server.
        unweighed: Images that the sizes leave out, or count in part, and why.
    """

    groups: tuple[PurgeGroup, ...]
    unknown: tuple[str, ...]
    kept: tuple[str, ...]
    unweighed: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __len__(self) -> int:
        return sum(len(group.items) for group in self.groups)

    @property
    def size(self) -> int | None:
        """The bytes of all groups, None if not requested."""
        sizes = [group.size for group in self.groups if group.size is not None]
        return sum(sizes) if sizes else None


@dataclass(slots=True)
class _StorageContents:
    """Content of a storage, by kind."""

    address: StorageAddress
    stages: list[str] = field(default_factory=list)
    records: dict[RecordKind, list[RecordId]] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, storages: Storages, address: StorageAddress) -> _StorageContents:
        """Read a storage's lists; empty if it does not exist."""
        contents = cls(address)
        if address.is_on_host:
            storage = storages.open(address)
            contents.stages = list(map(str, storage.stage_ids()))
            for record in storage.records.ids():
                contents.records.setdefault(record.kind, []).append(record)
            return contents
        for tag in storages.registries.tags(address):
            contents._sort(tag)
        rejected = {record.name for record in contents.records.get(RecordKind.REJECTED_STAGE, ())}
        contents.stages = [tag for tag in contents.stages if tag not in rejected]
        return contents

    def _sort(self, tag: str) -> None:
        if (record := RecordId.from_tag(tag)) is not None:
            self.records.setdefault(record.kind, []).append(record)
        elif StageId.from_tag(tag) is not None:
            self.stages.append(tag)
        else:
            self.unknown.append(tag)


def plan_purge(
    storages: Storages,
    project: Project,
    *,
    policy: InUsePolicy | None = None,
    referrers: bool = False,
    sized: bool = False,
) -> PurgePlan:
    """Plan the purge of a project; changes nothing. Sizes cost one request for each manifest.

    With `referrers` what refers to the stages goes, too, and its tags are not unknown; sizes are without it.

    Raises:
        UsageError: There is a policy, but the primary storage is no engine; or `referrers`, and it is no
            repository.
        RegistryError: A tag list cannot be read.
    """
    if policy is not None and not project.primary.is_engine:
        raise errors.UsageError(f"{project.primary} is no Docker Engine: only there images are in use")
    if referrers:
        refuse_referrers(project.primary)
    contents = _StorageContents.read(storages, project.primary)
    custom = _custom_tags(storages, contents)
    groups = [
        _stages(contents, project, custom, policy),
        *(_records(contents, kind, custom, project.final) for kind in _RECORD_GROUPS),
    ]
    ours = set(custom.values())
    unknown = _unknown(contents, ours if project.final is None else ())
    stays = [
        f"{project.primary}:{record.tag}"
        for kind, found in contents.records.items()
        if kind not in _RECORD_GROUPS
        for record in found
    ]
    if project.final is not None:
        final = _StorageContents.read(storages, project.final)
        stages, options = tuple(final.stages), {"repository": str(project.final)}
        groups.append(PurgeGroup("final-stages", project.final, stages, "delete_stage", options, stages))
        unknown += _unknown(final, ours)
        stays += [f"{project.final}:{found.tag}" for records in final.records.values() for found in records]
    if referrers:
        groups = [_with_referrers(group) for group in groups]
        unknown = [image for image in unknown if not is_referrer_tag(image.rpartition(":")[2])]
    plan = PurgePlan(tuple(groups), tuple(unknown), tuple(stays))
    return _with_sizes(storages.registries.client, plan) if sized else plan


def _custom_tags(storages: Storages, contents: _StorageContents) -> dict[RecordId, str]:
    """Return the custom tag of each record that names one; an unreadable record fails later, in its run."""
    store = storages.open(contents.address).records

    def read(record_id: RecordId) -> str | None:
        try:
            found = store.read(record_id)
            if found is None or not isinstance(found.record, CustomTag):
                return None
            name = found.record.name
            return name if RecordId.of(RecordKind.CUSTOM_TAG, name) == record_id else None
        except errors.RateLimitedError:
            raise
        except (errors.BrokenRecordError, errors.InvalidNameError, errors.RegistryError):
            return None

    records = contents.records.get(RecordKind.CUSTOM_TAG, [])
    with LeaseBoundThreads(_THREADS, "purge") as pool:
        names = pool.map(read, records)
        return {record: name for record, name in zip(records, names, strict=True) if name is not None}


def _stages(
    contents: _StorageContents, project: Project, custom: Mapping[RecordId, str], policy: InUsePolicy | None
) -> PurgeGroup:
    """Build the group of stages; a deletion by digest removes later groups' tags of the same digest, too."""
    tagged = () if project.final is not None else custom.values()
    also = [*tagged, *(record.name for record in contents.records.get(RecordKind.REJECTED_STAGE, ()))]
    options = {
        "repository": str(contents.address),
        "caches": [str(cache) for cache in project.caches],
        "also": also[:_MOST_ALSO],
        **({} if policy is None else policy.as_options()),
    }
    stages = tuple(contents.stages)
    return PurgeGroup("stages", contents.address, stages, "delete_stage", options, stages)


def _unknown(contents: _StorageContents, custom: Container[str]) -> list[str]:
    """List the images that belong to no stage, no record and none of these custom tags."""
    return [f"{contents.address}:{tag}" for tag in contents.unknown if tag not in custom]


def _records(
    contents: _StorageContents, kind: RecordKind, custom: Mapping[RecordId, str], final: Repository | None
) -> PurgeGroup:
    name, operation, details = _RECORD_GROUPS[kind]
    records = contents.records.get(kind, [])
    tags = [record.tag for record in records]
    items = tuple(custom.get(record, record.item) for record in records)
    options = {"repository": str(contents.address), **details}
    if kind is RecordKind.REJECTED_STAGE:
        tags += [record.name for record in records]
    elif kind is RecordKind.CUSTOM_TAG and final is None:
        tags += custom.values()
    group = PurgeGroup(name, contents.address, items, operation, options, tuple(tags))
    if kind is not RecordKind.CUSTOM_TAG or final is None:
        return group
    options["final"] = str(final)
    return replace(group, final=final, final_tags=tuple(custom.values()))


def _with_referrers(group: PurgeGroup) -> PurgeGroup:
    """Return a group of stages that takes along what refers to them; others as they are."""
    return replace(group, options={**group.options, "referrers": True}) if group.has_stages else group


def _with_sizes(client: RegistryClient, plan: PurgePlan) -> PurgePlan:
    """Add sizes to the plan. Content of images that stay is weighed first, so that it counts nowhere.

    Custom tags in the final storage come last: most name a final stage.
    """
    unique_size = UniqueSize(client)
    unique_size.add(_references((*plan.unknown, *plan.kept)))
    groups = [
        replace(group, size=_size_of(unique_size, group.repository, group.tags)) for group in plan.groups
    ]
    for index, group in enumerate(groups):
        if group.final is not None and group.size is not None:
            more = unique_size.add((group.final, tag) for tag in group.final_tags)
            groups[index] = replace(group, size=group.size + more)
    return replace(plan, groups=tuple(groups), unweighed=unique_size.unweighed)


def _size_of(unique_size: UniqueSize, address: StorageAddress, tags: Iterable[str]) -> int | None:
    return None if address.is_on_host else unique_size.add((address, tag) for tag in tags)


def _references(images: Iterable[str]) -> Iterable[tuple[Repository, str]]:
    for image in images:
        repository, _, tag = image.rpartition(":")
        yield Repository.parse(repository), tag


_AT_A_TIME = 1000  # bounds the manifests in memory
_MOST_NAMED = 1000


class UniqueSize:
    """Compute the total size of images; content that was weighed before counts zero.

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
        repository = self.image.repository
        reader = MemberReader(
            lambda digest: self._fetch(client, Reference.of(repository, digest)), repository
        )
        manifest = self._fetch(client, self.image)
        self._add(manifest)
        try:
            for member in reader.walk(manifest):
                if member.manifest is None:
                    self._add_blob(member.descriptor)
                else:
                    self._add(member.manifest)
        except errors.ContentError as error:
            self.trouble = str(error)

    def _fetch(self, client: RegistryClient, reference: Reference) -> Manifest:
        """Read a manifest; an unreadable one is empty, and noted in `trouble`."""
        try:
            return client.fetch_manifest(reference)
        except errors.RateLimitedError:
            raise
        except errors.NotFoundError:
            pass  # gone, as members of an index may be
        except (errors.RegistryError, errors.ContentError) as error:
            self.trouble = str(error)
        return Manifest(b"", "", reference.digest or _NOTHING)

    def _add(self, manifest: Manifest) -> None:
        self.blobs.append((manifest.digest, manifest.size))
        if manifest.config is not None:
            self._add_blob(manifest.config)
        for layer in manifest.layers:
            if layer.is_distributable:
                self._add_blob(layer)

    def _add_blob(self, blob: Descriptor) -> None:
        self.blobs.append((blob.digest, blob.size))


_NOTHING = Digest("sha256", "0" * 64)
