"""What parts of the classifier's recipe give, in one process a training and on as many held-out images as there are.

    python benchmarks/fine_tuning.py FOLDER [--only trashnet64 ...] [--trials as_it_is small_steps ...] [--seeds 0 1 2]
                                     [--images 20] [--epochs 20] [--size 96] [--out fine_tuning.tsv]

FOLDER holds trashnet and hymenoptera. Of each class the first `--images` training images are trained on, all others of
the training, validation and test sets, but 400 at most, are looked at: fewer images to learn from take less time, and
more to look at tell smaller differences. A row is added to `--out` for each training: accuracy of a regression on the
features that nothing was trained for, then after a quarter and after all epochs the accuracy of averages that reach
back over a ninth and over a half of the training. A training that has its row is not run again.

The keys are the guide's (adam at 0.035, `train.transfer_lr_mult` 0.01, no decay in so few epochs) but for batches of 32
and bfloat16. `TRIALS` says what they change of the recipe. Figures are in benchmarks/QUALITY.md.
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
RAMPS = (10.0, 3.0)
MOST_LOOKED_AT = 400
# start: whether the last layer begins at a regression. share: the limit on steps of what is pretrained. last: that of
# the last layer, where it is another. kept: whether BatchNorm keeps ImageNet's statistics.
TRIALS: dict[str, dict[str, Any]] = {
    "as_it_is": {"start": False, "share": 0.02, "kept": False},
    "regression": {"start": True, "share": 0.02, "kept": False},
    "small_steps": {"start": True, "share": 0.002, "kept": False},
    "smaller_steps": {"start": True, "share": 0.001, "kept": False},
    "kept": {"start": True, "share": 0.002, "kept": True},
    "small_steps_from_random": {"start": False, "share": 0.002, "last": 0.02, "kept": False},
    "small_steps_fast_last_layer": {"start": True, "share": 0.002, "last": 0.02, "kept": False},
}


# Penalties that are tried, each a share of the mean square of a feature's singular values; and by what logits may be
# multiplied.
_PENALTIES = 10.0 ** np.arange(-3.0, 3.1, 0.5)
_SCALES = (1.0, 2.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0)


def regression(features: np.ndarray, labels: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Weight (classes, D) and bias (classes,) of a layer from features (N, D) to logits of the labels (N,), float32.

    Ridge regression on the classes' indicators ("Regularized least-squares classification", Rifkin et al. 2003), whose
    values, multiplied, are the logits. Penalty and multiplier are those with the least cross entropy of images that are
    left out one at a time, which has a closed form (Golub, Heath & Wahba 1979, 2).
    """
    count = len(labels)
    centre, spread = features.mean(0, dtype=np.float64), features.std(0, dtype=np.float64) + 1e-6
    left, singular, right = np.linalg.svd((features - centre) / spread, full_matrices=False)
    kept = singular > 1e-6 * max(singular[0], 1e-300)
    left, singular, right = left[:, kept], singular[kept], right[kept]
    indicators = np.eye(classes)[labels]
    shares = indicators.mean(0)
    wanted = indicators - shares
    parts = left.T @ wanted
    best = np.inf
    weight = np.zeros((classes, features.shape[1]))
    scale = 1.0
    for penalty in _PENALTIES * count:
        factors = singular**2 / (singular**2 + penalty)
        seen = (left**2) @ factors + 1.0 / count  # of its own answer that an image decides
        residues = (wanted - (left * factors) @ parts) / (1.0 - seen).clip(1e-6)[:, None]
        values = indicators - residues
        for multiplier in _SCALES:
            entropy = _cross_entropy(multiplier * values, labels)
            if entropy < best:
                best, scale = entropy, multiplier
                weight = multiplier * ((factors / singular)[:, None] * parts).T @ right
    weight = weight / spread
    return weight.astype(np.float32), (scale * shares - weight @ centre).astype(np.float32)


def _cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    shifted = logits - logits.max(1, keepdims=True)
    return float((np.log(np.exp(shifted).sum(1)) - shifted[np.arange(len(labels)), labels]).mean())


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
    from mxnet.gluon import nn

    from classification import task as classification
    from classification.config import ClassificationConfig
    from common.config.sections import configuration
    from common.engine.average import MovingAverage
    from common.engine.block_statistics import BlockStatistics
    from common.engine.limits import RateLimit, Weight
    from common.engine.mxnet_engine import MXNetEngine
    from common.engine.mxnet_internals import named_parameters, operator_options
    from common.loading.loader import Loader
    from common.predictor import Predictor
    from common.processes.pool import WorkerPool
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
    }
    given["train"]["dtype"] = options.dtype
    task = classification.ClassificationTask(configuration(ClassificationConfig, given))
    train_samples, others = samples_of(trained), samples_of(looked_at)
    labels = np.array([int(sample.annotation[0]) for sample in others])
    mx.random.seed(seed)
    np.random.seed(seed)
    model = task.build(classes, [mx.cpu()], None)
    network = model.network

    def keep(yes: bool) -> None:
        for layer in _layers(network.features):
            if isinstance(layer, nn.BatchNorm):
                operator_options(layer)["use_global_stats"] = yes

    with WorkerPool(0) as pool:
        features, indices = features_of(train_samples, task, network, pool)
        own = np.array([int(sample.annotation[0]) for sample in train_samples])[indices]
        random = {part: getattr(network.output, part).data().asnumpy() for part in ("weight", "bias")}
        for part, value in zip(("weight", "bias"), regression(features, own, len(classes)), strict=True):
            getattr(network.output, part).set_data(mx.nd.array(value))
        keep(changes["kept"])
        recipe = task.recipe(on_gpu=False)

        class Limit(RateLimit):
            """Steps of the last layer and of the others, which their multipliers tell apart, have each a limit."""

            def factor(self, weight: Weight, learning_rate: float) -> float:
                last = weight.lr_mult == task.config.train.output_lr_mult
                share = changes.get("last", changes["share"]) if last else changes["share"]
                return RateLimit(share).factor(weight, learning_rate)

        class Average(MovingAverage):
            """After n updates it reaches back over n / (ramp - 1) of them."""

            def __init__(self, ramp: float) -> None:
                super().__init__(moving, 0.9998)
                self._ramp = ramp

            def update(self) -> None:
                done = self._updates
                self._updates += 1
                decay = (1.0 + done) / (self._ramp + done)
                for name, average in self._averages.items():
                    average += (1.0 - decay) * (self._value(name) - average)

        class Averaged(MXNetEngine):
            """Keeps several averages."""

            def averaged_by(self, ramp: float) -> AbstractContextManager[None]:
                self._average, self._batch_statistics = averages[ramp], statistics[ramp]
                return self.averaged()

            def update(self, learning_rate: float, norms: np.ndarray) -> None:
                self._average, self._batch_statistics = averages[RAMPS[0]], statistics[RAMPS[0]]
                super().update(learning_rate, norms)
                for ramp in RAMPS[1:]:
                    averages[ramp].update()
                    statistics[ramp].remember(self._images)

        blocks = model.blocks()
        engine = Averaged(
            blocks,
            [mx.cpu()],
            recipe.optimizer,
            precision=recipe.precision,
            limit=Limit(),
            ema_decay=0.9998,
        )
        predictor = Predictor(task.resize, task.shape, engine.predict, task.decoder(model), task.region())
        view = predictor.loader(others, pool, 32)

        def accuracy() -> float:
            found = predictor.predict(view)
            return float(np.mean([found[index].argmax() == labels[index] for index in found]))

        frozen = accuracy()
        if not changes["start"]:
            for part, value in random.items():
                getattr(network.output, part).set_data(mx.nd.array(value))
        moving = {
            key: parameter
            for key, parameter in named_parameters(network).items()
            if parameter.grad_req != "null" or (not changes["kept"] and "running_" in key)
        }
        averages = {ramp: Average(ramp) for ramp in RAMPS}
        statistics = {ramp: BlockStatistics(blocks.inference, mx.cpu(), recipe.precision) for ramp in RAMPS}
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
            done = 0
            for epoch in range(options.epochs):
                engine.begin_epoch(seed + epoch)
                for batch in loader.epoch(epoch):
                    done += 1
                    rate = task.config.train.lr * min(done / recipe.soft_steps, 1.0)
                    loss = estimator.step(batch, rate)
                if epoch + 1 in (max(options.epochs // 4, 1), options.epochs):
                    for ramp in RAMPS:
                        with engine.averaged_by(ramp):
                            found.append(accuracy())
        view.close()
    assert loss is not None
    figures = [f"{value:.3f}" for value in (frozen, *found, float(loss[0]))]
    return "\t".join([name, trial, str(seed), *figures, f"{time.process_time() - began:.0f}"])


def features_of(samples: Sequence[Any], task: Any, network: Any, pool: Any) -> tuple[np.ndarray, np.ndarray]:
    """Features (N, D) of the samples as they are validated, and their indices."""
    import mxnet as mx

    from common.engine.graph import Inference
    from common.engine.inference import DeviceInference
    from common.predictor import Predictor

    class Rows:
        """Outputs as they are."""

        def predictions(self, outputs: Sequence[np.ndarray], *_: Any) -> list[np.ndarray]:
            """The rows of the first output."""
            return list(outputs[0])

    compute = DeviceInference(Inference(network.features), [mx.cpu()])
    predictor = Predictor(task.resize, task.shape, compute, Rows(), task.region())  # type: ignore[arg-type]
    with predictor.loader(samples, pool, 32) as loader:
        found = predictor.predict(loader)
    return np.asarray(list(found.values())), np.asarray(list(found))


def _layers(block: Any) -> list[Any]:
    from common.engine.mxnet_internals import descendants

    return list(descendants(block))


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
