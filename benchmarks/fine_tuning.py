"""What parts of the classifier's recipe give, in one process a training and on as many held-out images as there are.

    python benchmarks/fine_tuning.py FOLDER [--only trashnet64 ...] [--trials gentle not_gentle ...] [--seeds 0 1 2]
                                     [--images 20] [--epochs 20] [--size 96] [--out fine_tuning.tsv]

FOLDER holds trashnet and hymenoptera. Of each class the first `--images` training images are trained on, all others of
the training, validation and test sets, but 400 at most, are looked at: fewer images to learn from take less time, and
more to look at tell smaller differences. A row is added to `--out` for each training: accuracy of a regression on the
features that nothing was trained for, then after a quarter and after all epochs the accuracy of averages over the last
tenth and the last third of the training (`common.engine.averaging.AGE`). A training that has its row is not run again.

The keys are the guide's (adam at 0.035, `train.transfer_lr_mult` 0.01, no decay in so few epochs) but for batches of 32
and bfloat16. Of `TRIALS`, `gentle` is the recipe, with the second average, and `not_gentle` what it is with
`train.gentle_transfer` false, with the first one. Figures are in benchmarks/QUALITY.md.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.quality import MAKERS, images_of, prepared
from common.engine.devices import load_mxnet

SETS = tuple(name for name in ("trashnet", "hymenoptera", *MAKERS) if name.startswith(("trash", "hymen")))
AGES = (0.1, 1.0 / 3.0)
MOST_LOOKED_AT = 400
# start: whether the last layer begins at a regression. share: the limit on steps of what is pretrained. last: that of
# the last layer, where it is another; rises: between which steps it rises to 0.02. logits: by what the regression is
# multiplied. kept: whether BatchNorm keeps ImageNet's statistics; measured: whether its running statistics are measured
# on the training images first.
TRIALS: dict[str, dict[str, Any]] = {
    "gentle": {"start": True, "share": 0.002, "kept": True},
    "not_gentle": {"start": False, "share": 0.02, "kept": False},
    "not_kept": {"start": True, "share": 0.002, "kept": False},
    "usual_steps": {"start": True, "share": 0.02, "kept": True},
    "then_usual_steps": {"start": True, "share": 0.002, "kept": True, "rises": (20, 40)},
    "small_logits": {"start": True, "share": 0.002, "kept": True, "logits": 0.3},
    "slow_last_layer": {"start": True, "share": 0.02, "last": 0.002, "kept": False},
    "measured_statistics": {"start": True, "share": 0.02, "kept": False, "measured": True},
}


def folders(
    name: str, options: argparse.Namespace
) -> tuple[list[tuple[str, int]], list[tuple[str, int]], list[str]]:
    """Images to train on and to look at, each with its class, and the names of the classes."""
    folder = prepared(name, options.data, options.sets)
    classes = sorted(path.name for path in (folder / "train").iterdir())
    trained, others = [], []
    for number, label in enumerate(classes):
        paths = [str(folder / "train" / label / image) for image in images_of(folder / "train" / label)]
        trained += [(path, number) for path in paths[: options.images]]
        others += [(path, number) for path in paths[options.images :]]
        for part in ("valid", "test"):
            others += [
                (str(folder / part / label / image), number) for image in images_of(folder / part / label)
            ]
    chosen = np.random.default_rng(0).permutation(len(others))[:MOST_LOOKED_AT]
    return trained, [others[index] for index in sorted(chosen)], classes


def samples_of(images: Sequence[tuple[str, int]]) -> list[Any]:
    """Samples of images and their classes."""
    from common.data.samples import Sample
    from common.images.decoding import decode

    made = []
    for path, number in images:
        _, (width, height) = decode(path)
        made.append(Sample(path, width, height, np.array([number], np.float32)))
    return made


def train(name: str, trial: str, seed: int, options: argparse.Namespace) -> str:
    """One training, as a row."""
    import mxnet as mx

    from classification import task as classification
    from classification.config import ClassificationConfig
    from classification.linear_start import begin_at, look
    from common.config.reading import configuration
    from common.engine.average import MovingAverage
    from common.engine.block_statistics import BlockStatistics
    from common.engine.graph import Inference
    from common.engine.inference import DeviceInference
    from common.engine.limits import RateLimit, Weight
    from common.engine.mxnet_engine import MXNetEngine
    from common.engine.mxnet_internals import named_parameters
    from common.loading.loader import Loader
    from common.networks.base_networks import keep_statistics
    from common.predictor import EvaluationTransform, Predictor
    from common.processes.pool import WorkerPool
    from common.ranks.ranks import ALONE
    from common.training.estimator import Estimator

    began = time.process_time()
    changes = TRIALS[trial]
    trained, looked_at, classes = folders(name, options)
    given: dict[str, Any] = {"log_dir": "unused", "gpus": [], "dataset": {"data_root": str(options.data)}}
    given["model"] = {"base_network": "mobilenetv2_1.0"}
    given["train"] = {
        "input_width": options.size,
        "input_height": options.size,
        "batch_size": 32,
        "seed": seed,
        "dtype": options.dtype,
        "gentle_transfer": False,
    }
    task = classification.ClassificationTask(configuration(ClassificationConfig, given))
    train_samples, others = samples_of(trained), samples_of(looked_at)
    labels = np.array([int(sample.annotation[0]) for sample in others])
    mx.random.seed(seed)
    np.random.seed(seed)
    model = task.build(classes, [mx.cpu()], None)
    network = model.network
    transform = EvaluationTransform(task.resize, task.region())
    steps = [0]

    class Limit(RateLimit):
        """Steps of the last layer and of the others, which their multipliers tell apart, have each a limit."""

        def factor(self, weight: Weight, learning_rate: float) -> float:
            last = weight.lr_mult == task.config.train.output_lr_mult
            share = changes.get("last", changes["share"]) if last else changes["share"]
            if "rises" in changes:
                first, end = changes["rises"]
                share *= (0.02 / share) ** min(max((steps[0] - first) / (end - first), 0.0), 1.0)
            return RateLimit(share).factor(weight, learning_rate)

    class Averaged(MXNetEngine):
        """Keeps several averages."""

        def averaged_by(self, age: float) -> AbstractContextManager[None]:
            self._average, self._batch_statistics = averages[age], statistics[age]
            return self.averaged()

        def update(self, learning_rate: float, norms: np.ndarray) -> None:
            self._average, self._batch_statistics = averages[AGES[0]], statistics[AGES[0]]
            super().update(learning_rate, norms)
            for age in AGES[1:]:
                averages[age].update()
                statistics[age].remember(self._images)

    with WorkerPool(0) as pool:
        if changes.get("measured"):
            measure(network, train_samples, task, pool)
        parts = [network.output.weight, network.output.bias]
        random = [part.data().copy() for part in parts]
        compute = DeviceInference(Inference(network.features), [mx.cpu()])
        begin_at(network, look(network, train_samples, transform, task.shape, compute, pool, ALONE))
        if changes["kept"]:
            keep_statistics(network.features)
        recipe, blocks = task.recipe(on_gpu=False), model.blocks()
        engine = Averaged(
            blocks,
            [mx.cpu()],
            recipe.optimizer,
            precision=recipe.precision,
            limit=Limit(),
            ema_decay=task.config.train.ema_decay,
        )
        predictor = Predictor(task.resize, task.shape, engine.predict, task.decoder(model), task.region())
        view = predictor.loader(others, pool, 32)

        def accuracy() -> float:
            found = predictor.predict(view)
            return float(np.mean([found[index].argmax() == labels[index] for index in found]))

        frozen = accuracy()
        for part, value in zip(parts, random, strict=True):
            part.set_data(changes.get("logits", 1.0) * part.data() if changes["start"] else value)
        moving = {
            key: parameter
            for key, parameter in named_parameters(network).items()
            if parameter.grad_req != "null" or (not changes["kept"] and "running_" in key)
        }
        averages = {age: MovingAverage(moving, task.config.train.ema_decay, age=age) for age in AGES}
        statistics = {age: BlockStatistics(blocks.inference, mx.cpu(), recipe.precision) for age in AGES}
        estimator = Estimator(model, engine)
        found = []
        with Loader(
            train_samples,
            task.training_transform(train_samples),
            pool,
            batch_size=32,
            shapes=lambda epoch, batch: task.shape,
            seed=seed,
            training=True,
        ) as loader:
            for epoch in range(options.epochs):
                engine.begin_epoch(seed + epoch)
                for batch in loader.epoch(epoch):
                    steps[0] += 1
                    rate = task.config.train.lr * min(steps[0] / recipe.soft_steps, 1.0)
                    loss = estimator.step(batch, rate)
                if epoch + 1 in (max(options.epochs // 4, 1), options.epochs):
                    for age in AGES:
                        with engine.averaged_by(age):
                            found.append(accuracy())
        view.close()
    assert loss is not None
    figures = [f"{value:.3f}" for value in (frozen, *found, float(loss[0]))]
    return "\t".join([name, trial, str(seed), *figures, f"{time.process_time() - began:.0f}"])


def measure(network: Any, samples: Sequence[Any], task: Any, pool: Any) -> None:
    """Make what BatchNorms see of the samples, as they are validated, their running statistics."""
    import mxnet as mx

    from common.engine.block_statistics import BlockStatistics
    from common.engine.graph import Inference
    from common.loading.loader import Loader
    from common.predictor import EvaluationTransform

    statistics = BlockStatistics(Inference(network), mx.cpu())
    chosen = [samples[index] for index in np.random.default_rng(0).permutation(len(samples))]
    with Loader(
        chosen,
        EvaluationTransform(task.resize, task.region()),
        pool,
        batch_size=32,
        shapes=lambda epoch, batch: task.shape,
    ) as loader:
        pieces = [
            [output.astype(np.float64) for output in statistics.reach(batch.arrays["image"][: batch.count])]
            for batch in loader.epoch(0)
        ]
    for number, layer in enumerate(statistics.layers()):
        variances = np.array([piece[2 * number + 1] for piece in pieces]) ** -2.0
        statistics.write(layer.mean, np.mean([piece[2 * number] for piece in pieces], 0))
        statistics.write(layer.variance, (variances.mean(0) - layer.epsilon).clip(0.0))


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, metavar="FOLDER")
    parser.add_argument("--out", type=Path, default=Path("fine_tuning.tsv"))
    parser.add_argument("--sets", type=Path, default=Path("quality"), help="where the reduced sets are made")
    parser.add_argument("--only", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--trials", nargs="+", choices=TRIALS, default=list(TRIALS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    options.data, options.sets = options.data.resolve(), options.sets.resolve()
    load_mxnet(options.threads)
    known = set()
    if options.out.exists():
        known = {tuple(line.split("\t")[:3]) for line in options.out.read_text().splitlines()}
    for seed in options.seeds:
        for trial in options.trials:
            for name in options.only:
                if (name, trial, str(seed)) not in known:
                    row = train(name, trial, seed, options)
                    with options.out.open("a") as rows:
                        rows.write(row + "\n")
                    print(row, flush=True)


if __name__ == "__main__":
    main()
