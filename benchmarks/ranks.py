"""What it costs that several ranks train together: bytes a step beside what is needed, and how much of it is hidden.

    .venv-torch/bin/python benchmarks/ranks.py [--ranks 2 4] [--batch 32] [--side 64] [--steps 20]

A classifier on MobileNetV2, ranks as processes of one thread each that talk over the loopback. Theory: so that N ranks
have the sum of G bytes of gradients each sends 2 (N - 1) / N times G (Patarasuk & Yuan 2009): all together 2 (N - 1) G.
Bytes are those that the kernel counts on the loopback. Three kinds of steps, in turns: each rank by itself ("alone"),
gradients added up at the end of the backward pass ("after") and while it goes on ("meanwhile"). Hidden is the share of
what "after" takes beyond "alone" that "meanwhile" does not. Ranks beyond the processors share these: then all figures
but the bytes say little.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

KINDS = ("alone", "after", "meanwhile")
CLASSES = 6


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--ranks", type=int, nargs="+", default=[2, 4])
    asked.add_argument("--batch", type=int, default=32)
    asked.add_argument("--side", type=int, default=64)
    asked.add_argument("--steps", type=int, default=20)
    given = asked.parse_args()
    if "RANK" in os.environ:
        measure(given.batch, given.side, given.steps)
        return
    print("| ranks | parameters, MB | MB a step | theory | alone, ms | after, ms | meanwhile, ms | hidden |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for size in given.ranks:
        found = run(size, sys.argv[1:])
        alone, after, meanwhile = (found[kind]["ms"] for kind in KINDS)
        theory = 2 * (size - 1) * found["gradients"]
        hidden = (after - meanwhile) / max(after - alone, 1e-9)
        print(
            f"| {size} | {found['gradients'] / 1e6:.2f} | {found['meanwhile']['bytes'] / 1e6:.2f} | {theory / 1e6:.2f} "
            f"| {alone:.1f} | {after:.1f} | {meanwhile:.1f} | {hidden:.0%} |",
            flush=True,
        )


def run(size: int, options: list[str]) -> dict[str, Any]:
    """What rank 0 of `size` says."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, *options],
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]
    outputs = [process.communicate()[0] for process in processes]
    found: dict[str, Any] = json.loads(outputs[0].splitlines()[-1])
    return found


def measure(batch: int, side: int, steps: int) -> None:
    """One rank's part; the first one prints what came of it."""
    from common.engine.devices import load_mxnet

    load_mxnet()
    import mxnet as mx
    import numpy as np
    import torch

    from classification.losses import ClassificationTraining
    from classification.networks import build_classifier
    from common.engine.engine import Blocks, OptimizerSettings
    from common.engine.graph import Inference
    from common.engine.torch.engine import TorchEngine
    from common.engine.torch.reduction import Reduction
    from common.engine.tracing import program
    from common.ranks.place import place_of
    from common.ranks.ranks import ALONE, Ranks
    from common.ranks.shares import rows_of

    ranks = Ranks(place_of(os.environ))
    ranks.join()
    mx.random.seed(0)
    network = build_classifier("mobilenetv2_1.0", CLASSES, [mx.cpu()])
    training = ClassificationTraining(network, CLASSES)
    made = program(Blocks(network, training, training.inputs, Inference(network)))
    rows = rows_of(batch, ranks.rank, ranks.size)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch, side, side, 3)).astype(np.uint8)[rows]
    labels = rng.integers(0, CLASSES, batch).astype(np.float32)[rows]
    engines = {
        kind: TorchEngine(
            made,
            torch.device("cpu"),
            OptimizerSettings("sgd", momentum=0.9),
            ranks=ALONE if kind == "alone" else ranks,
            overlapped=kind != "after",
        )
        for kind in KINDS
    }
    seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
    sent: dict[str, list[int]] = {kind: [] for kind in KINDS}
    for number in range(steps + 2):
        for kind, engine in engines.items():
            ranks.all(0)
            before, began = loopback(), time.perf_counter()
            engine.take([images, labels])
            engine.forward()
            engine.backward()
            engine.update(1e-4, engine.norms())
            took = time.perf_counter() - began
            slowest = max(ranks.all(took))
            if number >= 2:
                seconds[kind].append(slowest)
                sent[kind].append(loopback() - before)
    if ranks.first:
        reduction: Reduction | None = engines["meanwhile"].reduction
        assert reduction is not None
        found: dict[str, Any] = {
            kind: {"ms": 1e3 * statistics.median(seconds[kind]), "bytes": statistics.median(sent[kind])}
            for kind in KINDS
        }
        found["gradients"] = reduction.size
        print(json.dumps(found))
    ranks.finish()


def loopback() -> int:
    """Bytes that the loopback has carried so far."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, figures = line.partition(":")
        if name.strip() == "lo":
            return int(figures.split()[0])
    raise OSError("no loopback")


if __name__ == "__main__":
    main()
