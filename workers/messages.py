"""Checks of task messages: Celery's message protocol 2, with arguments that our tasks know.

Source: https://docs.celeryq.dev/en/stable/internals/protocol.html. Celery (5.7) checks little of it. A
malformed message raises in its loop or in a thread, where nobody acknowledges the message.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from config.envelope import CONTENT_ERRORS, MalformedMessageError, Name, check_size, first_problem

__all__ = ["problem_of"]

_Text = Annotated[str, Field(max_length=1024 * 1024)]
_Limit = Annotated[float, Field(gt=0)]


class _Part(BaseModel):
    """Fields that are read of a message; unknown ones are ignored."""

    model_config = ConfigDict(frozen=True, strict=True, hide_input_in_errors=True)


class _Headers(_Part):
    task: Name
    id: Name
    root_id: Name | None = None
    parent_id: Name | None = None
    group: Name | None = None
    shadow: Name | None = None
    eta: _Text | None = None
    expires: _Text | None = None
    retries: Annotated[int, Field(ge=0)] | None = None
    timelimit: Annotated[list[_Limit | None], Field(min_length=2, max_length=2)] | None = None
    argsrepr: _Text | None = None
    kwargsrepr: _Text | None = None
    ignore_result: bool | None = None
    replaced_task_nesting: Annotated[int, Field(ge=0)] = 0
    stamped_headers: list[str] | None = None
    stamps: dict[str, Any] | None = None


class _Embedded(_Part):
    callbacks: list[dict[str, Any]] | None = None
    errbacks: list[dict[str, Any]] | None = None
    chain: list[dict[str, Any]] | None = None
    chord: dict[str, Any] | None = None


class _Body(_Part):
    parts: tuple[list[Any], dict[str, Any], _Embedded | None]


class _Content(_Part):
    content_type: Literal["application/json"]
    content_encoding: Literal["utf-8"] | None


def problem_of(message: Any, tasks: Mapping[str, Any]) -> str | None:
    """Return the reason why a message is invalid; None if it is valid.

    Args:
        message: A kombu message with a valid envelope.
        tasks: The worker's tasks by name. One with a `problem_of` checks its arguments; an unknown task does
            not make the message invalid.

    Returns:
        The problem, without the message's content.
    """
    try:
        task, body = _read(message, tasks)
    except ValidationError as error:
        return first_problem(error)
    except MalformedMessageError as error:
        return str(error)
    except CONTENT_ERRORS as error:
        return f"its body cannot be decoded ({type(error).__name__})"
    positional, named, _ = body.parts
    if "self" in named:  # a method of ours has an argument of that name
        return "an argument has no name of its own"
    look = getattr(task, "problem_of", None)
    return None if look is None else look(positional, named)


def _read(message: Any, tasks: Mapping[str, Any]) -> tuple[Any, _Body]:
    headers = _Headers.model_validate(message.headers)
    _Content(content_type=message.content_type, content_encoding=message.content_encoding)
    check_size(message.body)
    body = message.decode()  # the message caches it for Celery
    if not isinstance(body, list):
        raise MalformedMessageError("its body is no list")
    return tasks.get(headers.task), _Body.model_validate({"parts": tuple(body)})
