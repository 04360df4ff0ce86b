"""`stagefleet copy`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

import stagefleet
from stagefleet.cli import options as opt, session
from stagefleet.cli.output import print_line
from stagefleet.cli.progress import exit_code, print_plan, writing_reports
from stagefleet.errors import PruneLimitError, UsageError
from stagefleet.names import parse_address

if TYPE_CHECKING:
    from stagefleet.fleet.chains import MirrorPlan

Source = Annotated[str | None, typer.Argument(metavar="SRC", help=opt.ADDRESSES)]
Destination = Annotated[str | None, typer.Argument(metavar="DST", help=opt.ADDRESSES)]
FromProject = Annotated[
    str | None,
    typer.Option(
        "--from-project",
        metavar="NAME",
        help="Instead of SRC and DST: from a project's secondary storages into its primary.",
    ),
]
Verify = Annotated[bool, typer.Option("--verify", help="Compare digests too, and copy again what differs.")]
Prune = Annotated[
    bool, typer.Option("--prune", help="Then delete from DST what SRC no longer has, if all was copied.")
]
MaxPercent = Annotated[
    float | None,
    typer.Option(
        "--max-percent",
        metavar="N",
        help="With --prune: delete nothing if more of DST would go. Default: 10.",
        show_default=False,
    ),
]
ForeignLayers = Annotated[
    bool,
    typer.Option(
        "--foreign-layers", help="Send layers, too, that are marked as to be had elsewhere (Windows)."
    ),
]

Referrers = Annotated[
    bool,
    typer.Option(
        "--referrers",
        help=(
            "Copy signatures and other artifacts of the stages, too, also of those that DST has. With "
            "--prune: those of what is deleted go, unless another tag keeps the image."
        ),
    ),
]


@session.takes_run_options()
def copy_stages(
    source: Source = None,
    destination: Destination = None,
    stage_ids: opt.StageIdArguments = None,
    *,
    from_project: FromProject = None,
    verify: Verify = False,
    prune: Prune = False,
    max_percent: MaxPercent = None,
    foreign_layers: ForeignLayers = False,
    referrers: Referrers = False,
    hosts: opt.Hosts = None,
    options: session.RunOptions,
) -> None:
    """Copy stages from one repository to another: the named ones, else all that the destination lacks."""
    if max_percent is not None and not prune:
        raise UsageError("--max-percent is for --prune")
    if from_project is not None:
        refused = {
            "--verify": verify,
            "--prune": prune,
            "--foreign-layers": foreign_layers,
            "--referrers": referrers,
        }
        for option in (name for name, is_given in refused.items() if is_given):
            raise UsageError(f"{option} does not go with --from-project")
        arguments = [word for word in (source, destination, *(stage_ids or ())) if word is not None]
        _take(from_project, opt.read_stage_ids(arguments, options.from_file), opt.one_host(hosts), options)
        return
    if source is None or destination is None:
        missing = "SRC" if source is None else "DST"
        raise UsageError(f"Missing argument '{missing}'; or name a project with --from-project")
    named = opt.read_stage_ids(stage_ids, options.from_file)
    operation = stagefleet.CopyOperation(
        source=parse_address(source),
        destination=parse_address(destination),
        verify=verify,
        foreign_layers=foreign_layers,
        referrers=referrers,
        hosts=tuple(hosts or ()),
    )
    if prune:
        _mirror(operation, named, 10.0 if max_percent is None else max_percent, options)
        return
    if_empty = f"{source} has no stages" if named is None else "no stage was named"
    with options.open_fleet(source, destination, hosts=hosts) as fleet:
        session.run_operation(fleet, operation, named, options, if_empty=if_empty)


def _mirror(
    operation: stagefleet.CopyOperation,
    named: list[str] | None,
    max_percent: float,
    options: session.RunOptions,
) -> None:
    """Copy all stages, and delete those that the source no longer has."""
    refused = {
        "stages that are named": named is not None,
        "--missing-ok": options.missing_ok,
        "--host": bool(operation.hosts),
    }
    for what, is_given in refused.items():
        if is_given:
            raise UsageError(f"--prune compares all of two repositories, and does not go with {what}")
    destination = str(operation.destination)
    how = operation.model_dump(include={"verify", "foreign_layers", "referrers"})
    with options.open_fleet() as fleet:
        project = fleet.project(operation.source)
        if options.dry_run:
            plan = project.plan_mirror(destination, max_percent=max_percent, **how)
            refusal = _print_plans(fleet, plan, operation, options)
        else:
            with session.cancelling_on_interrupt(fleet) as interrupts:
                mirror = project.start_mirror(
                    destination,
                    options.callback,
                    max_percent=max_percent,
                    parallel=options.parallel,
                    idempotency_key=options.idempotency_key,
                    **how,
                )
                _show_runs(fleet, mirror.runs, options, interrupts)
            refusal = mirror.refusal
        if refusal is not None:
            raise refusal


def _print_plans(
    fleet: stagefleet.Fleet,
    plan: MirrorPlan,
    operation: stagefleet.CopyOperation,
    options: session.RunOptions,
) -> PruneLimitError | None:
    print_plan(plan.copies, as_json=options.json)
    if not options.json:
        print_line("to be deleted:")
    going = operation.referrers and fleet.project(operation.destination)
    print_plan(plan.deletions, as_json=options.json, referrers_in=going or None)
    return plan.refusal


def _show_runs(
    fleet: stagefleet.Fleet,
    runs: Sequence[stagefleet.Run],
    options: session.RunOptions,
    interrupts: session.Interrupts,
) -> None:
    """Print the ids of the runs of a mirror, or follow each to its end, as long as they succeed."""
    if options.detach:
        for run in runs:
            session.detach_or_follow(fleet, run, options, interrupts)
        return
    codes = (exit_code(session.watch_run(fleet, run, interrupts, as_json=options.json)) for run in runs)
    with writing_reports(fleet, runs, options.report):
        code = next(filter(None, codes), 0)
    if code:
        raise typer.Exit(code)


def _take(name: str, named: list[str] | None, hosts: tuple[str, ...], options: session.RunOptions) -> None:
    """Copy the stages that a project's primary storage lacks from its secondary ones."""
    with options.open_fleet() as fleet:
        project = fleet.project(name)
        operation = stagefleet.TakeOperation.of(project.storages, hosts=hosts)
        if_empty = f"the primary storage of {name} lacks nothing that its secondaries have"
        session.run_operation(fleet, operation, named, options, project=project, if_empty=if_empty)
