"""What it costs a search to have many units in flight: gold at equal NFE, 1, 4, 16 and 64 of them, and the cap that follows.

    python -m benchmarks.parallel_loss [--prompts 160] [--seeds 2] [--times 16] [--in-flight 1 4 16 64] [--margin 0.1] [--long]

mcts on hard validation prompts with the scenes model, in this process (`--long`: the tree on long jumps that `auto` takes): a search is
asked as long as it has fewer units out than its cap, and told in the order in which they end, as by a pool of denoisers. As many searches
run side by side as fill one batch, so that each has what it may have; `reached` is the mean number of units that were out when one was
told. Its own bound, a share of the budget in NFE, is lifted (`in_flight_share` 1), but for the arm `default`, which has the settings of
every search. sd: the within-prompt standard deviation of gold of single samples of the same prompts, by the same jumps. `loss`: gold of
one unit in flight minus gold of the arm, in sd, paired by prompt and seed, with a 95 % bootstrap interval over prompts, seeds averaged. An arm
holds if the upper end of its loss is below the margin; `cap`: the most in flight up to which all arms hold. Resumable:
runs/parallel_loss-KEY holds the groups that have ended, KEY stands for weights and settings.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.common import ROOT, bars, interval, write
from benchmarks.pool import key, sample, score
from mcts_ray import SearchConfig, Searcher
from mcts_ray.auto import choose
from mcts_ray.compare.figures import within_sd
from mcts_ray.executor.record import read_journal
from mcts_ray.report.run import write_json
from mcts_ray.scenes import prompts
from mcts_ray.scenes.scorer import Scorer

LEVELS, GUIDANCE, SINGLES = 30, 3.0, 40
DEFAULT = "default"


def config(arm: str, times: int, seed: int, long: bool) -> SearchConfig:
    """The search of one arm; an arm is a number of units in flight, or "default"."""
    own = {} if arm == DEFAULT else {"in_flight": int(arm), "in_flight_share": 1.0}
    algorithm = "auto" if long else "mcts"
    asked = SearchConfig(algorithm=algorithm, budget=times * LEVELS, levels=LEVELS, guidance=GUIDANCE, images=1, seed=seed, **own)
    return choose(asked, "scenes").config


def golds(searcher: Searcher, texts: list[str], asked: SearchConfig, name: str, folder: Path) -> list[dict]:
    """A row for each prompt: gold and guide of the best image, what it cost, and how many units were out. name: of the files of its groups;
    those that are there are read."""
    plan = searcher.backend.plan(texts[:1], asked, searcher.reward)
    size = max(1, plan.batch_size // plan.config.in_flight)
    rows = []
    for at in range(0, len(texts), size):
        group = texts[at : at + size]
        path = folder / f"{name}-{at}-{len(group)}.json"
        if not path.exists():
            with tempfile.TemporaryDirectory() as runs:
                outs = [Path(runs, str(index)) for index in range(len(group))]
                results = searcher.many(group, asked, outs=outs)
                out = [reached(read_journal(run)[1]) for run in outs]
            found = [
                {"gold": r.verdicts[0][0], "guide": r.best.reward, "nfe": r.ledger.nfe, "images": len(r.finished), "reached": mean}
                for r, mean in zip(results, out, strict=True)
            ]
            write_json(path, [{"prompt": text, **row} for text, row in zip(group, found, strict=True)])
            if (at + len(group)) % 20 == 0:
                print(f"{name}: {at + len(group)} of {len(texts)} prompts", flush=True)
        rows += json.loads(path.read_text(encoding="utf-8"))
    return rows


def reached(records: list[dict]) -> float:
    """How many units were out, on average, when one was told, itself included."""
    out, seen = 0, []
    for record in records:
        if record["type"] == "ask":
            out += 1
        elif record["type"] == "tell":
            seen.append(out)
            out -= 1
    return float(np.mean(seen))


def single_sd(searcher: Searcher, texts: list[str], samples: int, k: int, folder: Path) -> float:
    """Within-prompt standard deviation of gold of single samples."""
    values = []
    for at in range(0, len(texts), SINGLES):
        group = texts[at : at + SINGLES]
        path = folder / f"single-{samples}-{at}-{len(group)}.npz"
        if not path.exists():
            _, gold_PN, _ = score(sample(searcher, group, samples, LEVELS, GUIDANCE, seed=1000, k=k), group, Scorer.load())
            np.savez(path.with_name("unfinished.npz"), gold=gold_PN)
            path.with_name("unfinished.npz").replace(path)
            print(f"single samples: {at + len(group)} of {len(texts)} prompts", flush=True)
        with np.load(path) as data:
            values.append(data["gold"])
    return within_sd(np.concatenate(values).astype(float))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=160)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--times", type=int, default=16, help="budget in multiples of T = 30")
    parser.add_argument("--in-flight", type=int, nargs="+", default=[1, 4, 16, 64], help="the first is the reference")
    parser.add_argument("--margin", type=float, default=0.1, help="in sd")
    parser.add_argument("--samples", type=int, default=8, help="single samples of each prompt")
    parser.add_argument("--long", action="store_true", help="the tree that auto takes, on long jumps")
    parser.add_argument("--name", help="of the results file")
    args = parser.parse_args()
    texts = prompts("hard", "validation")[: args.prompts]
    searcher = Searcher.from_pretrained("scenes")
    defaults = config(DEFAULT, args.times, 0, args.long).resolved(True, searcher.backend.adapter.default_size, "scenes")
    folder = ROOT / "runs" / f"parallel_loss-{key(searcher, LEVELS, GUIDANCE, repr(sorted(defaults.model_dump().items())))}"
    folder.mkdir(parents=True, exist_ok=True)
    sd = single_sd(searcher, texts, args.samples, defaults.k, folder)
    arms = [*map(str, args.in_flight), DEFAULT]

    def runs(arm: str) -> list[list[dict]]:
        asked = [config(arm, args.times, seed, args.long) for seed in range(args.seeds)]
        return [golds(searcher, texts, one, f"{arm}-{args.times}x-{one.seed}", folder) for one in asked]

    rows = {arm: runs(arm) for arm in arms}
    table = {arm: _figures(rows[arm], rows[arms[0]], sd, args.margin) for arm in arms}
    cap = None
    for arm in arms[:-1]:
        if not table[arm]["holds"]:
            break
        cap = int(arm)
    about = {"split": "validation", "set": "hard", "prompts": len(texts), "seeds": args.seeds, "pairs": len(texts) * args.seeds}
    about |= {"times": args.times, "levels": LEVELS, "samples": args.samples, "sd": round(sd, 4), "margin": args.margin}
    about |= {"default_in_flight": defaults.in_flight, "default_in_flight_share": defaults.in_flight_share, "cap": cap}
    about |= {name: getattr(defaults, name) for name in ("k", "phi", "phi_schedule", "branchings")}
    name = args.name or ("parallel_loss-long" if args.long else "parallel_loss")
    write(name, {**about, "rows": table})
    losses = {f"{arm} in flight" if arm != DEFAULT else DEFAULT: table[arm]["loss"] for arm in arms[1:]}
    title = f"loss of gold against {arms[0]} in flight, in sd"
    bars(name, {title: losses}, {title: [args.margin]})


def _figures(rows: list[list[dict]], reference: list[list[dict]], sd: float, margin: float) -> dict:
    """What is told of one arm; rows by seed and prompt."""
    value_SP, reference_SP = (np.array([[row["gold"] for row in seed] for seed in some]) for some in (rows, reference))
    loss = interval((reference_SP - value_SP).mean(0) / sd)
    found = {"gold": interval(value_SP.mean(0)), "loss": loss, "holds": bool(loss[2] < margin)}
    known = ("guide", "nfe", "images", "reached")
    return found | {name: round(float(np.mean([row[name] for seed in rows for row in seed])), 3) for name in known}


if __name__ == "__main__":
    main()
