"""How fast the tree is, and how much memory it takes.

    python -m benchmarks.tree [--nodes 100000] [--large 1000000]

A tree is grown by its own rules, one new node per simulation, with C = 1 and a = 1/4, a calibrated prior on every node (all
value terms on), jumps of 1 to 8 levels and 16 simulations in flight. Then select + dispatch and complete (backup) are timed
on it, while it goes on growing; what the made-up world draws and books is not timed. The memory of a tree of a million
nodes is what its process grew by. With `max` the tree is deep, because its values favour what was lucky once.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from collections import deque
from statistics import mean, median

from benchmarks.common import bars, write
from mcts_ray.tree import BACKUPS, Prior, State, Tree, Widening, select
from mcts_ray.tree.backup import make_rule

BETA, STEP, NOISE = 3.0, 0.05, 0.5  # exploration; sd of a child's score around its parent's, and of rewards around it
WIDENING, IN_FLIGHT, LEVELS = Widening(1.0, 0.25), 16, 1000


def affordable(node) -> bool:
    return True


def prior(level: int, score: float) -> Prior:
    return Prior(score, 0.3, 0.2)


class World:
    """Grows a tree by simulations of one node each; a node's step score is its parent's and a little noise."""

    def __init__(self, backup: str, seed: int = 0) -> None:
        self.rng = random.Random(seed)
        self.tree = Tree("root", LEVELS, make_rule(backup, 4.0, "max"), calibration=prior)
        self.tree.root.score = 0.0
        self.out: deque = deque()
        self.count = 0
        self.seconds = 0.0  # spent in the tree

    def simulate(self) -> None:
        """Select and send a new child out; if enough are out, take the oldest one back and back it up."""
        id, k = f"{self.count:032x}", self.rng.choice((1, 2, 4, 8))
        self.count += 1
        began = time.perf_counter()
        parent = select(self.tree, BETA, WIDENING, affordable)
        child = self.tree.dispatch(parent, State(id, parent.level - k, k, 0.5, open=True))
        self.seconds += time.perf_counter() - began
        self.out.append((child, parent.score + self.rng.gauss(0, STEP)))
        if len(self.out) < IN_FLIGHT:
            return
        child, score = self.out.popleft()
        reward = score + self.rng.gauss(0, NOISE)
        began = time.perf_counter()
        self.tree.complete(child, (), reward, ((child.id, score),))
        self.seconds += time.perf_counter() - began

    def grow(self, nodes: int) -> World:
        while len(self.tree) < nodes:
            self.simulate()
        return self

    def depths(self) -> list[int]:
        """Of all nodes; a seed has depth 1."""
        depth = {"root": 0}
        for node in self.tree:
            depth[node.id] = depth[node.parent.id] + 1
        return list(depth.values())[1:]


def rate(world: World, simulations: int = 20_000) -> int:
    """Select + backup per second over so many simulations more."""
    before = world.seconds
    for _ in range(simulations):
        world.simulate()
    return round(simulations / (world.seconds - before))


def memory(nodes: int) -> dict:
    """Growth of this process (VmRSS) over a tree of that many nodes, grown in a fresh process."""

    def resident() -> int:
        line = next(line for line in open("/proc/self/status") if line.startswith("VmRSS"))
        return int(line.split()[1]) * 1024

    world = World("mean")
    before = resident()
    began = time.perf_counter()
    world.grow(nodes)
    seconds = time.perf_counter() - began
    return {"nodes": nodes, "mib": round((resident() - before) / 2**20), "grown_in_seconds": round(seconds, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=100_000)
    parser.add_argument("--large", type=int, default=1_000_000)
    parser.add_argument("--memory-only", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory_only:
        print(json.dumps(memory(args.large)))
        return
    rules = {}
    for backup in BACKUPS:
        world = World(backup).grow(args.nodes)
        depth = mean(world.depths())
        runs = [rate(world) for _ in range(3)]
        rules[backup] = {"per_second": median(runs), "runs": runs, "mean_depth": round(depth, 2), "nodes": args.nodes}
    command = [sys.executable, "-m", "benchmarks.tree", "--memory-only", "--large", str(args.large)]
    large = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    setting = {"beta": BETA, "c": WIDENING.c, "a": WIDENING.a, "in_flight": IN_FLIGHT}
    speed = {rule: row["per_second"] for rule, row in rules.items()}
    title = f"select + backup a second, {args.nodes:,} nodes"
    bars("tree", {title: speed, f"MiB for {args.large:,} nodes": {"tree": large["mib"]}}, {title: [20_000]})
    write("tree", {"select_and_backup": rules, **setting, "memory": large})


if __name__ == "__main__":
    main()
