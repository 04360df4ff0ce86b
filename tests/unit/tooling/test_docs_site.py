"""The documentation's site has what it says: the public API, each error, and the files that pages name."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

import pytest
import yaml

import stagefleet
from scripts import docs_site
from stagefleet import errors
from stagefleet.fleet.hosts import FleetHosts
from stagefleet.fleet.project import FleetProject
from stagefleet.fleet.records import FleetRecords
from stagefleet.testing import InMemoryFleet

ROOT = Path(__file__).parents[3]
ALIASES = frozenset(
    [
        "Address",
        "Items",
        "OnGroup",
        "OnLeftOut",
        "OnOutcome",
        "OutcomeCallback",
        "Source",
        "StorageAddress",
        "TagRule",
    ]
)
"""Names that stand for other types."""
OF_PYTHON = frozenset(
    ["Any", "Callable", "Exception", "Iterable", "Iterator", "Mapping", "None", "Self", "Sequence", "Unpack"]
)
PUBLIC = docs_site.public_names()
ERRORS = {name for name, _ in inspect.getmembers(errors, inspect.isclass) if name.endswith("Error")}
PAGES = ["ARCHITECTURE.md", *(str(page.relative_to(ROOT)) for page in sorted((ROOT / "docs/adr").iterdir()))]


def annotated_names(kind):
    for name, found in inspect.getmembers(kind):
        member = found
        if name.startswith("_"):
            continue
        for part in ("fget", "func", "__func__"):  # of properties, cached properties and class methods
            member = getattr(member, part, member)
        for annotation in getattr(member, "__annotations__", {}).values():
            yield from re.findall(r"\b[A-Z]\w+", str(annotation))


@pytest.mark.parametrize("name", PUBLIC)
def test_each_name_of_the_reference_is_there(name):
    module, _, member = name.rpartition(".")
    assert importlib.import_module(module).__dict__[member].__module__ == module


def test_the_reference_has_all_that_is_exported():
    named = {name.rpartition(".")[2] for name in PUBLIC}
    assert set() == {name for name in stagefleet.__all__ if not name.startswith("__")} - named


@pytest.mark.parametrize("kind", [stagefleet.Fleet, FleetProject, FleetRecords, FleetHosts, InMemoryFleet])
def test_what_public_methods_take_and_return_is_public(kind):
    known = {name.rpartition(".")[2] for name in PUBLIC}
    assert set() == set(annotated_names(kind)) - known - ALIASES - OF_PYTHON


@pytest.mark.parametrize("name", sorted(ERRORS))
def test_each_error_that_a_person_meets_has_its_row(name):
    assert f"`{name}`" in (ROOT / "docs/troubleshooting.md").read_text()


def test_troubleshooting_names_no_error_that_there_is_not():
    named = set(re.findall(r"`(\w+Error)`", (ROOT / "docs/troubleshooting.md").read_text()))
    assert set() == named - ERRORS


@pytest.mark.parametrize("page", PAGES)
def test_the_files_that_a_page_names_are_there(page):
    text = (ROOT / page).read_text()
    paths = re.findall(r"`(\w+/[\w/]+\.(?:py|lua))`", text)
    assert [] == [
        path for path in paths if not (ROOT / path).exists() and not (ROOT / "stagefleet" / path).exists()
    ]


def test_the_stops_of_an_item_are_in_the_files_that_architecture_names():
    rows = re.findall(
        r"^\| [^|]+ \| (.+`[\w/]+\.py`.*) \|$", (ROOT / "ARCHITECTURE.md").read_text(), re.MULTILINE
    )
    assert len(rows) > 6
    for names, path in re.findall(r"((?:`\w+(?:\.\w+)?`,? ?)+)in `([\w/]+\.py)`", "\n".join(rows)):
        file = next(place for place in (ROOT / path, ROOT / "stagefleet" / path) if place.exists())
        for name in re.findall(r"`(\w+)(?:\.(\w+))?`", names):
            missing = [
                word for word in name if word and not re.search(rf"(?:class|def) {word}\b", file.read_text())
            ]
            assert [] == missing, path


def test_scripts_are_called_in_the_modules_that_architecture_names():
    (told,) = re.findall(r"It is made in (.+?);", (ROOT / "ARCHITECTURE.md").read_text(), re.DOTALL)
    folder, named = "", set()
    for path in re.findall(r"`([\w/]+\.py)`", told):
        folder = path.rpartition("/")[0] or folder
        named.add(f"{folder}/{path.rpartition('/')[2]}")
    package = ROOT / "stagefleet"
    made = {file for file in package.rglob("*.py") if "RedisScripts(" in file.read_text()}
    assert named == {str(file.relative_to(package)) for file in made}


def test_each_page_has_its_place_in_the_navigation():
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    placed = re.findall(r"[\w/-]+\.md", str(config["nav"]))
    pages = (
        {page.name for page in (ROOT / "docs").glob("*.md")}
        | set(docs_site.ROOT_PAGES.values())
        | {"decisions.md"}
    )
    assert pages == {page for page in placed if "/" not in page}
    assert {path for path, _ in docs_site.api_pages()} == {page for page in placed if page.startswith("api/")}


@pytest.mark.parametrize(
    ("markdown", "source", "path", "led"),
    [
        ("[how](docs/deletion.md#x)", "README.md", "index.md", "[how](deletion.md#x)"),
        ("[a](../ARCHITECTURE.md)", "docs/tutorial.md", "tutorial.md", "[a](architecture.md)"),
        ("[a](docs/adr/)", "ARCHITECTURE.md", "architecture.md", "[a](decisions.md)"),
        ("[p](../private-interfaces.md)", "docs/adr/1.md", "adr/1.md", "[p](../private-interfaces.md)"),
        ("the [Apache License](LICENSE)", "README.md", "index.md", "the Apache License"),
        (
            "[k](https://keepachangelog.com)",
            "CHANGELOG.md",
            "changelog.md",
            "[k](https://keepachangelog.com)",
        ),
    ],
)
def test_links_lead_to_pages_of_the_site(markdown, source, path, led):
    assert led == docs_site.relinked(markdown, source, path)
