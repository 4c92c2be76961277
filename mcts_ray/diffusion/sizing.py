"""How many samples go into a denoiser call: the number at which a model is fastest, found by trying, and buckets of few shapes.

Neither imports torch before something is tried, so that whoever only plans may ask.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from statistics import median

from mcts_ray.diffusion.device import batch_size

log = logging.getLogger(__name__)
PROFILE = "profile"  # the batch size that stands for: whatever is fastest here
NEAR = 0.03  # what a smaller batch may be slower by; it is easier to keep full, and gives outcomes sooner
CALLS = 3  # that are timed of each size, after one that is not


def check_batch_size(asked: int | str | None) -> None:
    """ValueError unless it is a number of samples, "profile", or None."""
    number = isinstance(asked, int) and not isinstance(asked, bool) and asked >= 1
    if not (number or asked in (None, PROFILE)):
        raise ValueError(f"the batch size must be a number of samples from 1 on, or {PROFILE!r}, not {asked!r}")


def choose_batch_size(denoiser, shape: tuple[int, int, int], asked: int | str | None = None) -> int:
    """Samples per call for latents (C, H, W): as many as `asked` for, or, with "profile", the fastest number. By default that is tried
    out on a GPU; on a CPU, where the last digits of results depend on it, it is a constant."""
    check_batch_size(asked)
    if isinstance(asked, int):
        return asked
    device = denoiser.device.type
    return denoiser.fastest(shape) if asked == PROFILE or device == "cuda" else batch_size(device, shape)


def bucket(rows: int, full: int) -> int:
    """Rows that a network call with so many is filled up to: a power of two, or those of `full` samples, without or with guidance."""
    return min(size for size in (1 << (rows - 1).bit_length(), full, 2 * full) if size >= rows)


def candidates(usual: int) -> list[int]:
    """Sizes to try where `usual` is the usual one: powers of two from an eighth of it to twice it."""
    most = 1 << usual.bit_length()
    return [most >> halvings for halvings in range(4, -1, -1) if most >> halvings]


def tried(sizes: Iterable[int], rate: Callable[[int], float]) -> dict[int, float]:
    """The `rate` in NFE/s of each size, in their order, until one is slower than one before, or memory is out."""
    import torch

    rates: dict[int, float] = {}
    for size in sizes:
        try:
            rates[size] = rate(size)
        except torch.OutOfMemoryError:
            break
        if rates[size] < max(rates.values()):
            break
    return rates


def pick(rates: Mapping[int, float]) -> int:
    """The smallest size whose rate is close to the best; 1 where not even the first one fitted."""
    return min((size for size, rate in rates.items() if rate >= (1 - NEAR) * max(rates.values())), default=1)


def profile(call: Callable[[int], object], shape: tuple[int, int, int], device) -> int:
    """The number of samples at which `call`, a denoiser call of so many on latents (C, H, W), makes most NFE each second."""
    import torch

    cuda = device.type == "cuda"

    def seconds(size: int) -> float:
        start = time.perf_counter()
        call(size)
        if cuda:
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    rates = tried(candidates(batch_size(device.type, shape)), lambda size: size / median([seconds(size) for _ in range(1 + CALLS)][1:]))
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)  # a search needs less than what was tried
    size = pick(rates)
    found = ", ".join(f"{size}: {rate:.4g}" for size, rate in rates.items())
    log.info("batches of %d samples of %s for this model (NFE/s by size: %s)", size, " x ".join(map(str, shape)), found)
    return size
