"""What the commands beside the trainings share: how they end, and what they take for a name."""

from __future__ import annotations

import importlib
import os
import re
import signal
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest

from common.commands import finish
from common.files import new_folder
from common.language import ask_for
from tests.helpers.jobs import ROOT

# Programs deeper within are begun by jobs themselves, below their supervisor.
COMMANDS = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (*(ROOT / "common").glob("*.py"), *(ROOT / "common").glob("*/__main__.py"))
    if 'if __name__ == "__main__"' in path.read_text()
)

# Presses Ctrl-C where a command begins to import.
PRESS = """
import os, runpy, signal, sys

class Finder:
    def find_spec(name, *rest):
        if name == "common.commands":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Finder)
sys.path[0] = os.getcwd()
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""


def run(words: list[str], sigint: signal.Handlers = signal.SIG_DFL) -> subprocess.CompletedProcess[str]:
    """A command. sigint: how it is begun; tests that run in the background pass on that it is ignored."""
    return subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, sigint),
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_ctrl_c_in_the_first_moments_is_one_line(command: str) -> None:
    done = run(["-c", PRESS, command])
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "stopped by SIGINT\n")


def test_a_command_in_the_background_of_a_shell_ignores_ctrl_c() -> None:
    done = run(["-c", PRESS, "common.convert", "--help"], signal.SIG_IGN)
    assert done.returncode == 0
    assert done.stdout.startswith("usage: python3 -m common.convert")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_clears_away_what_a_command_has_begun(
    number: signal.Signals, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def command(options: Namespace) -> None:
        with new_folder(tmp_path / "out") as folder:
            (folder / "1.json").write_text("{}")
            os.kill(os.getpid(), number)

    before = signal.signal(number, signal.SIG_DFL)
    try:
        assert finish(lambda: command(Namespace())) == 128 + number
        assert signal.getsignal(number) == signal.SIG_DFL
    finally:
        signal.signal(number, before)
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr().err == f"stopped by {number.name}\n"


@pytest.mark.parametrize(
    ("words", "argument"),
    [
        (["common.suggest", "", "--out", "job.json"], "FOLDER"),
        (["common.suggest", ".", "--out", ""], "--out"),
        (["common.predict", "", "1.jpg", "--out", "out"], "MODEL"),
        (["common.evaluate", "out", "--data", " ", "--out", "evaluated"], "--data"),
    ],
)
def test_an_empty_name_is_not_the_current_folder(words: list[str], argument: str, tmp_path: Path) -> None:
    done = run(["-m", *words])
    assert done.returncode == 2
    assert done.stderr.endswith(f"error: argument {argument}: the name is empty; . is the current folder\n")


@pytest.mark.parametrize(
    "name", ["predict", "evaluate", "convert", "export.__main__", "models", "suggest.__main__"]
)
def test_help_is_in_chinese_for_whoever_asks(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        with pytest.raises(SystemExit) as end:
            importlib.import_module(f"common.{name}").main(["--help", "--lang", "zh"])
    finally:
        ask_for(None)
    assert end.value.code == 0
    _, description, *rest = capsys.readouterr().out.split("\n\n")
    explained = [entry for part in rest for entry in re.split(r"\n(?=  \S)", part)[1:]]
    assert len(explained) >= 3
    for text in (description, *(entry for entry in explained if "{list,fetch,check}" not in entry)):
        assert re.search("[\u4e00-\u9fff]", text), text
