"""PyTorch's engine on a GPU: does it compute what MXNet does on the CPU, and how fast.

    python benchmarks/gpu.py FOLDER [--seconds 25] [--output FILE] [--cpu]

FOLDER holds what benchmarks/gpu_cases.py wrote on a machine with MXNet. Here PyTorch and NumPy are enough: neither
MXNet nor GluonCV is imported. For each case: losses, and norms of gradients, of the first images in float32 beside
those in float64 (or, where the case was written without PyTorch, MXNet's); then whole training steps (copies, forward,
backward, optimizer with limit, average) in each precision: images a second, share of the time that the GPU computes,
memory; and the quickest of them once more with cuDNN searching for its algorithms, which the engine does not ask for.
It takes at most eight minutes, and what fails is a line of the table. --cpu: the same on the CPU, to try the script.
Where the project's image libraries are installed, the loader's own rate stands beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np

MOST_SECONDS = 480.0
_SEARCHING = "cuDNN searching"
HEAD = (
    "| case | precision | batch | images/s | GPU computes | memory GB | losses off | gradients off |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- |"
)


def values_of(parameters: Mapping[str, Mapping[str, Any]], seed: int = 0) -> dict[str, np.ndarray]:
    """Parameters to begin with, by name: the same on every machine and with every NumPy.

    Weights are normally distributed for layers before a ReLU (He et al. 2015); what scales is 1, what shifts 0.
    """
    values = {}
    for number, (name, each) in enumerate(parameters.items()):
        shape = tuple(each["shape"])
        generator = np.random.Generator(np.random.PCG64([seed, number]))
        if len(shape) < 2:
            one = name.endswith(("gamma", "running_var"))
            values[name] = np.full(shape, 1.0 if one else 0.0, np.float32)
            continue
        uniform = generator.random((12, int(np.prod(shape))), np.float32)
        # The sum of twelve is normal enough, and leaves nothing to how a library draws from a normal distribution.
        normal = (uniform.sum(0) - 6.0).reshape(shape)
        values[name] = (normal * np.sqrt(2.0 / max(np.prod(shape[1:]), 1))).astype(np.float32)
        if each["begins_at_0"]:
            values[name][:] = 0.0
    return values


def read(path: Path) -> tuple[dict[str, Any], list[np.ndarray], list[np.ndarray], np.ndarray]:
    """A case: what is known of it, its arrays that are divided over devices and that are shared, MXNet's norms."""
    with np.load(path) as stored:
        document = json.loads(str(stored["document"]))
        split = [stored[name] for name in sorted_names(stored.files, "split")]
        shared = [stored[name] for name in sorted_names(stored.files, "shared")]
        return document, split, shared, stored["norms"]


def sorted_names(names: Sequence[str], beginning: str) -> list[str]:
    """Names that are `beginning` and a number, by that."""
    return sorted((n for n in names if n.startswith(beginning)), key=lambda n: int(n[len(beginning) :]))


def engine_of(
    document: Mapping[str, Any], values: Mapping[str, np.ndarray], device: Any, precision: str
) -> Any:
    """The engine as a job has it. values: of the parameters."""
    from common.engine.engine import OptimizerSettings
    from common.engine.limits import limit_for
    from common.engine.torch.engine import TorchEngine
    from common.engine.torch.program import Parameter, Program

    parameters = {
        name: Parameter(values[name], **{key: value for key, value in each.items() if key != "shape"})
        for name, each in document["parameters"].items()
    }
    program = Program(document["training"], document["inputs"], document["inference"], parameters)
    optimizer = document["optimizer"]
    return TorchEngine(
        program,
        device,
        OptimizerSettings(optimizer, momentum=document["momentum"], wd=document["wd"]),
        precision=precision,
        limit=limit_for(optimizer, document["share"]) if document["share"] else None,
        ema_decay=document["ema_decay"],
    )


def differences(
    engine: Any,
    document: Mapping[str, Any],
    split: Sequence[np.ndarray],
    shared: Sequence[np.ndarray],
    norms: np.ndarray,
) -> tuple[float, float]:
    """By how much losses, and the median of gradients' norms, differ from those of the case, as shares of these."""
    rows = document["rows"]
    engine.take([array[:rows] for array in split], shared)
    engine.forward()
    engine.backward()
    return off(engine.losses(), engine.norms(), np.array(document["losses"]), norms)


def off(
    losses: np.ndarray, norms: np.ndarray, true_losses: np.ndarray, true_norms: np.ndarray
) -> tuple[float, float]:
    """The largest share by which a loss is wrong, and the median of those of gradients' norms."""
    wrong = np.abs(norms - true_norms) / (true_norms + 1e-6 * true_norms.max())
    return float((np.abs(losses - true_losses) / np.abs(true_losses).max()).max()), float(np.median(wrong))


class Training:
    """Steps as `common.training.estimator` takes them: a batch is on its way while the one before computes."""

    def __init__(self, engine: Any, document: Mapping[str, Any], split: Any, shared: Any) -> None:
        self.engine, self.rate = engine, document["learning_rate"]
        self.split, self.shared = split, shared
        self.under_way = False

    def step(self) -> None:
        """Begin a step, once the one before has ended."""
        self.engine.take(self.split, self.shared)
        self.finish()
        self.engine.forward()
        self.engine.backward()
        self.under_way = True

    def finish(self) -> None:
        """End the step that is under way."""
        if self.under_way:
            norms, losses = self.engine.norms(), self.engine.losses()
            if np.isfinite(norms).all() and np.isfinite(losses).all():
                self.engine.update(self.rate * 1e-3, norms)
            else:
                self.engine.skip()
        self.under_way = False


def measured(training: Training, seconds: float, device: Any) -> tuple[float, str, str]:
    """Images a second over so many seconds, the share of the time that the GPU computes, and the most memory in GB."""
    import torch

    on_gpu = device.type == "cuda"

    def wait() -> None:
        training.finish()
        if on_gpu:
            torch.cuda.synchronize(device)

    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    for _ in range(8 if on_gpu else 1):  # cuDNN looks for its algorithms, float16 for its scale
        training.step()
    wait()
    steps, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds or steps < 2:
        training.step()
        steps += 1
    wait()
    rate = steps * len(training.split[0]) / (time.perf_counter() - began)
    memory = f"{torch.cuda.max_memory_allocated(device) / 1e9:.1f}" if on_gpu else "–"
    return rate, _busy(training, wait) if on_gpu else "–", memory


def _busy(training: Training, wait: Callable[[], None]) -> str:
    """The share of the time of some steps in which the GPU computes or copies."""
    import torch

    try:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            began = time.perf_counter()
            for _ in range(5):
                training.step()
            wait()
            passed = time.perf_counter() - began
        kernels = sum(event.self_device_time_total for event in profile.key_averages())
    except Exception as error:  # a container may not be allowed to look
        return f"not seen ({type(error).__name__})"
    return f"{min(kernels / 1e6 / passed, 1.0):.0%}" if kernels else "not seen"


def loader_rate(workers: int, seconds: float) -> float | None:
    """Images a second of the loader for classification at 224 pixels; None where its libraries are not here."""
    try:
        from classification.transforms import CropTransform
        from common.data.samples import Sample
        from common.loading.loader import Loader
        from common.processes.pool import WorkerPool
    except (ImportError, AttributeError):
        return None
    folder = Path(__file__).resolve().parents[1] / "tests" / "data" / "blood_cells" / "detect_train"
    samples = [Sample(str(p), 640, 480, np.zeros(1, np.float32)) for p in sorted(folder.glob("*.jpg"))] * 20
    with WorkerPool(workers) as pool:
        shapes = lambda epoch, number: (224, 224)  # noqa: E731
        with Loader(samples, CropTransform(), pool, batch_size=128, shapes=shapes, training=True) as loader:
            list(zip(range(4), loader.epoch(0), strict=False))
            count, began = 0, time.perf_counter()
            for batch in loader.epoch(1):
                count += batch.count
                if time.perf_counter() - began > seconds:
                    break
            return count / (time.perf_counter() - began)


def release(device: Any) -> None:
    """Give back what an engine that is gone has had."""
    import gc

    import torch

    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _failed(error: Exception) -> str:
    """The cells of a measurement that failed."""
    line = " ".join(str(error).split())[:150].replace("|", "/")
    return f"failed: {type(error).__name__}: {line} | | | | |"


def main(argv: Sequence[str] | None = None) -> None:
    """Measure every case in the folder and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=25.0, help="of a measurement")
    parser.add_argument("--output", type=Path, help="where the table is written, beside being printed")
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--batch", type=int, help="images of a batch, at most those of the case")
    parser.add_argument("--precisions", nargs="*", default=["float32", "bfloat16", "float16"])
    options = parser.parse_args(argv)
    import torch

    began = time.perf_counter()
    if not options.cpu and not torch.cuda.is_available():
        raise SystemExit("PyTorch sees no GPU here; --cpu tries the script without one")
    device = torch.device("cpu") if options.cpu else torch.device("cuda", 0)
    name = platform.processor() or "CPU" if options.cpu else torch.cuda.get_device_name(device)
    lines = [f"{name}; PyTorch {torch.__version__}, Python {platform.python_version()}", "", HEAD]
    print("\n".join(lines), flush=True)

    def tell(line: str) -> None:
        lines.append(line)
        print(line, flush=True)
        if options.output:  # whatever becomes of the rest
            options.output.write_text("\n".join(lines) + "\n")

    paths = sorted(options.folder.glob("*.npz"))
    if not paths:
        raise SystemExit(f"{options.folder}: no case; benchmarks/gpu_cases.py writes them")
    for path in paths:
        document, split, shared, norms = read(path)
        values = values_of(document["parameters"])
        rows = min(options.batch or len(split[0]), len(split[0]))
        given = [array[:rows] for array in split]
        wrong = ["–", "–"]
        try:
            engine = engine_of(document, values, device, "float32")
            wrong = [f"{each:.1e}" for each in differences(engine, document, split, shared, norms)]
            del engine
        except Exception as error:
            tell(f"| {path.stem} | float32 beside {document['truth']['of']} | {_failed(error)} |")
        quickest = (0.0, "")
        for precision in (*options.precisions, _SEARCHING):
            title = precision
            if precision == _SEARCHING:
                if device.type != "cuda" or not quickest[0]:
                    continue
                precision, title = quickest[1], f"{quickest[1]}, {_SEARCHING}"
            release(device)
            torch.backends.cudnn.benchmark = title != precision
            left = MOST_SECONDS - (time.perf_counter() - began)
            if left < 30:
                tell(f"| {path.stem} | {title} | not measured: the time is up | | | | | |")
                continue
            try:
                # No name here holds the engine: another one follows.
                rate, busy, memory = measured(
                    Training(engine_of(document, values, device, precision), document, given, shared),
                    min(options.seconds, left / 5),
                    device,
                )
            except Exception as error:  # whatever becomes of the rest
                tell(f"| {path.stem} | {title} | {_failed(error)} |")
                continue
            quickest = max(quickest, (rate, precision))
            tell(f"| {path.stem} | {title} | {rows} | {rate:.1f} | {busy} | {memory} | {' | '.join(wrong)} |")
        truth = document["truth"]
        tell(
            f"| {path.stem} | MXNet in float32 on the CPU, beside {truth['of']} | {document['rows']} | | | | "
            f"{truth['losses']:.1e} | {truth['gradients']:.1e} |"
        )
        release(device)
    cores = len(os.sched_getaffinity(0))
    loaded = loader_rate(cores, min(options.seconds, 10))
    tell("")
    tell(
        f"The loader alone, classification at 224 px, {cores} workers: "
        + ("its image libraries are not installed here" if loaded is None else f"{loaded:.0f} images/s")
    )


if __name__ == "__main__":
    main()
