"""What the READMEs say is what the code does: their commands, configurations, tables and messages."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from classification.config import ClassificationConfig
from common.cli import parse, parser
from common.config import JobConfig, configuration
from common.errors import JobError
from common.network_names import BASE_NETWORKS, EMBEDDING_DIMENSIONS
from common.progress import Step
from common.server import ProgressServer
from common.status import __version__
from detect.config import CenterNetConfig, YOLOv3Config
from landmark.config import LandmarkConfig
from reid.config import ReIDConfig

ROOT = Path(__file__).resolve().parents[1]
READMES = ("README.md", "README_zh.md")
SCRIPTS: dict[str, type[JobConfig]] = {
    "detect/fit_yolov3.py": YOLOv3Config,
    "detect/fit_center_net.py": CenterNetConfig,
    "classification/fit_classification.py": ClassificationConfig,
    "reid/fit_reid.py": ReIDConfig,
    "landmark/fit_landmark.py": LandmarkConfig,
}
TEXTS = {name: (ROOT / name).read_text(encoding="utf-8") for name in READMES}
both = pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)

# The blocks are the same in both (see test_repository): those of one are enough.
BLOCKS: list[tuple[str, str]] = re.findall(r"```(\w*)\n(.*?)```", TEXTS["README.md"], re.S)


def commands() -> list[list[str]]:
    """The command lines of all blocks."""
    lines = [line for kind, block in BLOCKS if not kind for line in block.splitlines()]
    known = (".venv/bin/python", "make", "docker", "kubectl", "curl")
    return [shlex.split(line) for line in lines if line.startswith(known)]


def cells(text: str, first: str) -> list[list[str]]:
    """The rows of the table whose head begins with the cell `first`."""
    lines = text.splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith(f"| {first} |"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def quoted(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


# Commands


def test_every_command_of_a_script_is_one_that_it_takes() -> None:
    seen = set()
    for words in commands():
        scripts = [index for index, word in enumerate(words) if word in SCRIPTS]
        if scripts:
            (index,) = scripts
            assert parse(SCRIPTS[words[index]], words[index + 1 :], "").config
            seen.add(words[index])
    assert seen == SCRIPTS.keys()


def test_every_configuration_is_one_that_the_command_after_it_takes() -> None:
    checked = 0
    for number, (kind, block) in enumerate(BLOCKS):
        if kind == "json":
            command = next(text for other, text in BLOCKS[number:] if not other)
            (script,) = (name for name in SCRIPTS if name in command)
            configuration(SCRIPTS[script], json.loads(block))
            checked += 1
    assert checked >= 3


@both
def test_the_options_are_those_of_the_scripts(text: str) -> None:
    listed = {
        quoted(row[0])[0].split()[0]
        for row in cells(text, "option" if text == TEXTS["README.md"] else "选项")
    }
    there = {option for action in parser(YOLOv3Config, "")._actions for option in action.option_strings}
    assert listed == there - {"-h"}


def test_parameters_are_fetched_by_the_command_for_machines_without_internet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (words,) = (words for words in commands() if "find_parameters" in " ".join(words))
    name = re.findall(r'find_parameters\("([\w.]+)"\)', words[2])[0]
    own = tmp_path / "models" / f"{name}.params"
    own.parent.mkdir()
    own.touch()
    monkeypatch.setenv("MXNET_HOME", str(tmp_path))
    done = subprocess.run([sys.executable, *words[1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == f"{own}\n", done.stderr


@both
def test_names_of_pretrained_files_are_those_that_are_published(text: str) -> None:
    from common.pretrained import published

    rows = cells(text, "job" if text == TEXTS["README.md"] else "任务")
    if len(rows[0]) != 2:  # the table of the tasks begins alike
        rows = cells(text.partition("### 没有互联网时")[2], "任务")
    named = [name for row in rows for name in quoted(row[1]) if re.fullmatch(r"[a-z0-9_.]+", name)]
    named = [name for name in named if name not in ("train.pretrained_base", "model.batch_norm", "_dcnv2")]
    assert len(named) >= 7
    assert all(published(name) for name in named), named


# Progress


@pytest.fixture
def client(tmp_path: Path) -> Path:
    (code,) = (block for kind, block in BLOCKS if kind == "python")
    path = tmp_path / "watch.py"
    path.write_text(code)
    return path


def watch(client: Path, port: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, client, f"127.0.0.1:{port}"], capture_output=True, text=True, timeout=60
    )


def test_the_client_follows_a_job_to_its_end(client: Path, tmp_path: Path) -> None:
    with ProgressServer(tmp_path, 0) as server:
        now = time.time()
        server.publish([(now, 1, 1.0), (now, 10, 0.25)])
        following = subprocess.Popen(
            [sys.executable, client, f"127.0.0.1:{server.port}"], stdout=subprocess.PIPE, text=True
        )
        assert following.stdout is not None
        assert following.stdout.readline() == "step 10: 25%\n"
        server.publish([(now, 10, 1.0), (now, 30, 0.0), (now, 30, 1.0)])
        assert following.stdout.read().splitlines()[-1] == "step 30: 100%"
        assert following.wait(30) == 0


def test_the_client_says_when_a_job_is_gone(client: Path, tmp_path: Path) -> None:
    client.write_text(client.read_text().replace("< 60", "< 1"))
    with ProgressServer(tmp_path, 0) as server:
        port = server.port
    done = watch(client, port)
    assert done.returncode == 1
    assert "status.json" in done.stderr


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_curl_gets_the_points(tmp_path: Path) -> None:
    (words,) = (words for words in commands() if words[0] == "curl")
    with ProgressServer(tmp_path, 0) as server:
        server.publish([(1629087911.5, 1, 0.0)])
        words = [word.replace("8888", str(server.port)) for word in words]
        for _ in range(100):  # until the point has reached the server
            answer = subprocess.run([*words, "-s", "--noproxy", "*"], capture_output=True, text=True).stdout
            if answer.startswith("["):
                break
            time.sleep(0.1)
    assert json.loads(answer) == [[1629087911.5, 1, 0.0]]


@both
def test_the_steps_are_those_of_a_job(text: str) -> None:
    rows = cells(text, "step" if text == TEXTS["README.md"] else "步骤")
    listed = {int(cell) for row in rows for cell in (row[0], row[2]) if cell}
    assert listed == {step.value for step in Step}


# Tables


@both
def test_the_tasks_have_the_networks_and_defaults_that_the_code_has(text: str) -> None:
    rows = cells(text, "task" if text == TEXTS["README.md"] else "任务")
    assert {quoted(row[1])[0] for row in rows} == SCRIPTS.keys()
    for row in rows:
        config: Any = configuration(SCRIPTS[quoted(row[1])[0]], {"log_dir": "/out"})
        size = getattr(config.model, "data_shape", None) or (
            config.train.input_width,
            config.train.input_height,
        )
        assert row[3] == f"{size[0]} x {size[1]}"
        networks = quoted(row[2])
        if networks:
            assert networks[0] == config.model.base_network
    assert f" {len(BASE_NETWORKS)} " in text.partition("\n## ")[0]
    assert f" {len(BASE_NETWORKS) - 1} " in text.partition("\n## ")[0]


@both
def test_the_embeddings_are_those_of_the_networks(text: str) -> None:
    rows = cells(text, "numbers" if text == TEXTS["README.md"] else "长度")
    assert {name: int(row[0]) for row in rows for name in quoted(row[1])} == EMBEDDING_DIMENSIONS


@both
def test_all_kinds_of_errors_are_named(text: str) -> None:
    kinds = {error.kind for error in JobError.__subclasses__()} | {JobError.kind, "stopped"}
    assert not [kind for kind in kinds if not re.search(rf"\b{kind}\b", text)]


@both
def test_every_message_that_is_explained_is_one_of_the_code(text: str) -> None:
    sources = [
        path
        for folder in ("common", "detect", "classification", "landmark", "reid")
        for path in (ROOT / folder).glob("*.py")
    ]
    code = "\n".join(path.read_text() for path in [*sources, ROOT / ".ci" / "requirements.sh"])
    code = re.sub(r'"\s*\n\s*f?"', "", code)
    code = code.replace('missing "', "missing: ")  # how the shell script writes it
    code = re.sub(r"\{[^{}]*\}", "\0", code)
    rows = cells(text, "message contains" if text == TEXTS["README.md"] else "信息中包含")
    messages = [quoted(row[0])[0] for row in rows if row[0].startswith("`")]
    assert len(messages) > 15
    for message in messages:
        pattern = re.escape(message)
        for value in (r"8888", r"\[0\]", r"9"):
            pattern = pattern.replace(value, f"(?:{value}|\0)")
        assert re.search(pattern, code), message


@both
def test_links_within_the_page_lead_somewhere(text: str) -> None:
    headings = {
        re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-")
        for title in re.findall(r"^#+ (.*)$", text, re.M)
    }
    targets = re.findall(r"\]\(#([^)]+)\)", text)
    assert targets
    assert not [target for target in targets if target not in headings]


def test_the_changes_begin_with_this_version_and_end_with_the_first() -> None:
    versions = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert versions[0] == __version__
    assert versions[1:] == ["1.1.1", "1.1.0", "1.0.1", "1.0.0"]


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "NOTICE"])
def test_files_that_other_documents_name_exist(name: str) -> None:
    text = (ROOT / name).read_text()
    named = re.findall(
        r"(?<![\w./])((?:configs|common|detect|tests|classification)/[\w./-]*\w|requirements[\w-]*\.lock)",
        text,
    )
    assert named
    assert not [path for path in named if not (ROOT / path).exists()]
    makefile = (ROOT / "Makefile").read_text()
    assert not [t for t in re.findall(r"make ([a-z]+)\b", text) if not re.search(rf"^{t}:", makefile, re.M)]


def test_the_licence_is_apaches() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert 'license = "Apache-2.0"' in (ROOT / "pyproject.toml").read_text()
