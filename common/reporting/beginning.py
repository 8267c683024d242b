"""The first moments of a fit script, before anything is imported that takes time."""

import _signal  # type: ignore[import-not-found]  # `signal` itself takes as long to import as Python to start
import os


def begin() -> None:
    """Go on as the job, in a child of this process, which stays and watches it (see `common.reporting.supervisor`)."""
    _signal.signal(_signal.SIGINT, _stop)
    from common.reporting.supervisor import supervise

    supervise()


def _stop(*_: object) -> None:
    os.write(2, b"stopped by SIGINT\n")
    os._exit(128 + _signal.SIGINT)
