"""What the benchmarks share: rows of the one table, processes that measure a side, where the peers live.

A row holds what was measured here, the same of a peer (what a user would take instead) measured in the same run, and a
limit that no implementation can pass. Ratios are medians of ratios of runs that took turns, so that a machine that is
busy for a while slows both sides alike; above 1 this project is ahead.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PEERS = ROOT / ".venv-peers" / "bin" / "python"
NO_PEERS = "not installed (make .venv-peers/ready)"


def peers_installed() -> bool:
    """Whether the peers' environment is there, and complete."""
    return PEERS.exists() and PEERS.parents[1].joinpath("ready").exists()


@dataclass(frozen=True)
class Row:
    """what: with its unit. value: ours. peer, theirs, ratio: whom it is beside, its value, how many times better we
    are. limit, bound, of_limit: what cannot be passed, its value, ours as a multiple of it. reach: the aim."""

    what: str
    value: float
    peer: str = ""
    theirs: float | None = None
    ratio: float | None = None
    limit: str = ""
    bound: float | None = None
    of_limit: float | None = None
    reach: str = ""
    command: str = ""


def compare(
    what: str,
    values: Sequence[float],
    peer: str = "",
    theirs: Sequence[float] | None = None,
    *,
    limit: str = "",
    bounds: Sequence[float] | None = None,
    reach: str = "",
    rate: bool = False,
) -> Row:
    """A row of runs that took turns. rate: more is better, otherwise less. theirs None: the peer is not there."""

    def over(numerators: Sequence[float], denominators: Sequence[float]) -> float:
        return statistics.median(a / b for a, b in zip(numerators, denominators, strict=True))

    ratio = None
    if theirs:
        ratio = over(values, theirs) if rate else over(theirs, values)
    return Row(
        what,
        statistics.median(values),
        peer,
        statistics.median(theirs) if theirs else None,
        ratio,
        limit,
        statistics.median(bounds) if bounds else None,
        over(values, bounds) if bounds else None,
        reach,
    )


HEADINGS = ("what", "ours", "peer", "peer's", "ratio", "limit", "limit's", "ours/limit", "reach", "command")


def cells(row: Row) -> list[str]:
    """A row as text, in the order of HEADINGS."""
    numbers = [_number(value) for value in (row.value, row.theirs, row.ratio, row.bound, row.of_limit)]
    value, theirs, ratio, bound, of_limit = numbers
    return [row.what, value, row.peer, theirs, ratio, row.limit, bound, of_limit, row.reach, row.command]


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def markdown(rows: Sequence[Row]) -> str:
    """The table, aligned so that it can be read on a terminal too."""
    lines = [list(HEADINGS), *(cells(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEADINGS))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in lines
    )


def parser(doc: str | None) -> argparse.ArgumentParser:
    """A command line with what all benchmarks take."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument(
        "--quick", action="store_true", help="tiny sizes: shows that it runs, no figures to keep"
    )
    made.add_argument("--rows", type=Path, help=argparse.SUPPRESS)  # for run.py: write the rows here
    made.add_argument("--side", help=argparse.SUPPRESS)  # measure one side in this process
    return made


def report(rows: Sequence[Row], options: argparse.Namespace) -> None:
    """Print the rows; or hand them to run.py."""
    if options.rows:
        options.rows.write_text(json.dumps([asdict(row) for row in rows]))
    else:
        print(markdown(rows))


def side(script: str, name: str, *arguments: object, python: Path | str = sys.executable) -> dict[str, Any]:
    """Have a side measured by `script` in a process of its own, which prints its figures as JSON at last."""
    command = [str(python), str(ROOT / "benchmarks" / script), "--side", name, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise SystemExit(f"{script} --side {name} failed: {last}")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def cpu_seconds() -> float:
    """CPU time that this process and its children, however deep, have taken: on a machine that others keep busy, what a
    clock shows is theirs."""
    parents, taken = {}, {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it has just ended
                continue
            parents[int(folder.name)] = int(fields[1])
            # Of itself, and of children that have ended.
            taken[int(folder.name)] = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    family = [os.getpid()]
    for process in family:
        family.extend(child for child, parent in parents.items() if parent == process)
    return sum(taken.get(process, 0.0) for process in family)


def tell(**figures: object) -> None:
    """The figures of a side, and its end: its workers need not be waited for."""
    print(json.dumps(figures), flush=True)
    os._exit(0)
