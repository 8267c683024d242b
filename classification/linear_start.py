"""Where the last layer of a pretrained classifier begins: at a regression on what its other layers see.

A last layer that begins at random sends gradients through the pretrained layers that say nothing yet, and these forget
before it has learnt ("Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution", Kumar et al.
2022: linear probing, then fine-tuning).
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from common.data.samples import Sample
from common.engine.parameters import set_value
from common.loading.loader import Loader, Shape
from common.networks.base_networks import Network
from common.predictor import Compute, EvaluationTransform
from common.processes.pool import WorkerPool
from common.ranks.ranks import Ranks

log = logging.getLogger("visualtl")

#: Images that are looked at: at most so many, or so many a class where that is more. It takes a third of the time that
#: they take in an epoch.
MOST, MOST_OF_A_CLASS = 2048, 10

# Images of a batch, and of those after which it is known how long the others take.
_BATCH, _FIRST = 32, 64

# Penalties that are tried, each a share of the mean square of the singular values of standardised features; and by what
# the regression's values may be multiplied to be logits.
_PENALTIES = 10.0 ** np.arange(-3.0, 3.1, 0.5)
_SCALES = (1.0, 2.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0)
# Standard deviation that a feature is taken to have at the least, as a share of that of all (root mean square).
_LEAST_SPREAD = 0.1


@dataclass(frozen=True)
class Regression:
    """A layer from D features to logits of the classes: weight (classes, D) and bias (classes,), float32.

    accuracy: share of the images that it was made from that are told right when each in turn is left out; the mean over
    the classes.
    """

    weight: np.ndarray
    bias: np.ndarray
    accuracy: float


def regression(features: np.ndarray, labels: np.ndarray, classes: int) -> Regression:
    """From features (N, D) to logits of the labels (N,).

    Ridge regression on the classes' indicators ("Regularized least-squares classification", Rifkin et al. 2003), whose
    values, multiplied, are the logits. Penalty and multiplier are those with the least cross entropy of images that are
    left out one at a time, which has a closed form (Golub, Heath & Wahba 1979, 2). A class without an image has weights
    of 0.
    """
    count = len(labels)
    centre, spread = features.mean(0, dtype=np.float64), features.std(0, dtype=np.float64)
    # One that is nearly constant here would have a weight that wrecks predictions once training moves it.
    spread = spread.clip(max(_LEAST_SPREAD * math.sqrt(np.mean(spread**2)), 1e-12))
    left, singular, right = _decomposed((features - centre) / spread)
    indicators = np.eye(classes)[labels]
    shares = indicators.mean(0)
    wanted = indicators - shares
    parts = left.T @ wanted
    best, scale, accuracy = np.inf, 1.0, 0.0
    weight = np.zeros((classes, features.shape[1]))
    for penalty in _PENALTIES * count:
        factors = singular**2 / (singular**2 + penalty)
        own = (left**2) @ factors + 1.0 / count  # share of an image in its own value
        residues = (wanted - (left * factors) @ parts) / (1.0 - own).clip(1e-6)[:, None]
        for multiplier in _SCALES:
            entropy = _cross_entropy(multiplier * (indicators - residues), labels)
            if entropy < best:
                best, scale = entropy, multiplier
                told = (indicators - residues).argmax(1) == labels
                accuracy = float(np.mean([told[labels == label].mean() for label in np.unique(labels)]))
                weight = multiplier * ((factors / singular)[:, None] * parts).T @ right
    weight = weight / spread
    bias = scale * shares - weight @ centre
    return Regression(weight.astype(np.float32), bias.astype(np.float32), accuracy)


def look(
    network: Network,
    samples: Sequence[Sample],
    transform: EvaluationTransform,
    shape: Shape,
    compute: Compute,
    pool: WorkerPool,
    ranks: Ranks,
    alive: Callable[[], None] = lambda: None,
    seconds: float = math.inf,
) -> Regression:
    """The regression on what all layers but the last see in images of the training set.

    samples: the set; annotations begin with the class. transform: as they are validated, to inputs of `shape` (width,
    height). compute: the other layers, to features (B, D). ranks: share the images. alive: called behind each batch.
    seconds: in which as many are looked at as there is time for.
    """
    began = time.monotonic()
    classes = network.output.weight.shape[0]
    # In an order of its own, so that few are of all classes.
    order = np.random.default_rng(0).permutation(len(samples))[: max(MOST, MOST_OF_A_CLASS * classes)]

    def features_of(part: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        return _features([samples[index] for index in part], transform, shape, compute, pool, ranks, alive)

    pieces = features_of(order[:_FIRST])
    if math.isfinite(seconds):
        (each,) = ranks.agree([(time.monotonic() - began) / _FIRST])
        order = order[: max(int(seconds / each), _FIRST)]
    if len(order) > _FIRST:
        pieces += [(indices + _FIRST, features) for indices, features in features_of(order[_FIRST:])]

    def solve() -> tuple[int, Regression]:
        indices = np.concatenate([indices for indices, _ in pieces])
        labels = np.array([int(samples[order[index]].annotation[0]) for index in indices])
        features = np.concatenate([features for _, features in pieces])
        return len(labels), regression(features, labels, classes)

    count, found = ranks.from_first(solve)
    log.info(
        "A regression on what the pretrained layers see in %d training images is right for %.0f%% of those of a class, "
        "each left out of it in turn (%.1f s)",
        count,
        100.0 * found.accuracy,
        time.monotonic() - began,
    )
    return found


def begin_at(network: Network, start: Regression) -> None:
    """Give the last layer of a network the weights of a regression."""
    set_value(network.output.weight, start.weight)
    set_value(network.output.bias, start.bias)


def _features(
    samples: Sequence[Sample],
    transform: EvaluationTransform,
    shape: Shape,
    compute: Compute,
    pool: WorkerPool,
    ranks: Ranks,
    alive: Callable[[], None],
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Indices (N,) of the samples that can be read, and their features (N, D), in pieces; of several ranks the first
    has them all. Raises DataError where no sample can be read."""
    pieces = {}
    with Loader(
        samples,
        transform,
        pool,
        batch_size=min(_BATCH, len(samples)),
        shapes=lambda epoch, batch: shape,
        ranks=ranks,
    ) as loader:
        for batch in loader.epoch(0):
            read = batch.indices >= 0
            pieces[batch.number] = batch.indices[read], compute(batch.arrays["image"])[0][read]
            alive()
    every = {number: piece for part in ranks.to_first(pieces) or () for number, piece in part.items()}
    return [every[number] for number in sorted(every)]


def _decomposed(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The singular value decomposition of a matrix (N, D), without values that are 0 but for rounding.

    By the products of its rows or its columns, whichever are fewer: that takes a tenth of the time that the usual way
    takes, and what it loses lies far below every penalty.
    """
    wide = matrix.shape[0] < matrix.shape[1]
    squares, vectors = np.linalg.eigh(matrix @ matrix.T if wide else matrix.T @ matrix)
    kept = squares > 1e-10 * max(squares[-1], 1e-300)
    singular, vectors = np.sqrt(squares[kept]), vectors[:, kept]
    if wide:
        return vectors, singular, (vectors.T @ matrix) / singular[:, None]
    return (matrix @ vectors) / singular, singular, vectors.T


def _cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    shifted = logits - logits.max(1, keepdims=True)
    return float((np.log(np.exp(shifted).sum(1)) - shifted[np.arange(len(labels)), labels]).mean())
