"""How fast the tree is, and how much memory it takes.

    python -m benchmarks.tree [--nodes 100000] [--large 1000000]

A tree is grown by its own rules, one new node per simulation, with C = 1 and a = 1/4, a calibrated prior on every node (all
value terms on), jumps of 1 to 8 levels and 16 simulations in flight. Then select + dispatch and complete (backup) are timed
on it, while it goes on growing; what the made-up world draws and books is not timed. The memory of a tree of a million
nodes is what its process grew by. A node is worth what its parent is and a little noise, so that there is something to find.
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

from benchmarks.common import write
from mcts_ray.tree import BACKUPS, Prior, State, Tree, Widening, select
from mcts_ray.tree.backup import make_rule

BETA, STEP, NOISE = 1.0, 0.05, 0.5  # exploration; sd of a child's worth around its parent's, and of rewards around it
WIDENING, IN_FLIGHT, LEVELS = Widening(1.0, 0.25), 16, 1000


def affordable(node) -> bool:
    return True


class World:
    """Grows a tree by simulations of one node each; a node is worth what its parent is, and a little noise."""

    def __init__(self, backup: str, seed: int = 0) -> None:
        self.rng = random.Random(seed)
        self.tree = Tree("root", LEVELS, make_rule(backup, 4.0, "max"), calibration=self.prior)
        self.worth = {"root": 0.0}
        self.out: deque = deque()
        self.count = 0

    def prior(self, level: int, score: float) -> Prior:
        return Prior(score, 0.3, 0.2)

    def dispatch(self) -> None:
        """Select, and send a new child out."""
        parent = select(self.tree, BETA, WIDENING, affordable)
        k = self.rng.choice((1, 2, 4, 8))
        state = State(f"{self.count:032x}", parent.level - k, k, 0.5, open=True)
        self.count += 1
        self.worth[state.id] = self.worth[parent.id] + self.rng.gauss(0, STEP)
        self.out.append(self.tree.dispatch(parent, state))

    def complete(self) -> None:
        """Take the oldest simulation back and back it up."""
        child = self.out.popleft()
        worth = self.worth[child.id]
        self.tree.complete(child, (), worth + self.rng.gauss(0, NOISE), ((child.id, worth + self.rng.gauss(0, STEP)),))

    def grow(self, nodes: int) -> World:
        while len(self.tree) < nodes:
            self.dispatch()
            if len(self.out) >= IN_FLIGHT:
                self.complete()
        return self

    def depths(self) -> list[int]:
        """Of the nodes; a seed has depth 1."""
        depth = {"root": 0}
        for node in self.tree:
            depth[node.id] = depth[node.parent.id] + 1
        return list(depth.values())[1:]


def rate(world: World, seconds: float = 2.0) -> dict:
    """Select + backup per second, tree arithmetic only: what the world draws and books is not timed. Depth of the parents chosen."""
    spent, simulations, depths = 0.0, 0, []
    while spent < seconds:
        ready = [(world.rng.choice((1, 2, 4, 8)), world.rng.gauss(0, STEP), world.rng.gauss(0, NOISE)) for _ in range(1000)]
        for k, step, noise in ready:
            id = f"{world.count:032x}"
            world.count += 1
            began = time.perf_counter()
            parent = select(world.tree, BETA, WIDENING, affordable)
            child = world.tree.dispatch(parent, State(id, parent.level - k, k, 0.5, open=True))
            spent += time.perf_counter() - began
            world.worth[id] = world.worth[parent.id] + step
            world.out.append(child)
            oldest = world.out.popleft()
            worth = world.worth[oldest.id]
            began = time.perf_counter()
            world.tree.complete(oldest, (), worth + noise, ((oldest.id, worth),))
            spent += time.perf_counter() - began
            depths.append(len(parent.path()))
        simulations += len(ready)
    return {"per_second": round(simulations / spent), "mean_depth": round(mean(depths), 2)}


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
    world.worth = {}  # the world's own book is no part of the tree
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
        depths = world.depths()
        runs = [rate(world) for _ in range(3)]
        rules[backup] = {
            "per_second": median(run["per_second"] for run in runs),
            "runs": [run["per_second"] for run in runs],
            "mean_depth_of_selections": runs[0]["mean_depth"],
            "mean_depth_of_nodes": round(mean(depths), 2),
            "nodes": [args.nodes, len(world.tree)],
        }
    command = [sys.executable, "-m", "benchmarks.tree", "--memory-only", "--large", str(args.large)]
    large = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    write("tree", {"select_and_backup": rules, "beta": BETA, "c": WIDENING.c, "a": WIDENING.a, "in_flight": IN_FLIGHT, "memory": large})


if __name__ == "__main__":
    main()
