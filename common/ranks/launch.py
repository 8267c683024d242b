"""The other ranks of a job that was started as one process and asks for several GPUs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import Any

from common.errors import RankError
from common.ranks.place import STARTED_BY

_HERE = "here"


class Started:
    """Ranks 1, 2, … of `size` on this machine, started with this process's command line; they end with it.

    port: at which the store listens.
    """

    def __init__(self, size: int, port: int) -> None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("TORCHELASTIC")}
        common = {
            "WORLD_SIZE": str(size),
            "LOCAL_WORLD_SIZE": str(size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            STARTED_BY: str(os.getpid()),
        }
        self._processes = {
            rank: subprocess.Popen(
                [sys.executable, *sys.orig_argv[1:]],
                stdin=subprocess.DEVNULL,
                env={**inherited, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                start_new_session=True,  # Ctrl-C is for rank 0, which ends the others
            )
            for rank in range(1, size)
        }

    def wait_for(self, store: Any) -> None:
        """Return when all have come. Raises RankError where one has ended instead."""
        missing = [f"{_HERE}/{rank}" for rank in self._processes]
        while not store.check(missing):
            for rank, process in self._processes.items():
                if (status := process.poll()) is not None:
                    raise RankError(
                        f"ended with exit status {status} before it began; its reason stands above", rank
                    )
            time.sleep(0.1)


def say_here(store: Any, rank: int) -> None:
    """Let whoever started this rank know that it has come."""
    store.set(f"{_HERE}/{rank}", "1")
