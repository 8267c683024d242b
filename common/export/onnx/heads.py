"""What the files of a task give, from the symbol of its model: the outputs by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx

from common.engine.symbol import Attributes, Symbol, UnsupportedError
from common.export.onnx.graph import BATCH, OPSET, PLAIN_OPSET, Graph, Tensor
from common.export.onnx.suppression import gather_rows, sorted_detections, suppress, top
from common.export.onnx.translate import Translation

#: Names of the outputs.
DETECTIONS = ("ids", "scores", "boxes")
RAW = ("boxes", "scores")


@dataclass(frozen=True)
class Source:
    """A model to be written: its symbol and parameters, the input's width and height, the number of classes."""

    symbol: Symbol
    parameters: Mapping[str, np.ndarray]
    width: int
    height: int
    classes: int

    def begin(self, opset: int, outputs: Sequence[str]) -> tuple[Graph, Translation]:
        """A graph with the input `data` (batch, 3, height, width), and the symbol on it."""
        graph = Graph(opset, outputs)
        data = graph.input("data", [BATCH, 3, self.height, self.width])
        return graph, Translation(graph, self.symbol, self.parameters, data, self.classes)


@dataclass(frozen=True)
class Suppression:
    """What makes detections of raw boxes and scores.

    Of the `candidates` best scores above `score`, all classes together, those stay that no better box of the same class
    overlaps by an IoU of more than `overlap` (1: all stay), and `detections` of them at most.
    """

    overlap: float
    score: float
    candidates: int
    detections: int


@dataclass(frozen=True)
class Written:
    """A graph that is complete, and its outputs by name. suppression: of one that gives raw boxes."""

    graph: Graph
    outputs: Mapping[str, Tensor]
    suppression: Suppression | None = None

    def model(self, metadata: Mapping[str, str], version: str) -> onnx.ModelProto:
        """As an ONNX model."""
        return self.graph.model(self.outputs, metadata, version)


def classifier(source: Source, opset: int = PLAIN_OPSET) -> Written:
    """`probabilities` (batch, classes)."""
    graph, symbol = source.begin(opset, ["probabilities"])
    (logits,) = symbol.tensors(source.symbol.heads)
    return Written(graph, {"probabilities": graph.add("Softmax", [logits], logits.shape, axis=1)})


def embedding(source: Source, opset: int = PLAIN_OPSET) -> Written:
    """`embedding` (batch, numbers), of length 1."""
    graph, symbol = source.begin(opset, ["embedding"])
    return Written(graph, {"embedding": symbol.tensors(source.symbol.heads)[0]})


def landmarks(source: Source, opset: int = PLAIN_OPSET) -> Written:
    """`points` (batch, points, 2): x and y as shares of the image's width and height."""
    graph, symbol = source.begin(opset, ["points"])
    return Written(graph, {"points": symbol.tensors(source.symbol.heads)[0]})


def yolov3(source: Source, opset: int = OPSET) -> Written:
    """`ids`, `scores` (batch, 100, 1) and `boxes` (batch, 100, 4), as box_nms of the symbol leaves them."""
    graph, symbol = source.begin(opset, DETECTIONS)
    boxes, scores = _yolov3_raw(source, symbol)
    settings = _suppression(source.symbol)
    batch, places, classes = scores.shape
    candidates = min(settings.candidates, places * classes)
    # The best of all places and classes at once, of which each class then has its own.
    flat = graph.reshape(graph.transpose(scores, [0, 2, 1]), [batch, classes * places])
    best, order = top(graph, flat, candidates)
    ids = graph.cast(graph.binary("Div", order, places), np.float32)
    chosen = gather_rows(graph, boxes, graph.binary("Mod", order, places))
    best = suppress(
        graph,
        ids,
        best,
        chosen,
        classes=classes,
        overlap=settings.overlap,
        least_score=settings.score,
    )
    rows = sorted_detections(graph, ids, best, chosen, min(settings.detections, candidates))
    return Written(graph, _columns(graph, rows, settings.detections))


def yolov3_raw(source: Source, opset: int = PLAIN_OPSET) -> Written:
    """`boxes` (batch, places, 4) in pixels of the input, and `scores` (batch, places, classes)."""
    graph, symbol = source.begin(opset, RAW)
    outputs = dict(zip(RAW, _yolov3_raw(source, symbol), strict=True))
    return Written(graph, outputs, _suppression(source.symbol))


def _suppression(symbol: Symbol) -> Suppression:
    """The box_nms that a symbol ends with."""
    rows = symbol.first_input(symbol.heads[0][0], "slice_axis")
    settings = symbol.first_input(rows, "slice_axis")
    if symbol.nodes[settings].op != "_contrib_box_nms":
        raise UnsupportedError(f"{symbol.nodes[settings].name}: no box_nms where one is expected")
    attributes = Attributes(symbol.nodes[settings].attributes)
    return Suppression(
        float(attributes.get("overlap_thresh", 0.5)),
        float(attributes.get("valid_thresh", 0.0)),
        attributes.whole("topk", -1),
        Attributes(symbol.nodes[rows].attributes).whole("end", 0),
    )


def _yolov3_raw(source: Source, translation: Translation) -> tuple[Tensor, Tensor]:
    """Boxes and scores of all places, coarsest scale first, then row, column and anchor.

    The symbol has a row for every class of every place (box_nms wants it so): here a box stands once.
    """
    symbol, graph = source.symbol, translation.graph
    rows = symbol.first_input(symbol.heads[0][0], "slice_axis", "slice_axis", "_contrib_box_nms")
    if symbol.nodes[rows].op != "Concat":
        raise UnsupportedError(
            f"{symbol.nodes[rows].name} is {symbol.nodes[rows].op} where Concat is expected"
        )
    boxes, scores = [], []
    for scale, _ in symbol.nodes[rows].inputs:
        _, by_class, tiled = (
            source for source, _ in symbol.nodes[symbol.first_input(scale, "Reshape", "transpose")].inputs
        )
        box = translation.tensor(symbol.first_input(tiled, "tile", "expand_dims"))
        score = translation.tensor(symbol.first_input(by_class, "expand_dims", "transpose"))
        boxes.append(graph.reshape(box, [BATCH, box.shape[1] * box.shape[2], 4]))
        scores.append(graph.reshape(score, [BATCH, score.shape[1] * score.shape[2], score.shape[3]]))
    return graph.concat(boxes, 1), graph.concat(scores, 1)


def detections(source: Source, opset: int = OPSET) -> Written:
    """`ids`, `scores` (batch, rows, 1) and `boxes` (batch, rows, 4): what the symbol gives."""
    graph, symbol = source.begin(opset, DETECTIONS)
    return Written(graph, dict(zip(DETECTIONS, symbol.tensors(source.symbol.heads), strict=True)))


def center_net_raw(source: Source, opset: int = OPSET) -> Written:
    """`boxes` (batch, places, 4) in pixels of the input, and `scores` (batch, places, classes), 0 where a neighbour's
    is higher: the paper's replacement of non-maximum suppression."""
    graph, translation = source.begin(opset, RAW)
    symbol = source.symbol
    topk, gathered = _first_node(symbol, "topk"), _first_node(symbol, "gather_nd")
    peaks = translation.tensor(symbol.first_input(topk, "topk", "Concat", "Reshape"))
    maps = symbol.first_input(gathered, "gather_nd", "transpose", "Reshape")
    values = translation.tensor(maps)
    batch, classes, height, width = peaks.shape
    count = height * width
    scores = graph.transpose(graph.reshape(peaks, [batch, classes, count]), [0, 2, 1])
    rows = graph.transpose(graph.reshape(values, [batch, 4, count]), [0, 2, 1])
    sizes, offsets = graph.slice(rows, 2, 0, 2), graph.slice(rows, 2, 2, 4)
    cells = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).reshape(count, 2)
    scale = source.width / width
    if -(-source.width // 32) * 32 != source.width:
        scale = -(-source.width // 32) * 32 / width
    centres = graph.binary("Add", offsets, graph.constant(cells, np.float32))
    half = graph.binary("Mul", sizes, 0.5)
    corners = [graph.binary(op, centres, half) for op in ("Sub", "Add")]
    boxes = graph.binary("Mul", graph.concat(corners, 2), scale)
    return Written(graph, {"boxes": boxes, "scores": scores}, _behind_topk(symbol, topk))


def ssd_raw(source: Source, opset: int = PLAIN_OPSET) -> Written:
    """`boxes` (batch, places, 4) in pixels of the input, and `scores` (batch, places, classes)."""
    graph, translation = source.begin(opset, RAW)
    symbol = source.symbol
    topk, gathered = _first_node(symbol, "topk"), _first_node(symbol, "gather_nd")
    boxes = translation.tensor(symbol.first_input(gathered, "gather_nd"))
    scores = translation.tensor(symbol.first_input(topk, "topk", "Reshape"))
    return Written(graph, {"boxes": boxes, "scores": scores}, _behind_topk(symbol, topk))


def _first_node(symbol: Symbol, op: str) -> int:
    """The first node of an operator."""
    node = next((i for i, node in enumerate(symbol.nodes) if node.op == op), None)
    if node is None:
        raise UnsupportedError(f"a symbol without the {op} that its detections are chosen by")
    return node


def _behind_topk(symbol: Symbol, topk: int) -> Suppression:
    """What becomes of the candidates that a `topk` has chosen."""
    candidates = Attributes(symbol.nodes[topk].attributes).whole("k", 1)
    if any(node.op == "_contrib_box_nms" for node in symbol.nodes):
        return replace(_suppression(symbol), candidates=candidates)
    return Suppression(1.0, 0.0, candidates, candidates)


def _columns(graph: Graph, rows: Tensor, count: int) -> dict[str, Tensor]:
    """Rows (B, N, 6) as outputs of `count` rows, -1 where there are none."""
    batch, here, width = rows.shape
    if here < count:
        empty = graph.expand(graph.constant(-1, rows.dtype), [batch, count - here, width], rows)
        rows = graph.concat([rows, empty], 1)
    bounds = ((0, 1), (1, 2), (2, 6))
    return {name: graph.slice(rows, 2, *bound) for name, bound in zip(DETECTIONS, bounds, strict=True)}
