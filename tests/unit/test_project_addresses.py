"""The roles of a project's storages, from the settings and over the wire."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stagefleet.errors import SettingsError, UsageError
from stagefleet.names import EngineProject, Repository
from stagefleet.operations.describe import DescribeOperation
from stagefleet.project_addresses import Project
from stagefleet.settings import Settings, load_settings

FILE = """
[projects.app]
primary = "r.example.com/app"
final = "r.example.com/final"
caches = ["near.example.com/app", "far.example.com/app"]
secondaries = ["r.example.com/old"]
parallel = 3

[projects.local]
primary = "docker-daemon:local"
"""


@pytest.fixture
def settings_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Reads settings from a file with this text."""
    path = tmp_path / "stagefleet.toml"
    monkeypatch.setenv("STAGEFLEET_CONFIG", str(path))

    def read(text: str) -> Settings:
        path.write_text(text)
        return load_settings()

    return read


class TestFromSettings:
    def test_each_storage_has_its_role(self, settings_of):
        project = Project.of("app", settings_of(FILE).project("app"))

        assert Repository("r.example.com", "app") == project.primary
        assert Repository("r.example.com", "final") == project.final == project.deployed
        assert ("near.example.com/app", "far.example.com/app") == tuple(map(str, project.caches))
        assert ("r.example.com/old",) == tuple(map(str, project.secondaries))

    def test_a_docker_engine_may_be_the_primary_and_is_deployed_from_without_a_final(self, settings_of):
        project = Project.of("local", settings_of(FILE).project("local"))

        assert EngineProject("local") == project.primary == project.deployed

    def test_they_survive_as_json_as_the_embedded_worker_gets_them(self, settings_of, monkeypatch):
        settings = settings_of(FILE)
        document = json.dumps(settings.model_dump(mode="json")["projects"])
        settings_of("")
        monkeypatch.setenv("STAGEFLEET_PROJECTS", document)

        assert settings.projects == load_settings().projects

    @pytest.mark.parametrize(
        ("text", "key", "words"),
        [
            ('[projects.app]\nprimary = "app"\n', "projects.app.primary", "names no registry"),
            ('[projects.app]\nfinal = "r.example.com/a"\n', "projects.app.primary", "missing"),
            (
                '[projects.app]\nprimary = "r.io/a"\ncaches = ["r.io/b", "r.io/C"]\n',
                "projects.app.caches.1",
                "no repository",
            ),
            (
                '[projects.app]\nprimary = "r.io/a"\nfinal = "docker-daemon:a"\n',
                "projects.app.final",
                "docker-daemon",
            ),
            (
                '[projects.app]\nprimary = "r.io/a"\ncaches = ["r.io/a"]\n',
                "projects.app",
                "r.io/a is named twice",
            ),
            ('[projects.App]\nprimary = "r.io/a"\n', "projects.App", "small letters"),
        ],
    )
    def test_what_is_wrong_names_file_and_key(self, settings_of, text: str, key: str, words: str):
        with pytest.raises(SettingsError) as caught:
            settings_of(text)

        assert f"stagefleet.toml, key {key}" in str(caught.value)
        assert words in str(caught.value)

    def test_an_unknown_project_is_told_with_those_that_there_are(self, settings_of):
        with pytest.raises(SettingsError, match=r"no project 'nobody' .*there: app, local"):
            settings_of(FILE).project("nobody")


class TestOverTheWire:
    def test_options_give_back_what_they_were_made_of(self):
        project = Project(
            "app",
            Repository("r.example.com", "app"),
            Repository("r.example.com", "final"),
            (Repository("c.example.com", "app"),),
            (Repository("s.example.com", "app"),),
        )

        assert project == DescribeOperation.of(project).storages

    def test_what_is_not_there_stays_away(self):
        project = Project("app", EngineProject("app"))

        options = {"project": "app", "primary": "docker-daemon:app"}
        assert project == DescribeOperation.model_validate(options).storages
        assert project == DescribeOperation.of(project).storages


@pytest.mark.parametrize(
    ("final", "caches"),
    [("r.test/app", ()), ("r.test/final", ("r.test/app",)), (None, ("c.test/a", "c.test/a"))],
)
def test_a_storage_that_is_named_in_two_roles_is_refused(final, caches):
    """A publication from a storage into itself would succeed for ever, and do nothing."""
    with pytest.raises(UsageError, match="two roles"):
        Project.alone(
            Repository.parse("r.test/app"),
            None if final is None else Repository.parse(final),
            tuple(map(Repository.parse, caches)),
        )
