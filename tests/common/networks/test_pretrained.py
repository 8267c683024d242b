"""Which pretrained files a job needs, and how they come to a machine without internet."""

from __future__ import annotations

import functools
import hashlib
import json
import re
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from common.config.network_names import BASE_NETWORKS, VARIANTS, parameters_name
from common.errors import PretrainedError
from common.models import main
from common.networks import pretrained
from common.networks.pretrained import fetchable, find_parameters, published, published_hashes

ROOT = Path(__file__).resolve().parents[3]
CONTENT = b"parameters" * 100
SHA1 = hashlib.sha1(CONTENT).hexdigest()
FILE = f"resnet18_v1-{SHA1[:8]}.params"
NAMES = {
    "detect/fit_yolov3.py": "yolo3_darknet53_coco-09767802.params",
    "detect/fit_center_net.py": "center_net_resnet18_v1b_dcnv2_coco-0874df9a.params",
    "detect/fit_ssd.py": "mobilenetv2_1.0-f9952bcd.params",
    "classification/fit_classification.py": "resnet50_v1-cc729d95.params",
    "reid/fit_reid.py": "resnet50_v1-cc729d95.params",
    "landmark/fit_landmark.py": "resnet50_v1-cc729d95.params",
}


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A mirror on this machine that publishes resnet18_v1; gives the folder of its archives."""
    archives = tmp_path / "repository" / "gluon" / "models"
    archives.mkdir(parents=True)
    with zipfile.ZipFile(archives / f"resnet18_v1-{SHA1[:8]}.zip", "w") as bundle:
        bundle.writestr(FILE, CONTENT)
    monkeypatch.setattr(pretrained, "published_hashes", lambda: {"resnet18_v1": SHA1, "vgg11": "0" * 40})
    handler = functools.partial(_Quiet, directory=tmp_path / "repository")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        monkeypatch.setenv("MXNET_GLUON_REPO", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        yield archives
        server.shutdown()


def configuration(tmp_path: Path, **content: Any) -> str:
    path = tmp_path / "job.json"
    path.write_text(json.dumps({"log_dir": str(tmp_path / "out"), **content}))
    return str(path)


def test_the_table_is_that_of_the_model_zoo() -> None:
    from gluoncv.model_zoo import model_store

    assert published_hashes().items() <= model_store._model_sha1.items()
    found = published("vgg16_bn")
    assert found is not None
    assert found.address == model_store._url_format.format(
        repo_url=model_store.apache_repo_url, file_name=found.file_name.removesuffix(".params")
    )


def test_every_base_network_has_published_parameters() -> None:
    names = [parameters_name(name) for name in BASE_NETWORKS]
    names += [parameters_name(name, batch_norm=True) for name in VARIANTS["batch_norm"]]
    assert not [name for name in names if published(name) is None]


def test_neither_mxnet_nor_gluoncv_is_imported() -> None:
    code = (
        "import sys; from common.models import main; main(['list', *sys.argv[1:]]);"
        "print([name for name in ('mxnet', 'gluoncv') if name in sys.modules])"
    )
    command = [sys.executable, "-c", code, "detect/fit_yolov3.py", "--config", "configs/detect_yolov3.json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


@pytest.mark.parametrize(("script", "file"), NAMES.items())
def test_list_names_the_file_that_a_job_of_defaults_needs(
    script: str, file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [str(ROOT / script), "--config", configuration(tmp_path)]
    assert main(["list", "--folder", str(tmp_path), *command]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert re.match(
        rf"{re.escape(file)}: missing in {re.escape(str(tmp_path))} \(about \d+\.\d MB\)[;,].* SHA-1 ", line
    )
    assert line.endswith(f"/{file.removesuffix('.params')}.zip")


@pytest.mark.parametrize(
    ("script", "content", "options", "files"),
    [
        ("yolov3", {"model": {"transfer_dataset": "voc"}}, [], ["yolo3_darknet53_voc-f5ece5ce"]),
        ("yolov3", {"model": {"use_pretrained": False}}, [], []),
        (
            "yolov3",
            {"model": {"use_pretrained": "false"}, "train": {"pretrained_base": "true"}},
            [],
            ["darknet53-2189ea49"],
        ),
        ("yolov3", {}, ["--load", "best.pkl"], []),
        ("center_net", {"model": {"use_pretrained": False}}, [], ["resnet18_v1b-2d9d980c"]),
        (
            "classification",
            {"model": {"base_network": "vgg16", "batch_norm": True}},
            [],
            ["vgg16_bn-7f01cf05"],
        ),
        (
            "classification",
            {"train": {"teacher": "resnet34_v1"}},
            ["--set", "model.base_network=resnet18_v1"],
            ["resnet18_v1-a0666292", "resnet34_v1-48216ba9"],
        ),
        ("classification", {"train": {"teacher": "resnet34_v1"}}, ["--load=a.pkl"], ["resnet34_v1-48216ba9"]),
    ],
)
def test_list_follows_the_configuration(
    script: str,
    content: dict[str, Any],
    options: list[str],
    files: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = next(ROOT.glob(f"*/fit_{script}.py"))
    command = [str(path), "--config", configuration(tmp_path, **content), *options]
    assert main(["list", "--folder", str(tmp_path), *command]) == 0
    output = capsys.readouterr().out.splitlines()
    assert [line.partition(".params:")[0] for line in output if ".params" in line] == files
    assert files or output == ["no pretrained parameters are needed"]


def test_what_was_fetched_in_one_place_is_whole_in_the_other(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "carried"
    assert main(["check", "--folder", str(folder), "resnet18_v1"]) == 1
    assert "missing" in capsys.readouterr().out
    assert main(["fetch", "--folder", str(folder), "resnet18_v1"]) == 0
    assert [path.name for path in folder.iterdir()] == [FILE]
    monkeypatch.setenv("MXNET_GLUON_REPO", "http://127.0.0.1:9")
    for command in (["resnet18_v1"], []):
        capsys.readouterr()
        assert main(["check", "--folder", str(folder), *command]) == 0
        assert capsys.readouterr().out == f"{FILE}: whole, 0.0 MB\n"
    assert main(["fetch", "--folder", str(folder), "resnet18_v1"]) == 0  # nothing is fetched twice


def test_a_damaged_file_is_found_and_nothing_is_put_in_its_place(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / FILE).write_bytes(CONTENT[:-1])
    for command in (["check", "resnet18_v1"], ["check"], ["fetch", "resnet18_v1"]):
        status = main([command[0], "--folder", str(tmp_path), *command[1:]])
        assert status == (3 if command[0] == "fetch" else 1)
        told = capsys.readouterr()
        assert "damaged: its SHA-1" in told.out + told.err
    assert (tmp_path / FILE).read_bytes() == CONTENT[:-1]


def test_a_folder_is_checked_by_the_hashes_in_its_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digest = hashlib.sha1(b"x").hexdigest()
    (tmp_path / f"of-somebody-{digest[:8]}.params").write_bytes(b"x")
    (tmp_path / "mine.params").write_bytes(b"y")
    # The right beginning of a hash is not enough where the whole of it is known.
    assert main(["check", "--folder", str(tmp_path)]) == 0
    (tmp_path / "resnet18_v1-a0666292.params").write_bytes(b"z")
    assert main(["check", "--folder", str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()[-3:]
    assert [line.partition(": ")[2].split(",")[0].split(":")[0] for line in lines] == [
        "your own file",
        "whole",
        "damaged",
    ]


def test_own_parameters_are_taken_before_published_ones(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "resnet18_v1.params"
    own.write_bytes(b"mine")
    assert find_parameters("resnet18_v1", tmp_path) == own
    for command in ("list", "check"):
        assert main([command, "--folder", str(tmp_path), "resnet18_v1"]) == 0
        assert "your own file" in capsys.readouterr().out


def test_parameters_that_came_with_the_project_are_taken_where_the_folder_has_none(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MXNET_GLUON_REPO", "http://127.0.0.1:9")  # nothing can be fetched
    with caplog.at_level("INFO", "visualtl"):
        path = find_parameters("mobilenetv2_1.0", tmp_path)
    assert path.parent == ROOT / "backbones"
    assert "came with the project" in caplog.text
    for command in ("list", "fetch", "check"):
        assert main([command, "--folder", str(tmp_path), "mobilenetv2_1.0"]) == 0
        assert path.name in capsys.readouterr().out
    with pytest.raises(PretrainedError):
        find_parameters("mobilenetv2_0.5", tmp_path)
    (tmp_path / "mobilenetv2_1.0.params").write_bytes(b"mine")
    assert find_parameters("mobilenetv2_1.0", tmp_path).parent == tmp_path
    monkeypatch.setattr(pretrained, "sha1_of", lambda path: "0" * 40)
    with pytest.raises(PretrainedError, match=r"is damaged.*take the project.s file again, or put your own"):
        find_parameters("mobilenetv2_1.0", tmp_path / "empty")


def test_an_archive_with_something_else_in_it_is_refused(repository: Path, tmp_path: Path) -> None:
    (archive,) = repository.iterdir()
    for content in ({FILE: b"other"}, {"other.params": CONTENT}):
        with zipfile.ZipFile(archive, "w") as bundle:
            for name, data in content.items():
                bundle.writestr(name, data)
        with pytest.raises(PretrainedError, match=FILE):
            find_parameters("resnet18_v1", tmp_path / "models")
    archive.write_bytes(b"no archive")
    with pytest.raises(PretrainedError, match=FILE):
        find_parameters("resnet18_v1", tmp_path / "models")
    assert list((tmp_path / "models").iterdir()) == []


def test_fetching_names_everything_that_cannot_be_had(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "models"
    assert main(["fetch", "--folder", str(folder), "vgg11", "resnet18_v1", "resnet50_v1"]) == 3
    output = capsys.readouterr()
    assert [name for name in ("vgg11", "resnet18_v1", "resnet50_v1") if name in output.err] == [
        "vgg11",
        "resnet50_v1",
    ]
    assert "resnet18_v1" in output.out


def test_whether_a_file_could_be_fetched_is_known_without_fetching_it(repository: Path) -> None:
    assert fetchable("resnet18_v1") is None
    assert fetchable("vgg11") == "File not found"
    assert fetchable("nothing_of_the_kind") == "nothing is published under that name"


@pytest.mark.parametrize(
    ("command", "status", "told"),
    [
        (["list", "nothing_of_the_kind"], 3, "nothing is published as 'nothing_of_the_kind'"),
        (["fetch", "nothing_of_the_kind"], 3, "none are published as 'nothing_of_the_kind'"),
        (["check"], 3, "holds no pretrained parameters"),
        (["list", "common/job.py"], 2, "common/job.py is not one of classification/fit_classification.py"),
        (["list", "detect/fit_yolov3.py", "--config", "nowhere.json"], 2, "nowhere.json"),
    ],
)
def test_a_mistake_is_one_line(
    command: list[str],
    status: int,
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(ROOT)
    assert main([command[0], "--folder", str(tmp_path), *command[1:]]) == status
    told_line = capsys.readouterr().err
    assert told in told_line
    assert told_line.count("\n") == 1
