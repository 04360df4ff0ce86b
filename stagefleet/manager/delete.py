"""Delete a stage or another tag of ours, and no tag that nobody asked for.

Where a registry deletes a tag alone, that is one request. Elsewhere a DELETE of a digest takes every tag of
it, so it is done only if all of them are asked for and no index that stays has it as a member. Otherwise the
tag is moved aside first; see `manager.displacement`. With an index go those of its members that nothing else
uses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from stagefleet.errors import NotFoundError, RegistryError, RegistryUnavailableError, SharedDigestError
from stagefleet.manager.deletion_way import (
    DeletionWay,
    Trial,
    delete_manifest,
    find_way,
    forget_way,
    refuses_tags,
)
from stagefleet.manager.displacement import Displacement
from stagefleet.manager.mishaps import warned
from stagefleet.manager.produced import Produced
from stagefleet.manager.survey import Survey
from stagefleet.names import Digest, Reference, Repository
from stagefleet.registry import RegistryClient
from stagefleet.registry.leash import Leash
from stagefleet.runs.book import SharedBook

__all__ = ["TagDeletion"]

_SHOWN_TAGS = 5
_CLIENT_ERRORS = range(400, 500)


class TagDeletion:
    """One attempt at deleting one tag: that of a stage, of a record, or a custom one.

    Args:
        client: Speaks to registries.
        book: What the workers of the run find out together.
        repository: The repository that has it.
        run: The run's id.
        asked: Gives the tags that the run deletes and has not deleted yet.
        leash: Holds the work back.
    """

    def __init__(
        self,
        client: RegistryClient,
        book: SharedBook,
        repository: Repository,
        *,
        run: str,
        asked: Callable[[], Iterable[str]],
        leash: Leash,
    ) -> None:
        self._client = client
        self._book = book
        self._repository = repository
        self._leash = leash
        self._survey = Survey(client, book, repository, run=run, asked=asked, leash=leash)

    def carry_out(self, tag: str) -> Produced:
        """Delete the tag; that it is gone already is success.

        Raises:
            DeletionDisabledError: Deletion is switched off in the registry.
            SharedDigestError: It shares its digest with what stays, and the registry leaves no way.
        """
        reference = self._repository.tagged(tag)
        try:
            found = find_way(self._client, self._book, reference, leash=self._leash)
        except NotFoundError:
            found = Trial(DeletionWay.DIGEST)  # it is gone; what a crash left of its deletion may not be
        if found.way is DeletionWay.TAG:
            self._delete_tag(reference)
        else:
            self._delete_digest(tag, reference, found)
        return Produced()

    def _delete_tag(self, reference: Reference) -> None:
        try:
            delete_manifest(self._client, reference, leash=self._leash)
        except RegistryError as error:
            if refuses_tags(error):  # it did delete tags when it was tried
                forget_way(self._book, self._repository)
            raise

    def _delete_digest(self, tag: str, reference: Reference, trial: Trial) -> None:
        displacement = Displacement(self._client, self._repository, tag, leash=self._leash)
        try:
            there = self._client.head_manifest(reference)
        except NotFoundError:
            displacement.withdraw()
            return
        staying = self._survey.staying(there.digest, tag)
        if not staying:  # as it is with the placeholder that an attempt before this one left: it is unique
            members = self._survey.members(there)  # now: once the index is gone, nobody can tell
            digest = Reference.of(self._repository, there.digest)
            delete_manifest(self._client, digest, leash=self._leash)
            displacement.withdraw()
            self._delete_members(members, tag)
            return
        if trial.left:  # a rejection would stay as well
            raise _shared(reference, staying, trial.refusal, passes=trial.passes)
        try:
            placeholder = displacement.begin()
        except RegistryError as error:
            if error.status not in _CLIENT_ERRORS or error.retryable:
                raise
            raise _shared(reference, staying, str(error)) from error
        displacement.finish(placeholder, there.digest)

    def _delete_members(self, members: Iterable[Digest], tag: str) -> None:
        """Delete what only an index used that is gone now.

        Of two indexes that go at once and share a member, whoever comes last finds the other gone, and
        deletes it. What fails stays to the registry's collection of untagged manifests.
        """
        for member in members:
            if any(self._is_there(user) for user in self._survey.users(member) - {tag}):
                continue
            reference = Reference.of(self._repository, member)
            with warned(f"{reference} stays, though no index has it any more"):
                delete_manifest(self._client, reference, leash=self._leash)

    def _is_there(self, tag: str) -> bool:
        try:
            self._client.head_manifest(self._repository.tagged(tag))
        except NotFoundError:
            return False
        return True


def _shared(
    reference: Reference, staying: list[str], refusal: str, *, passes: bool = False
) -> SharedDigestError | RegistryUnavailableError:
    shown = ", ".join(staying[:_SHOWN_TAGS])
    more = f" and {len(staying) - _SHOWN_TAGS} more" if len(staying) > _SHOWN_TAGS else ""
    what = (
        f"{reference} shares its digest with {shown}{more}, and the registry lets it neither be deleted "
        f"alone nor be moved aside ({refusal})"
    )
    if passes:
        return RegistryUnavailableError(what, method="DELETE", repository=str(reference.repository))
    return SharedDigestError(f"{what}: delete those too, or let this login push and delete")
