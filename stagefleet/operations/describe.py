"""Descriptions of stages."""

from __future__ import annotations

from typing import ClassVar

from stagefleet.operations.base import ProjectOperation


class DescribeOperation(ProjectOperation):
    """Describe stages of the primary storage, through the caches; the result is the description."""

    name: ClassVar[str] = "describe_stage"
    past: ClassVar[str] = "described"
    takes_layouts: ClassVar[bool] = True
