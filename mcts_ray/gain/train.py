"""Training of an IGE on recorded transitions, all of its targets beside each other, with held-out prompts and early stopping of each.

Writes config.json, model.safetensors, metrics.json, held_out.safetensors (by which online versions are judged) and table.json, the best
jump of each level by the same data, in the form of a search configuration.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file

from mcts_ray.fitting.early import EarlyStopping
from mcts_ray.fitting.loop import Progress, Recipe, check_same_run, fit, save
from mcts_ray.gain import targets as target_rules
from mcts_ray.gain.data import Recorded
from mcts_ray.gain.evaluator import make_network, save_weights
from mcts_ray.gain.folder import TARGETS, VERSIONS, Config
from mcts_ray.gain.learn import Examples, losses
from mcts_ray.gain.measure import fair, mean_of, net_value, predictions, quality, rules_of
from mcts_ray.gain.network import GainNetwork

RECIPE = Recipe("ige", steps=4000, batch=128, lr=1e-3, warmup=100, weight_decay=0.05, ema=0.995, checkpoint_every=50)  # batch: states
PATIENCE = 10  # checkpoints without a better one of any target after which training ends
HELD = 512  # held-out states that are kept for online learning
LEAST = 1e-6  # scale of a target


def run(
    model: str,
    data: Path,
    out: Path,
    *,
    steps: int | None = None,
    seed: int = 0,
    resume: bool = True,
    device: str = "auto",
    threads: int | None = None,
    report: Callable[[Progress], None] | None = None,
    recipe: Recipe = RECIPE,
    width: int = 64,
    targets: Sequence[str] = TARGETS,
    price: float | None = None,
) -> Path:
    """Train an IGE for `model` on the transitions in `data`; returns `out`.

    A tenth of the prompts is held out; of each target the weights (moving averages) of the checkpoint of least loss there are kept, and
    training ends when `PATIENCE` checkpoints in a row were better for none. price: reward per call for which the table is made, None:
    the slope of best-of-n in the data. Raises ValueError with one sentence for data that cannot be used, or a folder that holds a run on
    other data, or versions that searches have made.
    """
    from mcts_ray.diffusion.device import resolve_device

    if threads:
        torch.set_num_threads(threads)
    if (out / VERSIONS).is_dir():
        raise ValueError(f"{out} holds versions that searches have made of its IGE online; train into another folder")
    known = Recorded(data)
    _check(known, model, targets)
    kept, held = known.split()
    recipe = replace(recipe, seed=seed, steps=steps or recipe.steps)
    config, examples = prepare(known, kept, tuple(targets), width, price)
    check_same_run(out, recipe, {"data": known.key, "targets": list(targets), "width": width, "price": config.price}, resume)
    torch.manual_seed(seed)
    network = make_network(config)
    _set_units(network, config, examples.take(kept))
    network.to(resolve_device(device))
    watch = Watch(network, config, examples.take(held), out, resume)

    def loss_of_batch(rng: np.random.Generator, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        found = losses(network, config, examples.take(rng.choice(kept, recipe.batch)))
        return sum(found.values()), {name: loss.item() for name, loss in found.items()}

    if not watch.over:  # an earlier run may have ended early
        fit(recipe, network, loss_of_batch, out, resume=resume, report=watch.telling(report), watch=watch)
    return _export(known, network, config, examples, kept, held, watch, recipe, out)


def prepare(known: Recorded, kept: np.ndarray, targets: tuple[str, ...], width: int, price: float | None) -> tuple[Config, Examples]:
    """The config of an IGE for these data, and all of them as examples; calibration, units, worth and table are those of `kept`."""
    manifest, data = known.manifest, known.transitions
    jumps = tuple(manifest["scale"]["jumps"])
    learned = data.take(kept)
    calibration = target_rules.calibrate(learned, jumps)
    made = {name: target_rules.make(name, data, jumps, calibration) for name in targets}
    price = target_rules.price_of_a_call(learned, manifest["levels"]) if price is None else price
    facts = {name: manifest[name] for name in ("guidance", "seed", "step_reward", "step_model", "scale")}
    facts |= {"prompts": len(np.unique(data.prompt)), "states": len(data), "nfe": sum(shard["nfe"] for shard in manifest["shards"]), "key": known.key}
    config = Config(
        model=manifest["model"], reward=manifest["reward"], reader=manifest["reader"], features=manifest["features"],
        levels=manifest["levels"], grid=manifest["grid"], log_snr=tuple(manifest["log_snr"]), jumps=jumps, targets=targets,
        units={name: _units(made[name][kept], jumps, name) for name in targets},
        worth={name: target_rules.worth(name, learned, jumps, calibration) for name in targets},
        calibration=dict(calibration.lines), counts=_counts(learned, len(jumps)),
        table=target_rules.best_jumps(learned, jumps, manifest["levels"], price), price=price,
        generator=tuple(manifest["generator"]), width=width, data=facts,
    )  # fmt: skip
    return config, Examples(torch.from_numpy(known.features), data.level, {name: torch.from_numpy(value).float() for name, value in made.items()})


class Watch(EarlyStopping):
    """Of each target the checkpoint of least negative likelihood on held-out prompts; over when none has become better for `PATIENCE`.

    Targets are learned at very different speeds: the differences of rewards are overfitted while the similarity still improves.
    """

    def __init__(self, network: GainNetwork, config: Config, held: Examples, out: Path, resume: bool) -> None:
        super().__init__(network, out, resume, PATIENCE)
        self._config, self._held = config, held

    @property
    def over(self) -> bool:
        kept, steps = self._saved["state"] or {}, self._saved["checkpoints"]
        return bool(kept) and all(sum(step > best["step"] for step in steps) >= self._patience for best in kept.values())

    @property
    def best(self) -> tuple[dict[str, int], dict[str, torch.Tensor]]:
        """The step of each target's best checkpoint, and the weights that are made of them."""
        kept = self._saved["state"]
        state = self._network.joined({name: best["part"] for name, best in kept.items()})
        return {name: best["step"] for name, best in kept.items()}, state

    def __call__(self, step: int, state: dict[str, torch.Tensor]) -> bool:
        self._saved["checkpoints"] = [known for known in self._saved["checkpoints"] if known < step] + [step]
        self._found, _ = self._look(state)
        kept = self._saved["state"] = dict(self._saved["state"] or {})
        for name in self._config.targets:
            loss = self._found.get(f"held_out_{name}", 0.0)  # a target without held-out data has nothing to be judged by
            if name not in kept or kept[name]["step"] >= step or loss < kept[name]["loss"]:
                kept[name] = {"step": step, "loss": loss, "part": self._network.part(state, name)}
        save(self._file, self._saved)
        return self.over

    def _look(self, state: dict[str, torch.Tensor]) -> tuple[dict[str, float], tuple[float, ...]]:
        return {f"held_out_{name}": loss for name, loss in self._measure(state).items()}, ()

    @torch.no_grad()
    def _measure(self, state: dict[str, torch.Tensor]) -> dict[str, float]:
        with self._with(state):
            found = losses(self._network, self._config, self._held, beta=0.0)
        return {name: float(loss) for name, loss in found.items()}


def _export(known, network, config, examples, kept, held, watch: Watch, recipe: Recipe, out: Path) -> Path:
    """Write the best weights, rounded as they will be read, and what they are worth on all held-out prompts."""
    step, state = watch.best
    network.load_state_dict({name: value.half().float() for name, value in state.items()})
    network.eval()
    save_weights(network, out / "model.safetensors")
    config.write(out)
    search = {"jump": "table", "levels": config.levels, "grid": config.grid, "jumps": list(config.jumps), "jump_table": list(config.table)}
    (out / "table.json").write_text(json.dumps(search, indent=1) + "\n", encoding="utf-8")
    _keep_held_out(known, config, examples, held, out)
    record = {"model": config.model, "reward": config.reward, "data": dict(config.data), "recipe": asdict(recipe), "best_step": step}
    record |= {"parameters": sum(value.numel() for value in network.parameters()), "torch": torch.__version__}
    record |= {"worth": dict(config.worth), "price": config.price, "table": list(config.table)}
    record |= {"train_states": len(kept), "held_out_states": len(held), **_held_out(known, network, config, examples, held)}
    (out / "metrics.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return out


def _held_out(known: Recorded, network: GainNetwork, config: Config, examples: Examples, held: np.ndarray) -> dict:
    """Prediction on held-out prompts, and the mean net value over k = 1 of the jumps that each rule chooses there."""
    mine = examples.take(held)
    mean_NKM = predictions(network, config, mine)
    data, rows = fair(known.transitions.take(held), config.jumps)
    net_NK = mean_of(net_value(data, config.jumps, config.price))
    net = {}
    for name, places_N in rules_of(mean_NKM[rows], config, data, config.price).items() if len(rows) else ():
        net[name] = {"net": float(net_NK[np.arange(len(rows)), places_N].mean()), "k": float(np.array(config.jumps)[places_N].mean())}
    return {"prediction": quality(mean_NKM, config, mine), "net_value": net, "net_value_states": len(rows)}


def _keep_held_out(known: Recorded, config: Config, examples: Examples, held: np.ndarray, out: Path) -> None:
    rows = held[np.random.default_rng(0).permutation(len(held))[:HELD]]
    if "value" in config.targets:
        value = examples.targets["value"].numpy()[rows]
        save_file({"features": known.features[rows], "level": examples.level[rows], "value": value}, out / "held_out.safetensors")


def _units(value_NKJ: np.ndarray, jumps: Sequence[int], name: str) -> tuple[float, float]:
    """Center and scale of a target, mean over children, over the jumps at which it moves; `value` keeps its 0, so that pairs of jumps can
    be compared."""
    moving = [place for place, k in enumerate(jumps) if not (k == 1 and name in ("value", "jump_error"))]
    mean_NK = mean_of(value_NKJ)[:, moving]
    found = mean_NK[np.isfinite(mean_NK)]
    if not len(found):
        return 0.0, 1.0
    center = 0.0 if name == "value" else float(found.mean())
    return center, max(LEAST, float(found.std()))


def _set_units(network: GainNetwork, config: Config, examples: Examples) -> None:
    features = examples.features.float()
    network.center.copy_(features.mean(0))
    network.spread.copy_(features.std(0).clamp(min=1e-3))
    network.zero.copy_(torch.tensor([-config.units[name][0] / config.units[name][1] for name in config.targets]))


def _counts(data: target_rules.Transitions, jumps: int) -> dict[int, tuple[int, ...]]:
    """States by level, for each jump those of which a child was completed."""
    made_NK = np.isfinite(data.reward).any(2)
    return {int(level): tuple(int(made_NK[data.level == level, place].sum()) for place in range(jumps)) for level in np.unique(data.level)}


def _check(known: Recorded, model: str, targets: Sequence[str]) -> None:
    if known.manifest["model"] != model:
        raise ValueError(f"the transitions in {known.folder} are those of {known.manifest['model']}, not of {model}")
    unknown = [name for name in targets if name not in TARGETS]
    if unknown or not targets:
        raise ValueError(f"unknown target {unknown[0] if unknown else ''!r}; choose some of {', '.join(TARGETS)}")
