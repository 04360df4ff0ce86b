"""The life of stages, the same on every kind of registry (docs/registries.md, "What was tried")."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from stagefleet import Fleet, Project
from stagefleet.names import Repository, StageId
from stagefleet.operations.verify import VerifyOperation
from stagefleet.records.models import ImageMetadata, ManagedImage
from stagefleet.registry.upload_sessions import RESUMED_BYTES
from stagefleet.runs.models import Outcome, Run, RunState
from tests.contract.registries.conftest import Repositories
from tests.contract.registries.products import EMPTY, SIGNATURE
from tests.services import ImageMaker, Pushed, RegistryServer, TcpProxy, stage_id_of
from tests.services.images import digest_of

MANY = 2500
LARGE_BYTES = 700_000
"""More than the bodies that the gateway with limits takes."""
INDEX = stage_id_of("index", None)


def stage(number: int) -> str:
    return stage_id_of(f"stage {number}", 1_700_000_000_000 + number)


def push(repositories: Repositories, name: str, number: int) -> Pushed:
    layers = [b"shared", f"own {number}".encode()]
    return repositories.maker.push_image(
        repositories.path(name), stage(number), layers=layers, oci=repositories.product.oci
    )


def succeeded(fleet: Fleet, run: Run) -> int:
    """How many items succeeded, where none failed."""
    assert [] == [(failure.item, failure.error) for failure in fleet.failures(run.id)]
    assert RunState.SUCCEEDED == run.state
    return run.succeeded


@pytest.fixture
def origin(elsewhere: RegistryServer, repositories: Repositories) -> dict[str, str]:
    """Stages of another registry, with a layer of some size, and an index of two of them; by digest."""
    elsewhere.renew()
    with ImageMaker(elsewhere) as maker:
        oci = repositories.product.oci
        images = [
            maker.push_image(
                "origin/app", stage(number), layers=[b"shared", os.urandom(LARGE_BYTES)], oci=oci
            )
            for number in range(2)
        ]
        index = maker.push_index("origin/app", INDEX, images)
    return {stage(0): images[0].digest, stage(1): images[1].digest, INDEX: index.digest}


def test_stages_and_an_index_go_in_and_out_and_are_described_and_verified(
    fleet: Fleet, repositories: Repositories, elsewhere: RegistryServer, origin: dict[str, str]
) -> None:
    here = repositories.address("app")
    assert 3 == succeeded(fleet, fleet.for_each_copy_stage(f"{elsewhere.host}/origin/app", here))
    assert origin == repositories.digests("app")
    again = fleet.for_each_copy_stage(f"{elsewhere.host}/origin/app", here, verify=True)
    assert (0, 3) == (succeeded(fleet, again), again.skipped)

    described = list(fleet.describe_stages(here))
    assert origin == {str(found.stage_id): found.info.repo_digest.rpartition("@")[2] for found in described}
    assert 3 == succeeded(fleet, fleet.for_each(VerifyOperation(repository=Repository.parse(here))))

    assert 3 == succeeded(fleet, fleet.for_each_copy_stage(here, f"{elsewhere.host}/back/app"))
    with ImageMaker(elsewhere) as maker:
        assert origin == {tag: maker.digest("back/app", tag) for tag in maker.tags("back/app")}


def test_a_large_layer_arrives_whose_connection_breaks_off(
    fleet: Fleet, repositories: Repositories, elsewhere: RegistryServer, logins: Path
) -> None:
    """It goes on where the registry can, and begins anew elsewhere."""
    elsewhere.renew()
    product = repositories.product
    with ImageMaker(elsewhere) as maker, TcpProxy(product.host) as proxy:
        layers = [os.urandom(RESUMED_BYTES + 1)]
        pushed = maker.push_image("origin/large", stage(0), layers=layers, oci=product.oci)
        (logins / "config.json").write_text(json.dumps({"auths": {proxy.host: product.login}}))
        proxy.cut_after(RESUMED_BYTES // 2)
        here = f"{proxy.host}/{repositories.path('large')}"
        assert 1 == succeeded(fleet, fleet.for_each_copy_stage(f"{elsewhere.host}/origin/large", here))
        assert proxy.passed_bytes > len(layers[0])
    (logins / "config.json").write_text(json.dumps({"auths": {product.host: product.login}}))
    assert {stage(0): pushed.digest} == repositories.digests("large")
    assert layers[0] == repositories.maker.blob(repositories.path("large"), pushed.layers[0])


def test_what_belongs_to_a_stage_goes_in_and_out(
    fleet: Fleet, repositories: Repositories, elsewhere: RegistryServer, origin: dict[str, str]
) -> None:
    """By the API where the registry has it, else by the index under the fallback tag, as in its source."""
    here = repositories.address("signed")
    with ImageMaker(elsewhere) as maker:
        signature = attach(maker, "origin/app", origin[stage(0)])
        out = fleet.for_each_copy_stage(f"{elsewhere.host}/origin/app", here, referrers=True)
        assert 3 == succeeded(fleet, out)
        project = fleet.project(Repository.parse(here))
        found = {str(stage_id): referrers for stage_id, referrers in project.referrers()}
        assert [signature] == [str(each.descriptor.digest) for each in found[stage(0)]]
        assert [repositories.product.kind] == [each.descriptor.artifact_type for each in found[stage(0)]]
        assert not found[stage(1)]
        assert set(origin) == {str(stage_id) for stage_id in fleet.stage_ids(here)}

        back = fleet.for_each_copy_stage(here, f"{elsewhere.host}/back/signed", referrers=True)
        assert 3 == succeeded(fleet, back)
        assert maker.manifest("origin/app", signature) == maker.manifest("back/signed", signature)
        index = maker.manifest("back/signed", fallback_tag(origin[stage(0)]))
        listed = json.loads(index or b"")["manifests"]
        assert [signature] == [entry["digest"] for entry in listed]


def test_what_belongs_to_a_stage_goes_with_it(fleet: Fleet, repositories: Repositories) -> None:
    """And nothing of a stage that stays; where digests are not deleted, the manifests stay without tags."""
    path, maker = repositories.path("unsigned"), repositories.maker
    pushed = [push(repositories, "unsigned", number) for number in range(2)]
    signatures = [attach(maker, path, each.digest) for each in pushed]
    maker.push_image(path, f"{fallback_tag(pushed[0].digest)}.sig", layers=[b"a layer"], oci=True)
    expected = {
        stage(1): pushed[1].digest,
        fallback_tag(pushed[1].digest): maker.digest(path, fallback_tag(pushed[1].digest)),
    }
    for _ in range(2):  # a repetition finds nothing
        outcomes: list[Outcome] = []
        run = fleet.for_each_delete_stage(
            repositories.address("unsigned"), [stage(0)], outcomes.append, referrers=True
        )
        assert [] == [(failure.item, failure.error) for failure in fleet.failures(run.id)]
        found = repositories.digests("unsigned")
        assert expected == found
        assert maker.manifest(path, signatures[1]) is not None
        if run.succeeded:
            (outcome,) = outcomes
            assert outcome.result is not None
            is_kept = maker.manifest(path, signatures[0]) is not None
            assert is_kept == any("deletes no digest" in note for note in outcome.result.get("notes", ()))
            assert 2 - is_kept == outcome.result["referrers"]
    assert 1 == run.skipped


def fallback_tag(digest: str) -> str:
    """Name the index that stands in for the API, and begin the names of cosign."""
    return digest.replace(":", "-")


def attach(maker: ImageMaker, path: str, subject: str) -> str:
    """Attach an artifact to an image where no API lists it; return its digest."""
    kinds = "application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.index.v1+json"
    content = {name: maker.push_blob(path, raw) for name, raw in (("config", b"{}"), ("layer", b"signature"))}
    artifact = {
        "schemaVersion": 2,
        "mediaType": kinds[0],
        "artifactType": SIGNATURE,
        "config": {"mediaType": EMPTY, "digest": content["config"], "size": 2},
        "layers": [{"mediaType": "text/plain", "digest": content["layer"], "size": len(b"signature")}],
        "subject": {"mediaType": kinds[0], "digest": subject, "size": 2},
    }
    raw = json.dumps(artifact).encode()
    digest = maker.push_manifest(path, digest_of(raw), raw, kinds[0])
    entry = {
        "mediaType": kinds[0],
        "digest": digest,
        "size": len(raw),
        "artifactType": SIGNATURE,
    }
    index = {"schemaVersion": 2, "mediaType": kinds[1], "manifests": [entry]}
    maker.push_manifest(path, fallback_tag(subject), json.dumps(index).encode(), kinds[1])
    return digest


def test_2500_tags_are_listed(fleet: Fleet, repositories: Repositories) -> None:
    first = push(repositories, "many", 0)
    repositories.product.tag_many(repositories.maker, first, map(stage, range(1, MANY)))
    listed = [str(stage_id) for stage_id in fleet.stage_ids(repositories.address("many"))]
    assert sorted(map(stage, range(MANY))) == sorted(listed)


def test_of_siblings_with_one_digest_one_goes(fleet: Fleet, repositories: Repositories) -> None:
    """The other stage stays, and so does a tag that is nobody's."""
    pushed = push(repositories, "siblings", 1)
    for tag in (stage(2), "latest"):
        repositories.maker.push_tag(pushed, tag)
    run = fleet.for_each_delete_stage(repositories.address("siblings"), [stage(1)])
    assert 1 == succeeded(fleet, run)
    assert {stage(2): pushed.digest, "latest": pushed.digest} == repositories.digests("siblings")


def test_a_member_of_an_index_that_stays_keeps_its_content(fleet: Fleet, repositories: Repositories) -> None:
    members = [push(repositories, "members", number) for number in range(2)]
    path = repositories.path("members")
    index = repositories.maker.push_index(path, INDEX, members)
    run = fleet.for_each_delete_stage(repositories.address("members"), [stage(0)])
    assert 1 == succeeded(fleet, run)
    kept = {stage(1): members[1].digest, INDEX: index.digest}
    assert kept == repositories.digests("members")
    assert members[0].manifest == repositories.maker.manifest(path, members[0].digest)


def test_a_project_is_published_recorded_and_purged(fleet: Fleet, repositories: Repositories) -> None:
    for number in range(3):
        push(repositories, "primary", number)
    repositories.maker.push_tag(push(repositories, "final", 9), "somebodys")
    primary, final = (Repository.parse(repositories.address(name)) for name in ("primary", "final"))
    project = fleet.project(Project("app", primary, final))
    assert 3 == succeeded(fleet, project.for_each_publish_stage())
    published = repositories.digests("final")
    assert repositories.digests("primary").items() <= published.items()

    records = fleet.records
    records.write(primary, ManagedImage("web/app"), project="app")
    records.write(primary, ImageMetadata.of_image("web", "c0" * 20, StageId.parse(stage(0))), project="app")
    records.add_custom_tag(primary, "v1", stage(1), project="app", final=final)
    records.check_custom_tag(primary, "v1", stage(1), final=final)
    found = records.read(primary, "managed-image", "web/app")
    assert found is not None
    assert ManagedImage("web/app") == found.record
    assert 3 == len(list(records.ids(primary)))

    for group in project.purge():
        assert group.run is None or group.run.failed == 0, group
    assert {} == repositories.digests("primary")
    assert {"somebodys": published["somebodys"]} == repositories.digests("final")
