"""Compiled graphs: a network with what stands before and behind it, as one operator graph."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import mxnet as mx
from mxnet import autograd, gluon

from common.engine.batch_statistics import Normalisation
from common.engine.lowering import lower
from common.engine.mxnet_internals import finish_initialisation, forget_graph
from common.engine.symbol import WHOLE_BATCH

# ImageNet's mean and standard deviation of red, green and blue in [0, 1], as GluonCV's networks expect.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

_BATCH_NORMS = ("BatchNorm", "_contrib_SyncBatchNorm")
_OF_ANY_BATCH_NORM = ("eps", "momentum", "fix_gamma", "use_global_stats")


def whole_batch(F: Any, x: Any) -> Any:
    """The rows of the whole batch, where several ranks have some of them each; else `x` (B, ...), which has them all.

    For losses that compare images of a batch. In a graph it is a copy that is marked.
    """
    with mx.AttrScope(**{WHOLE_BATCH: "True"}):
        return F.identity(x)


class Normalise(gluon.HybridBlock):
    """uint8 images (B, H, W, 3) in RGB to normalised float32 (B, 3, H, W): the first operation on the device."""

    def __init__(self, mean: Sequence[float] = MEAN, std: Sequence[float] = STD) -> None:
        super().__init__(prefix="")
        self._mean, self._std = tuple(mean), tuple(std)

    def hybrid_forward(self, F: Any, images: Any) -> Any:
        return F.image.normalize(F.image.to_tensor(images), mean=self._mean, std=self._std)


def inference_graph(block: gluon.HybridBlock) -> Callable[[Any], Any]:
    """Compile `block` from uint8 images to its outputs, in float32, for use before, between and after training steps of
    any precision.

    On the CPU an inference in float32 brings weights into an order of memory that a graph of mixed precision cannot
    read. So it runs as in training, which leaves them as they are, with BatchNorms that keep to their running
    statistics and without dropout.
    """
    output, variables = trace(block, ["images"])
    document = json.loads(output.tojson())
    for node in document["nodes"]:
        if node["op"] in _BATCH_NORMS:
            node["attrs"]["use_global_stats"] = "True"
        elif node["op"] == "Dropout":
            node["attrs"]["p"] = "0"
    symbol = mx.sym.load_json(json.dumps(document))
    graph = gluon.SymbolBlock(symbol, variables, params=block.collect_params())
    graph.hybridize(static_alloc=True, static_shape=True)

    def run(images: Any) -> Any:
        with autograd.train_mode():
            return graph(images)

    return run


def trace(
    block: gluon.HybridBlock,
    inputs: Sequence[str],
    precision: str = "float32",
    device: str = "",
    sharing: int = 1,
) -> tuple[Any, list[Any]]:
    """The operator graph of `block`, and its inputs.

    inputs: names of the arrays in the order in which the block takes them; "images" is uint8, the others are float32.
    precision, device: as for `common.engine.lowering.lower`. sharing: so many devices compute the graph at once, and in
    training BatchNorm goes by the rows of all.
    """
    variables = [mx.sym.var(name, dtype="uint8" if name == "images" else "float32") for name in inputs]
    output = block(*variables)
    if isinstance(output, (list, tuple)):
        output = mx.sym.Group(list(output))
    if sharing > 1:
        output = _synchronised(output, sharing)
    names = [variable.name for variable in variables]
    return lower(output, precision, device, names, dict(block.collect_params().items())), variables


def _synchronised(symbol: Any, devices: int) -> Any:
    """The graph with BatchNorms that have their statistics in common with those of other devices, but for those that
    keep to their running ones."""
    document = json.loads(symbol.tojson())
    for node in document["nodes"]:
        if node["op"] == "BatchNorm" and not _is_true(node, "use_global_stats"):
            kept = {name: value for name, value in node["attrs"].items() if name in _OF_ANY_BATCH_NORM}
            node["op"] = "_contrib_SyncBatchNorm"
            node["attrs"] = {**kept, "ndev": str(devices), "key": node["name"]}
    return mx.sym.load_json(json.dumps(document))


def statistics_graph(
    block: gluon.HybridBlock, precision: str, device: str
) -> tuple[gluon.SymbolBlock | None, list[Normalisation]]:
    """Compile `statistics_symbol`."""
    symbol, layers = statistics_symbol(block, precision, device)
    if symbol is None:
        return None, []
    graph = gluon.SymbolBlock(symbol, [mx.sym.var("images", dtype="uint8")], params=block.collect_params())
    # It runs once an epoch: its memory is for others in between.
    graph.hybridize()
    return graph, layers


def statistics_symbol(
    block: gluon.HybridBlock, precision: str, device: str
) -> tuple[Any, list[Normalisation]]:
    """The graph from uint8 images to what reaches the BatchNorms of `block`, and which these are; None, if none.

    For each of them it gives two arrays (C,), when it runs as in training: the mean of every channel, and one over the
    square root of its variance plus epsilon. Those that keep to their running statistics in training are left out.
    """
    output, _ = trace(block, ["images"], precision, device)
    # MXNet would leave mixed precision out of what it writes.
    document = json.loads(output.tojson(remove_amp_cast=False))
    nodes = document["nodes"]
    normalisations: dict[str, Normalisation] = {}  # by name of the parameter of the mean
    for node in nodes:
        if node["op"] not in _BATCH_NORMS or _is_true(node, "use_global_stats"):
            continue
        mean, variance = (nodes[entry[0]]["name"] for entry in node["inputs"][3:5])
        if mean in normalisations:  # the network runs a second time in `block`, with mirrored images
            continue
        # What the devices have in common is what each of them has, up to chance.
        node["op"], node["name"] = "BatchNorm", f"measured{len(normalisations)}"
        node["attrs"] = {k: v for k, v in node["attrs"].items() if k not in ("ndev", "key")}
        node["attrs"]["output_mean_var"] = "True"
        node["attrs"]["momentum"] = "1"  # on GPUs running statistics would move with every look at them
        normalisations[mean] = Normalisation(mean, variance, float(node["attrs"].get("eps", 1e-3)))
    if not normalisations:
        return None, []
    every = mx.sym.load_json(json.dumps(document)).get_internals()
    outputs = [every[f"measured{i}_{part}"] for i in range(len(normalisations)) for part in ("mean", "var")]
    return mx.sym.Group(outputs), list(normalisations.values())


def _is_true(node: Mapping[str, Any], attribute: str) -> bool:
    return str(node["attrs"].get(attribute, False)) in ("True", "1")


def infer_shapes(network: gluon.HybridBlock, shape: Sequence[int] = (1, 3, 64, 64)) -> None:
    """Let every parameter have the shape that it needs for normalised images of `shape` (B, 3, H, W)."""
    network.infer_shape(mx.nd.zeros(shape))
    forget_graph(network)  # layers may still be put in the place of others


def settle(network: gluon.HybridBlock, shape: Sequence[int] = (1, 3, 64, 64)) -> None:
    """Give every initialised parameter its shape and values, by shape inference alone.

    Running an image through would do it too, but on the CPU an inference in float32 brings weights into an order of
    memory that a graph of mixed precision cannot read.
    """
    infer_shapes(network, shape)
    for parameter in network.collect_params().values():
        finish_initialisation(parameter)


def allocate(
    network: gluon.HybridBlock, contexts: Sequence[Any], shape: Sequence[int] = (1, 3, 64, 64)
) -> None:
    """Give every parameter memory for values to come; until then it is 0, or where its layer lets it begin.

    shape: of normalised images (B, 3, H, W) that the network takes.
    """
    network.initialize(mx.init.Zero(), ctx=list(contexts))
    network.collect_params().reset_ctx(list(contexts))
    settle(network, shape)


def export_symbol(network: gluon.HybridBlock) -> Any:
    """The operator graph of `network` for inference on input `data`, in float32."""
    output = network(mx.sym.var("data"))
    return mx.sym.Group(list(output)) if isinstance(output, (list, tuple)) else output


class Inference(gluon.HybridBlock):
    """uint8 images (B, H, W, 3) to the outputs of `network`, whose input is normalised."""

    def __init__(self, network: gluon.HybridBlock) -> None:
        super().__init__(prefix="")
        self.network = network
        self.normalise = Normalise()

    def hybrid_forward(self, F: Any, images: Any) -> Any:
        return self.network(self.normalise(images))
