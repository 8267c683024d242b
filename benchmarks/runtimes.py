"""Which network runs in which runtime, and how fast.

    python3 benchmarks/runtimes.py write FOLDER [--quick]    # ONNX files of all networks, with inputs and outputs
    python3 benchmarks/runtimes.py try FOLDER RUNTIME        # of RUNTIMES: agrees, differs, refuses

The second needs nothing but NumPy and the runtime, and can be run in an environment of its own.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

_RUNS = 5
# One of each kind of network.
_QUICK = (
    "resnet18_v1",
    "resnet18_v2",
    "mobilenet1.0",
    "mobilenetv2_1.0",
    "mobilenetv3_small",
    "densenet121",
    "vgg11",
    *(
        f"{name}{end}"
        for name in (
            *("yolo3_mobilenet1.0", "center_net_resnet18_v1b", "center_net_resnet18_v1b_dcnv2"),
            *("ssd_mobilenetv2_1.0_lite", "ssd_mobilenet1.0_fpn", "ssd_resnet18_v1"),
        )
        for end in ("", "-raw")
    ),
)


_SSD_NETWORKS = (
    *("mobilenetv2_1.0_lite", "mobilenet1.0", "mobilenet1.0_fpn"),
    *("resnet18_v1", "resnet50_v1", "vgg16_atrous"),
)
Run = Callable[[np.ndarray], Sequence[np.ndarray]]


def spread_yolov3(network: Any, size: int) -> None:
    """Make a random YOLOv3's outputs differ from place to place, as a trained one's do."""
    import mxnet as mx

    from detect.yolov3.network import head_layers

    noise = mx.nd.random.uniform(-2, 2.4, (1, 3, size, size))
    factor = 2 / float(network.predictions(mx.nd, noise).asnumpy()[..., :4].std())
    for layer in head_layers(network):
        layer.weight.set_data(layer.weight.data() * factor)
        layer.bias.set_data(layer.bias.data() * 0.3)


def spread_center_net(network: Any, size: int) -> None:
    """The same of a random CenterNet."""
    import mxnet as mx

    noise = mx.nd.random.uniform(-2, 2.4, (1, 3, size, size))
    for branch, values, mean in zip(network.heads, network.raw_maps(mx.nd, noise), (-2, 4, 0.5), strict=True):
        factor = mean / 4 / float(values.asnumpy().std())
        branch[-1].weight.set_data(branch[-1].weight.data() * factor)
        branch[-1].bias.set_data(branch[-1].bias.data() * 0 + mean - factor * float(values.mean().asscalar()))


def spread_ssd(network: Any, size: int) -> None:
    """The same of a random SSD."""
    import mxnet as mx

    from detect.ssd.network import last_layers

    noise = mx.nd.random.uniform(-2, 2.4, (1, 3, size, size))
    logits, offsets = network.predictions(mx.nd, noise)
    for heads_of, values, deviation in (
        (network.class_heads, logits, 1.5),
        (network.box_heads, offsets, 0.5),
    ):
        factor = deviation / float(values.asnumpy().std())
        for layer in last_layers(heads_of):
            layer.weight.set_data(layer.weight.data() * factor)


def models(quick: bool) -> Iterator[tuple[str, Any, tuple[int, int]]]:
    """Name, what is written of it, and width and height, of every network with random parameters; quick: of one of
    each kind."""
    import mxnet as mx

    from common.config.network_names import BASE_NETWORKS
    from common.engine.graph import export_symbol, settle
    from common.engine.symbol import read_symbol
    from common.export.onnx import heads
    from common.networks.base_networks import base_network, initialize
    from detect.center_net.network import BASE_NETWORKS as CENTER_NETS
    from detect.center_net.network import build_network as center_net
    from detect.center_net.network import initialise as begin_center_net
    from detect.ssd.anchors import levels
    from detect.ssd.network import build_network as ssd
    from detect.ssd.network import initialise as begin_ssd
    from detect.yolov3.network import BASE_NETWORKS as YOLO_NETWORKS
    from detect.yolov3.network import build_network as yolov3
    from detect.yolov3.network import initialise as begin_yolov3

    def source(network: Any, size: int, classes: int) -> Any:
        values = {
            name: value._reduce().asnumpy()
            for name, value in network.collect_params().items()
            if value._data is not None
        }
        return heads.Source(read_symbol(export_symbol(network).tojson()), values, size, size, classes)

    for name in BASE_NETWORKS:
        if quick and name not in _QUICK:
            continue
        network = base_network(name, 5)
        initialize(network, [mx.cpu()])
        yield name, heads.classifier(source(network, 224, 5)), (224, 224)
    for name in YOLO_NETWORKS:
        if quick and f"yolo3_{name}" not in _QUICK:
            continue
        network, _ = yolov3(name, ["a", "b"])
        begin_yolov3(network, [mx.cpu()])
        settle(network)
        spread_yolov3(network, 224)
        for head, suffix in ((heads.yolov3_raw, "-raw"), (heads.yolov3, "")):
            yield f"yolo3_{name}{suffix}", head(source(network, 224, 2)), (224, 224)
    for name in CENTER_NETS:
        if quick and f"center_net_{name}" not in _QUICK:
            continue
        network, _ = center_net(name, ["a", "b"])
        begin_center_net(network, [mx.cpu()])
        spread_center_net(network, 224)
        for head, suffix in ((heads.center_net_raw, "-raw"), (heads.detections, "")):
            yield f"center_net_{name}{suffix}", head(source(network, 224, 2)), (224, 224)
    for name in _SSD_NETWORKS:
        if quick and f"ssd_{name}" not in _QUICK:
            continue
        size = 320 if name.endswith("_fpn") else 300
        network, _ = ssd(name, ["a", "b"], levels(name, size, ""), (size, size))
        begin_ssd(network, [mx.cpu()], 0.01)
        spread_ssd(network, size)
        for head, suffix in ((heads.ssd_raw, "-raw"), (heads.detections, "")):
            yield f"ssd_{name}{suffix}", head(source(network, size, 2)), (size, size)


def write(folder: Path, quick: bool) -> None:
    """Write NAME.onnx and NAME.npz (input, outputs by onnxruntime) for every network."""
    import mxnet as mx
    import onnxruntime

    folder.mkdir(parents=True, exist_ok=True)
    mx.random.seed(0)
    rng = np.random.default_rng(0)
    for name, written, (width, height) in models(quick):
        path = folder / f"{name}.onnx"
        path.write_bytes(written.model({}, "").SerializeToString())
        data = rng.uniform(-2, 2.4, (1, 3, height, width)).astype(np.float32)
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        outputs = dict(zip(names, session.run(names, {"data": data}), strict=True))
        np.savez(folder / f"{name}.npz", data=data, **outputs)
        print(name, flush=True)


def by_onnxruntime(path: Path, names: Sequence[str], threads: int = 0) -> Run:
    """A file as onnxruntime computes it. threads: 0: as many as it likes, here and below."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda data: session.run(list(names), {"data": data})


def by_opencv(path: Path, names: Sequence[str], threads: int = 0) -> Run:
    """A file as OpenCV's DNN module computes it."""
    import cv2

    cv2.setNumThreads(threads or -1)
    network = cv2.dnn.readNetFromONNX(str(path))

    def run(data: np.ndarray) -> Sequence[np.ndarray]:
        network.setInput(data, "data")
        outputs: Sequence[np.ndarray] = network.forward(list(names))
        return outputs

    return run


def by_openvino(path: Path, names: Sequence[str], threads: int = 0) -> Run:
    """A file as OpenVINO computes it."""
    import openvino

    properties = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    compiled = openvino.Core().compile_model(str(path), "CPU", properties)
    return lambda data: [compiled({"data": data})[name] for name in names]


def by_ncnn(path: Path, names: Sequence[str], threads: int = 0) -> Run:
    """A file as ncnn computes it, after its converter (see docs/deploy.md), which is run for the first input."""
    import ncnn

    network = ncnn.Net()
    if threads:
        network.opt.num_threads = threads

    def load(shape: Sequence[int]) -> None:
        where = importlib.util.find_spec("pnnx")
        assert where is not None
        assert where.submodule_search_locations is not None
        with tempfile.TemporaryDirectory() as folder:
            model = Path(folder) / "model.onnx"
            shutil.copy(path, model)
            converter = Path(where.submodule_search_locations[0]) / "pnnx"
            size = f"inputshape={list(shape)}".replace(" ", "")
            subprocess.run([str(converter), str(model), size, "fp16=0"], capture_output=True, check=True)
            layers = model.with_suffix(".ncnn.param")
            text = re.sub(r"^Resize( .*)", r"Interp\1 0=1 1=2.0 2=2.0", layers.read_text(), flags=re.M)
            layers.write_text(text)
            if network.load_param(str(layers)) or network.load_model(str(layers.with_suffix(".bin"))):
                raise RuntimeError("ncnn cannot load what its converter wrote")

    def run(data: np.ndarray) -> Sequence[np.ndarray]:
        if not network.blobs():
            load(data.shape)
        image = np.ascontiguousarray(data[0])
        extractor = network.create_extractor()
        extractor.input("in0", ncnn.Mat(image).clone())
        return [np.array(extractor.extract(f"out{number}")[1])[None] for number in range(len(names))]

    return run


RUNTIMES = {"onnxruntime": by_onnxruntime, "opencv": by_opencv, "openvino": by_openvino, "ncnn": by_ncnn}


def attempt(folder: Path, runtime: str) -> dict[str, dict[str, Any]]:
    """What became of every file of `folder`: "agrees" (and milliseconds), "differs" (by how much), "refuses" (why)."""
    outcomes: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob("*.onnx")):
        with np.load(path.with_suffix(".npz")) as arrays:
            wanted = dict(arrays)
        data = wanted.pop("data")
        try:
            run = RUNTIMES[runtime](path, list(wanted))
            outputs = run(data)
            difference = max(
                float(np.abs(np.reshape(output, one.shape) - one).max() / max(np.abs(one).max(), 1e-6))
                for output, one in zip(outputs, wanted.values(), strict=True)
            )
            times = []
            for _ in range(_RUNS):
                began = time.perf_counter()
                run(data)
                times.append(time.perf_counter() - began)
        except Exception as error:  # each runtime has errors of its own
            outcomes[path.stem] = {"result": "refuses", "reason": " ".join(str(error).split())[:200]}
            continue
        result = "agrees" if difference < 1e-3 else "differs"
        outcomes[path.stem] = {
            "result": result,
            "difference": difference,
            "milliseconds": round(1000 * min(times), 1),
        }
    return outcomes


def main() -> int:
    """Do what the command line says; the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("write", "try"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("runtime", nargs="?", choices=tuple(RUNTIMES), default="onnxruntime")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    if options.what == "write":
        sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
        write(options.folder, options.quick)
    else:
        print(json.dumps(attempt(options.folder, options.runtime), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
