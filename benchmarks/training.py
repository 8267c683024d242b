"""Images per second of training, and peak memory, beside GluonCV's loops and PyTorch.

    python benchmarks/training.py [--only yolov3:mobilenet1.0 ...] [--seconds 4] [--repeats 3]
    python benchmarks/training.py --data FOLDER --size 416 --batch 8 --only yolov3:darknet53

The time is that of whole steps (loading, augmentation, forward, backward, update, moving average) from the third on,
for `--seconds` and at least three of them. --cpu counts the CPU time of all processes of a side with one thread that
computes, which a busy machine hardly changes. Each side is a process of its own with the same images, input size, batch
size and number of workers; sides take turns, so that a busy machine slows all, and ratios are medians. GluonCV's sides
are the loops of its training scripts (`benchmarks/gluoncv_loops.py`): as they come, which is on half of the processors,
MXNet's default, with OMP_NUM_THREADS set for all of them, and with MXNet imported as a job here does it
(`common.engine.devices.load_mxnet`), whose threads meet awake. --sides: of a job, these alone. PyTorch's side is in
`benchmarks/torch_side.py`. FOLDER holds detect_train, or class folders; detectors take the shipped set, classification
images of 640x480 that are made here.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import table
from benchmarks.loader import class_folders
from common.engine.devices import bfloat16_supported, load_mxnet, use_all_cores

ROOT = table.ROOT
# GluonCV's sides beside the one as it comes.
ALL_PROCESSORS = "gluoncv on all processors"
OUR_THREADS = "gluoncv with our threads"
# Our sides that train SSD as jobs do whose backbone is ImageNet's (train.freeze_early).
EARLY = "freeze_early"
WARM_UP = 2
LEAST_STEPS = 3
BLOOD_CELLS = ROOT / "tests" / "data" / "blood_cells"
JOBS = (
    "yolov3:mobilenet1.0",
    "yolov3:darknet53",
    "ssd:mobilenet1.0",
    "ssd:vgg16_atrous",
    "center_net:resnet18_v1b",
    "center_net:resnet18_v1b_dcnv2",
    "classification:resnet18_v1",
    "classification:mobilenetv2_1.0",
)


def make_task(options: argparse.Namespace) -> tuple[Any, Path]:
    """The task that `options.job` names, and its training folder."""
    from common.config.reading import configuration

    kind, _, network = options.job.partition(":")
    size = options.size
    model: dict[str, Any] = {"base_network": network, "use_pretrained": False}
    data = {"data_root": str(options.data)}
    given: dict[str, Any] = {"log_dir": "unused", "gpus": [], "dataset": data, "model": model}
    if kind == "classification":
        from classification.config import ClassificationConfig
        from classification.task import ClassificationTask

        data["train_dir"] = "."
        given["train"] = {"input_width": size, "input_height": size, "optimizer": "sgd"}
        return ClassificationTask(configuration(ClassificationConfig, given)), options.data
    model["data_shape"] = [size, size]
    if kind == "yolov3":
        from detect.config import YOLOv3Config
        from detect.yolov3.task import YOLOv3Task

        given["train"] = {"no_random_shape": True}
        return YOLOv3Task(configuration(YOLOv3Config, given)), options.data / "detect_train"
    if kind == "ssd":
        from detect.config import SSDConfig
        from detect.ssd.task import SSDTask

        given["train"] = {"pretrained_base": False, "freeze_backbone": options.frozen}
        task = SSDTask(configuration(SSDConfig, given))
        return task, options.data / "detect_train"
    from detect.center_net.task import CenterNetTask
    from detect.config import CenterNetConfig

    given["train"] = {"pretrained_base": False}
    return CenterNetTask(configuration(CenterNetConfig, given)), options.data / "detect_train"


def ours(options: argparse.Namespace, after_step: Callable[[], bool]) -> None:
    """This project's training, set up as `common.job` does it, until `after_step` says that it is enough."""
    from common.processes.pool import WorkerPool

    pool = WorkerPool(options.workers)
    load_mxnet()
    import mxnet as mx

    from common.data.listing import Listing
    from common.data.samples import read_folder
    from common.engine.mxnet_engine import MXNetEngine
    from common.loading.loader import Loader
    from common.networks.base_networks import freeze
    from common.training.estimator import Estimator, Hook, TrainingState
    from detect.ssd.network import early_layers

    class Until(Hook):
        def after_step(self, state: TrainingState) -> None:
            if after_step():
                state.cut, state.stop_reason = True, "measured"

    options.frozen = options.side == "frozen"
    precision = "bfloat16" if "bfloat16" in options.side else "float32"
    task, folder = make_task(options)
    listings = {"train": Listing(str(folder))}
    annotate = task.annotations(listings, task.names(listings))
    samples, _ = read_folder(folder, annotate, pool, lambda share: None)
    model = task.build(task.classes(listings, [samples]), [mx.cpu()], None)
    if task.config.train.freeze_backbone:
        for layers in model.backbone:
            freeze(layers)
    if options.side.startswith(EARLY):  # as where the backbone is ImageNet's, which need not be there
        for layers in early_layers(model.network, options.job.partition(":")[2]):
            freeze(layers)
    recipe = task.recipe(on_gpu=False)
    engine = MXNetEngine(
        model.blocks(),
        [mx.cpu()],
        recipe.optimizer,
        precision=precision,
        limit=recipe.limit,
        compiled=recipe.compiled,
        ema_decay=task.config.train.ema_decay,
    )
    estimator = Estimator(model, engine)
    loader = Loader(
        samples,
        model.with_targets(task.training_transform(samples), samples),
        pool,
        batch_size=options.batch,
        shapes=recipe.shapes or (lambda epoch, number: task.shape),
        training=True,
        order=recipe.order(samples) if recipe.order else None,
    )
    state = TrainingState(epochs=10**6, steps=len(loader))
    estimator.fit(loader, lambda number: 1e-4, [Until()], state)


def growth(options: argparse.Namespace) -> None:
    """Memory of many small steps: in MB, by how much more it is at the end than after a tenth of them."""
    options.side = "float32"

    def memory() -> float:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    sizes: list[float] = []

    def after_step() -> bool:
        sizes.append(memory())
        return len(sizes) == options.steps

    ours(options, after_step)
    table.tell(growth=sizes[-1] - sizes[options.steps // 10 - 1])


def measure(options: argparse.Namespace) -> None:
    """Run one side and print its figures."""
    if options.side == "growth":
        growth(options)
        return
    clock = table.cpu_seconds if options.cpu else time.perf_counter
    times: list[float] = []

    def after_step() -> bool:
        times.append(clock())
        done = len(times) - WARM_UP
        return done >= LEAST_STEPS and times[-1] - times[WARM_UP - 1] >= options.seconds

    if options.side.startswith("gluoncv"):
        if options.side == ALL_PROCESSORS:
            use_all_cores()
        elif options.side == OUR_THREADS:
            load_mxnet()
        from benchmarks.gluoncv_loops import LOOPS

        kind, _, network = options.job.partition(":")
        for _ in LOOPS[kind](options, network):
            if after_step():
                break
    else:
        ours(options, after_step)
    seconds = times[-1] - times[WARM_UP - 1]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    table.tell(rate=(len(times) - WARM_UP) * options.batch / seconds, peak=peak)


def run(job: str, options: argparse.Namespace) -> list[table.Row]:
    """All sides of a job in turns."""
    kind, _, network = job.partition(":")
    classifies = kind == "classification"
    size = options.size or (224 if classifies else 300 if kind == "ssd" else 256)
    batch = options.batch or (32 if classifies else 8)
    sides = ["float32", *(["bfloat16"] if bfloat16_supported() else [])]
    if not network.endswith("dcnv2"):  # MXNet's operator has no backward pass on the CPU
        sides += ["gluoncv"] if options.cpu else ["gluoncv", ALL_PROCESSORS, OUR_THREADS]
    if classifies and table.peers_installed():
        sides += ["torch float32", *(["torch bfloat16"] if bfloat16_supported() else [])]
    if kind == "ssd":
        sides += [f"{EARLY} {precision}" for precision in sides[: sides.index("gluoncv")]]
    if job == "ssd:mobilenet1.0":
        sides += ["frozen"]
    if options.sides:
        sides = [side for side in sides if side in options.sides]
    measured: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    with tempfile.TemporaryDirectory() as made:
        data = options.data or BLOOD_CELLS
        if classifies and not options.data:
            class_folders(Path(made), 8 if options.quick else 256)
            data = Path(made) / "images"
        common: tuple[object, ...] = ("--data", data, "--size", size, "--batch", batch)
        common += ("--workers", options.workers, *(["--cpu"] if options.cpu else []))
        for _ in range(options.repeats):
            for side in sides:
                if side.startswith("torch"):
                    more = ("--network", network, "--precision", side.split()[1])
                    steps = 1 if options.quick else 4
                    figures = table.side(
                        "torch_side.py", "train", *common, *more, "--steps", steps, python=table.PEERS
                    )
                else:
                    figures = table.side(
                        "training.py", side, *common, "--job", job, "--seconds", options.seconds
                    )
                measured[side].append(figures)
    setting = f"{size} px, batch {batch}{', one thread' if options.cpu else ''}"
    return _rows(job, setting, "images/CPU s" if options.cpu else "images/s", measured, classifies)


def _rows(
    job: str, setting: str, unit: str, measured: dict[str, list[dict[str, float]]], classifies: bool
) -> list[table.Row]:
    def values(side: str, key: str = "rate") -> list[float]:
        return [figures[key] for figures in measured.get(side, [])]

    rows = []
    aims = {"ssd:mobilenet1.0": ("1.5x", "2x"), "ssd:vgg16_atrous": ("1x", "")}
    for precision, aim in zip(("float32", "bfloat16"), aims.get(job, ("1.3x", "2x")), strict=True):
        if not values(precision):
            continue
        what = f"training {job.replace(':', ' ')}, {setting}, {precision}, {unit}"
        peers = {
            "gluoncv": "GluonCV float32",
            ALL_PROCESSORS: "GluonCV float32, told to use all processors",
            OUR_THREADS: "GluonCV float32, its threads set up as here",
        }
        asked = ALL_PROCESSORS if values(ALL_PROCESSORS) and job in aims else "gluoncv"
        for side, peer in peers.items():
            if theirs := values(side):
                reach = aim if side == asked else ""
                rows.append(table.compare(what, values(precision), peer, theirs, reach=reach, rate=True))
        if values(asked) and (early := values(f"{EARLY} {precision}")):
            kept = f"{what}, train.freeze_early as where the backbone is ImageNet's"
            rows.append(table.compare(kept, early, peers[asked], values(asked), rate=True))
        if not any(values(side) for side in peers):
            peer = "GluonCV: no backward on the CPU"
            rows.append(table.compare(what, values(precision), peer, reach=aim, rate=True))
        if classifies:
            theirs = values(f"torch {precision}")
            peer = f"PyTorch {precision}, channels_last" if theirs else f"PyTorch: {table.NO_PEERS}"
            aim = "1x" if precision == "bfloat16" else ""
            rows.append(table.compare(what, values(precision), peer, theirs, reach=aim, rate=True))
    if frozen := values("frozen"):
        what = f"training {job.replace(':', ' ')}, {setting}, float32, train.freeze_backbone, {unit}"
        rows.append(table.compare(what, frozen, "all layers", values("float32"), reach="1x", rate=True))
    if job == JOBS[0]:
        what = f"peak memory of training {job.replace(':', ' ')}, {setting}, MB"
        rows.append(
            table.compare(
                what,
                values("float32", "peak"),
                "GluonCV",
                values("gluoncv", "peak"),
                reach="0.7 of it (1.43x)",
            )
        )
    return rows


def main() -> None:
    """Run all jobs and print a table."""
    parser = table.parser(__doc__)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--only", nargs="+", choices=JOBS, default=JOBS)
    parser.add_argument("--sides", nargs="+", help='such as float32, frozen, "gluoncv on all processors"')
    parser.add_argument("--job", help=argparse.SUPPRESS)
    parser.add_argument("--size", type=int)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--cpu", action="store_true", help="one thread, and CPU time: for a busy machine")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2000, help="of the row on growth of memory")
    options = parser.parse_args()
    if options.quick:
        options.steps = 40
        options.repeats, options.seconds, options.size, options.batch = 1, 0.0, 64, 2
    if options.cpu:
        os.environ["OMP_NUM_THREADS"] = "1"
    if options.side:
        measure(options)
    rows = [row for job in options.only for row in run(job, options)]
    if JOBS[0] in options.only and not options.cpu:
        common = ("--job", JOBS[0], "--data", options.data or BLOOD_CELLS, "--workers", options.workers)
        grown = table.side(
            "training.py", "growth", *common, "--size", 96, "--batch", 2, "--steps", options.steps
        )
        what = f"memory that {options.steps} steps of yolov3 mobilenet1.0 add, 96 px, batch 2, MB"
        rows.append(table.compare(what, [grown["growth"]], reach="none"))
    table.report(rows, options)


if __name__ == "__main__":
    main()
