"""Repositories, references, digests and stage ids, as parsed values.

Inside Stagefleet, none of these is a raw string. Grammars: OCI distribution specification 1.1,
"Pulling manifests"; OCI image specification 1.1, "Digests"; the reference grammar of distribution/reference.
"""

from __future__ import annotations

import os.path
import re
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

from stagefleet.errors import InvalidNameError
from stagefleet.redaction import quoted

_MAX_FILE_PATH_BYTES = 4095  # PATH_MAX of Linux, without its NUL
_MAX_PATH_CHARACTERS = 255  # of host and path together, as in distribution/reference
_MAX_INT64 = 2**63 - 1
MAX_PORT = 2**16 - 1

_HOST = re.compile(
    r"(?:(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
    r"(?:\.(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9]))*|\[[a-fA-F0-9:]+\])(?::([0-9]{1,5}))?"
)
_PATH = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")
_DIGEST = re.compile(r"(sha256):([a-f0-9]{64})|(sha512):([a-f0-9]{128})")
_STAGE_ID = re.compile(r"([a-f0-9]{56})(?:-([1-9][0-9]{0,18}))?")
_PROJECT = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")

ENGINE_PREFIX = "docker-daemon:"
LAYOUT_PREFIX = "oci:"
HOST_PREFIXES = (ENGINE_PREFIX, LAYOUT_PREFIX)
"""What the addresses of storages on a host begin with."""
HOST_SEPARATOR = "\x1f"
"""Separator between an item and its host, in the items appended to a run."""


def is_tag(text: str) -> bool:
    """Return True for a valid tag (ASCII, 1 to 128 characters)."""
    return _TAG.fullmatch(text) is not None


def is_host(text: str) -> bool:
    """Return True for a registry's `host[:port]`, as repository names have it."""
    match = _HOST.fullmatch(text)
    return match is not None and (match[1] is None or 1 <= int(match[1]) <= MAX_PORT)


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """A content digest: `sha256:` or `sha512:`, and lower-case hexadecimal digits."""

    algorithm: str
    hex: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `ALGORITHM:HEX`, of sha256 or sha512; raise `InvalidNameError` if it is none."""
        match = _DIGEST.fullmatch(text)
        if match is None:
            raise InvalidNameError(f"{quoted(text)} is no digest: write sha256: and 64 hex characters")
        algorithm, _, value = text.partition(":")
        return cls(algorithm, value)

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"


@dataclass(frozen=True, slots=True, order=True)
class Repository:
    """A repository in a registry, which every worker reaches; `host` is `host[:port]`, as written."""

    host: str
    path: str

    is_on_host: ClassVar[Literal[False]] = False
    is_engine: ClassVar[Literal[False]] = False
    is_layout: ClassVar[Literal[False]] = False

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `host[:port]/path`.

        `InvalidNameError` if it is malformed, has a scheme, a tag or a digest, or has no host.
        """
        shown = quoted(text)
        if len(text) > _MAX_PATH_CHARACTERS:  # first, so that no pattern runs on a huge text
            raise InvalidNameError(f"{shown} is no repository: longer than {_MAX_PATH_CHARACTERS} characters")
        if "://" in text:
            raise InvalidNameError(f"{shown} is no repository: leave out the scheme, write HOST[:PORT]/PATH")
        host, slash, path = text.partition("/")
        if not slash or not ("." in host or ":" in host or host == "localhost"):
            raise InvalidNameError(
                f"{shown} names no registry: write HOST[:PORT]/PATH, for Docker Hub docker.io/NAMESPACE/NAME"
            )
        if not is_host(host):
            raise InvalidNameError(
                f"{shown} is no repository: the host {quoted(host)} is malformed: write HOST or HOST:PORT, "
                f"with a port from 1 to {MAX_PORT}"
            )
        if "@" in path or ":" in path:
            raise InvalidNameError(f"{shown} is no repository: leave out the tag or digest")
        if path.endswith("/"):
            raise InvalidNameError(f"{shown} is no repository: leave out the slash at its end")
        if _PATH.fullmatch(path) is None:
            raise InvalidNameError(
                f"{shown} is no repository: a path has lower-case letters, digits and . _ - between them"
            )
        return cls(host, path)

    @property
    def name(self) -> str:
        """The last component of the path."""
        return self.path.rpartition("/")[2]

    @property
    def image_name(self) -> str:
        """The name of its images, without their tags."""
        return str(self)

    def tagged(self, tag: str) -> Reference:
        """Return the reference to a tag in this repository."""
        return Reference.of(self, tag)

    def __str__(self) -> str:
        return f"{self.host}/{self.path}"


@dataclass(frozen=True, slots=True)
class Reference:
    """A manifest in a repository, by tag or by digest; exactly one of the two is set."""

    repository: Repository
    tag: str | None = None
    digest: Digest | None = None

    def __post_init__(self) -> None:
        if (self.tag is None) == (self.digest is None):
            raise InvalidNameError(f"a reference into {self.repository} needs either a tag or a digest")

    @classmethod
    def of(cls, repository: Repository, name: str | Digest) -> Self:
        """Build the reference to a tag or digest; raise `InvalidNameError` if it is no valid tag."""
        if isinstance(name, Digest):
            return cls(repository, digest=name)
        if not is_tag(name):
            raise InvalidNameError(f"{quoted(name)} is no tag: at most 128 letters, digits, _ . and -")
        return cls(repository, tag=name)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `REPOSITORY:TAG` or `REPOSITORY@DIGEST`; `InvalidNameError` for anything else."""
        name, at, digest = text.partition("@")
        if at:
            return cls(Repository.parse(name), digest=Digest.parse(digest))
        name, colon, tag = text.rpartition(":")
        if not colon or "/" in tag:
            raise InvalidNameError(f"{quoted(text)} is no image: write REPOSITORY:TAG or REPOSITORY@DIGEST")
        return cls.of(Repository.parse(name), tag)

    @property
    def identifier(self) -> str:
        """The tag or the digest, as requests have it after `manifests/`."""
        return str(self.digest) if self.tag is None else self.tag

    def __str__(self) -> str:
        return f"{self.repository}:{self.tag}" if self.digest is None else f"{self.repository}@{self.digest}"


@dataclass(frozen=True, slots=True, order=True)
class StageId:
    """The identity of a stage.

    Its digest is that of its content (SHA3-224, 56 hexadecimal characters); `created_ms` is the build time in
    milliseconds since 1970, or 0 for a multi-platform stage.
    """

    digest: str
    created_ms: int = 0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `DIGEST-CREATED_MS`, or `DIGEST` alone, or raise `InvalidNameError`."""
        stage_id = cls.from_tag(text)
        if stage_id is None:
            raise InvalidNameError(
                f"{quoted(text)} is no stage id: write DIGEST-CREATED_MS (56 hexadecimal characters, "
                "milliseconds), or DIGEST alone for a multi-platform stage"
            )
        return stage_id

    @classmethod
    def from_tag(cls, tag: str) -> Self | None:
        """Parse a tag; return None if it is not the tag of a stage."""
        match = _STAGE_ID.fullmatch(tag)
        if match is None:
            return None
        digest, created = match.groups()
        created_ms = int(created or 0)
        return None if created_ms > _MAX_INT64 else cls(digest, created_ms)

    @property
    def is_multiplatform(self) -> bool:
        """True for an image index."""
        return self.created_ms == 0

    @property
    def rejected_tag(self) -> str:
        """The tag of the record that rejects this stage."""
        return f"{self.digest}-{self.created_ms}-rejected"

    def __str__(self) -> str:
        return f"{self.digest}-{self.created_ms}" if self.created_ms else self.digest


@dataclass(frozen=True, slots=True, order=True)
class EngineProject:
    """A project's stages in a Docker Engine, `docker-daemon:PROJECT`, which only one host's workers reach."""

    project: str

    is_on_host: ClassVar[Literal[True]] = True
    is_engine: ClassVar[Literal[True]] = True
    is_layout: ClassVar[Literal[False]] = False

    @property
    def name(self) -> str:
        """The project's name."""
        return self.project

    @property
    def image_name(self) -> str:
        """The name of its images, without their tags."""
        return self.project

    def __str__(self) -> str:
        return ENGINE_PREFIX + self.project


@dataclass(frozen=True, slots=True, order=True)
class LayoutPath:
    """An OCI image layout, `oci:PATH`, a directory or a tar file, which only one host's workers reach.

    The path is absolute, and has no `.` or `..` in it.
    """

    path: str

    is_on_host: ClassVar[Literal[True]] = True
    is_engine: ClassVar[Literal[False]] = False
    is_layout: ClassVar[Literal[True]] = True

    @classmethod
    def parse(cls, path: str) -> Self:
        """Parse the path of a file, which may be relative to the current directory."""
        if not path or not path.isprintable() or len(os.fsencode(path)) > _MAX_FILE_PATH_BYTES:
            raise InvalidNameError(f"{quoted(path)} is no path of an OCI layout: write oci:DIRECTORY")
        return cls(os.path.abspath(path))  # noqa: PTH100 - a link stays one: who opens it may resolve it

    @property
    def name(self) -> str:
        """The last component of the path."""
        return self.path.rpartition("/")[2]

    @property
    def image_name(self) -> str:
        """The name of its images, without their tags."""
        return str(self)

    def __str__(self) -> str:
        return LAYOUT_PREFIX + self.path


StorageAddress = Repository | EngineProject | LayoutPath
"""Where stages live: a repository in a registry, a project in a Docker Engine, or an OCI image layout."""


def parse_address(text: str) -> StorageAddress:
    """Parse the address of a storage: `host[:port]/path`, `docker-daemon:PROJECT` or `oci:PATH`."""
    if text.startswith(LAYOUT_PREFIX):
        return LayoutPath.parse(text.removeprefix(LAYOUT_PREFIX))
    if not text.startswith(ENGINE_PREFIX):
        return Repository.parse(text)
    project = text.removeprefix(ENGINE_PREFIX)
    if len(project) > _MAX_PATH_CHARACTERS or _PROJECT.fullmatch(project) is None:
        raise InvalidNameError(f"{quoted(text)} names no project: write docker-daemon:PROJECT")
    return EngineProject(project)


def split_host(item: str) -> tuple[str, str | None]:
    """Split an appended item into its id and its host."""
    name, separator, host = item.partition(HOST_SEPARATOR)
    return name, host if separator else None


def join_host(item: str, host: str | None) -> str:
    """Combine an item's id and its host, as `split_host` splits them."""
    return item if host is None else f"{item}{HOST_SEPARATOR}{host}"
