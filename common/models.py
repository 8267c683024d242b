"""Pretrained parameters for machines without internet: which files a job needs, fetching them, checking them.

    python3 -m common.models list detect/fit_yolov3.py --config job.json
    python3 -m common.models fetch --folder models detect/fit_yolov3.py --config job.json    # where there is internet
    python3 -m common.models check --folder models detect/fit_yolov3.py --config job.json    # where there is none

Behind the command stands the command line of a job, or names such as yolo3_darknet53_coco. Without either, `check`
looks at every file of the folder. Nothing of MXNet is imported.
"""

from __future__ import annotations

from common.reporting.beginning import guard

if __name__ == "__main__":
    guard()  # what is imported below takes a while

import argparse
import importlib
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from common.commands import command_parser, finish, listen, named_path
from common.config.command_line import parse
from common.config.reading import read_configuration
from common.config.sections import JobConfig
from common.errors import ConfigurationError, PretrainedError
from common.language import said
from common.networks.pretrained import (
    bundled,
    find_parameters,
    models_folder,
    own_file,
    present,
    published,
    published_files,
    sha1_of,
)

_ROOT = Path(__file__).resolve().parents[1]
_PUBLISHED = re.compile(r"(?P<name>.+)-(?P<sha1>[0-9a-f]{8})\.params")


def main(argv: Sequence[str]) -> int:
    """Carry out a command line and return its exit status: 0 if all is well, 2 for a wrong command line, 1 or 3 if not:
    3 where trying again is of no use."""
    listen(argv)
    parser = command_parser(
        "models",
        "Pretrained parameters: list, fetch or check them.",
        "预训练参数：列出、下载或检查。",
    )
    parser.add_argument("command", choices=("list", "fetch", "check"))
    parser.add_argument(
        "--folder",
        type=named_path,
        default=models_folder(),
        help=said("default: %(default)s", "默认 %(default)s"),
    )
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=said(
            "of parameters, or else a job's command line: detect/fit_yolov3.py --config job.json",
            "参数的名称；或者一个训练任务的命令行：detect/fit_yolov3.py --config job.json",
        ),
    )
    start = next((index for index, word in enumerate(argv) if word.endswith(".py")), len(argv))
    given, command = parser.parse_intermixed_args(argv[:start]), argv[start:]
    if not given.names and not command and given.command != "check":
        parser.error(f"{given.command}: which job or parameters is missing")
    return finish(lambda: _carry_out(given, command))


def _carry_out(options: argparse.Namespace, command: Sequence[str]) -> int:
    folder: Path = options.folder
    if not options.names and not command:
        return check_folder(folder)
    names = (*options.names, *(job_names(command) if command else ()))
    if not names:
        print("no pretrained parameters are needed")
    if options.command == "list":
        return list_names(names, folder)
    return fetch(names, folder) if options.command == "fetch" else check(names, folder)


def job_names(command: Sequence[str]) -> tuple[str, ...]:
    """Names of the parameters that the job of a command line (script, --config ...) begins with.

    Raises ConfigurationError for a script that is none of this project, or a wrong configuration.
    """
    script, *argv = command
    config_class = configuration_class(script)
    options = parse(config_class, argv, "", prog=script)
    ignored = ("model",) if options.load else ()
    config = read_configuration(config_class, options.config, options.overrides, ignored)
    return config.pretrained(loaded=options.load is not None)


def configuration_class(script: str) -> type[JobConfig]:
    """The configuration class of a fit script: the one that it imports. Raises ConfigurationError."""
    scripts = sorted(str(path.relative_to(_ROOT)) for path in _ROOT.glob("*/fit_*.py"))
    path = Path(script).resolve()
    name = str(path.relative_to(_ROOT)) if path.is_relative_to(_ROOT) else script
    if name not in scripts:
        raise ConfigurationError(f"{script} is not one of {', '.join(scripts)}")
    module = importlib.import_module(name.removesuffix(".py").replace("/", "."))
    (config_class,) = (
        value for value in vars(module).values() if isinstance(value, type) and issubclass(value, JobConfig)
    )
    return config_class


def list_names(names: Sequence[str], folder: Path) -> int:
    """Say for each name which file it stands for, whether that is in `folder`, and where it is fetched from."""
    for name in names:
        file, own = published(name), own_file(name, folder)
        if own.is_file():
            print(f"{own.name}: your own file, {_size(own)}, in {folder}")
        elif file is None:
            raise PretrainedError(f"nothing is published as {name!r}, and {own} is not there")
        else:
            path = folder / file.file_name
            about = next((row["megabytes"] for row in published_files() if row["name"] == name), None)
            size = f" (about {about} MB)" if about else ""
            state = f"{_size(path)}, in {folder}" if path.is_file() else f"missing in {folder}{size}"
            if not path.is_file() and (other := bundled(name)):
                state += f", in its place {other.name}, which came with the project"
            print(f"{file.file_name}: {state}; SHA-1 {file.sha1}; from {file.address}")
    return 0


def fetch(names: Sequence[str], folder: Path) -> int:
    """Bring into `folder` what is missing there; all that cannot be had is told, and is the exit status."""
    status = 0
    for name in names:
        try:
            path = find_parameters(name, folder)
        except PretrainedError as error:
            print(error, file=sys.stderr)
            status = max(status, error.exit_status)
            continue
        print(f"{path.name}: {_size(path)}, in {path.parent}")
    return status


def check(names: Sequence[str], folder: Path) -> int:
    """Say whether `folder` has the parameters `names`, whole; 1 if it has not."""
    status = 0
    for name in names:
        try:
            path = present(name, folder)
        except PretrainedError as error:
            print(error)
            status = 1
            continue
        if path is None:
            file = published(name)
            assert file is not None
            print(f"{file.file_name}: missing in {folder}; SHA-1 {file.sha1}")
            status = 1
        else:
            origin = "your own file" if path == own_file(name, folder) else "whole"
            if path == bundled(name):
                origin = "whole, came with the project"
            print(f"{path.name}: {origin}, {_size(path)}")
    return status


def check_folder(folder: Path) -> int:
    """Say of every parameter file in `folder` whether it is whole; 1 if one is not, or there is none."""
    paths = sorted(folder.glob("*.params"))
    if not paths:
        raise PretrainedError(f"the folder {folder} holds no pretrained parameters (*.params)")
    status = 0
    for path in paths:
        match = _PUBLISHED.fullmatch(path.name)
        if match is None:
            print(f"{path.name}: your own file, {_size(path)}; its name says no SHA-1")
            continue
        digest, file = sha1_of(path), published(match["name"])
        whole = (
            digest == file.sha1 if file and file.file_name == path.name else digest.startswith(match["sha1"])
        )
        print(f"{path.name}: {'whole' if whole else f'damaged: its SHA-1 is {digest}'}, {_size(path)}")
        status |= not whole
    return status


def _size(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.1f} MB"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
