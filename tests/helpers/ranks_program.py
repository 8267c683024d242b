"""What each rank of a small training does; rank 0 starts the other one, and leaves what came of it in a file.

python -m tests.helpers.ranks_program out.npz
"""

from __future__ import annotations

import os
import sys
from typing import Any

import numpy as np

from common.engine.devices import load_mxnet

load_mxnet()

import mxnet as mx
import torch
from mxnet import gluon

from common.engine.engine import OptimizerSettings
from common.engine.graph import Normalise, settle
from common.engine.torch.engine import TorchEngine
from common.engine.tracing import program
from common.ranks.place import place_of
from common.ranks.ranks import ALONE, Ranks
from common.ranks.shares import rows_of
from common.task import Inputs
from reid.network import BatchHardTriplet
from tests.helpers.estimators import SIDE, Tiny, batches

ROWS = 10
CPU = torch.device("cpu")


class Compared(gluon.HybridBlock):
    """The triplet loss beside the distance from the target."""

    def __init__(self, network: Any) -> None:
        super().__init__(prefix="")
        self.network, self.normalise, self.triplet = network, Normalise(), BatchHardTriplet()

    def hybrid_forward(self, F: Any, images: Any, target: Any, identity: Any) -> Any:
        embedding = self.network(self.normalise(images))
        distance = F.sum((embedding - target) ** 2, axis=1)
        triplet = self.triplet(embedding, identity)
        return distance + triplet, distance, triplet


class Model(Tiny):
    """A convolution and BatchNorm before a linear layer."""

    losses = ("total", "distance", "triplet")

    def __init__(self) -> None:
        super().__init__([mx.cpu()])
        network = gluon.nn.HybridSequential(prefix="tiny_")
        with network.name_scope():
            network.add(
                gluon.nn.Conv2D(4, 3, in_channels=3, use_bias=False), gluon.nn.BatchNorm(in_channels=4)
            )
            network.add(gluon.nn.Activation("relu"), gluon.nn.Flatten(), gluon.nn.Dense(3))
        network.initialize(mx.init.Normal(0.2))
        settle(network, (1, 3, SIDE, SIDE))
        self.network = network

    def training_block(self) -> Any:
        return Compared(self.network), ("images", "target", "identity")

    def inputs(self, number: int, rows: Any = slice(None)) -> Inputs:
        batch = batches(number + 1, ROWS)[number]
        identity = (np.arange(ROWS) % 3).astype(np.float32)
        arrays = [batch.arrays["image"], batch.arrays["target"], identity]
        return Inputs([np.ascontiguousarray(array[rows]) for array in arrays])


def engine_of(model: Model, ranks: Ranks, synchronised: bool, **options: Any) -> TorchEngine:
    settings = OptimizerSettings("sgd")
    return TorchEngine(
        program(model.blocks()), CPU, settings, ranks=ranks, synchronised=synchronised, **options
    )


def step(engine: TorchEngine, inputs: Inputs, rate: float) -> tuple[np.ndarray, np.ndarray]:
    engine.take(inputs.split)
    engine.forward()
    engine.backward()
    norms, losses = engine.norms(), engine.losses()
    engine.update(rate, norms)
    return norms, losses


def main(out: str) -> None:
    ranks = Ranks(place_of(os.environ))
    if ranks.size == 1:
        ranks.start(2)
    ranks.join()
    rows = rows_of(ROWS, ranks.rank, ranks.size)
    found: dict[str, Any] = {}

    # What ranks tell one another.
    found["from_first"] = ranks.all(ranks.from_first(lambda: f"of {ranks.rank}"))
    found["spread"] = ranks.all(ranks.spread(lambda: ranks.rank))
    found["all"] = ranks.all(ranks.rank)
    found["total"] = ranks.total(np.array([1, ranks.rank]))
    found["agree"] = ranks.all(ranks.agree([float(ranks.rank + 7)]))
    to_first = ranks.to_first(ranks.rank)
    found["to_first"] = [to_first is None] if to_first is None else to_first

    # A step is that of the whole batch. Rank 0 takes the same alone.
    for synchronised in (True, False):
        name = "synchronised" if synchronised else "own"
        engine = engine_of(Model(), ranks, synchronised, ema_decay=0.9)
        before = engine.parameters()
        norms, losses = step(engine, Model().inputs(0, rows), 1.0)
        after = engine.parameters()
        gradients = {key: before[key] - after[key] for key in before}
        engine = engine_of(Model(), ranks, synchronised, ema_decay=0.9)
        for number in range(1, 6):
            step(engine, Model().inputs(number, rows), 0.01)
        with engine.averaged():
            averaged = engine.parameters()
        everywhere = ranks.all({**engine.parameters(), **{f"a{key}": v for key, v in averaged.items()}})
        found[f"{name}/alike"] = [
            all((other[key] == everywhere[0][key]).all() for key in other) for other in everywhere
        ]
        found |= {f"{name}/norms": norms, f"{name}/losses": losses}
        found |= {f"{name}/gradient/{key}": value for key, value in gradients.items()}
    if ranks.first:
        engine = engine_of(Model(), ALONE, False)
        before = engine.parameters()
        norms, losses = step(engine, Model().inputs(0), 1.0)
        after = engine.parameters()
        found |= {"alone/norms": norms, "alone/losses": losses}
        found |= {f"alone/gradient/{key}": before[key] - after[key] for key in before}
        # BatchNorm of each rank's rows: its running statistics are the mean of what alone they would become.
        parts = []
        for rank in range(ranks.size):
            share = rows_of(ROWS, rank, ranks.size)
            engine = engine_of(Model(), ALONE, False)
            step(engine, Model().inputs(0, share), 0.0)
            parts.append((len(share) / ROWS, engine.parameters()))
        for key in ("1.running_mean", "1.running_var"):
            found[f"mean/{key}"] = before[key] - sum(share * values[key] for share, values in parts)
        np.savez(out, **{key: np.asarray(value) for key, value in found.items()})
    ranks.finish()


if __name__ == "__main__":
    main(sys.argv[1])
