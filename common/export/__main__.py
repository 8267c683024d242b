"""`python3 -m common.export MODEL`: a finished model in other forms; see docs/use.md."""

from __future__ import annotations

from common.reporting.beginning import guard

if __name__ == "__main__":
    guard()  # what is imported below takes a while

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from common.commands import add_model, carry_out, command_parser, named_path
from common.data.samples import Sample
from common.engine.devices import processors
from common.errors import ConfigurationError, DataError, ModelError
from common.export.onnx.proof import missing
from common.export.outputs import RESULT
from common.files import replacing, spelled_out, write_json
from common.images.decoding import ImageError, printable, probe
from common.labelled_set import read_labelled_set
from common.language import said
from common.predictor import Predictor, whole
from common.processes.pool import WorkerPool
from common.trained import MODEL_CARD, Card, open_compute, open_predictor, read_card

# Points of the metric that a quantised model may lose.
_LOSS = 0.02
# Two points of pixels would say nothing.
_METRICS = {"-RMSE": "-NME"}
_BATCH = 8
_CALIBRATION = 128  # images
# Name of the metadata that says of a file made here what was made of it.
_FORM = "form"


def main(arguments: Sequence[str] | None = None) -> int:
    """Export as the command line says; the exit status."""
    return carry_out(export, _parser, arguments)


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "export",
        "Write a finished model in other forms, beside its files. --uint8, --half and --int8 go together and make one "
        "file of each ONNX file: NAME-int8-half-uint8.onnx.",
        "在模型文件旁写出其他形式的模型。--uint8、--half 和 --int8 可以合用，由每个 ONNX 文件得到一个文件："
        "NAME-int8-half-uint8.onnx。",
    )
    add_model(parser)
    parser.add_argument(
        "--onnx",
        action="store_true",
        help=said(
            "the ONNX files that a job writes, anew; held against MXNet on the images of the result files",
            "重新写出训练任务的 ONNX 文件，并用结果文件中的图像与 MXNet 对照",
        ),
    )
    parser.add_argument(
        "--deform",
        action="store_true",
        help=said(
            "with --onnx: deformable convolutions as DeformConv, of version 19 of ONNX's operators (default: "
            "elementary ones, which every runtime has)",
            "与 --onnx 合用：可变形卷积写成 ONNX 第 19 版的 DeformConv（默认用各种运行时都有的基本算子）",
        ),
    )
    parser.add_argument(
        "--uint8",
        nargs="?",
        const="nhwc",
        choices=("nhwc", "nchw"),
        help=said(
            "image bytes in, normalisation inside (default: nhwc)",
            "输入为图像字节，归一化在模型内部（默认 nhwc）",
        ),
    )
    parser.add_argument(
        "--half",
        action="store_true",
        help=said("weights in float16: half of the size", "权重用 float16，大小减半"),
    )
    parser.add_argument(
        "--int8",
        type=named_path,
        metavar="FOLDER",
        help=said(
            "8 bits inside, with ranges from this set's images; its annotations say what is lost",
            "内部用 8 位计算，数值范围取自该数据集的图像；由其标注得出精度损失",
        ),
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help=said(
            "keep an int8 file that loses more than two points", "即使指标损失超过两个百分点也保留 int8 文件"
        ),
    )
    return parser


def export(options: argparse.Namespace) -> None:
    """Write what was asked for. Raises JobError."""
    if not (options.onnx or options.uint8 or options.half or options.int8):
        raise ConfigurationError("nothing to do: --onnx, --uint8, --half or --int8 FOLDER is expected")
    if options.deform and not options.onnx:
        raise ConfigurationError("--deform: it is for --onnx")
    if lacking := missing():
        raise ConfigurationError(
            f"{' and '.join(lacking)} must be installed for it (pip install onnx onnxruntime)"
        )
    card = read_card(options.model)
    if options.onnx:
        _write_onnx(card, options.deform)
    if options.uint8 or options.half or options.int8:
        for path in _files(card):
            _write_variant(card, path, options)


def _write_onnx(card: Card, deform: bool) -> None:
    if card.onnx is not None:
        raise ConfigurationError(f"--onnx: {printable(str(card.onnx))} is an ONNX file already")
    if find_spec("mxnet") is None:
        raise ConfigurationError("--onnx: MXNet must be installed: each file is held against it")
    from common.engine.devices import contexts, load_mxnet
    from common.engine.inference import symbol_inference
    from common.export.onnx.files import MIRRORED, PLAIN, Images, deforms, export_onnx, graphs
    from common.export.onnx.graph import DEFORM_CONV_OPSET
    from common.export.onnx.proof import chosen

    if deform and not deforms(card):
        raise ConfigurationError(f"--deform: {card.name} has no deformable convolution")
    load_mxnet()
    reading = card.reading()
    predictors = {}
    for name in (PLAIN, MIRRORED):
        if file := graphs(card)[name]:
            compute = symbol_inference(card.folder / file, card.file("params"), contexts([]))
            predictors[name] = replace(open_predictor(card, compute, reading), region=whole)
    samples = chosen(_samples(card))
    with WorkerPool(processors()) as pool, predictors[PLAIN].loader(samples, pool, _BATCH) as loader:
        images = Images.of(loader, card.shape)
        opset = DEFORM_CONV_OPSET if deform else None
        paths, problems = export_onnx(card.folder, predictors, images, opset=opset)
    for path in paths:
        print(path)
    if problems:
        raise ModelError("; ".join(problems))


def _samples(card: Card) -> list[Sample]:
    """Images of the result files that are still there, whole. Raises DataError if none is."""
    samples: dict[str, Sample] = {}
    for name in ("valid", "test"):
        try:
            rows = json.loads((card.folder / RESULT.format(name)).read_text(encoding="utf-8"))["Result"]
            paths = [str(row["image"]) for row in rows]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        for path in paths:
            try:
                width, height = probe(path)[:2]
            except ImageError:
                continue
            samples[path] = Sample(path, width, height, np.array([-1], np.float32))
    if not samples:
        raise DataError(
            f"{printable(str(card.folder))}: no image of its result files is there, on which files could be proven"
        )
    return list(samples.values())


def _files(card: Card) -> list[Path]:
    """The ONNX files that variants are made of. Raises ModelError."""
    if card.onnx is not None:
        return [card.onnx]
    first = card.onnx_file()
    others = [card.folder / f"{card.name}{suffix}.onnx" for suffix in ("-raw", "-plain", "-plain-raw")]
    return [first, *(path for path in others if path.is_file())]


def _write_variant(card: Card, path: Path, options: argparse.Namespace) -> None:
    import onnx

    from common.export.onnx.variants import said_of, with_bytes, with_half_weights, with_whole_numbers

    model = onnx.load(str(path))
    form = next((entry.value for entry in model.metadata_props if entry.key == _FORM), None)
    if form:
        raise ModelError(
            f"{printable(str(path))} is of another form already, {form}; give it the file that a job wrote"
        )
    said: list[tuple[str, Any]] = []
    suffix = ""
    if options.int8:
        model, figures = _quantised(path, model, options, with_whole_numbers)
        said.append(("int8", figures))
        suffix += "-int8"
    if options.half:
        model, suffix = with_half_weights(model), f"{suffix}-half"
    if options.uint8:
        model, suffix = with_bytes(model, options.uint8), f"{suffix}-uint8"
    content = said_of(model, [*said, (_FORM, suffix.removeprefix("-"))]).SerializeToString()
    written = path.with_name(f"{path.stem}{suffix}.onnx")
    _must_load(content)
    with replacing(written) as file:
        file.write(content)
    print(written)
    if card.onnx is None:
        _note(card.folder, written.name, dict(said))


def _must_load(content: bytes) -> None:
    from common.engine.onnx_inference import OnnxInference

    inference = OnnxInference(content)
    width, height = inference.shape
    inference(np.zeros((1, height, width, 3), np.uint8))


def _note(folder: Path, name: str, figures: dict[str, Any]) -> None:
    """Let `model.json` list a further file, and what it is worth."""
    content = json.loads((folder / MODEL_CARD).read_text(encoding="utf-8"))
    content["files"] = list(dict.fromkeys([*content.get("files", []), name]))
    content.setdefault("onnx", {}).setdefault("files", {})[name] = figures
    write_json(folder / MODEL_CARD, content)


def _quantised(
    path: Path, model: Any, options: argparse.Namespace, quantise: Any
) -> tuple[Any, dict[str, Any]]:
    """The model in whole numbers, and its metric before and after. Raises ModelError where it would lose too much."""
    from common.engine.onnx_inference import OnnxInference, normalisation_table, normalise

    folder: Path = options.int8
    if not folder.is_dir():
        raise ConfigurationError(f"--int8: {printable(str(folder))} is not a folder")
    card = read_card(path)
    reading = card.reading()
    predictor = open_predictor(card, open_compute(card, "onnx", []), reading)
    with ExitStack() as stack:
        pool = stack.enter_context(WorkerPool(processors()))
        samples, _ = read_labelled_set(spelled_out(folder), card, reading, pool)
        table = normalisation_table(card.content["input"]["mean"], card.content["input"]["std"])
        step = max(len(samples) // _CALIBRATION, 1)
        with predictor.loader(samples[::step], pool, 1) as loader:
            inputs = [normalise(batch.arrays["image"][: batch.count], table) for batch in loader.epoch(0)]
        made = quantise(model, inputs)
        values = []
        for compute in (predictor.compute, OnnxInference(made.SerializeToString())):
            with replace(predictor, compute=compute).loader(
                samples, pool, min(_BATCH, len(samples))
            ) as loader:
                values.append(_value(replace(predictor, compute=compute), samples, loader, reading))
    metric = _METRICS.get(reading.evaluator.metric, reading.evaluator.metric)
    figures = {"metric": metric, "before": values[0], "after": values[1], "images": len(samples)}
    print(f"{path.name}: {metric} {values[0]:.4f}, in 8 bits {values[1]:.4f}")
    if not values[1] >= values[0] - _LOSS and not options.force:
        raise ModelError(
            f"{path.name}: in 8 bits {metric} falls from {values[0]:.4f} to {values[1]:.4f}, by more than two points; "
            "nothing is written (--force writes it all the same)"
        )
    return made, figures


def _value(predictor: Predictor, samples: Sequence[Sample], loader: Any, reading: Any) -> float:
    predictions = predictor.predict(loader)
    indices = sorted(predictions)
    evaluation = reading.evaluator.evaluate([samples[i] for i in indices], [predictions[i] for i in indices])
    if reading.evaluator.metric in _METRICS:
        return -float(evaluation.curves["NME"])
    return float(evaluation.value)


if __name__ == "__main__":
    sys.exit(main())
