"""The first moments of a fit script or a command, before anything is imported that takes time."""

import _signal  # type: ignore[import-not-found]  # `signal` itself takes as long to import as Python to start
import os
import time


def begin() -> None:
    """Go on as the job, in a child of this process, which stays and watches it (see `common.reporting.supervisor`)."""
    _signal.signal(_signal.SIGINT, _stop)
    from common.reporting.supervisor import supervise

    supervise()


def guard() -> None:
    """Have Ctrl-C end a command with one line until it can do so itself. In the background of a shell it is ignored."""
    if _signal.getsignal(_signal.SIGINT) != _signal.SIG_IGN:
        _signal.signal(_signal.SIGINT, _stop)


def age() -> float:
    """Seconds since this process began."""
    with open("/proc/self/stat") as file:
        began = float(file.read().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - began


def _stop(*_: object) -> None:
    os.write(2, b"stopped by SIGINT\n")
    os._exit(128 + _signal.SIGINT)
