"""What set-up decides, with stand-ins for what it calls: nothing is downloaded or installed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SERVICES = ("docker-registry", "dockerd", "busybox", "curl", "jq", "skopeo", "prometheus")
TOOLS = (
    *("bash", "sh", "cat", "dirname", "env", "id", "mkdir", "mv", "rm"),
    *("sha256sum", "sort", "touch", "chmod", "true"),
)


class Machine:
    """A checkout beside a PATH of its own, on which each stand-in notes how it was called."""

    def __init__(self, folder):
        self.checkout, self._bin, self._calls = folder / "checkout", folder / "bin", folder / "calls"
        (self.checkout / "scripts").mkdir(parents=True)
        self._bin.mkdir()
        self._calls.touch()
        shutil.copy(ROOT / "scripts" / "setup.sh", self.checkout / "scripts")
        for name in ("requirements.lock", "pyproject.toml", "scripts/docs.lock"):
            (self.checkout / name).write_text(f"{name}\n")
        for tool in TOOLS:
            path = shutil.which(tool)
            assert path is not None, tool
            (self._bin / tool).symlink_to(path)
        self.add("python3", 'case "$2" in venv) mkdir -p "$3/bin"; cp_self "$3/bin/python" ;; esac')
        self.add("id", "echo 1000")

    def add(self, name, body="", folder=None):
        """Put a stand-in on the PATH."""
        path = (folder or self._bin) / name
        path.unlink(missing_ok=True)
        path.write_text(
            f'#!{shutil.which("bash")}\necho "{name} $*" >> "{self._calls}"\n'
            f'cp_self() {{ cat "$0" > "$1"; chmod +x "$1"; }}\n{body}\n'
        )
        path.chmod(0o755)

    def add_uv(self):
        """Put uv where set-up puts it."""
        folder = self.checkout / ".tools" / "bin"
        folder.mkdir(parents=True, exist_ok=True)
        self.add("uv", '[ "$1" = venv ] && mkdir -p "${@: -1}/bin"; true', folder)

    def set_up(self, *arguments, **environment):
        """Run set-up; returns its exit status, what it said, and the calls that it made."""
        self._calls.write_text("")
        done = subprocess.run(
            ["bash", "scripts/setup.sh", *arguments],
            cwd=self.checkout,
            env={"PATH": str(self._bin), "HOME": os.devnull, **environment},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        return done.returncode, done.stderr, self._calls.read_text().splitlines()


@pytest.fixture
def machine(tmp_path):
    made = Machine(tmp_path)
    made.add_uv()
    return made


def uv_calls(calls):
    return [call for call in calls if call.startswith("uv ")]


def test_packages_are_installed_from_the_lock_with_hashes_checked(machine):
    status, _, calls = machine.set_up()
    assert 0 == status
    (sync,) = [call for call in calls if call.startswith("uv pip sync")]
    assert "--require-hashes" in sync
    assert sync.endswith("requirements.lock")
    (own,) = [call for call in calls if call.startswith("uv pip install")]
    assert "--no-deps" in own


@pytest.mark.parametrize("chosen", [None, "/elsewhere"])
def test_uv_keeps_its_cache_in_the_checkout_unless_told_where(machine, chosen):
    note = f'echo "cache $UV_CACHE_DIR" >> "{machine.checkout}/../calls"; true'
    machine.add("uv", note, machine.checkout / ".tools/bin")
    environment = {} if chosen is None else {"UV_CACHE_DIR": chosen}
    _, _, calls = machine.set_up(**environment)
    assert {f"cache {chosen or machine.checkout / '.tools/cache'}"} == {
        call for call in calls if call.startswith("cache")
    }


def test_uv_believes_the_certificates_of_the_system(machine):
    if not Path("/etc/ssl/certs/ca-certificates.crt").exists():
        pytest.skip("this system has no list of certificates")
    note = f'echo "system $UV_SYSTEM_CERTS" >> "{machine.checkout}/../calls"; true'
    machine.add("uv", note, machine.checkout / ".tools/bin")
    _, _, calls = machine.set_up()
    assert {"system 1"} == {call for call in calls if call.startswith("system")}


def test_locks_are_written_with_hashes_and_without_addresses(machine):
    status, _, calls = machine.set_up("lock")
    assert 0 == status
    compiled = [call.split() for call in calls if call.startswith("uv pip compile")]
    assert ["requirements.lock", "scripts/docs.lock"] == [words[-1] for words in compiled]
    for words in compiled:
        assert {"--generate-hashes", "--no-emit-index-url"} <= set(words)


def test_what_builds_the_site_has_an_environment_of_its_own(machine):
    machine.set_up()
    status, _, calls = machine.set_up("docs")
    assert 0 == status
    (sync,) = [call for call in calls if call.startswith("uv pip sync")]
    assert "--require-hashes --python .tools/docs-venv scripts/docs.lock" in sync
    assert [] == [call for call in calls if call.startswith("uv pip install")]


def test_a_second_set_up_installs_nothing(machine):
    machine.set_up()
    status, said, calls = machine.set_up()
    assert (0, "", []) == (status, said, uv_calls(calls))


@pytest.mark.parametrize("name", ["requirements.lock", "pyproject.toml"])
def test_a_changed_lock_or_project_is_installed(machine, name):
    machine.set_up()
    (machine.checkout / name).write_text("changed\n")
    _, _, calls = machine.set_up()
    assert 2 <= len(uv_calls(calls))


def test_an_install_that_fails_is_tried_again_next_time(machine):
    machine.add(
        "uv", '[ "$1" = venv ] && mkdir -p .venv/bin; [ "$2" != sync ]', machine.checkout / ".tools/bin"
    )
    assert 0 != machine.set_up()[0]
    machine.add_uv()
    status, _, calls = machine.set_up()
    assert 0 == status
    assert uv_calls(calls)


def test_without_the_right_to_install_set_up_says_what_to_install(machine):
    if Path("/usr/sbin/docker-registry").exists():
        pytest.skip("docker-registry is where every PATH finds it")
    machine.add("sudo", "exit 1")
    status, said, calls = machine.set_up("services")
    assert 1 == status
    assert "apt-get install docker-registry" in said.splitlines()[-1]
    assert [] == [call for call in calls if call.startswith("apt-get")]


def test_the_image_needs_more_than_the_other_services(machine):
    for program in SERVICES:
        machine.add(program)
    machine.add("sudo", "exit 1")
    status, said, _ = machine.set_up("image")
    assert 1 == status
    assert said.splitlines()[-1].endswith("apt-get install mmdebstrap")


def test_what_is_there_is_not_installed(machine):
    for program in SERVICES:
        machine.add(program)
    machine.add("apt-get")
    status, _, calls = machine.set_up("services")
    assert (0, []) == (status, [call for call in calls if call.startswith("apt-get")])


def test_lacking_services_are_installed_without_starting_any(machine):
    if Path("/usr/sbin/docker-registry").exists():
        pytest.skip("docker-registry is where every PATH finds it")
    machine.add("sudo", 'shift; if [ $# -gt 0 ]; then exec "$@"; fi')
    machine.add("apt-get", 'echo "runlevel $RUNLEVEL" >> "${0%/bin/*}/calls"')
    status, _, calls = machine.set_up("services")
    assert 0 == status
    installs = [call for call in calls if call.startswith("apt-get")]
    assert ["update", "install"] == [call.split()[1] for call in installs]
    assert "--no-install-recommends docker-registry" in installs[1]
    assert {"runlevel 1"} == {call for call in calls if call.startswith("runlevel")}


def test_the_browser_is_installed_for_the_pages_alone(machine):
    for program in SERVICES:
        machine.add(program)
    machine.add("sudo", 'shift; if [ $# -gt 0 ]; then exec "$@"; fi')
    machine.add("apt-get")
    for services, wanted in (("services", []), ("browser", ["chromium chromium-driver pngquant"])):
        status, said, calls = machine.set_up(services)
        assert 0 == status, said
        installs = [call for call in calls if call.startswith("apt-get install")]
        assert wanted == [call.partition("--no-install-recommends ")[2] for call in installs]


BUILT = ("distribution", "ggcr", "olareg")
GO_BUILD = 'case "$1" in env) echo go1.26.8 ;; build) touch registry; chmod +x registry ;; esac'


def built_registries(machine):
    return tuple(name for name in BUILT if (machine.checkout / ".tools" / name / "registry").exists())


def test_registries_are_built_once_where_go_is(machine):
    for program in SERVICES:
        machine.add(program)
    machine.add("go", GO_BUILD)
    status, said, calls = machine.set_up("tests")
    assert (0, BUILT) == (status, built_registries(machine)), said
    assert "go mod edit -require github.com/distribution/distribution/v3@v3.1.2" in calls
    assert "go build -ldflags -s -w -o registry github.com/olareg/olareg/cmd/olareg" in calls
    assert not (machine.checkout / ".tools/go").exists()
    assert [] == [call for call in machine.set_up("tests")[2] if call.startswith("go ")]


@pytest.mark.parametrize("go", ["", "echo go1.25.9", '[ "$1" = env ] && echo go1.26'])
def test_without_a_registry_of_their_own_tests_are_skipped_and_set_up_says_so(machine, go):
    """Without Go, with one that is too old, and where the builds fail."""
    for program in SERVICES:
        machine.add(program)
    if go:
        machine.add("go", go)
    status, said, _ = machine.set_up("tests")
    assert (0, ()) == (status, built_registries(machine))
    assert "will be skipped" in said.splitlines()[-1]


def test_a_registry_that_cannot_be_built_leaves_the_others(machine):
    for program in SERVICES:
        machine.add(program)
    machine.add("go", f'case "$*" in *olareg@*) exit 1 ;; esac; {GO_BUILD}')
    status, said, _ = machine.set_up("tests")
    assert (0, ("distribution", "ggcr")) == (status, built_registries(machine)), said
    assert "olareg was not built" in said
