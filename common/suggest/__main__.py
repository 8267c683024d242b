"""`python3 -m common.suggest FOLDER --out job.json --minutes 10`: from a folder of labelled images to a configuration.

What is trained, from which labels, on which network, at which size and for how long is decided by what lies in the
folder, what this machine does in a few real steps, and the table `CHOICES`, whose figures stand in
benchmarks/QUALITY.md. Every choice is said with its reason.
"""

from __future__ import annotations

from common.reporting.beginning import guard

if __name__ == "__main__":
    guard()  # what is imported below takes a while

import argparse
import errno
import json
import os
import shlex
import sys
from collections.abc import Sequence

from common.commands import carry_out, command_parser, named_path
from common.errors import ConfigurationError
from common.files import replacing
from common.images.decoding import printable
from common.language import said
from common.suggest.data import TASKS
from common.suggest.suggestion import suggest


def main(arguments: Sequence[str] | None = None) -> int:
    """Suggest as the command line says; the exit status."""
    return carry_out(_suggest, _parser, arguments)


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "suggest",
        "Look at a folder of labelled images and at this machine, and write a configuration that trains the best model "
        "that there is time for. Nothing is trained; the command that does it is printed.",
        "查看一个带标注的图像文件夹和本机，写出在给定时间内能训练出最好模型的配置。不进行训练，只给出训练命令。",
    )
    parser.add_argument(
        "folder",
        type=named_path,
        metavar="FOLDER",
        help=said("a set, or an export with several sets", "一个数据集，或含多个数据集的导出"),
    )
    parser.add_argument(
        "--out",
        type=named_path,
        required=True,
        metavar="FILE",
        help=said("the configuration to write", "要写出的配置文件"),
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=10.0,
        help=said(
            "wall time of the job (default: %(default)g)", "整个任务的时长，单位为分钟（默认 %(default)g）"
        ),
    )
    parser.add_argument(
        "--task",
        choices=TASKS,
        help=said("what the labels are for (default: found out)", "标注的用途（默认自动识别）"),
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help=said(
            "use VALUE for a key instead of what would be suggested; may be repeated",
            "用 VALUE 代替建议的参数值；可多次使用",
        ),
    )
    return parser


def _suggest(options: argparse.Namespace) -> None:
    if not 0 < options.minutes <= 1_000_000:
        raise ConfigurationError(
            f"--minutes: {options.minutes:g} is not allowed: it must be a number above 0 and at most 1000000"
        )
    if options.out.is_dir():
        raise ConfigurationError(
            f"--out: {printable(str(options.out))} is a folder; name a file, such as job.json"
        )
    try:  # before the time is spent
        options.out.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(options.out.parent, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise ConfigurationError(
            f"--out: {printable(str(options.out))} cannot be written: {error.strerror}"
        ) from None
    made = suggest(options.folder, options.minutes, options.task, options.set, options.out)
    if os.path.lexists(options.out):  # somebody may have worked on it
        former = options.out.with_name(f"{options.out.name}~")
        os.replace(options.out, former)
        print(said(f"What was {options.out} is {former} now", f"原来的 {options.out} 现在是 {former}"))
    with replacing(options.out, "w") as file:
        json.dump(made.values, file, ensure_ascii=False, indent=2)
        file.write("\n")
    for reason in made.reasons:
        print(said(*reason))
    command = [_python(), made.script, "--config", str(options.out)]
    print(said("Train it with:", "开始训练："))
    print(shlex.join(command), flush=True)


def _python() -> str:
    """The interpreter as one would type it."""
    here = os.path.relpath(sys.executable)
    return here if not here.startswith("..") else sys.executable


if __name__ == "__main__":
    sys.exit(main())
