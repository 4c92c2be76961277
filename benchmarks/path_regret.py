"""Path regret of the tree search itself: in trees whose every path is known, how often was the best one chosen, and what was lost?

    python -m benchmarks.path_regret [--prompts 100] [--split test] [--seeds 8] [--times 2 4 8 16]

The tree that `auto` searches (k = 4, phi = 1.2, branches wherever the path passes), cut off at `--seeds` seeds, whose noises are the same
for all prompts, and two children of every state that may be branched: the path as it was, and one that leaves it. One search walks all of
it, on hard prompts with the scenes model; with 8 seeds 512 images of 1,024 calls a prompt. Then `mcts` searches in it with budgets that
pay for a part, by what the images have got, as one alone does: all units out go one call on together, no more of them than fit into a
batch or the default cap. Nothing is run for that, so that all arms see the same paths. Arms:

    half in flight, an eighth, one by one   of the budget, what may be out in units chosen by values; `auto` takes a half below 16 T
    an eighth, explore, backup              the same with that field of the search
    an eighth, prune                        stages: seeds halved after .5, .6, ... of the budget; statistical: z = .5, least = 2
    blind                                   an eighth, paths chosen by chance (`DRAWS` times), the image still by the guide
    gold                                    an eighth, paths and image chosen by the verifier; of equal ones the best by guide

Figures are of the image that is chosen at the end: `best_chosen`: how often it is the tree's best by the judge (guide; in the arm `gold`
gold, of which many are equal); `ahead`: share of the tree's images that are better by the judge; `guide_lost`, `gold_lost`: what the best
one has more; `guide`, `gold`; the last two also as paired differences, `over` blind and an eighth. `images`: finished, of the same calls.
`pruned`: subtrees, counted again when they come back. 95 % bootstrap intervals over prompts. `best_by_guide`: gold of the tree's best by
guide; `blind_pick`: of a random image. Resumable: runs/path_regret-KEY holds the trees that are done, KEY stands for weights and settings.
"""

from __future__ import annotations

import argparse
import hashlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.common import ROOT, bars, interval, write
from benchmarks.pool import key
from mcts_ray import SearchConfig, Searcher
from mcts_ray.auto import K, LEVELS, SHARE, TREE
from mcts_ray.executor.backend import Plan, Task
from mcts_ray.gain.policy import Constant
from mcts_ray.report.share import replacing
from mcts_ray.scenes import prompts, verify_batch
from mcts_ray.scenes.scorer import WEIGHTS
from mcts_ray.search.base import Cost, Outcome, Search, Work
from mcts_ray.search.branching import Branching
from mcts_ray.search.mcts import MCTS
from mcts_ray.tree.backup import make_rule
from mcts_ray.tree.node import Node
from mcts_ray.tree.prune import Pruning

GUIDANCE, CHILDREN, GROUP = 3.0, 2, 4
DRAWS = 16  # blind searches of each tree
BATCH = 64  # units out at once, at most
SAME = 1e-6
Tree = Mapping[str, np.ndarray]  # node (N,), guide (N,), gold (N,) of its images
EIGHTH = {"share": 1 / 8}
ARMS = {
    "half in flight": {"share": SHARE},
    "an eighth": EIGHTH,
    "one by one": {"share": 0.01},
    "an eighth, explore=0.3": EIGHTH | {"beta": 0.3},
    "an eighth, explore=3": EIGHTH | {"beta": 3.0},
    "an eighth, backup=max": EIGHTH | {"rule": make_rule("max", 1.0, "max")},
    "an eighth, prune=stages": EIGHTH | {"pruning": Pruning(("stages",), halvings=(0.5, 0.6, 0.7, 0.8, 0.9))},
    "an eighth, prune=statistical": EIGHTH | {"pruning": Pruning(("statistical",), z=0.5, least=2)},
    "blind": EIGHTH,
    "gold": EIGHTH,
}


class Bounded(MCTS):
    """`mcts` in a tree that ends: at most `most` seeds, and two children of every other state that may be branched."""

    most = 0
    best = Search.best  # by reward alone, so that the gallery can hold every image

    def _affordable(self, node: Node) -> bool:
        room = self.most if node is self.tree.root else CHILDREN
        return len(node.children) < room and super()._affordable(node)


def bounded(planned: Search, most: int, budget: int, **own: object) -> Bounded:
    """The search of one prompt: half of the budget for its first seeds, as everywhere, but no more than there are."""
    branching = Branching(LEVELS, TREE["phi"], TREE["branchings"], TREE["phi_schedule"])
    seeds = min(most, max(1, budget // (2 * -(-LEVELS // K))))
    search = Bounded(planned.id, planned.setting, budget, branching, seed=0, seeds=seeds, policy=Constant(K), **own)
    search.most = most
    return search


def size(plan: Plan, most: int) -> tuple[int, int]:
    """Calls and images of the whole tree: it is walked with rewards that are all the same."""
    search = bounded(plan.searches[0], most, 10**6)
    replayed(search, lambda work: 0.0)
    return search.ledger.nfe, len(search.finished)


def replayed(search: Search, reward: Callable[[Work], float]) -> None:
    """Carry a search out by known rewards; of the units that are out all go one call on together."""
    out: deque[list] = deque()
    cap = min(BATCH, max(1, search.budget // 8))
    while not search.done:
        out.extend([work.nfe, work] for work in search.ask(cap - len(out)))
        for entry in out:
            entry[0] -= 1
        ended = [entry for entry in out if entry[0] <= 0]
        out = deque(entry for entry in out if entry[0] > 0)
        for _, work in ended:
            cost = Cost(nfe=work.nfe, decodes=1, reward_calls=1)
            search.tell(Outcome(work.id, work.search, work.epoch, cost, reward(work)))


def walked(searcher: Searcher, plan: Plan, texts: Sequence[str], most: int, calls: int, images: int) -> list[Tree]:
    """The whole tree of each prompt."""
    searches = [bounded(planned, most, calls, share=1.0) for planned in plan.searches]
    found, error = searcher.backend.run([Task(search, BATCH, images) for search in searches], plan, "scenes")
    if error:
        raise error
    trees = []
    for one, text in zip(found, texts, strict=True):
        assert len(one.finished) == images and not one.errors, "a tree was not walked to its end"
        nodes = [candidate.node for candidate in one.finished]
        verdicts = verify_batch(np.stack([one.gallery[node] for node in nodes]), [text] * images)
        guide = np.array([candidate.reward for candidate in one.finished])
        trees.append({"node": np.array(nodes), "guide": guide, "gold": np.array([gold for gold, _, _ in verdicts])})
    return trees


def chosen(planned: Search, tree: Tree, arm: str, most: int, budget: int) -> dict[str, float]:
    """The figures of one search in one tree, of blind ones the means."""
    judge = tree["gold" if arm == "gold" else "guide"]
    if arm != "blind":
        return _found(planned, tree, judge, judge, most, budget, ARMS[arm])
    rng = np.random.default_rng(int.from_bytes(hashlib.blake2b(planned.setting.prompt.encode(), digest_size=8).digest(), "big"))
    draws = [_found(planned, tree, judge, rng.normal(size=len(judge)), most, budget, ARMS[arm]) for _ in range(DRAWS)]
    return {what: float(np.mean([draw[what] for draw in draws])) for what in draws[0]}


def _found(planned: Search, tree: Tree, judge: np.ndarray, told: np.ndarray, most: int, budget: int, own: Mapping) -> dict[str, float]:
    """What a search finds that is told of each image what is in `told`, where the image is chosen by `judge`."""
    place = {node: at for at, node in enumerate(tree["node"])}
    search = bounded(planned, most, budget, **own)
    replayed(search, lambda work: float(told[place[work.edges[-1].node]]))
    seen = [place[candidate.node] for candidate in search.finished]
    guide, gold = tree["guide"], tree["gold"]
    pick = max(seen, key=lambda at: (judge[at], guide[at]))
    return {
        "best_chosen": float(judge[pick] >= judge.max() - SAME),
        "ahead": float((judge > judge[pick] + SAME).mean()),
        "guide_lost": float(guide.max() - guide[pick]),
        "gold_lost": float(gold.max() - gold[pick]),
        "guide": float(guide[pick]),
        "gold": float(gold[pick]),
        "nfe": search.ledger.nfe,
        "images": len(seen),
        "pruned": search.pruning.get("pruned", 0),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--split", default="test", choices=("validation", "test"))
    parser.add_argument("--seeds", type=int, default=8, help="of a tree")
    parser.add_argument("--times", type=int, nargs="+", default=[2, 4, 8, 16], help="budgets in multiples of T = 30")
    parser.add_argument("--name", help="of the results file")
    args = parser.parse_args()
    texts = prompts("hard", args.split)[: args.prompts]
    searcher = Searcher.from_pretrained("scenes", reward="scenes")
    config = SearchConfig(algorithm="mcts", k=K, levels=LEVELS, guidance=GUIDANCE, budget=LEVELS, **TREE)
    calls, images = size(searcher.backend.plan(texts[:1], config, None), args.seeds)
    judge = hashlib.blake2b(b"".join(file.read_bytes() for file in sorted(WEIGHTS.glob("scorer/*.safetensors")))).hexdigest()
    folder = ROOT / "runs" / f"path_regret-{key(searcher, LEVELS, GUIDANCE, K, args.seeds, CHILDREN, repr(TREE), judge)}"
    folder.mkdir(parents=True, exist_ok=True)
    searches, trees = [], []
    for at in range(0, len(texts), GROUP):
        group = texts[at : at + GROUP]
        plan = searcher.backend.plan(group, config, None)
        searches += plan.searches
        trees += _kept(folder, args.split, at, group, lambda: walked(searcher, plan, group, args.seeds, calls, images))
    rows = {}
    for times in args.times:
        found = {arm: [chosen(*pair, arm, args.seeds, times * LEVELS) for pair in zip(searches, trees, strict=True)] for arm in ARMS}
        rows |= {f"{arm} {times}x": _summary(found[arm], {name: found[name] for name in ("blind", "an eighth")}) for arm in ARMS}
    about = {"split": args.split, "prompts": len(texts), "levels": LEVELS, "k": K, **TREE, "seeds": args.seeds, "children": CHILDREN}
    about |= {"calls": calls, "images": images, "interval": "95 % bootstrap over prompts: [mean, low, high]"}
    about["best"] = interval(np.array([tree["gold"].max() for tree in trees]))
    about["best_by_guide"] = interval(np.array([tree["gold"][tree["guide"].argmax()] for tree in trees]))
    about["blind_pick"] = interval(np.array([tree["gold"].mean() for tree in trees]))
    name = args.name or ("path_regret" if args.split == "test" else f"path_regret-{args.split}")
    write(name, {**about, "rows": rows})
    main_rows = {label: row for label, row in rows.items() if "," not in label}
    bars(name, {what: {label: row[what] for label, row in main_rows.items()} for what in ("best_chosen", "guide_lost", "gold_lost")})


def _kept(folder: Path, split: str, at: int, group: Sequence[str], make: Callable[[], list[Tree]]) -> list[Tree]:
    """The trees of a group of prompts, walked if they are not there yet."""
    paths = [folder / f"{split}-{at + index}.npz" for index in range(len(group))]
    if not all(path.exists() for path in paths):
        for path, tree in zip(paths, make(), strict=True):
            with replacing(path) as partial, open(partial, "wb") as file:
                np.savez_compressed(file, **tree)
        print(f"{at + len(group)} prompts", flush=True)
    trees = []
    for path in paths:
        with np.load(path) as arrays:
            trees.append({name: arrays[name] for name in arrays.files})
    return trees


def _summary(found: list[dict[str, float]], others: Mapping[str, list[dict[str, float]]]) -> dict:
    """One line of the table; others: searches that it is held against."""
    column = {what: np.array([one[what] for one in found]) for what in found[0]}
    row = {what: interval(column[what]) for what in ("best_chosen", "ahead", "guide_lost", "gold_lost", "guide", "gold")}
    for name, other in others.items():
        for what in ("guide", "gold"):
            row[f"{what}_over_{name.replace(' ', '_')}"] = interval(column[what] - np.array([one[what] for one in other]))
    return row | {what: round(float(column[what].mean()), 1) for what in ("nfe", "images", "pruned")}


if __name__ == "__main__":
    main()
