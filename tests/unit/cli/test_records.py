from __future__ import annotations

import io

import pytest

from stagefleet.cli.progress import describe_run
from stagefleet.names import Repository
from stagefleet.settings import ProjectSettings
from tests.stage_tasks import make_storages
from tests.unit.storages.conftest import FakeRegistries

REPOSITORY = "src.test/app"
FINAL = "final.test/app"
STAGE = "ab" * 28 + "-1700000000000"
COMMIT = "c0" * 20
METADATA = f"81743596_{COMMIT}_{STAGE}"

pytestmark = pytest.mark.usefixtures("in_fleet")


@pytest.fixture
def settings(settings):
    """Those of a fleet that knows a project, too."""
    return settings.model_copy(
        update={
            "projects": {
                "shop": ProjectSettings(primary=Repository.parse(REPOSITORY)),
                "deployed": ProjectSettings(
                    primary=Repository.parse(REPOSITORY), final=Repository.parse(FINAL)
                ),
            }
        }
    )


@pytest.fixture
def store(registries):
    """Registries that are dictionaries, down to their manifests."""
    store = FakeRegistries()
    storages = make_storages(store)
    registries.records_of = lambda address: storages.open(address).records
    return store


@pytest.fixture
def records(command, store):
    return lambda *arguments: command("records", *arguments)


def tags(store):
    return set(store.stored(Repository.parse(REPOSITORY)).tags)


@pytest.mark.parametrize(
    ("kind", "values", "tag"),
    [
        ("managed-image", ["web/app"], "managed-image-web__slash__app"),
        ("managed-image", [], "managed-image-__nameless__"),
        ("image-metadata", ["web/app", COMMIT, STAGE], f"meta-{METADATA}"),
        ("import-metadata", ["0f" * 32, STAGE, "sum"], "import-metadata-" + "0f" * 32),
        ("rejected-stage", [STAGE], f"{STAGE}-rejected"),
        ("client-id", ["me", "1700000000000"], "client-id-me-1700000000000"),
        ("last-cleanup", [], "cleanup"),
        ("lock-server", ["https://locks.example"], "sync-server"),
    ],
)
def test_each_kind_can_be_added_shown_and_listed(records, store, kind, values, tag):
    added = records("add", REPOSITORY, kind, *values, "--json").objects[0]
    assert (kind, tag, "written") == (added["kind"], added["tag"], added["state"])
    assert {tag} == tags(store)
    shown = records("show", REPOSITORY, kind, added["id"], "--json").objects[0]
    assert ("app", tag) == (shown["project"], shown["tag"])
    assert [{"kind": kind, "id": added["id"], "tag": tag}] == records(
        "list", REPOSITORY, kind, "--json"
    ).objects
    assert f"{kind:<15}  {added['id']}\n" == records("list", REPOSITORY).out


def test_a_client_id_that_is_chosen_now_does_not_win_over_werfs(records, monkeypatch):
    """I3: werf writes about twice the time, and takes the smallest."""
    monkeypatch.setattr("stagefleet.cli.commands.records.time.time_ns", lambda: 1_795_890_924_702_999_999)
    assert "client-id-me-3591781848702  written\n" == records("add", REPOSITORY, "client-id", "me").out


@pytest.mark.parametrize("options", [(), ("--force",)])
@pytest.mark.parametrize("values", [("me",), ("me", "1"), ("08f00f7b", "5")])
def test_a_client_id_is_written_only_where_none_is(records, store, options, values):
    """I3: builds under way lock under the one that is there; it is named, whoever wrote it."""
    there = "client-id-08f00f7b-3591781848702"
    store.push(Repository.parse(REPOSITORY), there, labels={"werf": "app"})
    added = records("add", REPOSITORY, "client-id", *values, *options)
    assert (2, "", {there}) == (added.code, added.out, tags(store))
    assert "has a client id, 08f00f7b-3591781848702: builds would lock under two" in added.err


def test_the_very_client_id_is_there_already(records, store):
    """I3: the same record is none beside it; with --force it is written again."""
    again = ("add", REPOSITORY, "client-id", "me", "2000")
    told = [records(*again, *options).out for options in ((), (), ("--force",))]
    tag = "client-id-me-2000"
    assert [f"{tag}  written\n", f"{tag}  present\n", f"{tag}  written\n"] == told
    assert {tag} == tags(store)


def test_import_metadata_takes_one_id(records, store):
    """I4: the id and the source's are one and the same; what an older release wrote with two is shown."""
    named = records("add", REPOSITORY, "import-metadata", "0f" * 32, "s1", STAGE, "sum")
    assert (2, True) == (named.code, "takes ID SOURCE_STAGE_ID CHECKSUM, and 4 values" in named.err)
    assert set() == tags(store)
    labels = {"werf": "app", "import-source-id": "s1", "source-stage-id": STAGE, "checksum": "sum"}
    store.push(Repository.parse(REPOSITORY), "import-metadata-" + "0f" * 32, labels=labels)
    (shown,) = records("show", REPOSITORY, "import-metadata", "0f" * 32, "--json").objects
    assert ("0f" * 32, "s1") == (shown["import_id"], shown["source_id"])


def test_a_project_can_be_named_and_what_is_there_is_said(records):
    records("add", REPOSITORY, "managed-image", "web", "--project", "shop")
    assert "managed-image-web  present\n" == records("add", REPOSITORY, "managed-image", "web").out
    assert "managed-image-web  written\n" == records("add", REPOSITORY, "managed-image", "web", "--force").out
    assert "project          app" in records("show", REPOSITORY, "managed-image", "web").out


def test_a_project_stands_for_its_primary_storage(records, store, ledger):
    assert "managed-image-web  written\n" == records("add", "--project", "shop", "managed-image", "web").out
    assert "managed-image    web\n" == records("list", "--project", "shop").out
    assert "managed-image    web\n" == records("list", "managed-image", "--project", "shop").out
    shown = records("show", "managed-image", "web", "--project", "shop", "--json").objects
    assert ["shop"] == [found["project"] for found in shown]
    assert 0 == records("remove", "--project", "shop", "managed-image", "web", "--detach").code
    (run,) = ledger.runs()
    assert REPOSITORY == run.spec.options["repository"]
    assert [(0, "web")] == list(ledger.leftovers(run.id))


def test_a_custom_tag_is_set_and_whether_it_is_in_place_is_shown(records, store):
    repository = Repository.parse(REPOSITORY)
    digest = store.push(repository, STAGE)
    assert 0 == records("add", REPOSITORY, "custom-tag", "v1", STAGE).code
    assert digest == store.stored(repository).tags["v1"]
    assert records("show", REPOSITORY, "custom-tag", "v1", "--json").objects[0]["in_place"]
    store.push(repository, "v1", layers=(b"other",))
    shown = records("show", REPOSITORY, "custom-tag", "v1", "--json")
    assert not shown.objects[0]["in_place"]
    assert "but another image" in shown.err


def test_the_custom_tags_of_a_project_with_a_final_storage_are_there(records, store, ledger):
    """I1: add sets it there, show looks there, list knows it from a tag of its name here, remove names it."""
    primary, final = Repository.parse(REPOSITORY), Repository.parse(FINAL)
    digest = store.push(final, STAGE)
    assert 0 == records("add", "--project", "deployed", "custom-tag", "v1", STAGE).code
    assert (digest, {"custom-tag-meta-v1"}) == (store.stored(final).tags["v1"], tags(store))
    shown = records("show", "--project", "deployed", "custom-tag", "v1", "--json")
    assert shown.objects[0]["in_place"]
    store.push(primary, "v1")
    assert "left alone: v1" in records("list", "--project", "deployed").err
    assert 0 == records("remove", "--project", "deployed", "custom-tag", "v1", "--detach").code
    (run,) = ledger.runs()
    assert {"repository": REPOSITORY, "final": FINAL} == run.spec.options


def test_tags_that_are_nobodys_are_named_but_not_custom_ones(records, store):
    repository = Repository.parse(REPOSITORY)
    store.push(repository, STAGE)
    records("add", REPOSITORY, "custom-tag", "V1", STAGE)
    assert "" == records("list", REPOSITORY).err
    for number in range(7):
        store.push(repository, f"foreign-{number}")
    assert "left alone: foreign-0, foreign-1, foreign-2, foreign-3, foreign-4 and 2 more" in (
        records("list", REPOSITORY).err
    )


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("show", REPOSITORY, "managed-image", "gone"), 1, "has no managed-image gone"),
        (("show", REPOSITORY, "image-metadata", "x"), 2, "IMAGEHASH_COMMIT_STAGEID"),
        (("show", REPOSITORY, "nonsense", "x"), 2, "'nonsense' is no kind of record"),
        (("show", REPOSITORY), 2, "Missing argument 'KIND'"),
        (("show", "--project", "shop"), 2, "Missing argument 'KIND'"),
        (("show", REPOSITORY, "managed-image", "a", "--project", "shop"), 2, f"leave out {REPOSITORY}"),
        (("show", "--project", "shop", "managed-image", "a", "b"), 2, "leave out b"),
        (("list",), 2, "Missing argument 'REPO'; or name a project with --project"),
        (("list", "--project", "other"), 2, "no project 'other'"),
        (("remove", REPOSITORY, "managed-image", "a", "--host", "one"), 2, "registries have no hosts"),
        (("add", REPOSITORY, "lock-server"), 2, "takes ADDRESS [TIMESTAMP_MS], and 0 values were given"),
        (("add", REPOSITORY, "custom-tag", "v1", STAGE), 1, "has no stage"),
        (("add", REPOSITORY, "custom-tag", STAGE, STAGE), 2, "can be no custom tag"),
        (("add", REPOSITORY, "last-cleanup", "today"), 2, "milliseconds since 1970"),
        (("add", REPOSITORY, "managed-image", "x" * 120), 2, "short enough for a tag"),
        (("remove", REPOSITORY, "managed-image"), 2, "no managed-image is named"),
        (("remove", REPOSITORY, "managed-image", "--all"), 2, "add --yes"),
        (("remove", REPOSITORY, "managed-image", "a", "--all", "--yes"), 2, "leave out --all"),
        (("remove", REPOSITORY, "managed-image", "a", "--image", "b"), 2, "--image goes with"),
        (("remove", REPOSITORY, "image-metadata", "--image", "b", "--all"), 2, "--image needs"),
        (("remove", REPOSITORY, "image-metadata", "--image", "b", "x"), 2, "IMAGEHASH_COMMIT_STAGEID"),
        (("remove", REPOSITORY, "rejected-stage", "x"), 2, "no stage id"),
    ],
)
def test_what_cannot_be_is_refused_and_explained(records, ledger, monkeypatch, arguments, code, words):
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    result = records(*arguments)
    assert code == result.code
    assert words in result.err
    assert [] == list(ledger.runs())


@pytest.mark.parametrize(
    ("arguments", "operation", "items", "options"),
    [
        (("managed-image", "web/app", "__nameless__"), "rm_managed_image", ["web/app", "__nameless__"], {}),
        (("image-metadata", METADATA), "rm_record", [METADATA], {"kind": "image-metadata"}),
        (
            ("image-metadata", "--image", "web/app", f"{COMMIT}_{STAGE}"),
            "rm_image_metadata",
            [f"{COMMIT}_{STAGE}"],
            {"image": "web/app"},
        ),
        (("import-metadata", "0f" * 32), "rm_import_metadata", ["0f" * 32], {}),
        (("custom-tag", "V1", "v2"), "delete_stage_custom_tag", ["V1", "v2"], {}),
        (("rejected-stage", STAGE), "delete_rejected_stage", [STAGE], {}),
        (("client-id", "me-5"), "rm_record", ["me-5"], {"kind": "client-id"}),
        (("last-cleanup", "cleanup"), "rm_record", ["cleanup"], {"kind": "last-cleanup"}),
    ],
)
def test_each_kind_is_removed_by_its_run(records, ledger, arguments, operation, items, options):
    assert 0 == records("remove", REPOSITORY, *arguments, "--detach").code
    (run,) = ledger.runs()
    assert (operation, {"repository": REPOSITORY, **options}) == (run.spec.operation, run.spec.options)
    assert items == [item for _, item in ledger.leftovers(run.id)]


def test_all_of_a_kind_are_what_the_tag_list_has(records, store, ledger, tmp_path):
    for name in ("a", "b"):
        records("add", REPOSITORY, "managed-image", name)
    records("add", REPOSITORY, "last-cleanup")
    planned = records("remove", REPOSITORY, "managed-image", "--all", "--dry-run", "--json").objects
    assert ["a", "b"] == [outcome["item"] for outcome in planned[:-1]]
    assert [] == list(ledger.runs())
    records("remove", REPOSITORY, "managed-image", "--all", "--yes", "--detach")
    assert [2] == [run.total for run in ledger.runs()]
    assert 3 == len(tags(store))


def test_ids_come_from_a_file_too(records, ledger, tmp_path):
    (tmp_path / "ids").write_text("# ours\nweb\n\nthe api\n")
    records("remove", REPOSITORY, "managed-image", "--from-file", tmp_path / "ids", "--detach")
    (run,) = ledger.runs()
    assert ["web", "the api"] == [item for _, item in ledger.leftovers(run.id)]


def test_a_run_on_records_is_told_in_records(records, ledger):
    records("remove", REPOSITORY, "managed-image", "web", "--detach")
    (run,) = ledger.runs()
    assert "1 record (1 to do)" in describe_run(run)
