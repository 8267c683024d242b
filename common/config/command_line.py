"""The command line of the fit scripts."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

from common.config.key_lookup import leaves
from common.config.sections import JobConfig
from common.errors import one_line, shortened
from common.language import SpokenHelp, add_help, ask_for, asked_in, said, write_anything

_EXAMPLE_IN_CHINESE = """\
示例：
  python3 {script} --config job.json --set train.epochs=5 --set 'gpus=[]'

配置是一个 JSON 文件；configs/ 中有可直接运行的示例和各参数的 JSON Schema，含义见 docs/keys_zh.md。
参数（{title}）：
{keys}
"""
_EXAMPLE = """\
example:
  python3 {script} --config job.json --set train.epochs=5 --set 'gpus=[]'

The configuration is one JSON file; a ready-to-run one and the JSON Schema of its keys lie in configs/.
Its keys ({title}):
{keys}
"""


@dataclass(frozen=True)
class Options:
    """What stands on the command line.

    config: the configuration's file; None where flags say all. load: checkpoint of an earlier run to go on from.
    resume: go on with the job that was cut off in this log_dir. overrides: KEY=VALUE each. port, host: of the
    progress server ("": every address). linger: seconds for which it answers after the job. allow_hosts: names that
    it answers to (none: any). stuck_after: seconds without a sign of life after which it says that the job is stuck.
    check: read everything and train nothing. log_format: of standard output. threads: of the computation (None: as
    many as the machine or the container's share has processors).
    """

    config: Path | None
    load: Path | None = None
    overrides: tuple[str, ...] = ()
    port: int = 8888
    linger: float = 30.0
    resume: bool = False
    check: bool = False
    host: str = ""
    allow_hosts: tuple[str, ...] = ()
    stuck_after: float = 300.0
    log_format: Literal["text", "json"] = "text"
    threads: int | None = None


class _Help(argparse.RawDescriptionHelpFormatter, SpokenHelp):
    pass


class _Parser(argparse.ArgumentParser):
    def __init__(self, *args: Any, **keywords: Any) -> None:
        self.options: dict[str, argparse.Action] = {}  # by name
        super().__init__(*args, **keywords)

    def add_argument(self, *args: Any, **keywords: Any) -> argparse.Action:
        action = super().add_argument(*args, **keywords)
        self.options |= dict.fromkeys(action.option_strings, action)
        return action

    def error(self, message: str) -> NoReturn:
        """One line and exit status 2; the usage is a page away."""
        if len(message) > 400:
            message = f"{message[:300]} … {message[-80:]}"
        self.exit(2, f"{self.prog}: {one_line(message)}; see {self.prog} --help\n")


def _port(value: str) -> int:
    if not value.isdecimal() or len(value) > 20 or not 1 <= int(value) <= 65535:
        raise argparse.ArgumentTypeError(
            f"{shortened(repr(value))} is not a port: it must be a whole number from 1 to 65535"
        )
    return int(value)


def _seconds(value: str) -> float:
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= 86400:
        raise argparse.ArgumentTypeError(
            f"{shortened(repr(value))} is not a time: it must be a number of seconds from 0 to 86400"
        )
    return seconds


def _count(value: str) -> int:
    if not value.isdecimal() or len(value) > 20 or not 1 <= int(value) <= 4096:
        raise argparse.ArgumentTypeError(
            f"{shortened(repr(value))} is not a number of threads from 1 to 4096"
        )
    return int(value)


def _name(value: str) -> str:
    if not value.strip():
        raise argparse.ArgumentTypeError("an empty name")
    return value.strip()


def _file(value: str) -> Path:
    if not value:
        raise argparse.ArgumentTypeError("an empty name: it must be the path of a JSON file")
    return Path(value)


def parser(config_class: type[JobConfig], description: str, prog: str | None = None) -> _Parser:
    """The parser of a fit script, by default of the one that runs; its help lists the keys of `config_class`."""
    title = config_class.model_config.get("title") or config_class.__name__
    made = _Parser(
        prog=prog or sys.argv[0],
        description=said(description, f"训练 {title} 模型。"),
        formatter_class=_Help,
        allow_abbrev=False,
        add_help=False,
    )
    add_help(made)
    made.add_argument(
        "--config",
        type=_file,
        metavar="FILE",
        help=said(
            "the job's configuration, a JSON file; needed unless flags give all keys that have no default",
            "任务的配置文件（JSON）；除非命令行选项给出了所有没有默认值的参数，否则必填",
        ),
    )
    made.add_argument(
        "--load",
        metavar="FILE",
        help=said(
            "iterative training: go on from the best_checkpoint.pkl of an earlier run of this script; "
            "the network then comes from it, and the model section of the configuration has no effect",
            "迭代训练：从本脚本以前训练得到的 best_checkpoint.pkl 继续；此时网络来自该文件，配置中的 model 不起作用",
        ),
    )
    made.add_argument(
        "--resume",
        action="store_true",
        help=said(
            "go on with a job that was cut off in the same log_dir, after its last completed epoch; "
            "where there is none, start afresh",
            "继续同一个 log_dir 中被中断的任务，从最后完成的一轮之后开始；没有可继续的内容时从头开始",
        ),
    )
    made.add_argument(
        "--check",
        action="store_true",
        help=said(
            "read the configuration, every image and annotation, train nothing, and say what there is in "
            "log_dir/check_report.json; exit status 0 if the job could start",
            "读取配置、全部图像和标注，但不训练，结果写入 log_dir/check_report.json；任务可以开始时退出状态为 0",
        ),
    )
    made.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help=said(
            "use VALUE for a key of the configuration, such as train.epochs=5; may be repeated. --train.epochs 5 "
            "means the same, and so does --epochs 5 where no other key ends so",
            "用 VALUE 作为一个参数的值，如 train.epochs=5；可多次使用。也可写成 --train.epochs 5；"
            "无其他同名参数时写 --epochs 5",
        ),
    )
    made.add_argument(
        "--port",
        type=_port,
        default=Options.port,
        help=said(
            "port of the progress server (default: %(default)s)", "进度服务器的端口（默认 %(default)s）"
        ),
    )
    made.add_argument(
        "--linger",
        type=_seconds,
        default=Options.linger,
        metavar="SECONDS",
        help=said(
            "how long the progress server answers after the job (default: %(default)g)",
            "任务结束后进度服务器继续回答的秒数（默认 %(default)g）",
        ),
    )
    made.add_argument(
        "--host",
        type=_name,
        metavar="ADDRESS",
        help=said(
            "the only address at which the progress server listens, such as 127.0.0.1 (default: every one)",
            "进度服务器监听的唯一地址，如 127.0.0.1（默认：所有地址）",
        ),
    )
    made.add_argument(
        "--allow-host",
        type=_name,
        action="append",
        default=[],
        metavar="NAME",
        help=said(
            "answer only requests whose Host header is NAME; may be repeated (default: any). Who has to show a token "
            "is said by the variable VISUALTL_TOKEN of the environment",
            "只回答 Host 为 NAME 的请求；可多次使用（默认：全部）。访问令牌由环境变量 VISUALTL_TOKEN 指定",
        ),
    )
    made.add_argument(
        "--stuck-after",
        type=_seconds,
        default=Options.stuck_after,
        metavar="SECONDS",
        help=said(
            "how long no step, batch or file may be done before /healthz says that the job is stuck "
            "(default: %(default)g)",
            "多少秒没有任何进展后 /healthz 报告任务停滞（默认 %(default)g）",
        ),
    )
    made.add_argument(
        "--log-format",
        choices=("text", "json"),
        default=Options.log_format,
        help=said(
            "of standard output: lines of text, or a JSON object a line (default: %(default)s)",
            "标准输出的格式：文本行，或每行一个 JSON 对象（默认 %(default)s）",
        ),
    )
    made.add_argument(
        "--threads",
        type=_count,
        help=said(
            "threads that compute, and at most so many data workers (default: the processors that this process, or "
            "its container, may use)",
            "计算线程数，数据进程也不超过此数（默认：本进程或其容器可用的处理器数）",
        ),
    )
    sections: dict[str, list[str]] = {}
    for path in leaves(config_class):
        section, _, name = path.rpartition(".")
        sections.setdefault(section, []).append(name)
    keys = "\n".join(_wrapped(section, names) for section, names in sections.items())
    made.epilog = (
        said(_EXAMPLE, _EXAMPLE_IN_CHINESE)
        .format(script=made.prog, title=title, keys=keys)
        .replace("%", "%%")
    )
    return made


def _wrapped(section: str, names: Sequence[str]) -> str:
    """A section's keys on lines of the usual width."""
    lines = [""]
    for name in names:
        if len(lines[-1]) + len(name) > 80:
            lines.append("")
        lines[-1] += f" {name}"
    return "\n".join(
        f"  {(section or '(top)') + ':' if number == 0 else '':9}{line}" for number, line in enumerate(lines)
    )


def parse(
    config_class: type[JobConfig], argv: Sequence[str], description: str, prog: str | None = None
) -> Options:
    """The options in `argv` (without the script's name); an empty --load, as a form leaves it, is none.

    Ends the process with status 2 and one line on standard error if they are wrong.
    """
    write_anything()
    ask_for(asked_in(argv))
    made = parser(config_class, description, prog)
    rest, flags = _flags(made, list(leaves(config_class)), argv)
    given = made.parse_args(rest)
    overrides = (*given.set, *flags)
    if given.config is None and not overrides:
        made.error("--config is missing: it names the job's configuration, a JSON file")
    return Options(
        config=given.config,
        load=Path(given.load) if given.load else None,
        overrides=overrides,
        port=given.port,
        linger=given.linger,
        resume=given.resume,
        check=given.check,
        host=given.host or "",
        allow_hosts=tuple(given.allow_host),
        stuck_after=given.stuck_after,
        log_format=given.log_format,
        threads=given.threads,
    )


def _flags(made: _Parser, keys: Sequence[str], argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """`argv` without the flags that stand for keys of the configuration, and these as KEY=VALUE."""
    rest: list[str] = []
    assignments: list[str] = []
    words = iter(argv)
    for word in words:
        name, equals, value = word.partition("=")
        if name in made.options:
            following = next(words, None) if not equals and made.options[name].nargs is None else None
            rest.append(word if following is None else f"{word}={following}")  # a value may look like a flag
            continue
        matches = _keys_of(name, keys)
        if not matches:
            rest.append(word)
        elif len(matches) > 1:
            made.error(f"{name} may be {' or '.join(f'--{key}' for key in matches)}: write which")
        else:
            if not equals:
                following = next(words, None)
                if following is None:
                    made.error(f"argument {name}: expected one argument")
                value = following
            assignments.append(f"{matches[0]}={value}")
    return rest, assignments


def _keys_of(flag: str, keys: Sequence[str]) -> list[str]:
    """The keys that a flag may stand for: the one that it names in full, or all that end in it."""
    if not flag.startswith("--"):
        return []
    name = flag[2:].replace("-", "_")
    return [key for key in keys if key == name] or [key for key in keys if key.rpartition(".")[2] == name]
