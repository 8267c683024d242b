"""What the supervisor writes in the place of a job that could not say how it ended."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from pathlib import Path

from common.errors import JobError
from common.ranks.ends import End
from common.ranks.notices import give_notice
from common.reporting.lock import lock
from common.reporting.log import Format, last_words, open_console, open_log
from common.reporting.status import FILE as STATUS
from common.reporting.status import mark

# Seconds for telling other ranks.
_TELLING = 6.0

# Seconds in which a rank 0's own supervisor has written down why it ended, where there still is one.
_ITS_OWN_WORDS = 2.0


def write_down(log_dir: Path | None, end: JobError | str, form: Format, rank: int | None = None) -> None:
    """Into status.json and estimator.log of `log_dir` (None: it was not known yet), and to the console. rank: which of
    several ended so.

    A folder that another job has taken since is left alone.
    """
    open_console(form)
    if log_dir is not None:
        with contextlib.suppress(JobError, OSError), lock(log_dir):
            with contextlib.suppress(OSError):  # where the disk is full the log may have room for a line
                mark(log_dir, end, rank)
            open_log(log_dir, form, headline=False)
            last_words(end)
            return
    last_words(f"rank {rank}: {end}" if rank else end)


def write_down_for_another(log_dir: Path, end: JobError) -> None:
    """Into status.json and estimator.log of a job whose rank 0, with all that watched it, is gone; where its log_dir is
    shared with this machine, and nobody has said yet how it ended."""
    if not (log_dir / STATUS).exists():
        return
    time.sleep(_ITS_OWN_WORDS)
    with contextlib.suppress(JobError, OSError), lock(log_dir):
        if mark(log_dir, end, 0, of_any=True):
            open_log(log_dir, headline=False)
            last_words(end)


def tell_first(notices: str | None, rank: int, end: JobError | str, exit_status: int) -> bool:
    """Tell rank 0 why this one has ended. notices: where, if it has come to know that. Returns whether it was heard."""
    return notices is not None and give_notice(notices, End.of(rank, end, exit_status))


def tell_ranks(rank: int, end: JobError | str, exit_status: int) -> None:
    """Tell the other ranks why this one has ended, where rank 0 cannot be told (it is this one, or they had not met):
    by the store, in a process of its own, for what it takes is imported for that."""
    text = End.of(rank, end, exit_status).to_text()
    root = Path(__file__).resolve().parents[2]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        subprocess.run(
            [sys.executable, "-m", "common.ranks.report", text],
            cwd=root,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_TELLING,
        )
