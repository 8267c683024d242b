"""What the supervisor writes in the place of a job that could not say how it ended."""

from __future__ import annotations

import contextlib
from pathlib import Path

from common.errors import JobError
from common.reporting.lock import lock
from common.reporting.log import Format, last_words, open_console, open_log
from common.reporting.status import mark


def write_down(log_dir: Path | None, end: JobError | str, form: Format) -> None:
    """Into status.json and estimator.log of `log_dir` (None: it was not known yet), and to the console.

    A folder that another job has taken since is left alone.
    """
    open_console(form)
    if log_dir is not None:
        with contextlib.suppress(JobError, OSError), lock(log_dir):
            with contextlib.suppress(OSError):  # where the disk is full the log may have room for a line
                mark(log_dir, end)
            open_log(log_dir, form, headline=False)
            last_words(end)
            return
    last_words(end)
