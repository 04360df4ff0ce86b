"""Projects whose primary storage is a Docker Engine, on two hosts: their records, purges, and commands."""

from __future__ import annotations

import json

import pytest

from stagefleet import Fleet
from stagefleet.cli import run_command
from stagefleet.errors import UsageError
from stagefleet.names import EngineProject, Repository, StageId
from stagefleet.operations.delete import InUsePolicy
from stagefleet.project_addresses import Project
from stagefleet.records.ids import RecordKind
from stagefleet.records.models import ImportMetadata, ManagedImage
from stagefleet.runs.models import ItemState, Outcome, RunState
from stagefleet.settings import EngineSettings
from stagefleet.storages.base import WriteResult
from tests.services import ImageMaker, stage_id_of

APP = "docker-daemon:app"
USED, FREE = (StageId.parse(stage_id_of(seed)) for seed in ("used", "free"))
IMPORTS = [ImportMetadata(letter * 32, str(FREE), "sum") for letter in "ab"]
OTHERS = ["other:latest", f"werf-import-metadata/other:{IMPORTS[0].import_id}"]


class TestRecords:
    def test_import_metadata_is_read_and_deleted_on_the_host_that_has_it(
        self, fleet, redis_server, engines, settings
    ):
        there = settings.model_copy(update={"engine": EngineSettings(url=engines["two"].url, host="two")})
        with Fleet.connect(redis_server.url, settings=there) as neighbour:
            assert WriteResult.WRITTEN == neighbour.records.write(APP, IMPORTS[1])
            assert [WriteResult.WRITTEN, WriteResult.PRESENT] == [
                fleet.records.write(APP, IMPORTS[0]) for _ in range(2)
            ]
            outcomes: list[Outcome] = []

            fleet.records.for_each_get_import_metadata(APP, None, outcomes.append)
            fleet.records.for_each_get_import_metadata(
                APP, [IMPORTS[1].import_id], outcomes.append, host="two"
            )
            fleet.records.for_each_rm_import_metadata(APP, [IMPORTS[1].import_id], host="two")

            assert [("a" * 32, "sum", "one"), ("b" * 32, "sum", "two")] == [
                (outcome.item, (outcome.result or {})["checksum"], outcome.host) for outcome in outcomes
            ]
            assert ([IMPORTS[0].id], []) == (list(fleet.records.ids(APP)), list(neighbour.records.ids(APP)))
        with pytest.raises(UsageError, match="name what is meant"):
            fleet.records.for_each_rm_import_metadata(APP, None, host="two")
        assert 1 == fleet.records.for_each_rm_import_metadata(APP, None).succeeded
        assert None is fleet.records.read(APP, RecordKind.IMPORT_METADATA, IMPORTS[0].import_id)

    def test_others_are_written_nowhere_found_nowhere_and_deleted_nowhere(self, fleet, engines):
        engines["one"].import_image(f"app:{FREE}", labels={"werf": "app"})
        assert WriteResult.IGNORED == fleet.records.write(APP, ManagedImage("web"))
        assert WriteResult.IGNORED == fleet.records.add_custom_tag(APP, "latest", FREE)
        fleet.records.check_custom_tag(APP, "latest", FREE)
        assert [] == list(fleet.records.ids(APP))

        runs = [
            fleet.records.for_each_rm_managed_image(APP, ["web"]),
            fleet.records.for_each_rm_image_metadata(APP, "web", {FREE: ["c0" * 20]}),
            fleet.records.for_each_delete_stage_custom_tag(APP, ["latest"]),
            fleet.records.for_each_delete_rejected_stage(APP, [FREE]),
            fleet.records.for_each_rm_record(APP, "client-id", ["me-5"]),
        ]
        outcomes: list[Outcome] = []
        fleet.records.for_each_get_stage_custom_tag_metadata(APP, ["latest"], outcomes.append)

        assert [(RunState.SUCCEEDED, 1)] * 5 == [(run.state, run.skipped) for run in runs]
        assert [ItemState.SKIPPED] == [outcome.state for outcome in outcomes]
        assert 0 == fleet.records.for_each_rm_managed_image(APP, None).total
        assert [f"app:{FREE}"] == engines["one"].tags()

    def test_those_of_another_project_are_not_written(self, fleet):
        with pytest.raises(UsageError, match="of app alone"):
            fleet.records.write(APP, IMPORTS[0], project="shop")


class TestPurge:
    @pytest.fixture
    def roles(self, registry, push):
        for path in ("app/final", "app/cache"):
            push("free", path=path)
        final, cache = (Repository(registry.host, path) for path in ("app/final", "app/cache"))
        return Project("app", EngineProject("app"), final, (cache,))

    @pytest.fixture
    def engine(self, engines, fleet):
        """The client's engine with two stages, of which one runs, a record, and what is another project's."""
        engine = engines["one"]
        for stage_id in (USED, FREE):
            engine.import_image(f"app:{stage_id}", labels={"werf": "app"}, content=str(stage_id).encode())
        engine.run_container(f"app:{USED}", "job-17")
        engine.import_image("other:latest", labels={"werf": "other"}, content=b"other")
        for project in ("app", "other"):
            fleet.records.write(f"docker-daemon:{project}", IMPORTS[0])
        return engine

    def purge(self, fleet, roles, **options):
        outcomes: list[Outcome] = []
        done = fleet.project(roles).purge(outcomes.append, **options)
        states = {purged.name: purged.run and purged.run.state for purged in done}
        return states, [outcome.error for outcome in outcomes if outcome.error is not None]

    def test_stages_and_import_metadata_go_and_what_a_container_uses_is_told(
        self, fleet, engine, roles, registry
    ):
        states, errors = self.purge(fleet, roles)

        assert {
            "stages": RunState.FAILED,
            "import-metadata": RunState.SUCCEEDED,
            "managed-images": None,
            "image-metadata": None,
            "custom-tags": None,
            "rejected-stages": None,
            "final-stages": RunState.SUCCEEDED,
        } == states
        assert ["ImageInUseError"] == [error.type for error in errors]
        assert "container job-17" in errors[0].message
        assert [f"app:{USED}", *OTHERS] == engine.tags()
        with ImageMaker(registry) as maker:
            assert [] == maker.tags("app/final") == maker.tags("app/cache")

    def test_containers_go_with_their_stages_where_that_was_asked_for(self, fleet, engine, roles):
        states, errors = self.purge(fleet, roles, policy=InUsePolicy(remove_containers=True, force=True))

        assert (RunState.SUCCEEDED, []) == (states["stages"], errors)
        assert (OTHERS, []) == (engine.tags(), engine.client().api.containers(all=True))
        assert 0 == len(fleet.project(EngineProject("app")).plan_purge())


class TestCommands:
    @pytest.fixture
    def command(self, redis_server, engines, tmp_path, monkeypatch, capsys):
        """Runs a command on the first host, in this process."""
        environment = {
            "STAGEFLEET_REDIS_URL": redis_server.url,
            "STAGEFLEET_ENGINE__URL": engines["one"].url,
            "STAGEFLEET_ENGINE__HOST": "one",
            "DOCKER_CONFIG": str(tmp_path),
        }
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(tmp_path)

        def command(*arguments):
            code = run_command([str(argument) for argument in arguments])
            return code, *capsys.readouterr()

        return command

    @pytest.fixture
    def objects(self, command):
        def objects(*arguments):
            code, out, err = command(*arguments, "--json")
            assert 0 == code, err
            return [json.loads(line) for line in out.splitlines()]

        return objects

    def test_records_of_a_project_in_an_engine(self, command, objects, engines, tmp_path):
        (tmp_path / "stagefleet.toml").write_text(f'[projects.shop]\nprimary = "{APP}"\n')
        values = (IMPORTS[0].import_id, FREE, "sum")
        assert "written" == objects("records", "add", APP, "import-metadata", *values)[0]["state"]
        by_project = ("records", "add", "--project", "shop", "import-metadata", *values)
        assert "present" == objects(*by_project)[0]["state"]
        code, out, err = command("records", "add", APP, "managed-image", "web")
        assert (0, "managed-image-web  ignored\n") == (code, out)
        assert "docker-daemon:app keeps import-metadata alone" in err
        listed = objects("records", "list", "--project", "shop")
        assert [("import-metadata", IMPORTS[0].import_id)] == [
            (found["kind"], found["id"]) for found in listed
        ]
        named = ("--project", "shop", "import-metadata", IMPORTS[0].import_id)
        assert "sum" == objects("records", "show", *named)[0]["checksum"]
        assert [("one", "succeeded"), (None, "succeeded")] == [
            (outcome.get("host"), outcome["state"]) for outcome in objects("records", "remove", *named)
        ]
        assert [] == engines["one"].tags()

    def test_stages_are_described_by_the_engine_of_the_host_that_is_named(self, command, objects, engines):
        image_id = engines["two"].import_image(f"app:{FREE}", labels={"werf": "app"})
        (described, _) = objects("describe", APP, FREE, "--host", "two")

        assert ("two", f"app:{FREE}", image_id) == (
            described["host"],
            described["result"]["name"],
            described["result"]["image_id"],
        )
        code, out, err = command("describe", APP, FREE)
        assert (2, "") == (code, out)
        assert f"{APP} does not have {FREE}" in err

    def test_stages_are_published_out_of_the_engine_of_the_host_that_is_named(
        self, command, objects, engines, registry
    ):
        engines["two"].import_image(f"app:{FREE}", labels={"werf": "app"})
        publish = ("publish", "--primary", APP, "--final", f"{registry.host}/app/final", "--host", "two")
        planned, published = objects(*publish, FREE, "--dry-run"), objects(*publish, FREE)

        assert [("two", "planned"), ("two", "succeeded")] == [
            (outcome["host"], outcome["state"]) for outcome in (planned[0], published[0])
        ]
        with ImageMaker(registry) as maker:
            assert [str(FREE)] == maker.tags("app/final")
        code, _, err = command(*publish)
        assert (2, True) == (code, "name what is meant" in err)
        code, _, err = command(*publish, FREE, "--host", "one")
        assert (2, True) == (code, "name one with --host" in err)

    def test_a_purge_weighs_what_a_registry_tells_and_takes_what_was_asked_for(self, objects, engines):
        engines["one"].import_image(f"app:{FREE}", labels={"werf": "app"})
        engines["one"].run_container(f"app:{FREE}", "job-17")
        stages, *_, summary = objects("purge", APP, "--dry-run")
        assert ([str(FREE)], None, 1) == (stages["items"], stages["size"], summary["total"])
        *_, summary = objects("purge", APP, "--yes", "--skip-used")
        assert (0, 1) == (summary["succeeded"], summary["skipped"])
        *_, summary = objects("purge", APP, "--yes", "--remove-containers", "--force")
        assert (1, []) == (summary["succeeded"], engines["one"].tags())
