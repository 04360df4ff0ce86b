"""Commands on projects used wrongly: refused before anything starts."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["publish"], "which project?"),
        (["publish", "--primary", "127.0.0.1:5/app"], "say where to with --final"),
        (
            ["publish", "--primary", "127.0.0.1:5/app", "--cache", "127.0.0.1:5/near"],
            "with --cache and --caches",
        ),
        (["publish", "--project", "other"], "no project 'other'"),
        (
            ["list", "--project", "127.0.0.1:5/app"],
            "'127.0.0.1:5/app' is an address, not the name of a project: leave out --project",
        ),
        (["describe", "--project", "docker-daemon:app"], "leave out --project"),
        (["publish", "--project", "bare"], "no final storage"),
        (["publish", "--project", "bare", "--caches"], "no caches"),
        (["copy", "--from-project", "bare"], "no secondary storages"),
        (["list", "--final", "127.0.0.1:5/app"], "name one with --project"),
        (["list", "--project", "bare", "127.0.0.1:5/app"], "leave out"),
        (["delete", "--project", "bare"], "no stage is named"),
        (["describe"], "Missing argument 'REPO'; or name a project with --project"),
        (["describe", "--project", "bare", "127.0.0.1:9/app"], "is no stage id"),
        (["describe", "--project", "bare", ""], "is no stage id"),
        (["describe", "--project", "bare", "--final"], "no final storage"),
        (["describe", "--final", "127.0.0.1:9/app"], "name one with --project"),
        (["describe", "--project", "other"], "no project 'other'"),
        (["describe", "127.0.0.1:9/app", "--host", "one"], "registries have no hosts"),
        (["describe", "docker-daemon:app", "--host", "one", "--host", "two"], "name one with --host"),
        (["fetch"], "Missing argument 'REPO'; or name a project with --project"),
    ],
)
def test_wrong_use_is_refused_before_anything_starts(command, tmp_path, arguments, words):
    (tmp_path / "stagefleet.toml").write_text('[projects.bare]\nprimary = "127.0.0.1:9/app"\n')
    result = command(*arguments)
    assert (2, "") == (result.code, result.out)
    assert words in result.err
