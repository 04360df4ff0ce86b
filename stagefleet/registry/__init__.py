"""A client of the OCI distribution API, over requests."""

from stagefleet.credentials import DockerConfig, Login
from stagefleet.leases import NO_LEASE, Lease
from stagefleet.manifests import Descriptor, Manifest
from stagefleet.registry.blob_api import Upload
from stagefleet.registry.client import RegistryClient

__all__ = [
    "NO_LEASE",
    "Descriptor",
    "DockerConfig",
    "Lease",
    "Login",
    "Manifest",
    "RegistryClient",
    "Upload",
]
