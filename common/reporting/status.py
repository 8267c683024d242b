"""status.json: what a job is doing, for machines that look at files, and for those that ask the progress server.

==================== ================================================================================
state                starting, loading, training, predicting, exporting, finished, failed or stopped
step                 {"number": 10, "name": "TRAIN"}; numbers as over HTTP
progress             fraction of that step that is done, 0…1
epoch, epochs        the epoch that runs, and the number before which training ends
seconds_left         estimate for the training
images_per_second    throughput of the training
metric               {"name", "value"} of the last validation
best_metric          {"name", "value", "epoch"} of the best one
error                {"kind", "message", "retry"} of a job that failed; kinds: see `common.errors.JobError`; of one
                     with several ranks also "rank": which of them failed, or was stopped
ranks                of a job with several: [{"rank", "host", "pid", "images_per_second", "waiting"}]: the images that
                     each has computed a second, and the share of its time in which it waited for others
warnings             sentences that a user should read
advice               [{"code", "text"}] of a job that finished: what its figures mean, and what would help
losses               {name: mean since the epoch began}
batch, batches       batches trained so far, and of the whole training
batches_skipped      batches left out because their gradient was not finite
worker_restarts      how often data workers were started afresh
images_left_out      {set: number of images and boxes that cannot be used}
pid, pid_started     the process that signals are for, and when it began, as `ps -o lstart` has it
host                 on which it runs
version, log_dir
started, updated     seconds since 1970
==================== ================================================================================

Kubeflow's trainer status (KEP-2779) has other names for some: progressPercentage (of the training; 100 when the job has
finished), estimatedRemainingSeconds, currentStep, totalSteps, currentEpoch, totalEpochs, trainMetrics, evalMetrics.

What is not known is null, and so is a number that is not finite. The file is whole at every instant. A state that is no
end, beside a `pid` that is gone or began at another time than `pid_started`, is that of a job that was lost as a whole,
with its machine for instance.
"""

from __future__ import annotations

import json
import logging
import math
import os
import socket
import threading
import time
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from typing import Any, Literal, get_args

from common import __version__
from common.errors import JobError
from common.files import open_regular, write_json
from common.reporting import warnings
from common.reporting.log import reasons
from common.reporting.supervisor import signal_pid

FILE = "status.json"

State = Literal["starting", "loading", "training", "predicting", "exporting", "finished", "failed", "stopped"]
STATES: tuple[State, ...] = get_args(State)
ENDS = ("finished", "failed", "stopped")

_LIMIT = 1 << 20  # bytes of a status.json that is read

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


def ending_of(end: JobError | str, rank: int | None = None) -> dict[str, Any]:
    """The fields of a job that failed (a JobError) or was stopped (text). rank: which of several did."""
    whose = {} if rank is None else {"rank": rank}
    message = "\n".join(reasons(end))
    if isinstance(end, JobError):
        error = {"kind": end.kind, "message": message, "retry": end.retry}
        return {"state": "failed", "error": {**error, **whose}}
    return {"state": "stopped", "error": {"kind": "stopped", "message": message, "retry": True, **whose}}


def mark(log_dir: Path, end: JobError | str, rank: int | None = None, *, of_any: bool = False) -> bool:
    """Write into `log_dir` how its job ended, which could not do so itself. rank: see `ending_of`. of_any: whichever
    process the job was of. Returns whether it had not been written already. Raises OSError.
    """
    fields: dict[str, Any] = {}
    try:
        with os.fdopen(open_regular(log_dir / FILE, follow_links=False), "rb") as file:
            fields = json.loads(file.read(_LIMIT))
    except (OSError, ValueError):  # there is none, or it is of somebody else
        pass
    if not isinstance(fields, dict) or (fields.get("pid") != signal_pid() and not of_any):
        fields = _beginning(log_dir)
    if fields.get("state") in ENDS:
        return False
    write_json(log_dir / FILE, {**fields, **ending_of(end, rank), "updated": time.time()})
    return True


def _beginning(log_dir: Path) -> dict[str, Any]:
    unknown = ("step", "progress", "epoch", "epochs", "seconds_left", "images_per_second", "metric")
    pid = signal_pid()
    return {
        "state": "starting",
        **dict.fromkeys((*unknown, "best_metric", "error")),
        "warnings": [],
        "advice": [],
        "losses": {},
        "batch": None,
        "batches": None,
        "batches_skipped": 0,
        "worker_restarts": 0,
        "images_left_out": {},
        "ranks": [],
        "pid": pid,
        "pid_started": _start_of(pid),
        "host": socket.gethostname(),
        "started": time.time(),
        "updated": time.time(),
        "version": __version__,
        "log_dir": str(log_dir),
    }


def _start_of(pid: int) -> float | None:
    """When a process began, in seconds since 1970."""
    try:
        ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
        for line in Path("/proc/stat").read_text().splitlines():
            if line.startswith("btime "):
                return int(line.split()[1]) + ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        pass
    return None


def _in_other_words(fields: dict[str, Any]) -> dict[str, Any]:
    """What Kubeflow's trainer status (KEP-2779) calls by names of its own."""
    number = (fields["step"] or {}).get("number", 0)
    trained = 0.0 if number < 10 else (fields["progress"] or 0.0) if number == 10 else 1.0
    left, metric = fields["seconds_left"], fields["metric"]
    return {
        "progressPercentage": 100 if fields["state"] == "finished" else min(int(100 * trained), 99),
        "estimatedRemainingSeconds": None if left is None else round(left),
        "currentStep": fields["batch"],
        "totalSteps": fields["batches"],
        "currentEpoch": fields["epoch"],
        "totalEpochs": fields["epochs"],
        "trainMetrics": fields["losses"],
        "evalMetrics": {metric["name"]: metric["value"]} if metric else {},
    }


class Status:
    """Keeps log_dir/status.json up to date.

    `update` costs the training microseconds: the file is written by a thread, at most once a second. A change
    of state, which may be the last thing that a job does, is on disk when `update` returns. A file that
    cannot be written (the disk is full) is logged once and ends nothing. log_dir: None where another rank has it.
    """

    interval = 1.0  # seconds

    def __init__(self, log_dir: Path | None) -> None:
        self._path = log_dir / FILE if log_dir else None
        self._fields = _beginning(log_dir or Path())
        self._guard = threading.RLock()
        # Held while the disk is waited for, and by nobody who then asks for the guard: `update` never waits for it.
        self._writing = threading.RLock()
        self._versions = self._newest = 0
        self._written = -math.inf
        self._timer: threading.Timer | None = None
        self._failed = False
        self._listener: Callable[[dict[str, Any]], None] | None = None
        self._write()

    @property
    def state(self) -> State:
        """What the job is doing."""
        state: State = self._fields["state"]
        return state

    def listen(self, listener: Callable[[dict[str, Any]], None]) -> None:
        """Have `listener` told what stands in the file now, and whenever it is written."""
        with self._guard:
            self._listener = listener
            listener(self._document())

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
            if not urgent and self._timer is None:
                self._write_soon()
        if urgent:
            self._write()

    def end(self, end: JobError | str, rank: int | None = None) -> None:
        """The job failed (a JobError), or was stopped (text). rank: which of several did."""
        self.update(**ending_of(end, rank))

    def _document(self) -> dict[str, Any]:
        fields = {**self._fields, "warnings": warnings.told()}
        return {**fields, **_in_other_words(fields)}

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
        if self._timer is not None:
            self._write()
        with self._writing:  # by the timer's thread, which ends with the process
            pass

    def _write_later(self) -> None:
        with self._guard:
            # A timer that went off while somebody else was writing has nothing left to say.
            if self._timer is not threading.current_thread():
                return
        self._write()

    def _write(self) -> None:
        with self._guard:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            self._written = time.monotonic()
            self._versions += 1
            version, document = self._versions, self._document()
        with self._writing:
            if version < self._newest:  # a later one was faster
                return
            self._newest = version
            if self._listener is not None:
                self._listener(document)
            if self._path is None:
                return
            try:
                write_json(self._path, document)
            except OSError as error:
                if not self._failed:
                    _logger.warning(
                        "%s cannot be written, the job goes on: %s", self._path, error.strerror or error
                    )
                self._failed = True
