"""What the IGE brings: prediction and regret on states of other prompts, then searches with chosen, tabled and constant jumps.

    python -m benchmarks.gain [--ige DIR] --study prediction | screen | confirm [--best ARM ...]

prediction: figures of training, and regret of the chosen k in net value E[R] - c (calls to finish) on states of validation prompts with 33
children by each jump, made first; the best k of a state is chosen on one half of them and valued on the other. screen: constant k, AYS-10,
table and each target at 8 T on 40 hard validation prompts. confirm: the arms of `--best`, the reference first, at 4 and 8 T on medium and
hard test prompts, 3 seeds. Intervals are 95 % bootstrap intervals over prompts. Resumable in runs/.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from benchmarks.common import ROOT, bars, interval, write
from mcts_ray.compare.carry_out import carry_out
from mcts_ray.compare.request import make_comparison
from mcts_ray.gain import collect
from mcts_ray.gain.data import Recorded
from mcts_ray.gain.evaluator import make_network
from mcts_ray.gain.folder import Config, folder_of, weights
from mcts_ray.gain.learn import Examples
from mcts_ray.gain.measure import chosen, fixed_places, net_value, predictions, regret
from mcts_ray.gain.record import Scale
from mcts_ray.scenes.prompts import prompts

PHI = 0.6  # the same for all arms
SCALE = Scale(trajectories=2, states=4, noises=33, stride=2, phi=PHI)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", default="prediction", choices=("prediction", "screen", "confirm"))
    parser.add_argument("--ige", default="scenes", help="folder of the IGE")
    parser.add_argument("--data", type=Path, default=ROOT / "runs" / "gain-validation", help="prediction: transitions of validation prompts")
    parser.add_argument("--prompts", type=int, help="of each set [prediction 10, screen 40, confirm 100]")
    parser.add_argument("--best", nargs="+", help="confirm: arms, the reference first")
    args = parser.parse_args()
    if args.study == "prediction":
        prediction(args.ige, args.data, args.prompts or 10)
        return
    if args.study == "confirm" and not args.best:
        parser.error("--best is missing: the arms to confirm, the best constant first")
    screen = args.study == "screen"
    comparison = make_comparison(
        arms(args.ige) if screen else args.best,
        out=ROOT / "runs" / f"gain-{args.study}", times="8" if screen else "4,8", set_names=["hard"] if screen else ["medium", "hard"],
        split="validation" if screen else "test", count=args.prompts or (40 if screen else 100), seeds=1 if screen else 3,
        settings=[f"phi={PHI}"], executor="local",
    )  # fmt: skip
    summary = carry_out(comparison, lambda line: print(line, flush=True))
    write(f"gain-{args.study}", {"ige": json_of(args.ige), "sets": summary["sets"]})


def arms(ige: str) -> list[str]:
    """Constant jumps, AYS, the table, and the IGE with each target; of `value` with each choice."""
    config = Config.read(ige)
    by_ige = f"mcts,jump=ige,ige_model={ige}"
    table = "[" + ",".join(map(str, config.table)) + "]"
    found = ["mcts,k=1", "mcts,k=2", "mcts,k=4", "mcts,k=8", "mcts,jump=ays", f"mcts,jump=table,jump_table={table}"]
    found += [f"{by_ige},ige_target={target}" for target in config.targets]
    return found + [f"{by_ige},ige_choice={choice}" for choice in ("top-m", "sample")]


def prediction(ige: str, data: Path, count: int) -> None:
    """Prediction and regret on states of validation prompts."""
    config = Config.read(ige)
    texts = [text for name in ("medium", "hard") for text in prompts(name, "validation")[:count]]
    collect.run(config.model, config.reward, texts, data, scale=SCALE, levels=config.levels, grid=config.grid, report=print)
    known = Recorded(data)
    network = make_network(config)
    network.load_state_dict({name: value.float() for name, value in load_file(weights(ige)[1]).items()})
    states = known.transitions
    mean_NKM = predictions(network.eval(), config, Examples(torch.from_numpy(known.features), states.level, {}))
    net_NKJ = net_value(states.reward, states.level, config, config.price)
    rules = {f"ige, {name}": chosen(mean_NKM, config, states.level, name, config.price) for name in config.targets}
    rules["table"] = fixed_places(config.jumps, states.level, [config.table[level - 1] for level in states.level])
    rules |= {f"k = {k}": fixed_places(config.jumps, states.level, [k] * len(states)) for k in config.jumps}
    rows = {name: row(config, net_NKJ, places_N, states) for name, places_N in rules.items()}
    record = json.loads((folder_of(ige) / "metrics.json").read_text(encoding="utf-8"))
    bars("gain", {"regret in net value": {name: found["regret"] for name, found in rows.items()}, "mean k": {name: found["k"] for name, found in rows.items()}})
    write("gain", {"ige": json_of(ige), "states": len(states), "completions": SCALE.noises, "rows": rows, "held_out": record["prediction"]})


def row(config: Config, net_NKJ: np.ndarray, places_N: np.ndarray, states) -> dict:
    """Regret with its interval over prompts, and the mean jump, over all and by level."""
    regret_N = regret(net_NKJ, places_N)
    by_prompt = [np.nanmean(regret_N[states.prompt == prompt]) for prompt in np.unique(states.prompt) if np.isfinite(regret_N[states.prompt == prompt]).any()]
    sizes = np.array(config.jumps)[places_N]
    by_level = {str(level): round(float(sizes[states.level == level].mean()), 3) for level in np.unique(states.level)}
    return {"regret": interval(np.array(by_prompt)), "k": round(float(sizes.mean()), 3), "k_by_level": by_level}


def json_of(ige: str) -> dict:
    """What stands for the IGE in a results file."""
    config = Config.read(ige)
    return {"table": list(config.table), "price": config.price, "worth": dict(config.worth), "data": dict(config.data)}


if __name__ == "__main__":
    main()
