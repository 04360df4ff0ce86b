"""Users of a digest, which must be known before any deletion by digest.

There are two rounds, each by one worker for the whole fleet. The first, once per run, reads stages and
records: their tags never move. The second reads all others: foreign tags, which anyone may move at any time,
and stages and records that are new, or that the first could not read. It is valid for `FRESH_SECONDS` from
its beginning, its tag list included; a deletion that relies on it passes on until when its request may leave.
No registry offers a way to close the remaining gap.

If a second round takes longer than `SLOW_SECONDS`, as with many thousands of foreign tags, it is never valid:
a tag is then moved aside, which does not need the others.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from stagefleet.attempt import Attempt
from stagefleet.deletion.checks import DeletedTags, numbered
from stagefleet.deletion.index_members import SeenTag, TagReads
from stagefleet.deletion.tag_tables import KeptScans, KnownTable, KnownTags, ToDeleteTable, UserTable
from stagefleet.errors import RedisUnreachableError, RegistryError
from stagefleet.fleet_registries import Registries
from stagefleet.leases import TOLD_SECONDS, check_run, elapsed_seconds, note_progress
from stagefleet.names import Digest, Repository, StageId
from stagefleet.records.ids import is_record_tag
from stagefleet.shared_state.base import RUN_TTL_SECONDS, SharedState

T = TypeVar("T")

SLOW_SECONDS = 6.0
"""Longest valid second round; the rest of the time is for the deletions that it allows."""

_REUSED_SECONDS = 8.0
_REPORT_SECONDS = 5.0
"""Pause between two reports of how far the first round is, and two looks at its run."""
_WAIT_SECONDS = 600
_MOST_UNREADABLE = 100
"""Most unreadable tags, each of which costs some seconds of retries; beyond it no round is complete."""
_MOST_MEMBERS = 2_000_000
_MOST_FRESH_MEMBERS = 20_000
_MOST_PLACEHOLDERS = 1000
_MOST_TRIES = 3
_SALT_BYTES = 16
_NO_ROUND: dict[str, Any] = {"is_whole": False, "tags": {}, "members": {}, "unreadable": []}
"""A second round without results."""


@dataclass(frozen=True, slots=True)
class DigestReferences:
    """Users of a digest: the tags that name it, and as `holders` those of indexes that lead to it.

    Attributes:
        unreadable: Tags that cannot be read in full, so that they may use anything.
        since: Time since when it is valid, on `elapsed_seconds`; None if it is not fresh or not complete, so
            that the digest must not be deleted.
    """

    tags: frozenset[str]
    holders: frozenset[str]
    unreadable: tuple[str, ...]
    since: float | None


class _PartLostError(Exception):
    """A part of the first round is no longer stored."""


class ReferenceScan:
    """Find the users of digests in a repository; `deleted_tags` are those that go with another's digest."""

    def __init__(
        self,
        registries: Registries,
        repository: Repository,
        attempt: Attempt,
        kept_scans: KeptScans | None = None,
    ) -> None:
        self._shared_state = registries.shared_state
        self.deleted_tags = DeletedTags(registries.shared_state, repository, attempt.run_id)
        self._repository = repository
        self._attempt = attempt
        self._run = attempt.run_id
        self._tag_reads = TagReads(registries.client, repository, attempt.lease)
        self._kept = KeptScans() if kept_scans is None else kept_scans
        self._key = f"scan {repository}"

    def find(self, digest: Digest, *, newer_than: float = -math.inf) -> DigestReferences:
        """Find the users of a digest, by rounds of other workers that are newer, on `elapsed_seconds`."""

        def look(first: dict[str, Any]) -> DigestReferences:
            salt, name = _salt(first), str(digest)
            (part,) = self._parts(first, "users", [UserTable.part_of(digest, salt, first["users"])])
            found = UserTable.find(part, digest, salt)
            fresh, since = self._second_round(first, newer_than)
            is_whole = first["is_whole"] and fresh["is_whole"] and not found.has_more
            suspects = [] if fresh["is_whole"] else first["unreadable"]  # the second round tries them again
            return DigestReferences(
                tags=frozenset({*found.tags, *fresh["tags"].get(name, ())}),
                holders=frozenset({*found.holders, *fresh["members"].get(name, ())}),
                unreadable=tuple(dict.fromkeys([*fresh["unreadable"], *suspects])),
                since=since if is_whole else None,
            )

        return self._answer(look)

    def to_delete(self, tags: Collection[str]) -> dict[str, int]:
        """Return those of some tags that the run deletes, each with its item's index, or `NO_ITEM`."""

        def find(first: dict[str, Any]) -> dict[str, int]:
            salt = _salt(first)
            part_indexes = {tag: ToDeleteTable.part_of(tag, salt, first["asked"]) for tag in tags}
            wanted = sorted(set(part_indexes.values()))
            parts = dict(zip(wanted, self._parts(first, "asked", wanted), strict=True))
            found = {
                tag: ToDeleteTable.find(parts[part_index], tag, salt)
                for tag, part_index in part_indexes.items()
            }
            return {tag: index for tag, index in found.items() if index is not None}

        return self._answer(find) if tags else {}

    def is_listed(self, tag: str, *, since: float) -> bool:
        """Return True if the registry lists a tag that did not exist at `since`, on `elapsed_seconds`."""
        kept = self._kept.listings.find(self._repository)
        if kept is not None:
            tags, listed_at = kept
            if elapsed_seconds() - listed_at <= _REUSED_SECONDS and (listed_at >= since or tag not in tags):
                return tag in tags
        listed_at, salt = elapsed_seconds(), secrets.token_bytes(_SALT_BYTES)
        table = KnownTable(salt)
        for listed in self._tag_reads.list():
            table.add(listed)
        tags = KnownTags(table.take_parts(), salt)
        self._kept.listings.keep(self._repository, (tags, listed_at))
        return tag in tags

    def _answer(self, question: Callable[[dict[str, Any]], T]) -> T:
        """Query the first round; repeat the round if a part of it was lost."""
        for _ in range(_MOST_TRIES):
            first = self._shared_state.get_or_compute(
                self._run,
                self._key,
                self._look_at_stages,
                ttl_seconds=RUN_TTL_SECONDS,
                wait_seconds=_WAIT_SECONDS,
                lease=self._attempt.lease,
            )
            try:
                return question(first)
            except _PartLostError:
                self._shared_state.forget_value(self._run, self._key)
        raise RedisUnreachableError(
            f"Redis forgets what was found out of the tags of {self._repository}: has it enough memory?"
        )

    # The rounds

    def _look_at_stages(self) -> dict[str, Any]:
        token = secrets.token_hex(_SALT_BYTES)
        salt = bytes.fromhex(token)
        users, known, to_delete = UserTable(salt), KnownTable(salt), ToDeleteTable(salt)
        unreadable: list[str] = []
        placeholders: list[str] = []
        members = 0
        for seen in self._reporting(self._tag_reads.read(self._fixed_tags())):
            members += len(seen.members.used)
            if seen.digest is None or not seen.is_readable or members > _MOST_MEMBERS:
                unreadable.append(seen.tag)
                if len(unreadable) > _MOST_UNREADABLE:
                    next(self._tag_reads.list(), None)  # raises if the registry fails, not the tags
                    break
                continue
            if seen.members.is_placeholder:
                placeholders.append(seen.tag)
            known.add(seen.tag)
            users.add_tag(str(seen.digest), seen.tag)
            for member in seen.members.used:
                users.add_member(str(member), seen.tag)
        for tag, index in numbered(self._attempt.to_delete):
            to_delete.add(tag, index)
        tables = {"users": users, "known": known, "asked": to_delete}
        return {
            "token": token,
            "is_whole": len(unreadable) <= _MOST_UNREADABLE,
            "unreadable": unreadable,
            "placeholders": placeholders[:_MOST_PLACEHOLDERS],
            **{name: self._put_parts(token, name, table.take_parts()) for name, table in tables.items()},
        }

    def _fixed_tags(self) -> Iterator[str]:
        return (tag for tag in self._tag_reads.list() if _is_fixed(tag))

    def _reporting(self, looks: Iterator[SeenTag]) -> Iterator[SeenTag]:
        """Report how far a long round is; end it with a cancelled run, as nothing has been changed yet."""
        lease = self._attempt.lease
        check_run(lease)
        began = elapsed_seconds()
        report_at, done, total = began + TOLD_SECONDS, 0, 0
        try:
            for done, seen in enumerate(looks, start=1):
                yield seen
                if elapsed_seconds() < report_at:
                    continue
                check_run(lease)
                if not total:
                    with suppress(RegistryError):
                        total = sum(1 for _ in self._fixed_tags())
                total = max(total, done)
                left_seconds = (elapsed_seconds() - began) * (total - done) / done
                note_progress(
                    lease,
                    2 * left_seconds + 2 * _REPORT_SECONDS,
                    f"{done:,} of {total:,} tags looked at before a deletion in {self._repository}",
                )
                report_at = elapsed_seconds() + _REPORT_SECONDS
        finally:
            if total:
                note_progress(lease, 0)

    def _second_round(self, first: dict[str, Any], newer_than: float) -> tuple[dict[str, Any], float]:
        if not first["is_whole"] or self._kept.is_slow(self._run, self._repository):
            return _NO_ROUND, 0.0
        key = f"fresh {self._key}"
        for _ in range(_MOST_TRIES):
            found = self._shared_state.get_or_compute_dated(
                self._run,
                key,
                lambda: self._look_at_the_rest(first),
                ttl_seconds=_REUSED_SECONDS,
                wait_seconds=_WAIT_SECONDS,
                lease=self._attempt.lease,
            )
            if found.since >= newer_than:
                if not found.value["is_whole"]:
                    self._kept.note_slow(self._run, self._repository)
                return found.value, found.since
            self._shared_state.forget_value(self._run, key)
        return _NO_ROUND, 0.0

    def _look_at_the_rest(self, first: dict[str, Any]) -> dict[str, Any]:
        began, known = elapsed_seconds(), self._known(first)
        tags: dict[str, list[str]] = {}
        members: dict[str, list[str]] = {}
        unreadable: list[str] = []
        placeholders: list[str] = []
        left = _MOST_FRESH_MEMBERS

        def is_whole() -> bool:
            in_time = elapsed_seconds() - began <= SLOW_SECONDS
            return in_time and left >= 0 and len(unreadable) <= _MOST_UNREADABLE

        for seen in self._tag_reads.read(tag for tag in self._tag_reads.list() if tag not in known):
            if not seen.is_readable:
                unreadable.append(seen.tag)
            if seen.members.is_placeholder:
                placeholders.append(seen.tag)
            if seen.digest is not None:
                tags.setdefault(str(seen.digest), []).append(seen.tag)
            for member in seen.members.used:
                members.setdefault(str(member), []).append(seen.tag)
            left -= len(seen.members.used)
            if not is_whole():
                break
        if not is_whole():
            return _NO_ROUND | {"unreadable": unreadable}
        return {
            "is_whole": True,
            "tags": tags,
            "members": members,
            "unreadable": unreadable,
            "placeholders": placeholders[:_MOST_PLACEHOLDERS],
        }

    # The first round's tables, in parts

    def _put_parts(self, token: str, name: str, parts: list[bytes]) -> int:
        keys = [self._part_key(token, name, part_index) for part_index in range(len(parts))]
        self._shared_state.put_parts(self._run, dict(zip(keys, parts, strict=True)))
        return len(parts)

    def _parts(self, first: dict[str, Any], name: str, part_indexes: Iterable[int]) -> list[bytes]:
        keys = [self._part_key(first["token"], name, part_index) for part_index in part_indexes]
        parts = [part for part in self._shared_state.parts(self._run, keys) if part is not None]
        if len(parts) < len(keys):
            raise _PartLostError
        return parts

    def _known(self, first: dict[str, Any]) -> KnownTags:
        known = self._kept.known.find(first["token"])
        if known is None:
            known = KnownTags(self._parts(first, "known", range(first["known"])), _salt(first))
            self._kept.known.keep(first["token"], known)
        return known

    def _part_key(self, token: str, name: str, part_index: int) -> str:
        return f"{self._key} {token} {name} {part_index}"


def placeholders_seen(shared_state: SharedState, run_id: str, repository: Repository) -> set[str]:
    """Return the tags that led to placeholders in the stored rounds of a run."""
    key = f"scan {repository}"
    rounds = (shared_state.peek(run_id, name) or {} for name in (key, f"fresh {key}"))
    return {tag for found in rounds for tag in found.get("placeholders", ())}


def _salt(first: dict[str, Any]) -> bytes:
    return bytes.fromhex(first["token"])


def _is_fixed(tag: str) -> bool:
    """Return True if a tag never changes its content: stages and their records."""
    return StageId.from_tag(tag) is not None or is_record_tag(tag)
