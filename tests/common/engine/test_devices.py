"""What is said of devices before anything is loaded."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

import mxnet
import pytest

from common.engine import devices
from common.engine.device_code import mxnet_library
from common.engine.devices import Gpu, check_gpus, choose_engine, physical_cores, processors
from common.errors import DeviceError

AMPERE = Gpu(0, "A100", (8, 0))
ADA = Gpu(1, "L4", (8, 9))
HOPPER = Gpu(2, "H100", (9, 0))


def library(folder: Path, *pieces: tuple[int, int]) -> Path:
    """An ELF library with a piece of device code for each kind (1: PTX, 2: machine code) and capability."""
    code = b"".join(
        struct.pack("<HHIQIIIIQ", kind, 0x101, 64, 24, 0, 0, 0, capability, 64).ljust(64, b"\0")
        + b"\x90" * 24
        for kind, capability in pieces
    )
    half = len(code) // 2 // 88 * 88
    section = b"".join(
        struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(part)) + part + b"\0" * 8
        for part in (code[:half], code[half:])
    )
    names = b"\0.shstrtab\0.nv_fatbin\0"
    headers = [(0, 0, 0, 0, 0, 0), (1, 3, 0, 0, 64, len(names)), (11, 1, 0, 0, 64 + len(names), len(section))]
    table = b"".join(struct.pack("<IIQQQQ", *header).ljust(64, b"\0") for header in headers)
    start = bytearray(64)
    start[:5] = b"\x7fELF\x02"
    struct.pack_into("<Q", start, 0x28, 64 + len(names) + len(section))
    struct.pack_into("<HHH", start, 0x3A, 64, len(headers), 1)
    path = folder / "libmxnet.so"
    path.write_bytes(bytes(start) + names + section + table)
    return path


PUBLISHED = ((2, 50), (2, 60), (2, 70), (2, 80), (2, 86))


def test_gpus_that_are_there_and_can_be_served_pass(tmp_path: Path) -> None:
    check_gpus([0, 1], [AMPERE, ADA], library(tmp_path, *PUBLISHED))
    check_gpus([], [])


@pytest.mark.parametrize(("visible", "shown"), [([], "none"), ([AMPERE], "0: A100 (compute capability 8.0)")])
def test_a_gpu_that_is_not_there_is_named_with_what_is_and_the_way_to_the_cpu(
    visible: list[Gpu], shown: str
) -> None:
    with pytest.raises(DeviceError) as caught:
        check_gpus([0, 3], visible)
    assert "3" in str(caught.value)
    assert shown in str(caught.value)
    assert "gpus: []" in str(caught.value)


def test_a_gpu_that_mxnet_holds_no_code_for_is_recognised(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"H100.*capability 5\.0, 6\.0, 7\.0, 8\.0, 8\.6;") as caught:
        check_gpus([2], [AMPERE, ADA, HOPPER], library(tmp_path, *PUBLISHED))
    assert "A100" not in str(caught.value)


@pytest.mark.parametrize("own", [((2, 80), (2, 90)), ((2, 86), (1, 86)), ((1, 50),)])
def test_an_owners_build_for_a_newer_gpu_is_taken_at_its_word(
    tmp_path: Path, own: tuple[tuple[int, int], ...]
) -> None:
    check_gpus([2], [AMPERE, ADA, HOPPER], library(tmp_path, *own))


def test_machine_code_of_a_newer_gpu_of_the_same_generation_does_not_serve(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="A100"):
        check_gpus([0], [AMPERE], library(tmp_path, (2, 86), (1, 90)))


def test_a_library_that_does_not_show_its_code_refuses_nothing(tmp_path: Path) -> None:
    path = library(tmp_path, *PUBLISHED)
    whole = path.read_bytes()
    for content in (
        b"",
        b"text" * 100,
        whole[:64],
        whole[:-64],
        whole[:100],
        whole[:40] + b"\xff" * 24 + whole[64:],
    ):
        path.write_bytes(content)
        check_gpus([2], [AMPERE, ADA, HOPPER], path)
    check_gpus([2], [AMPERE, ADA, HOPPER], tmp_path / "none")


@pytest.mark.parametrize(
    ("asked", "gpu", "computes"),
    [
        ("auto", None, "mxnet"),
        ("auto", AMPERE, "mxnet"),
        ("auto", HOPPER, "torch"),
        ("torch", None, "torch"),
        ("torch", AMPERE, "torch"),
        ("mxnet", None, "mxnet"),
        ("mxnet", AMPERE, "mxnet"),
    ],
)
def test_mxnet_computes_where_it_has_code_and_else_pytorch_unless_one_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str, gpu: Gpu | None, computes: str
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    gpus = [] if gpu is None else [gpu.index]
    assert choose_engine(asked, gpus, [AMPERE, ADA, HOPPER], library(tmp_path, *PUBLISHED)) == computes


def test_an_engine_that_cannot_compute_is_refused_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, visible = library(tmp_path, *PUBLISHED), [AMPERE, ADA, HOPPER]
    with pytest.raises(
        DeviceError, match=r"holds no code for 2: .*PyTorch has it \(the image with VARIANT=torch"
    ):
        choose_engine("mxnet", [2], visible, path)
    with pytest.raises(DeviceError, match=r"\[3\] asked for and not there"):
        choose_engine("auto", [3], visible, path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DeviceError, match="holds no code for"):
        choose_engine("auto", [2], visible, path)
    with pytest.raises(DeviceError, match="PyTorch is not installed here"):
        choose_engine("torch", [], visible, path)


def test_the_library_that_is_asked_is_mxnets() -> None:
    path = mxnet_library()
    assert path is not None
    assert str(path) == mxnet.libinfo.find_lib_path()[0]


def loaded(program: str, **variables: str) -> list[str]:
    """What a process with these environment variables alone prints that loads MXNet and runs `program`."""
    process = subprocess.run(
        [sys.executable, "-c", f"from common.engine.devices import load_mxnet; load_mxnet(); {program}"],
        env={"PATH": os.environ["PATH"], **variables},
        cwd=Path(devices.__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    return process.stdout.split()


@pytest.mark.slow
def test_all_cores_compute_unless_the_environment_says_otherwise() -> None:
    program = "import os; print(os.environ['OMP_NUM_THREADS'], os.environ['MXNET_CPU_TEMP_COPY'])"
    assert loaded(program) == [str(physical_cores()), "1"]
    assert loaded(program, OMP_NUM_THREADS="7", MXNET_CPU_TEMP_COPY="2") == ["7", "2"]


def test_copies_take_no_threads_that_would_put_those_that_compute_to_sleep() -> None:
    # libgomp lets threads wait awake for each other as long as it has no more of them than there are processors.
    copy = "x = mx.nd.zeros(1 << 20); x.wait_to_read(); print(threads()); x[:] = np.ones(1 << 20, np.float32)"
    count = "import os, numpy as np, mxnet as mx; threads = lambda: len(os.listdir('/proc/self/task'))"
    before, after = loaded(f"{count}; {copy}; print(threads())", OMP_NUM_THREADS="2")
    assert before == after


def test_mxnet_and_gluoncv_come_without_scipy_which_is_there_for_others() -> None:
    shown = "print(*(name in sys.modules for name in ('mxnet', 'gluoncv', 'scipy', 'scipy.io')))"
    program = f"import sys; {shown}; import scipy.io, scipy.stats; print(callable(scipy.io.loadmat))"
    assert loaded(program) == ["True", "True", "False", "False", "True"]


def test_processors_are_those_of_the_affinity_within_the_containers_share(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
    texts = {"/sys/fs/cgroup/cpu.max": "max 100000"}

    def read(path: Path) -> str:
        if str(path) in texts:
            return texts[str(path)]
        raise FileNotFoundError(path)

    monkeypatch.setattr(devices.Path, "read_text", read)
    assert processors() == 4
    texts["/sys/fs/cgroup/cpu.max"] = "150000 100000"
    assert processors() == 2
    texts["/sys/fs/cgroup/cpu.max"] = "max 100000"
    texts["/proc/self/cgroup"] = "0::/jobs/one\n"  # its own group has no limit, the one above it has
    texts["/sys/fs/cgroup/jobs/one/cpu.max"] = "max 100000"
    texts["/sys/fs/cgroup/jobs/cpu.max"] = "300000 100000"
    assert processors() == 3
    texts.clear()
    texts["/proc/self/cgroup"] = "4:memory:/m\n3:cpu,cpuacct:/jobs\n"  # version 1
    texts["/sys/fs/cgroup/cpu/jobs/cpu.cfs_quota_us"] = "50000\n"
    texts["/sys/fs/cgroup/cpu/jobs/cpu.cfs_period_us"] = "100000\n"
    assert processors() == 1
    texts["/sys/fs/cgroup/cpu/jobs/cpu.cfs_quota_us"] = "-1\n"
    assert processors() == 4
    for number in range(4):
        siblings = f"/sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list"
        texts[siblings] = "0,2" if number % 2 == 0 else "1,3"
    texts["/sys/fs/cgroup/cpu.max"] = "max 100000"
    assert physical_cores() == 2


def test_threads_are_those_that_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    devices.use_all_cores()
    assert os.environ["OMP_NUM_THREADS"] == "5"
    devices.use_all_cores(3)
    assert os.environ["OMP_NUM_THREADS"] == "3"


def test_a_machine_without_a_driver_shows_no_gpu() -> None:
    if Path("/dev/nvidia0").exists():
        pytest.skip("this machine has a GPU")
    assert devices.visible_gpus() == []
