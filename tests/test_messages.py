"""Every message that the page on troubleshooting explains is one that people see: each is provoked here."""

from __future__ import annotations

import json
import re
import socket
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from classification.config import ClassificationConfig
from common.config.sections import JobConfig
from common.engine import devices
from common.engine.device_code import DeviceCode
from common.engine.inference import DeviceInference
from common.engine.parameter_file import read_parameter_file, write_parameter_file
from common.errors import JobError, WorkerError
from common.export.model_files import export_model
from common.export.onnx.files import PLAIN, Images, export_onnx
from common.job import main
from common.networks.pretrained import published
from common.predictor import Predictor
from common.processes.pool import WorkerPool
from common.reporting.endings import explain
from common.reporting.lock import lock
from common.trained import read_card
from common.training.checkpoint import write_checkpoint
from detect.config import SSDConfig, YOLOv3Config
from tests.helpers import worker_tasks
from tests.helpers.centernet_models import CPU, settled, task
from tests.helpers.jobs import ROOT, SCRIPTS, config, fit, make_data

TASKS: dict[str, tuple[type[JobConfig], str]] = {
    "classification": (ClassificationConfig, "classification.task:ClassificationTask"),
    "yolov3": (YOLOv3Config, "detect.yolov3.task:YOLOv3Task"),
    "ssd": (SSDConfig, "detect.ssd.task:SSDTask"),
}


@dataclass
class Machine:
    """Where a message is provoked: small data sets and no pretrained parameters."""

    folder: Path
    data: Path
    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]

    def values(self, task: str, **sections: Any) -> dict[str, Any]:
        """A configuration; sections: keys that are changed in one."""
        values = config(task, self.folder / "out", self.data)
        for name, keys in sections.items():
            values[name] = {**values[name], **keys} if isinstance(keys, dict) else keys
        return values

    def check(self, task: str, *options: str, **sections: Any) -> str:
        """What `--check` says about a job that cannot start."""
        path = self.folder / "job.json"
        path.write_text(json.dumps(self.values(task, **sections)))
        assert main(*TASKS[task], "", ["--config", str(path), "--check", *options]) != 0
        return self.capsys.readouterr().err


Provoke = Callable[[Machine], str]
PROVOKED: dict[str, Provoke] = {}


def shows(message: str) -> Callable[[Provoke], Provoke]:
    """The decorated function returns what is said, `message` in it."""

    def register(function: Provoke) -> Provoke:
        PROVOKED[message] = function
        return function

    return register


@shows("missing: Python 3.10 or 3.11")
def _(machine: Machine) -> str:
    command = [
        "/bin/bash",
        ROOT / ".ci" / "requirements.sh",
        "",
        machine.folder / "venv",
        "requirements.lock",
    ]
    return subprocess.run(command, env={"PATH": str(machine.folder)}, capture_output=True, text=True).stderr


@shows("MXNet cannot be loaded")
def _(machine: Machine) -> str:
    return str(explain(OSError("libcuda.so.1: cannot open shared object file: No such file or directory")))


@shows("is given for an unknown key")
def _(machine: Machine) -> str:
    return machine.check("classification", train={"batchsize": 4})


@shows("is in use by another job")
def _(machine: Machine) -> str:
    with lock(machine.folder / "out"):
        return fit(SCRIPTS["classification"], machine.values("classification")).output


@shows("port 8888 is taken by another process")
def _(machine: Machine) -> str:
    with socket.socket() as other:
        other.bind(("0.0.0.0", 0))
        other.listen()
        port = str(other.getsockname()[1])
        output = fit(SCRIPTS["classification"], machine.values("classification"), "--port", port).output
    return output.replace(port, "8888")


@shows("differs from")
def _(machine: Machine) -> str:
    values = machine.values("classification", train={"epochs": 1})
    assert fit(SCRIPTS["classification"], values).status == 0
    return machine.check("classification", "--resume", train={"lr": 0.5})


@shows("it is of the task")
def _(machine: Machine) -> str:
    write_checkpoint(machine.folder / "other.pkl", "landmark", {"epoch": 1})
    return machine.check("classification", "--load", str(machine.folder / "other.pkl"))


@shows("no sample is left of the")
def _(machine: Machine) -> str:
    make_data(machine.folder / "own", 1, 1)
    for text in (machine.folder / "own").glob("boxes_train/*.txt"):
        text.unlink()
    return machine.check("yolov3", dataset={"data_root": str(machine.folder / "own")})


@shows("is beyond dataset.classes")
def _(machine: Machine) -> str:
    return machine.check("yolov3", dataset={"classes": ["dark"]})


@shows("the class folder")
def _(machine: Machine) -> str:
    make_data(machine.folder / "own", 1, 1)
    (machine.folder / "own" / "classes_valid" / "dark").rename(
        machine.folder / "own" / "classes_valid" / "dim"
    )
    return machine.check("classification", dataset={"data_root": str(machine.folder / "own")})


@shows("pretrained parameters are missing")
def _(machine: Machine) -> str:
    machine.monkeypatch.setenv("MXNET_HOME", str(machine.folder))
    machine.monkeypatch.setenv("MXNET_GLUON_REPO", (machine.folder / "nowhere").as_uri())
    return machine.check("classification", model={"use_pretrained": True})


@shows("is damaged: its SHA-1")
def _(machine: Machine) -> str:
    file = published("mobilenet0.25")
    assert file is not None
    (machine.folder / "models").mkdir()
    (machine.folder / "models" / file.file_name).write_bytes(b"half of it")
    machine.monkeypatch.setenv("MXNET_HOME", str(machine.folder))
    return machine.check("classification", model={"use_pretrained": True})


@shows("gpus: [0] asked for and not there")
def _(machine: Machine) -> str:
    return machine.check("classification", gpus=[97]).replace("[97]", "[0]")


@shows("is for the CPU alone")
def _(machine: Machine) -> str:
    machine.monkeypatch.setattr("mxnet.runtime.Features.is_enabled", lambda features, name: name != "CUDA")
    with pytest.raises(JobError) as told:
        devices.contexts([0])
    return str(told.value)


@shows("holds no code for")
def _(machine: Machine) -> str:
    code = DeviceCode(binaries=frozenset({(8, 0)}), ptx=frozenset())
    machine.monkeypatch.setattr(devices, "device_code", lambda library: code)
    with pytest.raises(JobError) as told:
        devices.check_gpus([0], [devices.Gpu(0, "a newer one", (9, 0))], machine.folder)
    return str(told.value)


@shows("memory ran out")
def _(machine: Machine) -> str:
    return str(explain(MemoryError(), batch_size=64))


@shows("was killed by signal 9")
def _(machine: Machine) -> str:
    with WorkerPool(1) as pool, pytest.raises(WorkerError) as told:
        pool.result(pool.submit(worker_tasks.die, 9))
    return str(told.value)


@shows("boxes overlap no anchor by half")
def _(machine: Machine) -> str:
    data = make_data(machine.folder / "own", 2, 1)
    for path in (data / "boxes_train").glob("*.txt"):
        path.write_text("0,4,2,6,38\n")
    values = machine.values("ssd", dataset={"data_root": str(data)})
    return fit(SCRIPTS["ssd"], values, "--check").output


@shows("anchors to learn background from")
def _(machine: Machine) -> str:
    return machine.check("ssd", train={"negative_min_size": 0.9, "negative_region": [0.0, 0.0, 0.1, 0.1]})


@shows("has no published detector for")
def _(machine: Machine) -> str:
    return machine.check("ssd", model={"base_network": "mobilenetv2_1.0_lite", "use_pretrained": True})


@shows("keeps a backbone of random parameters")
def _(machine: Machine) -> str:
    return fit(
        SCRIPTS["classification"],
        machine.values("classification", train={"freeze_backbone": True}),
        "--check",
    ).output


@shows("the loss was not finite")
def _(machine: Machine) -> str:
    data = {
        "data_root": str(make_data(machine.folder / "own", 16, 1))
    }  # 32 batches an epoch: 20 in a row suffice
    train = {"optimizer": "lamb", "lr": 100, "batch_size": 1}  # which has no limit on its steps
    return fit(SCRIPTS["classification"], machine.values("classification", dataset=data, train=train)).output


@shows("predictions are not MXNet's")
def _(machine: Machine) -> str:
    pytest.importorskip("onnxruntime")
    made, model = task(flip_test=False), settled(flip_test=False)
    export_model(model, made, machine.folder, {"name": "mAP", "value": 0.5, "epoch": 1}, {})
    decoder = made.decoder(model)
    predictor = Predictor(made.resize, (64, 64), DeviceInference(model.inference_block(), CPU), decoder)
    noise = np.random.default_rng(1).integers(0, 256, (1, 64, 64, 3)).astype(np.uint8)
    images = Images(["0.jpg"], [(noise, np.eye(2, 3)[np.newaxis])], (64, 64))
    card = read_card(machine.folder)
    values = {f"arg:{name}": array.copy() for name, array in read_parameter_file(card.file("params")).items()}
    values[next(name for name in values if name.endswith("conv0_weight"))] += 1
    write_parameter_file(card.file("params"), values)  # which the ONNX files are made of
    return "\n".join(export_onnx(machine.folder, {PLAIN: predictor}, images)[1])


@shows("internal error")
def _(machine: Machine) -> str:
    return str(explain(RuntimeError("a defect")))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"), 4, 2)


@pytest.mark.parametrize("message", PROVOKED)
def test_a_message_that_is_explained_is_one_that_people_see(
    message: str,
    tmp_path: Path,
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    said = PROVOKED[message](Machine(tmp_path, data, monkeypatch, capsys))
    assert message in said
    assert "Traceback" not in said


@pytest.mark.parametrize("language", ["", "_zh"])
def test_every_message_of_the_page_is_provoked(language: str) -> None:
    page = (ROOT / f"docs/troubleshooting{language}.md").read_text()
    assert re.findall(r"^\| `([^`]+)`", page, re.M) == list(PROVOKED)
