"""How much memory there is for a training, and how much of it a step takes."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

_KIB = 1024


class Gauge:
    """Measures the memory of the devices of a training: of each GPU, else of this process.

    gpus: their ids; none: the CPU. engine: who computes there, "mxnet" or "torch".
    """

    def __init__(self, gpus: Sequence[int], root: Path = Path("/"), engine: str = "mxnet") -> None:
        self._gpus = list(gpus)
        by_torch = engine == "torch"
        self._of_gpu = _of_gpu_by_torch if by_torch else _of_gpu
        self._empty_cache = _empty_cache_by_torch if by_torch else _empty_cache
        self._root = root

    def free(self) -> int:
        """Bytes that can still be had: of the GPU that has the least, or of the machine and the limits of its
        container."""
        if self._gpus:
            return min(self._of_gpu(gpu)[0] for gpu in self._gpus)
        available = _field(self._root / "proc/meminfo", "MemAvailable")
        rooms = [room for group in _memory_groups(self._root) if (room := _room(group)) is not None]
        return min([available, *rooms])

    def reset(self) -> None:
        """Begin a measurement. What engines keep of GPUs' memory to use it again, they give back."""
        if self._gpus:
            for gpu in self._gpus:
                self._empty_cache(gpu)
            self._before = [self._of_gpu(gpu)[0] for gpu in self._gpus]
            return
        with contextlib.suppress(OSError):
            (self._root / "proc/self/clear_refs").write_text("5")  # the peak is what there is now
        self._before = [_field(self._root / "proc/self/status", "VmRSS")]

    def taken(self) -> int:
        """Bytes more than at the last `reset` that were taken at the most since then, of the GPU with the most."""
        if self._gpus:
            return max(
                before - self._of_gpu(gpu)[0] for gpu, before in zip(self._gpus, self._before, strict=True)
            )
        return max(_field(self._root / "proc/self/status", "VmHWM") - self._before[0], 0)


def _of_gpu(gpu: int) -> tuple[int, int]:
    """Free and total bytes."""
    import mxnet as mx

    free, total = mx.context.gpu_memory_info(gpu)
    return int(free), int(total)


def _of_gpu_by_torch(gpu: int) -> tuple[int, int]:
    import torch

    free, total = torch.cuda.mem_get_info(gpu)
    return int(free), int(total)


def _empty_cache(gpu: int) -> None:
    import mxnet as mx

    mx.nd.waitall()  # what is deleted behind it is deleted by MXNet's threads
    mx.gpu(gpu).empty_cache()


def _empty_cache_by_torch(gpu: int) -> None:
    import torch

    with torch.cuda.device(gpu):
        torch.cuda.empty_cache()


def _field(file: Path, name: str) -> int:
    """A figure of a file of /proc that is in kB, in bytes."""
    for line in file.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * _KIB
    return 0


def _memory_groups(root: Path) -> list[Path]:
    """Folders of the control groups that limit this process' memory, as far as they are seen from here."""
    mount = root / "sys/fs/cgroup"
    groups = [mount, mount / "memory"]
    with contextlib.suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers in ("", "memory"):
                top = mount / controllers
                inner = path.strip("/").split("/")
                groups += [top.joinpath(*inner[: count + 1]) for count in range(len(inner))]
    return groups


def _room(group: Path) -> int | None:
    """What a control group has left, what it holds of files aside; None: it has no limit."""
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        with contextlib.suppress(OSError, ValueError):
            most = int((group / limit).read_text())  # "max": ValueError
            if most >= 1 << 60:  # version 1's word for none
                return None
            inactive = 0
            with contextlib.suppress(OSError, ValueError, StopIteration):
                lines = (group / "memory.stat").read_text().splitlines()
                inactive = int(next(line.split()[1] for line in lines if line.startswith("inactive_file ")))
            return max(most - int((group / used).read_text()) + inactive, 0)
    return None
