"""What is deployed cannot run here, so it is held against the code that it names."""

from __future__ import annotations

import json
import re
import shlex
from importlib.metadata import version
from pathlib import Path

import pytest
import typer
import yaml
from flower.urls import handlers
from typer.core import TyperGroup

import workers.supervisor
from stagefleet.cli.app import app
from stagefleet.settings import Settings, WorkerSettings

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "deploy"
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
OURS = "stagefleet"  # the image
MADE = {
    "redis.conf",
    "redis.pem",
    "redis.key",
    "redis-ca.pem",
    "redis-password",
    "stagefleet.toml",
    "flower.toml",
}
"""What `deploy/secrets.sh` makes and the services read."""


def objects():
    return [
        one
        for path in MANIFESTS
        if path.name != "kustomization.yaml"
        for one in yaml.safe_load_all(path.read_text())
    ]


def workloads():
    """Name, specification, and the specification of the pods, of each object that has pods."""
    for one in objects():
        spec = one["spec"].get("jobTemplate", one)["spec"]
        if "template" in spec:
            yield one["metadata"]["name"], spec, spec["template"]["spec"]


def containers():
    return [(name, spec, container) for name, _, spec in workloads() for container in spec["containers"]]


def instructions(pattern):
    """What the lines of the Dockerfile that match hold, in order."""
    return re.findall(rf"^{pattern}$", DOCKERFILE, re.MULTILINE)


def check_command_line(arguments):
    """Parse as `stagefleet` would, up to the point of doing it."""
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    with group.make_context("stagefleet", list(arguments)) as context:
        name, command, rest = group.resolve_command(context, [*context._protected_args, *context.args])
        assert command is not None
        with command.make_context(name, rest, parent=context):
            pass


def check_program(arguments):
    """Parse a container's command, which is ours in full."""
    program, *rest = arguments
    assert "stagefleet" == program
    check_command_line(rest)


def check_variable(variable):
    if variable == "STAGEFLEET_CONFIG":
        return
    section, *keys = variable.removeprefix("STAGEFLEET_").lower().split("__")
    field = Settings.model_fields[section]
    for key in keys:
        assert isinstance(field.annotation, type)
        field = field.annotation.model_fields[key]


def test_a_wrong_command_line_would_be_seen():
    with pytest.raises(Exception, match="no-such-option"):
        check_command_line(["worker", "--no-such-option"])
    with pytest.raises(KeyError):
        check_variable("STAGEFLEET_WORKER__NO_SUCH_KEY")


def test_the_image_starts_a_worker_and_checks_its_health():
    entry, command = (json.loads(found) for found in instructions(r"(?:ENTRYPOINT|CMD) (\[.*\])"))
    assert ["stagefleet-entrypoint"] == entry
    assert ["COPY deploy/entrypoint.sh /usr/local/bin/stagefleet-entrypoint"] == instructions(
        "(COPY deploy.*)"
    )
    check_command_line(command)
    (probe,) = instructions(r"\s+CMD (.*)")
    check_program(shlex.split(probe.rpartition("exec ")[2]))


def test_the_image_copies_what_exists_and_what_is_not_kept_from_it():
    copied = {name for line in instructions(r"COPY (?!--from)(.*)") for name in shlex.split(line)[:-1]}
    admitted = {
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")
    }
    assert admitted == copied
    assert set() == {name for name in copied if not (ROOT / name).exists()}


def test_the_image_holds_every_package_of_the_wheel():
    packages = re.search(r"^packages = (\[.*\])", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert packages is not None
    assert set() == set(json.loads(packages[1])) - set(instructions(r"COPY (\w+) \w+"))


def test_the_image_names_the_version_of_the_source():
    assert [version("stagefleet")] == instructions(r'\s+org\.opencontainers\.image\.version="(.*)" \\')


def test_the_image_does_not_run_as_root():
    assert ["10001:10001"] == instructions(r"USER (.*)")


@pytest.mark.parametrize("name", [name for name, one in COMPOSE["services"].items() if one["image"] == OURS])
def test_each_service_of_the_compose_file_starts_a_real_command(name):
    service = COMPOSE["services"][name]
    assert "entrypoint" not in service
    check_command_line(service["command"])
    for variable in service["environment"]:
        if variable.startswith("STAGEFLEET_"):
            check_variable(variable)


@pytest.mark.parametrize("arguments", [
    COMPOSE["services"]["redis"]["command"],
    *(container["args"] for _, _, container in containers() if container["name"] == "redis"),
], ids=["compose", "kubernetes"])  # fmt: skip
def test_redis_takes_its_options_from_the_file_that_is_made_for_it(arguments):
    assert ["redis-server", "/run/secrets/redis.conf"] == arguments[:2]
    assert "requirepass" not in " ".join(arguments)  # an argument shows in the process list


@pytest.mark.parametrize(("name", "container"), [
    (name, container) for name, _, container in containers() if container["image"] == OURS
])  # fmt: skip
def test_each_container_starts_a_real_command_under_real_settings(name, container):
    assert "command" not in container
    check_command_line(container["args"])
    for variable in container.get("env", []):
        if variable["name"].startswith("STAGEFLEET_"):
            check_variable(variable["name"])


def test_the_probes_name_real_commands_pages_and_ports():
    paths = {re.sub(r"[\\$]", "", handler[0]) for handler in handlers if isinstance(handler, tuple)}
    paths.add("/healthz")  # the exporter's
    probed = 0
    for _, _, container in containers():
        for probe in (container.get("livenessProbe"), container.get("readinessProbe")):
            if probe is None:
                continue
            probed += 1
            if "exec" in probe and container["image"] == OURS:
                check_program(probe["exec"]["command"])
            if "httpGet" in probe:
                assert probe["httpGet"]["path"] in paths
                assert probe["httpGet"]["port"] in {port["name"] for port in container["ports"]}
    assert probed == 7


def test_a_worker_is_not_killed_before_it_has_handed_back_what_it_holds():
    needed = WorkerSettings().drain_seconds + workers.supervisor._OVERTIME_SECONDS
    compose = int(COMPOSE["services"]["worker"]["stop_grace_period"].removesuffix("s"))
    kubernetes = {name: pod for name, _, pod in workloads()}["worker"]["terminationGracePeriodSeconds"]
    assert [] == [seconds for seconds in (compose, kubernetes) if seconds < needed + 10]


@pytest.mark.parametrize(("name", "spec", "container"), containers())
def test_no_container_has_more_rights_than_it_needs(name, spec, container):
    assert spec["securityContext"]["runAsNonRoot"]
    assert not spec["automountServiceAccountToken"]
    assert {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    } == container["securityContext"]
    assert "memory" in container["resources"]["limits"]


@pytest.mark.parametrize(("name", "workload", "spec"), list(workloads()))
def test_each_mount_has_its_volume(name, workload, spec):
    claims = {claim["metadata"]["name"] for claim in workload.get("volumeClaimTemplates", [])}
    volumes = {volume["name"] for volume in spec.get("volumes", [])} | claims
    mounts = {
        mount["name"] for container in spec["containers"] for mount in container.get("volumeMounts", [])
    }
    assert volumes == mounts


def test_every_selector_has_its_pods():
    labels = [workload["template"]["metadata"]["labels"] for _, workload, _ in workloads()]
    for one in objects():
        selector = one["spec"].get("selector")
        if selector is not None:
            assert selector.get("matchLabels", selector) in labels, one["metadata"]["name"]


def test_the_kustomization_takes_every_manifest_and_sets_real_variables():
    kustomization = yaml.safe_load((DEPLOY / "kubernetes" / "kustomization.yaml").read_text())
    assert sorted({path.name for path in MANIFESTS} - {"kustomization.yaml"}) == sorted(
        kustomization["resources"]
    )
    generated = {Path(file).name for one in kustomization["secretGenerator"] for file in one["files"]}
    assert generated == MADE
    for literal in kustomization["configMapGenerator"][0]["literals"]:
        name = literal.partition("=")[0]
        if name.startswith("STAGEFLEET_"):
            check_variable(name)


def test_every_secret_of_the_compose_file_is_made_and_given_to_somebody():
    declared = {name: Path(secret["file"]).name for name, secret in COMPOSE["secrets"].items()}
    given = {name for service in COMPOSE["services"].values() for name in service["secrets"]}
    assert declared.keys() == given
    assert MADE == set(declared.values())
    for name, file in declared.items():
        assert name == file


@pytest.mark.parametrize("where", ["compose.yaml", "kubernetes"])
def test_no_environment_holds_a_secret(where):
    """R16, R29: passwords and URLs with passwords stand in files, which `docker inspect` does not show."""
    texts = [path.read_text() for path in (DEPLOY / where).glob("*.yaml")] or [(DEPLOY / where).read_text()]
    assert texts
    for text in texts:
        assert not re.search(r"_PASSWORD|REDIS_URL|redis://|--requirepass", text, re.IGNORECASE)
