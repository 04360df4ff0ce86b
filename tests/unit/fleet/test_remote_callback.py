"""What may be called back, and what it makes of an order."""

from __future__ import annotations

import pytest

from stagefleet.errors import UsageError
from stagefleet.fleet.callbacks import RemoteCallback, callback_fields
from stagefleet.fleet.fleet import Fleet
from stagefleet.fleet.project import FleetProject
from stagefleet.fleet.records import FleetRecords
from stagefleet.names import Repository
from stagefleet.project_addresses import Project
from stagefleet.runs.models import Callback, WorkerInfo

URL = "https://ci.example/outcomes"
PLACE = "src.test/app"
ROLES = Project(
    "app",
    Repository("src.test", "app"),
    final=Repository("dst.test", "app"),
    caches=(Repository("near.test", "app"),),
    secondaries=(Repository("old.test", "app"),),
)
STAGES = [f"{1:056x}-1700000000001"]
METHODS = {
    (Fleet, "for_each_copy_stage"): (PLACE, "dst.test/app", STAGES),
    (Fleet, "for_each_delete_stage"): (PLACE, STAGES),
    (Fleet, "for_each_fetch_stage"): (PLACE, STAGES),
    (FleetProject, "for_each_cache_stage"): (STAGES,),
    (FleetProject, "for_each_delete_final_stage"): (STAGES,),
    (FleetProject, "for_each_delete_stage"): (STAGES,),
    (FleetProject, "for_each_describe_stage"): (STAGES,),
    (FleetProject, "for_each_publish_stage"): (STAGES,),
    (FleetProject, "for_each_take_stage"): (STAGES,),
    (FleetRecords, "for_each_delete_rejected_stage"): (PLACE, STAGES),
    (FleetRecords, "for_each_delete_stage_custom_tag"): (PLACE, ["latest"]),
    (FleetRecords, "for_each_get_import_metadata"): (PLACE, ["0f" * 32]),
    (FleetRecords, "for_each_get_stage_custom_tag_metadata"): (PLACE, ["latest"]),
    (FleetRecords, "for_each_remove"): (PLACE, "custom-tag", ["latest"]),
    (FleetRecords, "for_each_rm_image_metadata"): (PLACE, "web", {STAGES[0]: ["c0" * 20]}),
    (FleetRecords, "for_each_rm_import_metadata"): (PLACE, ["0f" * 32]),
    (FleetRecords, "for_each_rm_managed_image"): (PLACE, ["web"]),
    (FleetRecords, "for_each_rm_record"): (PLACE, "managed-image", ["web"]),
}


@pytest.mark.parametrize(
    ("options", "callback", "target"),
    [
        ({"outcome_url": URL}, Callback.WEBHOOK, URL),
        ({"outcome_task": "acme.note@acme"}, Callback.TASK, "acme.note@acme"),
        ({"finish_url": URL}, Callback.NONE, ""),
    ],
)
def test_an_order_says_who_is_called(options, callback, target):
    fields = callback_fields(RemoteCallback(**options))
    assert (callback, target) == (fields["callback"], fields["callback_target"])
    assert options.get("finish_url", "") == fields["finish_url"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "name one"),
        ({"outcome_url": URL, "outcome_task": "acme.note"}, "not to both"),
        ({"outcome_url": "ftp://ci.example/"}, "outcome URL is malformed"),
        ({"outcome_url": "https://"}, "outcome URL is malformed"),
        ({"outcome_url": "https://ci.example:nonsense/"}, "outcome URL is malformed"),
        ({"finish_url": "ci.example/finish"}, "finish URL is malformed"),
        ({"finish_url": "https://ci.example/" + "x" * 2000}, "finish URL is malformed"),
        ({"outcome_url": "https://me:hunter2@ci.example/"}, "holds a login"),
        ({"outcome_task": "two words"}, "names no Celery task"),
    ],
)
def test_what_cannot_be_called_is_refused(options, words):
    with pytest.raises(UsageError, match=words) as caught:
        RemoteCallback(**options)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://a..b/",
        "http://.a.b/",
        f"http://{'a' * 64}.test/",
        f"http://{'.'.join(['a' * 60] * 5)}/",
        "http://*.test/",
        "http://a b.test/",
        "http://a\\b.test/",
        "http://[::1/",
        "http://[nonsense]/",
        "http://[::1]:99999/",
        "http://a.test:99999/",
        "http://a.test:-1/",
        "http://a.test:0/",
        "http://\ud800.test/",
        "http://" + "\u00fc" * 64 + ".test/",
        "http:///path",
        "http:a.test",
        "//a.test/",
        "http://a.test/\n",
        "http://?token=hunter2",
        "http://a..b/hunter2",
    ],
)
@pytest.mark.parametrize("name", ["outcome_url", "finish_url"])
def test_a_url_that_no_call_can_go_to_is_refused_when_it_is_given(name, url):
    """R10: what the HTTP library cannot parse or resolve into a host is no receiver, and is not quoted."""
    with pytest.raises(UsageError, match="URL is malformed") as caught:
        RemoteCallback(**{name: url})
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8080/a?b=c#d",
        "http://[::1]:8080/",
        "https://ci.example.",
        "https://b\u00fccher.example/\u00fc",
        f"https://{'a' * 63}.example/",
        "https://under_score.example/",
    ],
)
def test_odd_urls_that_can_be_called_are_taken(url):
    """R10: the check refuses no more than what cannot work."""
    assert url == callback_fields(RemoteCallback(outcome_url=url))["callback_target"]


@pytest.mark.parametrize(
    ("queue", "words"),
    [
        *((name, "Celery needs itself") for name in ("unacked", "unacked_index", "unacked_mutex")),
        *((name, "Celery needs itself") for name in ("_kombu.binding.x", "_kombu.binding.callbacks")),
        *((name, "Celery needs itself") for name in ("celeryev", "celeryev.1", "celery.pidbox", "pidbox")),
        ("worker-1.celery.pidbox", "Celery needs itself"),
        *(
            (name, "the fleet's own")
            for name in ("copy", "delete", "records", "coordinate", "fetch", "host.one")
        ),
        *(
            (name, "names no Celery task")
            for name in ("", "a b", "a/b", "a\x06\x163", "\u00fc", "a@b", "a\n", "*")
        ),
        ("q" * 300, "names no Celery task"),
    ],
)
def test_a_queue_of_the_fleet_or_of_celery_is_refused_when_it_is_given(queue, words):
    """R10: what is put into such a queue comes to no task, or breaks an account of the broker."""
    with pytest.raises(UsageError, match=words):
        RemoteCallback(outcome_task=f"acme.note@{queue}")


@pytest.mark.parametrize(
    "task", ["acme.note", "acme.note@celery", "note@a:b.c-d_e", "_x@callbacks", "n@unacked2"]
)
def test_other_tasks_and_queues_are_taken(task):
    assert task == callback_fields(RemoteCallback(outcome_task=task))["callback_target"]


def test_every_method_for_each_is_known_here():
    classes = (Fleet, FleetProject, FleetRecords)
    methods = [(kind, name) for kind in classes for name in dir(kind) if name.startswith("for_each_")]
    assert list(METHODS) == methods


@pytest.mark.parametrize("method", METHODS)
def test_the_fleet_can_be_told_to_call_for_each(fleet, ledger, settings, method):
    ledger.heartbeats.beat(WorkerInfo("w:1", 1, ("fetch", f"host.{settings.engine.host_name}")), seconds=60)
    told = RemoteCallback(outcome_url=URL, finish_url=f"{URL}/end")
    kind, name = method
    owner = {Fleet: fleet, FleetProject: fleet.project(ROLES), FleetRecords: fleet.records}[kind]
    run = getattr(owner, name)(*METHODS[method], told, detach=True)
    spec = ledger.spec(run.id)
    assert (Callback.WEBHOOK, URL, f"{URL}/end") == (spec.callback, spec.callback_target, spec.finish_url)
