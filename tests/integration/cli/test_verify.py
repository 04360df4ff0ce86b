"""Stages verified from the shell: exactly what was broken by hand in a registry's own files is found."""

from __future__ import annotations

import tarfile
from collections import Counter

import pytest

from tests.services import ImageMaker, stage_id_of

PATH = "source/app"
STAGES = 500
WITH_BROKEN_BASE = 20


@pytest.fixture
def repository(registry):
    return f"{registry.host}/{PATH}"


@pytest.fixture
def file_of(registry):
    """The file of a blob or manifest in the registry's storage."""

    def find(digest):
        name = str(digest).partition(":")[2]
        return registry.root / "docker/registry/v2/blobs/sha256" / name[:2] / name / "data"

    return find


def alter(file):
    """Change one byte of a file in place; JSON stays JSON."""
    content = file.read_bytes()
    file.write_bytes(content.replace(b"\n", b" ", 1) if b"\n" in content else content.swapcase())


def push(registry, seeds, *layers):
    with ImageMaker(registry) as maker:
        return [
            maker.push_image(PATH, stage_id_of(seed), layers=[*layers, f"own of {seed}".encode()])
            for seed in seeds
        ]


def faults(result):
    return {
        outcome["item"]: (outcome["error"]["type"], outcome["error"]["message"])
        for outcome in result.objects[:-1]
        if outcome["state"] == "failed"
    }


def blob_gets(registry):
    paths = Counter(path for method, path, _ in registry.requests() if method == "GET")
    return {path.rpartition("/")[2]: count for path, count in paths.items() if "/blobs/" in path}


@pytest.mark.usefixtures("fleet")
def test_exactly_what_was_broken_by_hand_is_found_in_500_stages(command, registry, repository, file_of):
    """One manifest, one config, one shared layer (each stage that has it is named), one own layer."""
    names = [f"stage {number}" for number in range(STAGES - WITH_BROKEN_BASE)]
    sound = push(registry, names, b"shared layer", b"another shared layer")
    based = push(registry, [f"based {number}" for number in range(WITH_BROKEN_BASE)], b"broken base")
    manifest, config, layer = sound[10], sound[20], sound[30]
    alter(file_of(manifest.digest))
    file_of(config.document["config"]["digest"]).unlink()
    alter(file_of(based[0].layers[0]))
    file_of(layer.layers[-1]).write_bytes(b"own")
    registry.forget_requests()

    result = command("verify", repository, "--json")
    found = faults(result)
    assert (1, STAGES - 23) == (result.code, result.objects[-1]["succeeded"])
    assert {image.tag for image in (manifest, config, layer, *based)} == set(found)
    kind, message = found[manifest.tag]
    assert "AlteredContentError" == kind
    assert f"the manifest of {manifest.tag} is altered" in message
    digest = config.document["config"]["digest"]
    assert ("MissingContentError", f"{repository}: the config {digest} is missing") == found[config.tag]
    kind, message = found[layer.tag]
    assert "AlteredContentError" == kind
    assert f"the layer {layer.layers[-1]} is altered" in message
    for image in based:
        kind, message = found[image.tag]
        assert "AlteredContentError" == kind
        assert f"{repository}: the layer {based[0].layers[0]} is altered" in message

    gets = blob_gets(registry)
    broken = {digest, based[0].layers[0], layer.layers[-1]}
    assert {1} == {count for name, count in gets.items() if name not in broken}
    assert {2} == {gets[name] for name in broken}  # two looks
    assert set(gets) >= {name for image in sound if image is not manifest for name in image.layers}


@pytest.mark.usefixtures("fleet")
def test_a_shallow_one_reads_no_blob_and_finds_what_is_missing(command, registry, repository, file_of):
    whole, broken = push(registry, ["whole", "broken"], b"shared layer")
    file_of(broken.layers[-1]).unlink()
    registry.forget_requests()
    result = command("verify", repository, "--shallow", "--json")
    assert {broken.tag: "MissingContentError"} == {item: kind for item, (kind, _) in faults(result).items()}
    assert {} == blob_gets(registry)
    assert 1 == sum(path.endswith(whole.layers[0]) for _, path, _ in registry.requests())


@pytest.mark.usefixtures("fleet")
def test_only_single_images_broken_by_their_own_content_are_rejected(command, registry, repository, file_of):
    whole, broken, odd, gone = push(registry, ["whole", "broken", "odd", "gone"], b"shared layer")
    with ImageMaker(registry) as maker:
        member = maker.push_image(PATH, None, layers=[b"layer of a member"], oci=True)
        index = maker.push_index(PATH, stage_id_of("index", None), [member])
        config = {"rootfs": {"type": "layers", "diff_ids": []}}
        odd = maker.push_image(PATH, odd.tag, layers=[b"odd layer"], config=config)
    for digest in (broken.layers[-1], member.layers[0], gone.digest):
        file_of(digest).unlink()

    found = faults(command("verify", repository, "--reject", "--json"))
    assert {broken.tag, index.tag, odd.tag, gone.tag} == set(found)
    kind, message = found[broken.tag]
    assert ("MissingContentError", True) == (kind, message.endswith("; rejected"))
    kind, message = found[index.tag]
    assert "MissingContentError" == kind
    assert f"the layer {member.layers[0]} of the member {member.digest} is missing; not rejected" in message
    kind, message = found[odd.tag]
    assert "UnreadableContentError" == kind
    assert message.endswith("it names 0 diff ids for 1 layers); not rejected, as it is what was pushed")
    kind, message = found[gone.tag]
    assert "MissingContentError" == kind
    assert message.endswith("not rejected, as it is not known to be a single image")
    with ImageMaker(registry) as maker:
        assert [f"{broken.tag}-rejected"] == [tag for tag in maker.tags(PATH) if tag.endswith("-rejected")]
    assert sorted([whole.tag, index.tag, odd.tag, gone.tag]) == sorted(
        command("list", repository).out.split()
    )


@pytest.mark.usefixtures("fleet")
def test_non_distributable_layers_that_are_absent_are_named_and_no_fault(
    command, registry, repository, file_of
):
    with ImageMaker(registry) as maker:
        foreign = maker.push_blob(PATH, b"kept elsewhere")
        for number in range(2):
            maker.push_image(
                PATH,
                stage_id_of(f"{number}"),
                layers=[b"%d" % number],
                foreign_layers=[(b"kept elsewhere", [])],
                oci=True,
            )
    file_of(foreign).unlink()
    result = command("verify", repository)
    assert 0 == result.code
    assert f"the non-distributable layer {foreign} is absent (2)" in result.err
    assert "2 verified" in result.out


def test_stages_that_are_named_and_absent_are_refused(command, registry, repository):
    (stage,) = push(registry, ["one"])
    unknown = stage_id_of("nowhere")
    result = command("verify", repository, stage.tag, unknown)
    assert (2, "") == (result.code, result.out)
    assert f"does not have {unknown}" in result.err


def test_a_dry_run_says_what_would_be_verified(command, registry, repository):
    (stage,) = push(registry, ["one"])
    result = command("verify", repository, "--dry-run")
    assert (0, f"{stage.tag}  planned") == (result.code, result.out.splitlines()[0])


@pytest.mark.parametrize("suffix", ["", ".tar"])
def test_a_layout_is_verified_like_a_repository_and_keeps_no_rejections(
    command, registry, repository, tmp_path, suffix
):
    _, broken = push(registry, ["whole", "broken"], b"shared layer")
    layout = tmp_path / "layout"
    assert 0 == command("copy", repository, f"oci:{layout}").code
    name = broken.layers[-1].partition(":")[2]
    (layout / "blobs" / "sha256" / name).write_bytes(b"own of BROKEN")
    if suffix:
        with tarfile.open(f"{layout}{suffix}", "w") as archive:
            archive.add(layout, arcname=".")
    result = command("verify", f"oci:{layout}{suffix}", "--reject", "--json")
    ((item, (kind, message)),) = faults(result).items()
    assert (1, broken.tag, "AlteredContentError") == (result.code, item, kind)
    assert f"the layer {broken.layers[-1]} is altered" in message
    assert message.endswith("keeps no rejections")
