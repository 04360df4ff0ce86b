"""A client of the OCI distribution API, over requests."""

from stagefleet.registry.client import RegistryClient
from stagefleet.registry.docker_config import DockerConfig, Login
from stagefleet.registry.leash import UNLEASHED, Leash
from stagefleet.registry.manifests import Descriptor, Manifest
from stagefleet.registry.uploads import Upload

__all__ = [
    "UNLEASHED",
    "Descriptor",
    "DockerConfig",
    "Leash",
    "Login",
    "Manifest",
    "RegistryClient",
    "Upload",
]
