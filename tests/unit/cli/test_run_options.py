"""What may be said of any run may be said to every command that starts one."""

import pytest

from stagefleet.cli.session import RunOptions, takes_run_options

STAGE = f"{1:056x}-1700000000001"
SHARED = ["--parallel", "--json", "--on-outcome-url", "--on-outcome-task", "--on-finish-url"]
STARTING = {
    "copy": ["a.test/app", "b.test/app"],
    "delete": ["a.test/app", STAGE],
    "fetch": ["a.test/app", STAGE],
    "publish": ["--primary", "a.test/app", "--final", "b.test/app"],
    "purge": ["a.test/app", "--yes"],
    "records remove": ["a.test/app", "custom-tag", "latest"],
    "runs retry": ["17428e2805af"],
}


@pytest.mark.parametrize("name", STARTING)
def test_every_command_that_starts_a_run_tells_of_them(command, name):
    told = command(*name.split(), "--help")
    assert 0 == told.code
    assert [] == [option for option in SHARED if option not in told.out]


@pytest.mark.parametrize("name", STARTING)
def test_and_refuses_what_cannot_be_called(command, name, in_fleet):
    refused = command(*name.split(), *STARTING[name], "--on-finish-url", "ftp://ci.test")
    assert (2, "") == (refused.code, refused.out)
    assert "the finish URL is malformed" in refused.err


def test_a_command_gets_those_that_it_has_a_use_for_as_one_value():
    got = []

    @takes_run_options(but=("from_file", "detach", "idempotency_key", "dry_run", "embedded", "missing_ok"))
    def command(name: str, *, options: RunOptions) -> None:
        """Do something."""
        got.append((name, options.parallel, options.json, options.callback, options.detach))

    told = dict.fromkeys(("on_outcome_url", "on_outcome_task", "on_finish_url", "report"))
    command(name="me", parallel=3, json=True, **told)
    assert [("me", 3, True, None, False)] == got
