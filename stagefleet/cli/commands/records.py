"""`stagefleet records`: list, show, add, remove."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, NamedTuple

import typer

import stagefleet
from stagefleet.bounds import join_first
from stagefleet.cli import options as opt
from stagefleet.cli.app import make_group
from stagefleet.cli.output import print_json, print_line, say
from stagefleet.cli.session import RunOptions, open_fleet, run_operation, takes_run_options
from stagefleet.errors import CustomTagError, NotFoundError, UsageError
from stagefleet.names import Repository, StageId, StorageAddress, parse_address
from stagefleet.records import models
from stagefleet.records.ids import NAMELESS, RecordId, RecordKind
from stagefleet.redaction import quoted

_NAMED_UNKNOWN = 5

app = make_group("See and keep the records beside the stages: what is built, and from which commits.")

Address = Annotated[
    str | None,
    typer.Argument(
        metavar="REPO", help="HOST[:PORT]/PATH or docker-daemon:PROJECT; left out with --project."
    ),
]
Kind = Annotated[str | None, typer.Argument(metavar="KIND", help=", ".join(RecordKind))]


@app.command("list")
def list_records(
    repository: Address = None,
    kind: Kind = None,
    *,
    project: opt.ProjectOption = None,
    missing_ok: opt.MissingOk = False,
    json: opt.Json = False,
) -> None:
    """List records by their tags, and name what is neither a stage's tag nor a record's."""
    words = _words(project, repository, kind)
    unknown: list[str] = []
    custom: set[str] = set()
    with open_fleet() as fleet:
        address, final = words.resolve(fleet, project), _final_of(fleet, project)
        on_unknown = unknown.append if words.named_kind is None else None
        missing_ok = opt.may_be_new(fleet, project, missing_ok)
        for found in fleet.records.ids(
            address, words.named_kind, on_unknown=on_unknown, missing_ok=missing_ok
        ):
            if found.kind is RecordKind.CUSTOM_TAG:
                custom.add(found.name)
            if json:
                print_json({"kind": str(found.kind), "id": found.item, "tag": found.tag})
            else:
                print_line(f"{found.kind:<15}  {found.item}")
        _tell_what_is_kept(address, words.named_kind)
    if final is not None:
        custom.clear()  # they are in the final storage: a tag of the same name here is unknown
    foreign = [tag for tag in unknown if RecordId.of(RecordKind.CUSTOM_TAG, tag).name not in custom]
    if foreign:
        say(f"tags of no stage and no record, left alone: {join_first(foreign, _NAMED_UNKNOWN)}")


@app.command("show")
def show_record(
    repository: Address = None,
    kind: Kind = None,
    record: Annotated[str | None, typer.Argument(metavar="ID", help="Its id, as list shows it.")] = None,
    *,
    project: opt.ProjectOption = None,
    json: opt.Json = False,
) -> None:
    """Show one record, with what its labels say; of a custom tag also whether it is in place."""
    words = _words(project, repository, kind, record)
    if len(words.rest) > 1:
        raise UsageError(f"one record is shown at a time: leave out {words.rest[1]}")
    name = _name(words.kind, *words.rest)
    with open_fleet() as fleet:
        address = words.resolve(fleet, project)
        found = fleet.records.read(address, words.kind, name)
        if found is None:
            _tell_what_is_kept(address, words.kind)
            if project is None:
                any(fleet.records.ids(address))  # raises if the repository does not exist
            raise NotFoundError(
                f"{address} has no {RecordId.of(words.kind, name)}: see stagefleet records list"
            )
        document = found.as_json()
        if isinstance(found.record, models.CustomTag):
            final = _final_of(fleet, project)
            document["in_place"] = _is_custom_tag_set(fleet, address, found.record, final)
    if json:
        print_json(document)
        return
    for fact, value in document.items():
        print_line(f"{fact:<16} {value}")


def _is_custom_tag_set(
    fleet: stagefleet.Fleet, address: StorageAddress, custom: models.CustomTag, final: Repository | None
) -> bool:
    try:
        fleet.records.check_custom_tag(address, custom.name, custom.stage_id, final=final)
    except CustomTagError as error:
        say(str(error))
        return False
    return True


@app.command("add")
def add(
    repository: Address = None,
    kind: Kind = None,
    values: Annotated[
        list[str] | None,
        typer.Argument(metavar="VALUE", help="What it says; a wrong number of values is explained."),
    ] = None,
    *,
    project: Annotated[
        str | None,
        typer.Option(
            "--project",
            metavar="NAME",
            help="Without REPO a project of the settings; with REPO whose record it is. Default: the path's "
            "last part.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write again what is there.")] = False,
    json: opt.Json = False,
) -> None:
    """Write one record; custom-tag TAG STAGE_ID gives the stage its tag, too."""
    words = _words(project, repository, kind, *(values or ()))
    with open_fleet() as fleet:
        address = words.address or words.resolve(fleet, project)
        # The settings may use another name for a project than the engine, where its name is the address.
        is_own = words.address is None and address.is_engine
        owner = None if is_own else project
        final = None if words.address else _final_of(fleet, project)
        record = _build(words.kind, words.rest)
        if isinstance(record, models.CustomTag):
            tag, stage_id = record.name, record.stage_id
            written = fleet.records.add_custom_tag(address, tag, stage_id, project=owner, final=final)
        else:
            written = fleet.records.write(address, record, project=owner, force=force)
    document = {**record.as_json(), "state": str(written)}
    if json:
        print_json(document)
    else:
        print_line(f"{document['tag']}  {document['state']}")
    _tell_what_is_kept(address, words.kind)


@app.command("remove")
@takes_run_options()
def remove_records(
    repository: Address = None,
    kind: Kind = None,
    records: Annotated[
        list[str] | None,
        typer.Argument(metavar="ID", help="Ids as list shows them; with --image COMMIT_STAGEID."),
    ] = None,
    *,
    project: opt.ProjectOption = None,
    image: Annotated[
        str | None, typer.Option("--image", metavar="NAME", help="Of image-metadata: whose, by name or hash.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Remove every record of the kind.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --all: do not ask.")] = False,
    hosts: opt.Hosts = None,
    options: RunOptions,
) -> None:
    """Remove records: custom tags with the tag, rejected stages with the stage, and no other tag."""
    words = _words(project, repository, kind, *(records or ()))
    named = opt.read_ids(words.rest, options.from_file, partial(_parse, words.kind, image))
    _refuse_unclear(words.kind, named, image, everything=everything)
    chosen = opt.one_host(hosts)
    with options.open_fleet() as fleet:
        address = words.resolve(fleet, project)
        options = replace(options, missing_ok=opt.may_be_new(fleet, project, options.missing_ok))
        operation = fleet.records.removal(
            address, words.kind, image=image, final=_final_of(fleet, project), hosts=chosen
        )
        _tell_what_is_kept(address, words.kind)
        if everything and not yes and not options.dry_run:
            what = f"of kind {words.kind} from {operation.repository}"
            opt.require_terminal("--all", f"remove all records {what}")
            count = len(fleet.plan(operation, missing_ok=options.missing_ok))
            opt.confirm(f"Remove all {count:,} records {what}?", "nothing was removed")
        run_operation(fleet, operation, named, options, if_empty=f"no {words.kind} was named")


def _words(project: str | None, *words: str | None) -> _RecordArguments:
    return _RecordArguments.read([word for word in words if word is not None], project)


def _tell_what_is_kept(address: StorageAddress, kind: RecordKind | None) -> None:
    """Explain that an engine does not keep records of a kind."""
    if address.is_engine and kind not in {None, RecordKind.IMPORT_METADATA}:
        say(
            f"{address} keeps {RecordKind.IMPORT_METADATA} alone: a {kind} is neither written nor found there"
        )


def _parse(kind: RecordKind, image: str | None, text: str) -> str:
    """Check one id; keep custom tags as given."""
    if image is not None:
        RecordId.of(kind, f"0_{text}")
        return text
    record_id = RecordId.of(kind, _name(kind, text))
    return text if kind is RecordKind.CUSTOM_TAG else record_id.item


def _name(kind: RecordKind, text: str = "") -> str:
    return "" if kind is RecordKind.MANAGED_IMAGE and text == NAMELESS else text


def _refuse_unclear(
    kind: RecordKind, named: list[str] | None, image: str | None, *, everything: bool
) -> None:
    if image is not None and kind is not RecordKind.IMAGE_METADATA:
        raise UsageError(f"--image goes with image-metadata, not with {kind}: leave it out")
    if image is not None and named is None:
        raise UsageError("--image needs the commits and stages: name them as COMMIT_STAGEID")
    if everything and named is not None:
        raise UsageError(f"--all removes every {kind}: leave out --all, or the ids")
    if not everything and named is None:
        raise UsageError(f"no {kind} is named: name some, or use --from-file, or --all")


# The arguments of these commands: the storage and the kind of records, and what one says.


@dataclass(frozen=True, slots=True)
class _RecordArguments:
    """The arguments of a command on records: `[REPO] [KIND [WORD...]]`.

    Without an address, the primary storage of a project is meant. The other arguments are ids, or values.
    """

    address: StorageAddress | None
    named_kind: RecordKind | None
    rest: tuple[str, ...]

    @classmethod
    def read(cls, words: Sequence[str], project: str | None) -> _RecordArguments:
        """Parse the arguments; with a project, the first may be the kind."""
        first, *others = words or ("",)
        if project is not None and (not first or first in set(RecordKind)):
            return cls(None, RecordKind(first) if first else None, tuple(others))
        if not first:
            raise UsageError(opt.NO_REPOSITORY)
        address = parse_address(first)
        return cls(address, RecordKind.parse(others[0]) if others else None, tuple(others[1:]))

    @property
    def kind(self) -> RecordKind:
        """The kind of the records."""
        if self.named_kind is None:
            raise UsageError(f"Missing argument 'KIND': write one of {', '.join(RecordKind)}")
        return self.named_kind

    def resolve(self, fleet: stagefleet.Fleet, project: str | None) -> StorageAddress:
        """Return the storage of the records: the address, or the primary storage of the project."""
        if project is None:
            assert self.address is not None
            return self.address
        if self.address is not None:
            raise UsageError(f"--project says where the records are: leave out {self.address}")
        return fleet.project(project).storages.primary


def _final_of(fleet: stagefleet.Fleet, project: str | None) -> Repository | None:
    """Return the final storage of a project, which has its custom tags; None if the primary has them."""
    return None if project is None else fleet.project(project).storages.final


# Records from the arguments of `stagefleet records add`.


class _RecordSyntax(NamedTuple):
    """The values of one kind of record: the required ones, and the optional ones after them."""

    needed: str
    optional: str
    build: Callable[..., models.Record]


def _moment_ms(text: str | None) -> int:
    """Parse a time in milliseconds since 1970; now if None."""
    if text is None:
        return time.time_ns() // 1_000_000
    if not (text.isascii() and text.isdigit() and len(text) <= 18):  # noqa: PLR2004 - in 64 bits
        raise UsageError(f"{quoted(text, limit=40)} is no time: write milliseconds since 1970")
    return int(text)


def _client_id(client_id: str, timestamp: str | None = None) -> models.ClientId:
    """Build a client id created now, or at a time as in the tag of a record."""
    if timestamp is None:
        return models.ClientId.chosen_at(client_id, _moment_ms(None))
    return models.ClientId(client_id, _moment_ms(timestamp))


_SYNTAXES: Mapping[RecordKind, _RecordSyntax] = {
    RecordKind.MANAGED_IMAGE: _RecordSyntax("", "NAME", lambda name="": models.ManagedImage(name)),
    RecordKind.IMAGE_METADATA: _RecordSyntax(
        "IMAGE COMMIT STAGE_ID",
        "",
        lambda image, commit, stage_id: models.ImageMetadata.of_image(image, commit, StageId.parse(stage_id)),
    ),
    RecordKind.IMPORT_METADATA: _RecordSyntax("ID SOURCE_STAGE_ID CHECKSUM", "", models.ImportMetadata),
    RecordKind.CUSTOM_TAG: _RecordSyntax(
        "TAG STAGE_ID", "", lambda tag, stage_id: models.CustomTag(tag, StageId.parse(stage_id))
    ),
    RecordKind.REJECTED_STAGE: _RecordSyntax(
        "STAGE_ID", "", lambda stage_id: models.RejectedStage(StageId.parse(stage_id))
    ),
    RecordKind.CLIENT_ID: _RecordSyntax("ID", "TIMESTAMP_MS", _client_id),
    RecordKind.LAST_CLEANUP: _RecordSyntax(
        "", "TIMESTAMP_MS", lambda moment=None: models.LastCleanup(_moment_ms(moment))
    ),
    RecordKind.LOCK_SERVER: _RecordSyntax(
        "ADDRESS", "TIMESTAMP_MS", lambda address, moment=None: models.LockServer(address, _moment_ms(moment))
    ),
}


def _build(kind: RecordKind, values: Sequence[str]) -> models.Record:
    form = _SYNTAXES[kind]
    needed, optional = form.needed.split(), form.optional.split()
    if not len(needed) <= len(values) <= len(needed) + len(optional):
        usage = " ".join([*needed, *(f"[{name}]" for name in optional)])
        raise UsageError(f"records add REPO {kind} takes {usage}, and {len(values)} values were given")
    return form.build(*values)
