"""Settings are read in one place, from three, and what is wrong is named."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from stagefleet.errors import SettingsError
from stagefleet.settings import LockSettings, RegistrySettings, RunSettings, Settings, load_settings

Writer = Callable[[str], Path]


@pytest.fixture(autouse=True)
def bare_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the machine's own settings gets in."""
    for variable in list(os.environ):
        if variable.upper().startswith("STAGEFLEET_"):
            monkeypatch.delenv(variable)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def write(tmp_path: Path) -> Writer:
    """Writes the settings file of the current directory."""

    def write_file(text: str) -> Path:
        path = tmp_path / "stagefleet.toml"
        path.write_text(text)
        return path

    return write_file


class TestSources:
    def test_without_any_the_defaults_stand(self):
        settings = load_settings()

        assert None is settings.redis_url
        assert "stagefleet:" == settings.key_prefix
        assert RunSettings() == settings.runs

    def test_the_file_stands_over_the_defaults(self, write: Writer):
        write("[runs]\nparallel = 3\n")

        assert 3 == load_settings().runs.parallel
        assert RunSettings().lease_seconds == load_settings().runs.lease_seconds

    def test_the_environment_stands_over_the_file(self, write: Writer, monkeypatch: pytest.MonkeyPatch):
        write('redis_url = "redis://file:1"\n[runs]\nparallel = 3\nmax_attempts = 4\n')
        monkeypatch.setenv("STAGEFLEET_REDIS_URL", "redis://environment:1")
        monkeypatch.setenv("STAGEFLEET_RUNS__PARALLEL", "5")
        settings = load_settings()

        assert "redis://environment:1" == settings.redis_url
        assert (5, 4) == (settings.runs.parallel, settings.runs.max_attempts)

    def test_a_commands_option_stands_over_all(self, write: Writer, monkeypatch: pytest.MonkeyPatch):
        write('redis_url = "redis://file:1"\n')
        monkeypatch.setenv("STAGEFLEET_REDIS_URL", "redis://environment:1")

        assert "redis://option:1" == load_settings(redis_url="redis://option:1").redis_url

    def test_the_file_can_be_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        path = tmp_path / "elsewhere.toml"
        path.write_text("[worker]\nconcurrency = 2\n")
        monkeypatch.setenv("STAGEFLEET_CONFIG", str(path))

        assert 2 == load_settings().worker.concurrency

    def test_the_environment_is_read_when_asked_not_at_import(self, monkeypatch: pytest.MonkeyPatch):
        assert None is load_settings().redis_url
        monkeypatch.setenv("STAGEFLEET_REDIS_URL", "redis://later:1")
        assert "redis://later:1" == load_settings().redis_url


class TestRegistries:
    def test_each_host_has_its_own(self, write: Writer):
        write('[registries."registry.example:5000"]\nplain_http = true\n')
        settings = load_settings()

        assert settings.registry("registry.example:5000").plain_http
        assert RegistrySettings() == settings.registry("another.example")


class TestMistakes:
    @pytest.mark.parametrize(
        ("text", "key"),
        [
            ("colour = 1\n", "colour"),
            ("[runs]\nparalel = 3\n", "runs.paralel"),
            ("[runs]\nparallel = 0\n", "runs.parallel"),
            ("[runs]\nparallel = -1\n", "runs.parallel"),
            ('[runs]\nparallel = "many"\n', "runs.parallel"),
            ("[runs]\nlease_seconds = 0\n", "runs.lease_seconds"),
            ("[http]\nretries = 21\n", "http.retries"),
            ("[worker]\nconcurrency = 0\n", "worker.concurrency"),
            ('[log]\nlevel = "loud"\n', "log.level"),
            ('[log]\nlevel = "info\\n"\n', "log.level"),
            ('key_prefix = "a b"\n', "key_prefix"),
            ('[registries."r.example"]\nplain = true\n', "registries.r.example.plain"),
            ("runs = 3\n", "runs"),
        ],
    )
    def test_one_in_the_file_names_file_and_key(self, write: Writer, text: str, key: str):
        path = write(text)

        with pytest.raises(SettingsError) as refused:
            load_settings()
        assert path.name in str(refused.value)
        assert f"key {key}" in str(refused.value)
        assert 2 == refused.value.exit_code

    def test_one_is_told_in_words_of_settings_not_of_pydantic(self, write: Writer):
        for text, words in (
            ("colour = 1\n", "there is no such setting"),
            ('[projects.app]\nprimary = "Nope"\n', "): 'Nope' names no registry"),
            (
                '[engine]\nurl = "/run/docker.sock"\n',
                "engine.url): write unix:///PATH, tcp://HOST:PORT or ssh://USER@HOST",
            ),
            ('[log]\nlevel = "loud"\n', "write 'debug', 'info', 'warning' or 'error'"),
            ("[projects.app]\n", "projects.app.primary): it is missing: write it"),
            ('[projects.app]\nprimary = "h.test/a"\ncaches = "h.test/b"\n', 'write a list, as ["A", "B"]'),
            ('[projects.App]\nprimary = "h.test/a"\n', "write a project's name in small letters"),
            ("runs = 3\n", "runs): write a table"),
            ('[runs]\nparallel = "many"\n', "write a whole number"),
            ("[runs]\nlease_seconds = 0\n", "write a number above 0"),
            ("[runs]\nlease_seconds = []\n", "write a number"),
            ("[runs]\nmax_attempts = 0\n", "write 1 or more"),
            ("[runs]\nmax_attempts = 101\n", "write 100 or less"),
            ('[http]\ninsecure = "perhaps"\n', "write true or false"),
            ('[worker]\nname = "a b"\n', "write letters, digits and _ . -"),
            ('[engine]\nplatform = "ARM"\n', "write a platform, as linux/arm64"),
            ("key_prefix = 1\n", "write a text, in quotes"),
            ('[registries."h.test"]\nca_file = 1\n', "write the path of a file"),
        ):
            write(text)
            with pytest.raises(SettingsError) as refused:
                load_settings()
            assert words in str(refused.value)
            assert "Input" not in str(refused.value)

    @pytest.mark.parametrize(
        ("variable", "value"),
        [
            ("STAGEFLEET_RUNS__PARALLEL", "0"),
            ("STAGEFLEET_LOG__LEVEL", "loud"),
            ("STAGEFLEET_KEY_PREFIX", "a b"),
            ("STAGEFLEET_RUNS__PARALEL", "3"),
            ("STAGEFLEET_RUNS", '{"parallel": 0}'),
            ("stagefleet_log__level", "loud"),
        ],
    )
    def test_one_in_the_environment_names_the_variable(
        self, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
    ):
        monkeypatch.setenv(variable, value)

        with pytest.raises(SettingsError, match=variable):
            load_settings()

    @pytest.mark.parametrize(
        ("text", "variables", "places"),
        [
            ("", {"FLOWER__USER": "me"}, "environment, STAGEFLEET_FLOWER__USER, key flower"),
            ("", {"FLOWER": '{"user": "me"}'}, "environment, STAGEFLEET_FLOWER"),
            (
                '[flower]\nviewer_user = "see"\n',
                {"FLOWER__USER": "me"},
                "environment, STAGEFLEET_FLOWER__USER and stagefleet.toml, key flower",
            ),
            (
                "[runs]\nlease_seconds = 5.0\n",
                {"RUNS__RENEWAL_SECONDS": "10"},
                "environment, STAGEFLEET_RUNS__RENEWAL_SECONDS and stagefleet.toml, key runs",
            ),
            (
                "",
                {"PROJECTS__APP__FINAL": "a.test/app"},
                "environment, STAGEFLEET_PROJECTS__APP__FINAL, key projects.app.primary",
            ),
            ("", {"PROJECTS": '{"app": {}}'}, "environment, STAGEFLEET_PROJECTS, key projects.app.primary"),
            ("", {"PROJECTS__APP__PRIMARY": "Nope"}, "environment, STAGEFLEET_PROJECTS__APP__PRIMARY"),
            (
                "",
                {"PROJECTS__APP__PRIMARY": "a.test/a", "PROJECTS__APP__CACHES": '["a.test/b", 1]'},
                "environment, STAGEFLEET_PROJECTS__APP__CACHES, key projects.app.caches.1",
            ),
            (
                "[runs]\nparallel = 0\n",
                {"RUNS": '{"max_attempts": 3}'},
                "stagefleet.toml, key runs.parallel",
            ),
            ("[runs]\nparallel = 0\n", {"RUNS__PARALLEL": ""}, "stagefleet.toml, key runs.parallel"),
            ("[runs]\nparallel = 1\n", {"RUNS__PARALLEL": "0"}, "environment, STAGEFLEET_RUNS__PARALLEL"),
            ("[projects.app]\nprimary = 5\n", {}, "stagefleet.toml, key projects.app.primary"),
        ],
    )
    def test_the_places_are_those_in_which_the_value_stands(
        self,
        write: Writer,
        monkeypatch: pytest.MonkeyPatch,
        text: str,
        variables: dict[str, str],
        places: str,
    ):
        if text:
            write(text)
        for name, value in variables.items():
            monkeypatch.setenv(f"STAGEFLEET_{name}", value)

        with pytest.raises(SettingsError) as refused:
            load_settings()
        assert str(refused.value).startswith(f"settings ({places}): ")

    def test_one_of_an_option_names_the_command_line(self):
        with pytest.raises(
            SettingsError, match=r"^settings \(command line, key runs\.parallel\): write 1 or"
        ):
            load_settings(runs={"parallel": 0})

    def test_a_value_that_is_no_json_where_one_is_needed(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("STAGEFLEET_REGISTRIES", "{")

        with pytest.raises(SettingsError, match=r'environment.*write a list as \["A", "B"\]'):
            load_settings()

    def test_a_file_that_is_no_toml_is_named(self, write: Writer):
        path = write("[runs\n")

        with pytest.raises(SettingsError, match=path.name):
            load_settings()

    def test_a_file_that_is_no_text_is_named(self, write: Writer):
        path = write("")
        path.write_bytes(b"\xff\xfe")

        with pytest.raises(SettingsError, match=path.name):
            load_settings()

    def test_a_named_file_that_is_not_there_is_named(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
        monkeypatch.setenv("STAGEFLEET_CONFIG", str(tmp_path / "absent.toml"))

        with pytest.raises(SettingsError, match=r"absent\.toml"):
            load_settings()

    @pytest.mark.parametrize("place", ["file", "environment"])
    def test_no_message_holds_the_value(self, write: Writer, monkeypatch: pytest.MonkeyPatch, place: str):
        if place == "file":
            write('redis_url = ["redis://:hunter2@redis:1"]\n')
        else:
            monkeypatch.setenv("STAGEFLEET_RUNS", '{"parallel": "hunter2"}')

        with pytest.raises(SettingsError) as refused:
            load_settings()
        assert "hunter2" not in str(refused.value)
        assert None is refused.value.__cause__

    def test_every_message_is_one_line(self, write: Writer):
        write('[runs]\n"a\\nb" = 1\n')

        with pytest.raises(SettingsError) as refused:
            load_settings()
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "key", ["https://127.0.0.1:5104", "127.0.0.1:5104/app", "127.0.0.1:99999", "", "a b"]
)
def test_a_key_that_is_no_registrys_host_is_refused(write: Writer, key: str):
    write(f'[registries."{key}"]\nplain_http = false\n')
    with pytest.raises(SettingsError) as caught:
        load_settings()
    expected = (
        f"settings (stagefleet.toml, key registries.{key}): write HOST or HOST:PORT as in repository names"
    )
    assert str(caught.value).startswith(expected)


@pytest.mark.parametrize("key", ["127.0.0.1:5104", "[::1]:5000", "registry.example", "minio", "docker.io"])
def test_a_registrys_host_is_a_key(write: Writer, key: str):
    write(f'[registries."{key}"]\nplain_http = true\n')
    assert load_settings().registry(key).plain_http


def test_a_host_without_quotes_is_refused_with_the_spelling(write: Writer):
    write("[registries.127.0.0.1]\nplain_http = true\n")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert '[registries."HOST"]' in str(caught.value)


@pytest.mark.parametrize("line", ["[registries.127.0.0.1:5000]", "registries.localhost:5000.insecure = true"])
def test_a_host_with_a_port_and_without_quotes_is_told_to_be_quoted(write: Writer, line: str):
    write(f"{line}\n")
    with pytest.raises(SettingsError, match=r'a host has to be quoted: \[registries."HOST:PORT"\]'):
        load_settings()


def test_settings_are_immutable():
    settings = Settings()
    with pytest.raises(ValidationError):
        settings.redis_url = "redis://elsewhere"
    with pytest.raises(ValidationError):
        settings.runs.parallel = 3


@pytest.mark.parametrize("section", [RunSettings, LockSettings])
class TestLeaseAndRenewal:
    def test_a_lease_shorter_than_two_renewals_is_refused(self, section: type[RunSettings | LockSettings]):
        """R35: a lease that ends before its second renewal is lost by one late answer."""
        with pytest.raises(ValidationError, match="lease_seconds has to be twice renewal_seconds or more"):
            section(lease_seconds=5, renewal_seconds=3)

    def test_who_changes_the_lease_alone_changes_the_renewal(self, section: type[RunSettings | LockSettings]):
        """R35: a lease of 5 s is not renewed every 10 s because nobody thought of the other setting."""
        settings = section(lease_seconds=5)
        assert 1.4 < settings.renewal_seconds < 1.7


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("true", "always"),
        ("false", "never"),
        ('"auto"', "auto"),
        ('"always"', "always"),
        ('"True"', "always"),
    ],
)
def test_early_starts_are_read_as_words_and_as_booleans(write: Writer, written: str, read: str):
    write(f"[runs]\nstart_early = {written}\n")
    assert read == load_settings().runs.start_early


def test_a_lease_in_the_file_is_checked_against_its_renewal(write: Writer):
    """R35: the refusal names the file and both settings."""
    write("[runs]\nlease_seconds = 5.0\nrenewal_seconds = 10.0\n")
    with pytest.raises(SettingsError, match="lease_seconds has to be twice renewal_seconds"):
        load_settings()


def test_a_write_takes_less_time_than_a_lease_lasts():
    settings = Settings()

    assert settings.http.write_timeout_seconds < settings.runs.lease_seconds
    assert 2 * settings.runs.renewal_seconds < settings.runs.lease_seconds


def test_a_part_in_the_environment_overrides_the_whole_given_as_json(monkeypatch):
    monkeypatch.setenv("STAGEFLEET_RUNS", '{"parallel": 3, "max_attempts": 2}')
    monkeypatch.setenv("stagefleet_runs__parallel", "7")
    runs = load_settings().runs
    assert (7, 2) == (runs.parallel, runs.max_attempts)


@pytest.mark.parametrize(
    "name", ["STAGEFLEET_PROJECTS", "STAGEFLEET_RUNS", "STAGEFLEET_PROJECTS__APP__CACHES"]
)
def test_a_table_or_list_that_is_no_json_is_refused_without_its_value(monkeypatch, name):
    monkeypatch.setenv(name, "planted-secret {")
    with pytest.raises(SettingsError) as refused:
        load_settings()
    assert name in str(refused.value)
    assert "planted" not in str(refused.value)
