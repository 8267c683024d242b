"""Whether a job with `train.minutes` takes its time, and whether the processors have something to do in it.

    python benchmarks/minutes.py detect/fit_ssd.py job.json --minutes 1 2 5 [--set KEY=VALUE]

A row for each job: seconds from its start to its end, and how far that is from what was asked for; what was foreseen
for the time after its last step, and what that took; and, from the first step to the last, the share of the time in
which processors were idle (all that the machine does counted), and the share that processes of the job computed.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from datetime import datetime
from pathlib import Path

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

    def between(self, begin: float, end: float) -> tuple[float, float]:
        """Shares of the processors' time that were idle, and computed by the processes."""
        seen = [entry for entry in self.seen if begin <= entry[0] <= end]
        seconds = (seen[-1][0] - seen[0][0]) * (os.cpu_count() or 1)
        return (seen[-1][1] - seen[0][1]) / seconds, (seen[-1][2] - seen[0][2]) / seconds

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
    print("| minutes | seconds | off by | foreseen after the last step | took | idle | computed by the job |")
    print("| --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for minutes in options.minutes:
        with tempfile.TemporaryDirectory() as place:
            print(_row(options, minutes, Path(place)), flush=True)
    return 0


def _row(options: argparse.Namespace, minutes: float, place: Path) -> str:
    words = [sys.executable, options.script, "--config", str(options.config.resolve()), "--linger", "0"]
    for value in (*options.set, f"train.minutes={minutes:g}", f"log_dir={place}"):
        words += ["--set", value]
    began = time.monotonic()
    job = subprocess.Popen([*words, "--port", "18889"], cwd=ROOT, stdout=subprocess.DEVNULL)
    watch = Watch(job.pid)
    watch.start()
    status = job.wait()
    seconds = time.monotonic() - began
    watch.end()
    if status:
        raise SystemExit(f"the job ended with exit status {status}")
    lines = (place / "estimator.log").read_text().splitlines()
    training = _moment(next(line for line in lines if " Training: for " in line))
    last = next(line for line in lines if "Foreseen from here to the end" in line)
    foreseen = {name: float(value) for name, value in re.findall(r"(\w+) ([\d.]+) s", last)}
    took = [float(value) for name, value in re.findall(r"Took: (\w+) ([\d.]+) s", "\n".join(lines))]
    idle, computed = watch.between(training, _moment(last))
    return (
        f"| {minutes:g} | {seconds:.1f} | {seconds / (60 * minutes) - 1:+.1%} | "
        f"{', '.join(f'{name} {value:.1f}' for name, value in foreseen.items())}: {sum(foreseen.values()):.1f} s | "
        f"{', '.join(f'{value:.1f}' for value in took)}: {seconds - _since(lines, last):.1f} s | "
        f"{idle:.1%} | {computed:.1%} |"
    )


def _since(lines: list[str], line: str) -> float:
    """Seconds from the first line of a log to another one."""
    return _moment(line) - _moment(lines[0])


def _moment(line: str) -> float:
    """When a line of estimator.log was written."""
    return datetime.strptime(line[:29], "%Y-%m-%d %H:%M:%S,%f %z").timestamp()


if __name__ == "__main__":
    sys.exit(main())
