"""What it costs to be watched: the progress server polled 0, 1, 10 and 50 times a second.

    python benchmarks/watching.py [--seconds 3] [--repeats 9] [--points 300] [--rates 1 10 50] [--detail]

Polls are spread evenly over a second and over 50 pollers, each poll a connection of its own, as platforms do.
Shown per rate: the CPU time that the server's process takes, as a share of one core and of all; how long a
poll takes; and what is left to a computation that keeps all cores busy meanwhile (NumPy, one process a core),
against rounds without a poller just before and after, median of the repeats. The pollers run on this machine
too, but their own CPU time (in truth another machine's) is measured and given back. --detail: also how soon a
server answers after its process began, and the server's share of the processors and the times of polls.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks import table
from common.reporting.server_process import ProgressServer

POLLERS = 50
URL = "http://127.0.0.1:{}/data/plugin/scalars/scalars?run=.&tag=progress"
TICK = os.sysconf("SC_CLK_TCK")


@dataclass
class Round:
    """One measurement: seconds, CPU seconds of the server and of the pollers, work done, poll times."""

    seconds: float
    server: float
    pollers: float
    work: int
    latencies: list[float]
    failures: int


def cpu_seconds(pid: int) -> float:
    """CPU time, user and system, that process `pid` has taken."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def compute(done: Synchronized[int]) -> None:
    """Stands for the training: multiplies matrices for ever and counts."""
    import numpy as np

    matrix = np.ones((128, 128), np.float32)
    while True:
        for _ in range(20):
            matrix @ matrix
        with done.get_lock():
            done.value += 1


def poll(url: str, period: float, offset: float, seconds: float) -> tuple[list[float], int]:
    """One poller: latencies in seconds, and the number of polls that failed."""
    latencies, failures = [], 0
    begin = time.perf_counter() + offset
    for number in range(max(round((seconds - offset) / period), 0)):
        time.sleep(max(0.0, begin + number * period - time.perf_counter()))
        sent = time.perf_counter()
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                answer.read()
            latencies.append(time.perf_counter() - sent)
        except OSError:
            failures += 1
    return latencies, failures


def poll_all(url: str, rate: float, seconds: float, out: multiprocessing.SimpleQueue[object]) -> None:
    """A process with all pollers: puts (latencies, failures, CPU seconds)."""
    pollers = min(POLLERS, max(1, round(rate)))
    results: list[tuple[list[float], int]] = []
    began = time.process_time()
    threads = [
        threading.Thread(target=lambda i=i: results.append(poll(url, pollers / rate, i / rate, seconds)))
        for i in range(pollers)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.process_time() - began
    out.put(([value for values, _ in results for value in values], sum(n for _, n in results), took))


def measure(server: ProgressServer, rate: float, seconds: float, done: Synchronized[int]) -> Round:
    """A round of `seconds` with `rate` polls a second (0: none)."""
    out: multiprocessing.SimpleQueue[object] = multiprocessing.SimpleQueue()
    pid = server.pid
    assert pid is not None
    cpu, work, began = cpu_seconds(pid), done.value, time.perf_counter()
    process = None
    if rate > 0:
        process = multiprocessing.Process(target=poll_all, args=(URL.format(server.port), rate, seconds, out))
        process.start()
    time.sleep(seconds)
    took = time.perf_counter() - began
    cpu, work = cpu_seconds(pid) - cpu, done.value - work
    latencies: list[float] = []
    failures, pollers = 0, 0.0
    if process is not None:
        latencies, failures, pollers = out.get()  # type: ignore[misc]
        process.join()
    return Round(took, cpu, pollers, work, latencies, failures)


def first_answer(log_dir: Path) -> float:
    """Seconds from the construction of a server (its process does not exist yet) to the first 200."""
    began = time.perf_counter()
    with ProgressServer(log_dir, 0) as server:
        server.publish([(time.time(), 1, 0.0)])
        while True:
            try:
                with urllib.request.urlopen(URL.format(server.port), timeout=30):
                    return time.perf_counter() - began
            except urllib.error.HTTPError:
                time.sleep(0.002)


AIMS = {1.0: "1 %", 10.0: "1 %", 50.0: "3 %"}


def main() -> None:
    """Measure and print the table."""
    parser = table.parser(__doc__)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--points", type=int, default=300, help="in the answer; a job has a few hundred")
    parser.add_argument("--rates", type=float, nargs="+", default=[1.0, 10.0, 50.0], help="polls a second")
    parser.add_argument("--detail", action="store_true")
    options = parser.parse_args()
    if options.quick:
        options.seconds, options.repeats = 0.5, 1
    cores = len(os.sched_getaffinity(0))
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    folder = Path(tempfile.mkdtemp(prefix="watching-"))
    idle = [first_answer(folder) for _ in range(5 if options.detail else 0)]
    done: Synchronized[int] = multiprocessing.Value("q", 0)
    work = [multiprocessing.Process(target=compute, args=(done,), daemon=True) for _ in range(cores)]
    for process in work:
        process.start()
    time.sleep(1.0)
    if options.detail:
        busy = [first_answer(folder) for _ in range(5)]
        print(
            f"first answer: {statistics.median(idle):.2f} s idle, {statistics.median(busy):.2f} s on busy cores"
        )
        print(f"{cores} cores, {options.points} points")
        print("polls/s | server, of one core | of all | latency p50 ms | p99 ms | failed")
    rows = []
    with ProgressServer(folder, 0) as server:
        server.publish([(1.7e9 + i / 7, 10, i / options.points) for i in range(options.points)])
        time.sleep(5.0)  # TensorBoard is imported
        for rate in options.rates:
            lost, rounds = [], []
            for _ in range(options.repeats):
                before = measure(server, 0, options.seconds / 2, done)
                watched = measure(server, rate, options.seconds, done)
                after = measure(server, 0, options.seconds / 2, done)
                plain = (before.work + after.work) / (before.seconds + after.seconds)
                free = watched.seconds * cores
                lost.append(1 - watched.work / watched.seconds / plain * free / (free - watched.pollers))
                rounds.append(watched)
            share = [100 * each.server / each.seconds / cores for each in rounds]
            what = f"being watched, {rate:g} polls/s: "
            aim = AIMS.get(rate, "")
            rows.append(table.compare(what + "server's share of all processors, %", share, reach=aim))
            lost = [100 * value for value in lost]
            rows.append(table.compare(what + "computation lost, no poller beside it, %", lost, reach=aim))
            if options.detail:
                print(f"{rate:7g} | {_details(rounds, cores)}", flush=True)
    for process in work:
        process.kill()
    table.report(rows, options)


def _details(rounds: list[Round], cores: int) -> str:
    """Of the rounds of one rate: the server's share, times of the polls, how many failed."""
    share = statistics.median(each.server / each.seconds for each in rounds)
    times = sorted(value for each in rounds for value in each.latencies)
    p50, p99 = times[len(times) // 2] * 1e3, times[int(len(times) * 0.99)] * 1e3
    failed = sum(each.failures for each in rounds)
    return f"{share:19.2%} | {share / cores:6.2%} | {p50:14.1f} | {p99:6.1f} | {failed:6d}"


if __name__ == "__main__":
    main()
