"""A `train gain` request from the command line, checked before torch or a model is loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcts_ray.diffusion.device import DEVICES
from mcts_ray.diffusion.resolve import resolve_model
from mcts_ray.report.run import check_writable
from mcts_ray.request import read_prompts

AMOUNTS = ("trajectories", "states", "noises", "stride", "phi", "schedule")  # of `mcts_ray.gain.record.Scale`
COLLECTS = ("reward", "count", *AMOUNTS, "step_reward", "step_model", "trunk", "levels", "grid", "guidance", "limit")
TRAINS = ("out", "steps", "price")


@dataclass(frozen=True)
class GainTraining:
    """Training on the transitions in `data`, or with `collect` the making of them; `options`: of the one or the other, that were given."""

    model: str
    data: Path
    collect: bool
    prompts: list[str] | None
    seed: int
    resume: bool
    device: str
    threads: int | None
    options: dict[str, Any]

    def carry_out(self, report: Callable[..., None]) -> Path:
        """Train or collect; returns the folder that was written. Loads torch."""
        from mcts_ray.diffusion.quiet import quiet

        where = {"seed": self.seed, "device": self.device, "threads": self.threads, "report": report}
        options = dict(self.options)
        with quiet():
            from mcts_ray.gain import collect, train
            from mcts_ray.gain.record import Scale
        if not self.collect:
            return train.run(self.model, self.data, options.pop("out"), resume=self.resume, **options, **where)
        amounts = {name: options.pop(name) for name in AMOUNTS if name in options}
        return collect.run(self.model, options.pop("reward", None), self.prompts, self.data, scale=Scale(**amounts), **options, **where)


def make_gain_training(
    *,
    model: str,
    data: Path,
    collect: bool,
    prompts_file: Path | None,
    seed: int,
    resume: bool,
    device: str,
    threads: int | None,
    **options: Any,
) -> GainTraining:
    """Check everything that is cheap; ValueError with one sentence for the first mistake. Options that are None were not given."""
    given = {name: value for name, value in options.items() if value is not None}
    mine, others, how = (COLLECTS, TRAINS, "without --collect") if collect else (TRAINS, COLLECTS, "with --collect")
    wrong = [name for name in given if name in others]
    if wrong or (prompts_file and not collect):
        raise ValueError(f"--{(wrong or ['prompts'])[0].replace('_', '-')} is an option {how}; leave it out")
    if collect and not resume:
        raise ValueError("--no-resume is an option without --collect: transitions that are there stay; choose another --data")
    if device not in DEVICES:
        raise ValueError(f"unknown device {device!r}; choose one of {', '.join(DEVICES)}")
    if collect:
        check_writable(data)
    elif "out" not in given:
        raise ValueError("--out is missing: the folder for checkpoints and the trained IGE")
    elif not data.is_dir():
        raise ValueError(f"there are no transitions at {data}; make some with --collect")
    else:
        check_writable(given["out"])
    resolve_model(model)
    prompts = read_prompts(prompts_file) if prompts_file else None
    return GainTraining(model, data, collect, prompts, seed, resume, device, threads, {name: given[name] for name in mine if name in given})
