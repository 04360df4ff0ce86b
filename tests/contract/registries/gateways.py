"""Fronts before distribution 2.8 that make of it a registry of another kind."""

from __future__ import annotations

import json
import shutil
from http.client import ACCEPTED, CREATED
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

from tests.services import Answer, RegistryFront
from tests.services.front import Asked
from tests.services.images import digest_of

__all__ = ["LimitedGateway", "OciOnlyRegistry", "TagOnlyRegistry"]

_DOCKER_TYPES = "application/vnd.docker."
_INDEX = "application/vnd.oci.image.index.v1+json"


class OciOnlyRegistry(RegistryFront):
    """A registry that takes OCI's media types alone, as zot does without `compat` (project-zot/zot #3104).

    As zot it lists referrers ("Listing Referrers" in the specification).
    """

    def __init__(self, registry: str) -> None:
        super().__init__(registry)
        self._referrers: dict[tuple[str, str], dict[str, dict[str, object]]] = {}

    def answer(self, asked: Asked) -> Answer:
        if asked.method == "PUT" and str(asked.headers["Content-Type"]).startswith(_DOCKER_TYPES):
            return _refuse(415, "MANIFEST_INVALID", "docker media types are not supported")
        name, _, subject = urlsplit(asked.path).path.removeprefix("/v2/").partition("/referrers/")
        if asked.method == "GET" and subject:
            entries = list(self._referrers.get((name, subject), {}).values())
            document = {"schemaVersion": 2, "mediaType": _INDEX, "manifests": entries}
            return Answer(200, json.dumps(document).encode(), (("Content-Type", _INDEX),))
        answer = self.forward(asked)
        name, _, reference = name.partition("/manifests/")
        if asked.method == "PUT" and reference and answer.status == CREATED:
            self._note(name, asked)
        if asked.method == "DELETE" and reference and answer.status == ACCEPTED:
            for listed in self._referrers.values():
                listed.pop(reference, None)
        return answer

    def _note(self, name: str, asked: Asked) -> None:
        document = json.loads(asked.body)
        if "subject" in document:
            digest = digest_of(asked.body)
            self._referrers.setdefault((name, document["subject"]["digest"]), {})[digest] = {
                "mediaType": asked.headers["Content-Type"],
                "digest": digest,
                "size": len(asked.body),
                "artifactType": document.get("artifactType", ""),
            }


class TagOnlyRegistry(RegistryFront):
    """A registry that deletes tags, each alone, and no digest ("Deleting tags" in the specification).

    A tag is deleted where distribution keeps it, in the folder `root`.
    """

    def __init__(self, registry: str, root: Path) -> None:
        super().__init__(registry)
        self._repositories = root / "docker/registry/v2/repositories"

    def answer(self, asked: Asked) -> Answer:
        name, _, reference = urlsplit(asked.path).path.removeprefix("/v2/").partition("/manifests/")
        if asked.method != "DELETE" or not reference:
            return self.forward(asked)
        if ":" in reference:
            return _refuse(405, "UNSUPPORTED", "the operation is unsupported")
        try:
            shutil.rmtree(self._repositories / name / "_manifests/tags" / reference)
        except FileNotFoundError:
            return _refuse(404, "MANIFEST_UNKNOWN", "manifest unknown")
        return Answer(202)


class LimitedGateway(RegistryFront):
    """A gateway that limits bodies and pages of tags, and refuses mounts.

    Its sources: regclient/regclient #75 (413), distribution/distribution #4844 (pages), oras-project/oras
    #1892 (mounts).
    """

    body_bytes = 256 * 1024
    page_tags = 500

    def answer(self, asked: Asked) -> Answer:
        if len(asked.body) > self.body_bytes:
            return Answer(413, b"<html>413 Request Entity Too Large</html>")
        query = parse_qs(urlsplit(asked.path).query)
        if asked.method == "POST" and "mount" in query:
            return _refuse(405, "UNSUPPORTED", "the operation is unsupported")
        if urlsplit(asked.path).path.endswith("/tags/list"):
            return self._page(asked, int(query.get("n", ["100"])[0]), query.get("last", [""])[0])
        return self.forward(asked)

    def _page(self, asked: Asked, wanted: int, last: str) -> Answer:
        """Page a list that the registry gives whole, after the specification's "Listing Tags"."""
        if wanted > self.page_tags:
            return _refuse(400, "PAGINATION_NUMBER_INVALID", f"at most {self.page_tags} results")
        path = urlsplit(asked.path).path
        whole = self.forward(asked._replace(path=path))
        if whole.status != 200:
            return whole
        document = json.loads(whole.body)
        rest = sorted(tag for tag in document["tags"] or [] if tag > last)
        document["tags"] = rest[:wanted]
        headers: tuple[tuple[str, str], ...] = (("Content-Type", "application/json"),)
        if len(rest) > wanted:
            following = f'<{path}?n={wanted}&last={quote(rest[wanted - 1])}>; rel="next"'
            headers += (("Link", following),)
        return Answer(200, json.dumps(document).encode(), headers)


def _refuse(status: int, code: str, message: str) -> Answer:
    body = json.dumps({"errors": [{"code": code, "message": message}]}).encode()
    return Answer(status, body, (("Content-Type", "application/json"),))
