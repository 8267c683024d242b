"""A GPU that PyTorch cannot use is told before anything is loaded, with what would help."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed here; make test-torch has it")

from common.engine.torch.devices import torch_device
from common.errors import DeviceError

#: What PyTorch 2.13.0 for CUDA 13 holds.
PUBLISHED = ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120")


def gpu(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], known: tuple[str, ...]) -> None:
    """Let PyTorch see a GPU of this compute capability, and hold code for these."""
    for name, value in (
        ("is_available", True),
        ("get_device_capability", capability),
        ("get_arch_list", list(known)),
        ("get_device_name", "a card"),
        ("set_device", None),
    ):
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)


@pytest.mark.parametrize("capability", [(7, 5), (8, 9), (9, 0), (10, 3), (12, 0)])
def test_code_of_a_gpus_generation_serves_it(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int]
) -> None:
    gpu(monkeypatch, capability, PUBLISHED)
    assert torch_device([1]) == torch.device("cuda", 1)


def test_code_that_is_made_when_it_starts_serves_newer_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu(monkeypatch, (13, 0), (*PUBLISHED, "compute_120"))
    assert torch_device([0]) == torch.device("cuda", 0)


@pytest.mark.parametrize(("capability", "words"), [((7, 0), "7.0"), ((8, 9), "8.9"), ((13, 0), "13.0")])
def test_a_gpu_without_code_is_refused_with_what_there_is(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], words: str
) -> None:
    gpu(monkeypatch, capability, ("sm_75", "sm_90", "sm_120"))
    with pytest.raises(DeviceError) as refused:
        torch_device([0])
    text = str(refused.value)
    assert f"a card (compute capability {words})" in text
    assert "sm_75, sm_90, sm_120" in text
    assert "`gpus: []`" in text


def test_a_driver_that_is_too_old_is_named_as_what_to_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match=r"gpus: \[0\] asked for, but .* cannot use them; update .* driver"):
        torch_device([0])


def test_one_process_computes_on_one_gpu() -> None:
    with pytest.raises(DeviceError, match=r"gpus: \[0, 1\] asked for, and PyTorch computes on one GPU here"):
        torch_device([0, 1])
