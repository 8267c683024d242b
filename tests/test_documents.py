"""What the documents say is what the code does: their commands, configurations, tables, programs and messages."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from classification.config import ClassificationConfig
from classification.results import ClassDecoder, ClassEvaluator
from common.config.command_line import parse, parser
from common.config.network_names import BASE_NETWORKS, EMBEDDING_DIMENSIONS
from common.config.reading import configuration
from common.config.sections import JobConfig
from common.data.samples import Sample
from common.errors import CrashError, JobError, KilledError
from common.models import main as models
from common.networks import pretrained
from common.reporting.progress import Step
from common.reporting.server_process import ProgressServer
from common.reporting.status import __version__
from detect.config import CenterNetConfig, SSDConfig, YOLOv3Config
from detect.results import DetectionDecoder, DetectionEvaluator
from landmark.config import LandmarkConfig
from landmark.results import LandmarkDecoder, LandmarkEvaluator
from reid.config import ReIDConfig

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS: dict[str, type[JobConfig]] = {
    "detect/fit_yolov3.py": YOLOv3Config,
    "detect/fit_center_net.py": CenterNetConfig,
    "detect/fit_ssd.py": SSDConfig,
    "classification/fit_classification.py": ClassificationConfig,
    "reid/fit_reid.py": ReIDConfig,
    "landmark/fit_landmark.py": LandmarkConfig,
}
NAMES = [
    "README",
    *sorted(f"docs/{path.stem}" for path in (ROOT / "docs").glob("*.md") if "_zh" not in path.stem),
]
ENGLISH = {name: (ROOT / f"{name}.md").read_text(encoding="utf-8") for name in NAMES}
CHINESE = {name: (ROOT / f"{name}_zh.md").read_text(encoding="utf-8") for name in NAMES}

# The blocks are the same in both languages (see test_repository): those of one are enough.
BLOCKS = {name: re.findall(r"```(\w*)\n(.*?)```", text, re.S) for name, text in ENGLISH.items()}


def both(page: str) -> Any:
    """Runs a test with the `text` of a page in each language."""
    return pytest.mark.parametrize("text", [ENGLISH[page], CHINESE[page]], ids=["english", "chinese"])


def commands() -> list[list[str]]:
    """The command lines of all blocks."""
    lines = [
        line for page in BLOCKS.values() for kind, block in page if not kind for line in block.splitlines()
    ]
    known = (".venv/bin/python", "make", "docker", "kubectl", "curl", "python3", "sh")
    return [shlex.split(line) for line in lines if line.startswith(known)]


def cells(text: str, *heads: str) -> list[list[str]]:
    """The rows of all tables whose head begins with one of the cells `heads`."""
    rows: list[list[str]] = []
    within = False
    for line in text.splitlines():
        if not line.startswith("|"):
            within = False
        elif within:
            rows.append([cell.strip() for cell in line.strip("|").split("|")])
        else:
            within = line.startswith(tuple(f"| {head} |" for head in heads))
    return [row for row in rows if row[0] != "---"]


def quoted(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


# Commands


def test_every_command_of_a_script_is_one_that_it_takes() -> None:
    seen = set()
    for words in commands():
        scripts = [index for index, word in enumerate(words) if word in SCRIPTS]
        if scripts:
            (index,) = scripts
            options = parse(SCRIPTS[words[index]], words[index + 1 :], "")
            assert options.config or options.overrides
            seen.add(words[index])
    assert seen == SCRIPTS.keys()


def test_every_configuration_is_one_that_the_command_after_it_takes() -> None:
    checked = 0
    for page, blocks in BLOCKS.items():
        for number, (kind, block) in enumerate(blocks):
            if kind == "json" and "log_dir" in block:
                command = next(text for other, text in blocks[number:] if not other)
                (script,) = (name for name in SCRIPTS if name in command)
                assert configuration(SCRIPTS[script], json.loads(block)), page
                checked += 1
    assert checked >= 4


@both("docs/training")
def test_the_options_are_those_of_the_scripts(text: str) -> None:
    listed = {quoted(row[0])[0].split()[0] for row in cells(text, "option", "选项")}
    there = {option for action in parser(YOLOv3Config, "")._actions for option in action.option_strings}
    assert listed == there - {"-h"}


def test_the_commands_for_machines_without_internet_bring_the_files_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = b"parameters"
    sha1 = hashlib.sha1(content).hexdigest()
    names = ("yolo3_darknet53_coco", "resnet50_v1")
    monkeypatch.setattr(pretrained, "published_hashes", lambda: dict.fromkeys(names, sha1))
    monkeypatch.setenv("MXNET_GLUON_REPO", (tmp_path / "mirror").as_uri())
    (tmp_path / "mirror" / "gluon" / "models").mkdir(parents=True)
    for name in names:
        file = f"{name}-{sha1[:8]}"
        with zipfile.ZipFile(tmp_path / "mirror" / "gluon" / "models" / f"{file}.zip", "w") as bundle:
            bundle.writestr(f"{file}.params", content)
    job = next(block for kind, block in BLOCKS["docs/training"] if kind == "json")
    (tmp_path / "job.json").write_text(job)
    places = {"job.json": str(tmp_path / "job.json"), "models": str(tmp_path / "models")}
    monkeypatch.chdir(ROOT)
    given = [words[3:] for words in commands() if words[:3] == [".venv/bin/python", "-m", "common.models"]]
    assert [words[0] for words in given] == ["list", "fetch", "check", "fetch", "check"]
    for words in given:
        assert models([places.get(word, word) for word in words]) == 0
    assert len(list((tmp_path / "models").iterdir())) == 2


def test_the_commands_in_containers_are_those_of_the_project() -> None:
    seen = set()
    for words in commands():
        if words[0] == "docker":
            program = words[words.index("python3") :]
            assert program[1] in SCRIPTS or program[1:3] == ["-m", "common.models"]
            assert words[words.index("python3") - 1].removesuffix("-gpu") == f"visualtl:{__version__}"
            seen.add(program[1])
    assert len(seen) == 2


@both("docs/pretrained")
def test_names_of_pretrained_files_are_those_that_are_published(text: str) -> None:
    named = [name for row in cells(text, "job", "任务") for name in quoted(row[1])]
    named = [name for name in named if re.fullmatch(r"[a-z0-9_.]+", name)]
    named = [name for name in named if not name.startswith(("train.", "model.", "_"))]
    assert len(named) >= 7
    assert all(pretrained.published(name) for name in named), named


# Progress


CLIENTS = [
    words for words in commands() if words[0] in ("python3", "sh") and words[1].startswith("docs/watch")
]
clients = pytest.mark.parametrize("client", CLIENTS, ids=["python", "curl"])


def following(client: Sequence[str], port: int) -> list[str]:
    """The command of the page, for another port."""
    program = sys.executable if client[0] == "python3" else client[0]
    return [program, str(ROOT / client[1]), client[2].replace("8888", str(port))]


@clients
def test_the_client_follows_a_job_to_its_end(client: Sequence[str], tmp_path: Path) -> None:
    with ProgressServer(tmp_path, 0) as server:
        now = time.time()
        server.publish([(now, 1, 1.0), (now, 10, 0.25)])
        process = subprocess.Popen(following(client, server.port), stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() in ("step 10: 25%\n", "10, 0.25\n")
        server.publish([(now, 10, 1.0), (now, 30, 0.0), (now, 30, 1.0)])
        assert process.stdout.read().splitlines()[-1] in ("step 30: 100%", "30, 1.0")
        assert process.wait(30) == 0


@clients
def test_the_client_says_within_ten_seconds_when_a_job_is_gone(client: Sequence[str], tmp_path: Path) -> None:
    with ProgressServer(tmp_path, 0) as server:
        server.publish([(time.time(), 10, 0.25)])
        process = subprocess.Popen(following(client, server.port), stdout=-1, stderr=-1, text=True)
        assert process.stdout is not None
        process.stdout.readline()
    began = time.monotonic()
    _, errors = process.communicate(timeout=60)
    assert time.monotonic() - began < 10.5
    assert process.returncode == 1
    assert "status.json" in errors


@pytest.mark.parametrize(("page", "program"), [("docs/platform", "watch.py"), ("docs/use", "detect.py")])
def test_a_page_shows_the_program_that_is_tried(page: str, program: str) -> None:
    docstring, _, rest = (ROOT / "docs" / program).read_text().partition("\n\n")
    assert docstring.startswith('"""')
    assert len(rest.splitlines()) <= 30
    for text in (ENGLISH[page], CHINESE[page]):
        assert re.findall(r"```python\n(.*?)```", text, re.S) == [rest]


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_curl_gets_the_points(tmp_path: Path) -> None:
    first, *others = (words for words in commands() if words[0] == "curl")
    with ProgressServer(tmp_path, 0) as server:
        server.publish([(1629087911.5, 1, 0.0)])
        server.inform({"state": "loading", "epochs": 3, "updated": 1.0})

        def curl(words: Sequence[str]) -> str:
            known = [word.replace("8888", str(server.port)) for word in words]
            return subprocess.run([*known, "-s", "--noproxy", "*"], capture_output=True, text=True).stdout

        for _ in range(100):  # until the point has reached the server
            if (answer := curl(first)).startswith("["):
                break
            time.sleep(0.1)
        answers = {words[-1].rpartition("/")[2]: curl(words) for words in others}
    assert json.loads(answer) == [[1629087911.5, 1, 0.0]]
    assert answers.keys() == {"status.json", "metrics", "healthz"}
    assert json.loads(answers["status.json"])["state"] == "loading"
    assert "visualtl_epochs 3.0" in answers["metrics"]
    assert answers["healthz"] == "ok\n"


@both("docs/platform")
def test_the_steps_are_those_of_a_job(text: str) -> None:
    rows = cells(text, "step", "步骤")
    listed = {int(cell) for row in rows for cell in (row[0], row[2]) if cell}
    assert listed == {step.value for step in Step}


# Results


def shape(value: Any) -> Any:
    """What a value is made of, with one entry for a list."""
    if isinstance(value, dict):
        return {key: shape(part) for key, part in value.items()}
    return [shape(value[-1])] if isinstance(value, list) else type(value)


def test_the_formats_of_the_results_are_those_that_are_written() -> None:
    detection, classification, landmarks = (
        json.loads(text) for kind, text in BLOCKS["docs/platform"] if kind == "json"
    )
    boxes = Sample("/data/26.jpg", 640, 480, np.array([[0, 1, 1, 9, 9]], np.float32))
    found = np.array([[0, 0.9, 10, 20, 30, 40]])
    evaluator = DetectionEvaluator(DetectionDecoder(["cat"], 0.3), 0.5, "voc")
    written = evaluator.results([boxes], [found])[1]
    assert shape(written) == shape(detection)
    image = Sample("/data/brick/1.jpg", 9, 9, np.array([0], np.float32))
    whole = ClassEvaluator(ClassDecoder(["brick", "wood"])).results([image], [np.array([0.9, 0.1])])[1]
    assert shape({key: whole[key] for key in classification}) == shape(classification)
    face = Sample("/data/1.jpg", 300, 300, np.array([[13.5, 15]], np.float32))
    points = LandmarkEvaluator(LandmarkDecoder()).results([face], [np.array([[223.7, 0.0]])])[1]
    assert shape({key: points[key] for key in landmarks}) == shape(landmarks)


def test_the_picture_of_the_page_is_small() -> None:
    picture = ROOT / "docs" / "progress.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size < 150_000


# Tables


@both("README")
def test_the_tasks_have_the_networks_and_defaults_that_the_code_has(text: str) -> None:
    rows = cells(text, "task", "任务")
    assert {quoted(row[1])[0] for row in rows} == SCRIPTS.keys()
    for row in rows:
        config: Any = configuration(SCRIPTS[quoted(row[1])[0]], {"log_dir": "/out"})
        size = getattr(config.model, "input_shape", None) or (
            config.train.input_width,
            config.train.input_height,
        )
        assert row[3] == f"{size[0]} x {size[1]}"
        networks = quoted(row[2])
        if networks:
            assert networks[0] == config.model.base_network
    assert f" {len(BASE_NETWORKS)} " in text.partition("\n## ")[0]
    assert f" {len(BASE_NETWORKS) - 1} " in text.partition("\n## ")[0]


@both("docs/training")
def test_the_embeddings_are_those_of_the_networks(text: str) -> None:
    rows = cells(text, "numbers", "长度")
    assert {name: int(row[0]) for row in rows for name in quoted(row[1])} == EMBEDDING_DIMENSIONS


@both("docs/platform")
def test_the_kinds_of_errors_their_statuses_and_whether_they_pass_are_those_of_the_code(text: str) -> None:
    rows = [(quoted(row[0])[0], *row[1:3]) for row in cells(text, "`error.kind`", "`error.kind`")]
    classes = [JobError]
    for error in classes:
        classes.extend(c for c in error.__subclasses__() if c.__module__ == JobError.__module__)
    for error in classes:
        found = [
            row
            for row in rows
            if row[0] == error.kind
            and row[1] in ("yes" if error.retry else "no", "是" if error.retry else "否")
        ]
        assert len(found) == 1, error
        assert str(error("").exit_status) in found[0][2] or error in (CrashError, KilledError)
    assert len(rows) == len(classes) + 1  # stopped is no error


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [f"{name}{suffix}.md" for name in NAMES for suffix in ("", "_zh")])
def test_links_lead_to_a_page_and_a_heading_that_are_there(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    targets = [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target]
    for target in targets:
        name, _, anchor = target.partition("#")
        file = (ROOT / page).parent / name if name else ROOT / page
        assert file.is_file(), target
        if anchor:
            assert anchor in anchors(file.read_text(encoding="utf-8")), target
        if name.endswith(".md") and "_zh" in page and "benchmarks" not in name and "README" not in name:
            assert "_zh" in name, f"{target}: a Chinese page leads to an English one"


@pytest.mark.parametrize("texts", [ENGLISH, CHINESE], ids=["english", "chinese"])
def test_the_readme_leads_to_every_page(texts: dict[str, str]) -> None:
    suffix = "" if texts is ENGLISH else "_zh"
    assert [
        name for name in NAMES if name != "README" and f"({name}{suffix}.md)" not in texts["README"]
    ] == []


@both("README")
def test_the_readme_is_short(text: str) -> None:
    assert text.count("\n") <= 160


def test_the_chinese_pages_have_one_word_for_an_image() -> None:
    assert [name for name, text in CHINESE.items() if "图片" in text] == []


def test_the_changes_name_this_version_and_go_back_to_the_first() -> None:
    versions = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M)
    if versions[0] == "Unreleased":
        del versions[0]
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
