"""A repository that does not exist is refused where a person named it."""

from __future__ import annotations

import pytest

from stagefleet import Fleet
from stagefleet.errors import RepositoryNotFoundError, UsageError
from stagefleet.names import Repository
from stagefleet.operations.copy import CopyOperation
from stagefleet.operations.delete import DeleteOperation
from stagefleet.settings import Settings
from tests.services import RegistryFront
from tests.services.front import Answer

STAGE = "a" * 56 + "-1700000000001"


def commands(repository, new):
    """Every command that reads or empties a repository, with and without stages that are named."""
    return [
        ("list", repository),
        ("list", "-l", repository),
        ("list", "--json", repository),
        ("describe", repository),
        ("copy", repository, new),
        ("copy", repository, new, STAGE),
        ("copy", repository, new, "--verify"),
        ("delete", repository, STAGE),
        ("delete", repository, "--all", "--yes"),
        ("purge", repository, "--yes"),
        ("publish", "--primary", repository, "--final", new),
        ("records", "list", repository),
        ("records", "show", repository, "managed-image", "app"),
        ("records", "remove", repository, "managed-image", "app"),
    ]


DRY = ("describe", "copy", "delete", "purge", "publish")
WORDS = [pytest.param(number, id="-".join(words[:2])) for number, words in enumerate(commands("REPO", "NEW"))]


@pytest.fixture
def in_process(monkeypatch, tmp_path, capsys):
    """Runs a command in this process, as a hundred new ones would take minutes."""
    from stagefleet.cli import run_command  # noqa: PLC0415 - only here

    monkeypatch.delenv("STAGEFLEET_REDIS_URL", raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    def run(*words):
        code = run_command([str(word) for word in words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.mark.parametrize("number", WORDS)
def test_it_is_refused_in_one_line(in_process, registry, number):
    """U2: exit 2 and one line that names it, also in a dry run; nothing is started."""
    typo = f"{registry.host}/typo"
    words = commands(typo, f"{registry.host}/new")[number]
    for more in ((), ("--dry-run",)) if words[0] in DRY else ((),):
        code, out, err = in_process(*words, *more)
        assert (2, "", 1) == (code, out, len(err.splitlines())), err
        assert f"there is no repository {typo}" in err


@pytest.mark.parametrize("number", WORDS)
def test_what_answers_404_to_everything_is_no_registry(in_process, number):
    """U2: a web server has no repositories, and none of its is taken for empty."""
    with RegistryFront("127.0.0.1:9", lambda _method, _path: Answer(404)) as front:
        words = commands(f"{front.host}/app", f"{front.host}/new")[number]
        for more in ((),) if words[:2] == ("records", "show") else ((), ("--missing-ok",)):
            code, out, err = in_process(*words, *more)
            assert (2, "", 1) == (code, out, len(err.splitlines())), err
            assert "no registry" in err


@pytest.mark.parametrize(
    "words", [words for words in commands("REPO", "NEW") if words[0] in {"list", *DRY} and STAGE not in words]
)
def test_it_is_taken_for_empty_where_that_is_asked_for(in_process, registry, words):
    """U2: `--missing-ok` ends with 0, and tells on stderr what it did."""
    here = {"REPO": f"{registry.host}/typo", "NEW": f"{registry.host}/new"}
    dry = ("--dry-run",) if words[0] in DRY else ()
    code, _, err = in_process(*(here.get(word, word) for word in words), "--missing-ok", *dry)
    assert 0 == code, err
    assert f"there is no repository {registry.host}/typo: it is taken for empty" in err


def test_an_empty_repository_exists(in_process, registry, push_stages):
    """U2: what was emptied is there still, and a second deletion finds all gone."""
    (stage,) = push_stages(registry, "app", 1)
    repository = f"{registry.host}/app"
    assert 0 == in_process("delete", repository, stage)[0]
    assert (0, "", "") == in_process("list", repository)
    code, out, _ = in_process("delete", repository, stage, "--dry-run")
    assert 0 == code, out


def test_a_destination_may_be_new_but_not_at_a_web_server(in_process, registry, push_stages):
    """U2: a copy makes its destination; where nothing is a registry it is refused at once."""
    push_stages(registry, "app", 1)
    source = f"{registry.host}/app"
    assert 0 == in_process("copy", source, f"{registry.host}/new", "--dry-run")[0]
    with RegistryFront("127.0.0.1:9", lambda _method, _path: Answer(404)) as front:
        for more in ((), ("--verify",), ("--dry-run",)):
            code, _, err = in_process("copy", source, f"{front.host}/new", *more)
            assert (2, 1) == (code, len(err.splitlines())), err


@pytest.mark.parametrize("pushed", ["primary", "final", None])
def test_storages_of_a_project_may_be_new_while_one_exists(
    in_process, registry, push_stages, tmp_path, pushed
):
    """U2: a project whose storages are all absent is refused; else what is absent is told, and empty."""
    (tmp_path / "stagefleet.toml").write_text(
        f'[projects.app]\nprimary = "{registry.host}/primary"\nfinal = "{registry.host}/final"\n'
    )
    if pushed is not None:
        push_stages(registry, pushed, 1)
    for words in (
        ("list", "--project", "app"),
        ("list", "--final", "--project", "app"),
        ("list", "--json", "--project", "app"),
        ("describe", "--project", "app", "--dry-run"),
        ("publish", "--project", "app", "--dry-run"),
        ("delete", "--project", "app", "--all", "--dry-run"),
        ("purge", "--project", "app", "--dry-run"),
        ("records", "list", "--project", "app"),
    ):
        code, _, err = in_process(*words)
        assert (2 if pushed is None else 0) == code, (words, err)
        assert ("no repository" in err) or pushed is not None, (words, err)


def test_python_raises_and_can_be_told_otherwise(registry):
    """U2: `RepositoryNotFoundError`, of exit code 2, from each method that takes a repository."""
    typo, new = f"{registry.host}/typo", f"{registry.host}/new"
    source, destination = map(Repository.parse, (typo, new))
    copy = CopyOperation(source=source, destination=destination)
    deletion = DeleteOperation(repository=source)
    with Fleet.embedded(settings=Settings()) as fleet:
        for ask in (
            lambda **more: list(fleet.stage_ids(typo, **more)),
            lambda **more: list(fleet.describe_stages(typo, **more)),
            lambda **more: list(fleet.describe_stages(typo, [STAGE], **more)),
            lambda **more: list(fleet.records.ids(typo, **more)),
            lambda **more: fleet.plan(copy, **more),
            lambda **more: fleet.plan(deletion, [STAGE], **more),
            lambda **more: fleet.plan(deletion, **more),
        ):
            with pytest.raises(RepositoryNotFoundError) as caught:
                ask()
            assert (2, True) == (caught.value.exit_code, isinstance(caught.value, UsageError))
            ask(missing_ok=True)
