"""The training loop that every recipe shares: seeded by step, checkpointed, resumable, with an EMA.

The batch of step n depends on (seed, n) alone, so a run that was cut off and resumed sees the data that an unbroken run
sees. A checkpoint is written to a temporary file and renamed: a crash never leaves half of one.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import nn

BEST = "best.pt"  # what `EarlyStopping` keeps


@dataclass(frozen=True)
class Recipe:
    """What a training run is, apart from its model and loss. `lr` is the peak of a warm-up and cosine schedule."""

    name: str
    steps: int
    batch: int
    lr: float
    seed: int = 0
    warmup: int = 200
    weight_decay: float = 0.01
    clip: float = 1.0
    ema: float = 0.999
    checkpoint_every: int = 250


@dataclass
class Progress:
    """The state of a run after `step` steps, as handed to `report` and kept in `metrics.jsonl`."""

    step: int
    steps: int
    loss: float
    seconds: float
    metrics: dict[str, float]


LossOfBatch = Callable[[np.random.Generator, int], tuple[torch.Tensor, dict[str, float]]]


def fit(
    recipe: Recipe,
    model: nn.Module,
    loss_of_batch: LossOfBatch,
    out: Path,
    *,
    resume: bool = True,
    report: Callable[[Progress], None] | None = None,
    watch: Callable[[int, dict[str, torch.Tensor]], bool] | None = None,
) -> tuple[nn.Module, float]:
    """Train `model` in place and return it with the EMA weights loaded, and the seconds spent over all sittings.

    watch: shown the step and the EMA weights at every checkpoint, before it is written; training ends there if it says so.
    Raises ValueError where `out` holds a checkpoint of another recipe, and for a loss that is not finite.
    """
    out.mkdir(parents=True, exist_ok=True)
    checkpoint = out / f"{recipe.name}.pt"
    optimiser = torch.optim.AdamW(model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay, betas=(0.9, 0.99))
    ema = {k: v.detach().clone() for k, v in model.state_dict().items()}
    step, before, running = 0, 0.0, 0.0
    if resume and checkpoint.exists():
        saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
        if saved["recipe"] != asdict(recipe):
            raise ValueError(
                f"{checkpoint} belongs to another recipe ({saved['recipe']}); "
                "train into another folder with --out, or start over with --no-resume."
            )
        model.load_state_dict(saved["model"])
        optimiser.load_state_dict(saved["optimiser"])
        ema = {name: value.to(ema[name].device) for name, value in saved["ema"].items()}
        step, before, running = saved["step"], saved["seconds"], saved["loss"]
    model.train()
    began = time.monotonic()
    metrics_file = _metrics_up_to(step, out / f"{recipe.name}.jsonl")
    while step < recipe.steps:
        for group in optimiser.param_groups:
            group["lr"] = recipe.lr * _schedule(step, recipe)
        torch.manual_seed(recipe.seed * 1_000_003 + step)
        optimiser.zero_grad(set_to_none=True)  # first, so that the loss of a large batch may collect gradients part by part
        loss, metrics = loss_of_batch(np.random.default_rng([recipe.seed, step]), step)
        if not torch.isfinite(loss):
            raise ValueError(f"the loss of {recipe.name} is {loss.item()} at step {step}; look for numbers in its data that are not finite")
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        optimiser.step()
        step += 1
        _update_ema(ema, model, min(recipe.ema, step / (step + 10)))
        running += (loss.item() - running) / min(step, 50)
        seconds = before + time.monotonic() - began
        if step % 50 == 0 or step == recipe.steps:
            progress = Progress(step, recipe.steps, running, seconds, metrics)
            metrics_file.write(json.dumps(asdict(progress)) + "\n")
            metrics_file.flush()
            if report:
                report(progress)
        if step % recipe.checkpoint_every == 0 or step == recipe.steps:
            enough = watch is not None and watch(step, ema)
            state = {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "ema": ema}
            save(checkpoint, {**state, "step": step, "seconds": seconds, "loss": running, "recipe": asdict(recipe)})
            if enough:
                break
    metrics_file.close()
    model.load_state_dict(ema)
    return model.eval(), before + time.monotonic() - began


def _schedule(step: int, recipe: Recipe) -> float:
    warm = min(1.0, (step + 1) / recipe.warmup)
    return warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / recipe.steps)))


@torch.no_grad()
def _update_ema(ema: dict[str, torch.Tensor], model: nn.Module, decay: float) -> None:
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            ema[name].lerp_(value, 1 - decay)
        else:
            ema[name].copy_(value)


def _metrics_up_to(step: int, path: Path) -> IO[str]:
    """The metrics file, open for more, without the lines of steps after the checkpoint (they will come again)."""
    lines = path.read_text().splitlines(keepends=True) if step and path.exists() else []
    file = path.open("w")
    file.writelines(line for line in lines if json.loads(line)["step"] <= step)
    return file


def save(path: Path, state: dict) -> None:
    """`torch.save` to a temporary file, renamed at the end."""
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    temporary.replace(path)


def check_same_run(out: Path, recipe: Recipe, notes: dict, resume: bool, how: str = "holds a run with other") -> None:
    """Note in `out` what a run is on, and its recipe. ValueError if it holds a run on something else that is to be gone on with; one that
    is not to be gone on with is gone from here on, so that nothing of it can be taken for what comes."""
    out.mkdir(parents=True, exist_ok=True)
    file, notes = out / "run.json", json.loads(json.dumps({**notes, **asdict(recipe)}))
    if resume and file.is_file() and (before := json.loads(file.read_text())) != notes:
        what = ", ".join(name for name in notes if before.get(name) != notes[name])
        raise ValueError(f"{out} {how} {what}; train into another folder with --out, or start over with --no-resume")
    for checkpoint in () if resume else (f"{recipe.name}.pt", BEST):
        (out / checkpoint).unlink(missing_ok=True)
    file.write_text(json.dumps(notes, indent=2) + "\n")
