"""What is said of devices before anything is loaded."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from common import devices
from common.devices import Gpu, check_gpus, physical_cores, processors, use_all_cores
from common.errors import DeviceError

AMPERE = Gpu(0, "A100", (8, 0))
ADA = Gpu(1, "L4", (8, 9))
HOPPER = Gpu(2, "H100", (9, 0))


def test_gpus_that_are_there_and_can_be_served_pass() -> None:
    check_gpus([0, 1], [AMPERE, ADA])
    check_gpus([], [])
    assert AMPERE.served
    assert ADA.served


@pytest.mark.parametrize(("visible", "shown"), [([], "none"), ([AMPERE], "0: A100 (compute capability 8.0)")])
def test_a_gpu_that_is_not_there_is_named_with_what_is_and_the_way_to_the_cpu(
    visible: list[Gpu], shown: str
) -> None:
    with pytest.raises(DeviceError) as caught:
        check_gpus([0, 3], visible)
    assert "3" in str(caught.value)
    assert shown in str(caught.value)
    assert "gpus: []" in str(caught.value)


def test_a_gpu_that_the_builds_hold_no_code_for_is_recognised() -> None:
    with pytest.raises(DeviceError, match="H100"):
        check_gpus([2], [AMPERE, ADA, HOPPER])


def test_all_cores_compute_unless_the_environment_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    use_all_cores()
    assert os.environ["OMP_NUM_THREADS"] == str(physical_cores())
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    use_all_cores()
    assert os.environ["OMP_NUM_THREADS"] == "7"


def test_processors_are_those_of_the_affinity_within_the_containers_share(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
    texts = {"/sys/fs/cgroup/cpu.max": "max 100000"}
    monkeypatch.setattr(devices.Path, "read_text", lambda path: texts[str(path)])
    assert processors() == 4
    texts["/sys/fs/cgroup/cpu.max"] = "150000 100000"
    assert processors() == 2
    for number in range(4):
        siblings = f"/sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list"
        texts[siblings] = "0,2" if number % 2 == 0 else "1,3"
    texts["/sys/fs/cgroup/cpu.max"] = "max 100000"
    assert physical_cores() == 2


def test_a_machine_without_a_driver_shows_no_gpu() -> None:
    if Path("/dev/nvidia0").exists():
        pytest.skip("this machine has a GPU")
    assert devices.visible_gpus() == []
