"""status.json: what a job is doing, for machines that look at files.

==================== ================================================================================
state                starting, loading, training, predicting, exporting, finished, failed or stopped
step                 {"number": 10, "name": "TRAIN"}; numbers as over HTTP
progress             fraction of that step that is done, 0…1
epoch, epochs        the epoch that runs, and the number before which training ends
seconds_left         estimate for the training
images_per_second    throughput of the training
metric               {"name", "value"} of the last validation
best_metric          {"name", "value", "epoch"} of the best one
error                {"kind", "message"} of a job that failed; kinds: see `common.errors.JobError`
pid, version, log_dir
started, updated     seconds since 1970
==================== ================================================================================

What is not known is null, and so is a number that is not finite. The file is whole at every instant.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from enum import IntEnum
from pathlib import Path
from typing import Any, Literal, get_args

from common import __version__
from common.files import write_json

FILE = "status.json"

State = Literal["starting", "loading", "training", "predicting", "exporting", "finished", "failed", "stopped"]
STATES: tuple[State, ...] = get_args(State)

_logger = logging.getLogger("visualtl")


def _plain(value: Any) -> Any:
    """`value` as JSON knows it: numbers of numpy as numbers, those that are not finite as null."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, IntEnum):
        return {"number": int(value), "name": value.name}
    if value is None or isinstance(value, (bool, str, int)):
        return value
    if isinstance(value, Path):
        return str(value)
    number = value.item() if hasattr(value, "item") else float(value)
    return number if math.isfinite(number) else None


class Status:
    """Keeps log_dir/status.json up to date.

    `update` costs the training microseconds: the file is written by a thread, at most once a second. A change
    of state, which may be the last thing that a job does, is on disk when `update` returns. A file that
    cannot be written (the disk is full) is logged once and ends nothing.
    """

    interval = 1.0  # seconds

    def __init__(self, log_dir: Path) -> None:
        self._path = log_dir / FILE
        self._fields: dict[str, Any] = {
            "state": "starting",
            **dict.fromkeys(("step", "progress", "epoch", "epochs", "seconds_left", "images_per_second")),
            **dict.fromkeys(("metric", "best_metric", "error")),
            "pid": os.getpid(),
            "started": time.time(),
            "updated": time.time(),
            "version": __version__,
            "log_dir": str(log_dir),
        }
        self._guard = threading.RLock()
        self._written = -math.inf
        self._timer: threading.Timer | None = None
        self._failed = False
        self._write()

    def update(self, **fields: Any) -> None:
        """Set fields of the file by name (see the module); `step` takes a `common.reporting.progress.Step`.

        Raises ValueError for a field or a state that does not exist.
        """
        unknown = sorted(fields.keys() - self._fields.keys())
        if unknown:
            raise ValueError(f"status has no field {unknown[0]!r}; it has {', '.join(self._fields)}")
        if fields.get("state", "starting") not in STATES:
            raise ValueError(f"status has no state {fields['state']!r}; it has {', '.join(STATES)}")
        plain = _plain(fields)
        with self._guard:
            urgent = "error" in plain or plain.get("state", self._fields["state"]) != self._fields["state"]
            self._fields.update(plain, updated=time.time())
            if urgent:
                self._write()
            elif self._timer is None:
                self._write_soon()

    def _write_soon(self) -> None:
        wait = max(0.0, self._written + self.interval - time.monotonic())
        self._timer = threading.Timer(wait, self._write_later)
        self._timer.daemon = True
        try:
            self._timer.start()
        except RuntimeError:  # the machine has no thread left
            self._timer = None

    def close(self) -> None:
        """Write what has not been written yet."""
        with self._guard:
            if self._timer is not None:
                self._write()

    def _write_later(self) -> None:
        with self._guard:
            # A timer that went off while somebody else was writing has nothing left to say.
            if self._timer is threading.current_thread():
                self._write()

    def _write(self) -> None:
        with self._guard:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            self._written = time.monotonic()
            try:
                write_json(self._path, self._fields)
            except OSError as error:
                if not self._failed:
                    _logger.warning(
                        "%s cannot be written, the job goes on: %s", self._path, error.strerror or error
                    )
                self._failed = True
