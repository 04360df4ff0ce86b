"""Multi-platform stages from the shell."""

from __future__ import annotations

from tests.services import ImageMaker, stage_id_of

DIGEST = "cd" * 28


def test_an_index_is_published_and_listed(command, registry):
    repository = f"{registry.host}/multi/cli"
    stages = {name: stage_id_of(name) for name in ("amd64", "arm64")}
    with ImageMaker(registry) as maker:
        for name, stage_id in stages.items():
            maker.push_image(
                "multi/cli",
                stage_id,
                layers=[name.encode()],
                platform={"os": "linux", "architecture": name},
            )
    platforms = [f"--platform=linux/{name}={stage_id}" for name, stage_id in stages.items()]
    published = command("publish-index", repository, DIGEST, *platforms, "--json")
    assert (0, "") == (published.code, published.err)
    (description,) = published.objects
    assert (DIGEST, None, 10) == (description["stage_id"], description["created_ms"], description["size"])
    assert {DIGEST, *stages.values()} == set(command("list", repository).out.split())

    twice = command("publish-index", repository, DIGEST, platforms[0], platforms[0])
    assert (2, True) == (twice.code, "one image for each platform" in twice.err)
