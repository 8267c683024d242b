"""What the commands beside the trainings share: options, and how they end."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType

from common.engine.devices import processors
from common.errors import ConfigurationError, JobError
from common.language import (
    KINDS_IN_CHINESE,
    SpokenHelp,
    add_help,
    ask_for,
    asked_in,
    said,
    spoken,
    write_anything,
)
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


def command_parser(name: str, english: str, chinese: str) -> argparse.ArgumentParser:
    """The parser of `python3 -m common.NAME`, with what the command does in words."""
    parser = argparse.ArgumentParser(
        prog=f"python3 -m common.{name}",
        description=said(english, chinese),
        formatter_class=SpokenHelp,
        add_help=False,
    )
    add_help(parser)
    return parser


def listen(arguments: Sequence[str] | None) -> Sequence[str]:
    """The words of a command line, those of this process for None; their --lang is spoken from here on."""
    words = sys.argv[1:] if arguments is None else arguments
    write_anything()
    ask_for(asked_in(words))
    return words


def add_model(parser: argparse.ArgumentParser) -> None:
    """The argument that names a model."""
    parser.add_argument(
        "model",
        type=named_path,
        metavar="MODEL",
        help=said(
            "a job's log_dir, its model.json, or an .onnx file",
            "训练任务的 log_dir、其中的 model.json，或 .onnx 文件",
        ),
    )


def add_out(parser: argparse.ArgumentParser, name: str) -> None:
    """The folder that a command makes."""
    parser.add_argument(
        name,
        type=named_path,
        help=said(
            "a folder that does not exist or is empty; it appears whole or not at all",
            "不存在或为空的文件夹；要么完整出现，要么不出现",
        ),
    ).required = True


def add_computing(parser: argparse.ArgumentParser) -> None:
    """The options on who computes, and how much at a time."""
    parser.add_argument(
        "--engine",
        default="auto",
        choices=ENGINES,
        help=said(
            "default: MXNet where it is installed, else the ONNX file",
            "默认：装有 MXNet 时用 MXNet，否则用 ONNX 文件",
        ),
    )
    parser.add_argument(
        "--gpus",
        metavar="IDS",
        help=said(
            "0 or 0,1; none: the CPU; default: a GPU where one can be used",
            "0 或 0,1；none 表示 CPU；默认使用可用的 GPU",
        ),
    )
    parser.add_argument(
        "--batch",
        type=int,
        default=_BATCH,
        metavar="N",
        help=said("images at a time (default: %(default)s)", "每批图像数（默认 %(default)s）"),
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=_WORKERS,
        metavar="N",
        help=said(
            "processes that decode (default: one a processor)", "解码图像的进程数（默认每个处理器一个）"
        ),
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


def carry_out(
    command: Callable[[argparse.Namespace], int | None],
    parser: Callable[[], argparse.ArgumentParser],
    arguments: Sequence[str] | None,
) -> int:
    """Do what a command line says (that of this process for None), and return the exit status, 0 for None.

    Every failure is one line at the end of standard error.
    """
    words = listen(arguments)
    options = parser().parse_args(words)
    return finish(lambda: command(options))


def finish(command: Callable[[], int | None]) -> int:
    """The exit status of a command whose options are read; see `carry_out`."""
    open_console()
    try:
        with _stoppable():
            return command() or 0
    except KeyboardInterrupt:
        return _failed("stopped by SIGINT", 130)
    except _Terminated:
        return _failed("stopped by SIGTERM", 143)
    except Exception as error:
        known = explain(error) if not isinstance(error, JobError) else error
        if spoken() == "zh":
            print(KINDS_IN_CHINESE[known.kind], file=sys.stderr)
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
