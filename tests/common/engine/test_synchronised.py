"""Devices of MXNet's engine that share the statistics of their BatchNorms."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from common.engine.graph import trace
from common.networks.base_networks import goes_by_batch, keep_statistics
from tests.helpers.training_graphs import INPUTS, Block

ROOT = Path(__file__).resolve().parents[3]

# A device waits within the layer for all others, so that each needs a thread; MXNet asks for their number once.
PROGRAM = """
from common.engine.devices import load_mxnet
load_mxnet(synchronised=True)
import mxnet as mx
import numpy as np
from common.config.reading import configuration
from common.engine.limits import GradientLimit
from common.engine.mxnet_internals import named_parameters
from common.loading.loader import Batch
from reid.config import ReIDConfig
from reid.task import ReIDTask
from tests.helpers import yolov3_models
from tests.helpers.estimators import estimator_of
from tests.helpers.targets import with_targets

model = {"base_network": "mobilenet0.25", "use_pretrained": False}
reid = ReIDTask(configuration(ReIDConfig, {"log_dir": "out", "gpus": [], "model": model}))


def detection(model, side=64):
    return with_targets(model, yolov3_models.batch(4, side=side))


def identities(model, side=64):
    images = np.random.default_rng(0).integers(0, 256, (4, side, side, 3)).astype(np.uint8)
    return Batch({"image": images, "label": np.array([0, 1, 0, 1], np.float32)}, np.arange(4), 4, (side, side))


devices = [mx.cpu(0), mx.cpu(1)]
for task, batch, least in ((yolov3_models.task(), detection, 80), (reid, identities, 56)):
    seen = []
    for contexts, synchronised in ((devices, True), (devices[:1], True), (devices, False)):
        mx.random.seed(0)
        np.random.seed(0)
        model = task.build(["a", "b"], contexts, None)
        made = estimator_of(model, contexts, limit=GradientLimit(0.005), synchronised=synchronised)
        loss = made.step(batch(model), 0.01)
        network = named_parameters(model.network)
        statistics = {name: value.list_data()[-1].asnumpy() for name, value in network.items() if "running_" in name}
        # The triplet loss compares what a device has.
        seen.append({"loss": loss if task is not reid else loss[1:2], **statistics})
        for side in (96, 64) if contexts is devices and synchronised else ():  # larger: bound anew
            assert np.isfinite(made.step(batch(model, side), 0.01)).all()
    together, alone, apart = seen
    assert len(alone) > least, len(alone)
    for name, value in alone.items():
        np.testing.assert_allclose(together[name], value, rtol=1e-3, atol=1e-4, err_msg=name)
    assert any(not np.allclose(apart[name], value, rtol=1e-3, atol=1e-4) for name, value in alone.items())
"""


@pytest.mark.slow
def test_devices_have_the_statistics_and_the_loss_of_one_device() -> None:
    made = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert made.returncode == 0, made.stdout + made.stderr


def test_batchnorms_that_keep_to_their_running_statistics_are_left_to_themselves() -> None:
    def shared(block: Block) -> list[str]:
        nodes = json.loads(trace(block, INPUTS, sharing=3)[0].tojson())["nodes"]
        return [node["attrs"]["ndev"] for node in nodes if node["op"] == "_contrib_SyncBatchNorm"]

    block = Block()
    assert goes_by_batch(block)
    assert set(shared(block)) == {"3"}
    keep_statistics(block)
    assert not goes_by_batch(block)
    assert shared(block) == []
