"""Lowering: a graph's operators in the precision that was asked for and in the form that a device computes fast."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import mxnet as mx
from mxnet.contrib import amp
from mxnet.contrib.amp.amp import bfloat16

Node = dict[str, Any]  # of a symbol's JSON: op, name, attrs, inputs
Entry = list[int]  # one of a node's inputs: index of a node, of its output, version
Write = Callable[..., list[Entry]]  # (op, name, inputs, **attributes) to the written node's output
# Writes what stands for a node, given its inputs; the last that is written takes its place.
Rule = Callable[[Write, Node, list[Entry]], None]

# oneDNN's convolutions keep so many channels of a place side by side.
_BLOCK = 16
# Beside any number of a map it does not count, and as a power of two it multiplies without rounding.
_NEXT_TO_NOTHING = 2.0**-64


def lower(
    symbol: Any, precision: str, device: str, data_names: Sequence[str], parameters: Mapping[str, Any]
) -> Any:
    """A graph that computes what `symbol`, in float32, does.

    precision: "float32", or "bfloat16" (on the CPU) or "float16" (on GPUs) for the operators that gain from it.
    device: "cpu" gives operators the form that suits it, any other leaves them as they are. data_names: of the inputs
    that are no parameters. parameters: the others by name; they stay float32.
    """
    on_cpu = device == "cpu"
    nodes: list[Node] = json.loads(symbol.tojson(remove_amp_cast=False))["nodes"]
    left = _unblocked(nodes, parameters) if on_cpu else []
    if on_cpu:
        rules = _clip_in_blocks(nodes, left, parameters)
        if precision == "float32":  # a cast brings gradients into any order
            rules |= _outputs_in_blocks(nodes, left, parameters)
        symbol = _rewritten(symbol, rules)
    if precision == "float32":
        return symbol
    return amp.convert_symbol(
        symbol,
        target_dtype=precision,
        data_names=list(data_names),
        cast_optional_params=False,
        # Convolutions whose maps lie unblocked leave the BatchNorm behind them twenty times as long in bfloat16;
        # deformable ones compute in float32 alone.
        excluded_sym_names=[
            *left,
            *(node["name"] for node in nodes if node["op"] == "_contrib_ModulatedDeformableConvolution"),
        ],
        # On the CPU MXNet clips bfloat16 number by number, which takes longer than a convolution.
        fp32_ops=[*amp.list_fp32_ops(bfloat16), "clip"] if on_cpu else None,
    )


def _unblocked(nodes: Sequence[Node], parameters: Mapping[str, Any]) -> list[str]:
    """Names of the convolutions whose channels do not fill oneDNN's blocks: the first, of RGB; MobileNetV2's of 24."""
    names = []
    for node in nodes:
        # None: computed in the graph.
        weight = parameters.get(nodes[node["inputs"][1][0]]["name"]) if node["op"] == "Convolution" else None
        if weight is not None:
            outputs, inputs = weight.shape[:2]
            if outputs % _BLOCK or (inputs * int(node["attrs"].get("num_group", 1))) % _BLOCK:
                names.append(node["name"])
    return names


def _rewritten(symbol: Any, rules: Mapping[int, Rule]) -> Any:
    """`symbol` with what the rules write in place of the nodes with these indices."""
    if not rules:
        return symbol
    document = json.loads(symbol.tojson(remove_amp_cast=False))
    written: list[Node] = []
    place: list[int] = []  # of every node in what is written

    def write(op: str, name: str, inputs: list[Entry], **attributes: object) -> list[Entry]:
        attrs = {key: str(value) for key, value in attributes.items()}
        written.append({"op": op, "name": name, "attrs": attrs, "inputs": inputs})
        return [[len(written) - 1, 0, 0]]

    for index, node in enumerate(document["nodes"]):
        inputs = [[place[source], output, version] for source, output, version in node["inputs"]]
        if index in rules:
            rules[index](write, node, inputs)
        else:
            written.append({**node, "inputs": inputs})
        place.append(len(written) - 1)
    document["nodes"] = written
    document["heads"] = [[place[source], output, version] for source, output, version in document["heads"]]
    document["arg_nodes"] = [index for index, node in enumerate(written) if node["op"] == "null"]
    return mx.sym.load_json(json.dumps(document))


def _clip_in_blocks(
    nodes: Sequence[Node], unblocked: Sequence[str], parameters: Mapping[str, Any]
) -> dict[int, Rule]:
    """ReLU6 by operators that oneDNN has, which take and leave a map as convolutions do: in blocks of channels.

    To be clipped by MXNet a map must be taken out of its blocks and put back, and in bfloat16 cast to float32 and back,
    on both ways. With r for the ReLU, min(r, 6) is r + min(6 - r, 0), and with a tiny e the latter is a LeakyReLU of
    slope 1 / e whose input, e * (6 - r), is next to nothing where it is positive. A convolution of each channel by
    itself computes that input.

    Where a convolution before or behind it is `unblocked`, clipping stays what it was.
    """

    def rule(channels: int) -> Rule:
        def relu6(write: Write, node: Node, relu: list[Entry]) -> None:
            name = node["name"]
            weight = write("_full", f"{name}_weight", [], shape=(channels, 1, 1, 1), value=-_NEXT_TO_NOTHING)
            bias = write("_full", f"{name}_bias", [], shape=(channels,), value=6 * _NEXT_TO_NOTHING)
            below = write(
                "Convolution",
                f"{name}_below",
                [*relu, *weight, *bias],
                kernel=(1, 1),
                num_filter=channels,
                num_group=channels,
            )
            beyond = write("LeakyReLU", f"{name}_beyond", below, act_type="leaky", slope=1 / _NEXT_TO_NOTHING)
            write("elemwise_add", name, [*relu, *beyond])

        return relu6

    return {
        index: rule(channels)
        for index, node in enumerate(nodes)
        if node["op"] == "clip" and (channels := _channels_of_relu6(nodes, index, unblocked, parameters))
    }


def _channels_of_relu6(
    nodes: Sequence[Node], index: int, unblocked: Sequence[str], parameters: Mapping[str, Any]
) -> int | None:
    """Channels of a clipping that is a ReLU6 behind a BatchNorm, between convolutions in blocks; None for others."""
    clip = nodes[index]
    before = [clip]
    for op in ("Activation", "BatchNorm", "Convolution"):
        before.append(_first_input(nodes, before[-1]))
        if before[-1]["op"] != op:
            return None
    _, activation, norm, convolution = before
    users = [node["name"] for node in _users(nodes, index)]
    if {convolution["name"], *users} & set(unblocked):
        return None
    limits = float(clip["attrs"]["a_min"]), float(clip["attrs"]["a_max"])
    if limits != (0.0, 6.0) or activation["attrs"]["act_type"] != "relu":
        return None
    return int(parameters[nodes[norm["inputs"][1][0]]["name"]].shape[0])


def _outputs_in_blocks(
    nodes: Sequence[Node], unblocked: Sequence[str], parameters: Mapping[str, Any]
) -> dict[int, Rule]:
    """A detector's last convolutions with as many outputs as fill blocks, of which the added ones are dropped.

    The gradient of their input comes in blocks of 8 otherwise, which the BatchNorm before them takes with a plain loop
    where its own map is in blocks of 16: about a hundred times as long.
    """

    def rule(shape: tuple[int, ...]) -> Rule:
        outputs, added = shape[0], -shape[0] % _BLOCK

        def padded(write: Write, node: Node, inputs: list[Entry]) -> None:
            name = node["name"]
            filled = [  # the weight, and the bias if there is one
                write(
                    "Concat",
                    f"{name}_filled{number}",
                    [entry, *write("_zeros", f"{name}_zeros{number}", [], shape=(added, *rest))],
                    num_args=2,
                    dim=0,
                )[0]
                for number, (entry, rest) in enumerate(zip(inputs[1:], (shape[1:], ()), strict=False))
            ]
            whole = write(
                "Convolution",
                f"{name}_whole",
                [inputs[0], *filled],
                **{**node["attrs"], "num_filter": outputs + added},
            )
            write("slice_axis", name, whole, axis=1, begin=0, end=outputs)

        return padded

    rules: dict[int, Rule] = {}
    for index, node in enumerate(nodes):
        if node["name"] in unblocked and node["attrs"].get("num_group", "1") == "1":
            shape = parameters[nodes[node["inputs"][1][0]]["name"]].shape
            before = _first_input(nodes, node)
            norm = _first_input(nodes, before) if before["op"] in ("LeakyReLU", "Activation") else before
            behind_norm = norm["op"] == "BatchNorm" and shape[1] % _BLOCK == 0
            if behind_norm and not any(user["op"] == "BatchNorm" for user in _users(nodes, index)):
                rules[index] = rule(shape)
    return rules


def _first_input(nodes: Sequence[Node], node: Node) -> Node:
    return nodes[node["inputs"][0][0]] if node["inputs"] else node


def _users(nodes: Sequence[Node], index: int) -> list[Node]:
    return [node for node in nodes if any(entry[0] == index for entry in node["inputs"])]
