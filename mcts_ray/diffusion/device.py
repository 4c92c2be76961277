"""The device and number format that a user's words mean."""

from __future__ import annotations

DEVICES = ("auto", "cpu", "cuda")
DTYPES = ("fp32", "bf16", "fp16")


def resolve_device(name: str = "auto"):
    """torch.device of "auto" (CUDA if there is one), "cpu" or "cuda"; ValueError otherwise, or for "cuda" where there is none."""
    if name not in DEVICES:
        raise ValueError(f"unknown device {name!r}; choose one of {', '.join(DEVICES)}")
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device cuda was asked for, but this machine (or this torch build) has no CUDA GPU; use --device cpu")
    return torch.device("cpu" if name == "cpu" or not torch.cuda.is_available() else "cuda")


def resolve_dtype(name: str, device):
    """torch.dtype of the network for "fp32", "bf16" or "fp16"; ValueError otherwise, or for fp16 on a CPU."""
    if name not in DTYPES:
        raise ValueError(f"unknown dtype {name!r}; choose one of {', '.join(DTYPES)}")
    import torch

    check_precision(name, torch.device(device).type)
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[name]


def check_precision(dtype: str, device: str) -> None:
    """ValueError for a number format that networks on "cpu" do not run in."""
    if dtype == "fp16" and device == "cpu":
        raise ValueError("fp16 networks run on GPUs only; use fp32 or bf16 on the CPU")


def batch_size(device: str, latent_shape: tuple[int, int, int]) -> int:
    """Samples per denoiser call: 64 small latents (C, H, W) on a CPU (more gains nothing), 64 of 64 x 64 on a GPU."""
    cells = latent_shape[1] * latent_shape[2]
    if device == "cpu":
        return max(1, min(64, 2**14 // cells))
    return max(1, min(256, 2**18 // cells))
