import pytest
import torch

from mcts_ray.diffusion.device import resolve_device, resolve_dtype


def test_devices(monkeypatch):
    assert resolve_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == torch.device("cpu")
    with pytest.raises(ValueError, match="no CUDA GPU"):
        resolve_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto") == resolve_device("cuda") == torch.device("cuda")
    with pytest.raises(ValueError, match="unknown device 'tpu'; choose one of auto, cpu, cuda"):
        resolve_device("tpu")


def test_dtypes():
    cpu = torch.device("cpu")
    assert [resolve_dtype(name, cpu) for name in ("fp32", "bf16")] == [torch.float32, torch.bfloat16]
    assert resolve_dtype("fp16", "cuda") == torch.float16
    with pytest.raises(ValueError, match="run on GPUs only"):
        resolve_dtype("fp16", cpu)
    with pytest.raises(ValueError, match="unknown dtype 'fp64'"):
        resolve_dtype("fp64", cpu)
