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
    """

    host: str
    backing: RegistryServer | str
    oci: bool = False
    root: Path | None = None
    login: dict[str, str] = field(default_factory=dict)

    def maker(self) -> ImageMaker:
        """Push images here."""
        return ImageMaker(self.backing)

    def tag_many(self, maker: ImageMaker, pushed: Pushed, tags: Iterable[str]) -> None:
        """Give an image many tags: where distribution keeps them, as 2,500 requests take their time."""
        if self.root is None:
            for tag in tags:
                maker.push_tag(pushed, tag)
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
    binary = built_registry()
    if binary is None:
        pytest.skip("no distribution 3 here: scripts/setup.sh tests builds it where Go 1.24 or later is")
    server = make(binary=binary)
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
    folder.mkdir(parents=True)
    port = free_port()
    document = {
        "distSpecVersion": "1.1.0",
        "storage": {"rootDirectory": str(folder / "content"), "gc": False},
        "http": {"address": "127.0.0.1", "port": str(port)},
    }
    (folder / "config.json").write_text(json.dumps(document))
    program = Program([binary, "serve", str(folder / "config.json")], folder=folder, name="zot")

    def listens() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        wait_until(listens, "zot listens")
        yield Product(f"127.0.0.1:{port}", f"127.0.0.1:{port}", oci=True)
    finally:
        program.stop()


@contextmanager
def _crane(_make: RegistryMaker, folder: Path) -> Iterator[Product]:
    """The registry of go-containerregistry, in memory: a DELETE takes a tag or a digest, each alone."""
    binary = shutil.which("crane", path=search_path())
    if binary is None:
        pytest.skip(
            "no crane here: put its program on the PATH (https://github.com/google/go-containerregistry)"
        )
    folder.mkdir(parents=True)
    host = f"127.0.0.1:{free_port()}"
    program = Program([binary, "registry", "serve", "--address", host], folder=folder, name="crane")
    try:
        program.wait_for("serving on port")
        yield Product(host, host)
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
    "crane's": _crane,
    "tags deleted alone": _tag_only,
    "token scopes of its own": _own_scopes,
    "a gateway with limits": _limited,
}
"""The products of the suite, by name: each starts one and ends it."""
