"""Writes the golden trees: `python -m tests.golden.make`.

They come from the slow reference tree and the plain loop below, never from `mcts_ray.tree` or `mcts_ray.search.mcts`. The
denoiser is a hash of the path (an idea of google-deepmind/mctx): a node's id is a hash of its parent's id and its
action, and the reward of a finished image is its id read as a number in [0, 1).
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from mcts_ray.search.ids import fuse_id, jump_id, root_id, seed_id
from tests.tree.reference import ReferenceTree

HERE = Path(__file__).parent
FUSING = {"mode": "signed", "after": 7, "most": 2, "depth": 1, "retire": True}
CASES = {
    "mcts_sequential": {"levels": 10, "budget": 120, "k": 2, "stride": 1, "room": 1},
    "mcts_parallel": {"levels": 10, "budget": 150, "k": 3, "stride": 2, "room": 4, "beta": 1.0},
    "mcts_max": {"levels": 12, "budget": 150, "k": 4, "stride": 0, "room": 2, "backup": "max", "c": 1.0, "a": 0.25},
    "mcts_fuse": {"levels": 10, "budget": 200, "k": 2, "stride": 5, "room": 3, "beta": 0.3, "c": 3.0, "fusing": FUSING},
    "mcts_soft": {"levels": 12, "budget": 200, "k": 1, "stride": 3, "room": 3, "backup": "soft", "across": "mean"},
}
DEFAULTS = {"seed": 7, "seeds": 3, "phi": 0.5, "count": 3, "beta": 0.5, "c": 2.0, "a": 0.5, "backup": "mean", "across": "max"}


def build(case: dict) -> list[dict]:
    """Run one case; its nodes as `MCTS.nodes` gives them."""
    o = {**DEFAULTS, **case}
    T, tree = o["levels"], ReferenceTree(o["beta"], o["c"], o["a"], o["backup"], across=o["across"], fusing=o.get("fusing"))
    marks = {round(T * (1 - 0.8 * j / (o["count"] + 1))) for j in range(1, o["count"] + 1)}
    draws, out, left = {}, [], o["budget"]

    def phi(level):
        return o["phi"] * min(1.0, max(0.0, (level / T - 0.2) / 0.2))

    def walk(level):  # (level, k, phi, open) of every state of a simulation from a parent at `level`, None: a seed
        k = 0 if level is None else min(o["k"], level)
        above = T if level is None else level
        path = [(above - k, k, 0.0 if level is None else phi(level))]
        while path[-1][0]:
            step = min(o["stride"] or o["k"], path[-1][0])
            path.append((path[-1][0] - step, step, 0.0))
        before = [above, *(state[0] for state in path)]
        return [(s, k, f, s > o["k"] and phi(s) > 0 and any(s <= m < b for m in marks)) for (s, k, f), b in zip(path, before)]

    @cache
    def cost(level):
        return sum(state[0] > 0 for state in walk(level))

    def ask():
        if len(tree.children("root")) < o["seeds"]:
            choice = ("root", None) if cost(None) <= left else None
        elif not tree.completed:
            choice = None
        else:
            choice = tree.select(lambda level: cost(level) <= left, lambda level: walk(level)[0][:3])
        if choice is None:
            return None
        parent, offer = choice
        level = tree.nodes[parent]["level"]
        (s, k, f, opened), *tail = walk(level)
        if offer:
            above = root_id(o["seed"]) if parent == "root" else parent
            id = fuse_id(above, o["fusing"]["mode"], offer["particles"], offer["weights"])
        else:
            index = draws.get(parent, 0 if parent == "root" else 1)  # draw 0 of a state is its own roll-out
            draws[parent] = index + 1
            id = seed_id(o["seed"], index) if parent == "root" else jump_id(parent, k, index)
        tree.dispatch(parent, id, s, k, f, opened, offer)
        rollout, above = [], id
        for s, k, _, opened in tail:
            above = jump_id(above, k)
            rollout.append((above, s, k, opened))
        return id, rollout, above, cost(level)

    while True:
        while len(out) < o["room"] and (unit := ask()):
            out.append(unit)
            left -= unit[3]
        if not out:
            break
        id, rollout, last, _ = out.pop(0)
        tree.complete(id, rollout, int(last, 16) / 2**128)
    nodes = []
    for id, node in tree.nodes.items():
        if id != "root":
            parent = None if node["parent"] == "root" else node["parent"]
            action = "fuse" if "particles" in node else f"jump {node['k']}" if node["k"] else "seed"
            row = {"id": id, "parent": parent, "level": node["level"], "action": action, "visits": tree.N(id)}
            row |= {"value": tree.value(id), "phi": node["phi"]}
            nodes.append(row | ({"particles": node["particles"]} if "particles" in node else {}))
    return nodes


def main() -> None:
    for name, case in CASES.items():
        nodes = build(case)
        origin = "python -m tests.golden.make: the slow reference of tests/tree/reference.py on a path-hash denoiser"
        text = json.dumps({"origin": origin, "case": {**DEFAULTS, **case}, "nodes": nodes})
        text = text.replace('{"id"', '\n{"id"')
        (HERE / f"{name}.json").write_text(text + "\n")
        print(name, len(nodes))


if __name__ == "__main__":
    main()
