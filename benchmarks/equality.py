"""Do both engines compute the same: losses, gradients and twenty steps of every kind of network, on real batches.

    python benchmarks/equality.py FOLDER [--only NAME ...] [--rate 0.5] [--out FILE]

FOLDER holds the open sets trashnet, orl and ytf68; detectors take the shipped one. The Python that runs this must have
MXNet and PyTorch (`make test-torch` makes such a one: .venv-torch); one thread, on the CPU. Of each network, with
batches as large as a job's or, of the slow ones, smaller:

- as a job begins with it, and once MXNet has trained it for 40 steps at the recipe's rate, the losses of one more batch
  and their gradient: by MXNet, by PyTorch, and for each of them by the same graph in float64;
- then, as when a job is resumed, both engines take the same 20 steps on the same batches from the same parameters and
  momenta, at --rate of the recipe's rate: how far apart parameters are afterwards, as a share of the way they went.
  Beside it, what MXNet itself makes of weights whose last bit is another one.

The gradient of a network with ReLUs is not continuous: where rounding puts one of a hundred thousand activations on the
other side of 0 (or of 6, for a ReLU6), it has another value, by about one part in the root of their number; so it has
where rounding makes another one the largest of those that are pooled. So float64 is told on which side each activation
is, and which are the largest, for the engine that is looked at, and how many are on another side for the other engine
stands beside it. The engines' gradients are compared twice: as they are, and with PyTorch told MXNet's sides. A
gradient's difference is the norm of it as a whole, as a share of that in float64.

Layers that drop at random drop nothing here: the engines draw different numbers; and deformable layers begin beside the
pixels, on which a sampling has kinks as well. Prints a table in Markdown, a row when it is there; --out keeps them, and
what is there is not computed again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np

from benchmarks.jobs import ROOT
from benchmarks.kinks import Sides, apart, by_torch, on_another_side, sides_by_mxnet
from common.config.reading import configuration
from common.data.listing import Listing
from common.data.samples import read_folder
from common.engine.devices import load_mxnet
from common.engine.engine import Engine
from common.loading.loader import Loader
from common.processes.pool import WorkerPool
from common.task import Inputs

BLOOD_CELLS = ("tests/data/blood_cells", "detect_train")
TRASH, FACES, POINTS = ("trashnet", "train"), ("orl", "train"), ("ytf68", "landmark_train")
HEAD = (
    "| network | batch | losses apart | gradient off float64: MXNet | PyTorch | gradients apart, the same sides "
    "| activations on another side | gradients apart, each its sides | parameters apart after the steps "
    "| of MXNet from weights one bit apart |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
)


@dataclass(frozen=True)
class Case:
    """A network to train. task: module and class. keys: of the configuration. data: folder of the set, and of it.
    rows: images of a batch. trained: steps of MXNet before the second look. steps: that are compared."""

    task: str
    keys: Mapping[str, Mapping[str, Any]]
    data: tuple[str, str]
    rows: int = 16
    trained: int = 40
    steps: int = 20


def detector(task: str, base: str, side: int, rows: int = 16, **train: Any) -> Case:
    """One without a published detector, on a backbone from the box where there is one."""
    model: dict[str, Any] = {"base_network": base, "use_pretrained": False, "data_shape": [side, side]}
    keys: dict[str, dict[str, Any]] = {"model": model, "train": train}
    return Case(task, keys, BLOOD_CELLS, rows)


def yolov3(base: str, side: int, rows: int = 16) -> Case:
    return detector("detect.yolov3.task:YOLOv3Task", base, side, rows, no_random_shape=True)


def center_net(base: str, side: int, rows: int = 8) -> Case:
    return detector("detect.center_net.task:CenterNetTask", base, side, rows, pretrained_base=False)


def ssd(base: str, side: int, rows: int = 16, boxed: bool = False) -> Case:
    return detector("detect.ssd.task:SSDTask", base, side, rows, pretrained_base=boxed)


def classifier(base: str, side: int, rows: int = 32, boxed: bool = False, **train: Any) -> Case:
    keys: dict[str, dict[str, Any]] = {
        "model": {"base_network": base, "use_pretrained": boxed},
        "train": {"input_width": side, "input_height": side, **train},
    }
    return Case("classification.task:ClassificationTask", keys, TRASH, rows)


def shorter(case: Case) -> Case:
    """The same in half the steps, of networks that take seconds for one."""
    return replace(case, trained=case.trained // 2, steps=case.steps // 2)


def crops(task: str, data: tuple[str, str], **dataset: Any) -> Case:
    keys: dict[str, dict[str, Any]] = {
        "model": {"base_network": "mobilenetv2_1.0"},
        "train": {"input_width": 96, "input_height": 96},
        "dataset": dataset,
    }
    return Case(task, keys, data, 32)


CASES: dict[str, Case] = {
    "classification mobilenetv2_1.0, 96 px, from the box": classifier("mobilenetv2_1.0", 96, boxed=True),
    "SSD mobilenetv2_1.0_lite, 160 px, from the box": ssd("mobilenetv2_1.0_lite", 160, boxed=True),
    "YOLOv3 mobilenet1.0, 160 px": yolov3("mobilenet1.0", 160, 8),
    "CenterNet resnet18_v1b, 128 px": center_net("resnet18_v1b", 128),
    "ReID mobilenetv2_1.0, 96 px, from the box": crops("reid.task:ReIDTask", FACES),
    "landmarks mobilenetv2_1.0, 96 px, from the box": crops(
        "landmark.task:LandmarkTask", POINTS, num_joints=68
    ),
    "classification mobilenetv2_1.0, 96 px, from the box, mixup": classifier(
        "mobilenetv2_1.0", 96, boxed=True, mixup=True, label_smoothing=True
    ),
    "classification resnet18_v1, 96 px": classifier("resnet18_v1", 96),
    "SSD mobilenet1.0, 160 px": ssd("mobilenet1.0", 160),
    "CenterNet resnet18_v1b_dcnv2, 128 px": center_net("resnet18_v1b_dcnv2", 128, 4),
    "classification mobilenet1.0, 96 px": classifier("mobilenet1.0", 96),
    "classification mobilenetv3_small, 96 px": classifier("mobilenetv3_small", 96),
    "classification resnet50_v1, 96 px": classifier("resnet50_v1", 96, 16),
    "classification resnet50_v2, 96 px": classifier("resnet50_v2", 96, 16),
    "SSD resnet18_v1, 160 px": ssd("resnet18_v1", 160),
    "SSD mobilenet1.0_fpn, 160 px": ssd("mobilenet1.0_fpn", 160, 4),
    "classification vgg11, 64 px, half the steps": shorter(classifier("vgg11", 64, 16)),
    "YOLOv3 darknet53, 128 px": yolov3("darknet53", 128, 4),
    "SSD vgg16_atrous, 128 px, half the steps": shorter(ssd("vgg16_atrous", 128, 4)),
    "classification densenet121, 224 px, half the steps": shorter(classifier("densenet121", 224, 4)),
}


class Comparison:
    """A case with both engines."""

    def __init__(self, case: Case, data: Path) -> None:
        import mxnet as mx
        from mxnet import gluon

        from common.engine.mxnet_internals import descendants, drop_nothing, named_parameters

        mx.random.seed(0)
        np.random.seed(0)
        kind = resolve_name(case.task)
        (base,) = (b for b in kind.__orig_bases__ if getattr(b, "__args__", None))
        root = ROOT / case.data[0] if case.data == BLOOD_CELLS else data / case.data[0]
        keys = {name: dict(section) for name, section in case.keys.items()}
        keys["dataset"] = {**keys.get("dataset", {}), "data_root": str(root), "train_dir": case.data[1]}
        keys["train"] |= {"batch_size": case.rows}
        self.task = kind(configuration(base.__args__[0], {"log_dir": "unused", "gpus": [], **keys}))
        self.recipe = self.task.recipe(on_gpu=False)
        listings = {"train": Listing(str(root / case.data[1]))}
        annotate = self.task.annotations(listings, self.task.names(listings))
        with WorkerPool(0) as pool:
            samples, _ = read_folder(root / case.data[1], annotate, pool, lambda share: None)
            classes = self.task.classes(listings, [samples])
            self.model = self.task.build(classes, [mx.cpu()], None)
            self.task.begin(self.model, samples)
            for layer in descendants(self.model.network):
                if isinstance(layer, gluon.nn.Dropout):
                    drop_nothing(layer)
            for name, parameter in named_parameters(self.model.network).items():
                if name.endswith("offset_bias"):
                    parameter.set_data(mx.nd.random.uniform(0.2, 0.4, parameter.shape))
            with Loader(
                samples,
                self.model.with_targets(self.task.training_transform(samples), samples),
                pool,
                batch_size=case.rows,
                shapes=lambda epoch, number: self.task.shape,
                training=True,
                order=self.recipe.order(samples) if self.recipe.order else None,
            ) as loader:
                self.batches: list[Inputs] = []
                for epoch in range(10**6):
                    for batch in loader.epoch(epoch):
                        given = self.model.training_inputs(batch)
                        copies = [[np.array(a) for a in part] for part in (given.split, given.shared)]
                        self.batches.append(Inputs(*copies))
                        if len(self.batches) > case.trained + case.steps:
                            return

    def engine(self, name: str) -> Engine:
        """One of them, from the parameters as they are."""
        import mxnet as mx

        from common.engine.opening import open_engine

        return open_engine(
            name,
            self.model.blocks(),
            [mx.cpu()],
            [],
            self.recipe.optimizer,
            precision="float32",
            limit=self.recipe.limit,
            compiled=True,
            ema_decay=0.0,
        )

    def train(self, engine: Engine, batches: Sequence[Inputs], rate: float) -> dict[str, np.ndarray]:
        """Take a step on each batch, at this share of the configuration's rate. Returns the weights."""
        for batch in batches:
            engine.take(batch.split, batch.shared)
            engine.forward()
            engine.backward()
            engine.update(self.task.config.train.lr * rate, engine.norms())
        return weights(engine)

    def gradients(self) -> Gradients:
        """Of the last batch."""
        import mxnet as mx

        from common.engine.mxnet_engine import MXNetEngine
        from common.engine.tracing import program

        blocks, batch = self.model.blocks(), self.batches[-1]
        traced = program(blocks)
        trained = [name for name, parameter in traced.parameters.items() if parameter.trained]
        their_sides = sides_by_mxnet(traced, blocks, batch)
        engine = MXNetEngine(blocks, [mx.cpu()], self.recipe.optimizer)
        engine.take(batch.split, batch.shared)
        engine.forward()
        engine.backward()
        losses = engine.losses()
        mx.nd.waitall()
        parameters = blocks.training.collect_params()
        mine = [parameters[name].grad().asnumpy().astype(np.float64) for name in trained]
        our_sides: Sides = {}
        losses_there, there = by_torch(traced, batch, our_sides, held=False)
        same_sides = by_torch(traced, batch, their_sides, held=True)[1]
        exact_mine = by_torch(traced, batch, their_sides, held=True, dtype="float64")[1]
        exact_there = by_torch(traced, batch, our_sides, held=True, dtype="float64")[1]
        return Gradients(
            float(np.abs(losses_there - losses).max() / np.abs(losses).max()),
            apart(mine, exact_mine, exact_mine),
            apart(there, exact_there, exact_there),
            apart(mine, same_sides, exact_mine),
            on_another_side(their_sides, our_sides),
            apart(mine, there, exact_mine),
        )


Ends = tuple[dict[str, np.ndarray], dict[str, np.ndarray]]
"""Weights by name, before and after."""


@dataclass(frozen=True)
class Gradients:
    """What is said of a batch: how far losses are apart, each engine's gradients off float64, both engines' apart with
    activations on the same sides (MXNet's) and as they are, and the share of activations that are on another side."""

    losses: float
    mxnet: float
    torch: float
    held: float
    others: float
    apart: float


def weights(engine: Engine) -> dict[str, np.ndarray]:
    """What an engine trains of the network and beside it."""
    values = {**engine.parameters(), **engine.companions()}
    return {name: value for name, value in values.items() if "running_" not in name}


def off_the_way(one: Ends, other: Ends) -> float:
    """How far apart two ends are, as a share of the way of the second."""
    before, after = other
    way = [after[name] - before[name] for name in before]
    return apart([one[1][name] for name in before], [after[name] for name in before], way)


def row(name: str, data: Path, rate: float) -> str:
    """A row of the table."""
    case = CASES[name]
    made = Comparison(case, data)
    begins = made.gradients()
    begun = made.engine("mxnet")
    made.train(begun, made.batches[: case.trained], 1.0)
    values, companions, state = begun.parameters(), begun.companions(), begun.optimizer_state()
    later = made.gradients()
    ends = {}
    for other in ("torch", "bits", "mxnet"):
        engine = made.engine("torch" if other == "torch" else "mxnet")
        engine.set_parameters(one_bit_apart(values) if other == "bits" else values)
        engine.set_companions(one_bit_apart(companions) if other == "bits" else companions)
        engine.restore_optimizer(state)
        before = weights(engine)
        ends[other] = before, made.train(engine, made.batches[case.trained : -1], rate)
    cells = [
        f"{getattr(begins, key):.0e}; {getattr(later, key):.0e}"
        for key in ("losses", "mxnet", "torch", "held", "others", "apart")
    ]
    cells += [f"{off_the_way(ends[other], ends['mxnet']):.1%}" for other in ("torch", "bits")]
    return f"| {name} | {case.rows} | {' | '.join(cells)} |"


def one_bit_apart(values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Each weight as the next larger or smaller number that there is, as chance has it; statistics as they are."""
    rng = np.random.default_rng(0)
    found = {}
    for name, value in values.items():
        towards = np.where(rng.random(value.shape) < 0.5, -np.inf, np.inf).astype(value.dtype)
        found[name] = value if "running_" in name else np.nextafter(value, towards)
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, metavar="FOLDER")
    parser.add_argument("--only", nargs="+", choices=list(CASES), default=list(CASES), metavar="NAME")
    parser.add_argument("--rate", type=float, default=0.5, help="of these, as a share of the recipe's")
    parser.add_argument("--out", type=Path, help="JSON file that keeps rows")
    options = parser.parse_args()
    load_mxnet(1)
    import torch

    torch.set_num_threads(1)
    kept: dict[str, str] = {}
    if options.out and options.out.exists():
        kept = json.loads(options.out.read_text())
    print(HEAD, flush=True)
    for name in options.only:
        if name not in kept:
            kept[name] = row(name, options.data, options.rate)
            if options.out:
                options.out.write_text(json.dumps(kept, indent=1))
        print(kept[name], flush=True)


if __name__ == "__main__":
    main()
