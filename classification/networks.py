"""The classifier: a base network with one output a class, and what is kept of it when the classes change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mxnet as mx
import numpy as np
from mxnet.gluon import nn

from common.networks import Network, base_network, initialize


def build_classifier(name: str, classes: int, contexts: Sequence[Any], **variants: bool) -> Network:
    """The base network `name` with random parameters: normalised images (B, 3, H, W) to logits (B, classes).

    variants and errors: see `common.networks.base_features`.
    """
    network = base_network(name, classes, **variants)
    initialize(network, contexts)
    return network


def transfer_classes(
    network: nn.HybridBlock, old_classes: Sequence[str], new_classes: Sequence[str]
) -> list[str]:
    """Give the last layer of a trained `network` one output for each of `new_classes`.

    What it knows of classes in both lists is kept, wherever they stand; new ones begin with weights as small
    as an untrained layer's and the mean of the known biases. Returns the names that were known.
    """
    old = network.output
    weight, bias = old.weight.data().asnumpy(), old.bias.data().asnumpy()
    row = {name: index for index, name in enumerate(old_classes)}
    known = [name for name in new_classes if name in row]
    with network.name_scope():
        output = nn.Dense(len(new_classes), in_units=weight.shape[1], weight_initializer=mx.init.Normal(0.01))
    output.initialize(ctx=old.weight.list_ctx())
    new_weight = output.weight.data().asnumpy()
    new_bias = np.full(
        len(new_classes), bias[[row[name] for name in known]].mean() if known else 0, np.float32
    )
    for index, name in enumerate(new_classes):
        if name in row:
            new_weight[index], new_bias[index] = weight[row[name]], bias[row[name]]
    output.weight.set_data(mx.nd.array(new_weight))
    output.bias.set_data(mx.nd.array(new_bias))
    network.output = output
    return known
