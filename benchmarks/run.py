"""All benchmarks, one table: `make bench`.

    python benchmarks/run.py [--quick] [--only transforms metric ...] [--output FILE]

Every script can be run alone, with more options; the table names the command of each row. It is written to
benchmarks/RESULTS.md with what it depends on: processor, versions and date. Without .venv-peers (`make
.venv-peers/ready`) the rows beside PyTorch and pycocotools say so and stay empty.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import table

ROOT = table.ROOT
SCRIPTS = {
    "transforms": ["--repeats", "150"],
    "start": ["--repeats", "3"],
    "loader": ["--repeats", "2"],
    "training": ["--repeats", "2", "--seconds", "3"],
    "metric": ["--repeats", "3"],
    "predicting": ["--repeats", "3"],
    "checkpoint": ["--repeats", "7"],
    "watching": ["--repeats", "5", "--seconds", "2"],
}
PACKAGES = ("mxnet", "gluoncv", "numpy", "opencv-python-headless", "simplejpeg", "tensorboard")
PEER_PACKAGES = ("torch", "torchvision", "pycocotools")


def run(script: str, arguments: list[str], folder: Path) -> list[table.Row]:
    """The rows of one script, each with its command. A script that fails gives a row that says so."""
    output = folder / f"{script}.json"
    command = " ".join(["python", f"benchmarks/{script}.py", *arguments])
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / f"{script}.py"), *arguments, "--rows", str(output)],
        check=False,
        stderr=subprocess.PIPE,
        text=True,
    )
    if done.returncode or not output.exists():
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return [table.Row(f"{script}: failed: {reason}", float("nan"), command=command)]
    return [table.Row(**{**row, "command": command}) for row in json.loads(output.read_text())]


def facts() -> list[str]:
    """What the figures depend on."""
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
        fields = dict(line.split(":", 1) for line in file if ":" in line)
    models = {name.strip(): value.strip() for name, value in fields.items()}
    flags = models.get("flags", "").split()
    wide = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in flags]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = [f"{name} {importlib.metadata.version(name)}" for name in PACKAGES]
    lines = [
        f"date: {datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d}",
        f"processor: {models.get('model name', 'unknown')} (family {models.get('cpu family')}, model "
        f"{models.get('model')}; {', '.join(wide)}), {len(os.sched_getaffinity(0))} processors, {memory:.0f} GB",
        f"load of the machine before the run (1, 5, 15 minutes): {', '.join(f'{n:.1f}' for n in os.getloadavg())}",
        f"Python {platform.python_version()}, {', '.join(versions)}",
    ]
    if table.peers_installed():
        code = "import importlib.metadata as m; print(*[f'{n} {m.version(n)}' for n in %r], sep=', ')"
        peers = subprocess.run(
            [str(table.PEERS), "-c", code % (PEER_PACKAGES,)], stdout=subprocess.PIPE, text=True, check=True
        )
        lines.append(f"peers: {peers.stdout.strip()}")
    return lines


def main() -> None:
    """Run what is asked for, print the table and write it."""
    parser = table.parser(__doc__)
    parser.add_argument("--only", nargs="+", choices=SCRIPTS, default=list(SCRIPTS))
    parser.add_argument("--output", type=Path, help="default: benchmarks/RESULTS.md; --quick writes none")
    options = parser.parse_args()
    known, rows, began = facts(), [], time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        for script in options.only:
            print(f"[{time.monotonic() - began:5.0f} s] {script}", flush=True)
            arguments = ["--quick"] if options.quick else SCRIPTS[script]
            rows += run(script, arguments, Path(folder))
    known.append(f"the run took {(time.monotonic() - began) / 60:.0f} minutes")
    text = "\n".join(
        [
            "# Benchmarks",
            "",
            "Written by `make bench`. Values are medians; ratio: how many times better than the peer, median of the",
            "ratios of runs that took turns; ours/limit: ours as a multiple of what cannot be passed.",
            "",
            *(f"- {fact}" for fact in known),
            "",
            table.markdown(rows),
            "",
        ]
    )
    print(text)
    output = options.output or (None if options.quick else ROOT / "benchmarks" / "RESULTS.md")
    if output:
        output.write_text(text)
    if any(": failed: " in row.what for row in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
