"""Base networks of the model zoo as `features` (image -> embedding) and `output` (embedding -> numbers).

What differs from the zoo, so that every network serves every task, input size and number of outputs:

- The embedding is always a row of `embedding_dimension(name)` numbers, the output one Dense layer with bias.
- DenseNet pools over the whole map where the zoo pools over 7 x 7, and VGG averages its map to 7 x 7 before
  its first Dense layer, as torchvision does: both are the zoo's at 224 x 224, and take any size from 32 x 32.
- GroupNorm replaces every BatchNorm (the zoo forgets the inner layers of MobileNetV3).

Parameter names by structure (`features.4.0.body.0.weight`) are those of the zoo.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import gluoncv
import mxnet as mx
from gluoncv.model_zoo import get_model
from mxnet.gluon import nn

from common.config.network_names import (
    SMALLEST_SIZE,
    check_name,
    embedding_dimension,
    parameters_name,
    variant_problems,
)
from common.engine.graph import infer_shapes
from common.engine.initializers import HeNormal
from common.engine.mxnet_internals import (
    children,
    descendants,
    drop_nothing,
    named_parameters,
    operator_options,
)
from common.networks.start import Pretrained

__all__ = [
    "AveragePool",
    "GroupNorm",
    "Network",
    "base_features",
    "base_map",
    "base_network",
    "embedding_dimension",
    "exchange",
    "freeze",
    "goes_by_batch",
    "imagenet",
    "initialize",
    "keep_statistics",
    "parameters_name",
    "set_lr_multipliers",
    "set_no_weight_decay",
]

# Squeeze-and-excite in residual blocks: no parameters are published with it.
_ADDED_LAYER = re.compile(r"\.se\.\d+\.weight$")


class GroupNorm(nn.HybridBlock):
    """Group Normalization (https://arxiv.org/abs/1803.08494), scale and shift per channel as in the paper.

    MXNet's own layer has one scale per group. At most 32 groups, of at least 8 channels where the number of
    channels allows it, so that a group has something to be normalised by on a map of 1 x 1.
    """

    def __init__(
        self,
        channels: int,
        *,
        epsilon: float = 1e-5,
        center: bool = True,
        scale: bool = True,
        gamma_initializer: object = "ones",
        beta_initializer: object = "zeros",
    ) -> None:
        super().__init__()
        self.groups = group_count(channels)
        self._channels = channels
        self._epsilon = epsilon
        with self.name_scope():
            self.gamma = self.params.get(
                "gamma", shape=(channels,), init=gamma_initializer, grad_req="write" if scale else "null"
            )
            self.beta = self.params.get(
                "beta", shape=(channels,), init=beta_initializer, grad_req="write" if center else "null"
            )

    def hybrid_forward(self, F: Any, x: Any, gamma: Any, beta: Any) -> Any:
        grouped = F.reshape(x, shape=(0, -4, self.groups, -1, 0, 0))
        centred = F.broadcast_sub(grouped, F.mean(grouped, axis=(2, 3, 4), keepdims=True))
        variance = F.mean(F.square(centred), axis=(2, 3, 4), keepdims=True)
        normal = F.reshape_like(F.broadcast_mul(centred, F.rsqrt(variance + self._epsilon)), x)
        scaled = F.broadcast_mul(normal, F.reshape(gamma, shape=(1, -1, 1, 1)))
        return F.broadcast_add(scaled, F.reshape(beta, shape=(1, -1, 1, 1)))

    def __repr__(self) -> str:
        return f"GroupNorm({self._channels} channels, {self.groups} groups)"


def group_count(channels: int) -> int:
    """Groups for `channels` channels: the most up to 32 that have at least 8 channels each, or one."""
    return max(g for g in range(1, 33) if channels % g == 0 and (g == 1 or channels // g >= 8))


class ReLU6(nn.HybridBlock):
    """min(max(x, 0), 6), as GluonCV's layer of that name, in half of its time on the CPU.

    There MXNet clips with branches, which a processor cannot foresee where half of the numbers are below 0;
    once a ReLU has made them 0, it can.
    """

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        return F.clip(F.Activation(x, act_type="relu"), 0, 6)


class Network(nn.HybridBlock):
    """`features` and `output` of a base network; input (B, 3, H, W) normalised, result (B, outputs)."""

    def __init__(self, features: nn.HybridBlock, output: nn.HybridBlock) -> None:
        super().__init__()
        with self.name_scope():
            self.features = features
            self.output = output

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        return self.output(self.features(x))

    def training_parts(self, x: Any) -> tuple[Any, Any]:
        """The embedding (B, D) and the result (B, outputs)."""
        embedding = self.features(x)
        return embedding, self.output(embedding)


class AveragePool(nn.HybridBlock):
    """Average a map of any size to `size` x `size`."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self._size = size

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        return F.contrib.AdaptiveAvgPooling2D(x, output_size=self._size)


class _PoolTo7(nn.HybridSequential):
    """The last pooling of a VGG, and then the average over 7 x 7 places that its Dense layers expect."""

    def __init__(self, pool: nn.HybridBlock) -> None:
        super().__init__()
        self.add(pool, AveragePool(7))


def base_features(
    name: str,
    *,
    use_gn: bool = False,
    batch_norm: bool = False,
    use_se: bool = False,
    last_gamma: bool = False,
) -> nn.HybridSequential:
    """Layers from image (B, 3, H, W) to embedding (B, embedding_dimension(name)); shapes known, values not.

    use_gn: GroupNorm for BatchNorm. batch_norm: VGG with BatchNorm. use_se: squeeze-and-excite in residual
    blocks. last_gamma: each residual block begins as the identity (its last gamma is 0).
    Raises ValueError for an unknown network or a variant that the network does not have.
    """
    check_name(name)
    problems = variant_problems(
        name, use_gn=use_gn, batch_norm=batch_norm, use_se=use_se, last_gamma=last_gamma
    )
    if problems:
        raise ValueError("; ".join(f"{option}: {problem}" for option, problem in problems.items()))
    zoo_name = f"se_{name}" if use_se else f"{name}_bn" if batch_norm else name
    options = {"last_gamma": True} if last_gamma else {}
    features: nn.HybridSequential = get_model(zoo_name, classes=1, pretrained=False, **options).features
    if name.startswith("densenet"):
        _replace(features, nn.AvgPool2D, last=True, make=lambda _: nn.GlobalAvgPool2D())
    if name.startswith("vgg"):
        _replace(features, nn.MaxPool2D, last=True, make=_PoolTo7)
    features.add(nn.Flatten())
    infer_shapes(features, (1, 3, SMALLEST_SIZE, SMALLEST_SIZE))
    _replace_activations(features)
    if use_gn:
        _replace_normalisation(features)
    return features


def _replace(layers: nn.HybridSequential, kind: type, *, last: bool, make: Any) -> None:
    layer_of = children(layers)
    names = [name for name, layer in layer_of.items() if type(layer) is kind]
    for name in names[-1:] if last else names:
        layer_of[name] = make(layer_of[name])


def _replace_activations(block: nn.HybridBlock) -> None:
    for key, child in list(children(block).items()):
        if isinstance(child, gluoncv.nn.ReLU6):
            exchange(block, key, ReLU6())
        else:
            _replace_activations(child)


def exchange(block: nn.HybridBlock, key: str, child: nn.HybridBlock) -> None:
    """Put `child` in the place of the layer `key` of a block."""
    if hasattr(block, key):  # a Block refuses to let an attribute change its type
        delattr(block, key)
        setattr(block, key, child)
    else:
        children(block)[key] = child


def _replace_normalisation(block: nn.HybridBlock) -> None:
    for key, child in list(children(block).items()):
        if not isinstance(child, nn.BatchNorm):
            _replace_normalisation(child)
            continue
        group_norm = GroupNorm(
            child.gamma.shape[0],
            epsilon=operator_options(child)["eps"],
            center=child.beta.grad_req != "null",
            scale=child.gamma.grad_req != "null",
            gamma_initializer=child.gamma.init,
            beta_initializer=child.beta.init,
        )
        exchange(block, key, group_norm)


def base_map(name: str, **variants: bool) -> nn.HybridSequential:
    """The layers of base_features up to their last map (B, C, H / 32, W / 32), rounded up (VGG: down).

    What stands behind its pooling (VGG's Dense layers, MobileNetV3's last convolution) is no part of this.
    """
    features = base_features(name, **variants)
    kinds = (nn.GlobalAvgPool2D, _PoolTo7)
    last = next(int(key) for key, layer in children(features).items() if isinstance(layer, kinds))
    return features[: last + 1 if name.startswith("vgg") else last]


def base_network(name: str, outputs: int, **variants: bool) -> Network:
    """The base network `name` with `outputs` numbers as its result; options and errors of base_features."""
    features = base_features(name, **variants)
    return Network(
        features,
        nn.Dense(outputs, in_units=embedding_dimension(name), weight_initializer=mx.init.Normal(0.01)),
    )


def initialize(network: nn.HybridBlock, contexts: Sequence[Any]) -> None:
    """Random parameters (He et al. 2015 where a layer does not say otherwise) on the devices `contexts`."""
    network.initialize(HeNormal("in"), ctx=list(contexts), force_reinit=True)


def imagenet(network: nn.HybridBlock, name: str, *, with_output: bool = False) -> Pretrained:
    """What of an initialised network begins at the parameter file `name` of the model zoo: its `features`.

    with_output: the output layer too (a teacher with the file's own classes); both must have as many outputs. No file
    has squeeze-and-excite layers, some have no bias at the end. GroupNorm's gamma and beta stay as they are: a
    BatchNorm's belong to other statistics.
    """
    parts = ("features", "output") if with_output else ("features",)
    unnormalised = _normalisation_names(network)
    wanted = {
        key: parameter
        for key, parameter in named_parameters(network).items()
        if key.split(".")[0] in parts and key not in unnormalised
    }
    optional = {key for key in wanted if _ADDED_LAYER.search(key) or key == "output.bias"}
    # The last layer of some is a convolution within a block.
    other_names = {f"output.{part}": f"output.0.{part}" for part in ("weight", "bias")} if with_output else {}
    return Pretrained(name, wanted, optional, other_names)


def _normalisation_names(network: nn.HybridBlock) -> set[str]:
    groups = [block for block in descendants(network) if isinstance(block, GroupNorm)]
    own = {id(parameter) for block in groups for parameter in (block.gamma, block.beta)}
    return {name for name, parameter in named_parameters(network).items() if id(parameter) in own}


def set_lr_multipliers(
    network: nn.HybridBlock, pretrained: Iterable[str], transfer: float, output: float
) -> None:
    """Learning rate multipliers: `transfer` for the parameters named in `pretrained`, `output` for all else.

    Without pretrained parameters nothing is transferred, and every multiplier is 1.
    """
    known = frozenset(pretrained)
    for name, parameter in named_parameters(network).items():
        parameter.lr_mult = 1.0 if not known else transfer if name in known else output


def set_no_weight_decay(network: nn.HybridBlock) -> None:
    """No weight decay on biases, gamma and beta."""
    for name, parameter in named_parameters(network).items():
        if name.rsplit(".", 1)[-1] in ("bias", "gamma", "beta"):
            parameter.wd_mult = 0.0


def freeze(network: nn.HybridBlock) -> None:
    """Make a network a constant even within a training graph: no gradients, dropout or new statistics."""
    for parameter in network.collect_params().values():
        parameter.grad_req = "null"
    keep_statistics(network)
    for block in descendants(network):
        if isinstance(block, nn.Dropout):
            drop_nothing(block)


def goes_by_batch(network: nn.HybridBlock) -> bool:
    """Whether a network has BatchNorms that do not keep to their running statistics in training."""
    norms = [block for block in descendants(network) if isinstance(block, nn.BatchNorm)]
    return any(not operator_options(norm)["use_global_stats"] for norm in norms)


def keep_statistics(network: nn.HybridBlock) -> None:
    """Let BatchNorms go by their running statistics in training too, and leave these as they are."""
    for block in descendants(network):
        if isinstance(block, nn.BatchNorm):
            operator_options(block)["use_global_stats"] = True
