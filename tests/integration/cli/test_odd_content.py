"""A repository with damaged, odd and hostile stages beside sound ones, from the shell: all real."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import pytest

from tests.integration.cli.conftest import HASTE
from tests.services import ImageMaker, RegistryServer, stage_id_of

PATH = "source/app"
SHORT = {"STAGEFLEET_RUNS__MAX_ATTEMPTS": "2"}
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
CACHE_CONFIG = "application/vnd.buildkit.cacheconfig.v0"


@dataclass
class Repository:
    """What was pushed.

    Attributes:
        server: The registry.
        odd: Stages that are legal, or at least whole, by what is odd about them.
        damaged: Stages whose manifest the registry cannot give.
    """

    server: RegistryServer
    maker: ImageMaker
    sound: list[str] = field(default_factory=list)
    odd: dict[str, str] = field(default_factory=dict)
    damaged: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"{self.server.host}/{PATH}"

    @property
    def whole(self) -> set[str]:
        return {*self.sound, *self.odd.values()}

    def push_sound(self, seed: str) -> None:
        self.sound.append(stage_id_of(seed))
        self.maker.push_image(PATH, stage_id_of(seed), layers=[b"shared", seed.encode()])

    def push_config(self, what: str, config: bytes, *, media_type: str = "text/plain") -> None:
        """An image or artifact with any configuration."""
        document = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": self._descriptor(config, media_type),
            "layers": [self._descriptor(b"layer of " + what.encode(), LAYER)],
        }
        self.odd[what] = stage_id_of(what)
        self._push(self.odd[what], document, OCI_MANIFEST)

    def push_build_cache(self, tag: str) -> None:
        """What `docker buildx build --cache-to type=registry` pushes (moby/buildkit #2251)."""
        members = [self._descriptor(b"cached layer", LAYER), self._descriptor(b"{}", CACHE_CONFIG)]
        self._push(tag, {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": members}, OCI_INDEX)

    def damage(self, tag: str, *, cut_at: int) -> None:
        """Push a stage, and cut the file of its manifest, as a crash of the registry's machine does."""
        pushed = self.maker.push_image(PATH, tag, layers=[tag.encode()])
        name = pushed.digest.partition(":")[2]
        file = self.server.root / "docker/registry/v2/blobs/sha256" / name[:2] / name / "data"
        file.write_bytes(pushed.manifest[:cut_at])

    def _descriptor(self, content: bytes, media_type: str) -> dict[str, object]:
        return {
            "mediaType": media_type,
            "size": len(content),
            "digest": self.maker.push_blob(PATH, content),
        }

    def _push(self, tag: str, document: dict[str, object], media_type: str) -> None:
        self.maker.push_manifest(PATH, tag, json.dumps(document).encode(), media_type)


@pytest.fixture
def repository(registry):
    with ImageMaker(registry) as maker:
        made = Repository(registry, maker)
        for seed in ("one", "two"):
            made.push_sound(seed)
        surrogate = json.dumps({"config": {"Labels": {"a": "\ud800", "\udfff": "b"}, "Env": ["A=\ud800"]}})
        made.push_config("half a surrogate pair", surrogate.encode(), media_type=LAYER)
        made.push_config("nested brackets", b'{"config": ' + b"[" * 100_000)
        made.push_config("text", b"hello")
        made.push_config("nine MiB", bytes(9 << 20))
        made.odd["build cache"] = stage_id_of("cache", None)
        made.push_build_cache(made.odd["build cache"])
        made.push_build_cache("buildcache")
        made.damaged = [stage_id_of("empty manifest"), stage_id_of("cut manifest")]
        made.damage(made.damaged[0], cut_at=0)
        made.damage(made.damaged[1], cut_at=100)
        made.damage("latest", cut_at=0)
        yield made


@pytest.fixture
def fleet(environment, redis_server, make_workers):
    variables = {"DOCKER_CONFIG": environment["DOCKER_CONFIG"], **HASTE, **SHORT}
    make_workers(redis_server.url, environment=variables)
    environment |= {"STAGEFLEET_REDIS_URL": redis_server.url, **SHORT}


def assert_only_the_damaged_failed(repository, result):
    """What is damaged is named, one line each, and nothing else is."""
    failed = {outcome["item"] for outcome in result.objects[:-1] if outcome["state"] == "failed"}
    assert (1, set(repository.damaged)) == (result.code, failed), result.err
    for stage_id in repository.damaged:
        assert 1 == result.err.count(f"{stage_id} failed: ")


@pytest.mark.usefixtures("fleet")
def test_what_is_damaged_or_odd_hides_and_blocks_nothing(command, repository, digests_in):
    """R11, W19, x1, W21: list, describe and copy go on, name it, and exit accordingly."""
    for how in ("-l", "--json"):
        listed = command("list", how, repository.name)
        assert 1 == listed.code
        assert len(repository.whole) == len(listed.out.splitlines())
        for stage_id in repository.damaged:
            assert f"{stage_id} is left out: " in listed.err
    shown = {found["stage_id"]: found for found in listed.objects}
    assert repository.whole == set(shown)
    assert {"a": "\ufffd", "\ufffd": "b"} == shown[repository.odd["half a surrogate pair"]]["labels"]
    for what in ("nested brackets", "text", "nine MiB"):
        assert {} == shown[repository.odd[what]]["labels"]
    assert len(b"cached layer{}") == shown[repository.odd["build cache"]]["size"]

    assert_only_the_damaged_failed(repository, command("describe", repository.name, "--json"))
    destination = f"{repository.server.host}/mirror"
    assert_only_the_damaged_failed(repository, command("copy", repository.name, destination, "--json"))
    here = {tag: repository.maker.digest(PATH, tag) for tag in repository.whole}
    assert here == digests_in(repository.server, "mirror")
    assert 0 == command("list", "-l", destination).code
