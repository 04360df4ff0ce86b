"""A client of the OCI distribution API, over requests."""

from stagefleet.registry.blob_api import Upload
from stagefleet.registry.client import RegistryClient
from stagefleet.registry.docker_config import DockerConfig, Login
from stagefleet.registry.lease import NO_LEASE, Lease
from stagefleet.registry.manifests import Descriptor, Manifest

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
