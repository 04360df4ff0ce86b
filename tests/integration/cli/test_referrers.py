"""What other tools attach to a stage goes along, and what goes along is found by other tools."""

from __future__ import annotations

import json
import shutil
import subprocess
from functools import partial

import pytest

from tests.services import ImageMaker, clean_environment, stage_id_of
from tests.services.images import digest_of

STAGE = stage_id_of("signed")
LIMIT_SECONDS = 60


@pytest.fixture
def run_tool(tmp_path):
    """Makes a tool's program run with nothing of the user's; it gives what it prints."""
    environment = clean_environment(HOME=str(tmp_path), REGCTL_CONFIG=str(tmp_path / "regctl.json"))

    def run(program, *words, text=""):
        done = subprocess.run(
            [program, *words],
            env=environment,
            input=text,
            capture_output=True,
            text=True,
            timeout=LIMIT_SECONDS,
            check=False,
        )
        assert 0 == done.returncode, done.stderr
        return done.stdout

    return run


@pytest.fixture
def regctl(run_tool, registry):
    """Runs regclient's tool, of the same specification."""
    program = shutil.which("regctl")
    if program is None:
        pytest.skip("no regctl here: put its program on the PATH (https://regclient.org)")
    run = partial(run_tool, program)
    run("registry", "set", "--tls=disabled", "--skip-check", registry.host)
    return run


@pytest.fixture
def crane(run_tool):
    """Runs go-containerregistry's tool, which keeps the index under the fallback tag, too."""
    program = shutil.which("crane")
    if program is None:
        pytest.skip("no crane here: put its program on the PATH")
    return partial(run_tool, program, "--insecure")


def attach(regctl, reference, kind, text):
    regctl("artifact", "put", "--subject", reference, "--artifact-type", kind, text=text)


def attached(regctl, reference):
    """The kinds of artifacts that regctl finds, and the digest of each."""
    listed = json.loads(regctl("artifact", "list", "--format", "{{json .}}", reference))
    return {each["artifactType"]: each["digest"] for each in listed["descriptors"] or ()}


def test_what_regctl_attached_goes_along_and_is_found_by_it(command, registry, regctl):
    """Distribution 2.8 has no API for it: both keep the index under the fallback tag."""
    with ImageMaker(registry) as maker:
        pushed = maker.push_image("signed/app", STAGE, oci=True)
    source, mirror = f"{registry.host}/signed/app", f"{registry.host}/signed/mirror"
    attach(regctl, f"{source}:{STAGE}", "application/x.signature", "a signature")
    attach(regctl, f"{source}:{STAGE}", "application/x.bill", "a bill of materials")
    expected = attached(regctl, f"{source}:{STAGE}")
    assert {"application/x.signature", "application/x.bill"} == set(expected)

    listed = command("list", source, "--referrers", "--json").objects
    assert [STAGE] == [line["stage_id"] for line in listed]
    assert expected == {each["artifact_type"]: each["digest"] for each in listed[0]["referrers"]}
    assert {pushed.digest} == {each["subject"] for each in listed[0]["referrers"]}

    copied = command("copy", source, mirror, "--referrers", "--json")
    *outcomes, summary = copied.objects
    assert (0, 2, [2]) == (
        copied.code,
        summary["referrers"],
        [outcome["result"]["referrers"] for outcome in outcomes],
    ), copied.err
    assert expected == attached(regctl, f"{mirror}:{STAGE}")

    attach(regctl, f"{mirror}:{STAGE}", "application/x.scan", "of the mirror's own")
    attach(regctl, f"{source}:{STAGE}", "application/x.later", "an attestation")
    later = command("copy", source, mirror, "--referrers")
    assert (0, True) == (later.code, "1 referrer went along" in later.err), later.err
    assert {*expected, "application/x.scan", "application/x.later"} == set(
        attached(regctl, f"{mirror}:{STAGE}")
    )
    assert [STAGE] == command("list", mirror).out.split()


def test_what_regctl_attached_goes_with_its_stage_and_nothing_else(command, registry, regctl):
    """Of two signed stages one goes: a dry run names what goes with it, the summary counts it."""
    kept = stage_id_of("signed, too")
    with ImageMaker(registry) as maker:
        pushed = maker.push_image("going/app", STAGE, oci=True)
        maker.push_image("going/app", kept, layers=[b"another"], oci=True)
        source = f"{registry.host}/going/app"
        for stage, kind in ((STAGE, "application/x.signature"), (kept, "application/x.kept")):
            attach(regctl, f"{source}:{stage}", kind, "a text")
        expected = attached(regctl, f"{source}:{STAGE}")

        planned = command("delete", source, STAGE, "--referrers", "--dry-run", "--json").objects[0]
        assert expected == {each["artifact_type"]: each["digest"] for each in planned["referrers"]}
        shown = command("delete", source, STAGE, "--referrers", "--dry-run").out
        assert ["application/x.signature" in line for line in shown.splitlines()] == [False, True, False]

        deleted = command("delete", source, STAGE, "--referrers", "--json").objects[-1]
        assert (1, 1) == (deleted["succeeded"], deleted["referrers"])
        fallback = pushed.digest.replace(":", "-")
        assert fallback not in maker.tags("going/app")
        assert all(maker.manifest("going/app", digest) is None for digest in expected.values())
    assert ["application/x.kept"] == list(attached(regctl, f"{source}:{kept}"))


def test_what_crane_copied_is_found_and_it_finds_what_went_along(command, registry, crane):
    """crane copies a referrer by its digest, under a tag, and notes it in the index of its subject."""
    names = ("source", "mirror", "other")
    source, mirror, other = (f"{registry.host}/crane/{name}" for name in names)
    with ImageMaker(registry) as maker:
        pushed = maker.push_image("crane/source", STAGE, oci=True)
        signature = attach_by_hand(maker, "crane/source", pushed)
    crane("copy", f"{source}:{STAGE}", f"{mirror}:{STAGE}")
    crane("copy", f"{source}@{signature}", f"{mirror}:signature")
    listed = command("list", mirror, "--referrers", "--json").objects
    assert [signature] == [each["digest"] for line in listed for each in line["referrers"]]

    assert 0 == command("copy", mirror, other, "--referrers").code
    assert pushed.digest == crane("digest", f"{other}:{STAGE}").strip()
    assert pushed.digest == json.loads(crane("manifest", f"{other}@{signature}"))["subject"]["digest"]
    index = json.loads(crane("manifest", f"{other}:{pushed.digest.replace(':', '-')}"))
    assert [signature] == [entry["digest"] for entry in index["manifests"]]

    kept = command("delete", mirror, STAGE, "--referrers", "--json")
    assert "signature uses it" in kept.err
    assert signature == crane("digest", f"{mirror}:signature").strip()
    gone = command("delete", other, STAGE, "--referrers", "--json").objects[-1]
    assert (1, "") == (gone["referrers"], crane("ls", other))


def test_a_mirror_takes_what_refers_to_the_stages_that_it_deletes(command, registry):
    """As a dry run names it, below its stage."""
    source, mirror = (f"{registry.host}/pruned/{name}" for name in ("source", "mirror"))
    with ImageMaker(registry) as maker:
        maker.push_image("pruned/source", stage_id_of("kept"), layers=[b"another"], oci=True)
        gone = maker.push_image("pruned/mirror", STAGE, oci=True)
        tag = f"{gone.digest.replace(':', '-')}.sig"
        signature = maker.push_image("pruned/mirror", tag, layers=[b"a signature"], oci=True)
        arguments = ("copy", source, mirror, "--prune", "--max-percent", "100", "--referrers", "--json")
        planned = command(*arguments, "--dry-run").objects
        named = [referrer["digest"] for line in planned for referrer in line.get("referrers", ())]
        assert [signature.digest] == named
        assert 1 == command(*arguments).objects[-1]["referrers"]
        assert [stage_id_of("kept")] == maker.tags("pruned/mirror")


def attach_by_hand(maker, path, subject):
    """Push an artifact that refers to an image, by its digest alone; return that."""
    kind = "application/vnd.oci.image.manifest.v1+json"
    layer, config = (maker.push_blob(path, content) for content in (b"a signature", b"{}"))
    document = {
        "schemaVersion": 2,
        "mediaType": kind,
        "artifactType": "application/x.signature",
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": config, "size": 2},
        "layers": [{"mediaType": "text/plain", "digest": layer, "size": len(b"a signature")}],
        "subject": {"mediaType": kind, "digest": subject.digest, "size": len(subject.manifest)},
    }
    raw = json.dumps(document).encode()
    return maker.push_manifest(path, digest_of(raw), raw, kind)


def test_a_publication_takes_cosigns_tags_along(command, registry):
    """No cosign is needed for its tags: they are images, named by the digest of their subject."""
    with ImageMaker(registry) as maker:
        pushed = maker.push_image("app", STAGE)
        tag = f"{pushed.digest.replace(':', '-')}.sig"
        signature = maker.push_image("app", tag, layers=[b"a signature"], oci=True)
        primary, final = f"{registry.host}/app", f"{registry.host}/final"
        kept = command("publish", "--primary", primary, "--final", final, "--no-referrers", STAGE)
        assert (0, [STAGE]) == (kept.code, maker.tags("final")), kept.err
        published = command("publish", "--primary", primary, "--final", final, STAGE)
        assert (0, signature.digest) == (published.code, maker.digest("final", tag)), published.err
        assert 0 == command("purge", final, "--yes").code
        assert [tag] == maker.tags("final")

        planned = command("purge", primary, "--referrers", "--dry-run", "--json").objects
        assert [signature.digest] == [each["digest"] for each in planned[0]["referrers"][STAGE]]
        purged = command("purge", primary, "--referrers", "--yes")
        assert (0, [], False) == (purged.code, maker.tags("app"), "left alone" in purged.err), purged.err
