"""`stagefleet config`: the settings in effect, and their sources."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from stagefleet.cli import options as opt
from stagefleet.cli.app import make_group
from stagefleet.cli.output import print_json, print_line
from stagefleet.cli.session import read_settings
from stagefleet.redaction import masked_url
from stagefleet.settings import Settings
from stagefleet.settings_sources import read_file, setting_paths, settings_file, source_of, value_at

app = make_group("See the settings in force.")


@app.callback()
def _config() -> None:
    pass


@app.command("show")
def show_settings(*, json: opt.Json = False) -> None:
    """Show each setting, its value, and where that comes from; secrets are masked."""
    for setting, value, source in _rows(read_settings()):
        if json:
            print_json({"setting": setting, "value": value, "source": source})
        else:
            for part, shown in _parts(setting, value):
                print_line(f"{part:<36} {_plain(shown):<28} {source}")


def _rows(settings: Settings) -> Iterator[tuple[str, Any, str]]:
    """List the settings by name; a table whose keys the user chooses is listed value by value."""
    values = settings.model_dump(mode="json")
    if settings.redis_url is not None:
        values["redis_url"] = masked_url(settings.redis_url)
    file = settings_file()
    overrides, document = opt.chosen_options().overrides, read_file(file)
    for path in setting_paths(Settings):
        source = source_of(path, overrides, document, file)
        yield ".".join(path), value_at(values, path), source


def _parts(setting: str, value: Any) -> Iterator[tuple[str, Any]]:
    """List the values in a table of sections, such as `registries`; return any other setting as it is."""
    if not (isinstance(value, dict) and value and all(isinstance(part, dict) for part in value.values())):
        yield setting, value
        return
    for key, section in value.items():
        prefix = f'{setting}."{key}"'
        said = {name: part for name, part in section.items() if part not in (None, [])}
        yield from ((f"{prefix}.{name}", part) for name, part in said.items())
        if not said:
            yield prefix, None


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(value) or "-"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    return "-" if value in {None, ""} else str(value)
