"""What the commands beside the trainings share: options, and how they end."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from common.engine.devices import processors
from common.errors import ConfigurationError, JobError
from common.reporting.endings import explain
from common.reporting.log import open_console
from common.trained import ENGINES

_BATCH, _WORKERS = 16, 16


class _Terminated(BaseException):
    """SIGTERM: what is being written does not appear."""


def named_path(text: str) -> Path:
    """The type of options that name files and folders: without a name it would be the current folder."""
    if not text.strip():
        raise argparse.ArgumentTypeError("the name is empty; . is the current folder")
    return Path(text)


def add_computing(parser: argparse.ArgumentParser) -> None:
    """The options on who computes, and how much at a time."""
    parser.add_argument(
        "--engine",
        default="auto",
        choices=ENGINES,
        help="default: MXNet where it is installed, else the ONNX file",
    )
    parser.add_argument(
        "--gpus", metavar="IDS", help="0 or 0,1; none: the CPU; default: a GPU where one can be used"
    )
    parser.add_argument(
        "--batch", type=int, default=_BATCH, metavar="N", help="images at a time (default: %(default)s)"
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=_WORKERS,
        metavar="N",
        help="processes that decode (default: one a processor)",
    )


def workers(options: argparse.Namespace) -> int:
    """Processes that decode. Raises ConfigurationError for options that are no such number."""
    if options.batch < 1:
        raise ConfigurationError(f"--batch: {options.batch}; at least 1 is expected")
    if options.workers < 0:
        raise ConfigurationError(f"--workers: {options.workers}; 0 or more are expected")
    return min(options.workers, processors())


def parse_gpus(text: str | None) -> list[int] | None:
    """The value of --gpus: ids; none: the CPU; None: not given. Raises ConfigurationError."""
    if text is None:
        return None
    if text.strip() in ("none", "[]"):
        return []
    parts = text.strip("[] ").replace("，", ",").split(",")
    if not all(part.strip().isdecimal() and len(part) < 10 for part in parts):
        raise ConfigurationError(
            f"--gpus: {text!r}; ids with commas are expected, such as 0 or 0,1, or none for the CPU"
        )
    return [int(part) for part in parts]


def carry_out(command: Callable[[argparse.Namespace], int | None], options: argparse.Namespace) -> int:
    """Do it and return the exit status, 0 for None; every failure is one line at the end of standard error."""
    open_console()
    try:
        with _stoppable():
            return command(options) or 0
    except KeyboardInterrupt:
        return _failed("stopped by SIGINT", 130)
    except _Terminated:
        return _failed("stopped by SIGTERM", 143)
    except Exception as error:
        known = explain(error) if not isinstance(error, JobError) else error
        return _failed(str(known), known.exit_status)


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """Within the block a signal is raised, so that files and workers are cleared away."""

    def end(number: int, frame: FrameType | None) -> None:
        raise _Terminated

    before = {signal.SIGTERM: signal.signal(signal.SIGTERM, end)}
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        before[signal.SIGINT] = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _failed(reason: str, status: int) -> int:
    print(reason, file=sys.stderr)
    return status
