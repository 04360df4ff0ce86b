"""Write the sources of the documentation's site: `docs/`, documents of the root, and the Python API's pages.

The reference follows `__all__` of the public packages; mkdocstrings makes it from the docstrings. `make docs`
runs this and then MkDocs, see mkdocs.yml.
"""

from __future__ import annotations

import ast
import posixpath
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from stagefleet.runs.metrics import METRICS

ROOT = Path(__file__).parents[1]

ROOT_PAGES: Mapping[str, str] = {
    "README.md": "index.md",
    "ARCHITECTURE.md": "architecture.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "config/stagefleet.example.toml": "settings.md",
}
"""The page of each file outside of `docs/`."""

DECISIONS = "docs/adr"
"""The folder of decisions, whose page lists them."""

API_PAGES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "fleet": ("The fleet", ("stagefleet.fleet.",)),
    "operations": ("Operations and plans", ("stagefleet.operations.",)),
    "runs": ("Runs and outcomes", ("stagefleet.runs.", "stagefleet.reports.")),
    "records": ("Records", ("stagefleet.records.",)),
    "errors": ("Errors", ("stagefleet.errors",)),
    "settings": ("Settings", ("stagefleet.settings",)),
    "testing": ("Tests", ("stagefleet.testing",)),
    "values": ("Addresses, stages and other values", ("stagefleet.",)),
}
"""Pages of the API: title, and how the modules of its names begin; the first that fits counts."""

WHOLE_MODULES = ("stagefleet.errors", "stagefleet.settings")
"""Modules whose public classes are all public API."""

RETURNED = {
    "stagefleet.fleet.callbacks": ("StartArguments", "RunArguments"),
    "stagefleet.fleet.chains": ("Mirror", "MirrorPlan", "PurgedGroup"),
    "stagefleet.registry.referrers": ("Referrer",),
    "stagefleet.fleet.hosts": ("FleetHosts", "PinnedStages"),
    "stagefleet.fleet.project": ("FleetProject",),
    "stagefleet.fleet.storage_reader": ("StorageState",),
    "stagefleet.fleet.records": ("FleetRecords",),
    "stagefleet.images": ("Platform",),
    "stagefleet.names": ("EngineProject",),
    "stagefleet.operations.records": ("RecordOperation",),
    "stagefleet.project_addresses": ("DeployedImage",),
    "stagefleet.projects.lookup": ("StageLookup",),
    "stagefleet.projects.purge_plan": ("PurgePlan", "PurgeGroup"),
    "stagefleet.reports.report": ("Report",),
    "stagefleet.runs.models": ("RunSpec", "Wait", "WorkerInfo"),
    "stagefleet.storages.base": ("StoredRecord", "WriteResult"),
}
"""What public methods take and return, and no `__all__` names."""

_LINK = re.compile(r"\[([^\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")


def write_sources(folder: Path) -> None:
    """Write all pages into a folder, which is emptied before."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT / "docs", folder)
    for page in folder.rglob("*.md"):
        path = page.relative_to(folder).as_posix()
        page.write_text(relinked(page.read_text(encoding="utf-8"), f"docs/{path}", path), encoding="utf-8")
    for name, path in ROOT_PAGES.items():
        (folder / path).write_text(relinked(_root_page(name), name, path), encoding="utf-8")
    (folder / "api").mkdir()
    for path, content in [*api_pages(), ("decisions.md", _decisions(folder / "adr"))]:
        (folder / path).write_text(content, encoding="utf-8")


def relinked(markdown: str, source: str, path: str) -> str:
    """Lead the links of a file to where the site has what they name; keep the text alone of other links.

    `source` is the file, relative to the root, and `path` its page.
    """

    def lead(link: re.Match[str]) -> str:
        text, target, anchor = link[1], link[2], link[3] or ""
        if "://" in target or target.startswith("mailto:"):
            return link[0]
        named = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        if named == DECISIONS:
            named = "docs/decisions.md"
        if named not in ROOT_PAGES and not named.startswith("docs/"):
            return text
        there = ROOT_PAGES.get(named, named.removeprefix("docs/"))
        return f"[{text}]({posixpath.relpath(there, posixpath.dirname(path) or '.')}{anchor})"

    return _LINK.sub(lead, markdown)


def _decisions(folder: Path) -> str:
    """Return the page that lists the decisions of a folder."""
    titles = {page.name: page.read_text(encoding="utf-8").partition("\n")[0] for page in folder.iterdir()}
    rows = "".join(f"- [{titles[name].removeprefix('# ')}](adr/{name})\n" for name in sorted(titles))
    return f"# Decisions\n\nDecisions that could have gone another way.\n\n{rows}"


def metrics_table() -> str:
    """Return the table of `docs/metrics.md`, which a test holds against the metrics that there are."""
    rows = "".join(
        f"| `{metric.name}` | {metric.type} | {', '.join(metric.labels)} | {metric.help} |\n"
        for metric in METRICS.values()
    )
    return f"| metric | type | labels | what it tells |\n| --- | --- | --- | --- |\n{rows}"


def _root_page(name: str) -> str:
    content = (ROOT / name).read_text(encoding="utf-8")
    if not name.endswith(".toml"):
        return content
    return (
        "# Settings\n\nEnvironment variables `STAGEFLEET_...` (nested with `__`) come before "
        "`stagefleet.toml`, which comes before the defaults. The file with all of them:\n\n"
        f"```toml\n{content}```\n"
    )


def api_pages() -> Iterator[tuple[str, str]]:
    """Yield path and content of each page of the API, in Markdown with the directives of mkdocstrings."""
    by_page: dict[str, list[str]] = {slug: [] for slug in API_PAGES}
    for name in public_names():
        slug = next(slug for slug, (_, starts) in API_PAGES.items() if name.startswith(starts))
        by_page[slug].append(name)
    rows = "".join(
        f"| [{title}]({slug}.md) | {', '.join(map(_shown, by_page[slug]))} |\n"
        for slug, (title, _) in API_PAGES.items()
    )
    intro = "What is public, and how long it stays, is said in [public API](../public-api.md).\n\n"
    yield "api/index.md", f"# Python API\n\n{intro}| page | names |\n| --- | --- |\n{rows}"
    for slug, (title, _) in API_PAGES.items():
        directives = "\n\n".join(f"::: {name}" for name in by_page[slug])
        yield f"api/{slug}.md", f"# {title}\n\n{directives}\n"


def _shown(name: str) -> str:
    return f"`{name.rpartition('.')[2]}`"


def public_names() -> list[str]:
    """List the public API: each class and function with the module that defines it."""
    homes = _assigned("stagefleet", "_NAMES")
    names = [f"{home}.{name}" for home, own in homes.items() for name in own if not name.startswith("__")]
    for package in ("stagefleet.records", "stagefleet.testing"):
        origins = _origins(package)
        names += [f"{origins[name]}.{name}" for name in _assigned(package, "__all__")]
    names += [f"{module}.{name}" for module in WHOLE_MODULES for name in _classes(module)]
    names += [f"{module}.{name}" for module, returned in RETURNED.items() for name in returned]
    return list(dict.fromkeys(names))


def _module(name: str) -> ast.Module:
    path = ROOT.joinpath(*name.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(file.read_text(encoding="utf-8"))


def _assigned(module: str, name: str) -> Any:
    """Return the literal that a module assigns to a name."""
    for node in _module(module).body:
        if isinstance(node, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id == name for target in node.targets
        ):
            return ast.literal_eval(node.value)
    raise LookupError(f"{module} has no {name}")


def _origins(module: str) -> dict[str, str]:
    """Return the module that each imported name of a module comes from."""
    return {
        alias.name: node.module or ""
        for node in ast.walk(_module(module))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def _classes(module: str) -> list[str]:
    return [
        node.name
        for node in _module(module).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    ]


if __name__ == "__main__":
    write_sources(ROOT / ".tools/docs")
