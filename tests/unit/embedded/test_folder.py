"""The private folder of an embedded fleet, and the settings in it."""

import base64
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, SecretBytes, SecretStr

from stagefleet.embedded import make_folder, write_settings
from stagefleet.errors import SettingsError
from stagefleet.setting_types import FlowerSettings, WebhookSettings
from stagefleet.settings import ProjectSettings, RegistrySettings, Settings, load_settings

SECRETS: dict[str, str] = {
    "flower.password": "planted-flower-password",
    "flower.viewer_password": "planted-viewer-password",
    "webhooks.secret": "whsec_" + base64.b64encode(b"planted webhook secret, 32 bytes").decode(),
}
"""A value for each secret setting: a new one has to be added, or the tests below fail."""


def secret_fields(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """The names of all settings that are secret, wherever they stand."""
    for name, field in model.model_fields.items():
        inside = [field.annotation, *getattr(field.annotation, "__args__", ())]
        if any(kind in {SecretStr, SecretBytes} for kind in inside):
            yield prefix + name
        for kind in inside:
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from secret_fields(kind, f"{prefix}{name}.")


def secret(name: str) -> SecretStr:
    return SecretStr(SECRETS[name])


@pytest.fixture
def settings() -> Settings:
    """Settings with every secret set, and with every kind of value."""
    return Settings(
        flower=FlowerSettings(
            user="me",
            password=secret("flower.password"),
            viewer_user="see",
            viewer_password=secret("flower.viewer_password"),
        ),
        webhooks=WebhookSettings(secret=secret("webhooks.secret"), timeout_seconds=3),
        registries={"registry.test:5000": RegistrySettings(plain_http=True, ca_file=Path("/ca é.pem"))},
        projects={"app": ProjectSettings.model_validate({"primary": "a.test/app", "caches": ["b.test/app"]})},
        key_prefix="mine:",
    )


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Iterator[Path]:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder, lock = make_folder(1000)
    yield folder
    os.close(lock)


def read_back(path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name in [name for name in os.environ if name.startswith("STAGEFLEET_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("STAGEFLEET_CONFIG", str(path))
    return load_settings()


def test_every_secret_of_the_settings_reaches_the_worker(settings, folder, monkeypatch):
    """R15: a masked dump would hand a worker stars in place of its secrets, or settings that it refuses."""
    assert set(SECRETS) == {name for name in secret_fields(Settings) if name != "redis_url"}
    path = write_settings(settings, folder, "unix:///run/redis.sock")
    found = read_back(path, monkeypatch)
    assert settings.model_dump(exclude={"redis_url"}) == found.model_dump(exclude={"redis_url"})
    assert SECRETS == {
        "flower.password": found.flower.password.get_secret_value(),
        "flower.viewer_password": found.flower.viewer_password.get_secret_value(),
        "webhooks.secret": found.webhooks.secret.get_secret_value(),
    }


def test_nobody_else_can_read_the_settings(settings, folder):
    """R15: a file of mode 0600 in a folder of mode 0700, whatever the umask."""
    before = os.umask(0)
    try:
        path = write_settings(settings, folder, "unix:///run/redis.sock")
    finally:
        os.umask(before)
    assert (0o600, 0o700) == (stat.S_IMODE(path.stat().st_mode), stat.S_IMODE(folder.stat().st_mode))


def test_what_the_settings_hold_and_json_does_not_know_is_an_error_and_no_stars(folder):
    """R15: a new kind of value cannot be written as something else without anybody noticing."""

    class Odd(Settings):
        value: Any = object()

    with pytest.raises(TypeError, match="object"):
        write_settings(Odd(), folder, "unix:///run/redis.sock")


def test_a_broken_file_is_told_without_its_content(folder, monkeypatch):
    """R15, R16: the file holds secrets."""
    path = folder / "broken.json"
    path.write_text('{"webhooks": {"secret": "planted-secret"')
    with pytest.raises(SettingsError, match="cannot be read") as refused:
        read_back(path, monkeypatch)
    assert "planted-secret" not in str(refused.value)


def test_the_folder_of_a_fleet_that_lives_is_left_alone_and_a_dead_one_s_removed(tmp_path, monkeypatch):
    """R55: what holds a folder's lock is alive, whatever its age."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    living, lock = make_folder(1000)
    dead, gone = make_folder(1000)
    os.close(gone)
    strange = tmp_path / "stagefleet-of-somebody"
    strange.mkdir()
    made, last = make_folder(1000)
    assert {living, strange, made} == set(tmp_path.iterdir())
    assert not dead.exists()
    os.close(lock)
    os.close(last)
