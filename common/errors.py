"""The errors a job may end with. Each is one line, written for the person who reads the log."""

from __future__ import annotations

import re
from pathlib import Path

# What MXNet, CUDA's libraries and the C++ runtime say when memory runs out.
_MEMORY = re.compile(
    r"out of memory|bad_alloc|can(?:no|')t allocate|failed to allocate|failed to map segment|ALLOC_FAILED|cudaMalloc",
    re.I,
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of any library says that memory has run out."""
    return isinstance(error, MemoryError) or _MEMORY.search(str(error)) is not None


def one_line(text: str) -> str:
    """`text` with what a terminal cannot show, line ends above all, written as escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shortened(text: str) -> str:
    """`text` on one line, without its middle if it is long."""
    written = one_line(text if len(text) <= 200 else f"{text[:100]}{text[-100:]}")
    return written if len(written) <= 80 and len(text) <= 200 else f"{written[:70]}…{written[-8:]}"


def shortened_path(text: str) -> str:
    """A path in full, unless it is longer than anybody reads."""
    return text if len(text) <= 300 else shortened(text)


class JobError(Exception):
    """A reason for which a job ends: what was wrong, where, and what would be right.

    `kind` is the machine-readable class of the reason, as it stands in `status.json`; `retry` says whether the same
    job may succeed when it is started again, as it is, and the exit status follows from it:

    ============== ====== ====== ===============================================================
    kind           retry  status
    ============== ====== ====== ===============================================================
    configuration  no     2      the command line or the configuration file
    data           no     3      images and annotations
    checkpoint     no     3      a file given with --load, or a training state
    pretrained     no     3      pretrained parameters that are damaged, of another network or unknown
    pretrained     yes    1      pretrained parameters that are missing and could not be fetched
    model          no     3      a finished model that is to be used and cannot be
    training       no     3      the numbers went wrong
    device         yes    1      GPUs that are not there or cannot be served
    log_dir        yes    1      the output folder cannot be used, or its disk is full
    log_dir        no     3      a folder has the name of a file that the job writes
    port           yes    1      the progress port cannot be used
    worker         yes    1      data workers died again and again
    memory         yes    1      memory ran out (128 + n where the system ended the process)
    internal       yes    1      a defect of this software
    crash          yes    128+n  native code ended the process
    killed         yes    137    somebody ended the process with SIGKILL
    rank           yes    1      another rank of the training is gone, or cannot be reached
    stopped        yes    128+n  SIGTERM, SIGINT or SIGHUP
    ============== ====== ====== ===============================================================
    """

    kind = "internal"
    retry = True

    @property
    def exit_status(self) -> int:
        """That of a process that ends for this reason."""
        return 1 if self.retry else 3


class ConfigurationError(JobError):
    """All errors of a configuration at once; the message has one line for each.

    log_dir: of the configuration, where that at least is right: the place to note the failure in. None: there is none.
    """

    kind = "configuration"
    retry = False
    exit_status = 2

    def __init__(self, message: str, log_dir: Path | None = None) -> None:
        super().__init__(message)
        self.log_dir = log_dir


class DataError(JobError):
    """Annotations or images with which a job cannot go on."""

    kind = "data"
    retry = False


class DeviceError(JobError):
    """A device was asked for that cannot be used."""

    kind = "device"


class CheckpointError(JobError):
    """A checkpoint that is not one, or not one for this job."""

    kind = "checkpoint"
    retry = False


class PretrainedError(JobError):
    """Pretrained parameters that are damaged, do not fit, or are not known."""

    kind = "pretrained"
    retry = False


class FetchError(PretrainedError):
    """Pretrained parameters that are not here and could not be fetched."""

    retry = True


class ModelError(JobError):
    """A finished model that cannot be opened."""

    kind = "model"
    retry = False


class LogDirError(JobError):
    """The output folder cannot be used."""

    kind = "log_dir"


class LogDirNameError(LogDirError):
    """A folder in log_dir has the name of a file that the job writes."""

    retry = False


class PortError(JobError):
    """The progress server cannot be reached on its port."""

    kind = "port"


class WorkerError(JobError):
    """Data workers died again and again."""

    kind = "worker"


class TrainingError(JobError):
    """Training cannot go on, for instance because the loss is no longer finite."""

    kind = "training"
    retry = False


class MemoryLimitError(JobError):
    """Memory of the machine or of a GPU ran out."""

    kind = "memory"


class CrashError(JobError):
    """Native code ended the process."""

    kind = "crash"


class KilledError(JobError):
    """Somebody ended the process without asking it."""

    kind = "killed"


class RankError(JobError):
    """Another rank failed, and the job with it.

    rank: its number, which begins the message; kind, retry, exit_status: as it has told them.
    """

    kind = "rank"

    def __init__(
        self,
        message: str,
        rank: int | None = None,
        kind: str = "rank",
        retry: bool = True,
        exit_status: int = 1,
    ) -> None:
        super().__init__(message if rank is None else f"rank {rank}: {message}")
        self.rank = rank
        self.kind, self.retry = kind, retry
        self._exit_status = exit_status

    @property
    def exit_status(self) -> int:
        return self._exit_status
