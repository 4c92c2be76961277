"""Search algorithms as plain ask/tell objects: they see ids, levels, scores and costs, never tensors and never Ray."""

from mcts_ray.search.base import Candidate, Cost, Edge, Fuse, Ledger, Outcome, Search, Setting, Work
from mcts_ray.search.best_of_n import BestOfN
from mcts_ray.search.dts import DTS, DTSStar
from mcts_ray.search.fk import FK
from mcts_ray.search.mcts import MCTS
from mcts_ray.search.psp import PSP

ALGORITHMS: dict[str, type[Search]] = {"best-of-n": BestOfN, "psp": PSP, "fk": FK, "dts": DTS, "dts-star": DTSStar, "mcts": MCTS}

__all__ = ["ALGORITHMS", "DTS", "DTSStar", "FK", "MCTS", "PSP", "BestOfN", "Candidate", "Cost", "Edge", "Fuse", "Ledger", "Outcome", "Search", "Setting", "Work"]
