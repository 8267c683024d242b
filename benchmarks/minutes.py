"""Whether a job with `train.minutes` takes its time, and whether the processors have something to do in it.

    python benchmarks/minutes.py detect/fit_ssd.py job.json --minutes 1 2 5 [--set KEY=VALUE]

A row for each job: seconds from its start to its end, and how far that is from what was asked for; what was foreseen
for the time after its last step, and what that took; and the share of the time in which processors were idle (all that
the machine does counted): in the whole job, before the first step, in steps, in validations (checkpoints included), and
after the last one; with the processor seconds that this is; and the share that processes of the job computed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from datetime import datetime
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
_TICK = os.sysconf("SC_CLK_TCK")
_EVERY = 0.1  # seconds


class Watch(threading.Thread):
    """Looks at the processors, and at what a process and its descendants compute, several times a second.

    seen: moments, with idle seconds of all processors and seconds that the processes have computed, since the start.
    """

    def __init__(self, process: int) -> None:
        super().__init__(daemon=True)
        self.seen: list[tuple[float, float, float]] = []
        self._process = process
        self._computed: dict[int, float] = {}
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(_EVERY):
            self._look()
            self.seen.append((time.time(), _idle(), sum(self._computed.values())))

    def end(self) -> None:
        self._over.set()
        self.join()

    def between(self, *spans: tuple[float, float]) -> tuple[float, float, float]:
        """Processor seconds of these times that there were, that were idle, and that the processes computed."""
        sums = np.zeros(3)
        moments, *counted = np.array(self.seen).T
        for begin, end in spans:
            ends = [np.interp((begin, end), moments, values) for values in (moments, *counted)]
            sums += [after - before for before, after in ends]
        return sums[0] * (os.cpu_count() or 1), sums[1], sums[2]

    def _look(self) -> None:
        parents: dict[int, int] = {}
        computed: dict[int, float] = {}
        for folder in Path("/proc").iterdir():
            if folder.name.isdecimal():
                try:
                    fields = (folder / "stat").read_text().rpartition(")")[2].split()
                except OSError:  # it has ended
                    continue
                parents[int(folder.name)] = int(fields[1])
                computed[int(folder.name)] = (int(fields[11]) + int(fields[12])) / _TICK
        for pid in parents:
            above: int | None = pid
            while above and above != self._process:
                above = parents.get(above)
            if above:
                self._computed[pid] = computed[pid]


def _idle() -> float:
    fields = Path("/proc/stat").read_text().splitlines()[0].split()
    return (int(fields[4]) + int(fields[5])) / _TICK


def main() -> int:
    """Train, and print rows."""
    parser = argparse.ArgumentParser(description="Whether jobs with train.minutes take their time.")
    parser.add_argument("script")
    parser.add_argument("config", type=Path)
    parser.add_argument("--minutes", nargs="+", type=float, default=[1.0, 2.0, 5.0])
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    heads = ["minutes", "seconds", "off by", "foreseen after the last step", "took"]
    heads += (
        "idle: whole job",
        "before",
        "steps",
        "validations",
        "after",
        "computed by the job",
        "steps taken",
    )
    print(f"| {' | '.join(heads)} |")
    print("| --- " * len(heads) + "|", flush=True)
    for minutes in options.minutes:
        with tempfile.TemporaryDirectory() as place:
            print(_row(options, minutes, Path(place)), flush=True)
    return 0


def _row(options: argparse.Namespace, minutes: float, place: Path) -> str:
    words = [sys.executable, options.script, "--config", str(options.config.resolve()), "--linger", "0"]
    for value in (*options.set, f"train.minutes={minutes:g}", f"log_dir={place}"):
        words += ["--set", value]
    began = time.time()
    job = subprocess.Popen([*words, "--port", "18889"], cwd=ROOT, stdout=subprocess.DEVNULL)
    watch = Watch(job.pid)
    watch.start()
    status = job.wait()
    ended = time.time()
    seconds = ended - began
    watch.end()
    if status:
        raise SystemExit(f"the job ended with exit status {status}")
    lines = (place / "estimator.log").read_text().splitlines()
    training = _moment(next(line for line in lines if " Training: for " in line))
    last = next(line for line in lines if "Foreseen from here to the end" in line)
    foreseen = {name: float(value) for name, value in re.findall(r"(\w+) ([\d.]+) s", last)}
    took = [float(value) for name, value in re.findall(r"Took: (\w+) ([\d.]+) s", "\n".join(lines))]
    kept = [(_moment(line), float(line.split()[-2])) for line in lines if "Took: validation" in line]
    validations = [(moment - seconds, moment) for moment, seconds in kept]
    begun = [training, *(moment for _, moment in validations)]
    steps = [(start, end) for start, (end, _) in zip(begun, validations, strict=False)]
    spans = [[(began, ended)], [(began, training)], steps, validations, [(begun[-1], ended)]]
    idle = [watch.between(*part) for part in spans]
    batches = json.loads((place / "status.json").read_text())["batches"]
    return (
        f"| {minutes:g} | {seconds:.1f} | {seconds / (60 * minutes) - 1:+.1%} | "
        f"{', '.join(f'{name} {value:.1f}' for name, value in foreseen.items())}: {sum(foreseen.values()):.1f} s | "
        f"{', '.join(f'{value:.1f}' for value in took)}: {seconds - _since(lines, last):.1f} s | "
        + " | ".join(f"{idle / there:.1%} ({idle:.1f} s)" for there, idle, _ in idle)
        + f" | {idle[0][2] / idle[0][0]:.1%} | {batches} |"
    )


def _since(lines: list[str], line: str) -> float:
    """Seconds from the first line of a log to another one."""
    return _moment(line) - _moment(lines[0])


def _moment(line: str) -> float:
    """When a line of estimator.log was written."""
    return datetime.strptime(line[:29], "%Y-%m-%d %H:%M:%S,%f %z").timestamp()


if __name__ == "__main__":
    sys.exit(main())
