"""What `common.suggest` makes of a folder in so many minutes: a row for benchmarks/QUALITY.md.

    python benchmarks/suggested.py FOLDER --minutes 5 [--set KEY=VALUE] [--out FOLDER]

Suggests, trains and says what came of it: the configuration's main keys, seconds from the start of the job to its last
file, passes over the images, and the figures of the validation and test set. --out: where the job's folder stays.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    """Suggest, train, and print the row."""
    parser = argparse.ArgumentParser(description="What suggest makes of a folder in so many minutes.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", default="5")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        file, out = Path(place) / "job.json", (options.out or Path(place) / "out").resolve()
        words = [str(options.folder.resolve()), "--out", str(file), "--minutes", options.minutes]
        for override in (f"log_dir={out}", *options.set):
            words += ["--set", override]
        began = time.monotonic()
        printed = _run([sys.executable, "-m", "common.suggest", *words])
        suggested = time.monotonic() - began
        print(printed, file=sys.stderr)
        command = shlex.split(printed.strip().splitlines()[-1])
        began = time.monotonic()
        _run([sys.executable, *command[1:], "--linger", "0", "--port", "18888"])
        seconds = time.monotonic() - began
        print(_row(options, command[1], json.loads(file.read_text()), out, suggested, seconds))
    return 0


def _run(words: list[str]) -> str:
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return done.stdout


def _row(
    options: argparse.Namespace,
    script: str,
    values: dict[str, Any],
    out: Path,
    suggested: float,
    seconds: float,
) -> str:
    status = json.loads((out / "status.json").read_text())
    network, train = values["model"], values["train"]
    size = network.get("data_shape") or [train["input_width"], train["input_height"]]
    figures = {name: _figure(out / f"{name}_data_result.json") for name in ("valid", "test")}
    codes = ", ".join(piece["code"] for piece in status["advice"])
    cells = (
        options.folder.name,
        f"{Path(script).stem} {network['base_network']} {size[0]} px, batch {train['batch_size']}",
        f"{suggested:.0f} s",
        f"{options.minutes} min: {seconds:.0f} s, {status['epoch'] + 1} passes, {status['batches']} steps",
        figures["valid"],
        figures["test"],
        codes,
    )
    return f"| {' | '.join(cells)} |"


def _figure(path: Path) -> str:
    if not path.exists():
        return "–"
    document = json.loads(path.read_text())
    if "AP" in document:
        return f"mAP {float(document['AP'][-1]['mAP']):.3f}"
    if "Accuray" in document:
        return f"accuracy {float(document['Accuray']):.3f}"
    return f"RMSE {document['RMSE']:.2f} px"


if __name__ == "__main__":
    sys.exit(main())
