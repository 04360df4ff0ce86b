"""The `stagefleet` command, which turns errors into one line and an exit code."""

from __future__ import annotations

import atexit
import gc
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType
from typing import Any, NoReturn

from stagefleet.streams import discard_stdout, prepare_streams

__all__ = ["handle_signals", "main", "raise_interrupt", "run_command"]

_INTERRUPTED = 3
_TYPER_INTERRUPTED = 130
"""typer's exit code after a KeyboardInterrupt in a command."""
_INTERRUPTING = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)
_REPEAT_SECONDS = 0.01
_OBJECTS_A_COLLECTION = 200_000
"""Loading modules makes some 100,000 objects and no garbage: to look for it took a tenth of the time."""
_raised: list[int] = []  # the signals of the command under way that raised an interrupt


def main() -> None:
    """Run the command of `sys.argv`, and exit; the console script."""
    gc.set_threshold(_OBJECTS_A_COLLECTION)
    handle_signals()
    atexit.register(_end_process)  # the first to be registered runs last
    prepare_streams()
    code = _INTERRUPTED
    with suppress(KeyboardInterrupt):  # another one, while the first is reported
        code = run_command(sys.argv[1:])
        for number in _INTERRUPTING:  # the result is out, and threads may still end: leave at once
            signal.signal(number, lambda *_: os._exit(code))
    sys.exit(code)


def _end_process() -> None:
    """Ignore signals while modules are torn down: the default of Python then would change the exit code.

    Objects are left to the operating system: to take them apart one by one takes 0.1 s.
    """
    for number in _INTERRUPTING:
        signal.signal(number, signal.SIG_IGN)
    gc.freeze()


def handle_signals() -> None:
    """Raise an interrupt at SIGINT and SIGTERM; deliver it again if Python drops it in a finalizer."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored, as by nohup
        signal.signal(signal.SIGINT, raise_interrupt)
    # Otherwise the first process of a container would ignore it.
    signal.signal(signal.SIGTERM, raise_interrupt)
    signal.signal(signal.SIGALRM, _deliver_again)
    sys.unraisablehook = _handle_dropped


def raise_interrupt(number: int, _frame: FrameType | None) -> NoReturn:
    """Handle a signal: end the command, also if a library makes another error of the interrupt."""
    _raised.append(number)
    raise KeyboardInterrupt


def _handle_dropped(dropped: sys.UnraisableHookArgs, /) -> None:
    if issubclass(dropped.exc_type, KeyboardInterrupt):
        # Later: what is raised here is dropped, too. A finalizer that still runs then leads here again.
        signal.setitimer(signal.ITIMER_REAL, _REPEAT_SECONDS)
    else:
        sys.__unraisablehook__(dropped)


def _deliver_again(_signal: int, _frame: FrameType | None) -> None:
    """Raise the signal anew: a run may have started meanwhile, whose handler cancels it."""
    is_ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    signal.raise_signal(signal.SIGTERM if is_ignored else signal.SIGINT)


def run_command(arguments: Sequence[str]) -> int:
    """Run the command of a command line without the program's name.

    Returns:
        The exit code: 0 all succeeded or skipped, 1 some items failed, 2 invalid use or configuration,
        3 cancelled, 4 a service is out of reach.
    """
    _raised.clear()
    try:
        code = _run(list(arguments))
    except KeyboardInterrupt:
        return _complain("interrupted", _INTERRUPTED)
    except BrokenPipeError:
        return _leave_closed_pipe()
    except SystemExit as ending:
        return _end(ending)
    except Exception as error:  # noqa: BLE001 - the outermost handler: users see no traceback
        return _complain("interrupted", _INTERRUPTED) if _raised else _explain(error)
    return _complain("interrupted", _INTERRUPTED) if code == _TYPER_INTERRUPTED else code


def _run(arguments: list[str]) -> int:
    """Run one command; modules load here, so that an interrupt meanwhile ends in one line, too."""
    from stagefleet.cli.output import flush_output, print_line  # noqa: PLC0415 - as the docstring says

    code: Any = 0
    if arguments == ["--version"]:  # scripts ask often: load nothing else for it
        from stagefleet.runs.versions import __version__  # noqa: PLC0415 - as the docstring says

        print_line(f"stagefleet {__version__}")
    elif arguments == ["health"] and (live := _count_live()):  # containers ask every few seconds
        print_line(f"{live} worker processes live here")
    else:
        from stagefleet.cli.app import build_command  # noqa: PLC0415 - as the docstring says
        from stagefleet.cli.options import forget_options  # noqa: PLC0415 - as the docstring says

        forget_options()
        code = build_command()(args=arguments, prog_name="stagefleet", standalone_mode=False)
    flush_output()
    return code if isinstance(code, int) else 0


def _count_live() -> int:
    from stagefleet.processes import count_live  # noqa: PLC0415 - as in `_run`

    return count_live()


def _end(ending: SystemExit) -> int:
    """Print the reason for an exit by typer: a closed pipe, or a finished completion."""
    if isinstance(ending.__context__, OSError):
        return _leave_closed_pipe()
    if ending.code is None or isinstance(ending.code, int):
        return ending.code or 0
    return _complain(f"a module ended the command while it was loaded: {ending.code}", 1)


def _explain(error: Exception) -> int:
    """Say in one line what went wrong, with the traceback before it if that is asked for.

    It loads here what it needs, since an interrupt while modules load ends in one line, too.
    """
    import traceback  # noqa: PLC0415 - as the docstring says

    from typer import Abort, TyperException  # noqa: PLC0415 - as the docstring says

    from stagefleet.cli.options import chosen_options  # noqa: PLC0415 - as the docstring says
    from stagefleet.errors import OutputError, StagefleetError  # noqa: PLC0415 - as the docstring says
    from stagefleet.redaction import masked_line, plain_text  # noqa: PLC0415 - as the docstring says
    from stagefleet.settings import load_settings  # noqa: PLC0415 - as the docstring says

    with suppress(StagefleetError):  # the settings cannot be read
        if load_settings(**chosen_options().overrides).log.level == "debug":
            lines = traceback.format_exception(error)  # as sys.excepthook prints it, without local variables
            sys.stderr.write(plain_text(masked_line("".join(lines))))
    if isinstance(error, OutputError):
        discard_stdout()
    match error:
        case StagefleetError():
            return _complain(plain_text(masked_line(str(error))), error.exit_code)
        case TyperException():
            return _complain(
                plain_text(masked_line(f"{error.format_message()} (see stagefleet --help)")), error.exit_code
            )
        case Abort():
            return _complain("interrupted", _INTERRUPTED)
        case _:
            advice = "this is a bug; --debug shows where"
            told = f"unexpected {type(error).__name__}: {error} ({advice})"
            return _complain(plain_text(masked_line(told)), 1)


def _complain(message: str, code: int) -> int:
    line = " ".join(message.split())
    sys.stderr.write(f"stagefleet: error: {line}\n")
    return code


def _leave_closed_pipe() -> int:
    """End as if by SIGPIPE; Python must not flush into the closed pipe again."""
    discard_stdout()
    return 128 + signal.SIGPIPE
