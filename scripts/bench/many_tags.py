"""A repository with 10,000 stages."""

from __future__ import annotations

from tests.services import ImageMaker, RegistryServer, stage_id_of

__all__ = ["REPOSITORY", "STAGES", "fill"]

STAGES = 10_000
REPOSITORY = "app/stages"


def fill(registry: RegistryServer) -> None:
    """Give one image many tags, written into the registry's folder: pushing them would take minutes."""
    with ImageMaker(registry) as maker:
        digest = maker.push_image(REPOSITORY, "one", layers=[b"layer"]).digest
    tags = next(registry.folder.glob(f"**/repositories/{REPOSITORY}/_manifests/tags"))
    link = (tags / "one" / "current" / "link").read_text()
    if digest not in link:
        raise RuntimeError("this registry keeps its tags in another way")
    for number in range(STAGES):
        tag = tags / stage_id_of(f"stage {number}", 1_764_000_000_000 + number)
        (tag / "current").mkdir(parents=True)
        (tag / "current" / "link").write_text(link)
