"""Search algorithms as plain ask/tell objects: they see ids, levels, scores and costs, never tensors and never Ray."""

from mcts_ray.search.base import Candidate, Cost, Edge, Fuse, Ledger, Outcome, Search, Setting, Work
from mcts_ray.search.beam import Beam
from mcts_ray.search.best_of_n import BestOfN
from mcts_ray.search.bfs import BFS
from mcts_ray.search.demon import Demon
from mcts_ray.search.dfs import DFS
from mcts_ray.search.dts import DTS, DTSStar
from mcts_ray.search.fk import FK
from mcts_ray.search.mcts import MCTS
from mcts_ray.search.noise_search import RandomSearch, ZeroOrder
from mcts_ray.search.nts import NTS
from mcts_ray.search.psp import PSP
from mcts_ray.search.rbf import RBF
from mcts_ray.search.smc_tempered import TemperedSMC
from mcts_ray.search.svdd import SVDD

ALGORITHMS: dict[str, type[Search]] = {
    "best-of-n": BestOfN,
    "psp": PSP,
    "fk": FK,
    "svdd": SVDD,
    "beam": Beam,
    "bfs": BFS,
    "dfs": DFS,
    "smc-tempered": TemperedSMC,
    "dts": DTS,
    "dts-star": DTSStar,
    "rbf": RBF,
    "nts": NTS,
    "demon": Demon,
    "random": RandomSearch,
    "zero-order": ZeroOrder,
    "mcts": MCTS,
}

__all__ = [
    "ALGORITHMS",
    "BFS",
    "DFS",
    "DTS",
    "FK",
    "MCTS",
    "NTS",
    "PSP",
    "RBF",
    "SVDD",
    "Beam",
    "BestOfN",
    "Candidate",
    "Cost",
    "DTSStar",
    "Demon",
    "Edge",
    "Fuse",
    "Ledger",
    "Outcome",
    "RandomSearch",
    "Search",
    "Setting",
    "TemperedSMC",
    "Work",
    "ZeroOrder",
]
