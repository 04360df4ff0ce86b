"""What a purge would delete."""

from __future__ import annotations

import pytest

from stagefleet import manifests
from stagefleet.errors import (
    NotFoundError,
    RegistryUnavailableError,
    UnsupportedManifestError,
    UsageError,
)
from stagefleet.leases import NO_LEASE
from stagefleet.manifests import Manifest
from stagefleet.names import EngineProject, LayoutPath, StageId
from stagefleet.operations.delete import InUsePolicy
from stagefleet.project_addresses import Project
from stagefleet.projects.purge_plan import plan_purge
from stagefleet.records.ids import RecordId, RecordKind
from stagefleet.records.image import RecordImage, put_record
from stagefleet.records.models import CustomTag, ManagedImage, RejectedStage
from stagefleet.storages.storages import Storages
from tests.unit.storages.conftest import OCI_CONFIG, OCI_INDEX, OCI_MANIFEST, digest_of, entry


class Engine:
    """What a project has in an engine."""

    def __init__(self, stages=(), records=()):
        self._stages, self._records = stages, records
        self.records = self

    def stage_ids(self):
        return iter(self._stages)

    def ids(self, kind=None):
        return iter(self._records)


class StoragesWithEngine(Storages):
    """Storages with one project in an engine."""

    engine = Engine()

    def open(self, address):
        return self.engine if address.is_engine else super().open(address)


@pytest.fixture
def roles(fakes):
    return Project("app", fakes.source, fakes.destination)


@pytest.fixture
def write(fakes):
    def write(record, **labels):
        image = RecordImage.of("app", labels or record.labels)
        put_record(fakes.registries, fakes.source.tagged(record.id.tag), image, lease=NO_LEASE)

    return write


@pytest.fixture
def plan(fakes, roles):
    return lambda sized=False: plan_purge(fakes.stage_tasks.storages, roles, sized=sized)


@pytest.fixture
def plan_alone(fakes):
    """Of a project without a final storage."""
    return lambda sized=False: plan_purge(
        fakes.stage_tasks.storages, Project("app", fakes.source), sized=sized
    )


def items(plan):
    return {group.name: group.items for group in plan.groups if group.items}


def test_groups_come_in_the_order_of_a_purge(plan):
    assert [
        "stages",
        "import-metadata",
        "managed-images",
        "image-metadata",
        "custom-tags",
        "rejected-stages",
        "final-stages",
    ] == [group.name for group in plan().groups]
    assert ((), 0) == (plan().unknown, len(plan()))


def test_a_rejected_stage_goes_with_its_record_and_not_among_the_stages(fakes, write, plan):
    kept, rejected = fakes.stage(1), fakes.stage(2)
    for stage_id in (kept, rejected):
        fakes.registries.push(fakes.source, str(stage_id))
    write(RejectedStage(rejected))
    assert {"stages": (str(kept),), "rejected-stages": (str(rejected),)} == items(plan())


def test_what_refers_to_stages_goes_with_them_where_it_is_asked_for(fakes, roles, write):
    """In all groups of stages, whose signatures are then nobody's no more; not in those of records."""
    image = fakes.registries.push(fakes.source, str(fakes.stage(1)))
    signature = f"{str(image).replace(':', '-')}.sig"
    fakes.registries.push(fakes.source, signature)
    fakes.registries.push(fakes.source, "somebodys")
    storages = fakes.stage_tasks.storages
    without, plan = (plan_purge(storages, roles, referrers=wanted) for wanted in (False, True))
    asked = [group.name for group in plan.groups if group.options.get("referrers")]
    assert ["stages", "rejected-stages", "final-stages"] == asked
    assert (f"{fakes.source}:somebodys",) == plan.unknown
    assert {f"{fakes.source}:{tag}" for tag in (signature, "somebodys")} == set(without.unknown)
    assert ["referrers" in group.options for group in without.groups] == [False] * 7


@pytest.mark.parametrize("address", [EngineProject("app"), LayoutPath("/layout")])
def test_only_a_repository_has_referrers_to_purge(fakes, address):
    with pytest.raises(UsageError, match="leave out --referrers"):
        plan_purge(fakes.stage_tasks.storages, Project("app", address), referrers=True)


def test_a_custom_tag_with_a_record_is_no_unknown_tag(fakes, write, plan_alone):
    fakes.registries.push(fakes.source, "latest")
    fakes.registries.push(fakes.source, "somebodys")
    write(CustomTag("latest", fakes.stage(1)))
    assert {"custom-tags": ("latest",)} == items(plan_alone())
    assert (f"{fakes.source}:somebodys",) == plan_alone().unknown
    assert ["latest"] == plan_alone().groups[0].options["also"]


def test_the_tag_that_a_broken_record_may_mean_stays(fakes, write, plan_alone):
    fakes.registries.push(fakes.source, "latest")
    write(CustomTag("latest", fakes.stage(1)), other="label")
    assert (f"{fakes.source}:latest",) == plan_alone().unknown
    assert [] == plan_alone().groups[0].options["also"]


def test_a_custom_tag_is_in_the_final_storage_where_there_is_one(fakes, write, plan):
    """I1: there it goes, and it is nobody's tag neither there nor here."""
    for tag in ("latest", "somebodys"):
        fakes.registries.push(fakes.destination, tag)
    write(CustomTag("latest", fakes.stage(1)))
    group = next(group for group in plan().groups if group.items)
    assert ("custom-tags", ("latest",)) == (group.name, group.items)
    assert {"repository": str(fakes.source), "final": str(fakes.destination)} == group.options
    assert (f"{fakes.destination}:somebodys",) == plan().unknown
    assert [] == plan().groups[0].options["also"]


def test_a_tag_of_the_same_name_in_the_primary_storage_is_nobodys_then(fakes, write, plan):
    """I1: nothing goes there that nobody asked for."""
    fakes.registries.push(fakes.source, "latest")
    write(CustomTag("latest", fakes.stage(1)))
    assert (f"{fakes.source}:latest",) == plan().unknown


def test_what_a_custom_tag_names_counts_for_the_final_stage(fakes, write, plan):
    """I1: the final stages held nothing, as their custom tags were taken for tags that stay."""
    stage_id = str(fakes.stage(1))
    for tag in (stage_id, "latest"):
        fakes.registries.push(fakes.destination, tag, layers=(b"x" * 1000,))
    write(CustomTag("latest", fakes.stage(1)))
    sizes = {group.name: group.size for group in plan(sized=True).groups}
    assert sizes["final-stages"] > 1000 > sizes["custom-tags"] > 0


@pytest.mark.parametrize("damage", ["gone", "broken", "fails"])
def test_what_cannot_be_weighed_is_named_and_the_rest_is_weighed(fakes, plan, monkeypatch, damage):
    """x1, W19: one damaged tag, ours or a foreign one, ended a dry run."""
    sound = fakes.stage(1)
    fakes.registries.push(fakes.source, str(sound), layers=(b"x" * 1000,))
    weight = plan(sized=True).size
    for tag in (str(fakes.stage(2)), "buildcache"):
        fakes.registries.push(fakes.source, tag, layers=(b"y" * 1000,))
    fetch = fakes.registries.fetch_manifest
    error = {
        "gone": NotFoundError("gone", status=404),
        "broken": UnsupportedManifestError("no JSON"),
        "fails": RegistryUnavailableError("GET answered 500", status=500),
    }[damage]

    def fetch_damaged(reference):
        if reference.tag in {str(fakes.stage(2)), "buildcache"}:
            raise error
        return fetch(reference)

    monkeypatch.setattr(fakes.registries, "fetch_manifest", fetch_damaged)
    found = plan(sized=True)
    assert {"stages": (str(sound), str(fakes.stage(2)))} == items(found)
    named = {f"{fakes.source}:{tag}" for tag in (str(fakes.stage(2)), "buildcache")}
    assert (weight, set() if damage == "gone" else named) == (found.size, set(found.unweighed))


@pytest.mark.parametrize("tag", ["buildcache", "stage"])
def test_a_cache_index_weighs_what_its_blobs_weigh(fakes, plan, tag):
    """W19: BuildKit's members are layers and a configuration, and no manifests."""
    tag = str(StageId(fakes.stage(9).digest)) if tag == "stage" else tag
    entries = [
        {"mediaType": kind, "size": 500, "digest": f"sha256:{letter * 64}"}
        for kind, letter in (
            ("application/vnd.oci.image.layer.v1.tar+gzip", "1"),
            ("application/vnd.buildkit.cacheconfig.v0", "2"),
        )
    ]
    index = Manifest.of({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries})
    fakes.registries._store(fakes.registries.stored(fakes.source), tag, index)
    found = plan(sized=True)
    expected = index.size + 1000 if tag != "buildcache" else 0  # what stays weighs nothing
    assert (expected, {}) == (found.size, found.unweighed)


def test_an_index_of_indexes_is_weighed_in_a_bounded_number_of_requests(fakes, plan):
    """R17: each is read once, and there is an end to their number."""
    digest = fakes.registries.push(fakes.source, None, layers=(b"x" * 1000,))
    for _ in range(3):
        member = fakes.registries.stored(fakes.source).manifests[digest]
        entry = {"mediaType": member.media_type, "size": member.size, "digest": str(digest)}
        document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry] * 200}
        digest = fakes.registries._store(fakes.registries.stored(fakes.source), None, Manifest.of(document))
    fakes.registries.stored(fakes.source).tags[str(fakes.stage(1))] = digest
    fakes.registries.reads.clear()
    assert plan(sized=True).size > 1000
    assert 4 == sum(verb == "get" for verb, _ in fakes.registries.reads)


def test_one_that_leads_to_too_much_is_named(fakes, plan, monkeypatch):
    """R17: the sizes are without the rest of it."""
    monkeypatch.setattr(manifests, "MAX_MANIFESTS", 2)
    images = [fakes.registries.push(fakes.source, None, layers=(b"%d" % number,)) for number in range(4)]
    fakes.registries.push_index(fakes.source, "many", images)
    (image,) = plan(sized=True).unweighed
    assert f"{fakes.source}:many" == image


def test_a_record_that_cannot_be_read_fails_in_its_run_and_blocks_no_plan(fakes, write, plan, monkeypatch):
    """x1, R11: nor does one whose configuration is nested without end."""
    for name in ("v1", "v2", "v3"):
        write(CustomTag(name, fakes.stage(1)))
    tags = fakes.registries.stored(fakes.source).tags
    odd = b'{"config":' + b"[" * 100_000
    fakes.registries.stored(fakes.source).blobs[digest_of(odd)] = odd
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": entry(odd, OCI_CONFIG),
        "layers": [],
    }
    fakes.registries._store(
        fakes.registries.stored(fakes.source), "custom-tag-meta-v3", Manifest.of(document)
    )
    fetch = fakes.registries.fetch_manifest

    def fetch_damaged(reference):
        if reference.tag == "custom-tag-meta-v2":
            raise RegistryUnavailableError("GET answered 500", status=500)
        return fetch(reference)

    monkeypatch.setattr(fakes.registries, "fetch_manifest", fetch_damaged)
    assert {"custom-tags": ("v1", "v2", "v3")} == items(plan())
    assert {"custom-tag-meta-v1", "custom-tag-meta-v2", "custom-tag-meta-v3"} == set(tags)


def test_a_record_that_says_a_tag_of_another_record_means_none(fakes, write, plan_alone):
    fakes.registries.push(fakes.source, "latest")
    write(CustomTag("other", fakes.stage(1)), **{"tag": "latest", "stage-id": str(fakes.stage(1))})
    assert ({"custom-tags": ("other",)}, (f"{fakes.source}:latest",)) == (
        items(plan_alone()),
        plan_alone().unknown,
    )


def test_final_stages_go_and_foreign_tags_of_the_final_storage_stay(fakes, plan):
    stage_id = str(fakes.stage(1))
    fakes.registries.push(fakes.destination, stage_id)
    fakes.registries.push(fakes.destination, "v1")
    assert ({"final-stages": (stage_id,)}, (f"{fakes.destination}:v1",)) == (items(plan()), plan().unknown)


def test_a_blob_counts_once_and_what_stays_holds_counts_nowhere(fakes, plan):
    for number, own in enumerate((b"y" * 100, b"z" * 10)):
        fakes.registries.push(fakes.source, str(fakes.stage(number)), layers=(b"x" * 1000, own))
    one, other = fakes.registries.stored(fakes.source).manifests.values()
    assert one.size + other.size + one.config.size + 1000 + 100 + 10 == plan(sized=True).size
    fakes.registries.push(fakes.source, "somebodys", layers=(b"x" * 1000,))  # of the same configuration
    assert one.size + other.size + 100 + 10 == plan(sized=True).size


def test_nothing_is_weighed_unless_asked_for(fakes, write, plan):
    write(ManagedImage("web"))
    assert (None, True) == (plan().size, plan(sized=True).size > 0)


def test_of_an_engine_stages_and_import_metadata_go_and_weigh_nothing_that_it_tells(fakes):
    storages = StoragesWithEngine(fakes.stage_tasks.storages.registries, lambda: pytest.fail("not asked"))
    storages.engine = Engine([fakes.stage(1)], [RecordId.of(RecordKind.IMPORT_METADATA, "0f" * 32)])
    fakes.registries.push(fakes.destination, str(fakes.stage(1)))
    project = Project("app", EngineProject("app"), fakes.destination)
    found = plan_purge(storages, project, policy=InUsePolicy(skip_used=True), sized=True)
    stage = str(fakes.stage(1))
    assert {"stages": (stage,), "import-metadata": ("0f" * 32,), "final-stages": (stage,)} == items(found)
    assert ["docker-daemon:app"] * 6 == [group.options["repository"] for group in found.groups[:6]]
    assert [None] * 6 == [group.size for group in found.groups[:6]]
    assert found.groups[6].size
    assert [True, None] == [group.options.get("skip_used") for group in found.groups[:2]]


def test_what_is_in_use_is_no_question_in_a_repository(fakes, roles):
    with pytest.raises(UsageError, match="no Docker Engine"):
        plan_purge(fakes.stage_tasks.storages, roles, policy=InUsePolicy(skip_used=True))
