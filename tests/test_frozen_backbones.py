"""train.freeze_backbone: what ImageNet teaches stays as it is, of every task."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mxnet as mx
import numpy as np
import pytest
from mxnet import gluon

from classification.config import ClassificationConfig
from classification.task import ClassificationTask
from common.config.reading import configuration
from common.config.sections import JobConfig
from common.data.samples import Sample
from common.engine.mxnet_internals import descendants, operator_options
from common.engine.parameters import parameters
from common.prepare import Prepared
from common.reporting import warnings
from common.task import Task
from detect.center_net.task import CenterNetTask
from detect.config import CenterNetConfig, SSDConfig, YOLOv3Config
from detect.ssd.task import SSDTask
from detect.yolov3.task import YOLOv3Task
from landmark.config import LandmarkConfig
from landmark.task import LandmarkTask
from reid.config import ReIDConfig
from reid.task import ReIDTask
from tests.helpers.estimators import estimator_of
from tests.helpers.jobs import config, make_data
from tests.helpers.targets import train_step
from tests.helpers.yolov3_models import batch

TASKS: dict[str, tuple[type[Task[Any]], type[JobConfig]]] = {
    "classification": (ClassificationTask, ClassificationConfig),
    "reid": (ReIDTask, ReIDConfig),
    "landmark": (LandmarkTask, LandmarkConfig),
    "yolov3": (YOLOv3Task, YOLOv3Config),
    "centernet": (CenterNetTask, CenterNetConfig),
    "ssd": (SSDTask, SSDConfig),
}


def built(name: str, folder: Path, **train: Any) -> Any:
    """The model that a job begins with."""
    kind, config_class = TASKS[name]
    values = config(name, folder / "out", folder, **train)
    image = next(folder.glob("*_train/**/dark0.png"))
    rows = np.full((3, 2), 20.0) if name == "landmark" else np.array([[0, 4, 6, 30, 34]])
    samples = [Sample(str(image), 40, 40, rows.astype(np.float32))] * 4
    data: Any = SimpleNamespace(classes=[] if name == "landmark" else ["dark", "light"], train=samples)
    task = kind(configuration(config_class, values))
    prepared = Prepared(
        task=task,
        engine="mxnet",
        devices=[mx.cpu()],
        recipe=task.recipe(on_gpu=False),
        checkpoint=None,
        saved=None,
        loaded=False,
        data=data,
    )
    return prepared.build([mx.cpu()])


@pytest.mark.parametrize("name", TASKS)
def test_the_backbone_is_frozen_and_nothing_else_is(name: str, tmp_path: Path) -> None:
    make_data(tmp_path, 1, 1)
    warnings.forget()
    model = built(name, tmp_path, freeze_backbone=True)
    frozen = {key for layers in model.backbone for key in layers.collect_params()}
    every = model.network.collect_params()
    assert all(every[key].grad_req == "null" for key in frozen)
    trained = {key for key, value in every.items() if value.grad_req != "null"}
    assert trained
    assert len(frozen) > 60  # of MobileNet and ResNet-18, the smallest ones
    assert not trained & frozen
    norms = [n for layers in model.backbone for n in descendants(layers) if isinstance(n, gluon.nn.BatchNorm)]
    assert norms
    assert all(operator_options(norm)["use_global_stats"] for norm in norms)
    assert "random parameters" in warnings.told()[0]  # no job of these tests has others


def test_no_backbone_is_frozen_unless_asked(tmp_path: Path) -> None:
    make_data(tmp_path, 1, 1)
    model = built("ssd", tmp_path)
    values = [value for layers in model.backbone for value in layers.collect_params().values()]
    assert all(value.grad_req == "write" for value in values if "running" not in value.name)


def test_a_step_moves_what_stands_behind_it_alone(tmp_path: Path) -> None:
    make_data(tmp_path, 1, 1)
    model = built("ssd", tmp_path, freeze_backbone=True)
    before = parameters(model.network)
    estimator = estimator_of(model, momentum=0.9, wd=1e-2, ema_decay=0.99)
    for _ in range(3):
        train_step(estimator, batch(4), 0.01)
    with estimator.engine.averaged():  # what is validated and exported
        after = parameters(model.network)
    changed = {name for name, value in before.items() if (after[name] != value).any()}
    assert {name.split(".")[0] for name in changed} == {"features", "class_heads", "box_heads"}
    assert not [name for name in changed if name.startswith("features.stages.")]
