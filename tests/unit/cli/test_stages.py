from __future__ import annotations

import io
import json
import os
import signal
import threading

import pytest

from stagefleet.cli import session
from stagefleet.errors import RedisUnreachableError, RegistryUnreachableError, UnsupportedManifestError

SOURCE, DESTINATION = "src.test/app", "dst.test/app"
SUMMARY = {"run", "state", "total", "succeeded", "failed", "skipped", "cancelled", "seconds"}
OUTCOME = {"item", "host", "state", "result", "error", "seconds", "bytes", "attempts"}
DESCRIPTION = {
    *("stage_id", "digest", "created_ms", "name", "repo_digest", "image_id"),
    *("parent_id", "labels", "env", "size", "created_at"),
}

pytestmark = pytest.mark.usefixtures("in_fleet")


def test_list_prints_stage_ids_one_a_line(command, make_stage):
    result = command("list", SOURCE)
    assert (0, "") == (result.code, result.err)
    assert [make_stage(n) for n in range(5)] == result.out.splitlines()


def test_a_long_list_describes_each_stage(command):
    result = command("list", "-l", SOURCE)
    assert 0 == result.code
    assert 5 == result.out.count("1.2 kB")


def test_list_as_json_is_one_description_a_line(command):
    result = command("list", "--json", SOURCE)
    assert [DESCRIPTION] * 5 == [set(found) for found in result.objects]


@pytest.mark.parametrize("how", ["-l", "--json"])
def test_a_list_shows_the_sound_stages_names_the_others_and_fails(
    command, registries, make_stage, monkeypatch, how
):
    """R11, x1: one stage that cannot be described hides no other; the exit code is 1."""
    describe = registries.describe_stage

    def damaged(repository, stage_id):
        if str(stage_id) == make_stage(2):
            raise UnsupportedManifestError("of another kind")
        return describe(repository, stage_id)

    monkeypatch.setattr(registries, "describe_stage", damaged)
    result = command("list", how, SOURCE)
    assert (1, 4) == (result.code, len(result.out.splitlines()))
    assert f"stagefleet: {make_stage(2)} is left out: of another kind\n" == result.err


def test_a_stage_that_went_while_a_list_was_made_is_no_failure(command, registries, make_stage, monkeypatch):
    """x1: it is named all the same."""
    describe = registries.describe_stage

    def going(repository, stage_id):
        if str(stage_id) == make_stage(2):
            registries.stages[SOURCE].remove(make_stage(2))
        return describe(repository, stage_id)

    monkeypatch.setattr(registries, "describe_stage", going)
    result = command("list", "-l", SOURCE)
    assert (0, 4) == (result.code, len(result.out.splitlines()))
    assert f"{make_stage(2)} is left out" in result.err


def test_a_registry_that_goes_while_a_list_is_made_gives_4(command, registries, monkeypatch):
    """x1: what is out of reach is not left out stage by stage."""

    def gone(*_):
        raise RegistryUnreachableError("src.test does not answer")

    monkeypatch.setattr(registries, "describe_stage", gone)
    monkeypatch.setattr(registries, "ping", gone)
    result = command("list", "-l", SOURCE)
    assert (4, "") == (result.code, result.out)
    assert "left out" not in result.err


def test_copy_prints_outcomes_as_they_come_and_the_summary_last(command, fake_worker):
    result = command("copy", SOURCE, DESTINATION, "--json")
    *outcomes, summary = result.objects
    assert 0 == result.code
    assert [OUTCOME] * 5 == [set(outcome) for outcome in outcomes]
    assert set(summary) == SUMMARY
    assert ("succeeded", 5, 4, 1) == tuple(
        summary[name] for name in ("state", "total", "succeeded", "skipped")
    )


def test_copy_tells_people_the_result_in_one_line(command, fake_worker):
    result = command("copy", SOURCE, DESTINATION)
    assert (0, 1) == (result.code, len(result.out.splitlines()))
    assert "succeeded: 5 stages (4 copied, 1 skipped), 40 bytes" in result.out


def test_a_failed_item_is_told_on_stderr_and_gives_exit_code_1(command, fake_worker, make_stage):
    fake_worker.failing = {make_stage(3)}
    result = command("copy", SOURCE, DESTINATION)
    assert 1 == result.code
    assert f"stagefleet: {make_stage(3)} failed: the registry forbids it\n" in result.err


def test_a_cancelled_run_gives_exit_code_3(command, fake_worker, ledger):
    fake_worker.on_claim = lambda _: [ledger.cancel(run.id) for run in ledger.runs()]
    result = command("copy", SOURCE, DESTINATION, "-j", 1, "--json")
    assert (3, "cancelled") == (result.code, result.objects[-1]["state"])


def test_without_a_worker_the_command_ends_with_4_and_its_summary(command):
    result = command("copy", SOURCE, DESTINATION, "--json")
    assert (4, "cancelled") == (result.code, result.objects[-1]["state"])
    first, last = result.err.splitlines()
    assert first.startswith("stagefleet: no worker listens")
    assert last.startswith("stagefleet: error: no worker")


def test_parallel_is_the_runs(command, ledger):
    command("copy", SOURCE, DESTINATION, "-j", 3, "--detach")
    assert [3] == [run.spec.parallel for run in ledger.runs()]


def test_detach_prints_the_runs_id_and_leaves(command, ledger):
    result = command("copy", SOURCE, DESTINATION, "--detach")
    assert (0, [run.id for run in ledger.runs()]) == (result.code, result.out.split())


def test_a_dry_run_says_what_would_be_done_and_starts_nothing(command, ledger):
    result = command("copy", SOURCE, DESTINATION, "--dry-run", "--json")
    *outcomes, summary = result.objects
    assert ["skipped"] + ["planned"] * 4 == [outcome["state"] for outcome in outcomes]
    assert (set(summary), None, 5, 1) == (SUMMARY, summary["run"], summary["total"], summary["skipped"])
    assert [] == list(ledger.runs())


def test_the_same_idempotency_key_gives_the_same_run(command, fake_worker):
    first, again = (
        command("copy", SOURCE, DESTINATION, "--idempotency-key", "job-1", "--json") for _ in range(2)
    )
    assert first.objects[-1]["run"] == again.objects[-1]["run"]
    assert 4 == len(fake_worker.done)


class TestInterrupt:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_the_first_cancels_and_waits_for_what_runs(
        self, command, fake_worker, ledger, monkeypatch, number
    ):
        cancelled = threading.Event()
        cancel = ledger.cancel

        def cancel_and_tell(*arguments, **options):
            answer = cancel(*arguments, **options)
            cancelled.set()
            return answer

        def interrupt(_):
            os.kill(os.getpid(), number)
            assert cancelled.wait(30)

        monkeypatch.setattr(ledger, "cancel", cancel_and_tell)
        fake_worker.on_claim = interrupt
        result = command("copy", SOURCE, DESTINATION, "-j", 1, "--json")
        summary = result.objects[-1]
        assert (3, "cancelled", 1) == (result.code, summary["state"], summary["succeeded"])
        assert "once more leaves at once" in result.err

    @pytest.mark.parametrize("key", [(), ("--idempotency-key", "job")], ids=["", "keyed"])
    @pytest.mark.parametrize("moment", ["start", "run", "report"])
    def test_none_leaves_a_run_that_has_just_started(self, command, ledger, monkeypatch, moment, key):
        """From its start to the first look at its outcomes; no worker is there, so it would stay."""
        owner, name = {
            "start": (ledger, "start"),
            "run": (ledger, "run"),
            "report": (session, "RunReport"),
        }[moment]
        original, is_first = getattr(owner, name), iter([True])

        def interrupt(*arguments, **options):
            answer = original(*arguments, **options)
            if next(is_first, False):
                os.kill(os.getpid(), signal.SIGINT)
            return answer

        monkeypatch.setattr(owner, name, interrupt)
        result = command("copy", SOURCE, DESTINATION, *key)
        assert (3, ["cancelled"]) == (result.code, [run.state for run in ledger.runs()])

    def test_the_first_cancels_also_through_an_outage(self, command, fake_worker, ledger, monkeypatch):
        """R8: Ctrl-C while Redis is away cancels the run as soon as it answers."""
        cancelled = threading.Event()
        cancel, losses = ledger.cancel, iter([RedisUnreachableError("away")] * 2)

        def cancel_later(*arguments, **options):
            for error in losses:
                raise error
            answer = cancel(*arguments, **options)
            cancelled.set()
            return answer

        def interrupt(_):
            os.kill(os.getpid(), signal.SIGINT)
            assert cancelled.wait(30)

        monkeypatch.setattr(ledger, "cancel", cancel_later)
        fake_worker.on_claim = interrupt
        assert 3 == command("copy", SOURCE, DESTINATION, "-j", 1).code

    def test_the_second_leaves_at_once(self, command, fake_worker, ledger):
        left = threading.Event()

        def interrupt_twice(_):
            while signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
                if left.wait(0.01):  # the run has started, and the command does not listen yet
                    return
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)
            assert left.wait(30)

        fake_worker.on_claim = interrupt_twice
        result = command("copy", SOURCE, DESTINATION, "-j", 1)
        left.set()
        assert (3, "") == (result.code, result.out)
        assert "stagefleet: error: interrupted" in result.err


class TestFromFile:
    def test_ids_are_read_one_a_line_and_comments_ignored(self, command, fake_worker, make_stage, tmp_path):
        file = tmp_path / "ids"
        file.write_text(f"# ours\n\n  {make_stage(2)}\n{make_stage(3)}\n")
        command("copy", SOURCE, DESTINATION, make_stage(4), "--from-file", file)
        assert [make_stage(4), make_stage(2), make_stage(3)] == fake_worker.done

    def test_standard_input_is_a_dash(self, command, fake_worker, make_stage, monkeypatch):
        monkeypatch.setattr("sys.stdin", io.StringIO(make_stage(2)))
        command("copy", SOURCE, DESTINATION, "--from-file", "-")
        assert [make_stage(2)] == fake_worker.done

    def test_an_empty_file_names_no_stage_and_not_all(self, command, fake_worker, tmp_path):
        (tmp_path / "ids").touch()
        result = command("delete", SOURCE, "--from-file", tmp_path / "ids", "--json")
        assert (0, 0, []) == (result.code, result.objects[-1]["total"], fake_worker.done)

    @pytest.mark.parametrize(
        ("content", "words"),
        [(b"# x\n\nnonsense\n", "ids, line 3: 'nonsense' is no stage id"), (b"\xff\n", "no UTF-8 text")],
    )
    def test_what_is_wrong_is_said_with_its_line(self, command, tmp_path, content, words):
        (tmp_path / "ids").write_bytes(content)
        result = command("copy", SOURCE, DESTINATION, "--from-file", "ids")
        assert 2 == result.code
        assert words in result.err

    def test_a_missing_file_is_said(self, command):
        result = command("copy", SOURCE, DESTINATION, "--from-file", "nowhere")
        assert (2, "stagefleet: error: nowhere cannot be read: No such file or directory\n") == (
            result.code,
            result.err,
        )


class TestDelete:
    def test_named_stages_are_deleted(self, command, fake_worker, make_stage):
        assert 0 == command("delete", SOURCE, make_stage(1), make_stage(2)).code
        assert [make_stage(1), make_stage(2)] == fake_worker.done

    def test_a_stage_that_was_not_there_is_not_said_to_be_deleted(self, command, fake_worker, make_stage):
        fake_worker.missing = {"f" * 56}
        result = command("delete", SOURCE, "f" * 56)
        assert 0 == result.code
        assert ": 1 stage (1 skipped) in" in result.out
        assert "1 of 1 was not there, and so not deleted" in result.err
        outcome, summary = command("delete", SOURCE, "f" * 56, "--json").objects
        assert ("skipped", {"reason": "was not there"}) == (outcome["state"], outcome["result"])
        assert (0, 1) == (summary["succeeded"], summary["skipped"])

    def test_all_with_yes_deletes_all(self, command, fake_worker):
        assert 0 == command("delete", SOURCE, "--all", "--yes").code
        assert 5 == len(fake_worker.done)

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ((), "no stage is named"),
            (("--all",), "add --yes"),
            (("--all", "--yes", "f" * 56), "leave out --all"),
            (("--dry-run", "--detach", "--all"), "leave out --detach"),
        ],
    )
    def test_it_is_refused_where_it_is_unclear(self, command, ledger, monkeypatch, arguments, words):
        monkeypatch.setattr("sys.stdin", io.StringIO(""))
        result = command("delete", SOURCE, *arguments)
        assert 2 == result.code
        assert words in result.err
        assert [] == list(ledger.runs())

    @pytest.mark.parametrize(("answer", "deleted"), [("y\n", 5), ("n\n", 0), ("\n", 0)])
    def test_all_asks_on_a_terminal(self, command, fake_worker, monkeypatch, answer, deleted):
        terminal = io.StringIO(answer)
        monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
        monkeypatch.setattr("sys.stdin", terminal)
        result = command("delete", SOURCE, "--all")
        assert (0 if deleted else 2, deleted) == (result.code, len(fake_worker.done))
        assert "Delete all 5 stages of src.test/app?" in result.err

    def test_a_dry_run_of_all_does_not_ask(self, command):
        assert 6 == len(command("delete", SOURCE, "--all", "--dry-run", "--json").objects)


def test_json_is_one_object_a_line_whatever_labels_hold(command, registries, make_stage, monkeypatch):
    describe = registries.describe_stage

    def with_label(repository, stage_id):
        found = describe(repository, stage_id)
        info = found.info.model_copy(update={"labels": {"note": "a\nb\u2028ü"}})
        return found.model_copy(update={"info": info})

    monkeypatch.setattr(registries, "describe_stage", with_label)
    lines = command("list", "--json", SOURCE).out.strip().split("\n")
    assert ["a\nb\u2028ü"] * 5 == [json.loads(line)["labels"]["note"] for line in lines]
