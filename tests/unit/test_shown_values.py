"""What settings, run specs and requests show of themselves: no secret in a repr, a dump or an error."""

import base64
import importlib
import pkgutil
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel, SecretStr, ValidationError

import stagefleet
import tasks
import workers
from stagefleet.errors import StagefleetError
from stagefleet.fleet.callbacks import RemoteCallback, callback_fields
from stagefleet.runs.models import RunSpec
from stagefleet.setting_types import FlowerSettings, WebhookSettings
from stagefleet.settings import EngineSettings, Settings, load_settings

PLANTED = "planted-secret"
WHSEC = "whsec_" + base64.b64encode(b"planted-secret, thirty-two bytes").decode()


def our_models() -> Iterator[type[BaseModel]]:
    for package in (stagefleet, tasks, workers):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            for value in vars(importlib.import_module(module.name)).values():
                if (
                    isinstance(value, type)
                    and issubclass(value, BaseModel)
                    and value.__module__ == module.name
                ):
                    yield value


def test_no_model_of_ours_quotes_what_it_refuses():
    """R16: pydantic quotes the input in its errors, which may be a password in the wrong place."""
    models = list(our_models())
    assert len(models) > 20
    assert [] == [model for model in models if not model.model_config.get("hide_input_in_errors")]


@pytest.fixture
def settings() -> Settings:
    return Settings(
        redis_url=f"redis://me:{PLANTED}@redis.test/0?password={PLANTED}",
        engine=EngineSettings(url=f"tcp://me:{PLANTED}@engine.test:2376"),
        flower=FlowerSettings(user="me", password=SecretStr(PLANTED), options={"cookie_secret": PLANTED}),
        webhooks=WebhookSettings(secret=SecretStr(WHSEC)),
    )


def test_settings_show_no_secret(settings):
    """R16: neither their repr nor a dump of them."""
    shown = f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"
    shown += repr([part for _, part in settings if isinstance(part, BaseModel)])
    assert PLANTED not in shown
    assert WHSEC not in shown
    assert "redis://redis.test/0" in shown


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("STAGEFLEET_WEBHOOKS__SECRET", PLANTED),
        ("STAGEFLEET_WEBHOOKS", f"whsec_{PLANTED}"),
        ("STAGEFLEET_WEBHOOKS", f'{{"secret": "{PLANTED}"}}'),
        ("STAGEFLEET_WEBHOOKS", f'{{"secret": "{PLANTED}"'),
        ("STAGEFLEET_FLOWER__USER", f"me:{PLANTED}"),
        ("STAGEFLEET_FLOWER__PORT", PLANTED),
        ("STAGEFLEET_FLOWER__PASSWORD", PLANTED),
        ("STAGEFLEET_ENGINE__URL", f"me:{PLANTED}@engine.test"),
        ("STAGEFLEET_RUNS__PARALLEL", f"redis://:{PLANTED}@redis.test/0"),
        ("STAGEFLEET_KEY_PREFIX", f"redis://:{PLANTED}@redis.test/0"),
        ("STAGEFLEET_PROJECTS__APP__PRIMARY", f"me:{PLANTED}@registry.test/app"),
        ("STAGEFLEET_PROJECTS__APP__PRIMARY", f"https://me:{PLANTED}@registry.test/app"),
        ("STAGEFLEET_PROJECTS__APP__FINAL", f"registry.test/app?token={PLANTED}"),
        ("STAGEFLEET_REGISTRIES", f'{{"me:{PLANTED}@registry.test": {{"sauce": 1}}}}'),
    ],
)
def test_a_mistake_in_the_settings_is_told_without_the_value(monkeypatch, tmp_path, variable, value):
    """R16: what is wrong may be right in another place, and secret there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(variable, value)
    with pytest.raises(StagefleetError) as refused:
        load_settings()
    assert PLANTED not in f"{refused.value!r}"


@pytest.mark.parametrize("document", ['webhooks = "planted-secret', "[webhooks]\nsecret = planted-secret\n"])
def test_a_settings_file_that_cannot_be_read_is_not_quoted(monkeypatch, tmp_path, document):
    """R16: the file holds secrets."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stagefleet.toml").write_text(document)
    with pytest.raises(StagefleetError) as refused:
        load_settings()
    assert PLANTED not in f"{refused.value!r}"


def test_what_the_settings_hold_as_secret_is_masked_everywhere_from_then_on(monkeypatch, tmp_path):
    """R16: the last net knows every secret of the settings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STAGEFLEET_WEBHOOKS__SECRET", WHSEC)
    monkeypatch.setenv("STAGEFLEET_FLOWER__USER", "me")
    monkeypatch.setenv("STAGEFLEET_FLOWER__PASSWORD", PLANTED)
    load_settings()
    error = StagefleetError(f"{WHSEC} {WHSEC.removeprefix('whsec_')} {PLANTED}")
    assert "*** *** ***" == str(error)


def test_whom_a_run_calls_is_not_shown():
    """R16: path and query of a webhook may be its secret."""
    url = f"https://hooks.test/services/{PLANTED}?token={PLANTED}"
    callback = RemoteCallback(outcome_url=url, finish_url=url)
    fields: dict[str, Any] = callback_fields(callback)
    spec = RunSpec(operation="copy_stage", **fields)
    assert PLANTED not in f"{callback!r} {spec!r} {spec}"
    assert url == spec.callback_target == spec.finish_url


def test_a_url_in_the_place_of_a_task_is_not_quoted():
    """R16: the one is easily taken for the other."""
    with pytest.raises(StagefleetError, match="names no Celery task") as refused:
        RemoteCallback(outcome_task=f"https://hooks.test/x?token={PLANTED}")
    assert PLANTED not in str(refused.value)


def test_pydantic_still_quotes_unless_it_is_told_not_to():
    """R16: shows that the models above need what they say."""

    class Open(BaseModel):
        number: int

    with pytest.raises(ValidationError, match=PLANTED):
        Open.model_validate({"number": PLANTED})
