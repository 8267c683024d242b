"""A compiled training step gives the losses, gradients and statistics of the same step taken operator by operator."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np
import pytest
from mxnet import gluon

from common.engine.graph import trace
from common.engine.mxnet_internals import named_parameters, operator_options
from common.engine.training_graph import RecordedStep, TrainingGraph, for_training
from tests.helpers.training_graphs import CONTEXT, INPUTS, Block, arrays, losses_of

ROOT = Path(__file__).resolve().parents[3]


def step(made: Any, block: Block, given: list[np.ndarray], scale: float = 1.0) -> dict[str, np.ndarray]:
    """Losses, gradients and running statistics after one step; each by a short name."""
    losses = losses_of(made, given)
    made.backward(scale)
    found = {f"loss{i}": loss.asnumpy() for i, loss in enumerate(losses)}
    for name, parameter in named_parameters(block).items():
        kind = parameter.data() if parameter.grad_req == "null" else parameter.grad()
        found[name] = kind.asnumpy()
    return found


def assert_same(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("scale", [1.0, 256.0])
def test_a_compiled_step_is_the_recorded_one(scale: float) -> None:
    compiled, recorded = Block(), Block()
    found = step(TrainingGraph(compiled, INPUTS, CONTEXT), compiled, arrays(), scale)
    wanted = step(RecordedStep(recorded, CONTEXT), recorded, arrays(), scale)
    assert np.abs(wanted["layers.0.weight"]).max() > 0.01 * scale
    assert np.abs(wanted["layers.1.running_mean"]).max() > 0.0
    assert_same(found, wanted)


def test_steps_of_many_shapes_are_those_of_fresh_graphs() -> None:
    block = Block()
    made = TrainingGraph(block, INPUTS, CONTEXT)
    for number, (rows, side) in enumerate([(2, 4), (4, 6), (2, 4), (4, 6), (3, 5), (4, 9), (2, 4), (4, 6)]):
        given = arrays(rows, side, number)
        fresh = Block()
        wanted = step(RecordedStep(fresh, CONTEXT), fresh, given)
        for name, parameter in named_parameters(block).items():
            if "running" in name:  # back to those of a block that has made no step
                parameter.set_data(mx.nd.ones(parameter.shape) * ("var" in name))
        assert_same(step(made, block, given), wanted)


BOUND = """
import sys
from common.engine.training_graph import TrainingGraph
from tests.helpers.training_graphs import CONTEXT, INPUTS, Block, arrays

made = TrainingGraph(Block(), INPUTS, CONTEXT, most_shapes=3)
for side in map(int, sys.argv[1].split()):
    print(f"side {side}", file=sys.stderr, flush=True)
    made.take(arrays(2, side))
"""


def bound(sides: str) -> list[int]:
    """Those of the sides for whose images a graph was bound, which MXNet says when it is asked to."""
    command = [sys.executable, "-c", BOUND, sides]
    told = {**os.environ, "MXNET_SUBGRAPH_VERBOSE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=told, capture_output=True, text=True, check=True)
    return [int(part.split()[0]) for part in done.stderr.split("side ")[1:] if "backend" in part]


def test_a_shape_is_bound_once_and_again_only_after_a_larger_one() -> None:
    few = "5 5 8 8 5 6 8 5"
    more = " 7 7 8 5 7"  # in the place of the one before, so many are kept
    again = " 6 8 5 8 9 9 8"
    assert bound(few + more + again) == [5, 8, 5, 6, 7, 6, 9, 8]


MEMORY = """
import os
import mxnet as mx
from common.engine.training_graph import TrainingGraph
from tests.helpers.training_graphs import CONTEXT, INPUTS, Block, arrays

made = TrainingGraph(Block(), INPUTS, CONTEXT)

def memory(side):
    made.take(arrays(32, side))
    made.forward()
    made.backward(1.0)
    mx.nd.waitall()
    pages = int(open("/proc/self/statm").read().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

before = memory(8)
largest = memory(160)
print(largest - before, max(memory(side) for side in range(158, 138, -2)) - largest)
"""


@pytest.mark.slow
def test_smaller_batches_share_the_memory_of_the_largest() -> None:
    done = subprocess.run(
        [sys.executable, "-c", MEMORY], cwd=ROOT, capture_output=True, text=True, check=True
    )
    largest, ten_more = map(float, done.stdout.split())
    assert largest > 30
    assert (
        ten_more < 4 * largest
    )  # their inputs, and what the allocator keeps; without sharing it is 9 times as much


def test_the_second_loss_changes_no_gradient() -> None:
    block = Block()
    found = step(TrainingGraph(block, INPUTS, CONTEXT), block, arrays())

    class One(Block):
        def hybrid_forward(self, F: Any, x: Any, target: Any) -> Any:
            return super().hybrid_forward(F, x, target)[0]

    alone = One()
    for name, value in step(TrainingGraph(alone, INPUTS, CONTEXT), alone, arrays()).items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.mark.parametrize(("device", "again"), [("cpu", {"LeakyReLU", "BatchNorm"}), ("gpu", {"LeakyReLU"})])
def test_what_keeps_statistics_is_computed_again_on_the_cpu_alone(device: str, again: set[str]) -> None:
    symbol = for_training(trace(Block(), INPUTS)[0], device)
    nodes = json.loads(symbol.tojson())["nodes"]
    assert {node["op"] for node in nodes if "__force_mirroring__" in node.get("attrs", {})} == again


@pytest.mark.parametrize("options", [{"use_global_stats": True}, {"scale": False}, {"center": False}])
def test_a_batchnorm_that_is_one_with_its_relu_computes_what_both_do(options: dict[str, bool]) -> None:
    def made() -> Block:
        block = Block()
        operator_options(block.layers[4]).update(operator_options(gluon.nn.BatchNorm(**options)))
        for name, value in {"running_mean": 0.2, "running_var": 0.5}.items():
            getattr(block.layers[4], name).set_data(mx.nd.ones(3) * value)
        return block

    compiled, recorded = made(), made()
    found = step(TrainingGraph(compiled, INPUTS, CONTEXT), compiled, arrays())
    wanted = step(RecordedStep(recorded, CONTEXT), recorded, arrays())
    assert (np.abs(wanted["layers.3.weight"]) > 1e-3).any()
    assert_same(found, wanted)


class Summed(gluon.HybridBlock):
    """As CenterNet's deformable layers: a BatchNorm of sums, laid out by no convolution, before a deconvolution."""

    def __init__(self) -> None:
        super().__init__(prefix="")
        with self.name_scope():
            self.before = gluon.nn.Conv2D(64, 1, in_channels=2)
            self.norm = gluon.nn.BatchNorm(in_channels=32)
            self.after = gluon.nn.Conv2DTranspose(32, 4, strides=2, padding=1, use_bias=False, in_channels=32)
        mx.random.seed(0)
        self.initialize(mx.init.Normal(0.5))

    def hybrid_forward(self, F: Any, x: Any, target: Any) -> Any:
        sums = self.before(x).reshape((0, -4, 2, 32, 0, 0)).sum(axis=1)
        maps = self.after(F.Activation(self.norm(sums), act_type="relu"))
        return F.sum(
            F.broadcast_sub(maps.mean(axis=(2, 3)).slice_axis(axis=1, begin=0, end=3), target) ** 2, axis=1
        )


def test_a_relu_behind_sums_and_before_a_deconvolution_has_its_gradient() -> None:
    block, given = Summed(), arrays()
    wanted = step(RecordedStep(block, CONTEXT), block, given)
    found = step(TrainingGraph(block, INPUTS, CONTEXT), block, given)
    for name in wanted:
        if "running" not in name:
            np.testing.assert_allclose(
                found[name], wanted[name], rtol=1e-3, atol=1e-4 * np.abs(wanted[name]).max()
            )


class Two(gluon.HybridBlock):
    """Convolutions of 3 channels, which computes in float32 always, and of 16, each with BatchNorm and ReLU."""

    def __init__(self) -> None:
        super().__init__(prefix="")
        with self.name_scope():
            self.layers = gluon.nn.HybridSequential(prefix="")
            for inputs in (3, 16):
                self.layers.add(
                    gluon.nn.Conv2D(16, 3, in_channels=inputs),
                    gluon.nn.BatchNorm(in_channels=16),
                    gluon.nn.Activation("relu"),
                )
        self.initialize()

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        return self.layers(x)


@pytest.mark.parametrize(
    ("device", "precision", "joined"), [("cpu", "float32", 2), ("cpu", "bfloat16", 1), ("gpu", "float32", 0)]
)
def test_relus_join_their_batchnorms_where_that_is_faster(device: str, precision: str, joined: int) -> None:
    symbol = for_training(trace(Two(), ["x"], precision, device)[0], device)
    operators = [node["op"] for node in json.loads(symbol.tojson(remove_amp_cast=False))["nodes"]]
    assert operators.count("_contrib_BatchNormWithReLU") == joined
    assert operators.count("Activation") == 2 - joined


def test_every_device_has_gradients_of_its_own() -> None:
    contexts = [mx.cpu(0), mx.cpu(1)]
    block = Block(contexts)
    for number, context in enumerate(contexts):
        made = TrainingGraph(block, INPUTS, context)
        losses_of(made, arrays(seed=number))
        made.backward(1.0)
    first, second = (grad.asnumpy() for grad in block.layers[0].weight.list_grad())
    for seed, found in enumerate((first, second)):
        plain = Block()
        wanted = step(RecordedStep(plain, CONTEXT), plain, arrays(seed=seed))["layers.0.weight"]
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
