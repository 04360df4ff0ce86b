"""The roles of storages; they stand in `stagefleet.roles`, for clients that load no registry."""

from stagefleet.roles import Roles

__all__ = ["Roles"]
