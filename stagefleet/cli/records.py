"""`stagefleet records`: list, show, add, remove."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import typer

from stagefleet.cli import options as opt
from stagefleet.cli.following import leave_or_follow
from stagefleet.cli.new_records import add_record
from stagefleet.cli.report import print_json, print_line, print_plan
from stagefleet.cli.run_options import RunOptions, takes_run_options
from stagefleet.cli.session import open_fleet, say
from stagefleet.client import Fleet, Plan
from stagefleet.errors import CustomTagError, NotFoundError, UsageError
from stagefleet.names import StageId
from stagefleet.records import CustomTag, RecordId, RecordKind
from stagefleet.records.image_names import NAMELESS
from stagefleet.runs.model import Run

__all__ = ["app"]

_NAMED_UNKNOWN = 5

app = typer.Typer(help="See and keep the records beside the stages of a repository; see docs/records.md.")

RepositoryArgument = Annotated[
    str, typer.Argument(metavar="REPO", help="HOST[:PORT]/PATH", show_default=False)
]
Kind = Annotated[RecordKind, typer.Argument(metavar="KIND", help=", ".join(RecordKind), show_default=False)]
Project = Annotated[
    str | None,
    typer.Option("--project", metavar="NAME", help="Whose record it is. Default: the path's last part."),
]


@app.command("list")
def list_records(
    repository: RepositoryArgument,
    kind: Annotated[
        RecordKind | None, typer.Argument(metavar="KIND", help=", ".join(RecordKind), show_default=False)
    ] = None,
    *,
    json: opt.Json = False,
) -> None:
    """List records by their tags, and name what is neither a stage's tag nor a record's."""
    unknown: list[str] = []
    custom: set[str] = set()
    with open_fleet() as fleet:
        on_unknown = unknown.append if kind is None else None
        for found in fleet.record_ids(repository, kind, on_unknown=on_unknown):
            if found.kind is RecordKind.CUSTOM_TAG:
                custom.add(found.name)
            if json:
                print_json({"kind": str(found.kind), "id": found.item, "tag": found.tag})
            else:
                print_line(f"{found.kind:<15}  {found.item}")
    foreign = [tag for tag in unknown if RecordId.of(RecordKind.CUSTOM_TAG, tag).name not in custom]
    if foreign:
        shown = ", ".join(foreign[:_NAMED_UNKNOWN])
        more = f" and {len(foreign) - _NAMED_UNKNOWN:,} more" if len(foreign) > _NAMED_UNKNOWN else ""
        say(f"tags of no stage and no record, left alone: {shown}{more}")


@app.command("show")
def show_record(
    repository: RepositoryArgument,
    kind: Kind,
    record: Annotated[str, typer.Argument(metavar="ID", help="Its id, as list shows it.")] = "",
    *,
    json: opt.Json = False,
) -> None:
    """Show one record, with what its labels say; of a custom tag also whether it is in place."""
    with open_fleet() as fleet:
        name = _name(kind, record)
        found = fleet.read_record(repository, kind, name)
        if found is None:
            raise NotFoundError(f"{repository} has no {RecordId.of(kind, name)}: see stagefleet records list")
        document = found.as_json()
        if isinstance(found.record, CustomTag):
            document["in_place"] = _is_in_place(fleet, repository, found.record)
    if json:
        print_json(document)
        return
    for fact, value in document.items():
        print_line(f"{fact:<16} {value}")


def _is_in_place(fleet: Fleet, repository: str, custom: CustomTag) -> bool:
    try:
        fleet.check_stage_custom_tag(repository, custom.name, custom.stage_id)
    except CustomTagError as error:
        say(str(error))
        return False
    return True


@app.command("add")
def add(
    repository: RepositoryArgument,
    kind: Kind,
    values: Annotated[
        list[str] | None,
        typer.Argument(metavar="VALUE", help="What it says; a wrong number of values is explained."),
    ] = None,
    *,
    project: Project = None,
    force: Annotated[bool, typer.Option("--force", help="Write again what is there.")] = False,
    json: opt.Json = False,
) -> None:
    """Write one record; custom-tag TAG STAGE_ID gives the stage its tag, too."""
    with open_fleet() as fleet:
        document = add_record(fleet, repository, kind, values or [], project=project, force=force)
    if json:
        print_json(document)
    else:
        print_line(f"{document['tag']}  {document['state']}")


@app.command("remove")
@takes_run_options()
def remove_records(
    repository: RepositoryArgument,
    kind: Kind,
    records: Annotated[
        list[str] | None,
        typer.Argument(metavar="ID", help="Ids as list shows them; with --image COMMIT_STAGEID."),
    ] = None,
    *,
    image: Annotated[
        str | None,
        typer.Option("--image", metavar="NAME", help="Of image-metadata: whose, by name or hash."),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Remove every record of the kind.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --all: do not ask.")] = False,
    options: RunOptions,
) -> None:
    """Remove records: custom tags with the tag, rejected stages with the stage, and no other tag."""
    named = opt.read_ids(records, options.from_file, partial(_parse, kind, image))
    removal = _Removal(repository, kind, named, image)
    _refuse_unclear(removal, everything=everything)
    with options.open_fleet() as fleet:
        if options.dry_run:
            print_plan(removal.plan(fleet), as_json=options.json)
            return
        if everything and not yes:
            _confirm(fleet, removal)
        leave_or_follow(fleet, removal.start(fleet, options), options)


@dataclass(frozen=True, slots=True)
class _Removal:
    """What a command removes.

    Attributes:
        repository: Where.
        kind: Of which kind.
        named: Which; None for all.
        image: Of image metadata, the image, where ids do not say it.
    """

    repository: str
    kind: RecordKind
    named: list[str] | None
    image: str | None

    def plan(self, fleet: Fleet) -> Plan:
        if self.image is None:
            return fleet.plan_rm_record(self.repository, self.kind, self.named)
        return fleet.plan_rm_image_metadata(self.repository, self.image, self._stage_commits())

    def start(self, fleet: Fleet, options: RunOptions) -> Run:
        """Start the run that the kind has; kinds that nobody removes by the thousand share one."""
        where, named, told, arguments = self.repository, self.named, options.callback, options.arguments
        if self.image is not None:
            return fleet.for_each_rm_image_metadata(
                where, self.image, self._stage_commits(), told, **arguments
            )
        match self.kind:
            case RecordKind.MANAGED_IMAGE:
                return fleet.for_each_rm_managed_image(where, named, told, **arguments)
            case RecordKind.IMPORT_METADATA:
                return fleet.for_each_rm_import_metadata(where, named, told, **arguments)
            case RecordKind.CUSTOM_TAG:
                return fleet.for_each_delete_stage_custom_tag(where, named, told, **arguments)
            case RecordKind.REJECTED_STAGE:
                return fleet.for_each_delete_rejected_stage(where, named, told, **arguments)
            case _:
                return fleet.for_each_rm_record(where, self.kind, named, told, **arguments)

    def _stage_commits(self) -> dict[str | StageId, list[str]]:
        found: dict[str | StageId, list[str]] = {}
        for name in self.named or ():
            commit, _, stage_id = name.partition("_")
            found.setdefault(stage_id, []).append(commit)
        return found


def _parse(kind: RecordKind, image: str | None, text: str) -> str:
    """Check one id; custom tags stay as they were named."""
    if image is not None:
        RecordId.of(kind, f"0_{text}")
        return text
    record_id = RecordId.of(kind, _name(kind, text))
    return text if kind is RecordKind.CUSTOM_TAG else record_id.item


def _name(kind: RecordKind, text: str) -> str:
    return "" if kind is RecordKind.MANAGED_IMAGE and text == NAMELESS else text


def _refuse_unclear(removal: _Removal, *, everything: bool) -> None:
    kind, named = removal.kind, removal.named
    if removal.image is not None and kind is not RecordKind.IMAGE_METADATA:
        raise UsageError(f"--image goes with image-metadata, not with {kind}: leave it out")
    if removal.image is not None and named is None:
        raise UsageError("--image needs the commits and stages: name them as COMMIT_STAGEID")
    if everything and named is not None:
        raise UsageError(f"--all removes every {kind}: leave out --all, or the ids")
    if not everything and named is None:
        raise UsageError(f"no {kind} is named: name some, or use --from-file, or --all")


def _confirm(fleet: Fleet, removal: _Removal) -> None:
    what = f"of kind {removal.kind} from {removal.repository}"
    if not sys.stdin.isatty():
        raise UsageError(
            f"--all asks on a terminal, and this is none: add --yes to remove all records {what}"
        )
    if not typer.confirm(f"Remove all {len(removal.plan(fleet)):,} records {what}?", err=True):
        raise UsageError("nothing was removed")
