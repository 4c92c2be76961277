"""A `train reward` request from the command line, checked before torch or a model is loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mcts_ray.diffusion.device import DEVICES
from mcts_ray.diffusion.resolve import resolve_model
from mcts_ray.report.run import check_writable
from mcts_ray.request import read_prompts

DATA = {"lrm": "--pairs", "value": "--data"}  # kinds of step score, and where each has its training data
OF_KIND = {"images": "lrm", "renders": "lrm", "trajectories": "value", "limit": "value"}  # options of the collection for one of them


@dataclass(frozen=True)
class Training:
    """What to train, or, with `collect`, which data to make; `amounts` are options of the collection that were given, `images` those
    that a value head learns from besides its data."""

    kind: str
    model: str
    data: Path
    out: Path | None
    steps: int | None
    seed: int
    resume: bool
    device: str
    threads: int | None
    collect: bool
    reward: str | None
    prompts: list[str] | None
    amounts: dict[str, float]
    images: Path | None = None

    def carry_out(self, report: Callable[..., None]) -> Path:
        """Train or collect; returns the folder that was written. Loads torch."""
        from mcts_ray.diffusion.quiet import quiet

        with quiet():
            function = (_collecting if self.collect else _training)(self.kind)
        where = {"seed": self.seed, "device": self.device, "threads": self.threads, "report": report}
        if self.collect:
            return function(self.model, self.reward, self.prompts, self.data, **self.amounts, **where)
        more = {"images": self.images} if self.images else {}
        return function(self.model, self.data, self.out, steps=self.steps, resume=self.resume, **more, **where)


def make_training(
    kind: str,
    *,
    model: str,
    pairs: Path | None,
    data: Path | None,
    out: Path | None,
    device: str,
    collect: bool,
    prompts_file: Path | None,
    amounts: dict[str, float | None],
    steps: int | None,
    reward: str | None,
    **rest,
) -> Training:
    """Check everything that is cheap; ValueError with one sentence for the first mistake. Options that are None were not given."""
    if kind not in DATA:
        raise ValueError(f"unknown kind {kind!r}; choose {' or '.join(DATA)}")
    _check_options(kind, collect, trains={"out": out, "steps": steps}, collects={"reward": reward, "prompts": prompts_file, **amounts})
    given = {"--pairs": pairs, "--data": data}
    found = given.pop(DATA[kind])
    images = given.pop("--pairs", None) if not collect else None  # of value: besides its data
    if found is None or any(path is not None for path in given.values()):
        raise ValueError(f"the training data of --kind {kind} is named by {DATA[kind]}, and by nothing else")
    if device not in DEVICES:
        raise ValueError(f"unknown device {device!r}; choose one of {', '.join(DEVICES)}")
    if collect:
        check_writable(found)
    else:
        _check_training(kind, found, out)
        if images:
            from mcts_ray.reward.lrm.collect import scored

            scored(images)
    resolve_model(model)
    prompts = read_prompts(prompts_file) if prompts_file else None
    known = {name: amount for name, amount in amounts.items() if amount is not None}
    what = {"steps": steps, "reward": reward, "prompts": prompts, "amounts": known, "images": images}
    return Training(kind, model, found, out, device=device, collect=collect, **what, **rest)


def _check_options(kind: str, collect: bool, trains: dict[str, object], collects: dict[str, object]) -> None:
    """ValueError for the first option given that is not for this kind, or for the other of training and collecting."""
    of_other_kind = [name for name, value in collects.items() if value is not None and OF_KIND.get(name, kind) != kind]
    if of_other_kind:
        name = of_other_kind[0]
        raise ValueError(f"--{name} is an option of --kind {OF_KIND[name]} with --collect; leave it out")
    others, how = (trains, "without --collect") if collect else (collects, "with --collect")
    wrong = [name for name, value in others.items() if value is not None]
    if wrong:
        raise ValueError(f"--{wrong[0]} is an option {how}; leave it out")


def _check_training(kind: str, data: Path, out: Path | None) -> None:
    if out is None:
        raise ValueError("--out is missing: the folder that the trained model is written to")
    check_writable(out)
    if kind == "lrm":
        from mcts_ray.reward.lrm.pairs import rows

        next(rows(data), None)  # the rest is read before the model is loaded
    elif not data.exists():
        raise ValueError(f"there is no data at {data}; make some with --collect")


def _training(kind: str) -> Callable[..., Path]:
    if kind == "lrm":
        from mcts_ray.reward.lrm.train import run
    else:
        from mcts_ray.reward.value.train import run
    return run


def _collecting(kind: str) -> Callable[..., Path]:
    if kind == "lrm":
        from mcts_ray.reward.lrm.collect import run
    else:
        from mcts_ray.reward.value.collect import run
    return run
