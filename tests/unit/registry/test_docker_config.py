"""Logins are found wherever Docker keeps them, and what is wrong is named without being quoted."""

from __future__ import annotations

import base64
import json
import os
import pickle
import selectors
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from stagefleet.credentials import DockerConfig, Login
from stagefleet.errors import CredentialsError

SECRET = "hunter2"
LOGIN = Login("ann", SECRET)
Write = Callable[..., DockerConfig]
Install = Callable[[str, str], Path]


def encode(username: str, password: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{username}:{password}".encode()).decode()}


ENTRY = encode("ann", SECRET)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "config.json"


@pytest.fixture
def write(path: Path) -> Write:
    """Writes the file, from a document or as text, and gives the configuration read from it."""

    def write_file(document: object) -> DockerConfig:
        path.write_text(document if isinstance(document, str) else json.dumps(document))
        return DockerConfig(path, helper_timeout_seconds=20)

    return write_file


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Installs a credential helper: a shell script that has the address in $address."""
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    def install_helper(name: str, script: str) -> Path:
        helper = tmp_path / f"docker-credential-{name}"
        helper.write_text(f'#!/bin/sh\nread -r address\necho "$1 $address" >>"$0.calls"\n{script}\n')
        helper.chmod(helper.stat().st_mode | stat.S_IXUSR)
        return helper.with_name(f"{helper.name}.calls")

    return install_helper


def answering(username: str, secret: str) -> str:
    return f"""echo '{json.dumps({"ServerURL": "x", "Username": username, "Secret": secret})}'"""


NOT_FOUND = "echo credentials not found in native keychain; exit 1"


class TestFile:
    @pytest.mark.parametrize(
        "key",
        [
            "reg.example:5000",
            "https://reg.example:5000",
            "http://reg.example:5000/",
            "HTTPS://Reg.Example:5000/v1/",
        ],
    )
    def test_a_registry_is_found_in_every_spelling(self, write: Write, key: str):
        assert LOGIN == write({"auths": {key: ENTRY}}).login("reg.example:5000")

    @pytest.mark.parametrize(
        "key",
        [
            "reg.example",
            "reg.example:5001",
            "a.reg.example:5000",
            "reg.example:5000/group",
            "ftp://reg.example:5000",
        ],
    )
    def test_another_registrys_login_is_not_taken(self, write: Write, key: str):
        assert write({"auths": {key: ENTRY}}).login("reg.example:5000") is None

    @pytest.mark.parametrize("host", ["docker.io", "index.docker.io", "registry-1.docker.io"])
    def test_docker_hub_is_one_registry(self, write: Write, host: str):
        assert LOGIN == write({"auths": {"https://index.docker.io/v1/": ENTRY}}).login(host)

    def test_the_exact_key_comes_first(self, write: Write):
        config = write({"auths": {"https://reg.example": encode("bob", "x"), "reg.example": ENTRY}})
        assert LOGIN == config.login("reg.example")

    def test_user_name_and_password_may_stand_open(self, write: Write):
        config = write({"auths": {"reg.example": {"username": "ann", "password": SECRET}}})
        assert LOGIN == config.login("reg.example")

    def test_a_password_may_hold_colons_and_old_padding(self, write: Write):
        config = write({"auths": {"reg.example": encode("ann", "a:b:\0\0")}})
        assert Login("ann", "a:b:") == config.login("reg.example")

    def test_an_identity_token_is_taken(self, write: Write):
        config = write({"auths": {"reg.example": {**encode("ann", ""), "identitytoken": SECRET}}})
        assert Login("ann", "", SECRET) == config.login("reg.example")

    @pytest.mark.parametrize("document", [{}, {"auths": None}, {"auths": {"reg.example": {}}}])
    def test_without_an_entry_there_is_no_login(self, write: Write, document: object):
        assert write(document).login("reg.example") is None

    @pytest.mark.parametrize("raw", [b"", b" \n", b"null", b"\xef\xbb\xbf\n"])
    def test_a_file_with_nothing_in_it_has_no_login(self, path: Path, raw: bytes):
        path.write_bytes(raw)
        assert DockerConfig(path).login("reg.example") is None

    def test_the_empty_device_has_no_login(self):
        assert DockerConfig(Path("/dev/null")).login("reg.example") is None

    def test_an_entry_of_null_is_no_login(self, write: Write):
        assert write({"auths": {"reg.example": None}}).login("reg.example") is None

    def test_without_a_file_there_is_no_login(self, path: Path):
        config = DockerConfig(path)

        assert config.login("reg.example") is None
        assert f"there is no {path}" == config.origin()

    def test_a_file_that_comes_changes_and_goes_is_noticed(self, path: Path, write: Write):
        config = DockerConfig(path)
        assert config.login("reg.example") is None

        write({"auths": {"reg.example": encode("bob", "other")}})
        assert Login("bob", "other") == config.login("reg.example")
        assert f"logins are read from {path}" == config.origin()

        write({"auths": {"reg.example": ENTRY}})
        assert LOGIN == config.login("reg.example")

        path.unlink()
        assert config.login("reg.example") is None

    def test_a_login_shows_no_secret(self):
        assert SECRET not in repr(Login("ann", SECRET, SECRET))


class TestMalformedFile:
    @pytest.mark.parametrize(
        ("document", "named"),
        [
            (f'{{"auths":\n"{SECRET}', "(line 2)"),
            (f'["{SECRET}"]', "no JSON object"),
            ("[" * 100_000, "no JSON object"),
            ({"auths": [SECRET]}, "key auths is"),
            ({"auths": {"reg.example": SECRET}}, "key auths, reg.example is"),
            ({"auths": {"reg.example": {"auth": f"{SECRET}!"}}}, "key auths, reg.example, auth is"),
            ({"auths": {"reg.example": {"auth": "aHVudGVyMg=="}}}, "key auths, reg.example, auth is"),
            (
                {"auths": {"reg.example": {"username": "ann", "password": [SECRET]}}},
                "reg.example, password is",
            ),
            ({"credHelpers": SECRET}, "key credHelpers is"),
            ({"credHelpers": {"reg.example": [SECRET]}}, "key credHelpers, reg.example is"),
            ({"credsStore": [SECRET]}, "key credsStore is"),
        ],
    )
    def test_file_and_key_are_named_and_nothing_is_quoted(
        self, path: Path, write: Write, document: object, named: str
    ):
        config = write(document)
        with pytest.raises(CredentialsError) as caught:
            config.login("reg.example")

        assert str(path) in str(caught.value)
        assert named in str(caught.value)
        assert SECRET not in repr(caught.value.args)
        assert caught.value.__context__ is None

    def test_an_entry_of_another_registry_does_no_harm(self, write: Write):
        config = write({"auths": {"other.example": 5, "reg.example": ENTRY}})
        assert LOGIN == config.login("reg.example")

    def test_a_directory_in_its_place_is_named(self, path: Path):
        path.mkdir()
        with pytest.raises(CredentialsError, match=f"{path} cannot be read: Is a directory"):
            DockerConfig(path).login("reg.example")

    def test_a_pipe_in_its_place_is_named_and_not_waited_for(self, path: Path):
        os.mkfifo(path)
        with pytest.raises(CredentialsError, match="it is a pipe"):
            DockerConfig(path).login("reg.example")

    def test_a_file_repaired_is_read_again(self, path: Path, write: Write):
        config = write("{")
        with pytest.raises(CredentialsError):
            config.login("reg.example")
        write({"auths": {"reg.example": ENTRY}})

        assert LOGIN == config.login("reg.example")


class TestHelpers:
    def test_a_registrys_own_helper_stands_over_the_one_for_all(self, write: Write, install: Install):
        calls = install("own", answering("ann", SECRET))
        install("all", answering("bob", "other"))
        config = write({"credHelpers": {"reg.example": "own"}, "credsStore": "all"})

        assert LOGIN == config.login("reg.example")
        assert Login("bob", "other") == config.login("else.example")
        assert "get reg.example\n" == calls.read_text()

    def test_docker_hub_is_asked_for_by_the_name_that_docker_uses(self, write: Write, install: Install):
        calls = install("all", answering("ann", SECRET))

        assert LOGIN == write({"credsStore": "all"}).login("docker.io")
        assert "get https://index.docker.io/v1/\n" == calls.read_text()

    def test_the_spelling_of_the_login_is_tried_too(self, write: Write, install: Install):
        calls = install(
            "all", f'[ "$address" = https://reg.example ] || {{ {NOT_FOUND}; }}\n{answering("ann", SECRET)}'
        )
        config = write({"auths": {"https://reg.example": {}}, "credsStore": "all"})

        assert LOGIN == config.login("reg.example")
        assert "get reg.example\nget https://reg.example\n" == calls.read_text()

    def test_a_secret_may_be_an_identity_token(self, write: Write, install: Install):
        install("all", answering("<token>", SECRET))
        assert Login("", "", SECRET) == write({"credsStore": "all"}).login("reg.example")

    def test_what_a_helper_does_not_have_may_stand_in_the_file(self, write: Write, install: Install):
        install("all", NOT_FOUND)
        config = write({"auths": {"reg.example": ENTRY}, "credsStore": "all"})

        assert LOGIN == config.login("reg.example")
        assert config.login("else.example") is None

    def test_a_helper_s_names_are_read_in_any_case(self, write: Write, install: Install):
        install("all", f"""echo '{{"username": "ann", "secret": "{SECRET}"}}'""")
        assert LOGIN == write({"credsStore": "all"}).login("reg.example")

    def test_a_helper_is_asked_each_time(self, write: Write, install: Install):
        config = write({"credsStore": "all"})
        install("all", answering("ann", "first"))
        assert Login("ann", "first") == config.login("reg.example")
        install("all", answering("ann", "second"))
        assert Login("ann", "second") == config.login("reg.example")

    @pytest.mark.parametrize(
        ("script", "told"),
        [
            (
                f"echo {SECRET}; echo {SECRET} >&2; exit 3",
                "failed with exit code 3; to see why, run: echo reg.example",
            ),
            (f"echo {SECRET}", "answers without Username and Secret"),
            (f"""echo '{{"Secret": "{SECRET}"}}'""", "answers without Username and Secret"),
        ],
    )
    def test_a_helper_that_fails_is_named_and_not_quoted(
        self, write: Write, install: Install, script: str, told: str
    ):
        install("all", script)
        with pytest.raises(CredentialsError) as caught:
            write({"credsStore": "all"}).login("reg.example")

        assert "docker-credential-all" in str(caught.value)
        assert told in str(caught.value)
        assert SECRET not in repr(caught.value.args)
        assert str(caught.value) == str(pickle.loads(pickle.dumps(caught.value)))  # noqa: S301 - our own bytes

    def test_a_helper_that_is_not_there_is_named(self, write: Write):
        with pytest.raises(
            CredentialsError, match=r"docker-credential-nowhere cannot be started \(No such file"
        ):
            write({"credsStore": "nowhere"}).login("reg.example")

    @pytest.mark.parametrize("name", ["../evil", "a b", "-x", "/bin/sh"])
    def test_a_helpers_name_is_no_path(self, write: Write, name: str):
        with pytest.raises(CredentialsError, match="is no name of a credential helper"):
            write({"credsStore": name}).login("reg.example")

    def test_a_helper_that_hangs_is_killed_with_its_children(
        self, path: Path, write: Write, install: Install, tmp_path: Path
    ):
        alive = tmp_path / "alive"
        os.mkfifo(alive)
        # A reader of the pipe sees its end only once the helper and its child, which hold it open, are gone.
        install("slow", f"exec 9<>{alive}; sleep 600 & sleep 600")
        write({"credsStore": "slow"})
        reader = os.open(alive, os.O_RDONLY | os.O_NONBLOCK)
        with pytest.raises(CredentialsError, match=r"docker-credential-slow did not answer in 0\.3 s"):
            DockerConfig(path, helper_timeout_seconds=0.3).login("reg.example")
        with os.fdopen(reader, "rb", buffering=0) as pipe, selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)

            assert selector.select(timeout=10)
            assert b"" == pipe.read(1)

    def test_a_helper_that_prints_without_end_is_not_heard_out(self, write: Write, install: Install):
        install("endless", "head -c 3000000 /dev/zero; sleep 600")

        with pytest.raises(CredentialsError, match="docker-credential-endless prints more than 1,048,576"):
            write({"credsStore": "endless"}).login("reg.example")

    def test_a_long_answer_of_a_helper_is_read_to_its_end(self, write: Write, install: Install):
        install("long", answering("ann", SECRET * 20_000))

        assert Login("ann", SECRET * 20_000) == write({"credsStore": "long"}).login("reg.example")

    def test_a_helper_that_reads_nothing_does_no_harm(self, write: Write, tmp_path: Path, install: Install):
        install("deaf", "")
        (tmp_path / "docker-credential-deaf").write_text(f"#!/bin/sh\n{answering('ann', SECRET)}\n")

        assert LOGIN == write({"credsStore": "deaf"}).login("reg.example")
