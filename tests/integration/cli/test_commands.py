"""The main job from the shell: real registries, real Redis, real workers."""

from __future__ import annotations

import base64
import json
import re
import signal
import socket

import pytest

from tests.integration.cli.conftest import WAIT_SECONDS
from tests.services import ImageMaker, free_port


@pytest.fixture
def source(registry):
    return f"{registry.host}/source/app"


@pytest.fixture
def destination(registry):
    return f"{registry.host}/destination/app"


def without_progress(err):
    """Leave out the lines that a slow machine has every ten seconds."""
    return [
        line for line in err.splitlines() if not re.search(r"[\d,]+ of [\d,]+ stages|not ready yet", line)
    ]


class TestEmbedded:
    def test_it_copies_lists_and_deletes(
        self, shell_command, registry, source, destination, push_stages, digests_in
    ):
        command = shell_command
        stages = push_stages(registry, "source/app", 6)
        by_default = {"STAGEFLEET_WORKER__PROCESSES": ""}
        copied = command("copy", source, destination, "--embedded", "--json", **by_default)
        assert (0, []) == (copied.code, without_progress(copied.err))
        assert ("succeeded", 6) == (copied.objects[-1]["state"], copied.objects[-1]["succeeded"])
        assert stages == digests_in(registry, "destination/app")
        results = {outcome["item"]: outcome["result"]["stage_id"] for outcome in copied.objects[:-1]}
        assert {stage: stage for stage in stages} == results

        assert sorted(stages) == sorted(command("list", destination).out.split())
        described = command("list", "--json", destination).objects
        assert {f"{destination}@{digest}" for digest in stages.values()} == {
            found["repo_digest"] for found in described
        }

        gone, *kept = stages
        assert 0 == command("delete", destination, gone).code
        assert set(kept) == set(digests_in(registry, "destination/app"))

    def test_it_works_whatever_secrets_the_settings_hold(
        self, command, source, destination, push_stages, registry
    ):
        """R15: its worker gets them as they are, though it calls nobody back."""
        push_stages(registry, "source/app", 1)
        secret = "whsec_" + base64.b64encode(bytes(32)).decode()
        login = {"STAGEFLEET_FLOWER__USER": "me", "STAGEFLEET_FLOWER__PASSWORD": "planted-password"}
        copied = command(
            "copy", source, destination, "--embedded", STAGEFLEET_WEBHOOKS__SECRET=secret, **login
        )
        assert (0, []) == (copied.code, without_progress(copied.err))

    def test_a_second_copy_skips_all_without_a_request_a_stage(
        self, command, registry, source, destination, push_stages
    ):
        push_stages(registry, "source/app", 6)
        assert 0 == command("copy", source, destination).code
        before = len(registry.requests())
        again = command("copy", source, destination, "--json")
        assert (0, 6) == (again.code, again.objects[-1]["skipped"])
        assert len(registry.requests()) - before <= 4

    def test_a_dry_run_changes_nothing(self, command, registry, source, destination, push_stages, digests_in):
        push_stages(registry, "source/app", 2)
        result = command("copy", source, destination, "--dry-run", "--json")
        assert (0, 3, {}) == (result.code, len(result.objects), digests_in(registry, "destination/app"))

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_an_interrupt_cancels_what_has_not_begun(
        self, start, finish, registry, source, destination, push_stages, digests_in, number
    ):
        stages = push_stages(registry, "source/app", 80)
        process = start("copy", source, destination, "-j", 1, "--json")
        first = json.loads(process.stdout.readline())
        process.send_signal(number)
        result = finish(process)
        summary = result.objects[-1]
        assert (3, "cancelled") == (result.code, summary["state"])
        assert summary["succeeded"] == len(digests_in(registry, "destination/app")) < len(stages)
        assert first["item"] in stages

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_an_interrupt_before_there_is_a_run_ends_the_command(self, start, finish, destination, number):
        """In a container the command is the first process, which no signal ends that it does not expect."""
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.settimeout(WAIT_SECONDS)
            process = start("copy", f"127.0.0.1:{server.getsockname()[1]}/app", destination, "--embedded")
            connection, _ = server.accept()
            with connection:
                process.send_signal(number)
                result = finish(process)
        assert (3, "") == (result.code, result.out)
        assert "interrupted" in result.err

    def test_a_directory_with_packages_of_the_same_names_is_no_trouble(
        self, shell_command, registry, source, destination, push_stages, tmp_path
    ):
        for name in ("tasks", "workers", "config", "stagefleet"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "__init__.py").write_text("raise RuntimeError('not this one')\n")
        push_stages(registry, "source/app", 1)
        assert 0 == shell_command("copy", source, destination).code


class TestFleet:
    def test_a_detached_run_is_watched_from_elsewhere(
        self, shell_command, fleet, registry, source, destination, push_stages, digests_in
    ):
        command = shell_command
        stages = push_stages(registry, "source/app", 5)
        detached = command("copy", source, destination, "--detach")
        watched = command("runs", "watch", detached.out.strip(), "--json")
        assert (0, 6) == (watched.code, len(watched.objects))
        assert stages == digests_in(registry, "destination/app")
        (shown,) = command("runs", "show", detached.out.strip(), "--json").objects
        assert ("succeeded", 5) == (shown["state"], shown["succeeded"])
        assert [detached.out.strip()] == [run["run"] for run in command("runs", "list", "--json").objects]

    def test_a_retried_job_gets_the_same_run(
        self, command, fleet, registry, source, destination, push_stages
    ):
        push_stages(registry, "source/app", 3)
        one, two = (
            command("copy", source, destination, "--idempotency-key", "job", "--json") for _ in range(2)
        )
        assert one.objects[-1] == two.objects[-1]

    def test_deletion_that_is_off_fails_the_item_and_says_what_turns_it_on(
        self, command, fleet, make_registry, push_stages
    ):
        registry = make_registry(delete=False)
        (stage,) = push_stages(registry, "app", 1)
        result = command("delete", f"{registry.host}/app", stage, "--json")
        outcome, _ = result.objects
        assert (1, "DeletionDisabledError") == (result.code, outcome["error"]["type"])
        assert "delete" in outcome["error"]["message"]

    def test_doctor_finds_all_well(self, command, fleet, registry):
        result = command("doctor", f"{registry.host}/app", "--json")
        states = {found["check"]: found["state"] for found in result.objects}
        assert 0 == result.code
        optional = {"redis disk", "workers of fetch"}  # this Redis keeps nothing, and no engine is there
        assert {"ok"} == {state for check, state in states.items() if check not in optional}


class TestRefusals:
    def test_a_login_that_is_refused_names_the_file_and_not_the_password(
        self, shell_command, make_registry, tmp_path
    ):
        registry = make_registry(htpasswd={"user": "right"})
        login = base64.b64encode(b"user:hunter2").decode()
        (tmp_path / "config.json").write_text(json.dumps({"auths": {registry.host: {"auth": login}}}))
        result = shell_command("copy", f"{registry.host}/a", f"{registry.host}/b")
        assert 2 == result.code
        assert str(tmp_path / "config.json") in result.err
        assert 1 == len(result.err.splitlines())
        assert "hunter2" not in result.err
        assert login not in result.err

    def test_a_registry_that_does_not_answer_gives_4(self, command):
        result = command("list", f"127.0.0.1:{free_port()}/app", STAGEFLEET_HTTP__RETRIES="0")
        assert (4, 1) == (result.code, len(result.err.splitlines()))

    def test_no_redis_at_the_url_gives_4(self, command, registry, source, destination, push_stages):
        push_stages(registry, "source/app", 1)
        url = f"redis://:hunter2@127.0.0.1:{free_port()}/0"
        result = command("copy", source, destination, STAGEFLEET_REDIS_URL=url)
        assert (4, 1) == (result.code, len(result.err.splitlines()))
        assert "hunter2" not in result.err

    def test_a_stage_that_the_source_lacks_is_named(
        self, command, registry, source, destination, push_stages
    ):
        push_stages(registry, "source/app", 1)
        missing = "f" * 56
        result = command("copy", source, destination, missing)
        assert 2 == result.code
        assert missing in result.err


def test_multi_platform_stages_and_foreign_tags(command, registry, source, destination, digests_in):
    with ImageMaker(registry) as maker:
        members = [maker.push_image("source/app", None, layers=[name.encode()]) for name in ("one", "two")]
        index = maker.push_index("source/app", "e" * 56, members)
        maker.push_image("source/app", "latest")
    result = command("copy", source, destination, "--json")
    assert 0 == result.code
    assert {"e" * 56: index.digest} == digests_in(registry, "destination/app")
