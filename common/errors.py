"""The errors a job may end with. Each is one line, written for the person who reads the log."""

from __future__ import annotations

from pathlib import Path


class JobError(Exception):
    """A reason for which a job ends: what was wrong, where, and what would be right.

    `kind` is the machine-readable class of the reason, as it stands in `status.json`:

    ============== ==========================================================
    configuration  the command line or the configuration file
    data           images and annotations
    device         GPUs that are not there or cannot be served
    checkpoint     a file given with --load
    pretrained     pretrained parameters that are missing or wrong
    model          a finished model that is to be used and cannot be
    log_dir        the output folder cannot be used
    port           the progress port cannot be used
    worker         a data worker died
    training       the numbers went wrong
    memory         memory ran out
    stopped        SIGTERM or SIGINT
    internal       a defect of this software
    ============== ==========================================================
    """

    kind = "internal"
    exit_status = 1


class ConfigurationError(JobError):
    """All errors of a configuration at once; the message has one line for each.

    log_dir: of the configuration, where that at least is right: the place to note the failure in. None: there is none.
    """

    kind = "configuration"
    exit_status = 2

    def __init__(self, message: str, log_dir: Path | None = None) -> None:
        super().__init__(message)
        self.log_dir = log_dir


class DataError(JobError):
    """Annotations or images with which a job cannot go on."""

    kind = "data"


class DeviceError(JobError):
    """A device was asked for that cannot be used."""

    kind = "device"


class CheckpointError(JobError):
    """A checkpoint that is not one, or not one for this job."""

    kind = "checkpoint"


class PretrainedError(JobError):
    """Pretrained parameters that cannot be found or do not fit."""

    kind = "pretrained"


class ModelError(JobError):
    """A finished model that cannot be opened."""

    kind = "model"


class LogDirError(JobError):
    """The output folder cannot be used."""

    kind = "log_dir"


class PortError(JobError):
    """The progress server cannot be reached on its port."""

    kind = "port"


class WorkerError(JobError):
    """Data workers died again and again."""

    kind = "worker"


class TrainingError(JobError):
    """Training cannot go on, for instance because the loss is no longer finite."""

    kind = "training"


class MemoryLimitError(JobError):
    """Memory of the machine or of a GPU ran out."""

    kind = "memory"
