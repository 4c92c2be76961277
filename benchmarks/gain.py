"""What the IGE brings: prediction and regret on states of other prompts, then searches with chosen, tabled and constant jumps.

    python -m benchmarks.gain [--ige DIR] --study prediction | readers | screen | confirm [--best ARM ...] [--phi 1.2]

prediction: R^2 and rank correlation on states of validation prompts with 33 children by each jump, made first, and regret of the chosen k
in net value E[R] - c (calls to finish); the best k of a state is chosen on one half of the 32 children with noise and valued on the other.
readers: an IGE trained from pooled features (`--data`, made first) and one from a value head's trunk, of the same states, and the prediction
of both on the tenth of the prompts that is held out: [middle, least, greatest] of `READINGS` trainings. screen: constant k, AYS-10, table,
each target offline, and `value` online at 8 T on 40 hard validation prompts. confirm: the arms of `--best` at 4 and 8 T on medium and hard
test prompts, 3 seeds. c is the slope of best-of-n by the guide at the budget, in a pool of finished samples of validation prompts
(`benchmarks.pool --split validation`). All arms branch as the best tree on scenes does, with the angle `--phi`.

Written for each budget: `decisions`, paired differences of gold from the table and from the best constant, and calls saved at equal gold.
Intervals are 95 % bootstrap intervals over prompts. Resumable in runs/, where several processes share the work of a study.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file as numpy_file
from safetensors.torch import load_file

from benchmarks.common import ROOT, bars, write
from benchmarks.pool import load as load_pool
from mcts_ray.auto import TREE
from mcts_ray.compare.carry_out import carry_out
from mcts_ray.compare.request import make_comparison
from mcts_ray.diffusion.resolve import image_size, resolve_model
from mcts_ray.gain import collect, train
from mcts_ray.gain.data import Recorded, write_manifest, write_shard
from mcts_ray.gain.decide import decisions, regrets
from mcts_ray.gain.evaluator import make_network
from mcts_ray.gain.folder import Config, weights
from mcts_ray.gain.learn import Examples
from mcts_ray.gain.measure import fair, net_value, predictions, quality, regret, rules_of
from mcts_ray.gain.record import Collector, Scale
from mcts_ray.gain.targets import Calibration, Transitions, best_of_n_slope, make
from mcts_ray.scenes.prompts import prompts
from mcts_ray.settings import make_config

SETS = ("medium", "hard")
ONLINE = "runs/gain-online"  # where the online arm's versions go
READINGS = 3  # trainings from each reader's features
NOISES = 33  # children by each jump, the first one without noise
TIMES = {"prediction": (4, 8), "readers": (), "screen": (8,), "confirm": (4, 8)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", default="prediction", choices=tuple(TIMES))
    parser.add_argument("--ige", default="scenes", help="folder of the IGE")
    parser.add_argument("--data", type=Path, help="prediction, readers: folder of transitions [runs/gain-STUDY]")
    parser.add_argument("--prompts", type=int, help="of each set [prediction 10, screen 40, confirm 100], readers: in all [240]")
    parser.add_argument("--best", nargs="+", help="confirm: arms, the reference first")
    parser.add_argument("--phi", type=float, default=TREE["phi"], help="angle of branching, of all arms and of the children [%(default)s]")
    parser.add_argument("--price", type=float, nargs="+", help="c at each budget, in place of the pool's slopes")
    args = parser.parse_args()
    args.data = args.data or ROOT / "runs" / f"gain-{args.study}"
    if args.study == "confirm" and not args.best:
        parser.error("--best is missing: the arms to confirm, the best constant first")
    times = TIMES[args.study]
    if args.price and len(args.price) != len(times):
        parser.error(f"--price takes a number for each of {len(times)} budgets")
    prices = dict(zip(times, args.price)) if args.price else slopes(Config.read(args.ige), times)
    if args.study == "readers":
        readers(args.ige, args.data, args.prompts or 240, args.phi)
    elif args.study == "prediction":
        prediction(args.ige, args.data, args.prompts or 10, prices, args.phi)
    else:
        searches(args.study, args.ige, args.best, args.prompts, prices, args.phi)


def slopes(config: Config, times: Sequence[int]) -> dict[int, float]:
    """c at each budget, by the guide rewards of a pool of single-step trajectories of validation prompts."""
    pool = load_pool("validation")
    guide_PN = np.concatenate([pool[name].guide_PN for name in SETS]).astype(float)
    return {one: best_of_n_slope(guide_PN, config.levels, one * config.levels) for one in times}


# searches ------------------------------------------------------------------------------------------------------------


def searches(study: str, ige: str, best: list[str] | None, count: int | None, prices: dict[int, float], phi: float) -> None:
    """A screen or a confirmation, one comparison for each budget, since its price is one of the arms' settings."""
    screen, found = study == "screen", {}
    settings = [f"{name}={value}" for name, value in (TREE | {"phi": phi}).items()]
    for times, price in prices.items():
        out = ROOT / "runs" / f"gain-{study}-{times}"
        comparison = make_comparison(
            [priced(arm, price) for arm in (arms(ige) if screen else best)],
            out=out, times=str(times), set_names=["hard"] if screen else SETS, split="validation" if screen else "test",
            count=count or (40 if screen else 100), seeds=1 if screen else 3, settings=settings, executor="local",
        )  # fmt: skip
        summary = carry_out(comparison, lambda line: print(line, flush=True))
        rows = [row for file in sorted((out / "groups").glob("*.json")) for row in json.loads(file.read_text(encoding="utf-8"))]
        budget = times * comparison.design.levels
        by_set = {name: decisions([row for row in rows if row["set"] == name], budget) for name in comparison.design.sets}
        found[str(times)] = {"price": price, "decisions": {"all": decisions(rows, budget), **by_set}, "sets": summary["sets"]}
    gold = {f"gold at {times} T, {name}": _golds(one["rows"]) for times, row in found.items() for name, one in row["sets"].items()}
    bars(f"gain-{study}", gold)
    write(f"gain-{study}", {"ige": json_of(ige), "settings": settings, "times": found})


def _golds(rows: list[dict]) -> dict[str, list[float]]:
    """Gold of each arm, with its interval, under the part of its name that tells it from the others."""
    return {re.sub(r"^mcts,|(jump=ige,)?ige_model=[^,]*,?|,?jump_table=.*|,?price=.*", "", row["arm"]): row["gold"] for row in rows}


def arms(ige: str) -> list[str]:
    """Constant jumps, AYS, the table, and the IGE with each target; of `value` with each choice, and online."""
    config = Config.read(ige)
    by_ige = f"mcts,jump=ige,ige_model={ige}"
    table = "[" + ",".join(map(str, config.table)) + "]"
    found = ["mcts,k=1", "mcts,k=2", "mcts,k=4", "mcts,k=8", "mcts,jump=ays", f"mcts,jump=table,jump_table={table}"]
    found += [f"{by_ige},ige_target={target}" for target in config.targets]
    found += [f"{by_ige},ige_choice={choice}" for choice in ("top-m", "sample")]
    return [*found, f"{by_ige},ige_choice=top-m,ige_online={ONLINE}"]


def priced(arm: str, price: float) -> str:
    """An arm with the price of its budget, if it pays one."""
    return f"{arm},price={price:.4g}" if "jump=ige" in arm and "price=" not in arm else arm


# prediction ----------------------------------------------------------------------------------------------------------


def prediction(ige: str, data: Path, count: int, prices: dict[int, float], phi: float) -> None:
    """Prediction and regret on states of validation prompts."""
    config = Config.read(ige)
    known = collected(config, data, count, phi)
    network = make_network(config)
    network.load_state_dict({name: value.float() for name, value in load_file(weights(ige)[1]).items()})
    states = known.transitions
    examples = Examples(torch.from_numpy(known.features), states.level, targets_of(config, states))
    mean_NKM = predictions(network.eval(), config, examples)
    judged, rows = fair(states, config.jumps)
    found = {str(times): judgement(config, mean_NKM[rows], judged, price) for times, price in prices.items()}
    last = found[str(max(prices))]["rules"]
    panels = {"regret in net value": "regret", "mean k": "k"}
    bars("gain", {title: {name: row[what] for name, row in last.items()} for title, what in panels.items()})
    head = {"ige": json_of(ige), "scale": dict(known.manifest["scale"]), "states": len(states), "judged_states": len(rows)}
    write("gain", {**head, "prediction": quality(mean_NKM, config, examples), "times": found})


def collected(config: Config, data: Path, count: int, phi: float) -> Recorded:
    """Transitions of validation prompts, made as those that the IGE has learned from but for their number and phi."""
    texts = [text for name in SETS for text in prompts(name, "validation")[:count]]
    scale = Scale(jumps=config.jumps, noises=NOISES, phi=phi)
    made = {name: config.data[name] for name in ("guidance", "step_reward", "step_model")}
    trunk = config.reader["source"] if config.reader["kind"] == "value" else None
    where = {"levels": config.levels, "grid": config.grid, "trunk": trunk}
    collect.run(config.model, config.reward, texts, data, scale=scale, **made, **where, report=print)
    return Recorded(data)


def readers(ige: str, data: Path, count: int, phi: float) -> None:
    """What an IGE foresees from pooled features, and from the trunk of the value head, of the same states."""
    config, found = Config.read(ige), {}
    collect.run(config.model, config.reward, None, data, scale=Scale(jumps=config.jumps, phi=phi), count=count, report=print)
    for name, folder in {"pooled": data, "trunk": reread(data, data.with_name(f"{data.name}-trunk"), config.model)}.items():
        metrics = []
        for seed in range(READINGS):
            out = train.run(config.model, folder, folder / f"ige-{seed}", seed=seed)
            metrics.append(json.loads((out / "metrics.json").read_text(encoding="utf-8")))
        predicted = {target: [row["prediction"][target]["all"] for row in metrics] for target in config.targets}
        figures = {target: {what: _range(row[what] for row in rows) for what in ("r2", "spearman")} for target, rows in predicted.items()}
        found[name] = {"features": Recorded(folder).manifest["features"], "parameters": metrics[0]["parameters"], "prediction": figures}
        found[name] |= {"best_step": [row["best_step"] for row in metrics]}
    states = {name: metrics[0][name] for name in ("train_states", "held_out_states")}
    write("gain-readers", {"prompts": count, **states, "readers": found})
    panels = {"R2 on held-out prompts": "r2", "Spearman on held-out prompts": "spearman"}
    rows = {f"{target}, {name}": row["prediction"][target] for target in config.targets for name, row in found.items()}
    bars("gain-readers", {title: {label: row[what] for label, row in rows.items()} for title, what in panels.items()})


def reread(data: Path, out: Path, trunk: str) -> Path:
    """The transitions in `data` with what the trunk of a value head says of their states, which are walked to again; returns `out`."""
    manifest, model = Recorded(data).manifest, resolve_model(trunk)
    asked = make_config({name: manifest[name] for name in ("levels", "grid", "guidance", "seed")})
    config = asked.resolved(True, image_size(model), manifest["reward"])
    how = model, manifest["reward"], config, Scale(**_scale(manifest)), "auto", None
    collectors = {name: Collector(*how, trunk=name) for name in (None, trunk)}
    files = []
    out.mkdir(parents=True, exist_ok=True)
    for number, shard in enumerate(manifest["shards"]):
        files.append(out / shard["file"])
        if files[-1].exists():
            continue
        first = number * collect.PER_SHARD
        texts, tensors = manifest["prompts"][first : first + shard["prompts"]], numpy_file(data / shard["file"])
        if number == 0:  # that the same states are reached
            again = collectors[None].features(texts, first)
            np.testing.assert_allclose([again[int(key)] for key in tensors["key"]], tensors["features"], rtol=0.05, atol=0.05)
        read = collectors[trunk].features(texts, first)
        tensors["features"] = np.stack([read[int(key)] for key in tensors["key"]])
        write_shard(files[-1], tensors, shard["prompts"], shard["nfe"])
        print(f"{len(files)} of {len(manifest['shards'])} shards read again", flush=True)
    write_manifest(out, {**manifest, **collectors[trunk].facts}, files)
    return out


def _scale(manifest: dict) -> dict:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in manifest["scale"].items()}


def _range(values: Iterable[float]) -> tuple[float, float, float]:
    """(middle, least, greatest)."""
    low, *middle, high = sorted(values)
    return middle[len(middle) // 2], low, high


def targets_of(config: Config, states: Transitions) -> dict[str, torch.Tensor]:
    """The targets at states; of `value` by the children with noise, `reward_rate` by the calibration of training."""
    found = {name: make(name, states, config.jumps, Calibration(config.calibration)) for name in config.targets}
    if "value" in found:
        found["value"] = np.where(np.array(config.jumps)[None, :, None] < states.level[:, None, None], found["value"][:, :, 1:], np.nan)
    return {name: torch.from_numpy(value).float() for name, value in found.items()}


def judgement(config: Config, mean_NKM: np.ndarray, states: Transitions, price: float) -> dict:
    """Of every rule regret, against the table and the constant of least regret, and the mean jump, over all and by level."""
    net_NKJ = net_value(states, config.jumps, price)
    places = rules_of(mean_NKM, config, states, price)
    regret_N = {name: regret(net_NKJ, places_N) for name, places_N in places.items()}
    best = min((name for name in places if name.startswith("k=")), key=lambda name: regret_N[name].mean())
    rules = regrets(regret_N, states.prompt, ("table", best))
    for name, places_N in places.items():
        sizes_N = np.array(config.jumps)[places_N]
        by_level = {str(level): round(float(sizes_N[states.level == level].mean()), 3) for level in np.unique(states.level)}
        rules[name] |= {"k": round(float(sizes_N.mean()), 3), "k_by_level": by_level}
    return {"price": price, "best_constant": best, "rules": rules}


def json_of(ige: str) -> dict:
    """What stands for the IGE in a results file."""
    config = Config.read(ige)
    return {"table": list(config.table), "price": config.price, "worth": dict(config.worth), "data": dict(config.data)}


if __name__ == "__main__":
    main()
