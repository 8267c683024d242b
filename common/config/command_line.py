"""The command line of the fit scripts."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from common.config.keys import leaves, one_line
from common.config.sections import JobConfig

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

    load: checkpoint of an earlier run to go on from. resume: go on with the job that
    was cut off in this log_dir. overrides: KEY=VALUE each. port: of the progress server.
    linger: seconds for which it answers after the job. check: read everything and train nothing.
    """

    config: Path
    load: Path | None = None
    overrides: tuple[str, ...] = ()
    port: int = 8888
    linger: float = 30.0
    resume: bool = False
    check: bool = False


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line and exit status 2; the usage is a page away."""
        self.exit(2, f"{self.prog}: {one_line(message)}; see {self.prog} --help\n")


def _port(value: str) -> int:
    if not value.isdecimal() or not 1 <= int(value) <= 65535:
        raise argparse.ArgumentTypeError(
            f"{value!r} is not a port: it must be a whole number from 1 to 65535"
        )
    return int(value)


def _seconds(value: str) -> float:
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= 86400:
        raise argparse.ArgumentTypeError(
            f"{value!r} is not a time: it must be a number of seconds from 0 to 86400"
        )
    return seconds


def _file(value: str) -> Path:
    if not value:
        raise argparse.ArgumentTypeError("an empty name: it must be the path of a JSON file")
    return Path(value)


def parser(
    config_class: type[JobConfig], description: str, prog: str | None = None
) -> argparse.ArgumentParser:
    """The parser of a fit script, by default of the one that runs; its help lists the keys of `config_class`."""
    made = _Parser(
        prog=prog or sys.argv[0],
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument(
        "--config", required=True, type=_file, metavar="FILE", help="the job's configuration, a JSON file"
    )
    made.add_argument(
        "--load",
        metavar="FILE",
        help="iterative training: go on from the best_checkpoint.pkl of an earlier run of this script; "
        "the network then comes from it, and the model section of the configuration has no effect",
    )
    made.add_argument(
        "--resume",
        action="store_true",
        help="go on with a job that was cut off in the same log_dir, after its last completed epoch; "
        "where there is none, start afresh",
    )
    made.add_argument(
        "--check",
        action="store_true",
        help="read the configuration, every image and annotation, train nothing, and say what there is in "
        "log_dir/check_report.json; exit status 0 if the job could start",
    )
    made.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="use VALUE for a key of the configuration, such as train.epochs=5; may be repeated",
    )
    made.add_argument(
        "--port", type=_port, default=Options.port, help="port of the progress server (default: %(default)s)"
    )
    made.add_argument(
        "--linger",
        type=_seconds,
        default=Options.linger,
        metavar="SECONDS",
        help="how long the progress server answers after the job (default: %(default)g)",
    )
    sections: dict[str, list[str]] = {}
    for path in leaves(config_class):
        section, _, name = path.rpartition(".")
        sections.setdefault(section, []).append(name)
    keys = "\n".join(_wrapped(section, names) for section, names in sections.items())
    title = config_class.model_config.get("title") or config_class.__name__
    made.epilog = _EXAMPLE.format(script=made.prog, title=title, keys=keys).replace("%", "%%")
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
    given = parser(config_class, description, prog).parse_args(argv)
    return Options(
        config=given.config,
        load=Path(given.load) if given.load else None,
        overrides=tuple(given.set),
        port=given.port,
        linger=given.linger,
        resume=given.resume,
        check=given.check,
    )
