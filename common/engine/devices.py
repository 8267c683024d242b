"""The devices of a job: what is visible, and whether it can be used, said before anything is loaded."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.util
import math
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from common.engine.device_code import device_code, mxnet_library
from common.errors import DeviceError
from common.ranks.place import Place

# How often a thread looks whether others have come before it sleeps: a tenth of a millisecond, what waking takes.
_SPINS = 5000


@dataclass(frozen=True)
class Gpu:
    """A GPU as the driver shows it."""

    index: int
    name: str
    capability: tuple[int, int]

    def __str__(self) -> str:
        return f"{self.index}: {self.name} (compute capability {self.capability[0]}.{self.capability[1]})"


def visible_gpus() -> list[Gpu]:
    """The GPUs that the driver shows to this process; none where there is no driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        if driver.cuInit(0) != 0:
            return []
        count = ctypes.c_int()
        if driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
            return []
        return [_describe(driver, index) for index in range(count.value)]
    except (OSError, AttributeError):
        return []


def _describe(driver: Any, index: int) -> Gpu:
    name = ctypes.create_string_buffer(128)
    driver.cuDeviceGetName(name, len(name), index)
    numbers = []
    for attribute in (75, 76):  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR
        number = ctypes.c_int()
        driver.cuDeviceGetAttribute(ctypes.byref(number), attribute, index)
        numbers.append(number.value)
    return Gpu(index, name.value.decode(errors="replace"), (numbers[0], numbers[1]))


def best_gpus() -> list[int]:
    """The first GPU that MXNet has code for, as a list; none where there is none."""
    visible = visible_gpus()
    for gpu in visible:
        with contextlib.suppress(DeviceError):
            check_gpus([gpu.index], visible)
            return [gpu.index]
    return []


def choose_engine(
    asked: str,
    gpus: Sequence[int],
    visible: Sequence[Gpu],
    library: Path | None = None,
    *,
    ranks: int = 1,
) -> str:
    """Who computes: "mxnet" or "torch". Loads neither. Raises DeviceError.

    asked: one of these, or "auto": MXNet where it holds code for the GPUs, else PyTorch where that is installed, else
    the error that MXNet would give. library: as for `check_gpus`. ranks: that train together; PyTorch alone can.
    """
    installed = importlib.util.find_spec("torch") is not None
    if ranks > 1 and (asked == "mxnet" or not installed):
        raise DeviceError(
            f"engine: {asked} with {ranks} ranks (WORLD_SIZE): MXNet trains in one process; let PyTorch compute "
            + ("(engine: torch)" if installed else "(engine: torch), which is not installed here")
            + ", or start the script without torchrun"
        )
    if asked == "torch" and not installed:
        raise DeviceError(
            "engine: torch asked for, and PyTorch is not installed here: install it (the image with VARIANT=torch has "
            "it), or let MXNet compute (engine: mxnet)"
        )
    library = library or mxnet_library()
    code = device_code(library) if library else None
    served = code and all(index < len(visible) and code.serves(visible[index].capability) for index in gpus)
    if asked == "torch" or ranks > 1 or (asked == "auto" and gpus and installed and not served):
        check_visible(gpus, visible)
        return "torch"
    check_gpus(gpus, visible, library)
    return "mxnet"


_ON_THE_CPU = "`gpus: []` (--set 'gpus=[]') trains on the CPU"


def check_visible(gpus: Sequence[int], visible: Sequence[Gpu], remedy: str = _ON_THE_CPU) -> None:
    """Raise DeviceError unless every id of `gpus` is visible."""
    shown = "; ".join(str(gpu) for gpu in visible) or "none"
    missing = [index for index in gpus if index >= len(visible)]
    if missing:
        raise DeviceError(f"gpus: {missing} asked for and not there; visible GPUs: {shown}; {remedy}")


def check_gpus(
    gpus: Sequence[int],
    visible: Sequence[Gpu],
    library: Path | None = None,
    remedy: str = _ON_THE_CPU,
) -> None:
    """Raise DeviceError unless every id of `gpus` is visible and MXNet has code for it. Loads no framework.

    library: MXNet's; the one that is installed unless given. Where it does not show what it has code for, nothing is
    refused here, and CUDA has the last word. remedy: what else the user can do.
    """
    if not gpus:
        return
    check_visible(gpus, visible, remedy)
    library = library or mxnet_library()
    code = device_code(library) if library else None
    unserved = [visible[index] for index in gpus if code and not code.serves(visible[index].capability)]
    if unserved:
        raise DeviceError(
            f"gpus: MXNet, as it is installed here, holds no code for {'; '.join(map(str, unserved))}, but for compute "
            f"capability {code}; PyTorch has it (the image with VARIANT=torch; see engine), or an MXNet wheel that was "
            f"built for it (--build-arg MXNET=); {remedy}"
        )


def gpus_by_local_rank(gpus: Sequence[int], local_size: int) -> list[int]:
    """The GPU of each rank of a machine: those of `gpus` or, where it names the first alone, as it does by default, the
    first ones. None for the CPU. Raises DeviceError."""
    if not gpus or len(gpus) == local_size:
        return list(gpus)
    if list(gpus) == [0]:
        return list(range(local_size))
    raise DeviceError(
        f"gpus: {list(gpus)} names {len(gpus)} GPUs, and {local_size} ranks were started on this machine: name one for "
        "each of them, or leave it at [0] for the first ones"
    )


def own_gpus(gpus: Sequence[int], place: Place) -> list[int]:
    """The GPU of this rank, as a list; where the job is alone, all of `gpus`. Raises DeviceError."""
    if place.size == 1 or not gpus:
        return list(gpus)
    return [gpus_by_local_rank(gpus, place.local_size)[place.local_rank]]


def contexts(gpus: Sequence[int]) -> list[Any]:
    """MXNet contexts of the GPU ids, or of the CPU for none. Raises DeviceError if this MXNet has no CUDA."""
    import mxnet as mx

    if not gpus:
        return [mx.cpu()]
    if not mx.runtime.Features().is_enabled("CUDA"):
        raise DeviceError(
            f"gpus: {list(gpus)} asked for, but the MXNet installed here ({mx.__version__}) is for the CPU alone; "
            "install a CUDA build, or train on the CPU with `gpus: []` (--set 'gpus=[]')"
        )
    return [mx.gpu(index) for index in gpus]


def processors(root: Path = Path("/")) -> int:
    """Logical processors that this process may use: by its affinity, and by its container's share of time.

    root: where /proc and /sys are found.
    """
    count = len(os.sched_getaffinity(0))
    shares = [share for share in map(_share, _cpu_groups(root)) if share]
    return max(min([count, *map(math.ceil, shares)]), 1)


def _cpu_groups(root: Path) -> Iterator[Path]:
    """The control groups that limit this process: its own and those above it, as far as they are seen from here."""
    mount = root / "sys/fs/cgroup"
    yield mount  # of a container, whose own group is the root of what it sees
    with contextlib.suppress(OSError, ValueError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, name = line.split(":", 2)
            if controllers and "cpu" not in controllers.split(","):
                continue
            top = mount / "cpu" if controllers else mount
            group = top / name.lstrip("/")
            yield from (group, *(parent for parent in group.parents if parent.is_relative_to(top)))


def _share(group: Path) -> float | None:
    """Processors' worth of time that a control group has, None for no limit."""
    with contextlib.suppress(OSError, ValueError):
        quota, period = (group / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    with contextlib.suppress(OSError, ValueError):
        quota, period = (
            (group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period")
        )  # version 1
        return int(quota) / int(period) if int(quota) > 0 else None
    return None


def physical_cores() -> int:
    """Processors that this process may use, those that share a core counted once."""
    cores = set()
    for processor in os.sched_getaffinity(0):
        try:
            siblings = Path(
                f"/sys/devices/system/cpu/cpu{processor}/topology/thread_siblings_list"
            ).read_text()
        except OSError:
            siblings = str(processor)
        cores.add(siblings)
    return min(len(cores), processors())


def use_all_cores(threads: int | None = None) -> None:
    """Let MXNet compute with so many threads; None: on every core that it may use. Left alone it takes half of the
    processors, which is right only where two of them share a core. Must come before MXNet is imported; OMP_NUM_THREADS,
    where it is set, stays as it is unless `threads` says otherwise."""
    if threads:
        os.environ["OMP_NUM_THREADS"] = str(threads)
    else:
        os.environ.setdefault("OMP_NUM_THREADS", str(physical_cores()))


def _let_devices_wait() -> None:
    """Let MXNet's operators that wait for those of other devices, as SyncBatchNorm does, not keep these from running.

    They hold a thread and a temporary memory of their device meanwhile. Branches of a network are computed in any
    order: where two devices began with different ones and have a single thread or memory each, both wait for ever
    (seen on CPU devices, in YOLOv3's backward pass, with one memory).
    """
    for kind in ("CPU", "GPU"):
        os.environ[f"MXNET_{kind}_TEMP_COPY"] = "16"
        os.environ[f"MXNET_{kind}_WORKER_NTHREADS"] = "4"


@contextlib.contextmanager
def _meeting_awake() -> Iterator[None]:
    """Within the block MXNet is imported so that threads which compute an operator together meet without having slept.

    An operator is divided among them, and they meet at its end, in a step of a detector two thousand times. libgomp has
    threads look out for each other before they sleep, but for no time worth speaking of once it has more of them than
    there are processors. MXNet's copies of large arrays make it so: they too are divided, among threads of whoever
    asks for them, here the main thread. Not divided they take as long. What waits awake for a thread that has no
    processor, because the machine has other work, is lost to it: so it is not for long. Other libraries that compute
    have a libgomp of their own, which does as it always does.
    """
    os.environ.setdefault("MXNET_CPU_PARALLEL_SIZE", str(2**31 - 1))
    unsaid = "GOMP_SPINCOUNT" not in os.environ
    os.environ.setdefault("GOMP_SPINCOUNT", str(_SPINS))
    try:
        yield
    finally:
        if unsaid:
            del os.environ["GOMP_SPINCOUNT"]


def load_mxnet(threads: int | None = None, *, synchronised: bool = False) -> None:
    """Import MXNet and GluonCV as jobs need them, where they are not imported yet.

    MXNet computes on every core, and its operators share one temporary memory instead of four, which costs no time;
    variables of the environment that are set stay as they are. Both come without SciPy, which takes 38 MB and a sixth
    of the time: MXNet asks for it on behalf of sparse arrays and quantization, and does without it where it is missing;
    GluonCV for a reader of files that jobs have none of. GluonCV refuses to be imported where it sees PyTorch 2: it
    sees none. A crash in native code stays the signal that it is: MXNet's own handlers would end the process with
    status 255. synchronised: devices will wait for one another in the middle of a network, which takes memory for
    workspaces.
    """
    use_all_cores(threads)
    if synchronised:
        _let_devices_wait()
    os.environ.setdefault("MXNET_CPU_TEMP_COPY", "1")
    os.environ.setdefault("MXNET_SUBGRAPH_VERBOSE", "0")  # else it prints a line whenever it binds a graph
    with _meeting_awake(), _without("torch"):
        if "scipy" in sys.modules:
            importlib.import_module("gluoncv")
        else:
            stands_in = ModuleType("scipy")
            with _without("scipy"):
                importlib.import_module("mxnet")
                sys.modules["scipy"] = sys.modules["scipy.io"] = stands_in
                importlib.import_module("gluoncv")
            sys.modules.pop("scipy.io", None)
    _leave_crashes_alone()


@contextlib.contextmanager
def _without(package: str) -> Iterator[None]:
    """Within the block, to import a package fails as if it were not installed."""
    imported = sys.modules.pop(package, None)
    sys.modules[package] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[package]
        if imported is not None:
            sys.modules[package] = imported


def _leave_crashes_alone() -> None:
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE):
            signal.signal(number, signal.SIG_DFL)


def return_memory() -> None:
    """Give the system what this process has freed. glibc keeps it otherwise, in pieces that may fit nothing later."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def check_bfloat16(key: str, remedy: str) -> None:
    """Raise DeviceError, which names the key that asks for it, unless the processor multiplies bfloat16."""
    if not bfloat16_supported():
        raise DeviceError(
            f"{key}: this processor has no bfloat16 (avx512_bf16 or amx_bf16): it would only be slower; {remedy}"
        )


def bfloat16_supported() -> bool:
    """Whether the processor multiplies bfloat16 (avx512_bf16 or amx_bf16)."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            flags = next((line for line in file if line.startswith("flags")), "").split()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags
