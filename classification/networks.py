"""The classifier: a base network with one output a class, and what is kept of it when the classes change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mxnet as mx
from mxnet.gluon import nn

from common.engine.initializers import begin_nearly_linear
from common.engine.mxnet_internals import value_of
from common.engine.parameters import set_value
from common.networks.base_networks import Network, base_network, initialize


def build_classifier(name: str, classes: int, contexts: Sequence[Any], **variants: bool) -> Network:
    """The base network `name` with random parameters: normalised images (B, 3, H, W) to logits (B, classes).

    variants and errors: see `common.networks.base_networks.base_features`.
    """
    network = base_network(name, classes, **variants)
    begin_nearly_linear(network)
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
    arrays = {"weight": value_of(old.weight)}
    if old.bias is not None:
        arrays["bias"] = value_of(old.bias)
    row = {name: index for index, name in enumerate(old_classes)}
    known = [name for name in new_classes if name in row]
    here, there = (
        [index for index, name in enumerate(new_classes) if name in row],
        [row[name] for name in known],
    )
    with network.name_scope():
        output = nn.Dense(
            len(new_classes),
            in_units=arrays["weight"].shape[1],
            use_bias=old.bias is not None,
            weight_initializer=mx.init.Normal(0.01),
        )
    output.initialize(ctx=old.weight.list_ctx())
    for part, values in arrays.items():
        parameter = getattr(output, part)
        fresh = value_of(parameter)
        if part == "bias" and known:
            fresh[:] = values[there].mean()
        fresh[here] = values[there]
        set_value(parameter, fresh)
    network.output = output
    return known
