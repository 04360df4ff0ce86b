"""What `deploy/secrets.sh` makes: passwords, certificates, settings."""

from __future__ import annotations

import os
import shutil
import ssl
import stat
import subprocess
import tomllib
from pathlib import Path

import pytest
from cryptography import x509

from stagefleet.cli.app import COMMANDS
from stagefleet.settings import Settings
from tests.services import clean_environment

DEPLOY = Path(__file__).parents[3] / "deploy"

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")


def run(script, *arguments):
    return subprocess.run(
        [str(script), *map(str, arguments)],
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    """The script, in a folder where settings of one's own may lie beside it."""
    folder = tmp_path_factory.mktemp("deploy")
    return Path(shutil.copy2(DEPLOY / "secrets.sh", folder))


@pytest.fixture(scope="module")
def made(script):
    """What one run makes, by file name."""
    folder = script.parent / "made"
    result = run(script, folder, "redis.internal")
    assert (0, "", "") == (result.returncode, result.stdout, result.stderr)
    return folder


def test_redis_speaks_tls_alone_asks_for_the_password_and_forgets_nothing(made):
    """R29: the fleet's Redis is closed by default."""
    lines = dict(line.split(" ", 1) for line in (made / "redis.conf").read_text().splitlines())

    assert ("0", "6379") == (lines["port"], lines["tls-port"])
    assert (made / "redis-password").read_text().strip() == lines["requirepass"]
    assert len(lines["requirepass"]) >= 40
    assert ("yes", "noeviction") == (lines["appendonly"], lines["maxmemory-policy"])


@pytest.mark.parametrize(("file", "user"), [("stagefleet.toml", ""), ("flower.toml", "flower")])
def test_the_settings_are_real_ones_and_only_flower_knows_its_login(made, file, user):
    settings = Settings.model_validate(tomllib.loads((made / file).read_text()))
    password = (made / "redis-password").read_text().strip()

    assert str(settings.redis_url).startswith("rediss://")
    assert password in (made / file).read_text()
    assert user == settings.flower.user
    expected = (made / "flower-password").read_text().strip() if user else ""
    assert expected == settings.flower.password.get_secret_value()


def test_the_certificate_is_signed_by_the_authority_and_names_the_hosts(made):
    context = ssl.create_default_context(cafile=str(made / "redis-ca.pem"))
    context.load_cert_chain(made / "redis.pem", made / "redis.key")
    certificate = x509.load_pem_x509_certificate((made / "redis.pem").read_bytes())
    authority = x509.load_pem_x509_certificate((made / "redis-ca.pem").read_bytes())

    certificate.verify_directly_issued_by(authority)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {"redis", "localhost", "redis.internal"} == set(names.get_values_for_type(x509.DNSName))


def test_no_other_user_of_the_host_gets_at_them(made):
    assert 0o700 == stat.S_IMODE(made.stat().st_mode)
    kept = {path.name: stat.S_IMODE(path.stat().st_mode) for path in made.iterdir()}
    assert (0o400, 0o400) == (kept["redis-ca.key"], kept["flower-password"])


def test_a_second_run_keeps_what_is_there(script, made):
    before = {path.name: path.read_bytes() for path in made.iterdir()}

    assert 0 == run(script, made).returncode

    assert before == {path.name: path.read_bytes() for path in made.iterdir()}


def test_settings_of_ones_own_become_part_of_both_files(script):
    own = script.parent / "stagefleet.toml"
    own.write_text('[projects.app]\nprimary = "registry.example.com/app"\n')
    try:
        folder = script.parent / "with-own"
        assert 0 == run(script, folder).returncode
    finally:
        own.unlink()

    for file in ("stagefleet.toml", "flower.toml"):
        settings = Settings.model_validate(tomllib.loads((folder / file).read_text()))
        assert ["app"] == list(settings.projects)


def test_it_tells_what_it_does_and_refuses_unknown_options(script):
    assert "deploy/secrets.sh [FOLDER [HOST...]]" in run(script, "--help").stdout
    refused = run(script, "--force")
    assert (2, 1) == (refused.returncode, len(refused.stderr.splitlines()))


class TestEntrypoint:
    """O-A3: the image's entrypoint, with a `stagefleet` that says how it was called."""

    @pytest.fixture
    def start(self, tmp_path):
        (tmp_path / "stagefleet").write_text('#!/bin/sh\necho "stagefleet $*"\n')
        (tmp_path / "stagefleet").chmod(0o755)
        path = f"{tmp_path}{os.pathsep}/usr/bin{os.pathsep}/bin"

        def call(*arguments, given=""):
            result = subprocess.run(
                [str(DEPLOY / "entrypoint.sh"), *arguments],
                env={"PATH": path},
                input=given,
                capture_output=True,
                text=True,
                timeout=20,
                check=False,
            )
            return result.stdout.strip() or result.returncode

        return call

    def test_a_command_of_ours_is_ours(self, start):
        assert "stagefleet copy SRC DST" == start("copy", "SRC", "DST")
        assert "stagefleet --help" == start("--help")
        assert "stagefleet coppy" == start("coppy")
        assert "stagefleet doctor" == start("stagefleet", "doctor")

    def test_gitlab_jenkins_and_github_start_what_they_start(self, start):
        script = "if [ -x /bin/sh ]; then exec /bin/sh; fi"
        assert "hello" == start("sh", "-c", script, given="echo hello\n")
        assert "cat reads" == start("cat", given="cat reads\n")
        assert "x" == start("tail", "-f", "/dev/stdin", "--pid", "1999999999", given="x\n")
        assert 3 == start("sh", "-c", "exit 3")

    def test_no_command_of_ours_is_the_name_of_a_program(self):
        assert {"copy", "runs"} <= COMMANDS.keys()
        assert [] == [name for name in COMMANDS if shutil.which(name, path="/usr/bin:/bin:/usr/sbin")]
