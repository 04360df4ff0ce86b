"""Advice for the errors of items, by the error's type; `docs/troubleshooting.md` has it at length."""

from __future__ import annotations

from collections.abc import Mapping

from stagefleet import errors

_ADVICE: Mapping[type[BaseException], str] = {
    errors.UsageError: "Change what the message names; nothing else helps.",
    errors.CredentialsError: "Log in again where the workers read their logins: docker login HOST.",
    errors.EngineNotFoundError: "Start a Docker Engine there, or name one: STAGEFLEET_ENGINE__URL.",
    errors.IncompatibleVersionError: "Upgrade the workers and the clients to the same release.",
    errors.UnreachableError: "Look whether the service runs, and for a firewall in the way; then retry.",
    errors.RedisUnreachableError: "Look at the Redis server: its log, disk and memory; then retry.",
    errors.LedgerRewoundError: "Redis has lost writes, as after a failover: start the run again.",
    errors.RegistryUnreachableError: "Look at the registry's name, port, firewall and proxy; then retry.",
    errors.CertificateError: "Do what the message says: most often registries.HOST.ca_file is missing.",
    errors.PlainHttpError: "Let the workers speak TLS: registries.HOST.plain_http = false.",
    errors.CircuitOpenError: "Repair the cache that did not answer; then retry.",
    errors.EngineUnreachableError: "Look at the Docker Engine of the host, as the worker's user; then retry.",
    errors.NoWorkerError: "Start a worker that listens to the run's queue.",
    errors.RegistryError: "Look at the status and the codes in the message, and at the registry's log.",
    errors.ForbiddenError: "Give the login of the workers the right to do it in this repository.",
    errors.NotFoundError: "It went while the run was under way: look whether the source still has it.",
    errors.RateLimitedError: "Lower --parallel, or ask for a higher limit of the registry; then retry.",
    errors.RegistryUnavailableError: "Look at the registry's log; retry when it is well.",
    errors.ManifestRefusedError: "Look whether garbage is collected beside the running registry; then retry.",
    errors.DeletionDisabledError: "Switch deletion on in the registry, as the message says; then retry.",
    errors.EngineError: "Look at the engine's message, and at its disk; then retry.",
    errors.ContentError: "Compare the content with its digest, past any proxy.",
    errors.StoredDigestError: "Do not trust this destination: look at its disk.",
    errors.TruncatedError: "Look for a proxy's limit or time-out; if it stays, build the stage again.",
    errors.UnsupportedManifestError: "Push the image again with a current tool: its format is an old one.",
    errors.BrokenStageError: "Delete the stage where it is broken, and copy or build it again.",
    errors.BrokenRecordError: "Write the record again with --force, or remove its tag by hand.",
    errors.StageNotFoundError: "It was deleted or rejected meanwhile: build it again if it is needed.",
    errors.PlatformNotFoundError: "Name one of the platforms that the message lists.",
    errors.StorageStateChangedError: "Somebody else changed the storage meanwhile: retry.",
    errors.ImageInUseError: "Wait for the job or container that uses it, or leave it alone: --skip-used.",
    errors.CustomTagError: "Add the custom tag again.",
    errors.SharedDigestError: "Name the other tags of the digest, too, or leave all of them alone.",
    errors.PruneLimitError: "See why the source has so much less; if that is right, raise --max-percent.",
    errors.IndexNotDeletedError: "Repair what the index of the stage failed with; then retry.",
    errors.LeaseLostError: "Another worker has it, or had it: retry.",
    errors.DeadlineMissedError: "The worker was slow for long: look at its load; then retry.",
    errors.LockTimeoutError: "See who holds the lock: stagefleet locks show NAME; then retry.",
    errors.LockLostError: "A process stood still for long: look at the worker's memory; then retry.",
    errors.ItemCancelledError: "The run was cancelled: retry.",
    errors.WaitTooLongError: "The registry asks for long pauses: lower --parallel; then retry.",
    errors.ItemPostponedError: "It waits for another item of the run, which failed: repair that first.",
    errors.WorkerLostError: "Look at the workers' logs and memory: they died with this item; then retry.",
    errors.ItemLostError: "Look at the Redis server: it lost data; set maxmemory-policy noeviction.",
    errors.HostLostError: "Start a worker on that host again; then retry.",
    errors.CoordinatorLostError: "The client with the callback vanished: start the run again under its key.",
    errors.CallbackError: "Repair the receiver of the callbacks; then retry.",
    errors.CallbackDeclinedError: "The receiver of the callbacks asked for no more: nothing, or ask there.",
    errors.CallbackLostError: "Repair the receiver of the callbacks; then retry.",
}
_OTHER_ADVICE = "Read the message, and the worker's log of the run; then retry."


def advice_for(error_type: str) -> str:
    """Return advice for an error: that of its class, else of the nearest base class that has some."""
    kind = getattr(errors, error_type, None)
    bases = kind.__mro__ if isinstance(kind, type) else ()
    return next((_ADVICE[base] for base in bases if base in _ADVICE), _OTHER_ADVICE)
