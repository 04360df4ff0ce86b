"""The registries in memory are those of the storages."""

from tests.unit.storages.conftest import _short_looks, fakes  # noqa: F401 - fixtures are used by name
