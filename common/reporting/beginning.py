"""The first moments of a fit script, before anything is imported that takes time."""

import _signal  # type: ignore[import-not-found]  # `signal` itself takes as long to import as Python to start
import os
import time


def begin() -> None:
    """Go on as the job, in a child of this process, which stays and watches it (see `common.reporting.supervisor`)."""
    _signal.signal(_signal.SIGINT, _stop)
    from common.reporting.supervisor import supervise

    supervise()


def age() -> float:
    """Seconds since this process began."""
    with open("/proc/self/stat") as file:
        began = float(file.read().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - began


def _stop(*_: object) -> None:
    os.write(2, b"stopped by SIGINT\n")
    os._exit(128 + _signal.SIGINT)
