"""Inference-time search for text-to-image diffusion models: the best images a compute budget can find, fully accounted for.

The public names are resolved on first use, so that `import mcts_ray` loads neither torch nor a model library.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from mcts_ray.config import SearchConfig
    from mcts_ray.executor import Progress
    from mcts_ray.result import SearchFailed, SearchInterrupted, SearchResult
    from mcts_ray.search import Candidate, Ledger
    from mcts_ray.searcher import Searcher
    from mcts_ray.service.client import AsyncClient, Client

_HOME = {
    "AsyncClient": "service.client",
    "Candidate": "search",
    "Client": "service.client",
    "Ledger": "search",
    "Progress": "executor",
    "SearchConfig": "config",
    "SearchFailed": "result",
    "SearchInterrupted": "result",
    "SearchResult": "result",
    "Searcher": "searcher",
}

__all__ = [
    "AsyncClient",
    "Candidate",
    "Client",
    "Ledger",
    "Progress",
    "SearchConfig",
    "SearchFailed",
    "SearchInterrupted",
    "SearchResult",
    "Searcher",
    "__version__",
]


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
