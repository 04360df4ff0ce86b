"""The registries of the suite: real ones, and fronts before distribution 2.8."""

from __future__ import annotations

import base64
import json
import shutil
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.contract.registries.gateways import LimitedGateway, OciOnlyRegistry, TagOnlyRegistry
from tests.services import ImageMaker, Program, Pushed, RegistryServer, TokenServer, free_port
from tests.services.environment import search_path
from tests.services.processes import wait_until
from tests.services.registry import built_registry

__all__ = ["PRODUCTS", "Product", "RegistryMaker"]

SIGNATURE, EMPTY = "application/x.signature", "application/vnd.oci.empty.v1+json"
USER, PASSWORD = "robot", "hunter-2"
RegistryMaker = Callable[..., RegistryServer]


@dataclass(frozen=True)
class Product:
    """A registry of the suite.

    Attributes:
        host: Where clients find it.
        backing: Where tests push to and look: behind a front, or where logins are at hand.
        oci: Whether it takes OCI's media types alone.
        root: The content of a distribution, None for others.
        login: The entry of Docker's configuration file for it.
        kind: How it lists the artifacts of the type `SIGNATURE`.
    """

    host: str
    backing: RegistryServer | str
    oci: bool = False
    root: Path | None = None
    login: dict[str, str] = field(default_factory=dict)
    kind: str = SIGNATURE

    def maker(self) -> ImageMaker:
        """Push images here."""
        return ImageMaker(self.backing)

    def tag_many(self, maker: ImageMaker, pushed: Pushed, tags: Iterable[str]) -> None:
        """Give an image many tags: where distribution keeps them, as 2,500 requests take their time."""
        if self.root is None:
            maker.push_tags(pushed, tags)
            return
        manifests = self.root / "docker/registry/v2/repositories" / pushed.repository / "_manifests"
        for tag in tags:
            folder = manifests / "tags" / tag / "current"
            folder.mkdir(parents=True)
            (folder / "link").write_text(pushed.digest)


@contextmanager
def _distribution_2(make: RegistryMaker, _folder: Path) -> Iterator[Product]:
    server = make()
    yield Product(server.host, server, root=server.root)


@contextmanager
def _distribution_3(make: RegistryMaker, _folder: Path) -> Iterator[Product]:
    server = make(binary=_built("distribution"))
    yield Product(server.host, server, root=server.root)


@contextmanager
def _oci_only(make: RegistryMaker, _folder: Path) -> Iterator[Product]:
    server = make()
    with OciOnlyRegistry(server.host) as front:
        yield Product(front.host, front.host, oci=True, root=server.root)


@contextmanager
def _zot(_make: RegistryMaker, folder: Path) -> Iterator[Product]:
    binary = shutil.which("zot", path=search_path())
    if binary is None:
        pytest.skip("no zot here: put its program on the PATH (https://zotregistry.dev)")
    port = free_port()
    document = {
        "distSpecVersion": "1.1.0",
        "storage": {"rootDirectory": str(folder / "content"), "gc": False},
        "http": {"address": "127.0.0.1", "port": str(port)},
    }
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(document))
    with _serving(folder, port, [binary, "serve", str(folder / "config.json")]) as host:
        yield Product(host, host, oci=True)


@contextmanager
def _olareg(_make: RegistryMaker, folder: Path) -> Iterator[Product]:
    """It deletes a tag alone, and a digest with its tags."""
    port = free_port()
    options = ["--addr", "127.0.0.1", "--port", str(port), "--store-type", "mem", "--api-delete"]
    with _serving(folder, port, [_built("olareg"), "serve", *options]) as host:
        yield Product(host, host)


@contextmanager
def _go_containerregistry(_make: RegistryMaker, folder: Path) -> Iterator[Product]:
    """It deletes tags and digests, each alone, and lists a referrer under the type of its configuration."""
    port = free_port()
    with _serving(folder, port, [_built("ggcr"), f"127.0.0.1:{port}"]) as host:
        yield Product(host, host, kind=EMPTY)


def _built(name: str) -> str:
    binary = built_registry(name)
    if binary is None:
        pytest.skip(f"no {name} here: scripts/setup.sh tests builds it where Go 1.26 or later is")
    return binary


@contextmanager
def _serving(folder: Path, port: int, command: list[str]) -> Iterator[str]:
    """Run a registry that listens on a port; returns its host."""
    folder.mkdir(parents=True, exist_ok=True)
    program = Program(command, folder=folder, name=folder.name)

    def listens() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        wait_until(listens, f"{command[0]} listens")
        yield f"127.0.0.1:{port}"
    finally:
        program.stop()


@contextmanager
def _tag_only(make: RegistryMaker, _folder: Path) -> Iterator[Product]:
    server = make()
    with TagOnlyRegistry(server.host, server.root) as front:
        yield Product(front.host, server, root=server.root)


@contextmanager
def _own_scopes(make: RegistryMaker, folder: Path) -> Iterator[Product]:
    """Its token server knows no `delete`, as Quay's (quay/quay #6576): `*` stands for all."""
    with ExitStack() as stack:
        tokens = TokenServer(folder, users={USER: PASSWORD})
        tokens.unknown_actions = {"delete"}
        stack.callback(tokens.start().stop)
        server = make(token=tokens)
        login = {"auth": base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()}
        yield Product(server.host, server, root=server.root, login=login)


@contextmanager
def _limited(make: RegistryMaker, _folder: Path) -> Iterator[Product]:
    server = make()
    with LimitedGateway(server.host) as front:
        yield Product(front.host, server, root=server.root)


PRODUCTS = {
    "distribution 2.8": _distribution_2,
    "distribution 3": _distribution_3,
    "OCI's types alone": _oci_only,
    "zot": _zot,
    "olareg": _olareg,
    "go-containerregistry's": _go_containerregistry,
    "tags deleted alone": _tag_only,
    "token scopes of its own": _own_scopes,
    "a gateway with limits": _limited,
}
"""The products of the suite, by name: each starts one and ends it."""
