"""The names that a job writes in log_dir: a folder that has one of them is in the way."""

from __future__ import annotations

from pathlib import Path

from common.errors import LogDirNameError
from common.reporting import log, provenance, status
from common.reporting.warnings import warn

#: Files of every job without which it has not done what it is for.
NEEDED = (
    log.FILE,
    status.FILE,
    "data_report.json",
    "training_state.pkl",
    "best_checkpoint.pkl",
    "valid_data_result.json",
    "test_data_result.json",
    "valid_evaluation.json",
    "test_evaluation.json",
    "model.json",
)

#: Files that it can do without.
FURTHER = ("report.html", provenance.FILE)


def is_folder(path: Path) -> bool:
    """Whether `path` is a folder and no link to one, in whose place a file can be put."""
    return path.is_dir() and not path.is_symlink()


def check_names(log_dir: Path) -> None:
    """Raise LogDirNameError where a folder has the name of a file that the job needs; warn of others."""
    for name in NEEDED:
        require_no_folder(log_dir / name)
    for name in FURTHER:
        if is_folder(log_dir / name):
            warn(f"{log_dir / name} is a folder: the job's file of this name will not be written")


def require_no_folder(path: Path) -> None:
    """Raise LogDirNameError if `path` is a folder."""
    if is_folder(path):
        raise LogDirNameError(f"{path}: is a folder, and the job writes a file of this name; move it away")
