"""The files that a finished job leaves in log_dir, and how a new job clears those of the one before."""

from __future__ import annotations

import glob
import json
from pathlib import Path
from typing import Any

from common.files import read_file
from common.reporting.log_dir import is_folder, require_no_folder

_CARD_LIMIT = 16 << 20  # bytes; a card of 10 000 classes has a hundredth of it
RESULT = "{}_data_result.json"
DATA_REPORT = "data_report.json"
EVALUATION = "{}_evaluation.json"
REPORT = "report.html"
MODEL_CARD = "model.json"


def symbol_file(name: str) -> str:
    """File name of the graph of the model `name`."""
    return f"{name}-symbol.json"


def params_file(name: str) -> str:
    """File name of the parameters of the model `name`."""
    return f"{name}-0000.params"


def graph_file(name: str, graph: str) -> str:
    """File name of a further graph over the parameters of the model `name`."""
    return f"{name}-{graph}.json"


def remove_outputs(log_dir: Path, name: str, graphs: list[str], *, keep_state: bool) -> None:
    """Remove what an earlier job left, so that it cannot pass for this job's: called when this one can begin.

    name, graphs: of this job's model and its further graphs. Besides them, the files that a `model.json` in log_dir
    lists are ours, and no others. The checkpoint stays: --load may name it, and the first validation replaces it.
    keep_state: so does the state that --resume goes on from.
    """
    names = {RESULT.format("valid"), RESULT.format("test"), symbol_file(name), params_file(name)}
    names |= {EVALUATION.format("valid"), EVALUATION.format("test"), REPORT}
    names |= {graph_file(name, graph) for graph in graphs} | _listed(log_dir / MODEL_CARD) | {MODEL_CARD}
    names |= {f"{name}{suffix}.onnx" for suffix in ("", "-raw", "-plain", "-plain-raw")}
    if not keep_state:
        names.add("training_state.pkl")
    for file in names:
        if file != REPORT:
            require_no_folder(log_dir / file)
        if not is_folder(log_dir / file):
            (log_dir / file).unlink(missing_ok=True)
        for part in log_dir.glob(f".{glob.escape(file)}.*.part"):  # of a job that was killed while it wrote
            part.unlink(missing_ok=True)


def _listed(card: Path) -> set[str]:
    """Names of the model's files that `card` lists: files of ours in its own folder, and nothing else."""
    try:
        content = json.loads(read_file(card, _CARD_LIMIT))
    except (OSError, ValueError, RecursionError):
        return set()
    if not isinstance(content, dict):
        return set()
    flip = content.get("flip_test")
    listed: list[Any] = [content.get("symbol"), content.get("params")]
    listed += content["files"] if isinstance(content.get("files"), list) else []
    listed += [flip.get("symbol")] if isinstance(flip, dict) else []
    return {
        name
        for name in listed
        if isinstance(name, str)
        and Path(name).name == name
        and "\0" not in name
        and name.endswith((".json", ".params", ".onnx"))
        and not name.startswith(".")
    }
