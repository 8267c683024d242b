"""What status.json says in the text format of Prometheus (version 0.0.4)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

# Name, type, what it is.
_HELP = {
    "step": ("gauge", "Number of the step that the job is at: 10 trains, 30 exports."),
    "step_progress": ("gauge", "Fraction of that step that is done."),
    "epoch": ("gauge", "The epoch that runs."),
    "epochs": ("gauge", "The number before which training ends."),
    "seconds_left": ("gauge", "Estimate for the training."),
    "metric": ("gauge", "The last validation's metric."),
    "best_metric": ("gauge", "The best one so far."),
    "loss": ("gauge", "Means since the epoch began."),
    "images_per_second": ("gauge", "Throughput of the training."),
    "batches_skipped_total": ("counter", "Batches left out because their gradient was not finite."),
    "worker_restarts_total": ("counter", "How often data workers were started afresh."),
    "images_left_out": ("gauge", "Images and boxes of a set that cannot be used."),
}

_Sample = tuple[str, str, Any]


def exposition(status: dict[str, Any]) -> str:
    """The samples that `status`, the content of status.json, has values for."""
    samples: dict[str, list[str]] = {}
    for name, labels, value in _samples(status):
        if value is not None:
            samples.setdefault(name, []).append(f"visualtl_{name}{labels} {float(value)!r}")
    lines = []
    for name, (kind, text) in _HELP.items():
        if name in samples:
            lines += [f"# HELP visualtl_{name} {text}", f"# TYPE visualtl_{name} {kind}", *samples[name]]
    return "".join(f"{line}\n" for line in lines)


def _samples(status: dict[str, Any]) -> Iterable[_Sample]:
    yield "step", "", (status.get("step") or {}).get("number")
    yield "step_progress", "", status.get("progress")
    for name in ("epoch", "epochs", "seconds_left", "images_per_second"):
        yield name, "", status.get(name)
    if metric := status.get("metric"):
        yield "metric", _label("name", metric["name"]), metric["value"]
    if best := status.get("best_metric"):
        yield "best_metric", "", best["value"]
    for name, value in (status.get("losses") or {}).items():
        yield "loss", _label("name", name), value
    yield "batches_skipped_total", "", status.get("batches_skipped")
    yield "worker_restarts_total", "", status.get("worker_restarts")
    for name, value in (status.get("images_left_out") or {}).items():
        yield "images_left_out", _label("set", name), value


def _label(name: str, value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'{{{name}="{escaped}"}}'
