"""Batches with the targets that workers make of their boxes; for tests."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from common.data.samples import Sample
from common.loading.loader import Batch
from common.task import Inputs, Model
from common.training.estimator import Estimator


def with_targets(model: Model, batch: Batch) -> Batch:
    """A batch of images and boxes as the loader of a training has it."""
    boxes = batch.arrays["boxes"]
    annotations = [np.column_stack([rows[:, 4], rows[:, :4]]) for rows in boxes]
    targets = model.targets([Sample("x.jpg", *batch.shape, annotation) for annotation in annotations])
    assert targets is not None
    given = {name: (array.shape[1:], array.dtype.str) for name, array in batch.arrays.items()}
    arrays = dict(batch.arrays)
    for name, (shape, dtype) in targets.layout(batch.shape, given).items():
        # Whatever an earlier batch left in the memory must not show.
        arrays[name] = np.full((len(boxes), *shape), 77, dtype)
    for row in range(len(boxes)):
        targets(batch.shape, {name: array[row] for name, array in arrays.items()})
    return replace(batch, arrays=arrays)


def inputs_of(model: Model, batch: Batch) -> Inputs:
    """What the training block takes of a batch of images and boxes."""
    return model.training_inputs(with_targets(model, batch))


def train_step(estimator: Estimator, batch: Batch, learning_rate: float) -> np.ndarray | None:
    """A step with a batch of images and boxes."""
    return estimator.step(with_targets(estimator.model, batch), learning_rate)
