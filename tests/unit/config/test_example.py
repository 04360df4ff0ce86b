"""The example of a settings file says what is true."""

import tomllib
from pathlib import Path

import config
from stagefleet.settings import Settings, load_settings

EXAMPLE = Path(config.__file__).with_name("stagefleet.example.toml")


def test_every_value_of_the_example_is_the_default(monkeypatch):
    monkeypatch.setenv("STAGEFLEET_CONFIG", str(EXAMPLE))
    assert Settings.model_construct().model_dump() == load_settings().model_dump()


def test_the_example_names_every_setting():
    named = tomllib.loads(EXAMPLE.read_text())
    defaults = Settings.model_construct().model_dump()
    del defaults["redis_url"], defaults["registries"], defaults["projects"]
    assert defaults.keys() == named.keys()
    for section, values in defaults.items():
        if isinstance(values, dict):
            assert values.keys() == named[section].keys(), section
