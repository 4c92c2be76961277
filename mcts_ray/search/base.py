"""Ask/tell: the plain data that passes between a search, which never sees a tensor, and whatever carries its work out."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Setting:
    """What all units of one search share; hashable.

    `height` and `width` are in pixels, `levels` is T, `grid` is "native" (the scheduler's own time steps) or "ays",
    `order` is 1 (DDIM) or 2 (DPM-Solver++ 2M) for the moves of a walk.
    """

    prompt: str
    negative_prompt: str = ""
    guidance: float = 5.0
    levels: int = 30
    grid: str = "native"
    height: int = 64
    width: int = 64
    order: int = 1


@dataclass(frozen=True)
class Edge:
    """One move to a new state `node` at `level`; its noise is drawn from the node id and enters with sin(phi)."""

    node: str
    level: int
    phi: float = 0.0


@dataclass(frozen=True)
class Work:
    """A walk: move along `edges`, evaluating every new state above level 0 with one denoiser call.

    With `parent` None the first edge's state is a fresh seed x_T = s_T z; otherwise it is the jump from the parent's
    stored (x0, eps) to `edges[0].level`. A state at level 0 is terminal: it is decoded and rewarded, never evaluated.
    `keep` names the nodes whose (x0, eps) stay in the store, so that later units may start from them.
    """

    id: str
    search: str
    setting: Setting
    parent: str | None
    action: str  # "seed" | "jump" | "fuse"
    edges: tuple[Edge, ...]
    keep: tuple[str, ...] = ()
    epoch: int = 0

    @property
    def nfe(self) -> int:
        """Denoiser calls this unit needs: the number of edges above level 0."""
        return sum(edge.level > 0 for edge in self.edges)

    @property
    def terminal(self) -> bool:
        """Whether the walk ends in a finished image."""
        return self.edges[-1].level == 0

    @property
    def decodes(self) -> int:
        """Images this unit decodes and rewards: 1 if terminal, else 0."""
        return int(self.terminal)


@dataclass(frozen=True)
class Cost:
    """What one unit spent; `model_forwards` are network sample-forwards, `denoiser_seconds` its share of busy time."""

    nfe: int = 0
    model_forwards: int = 0
    decodes: int = 0
    reward_calls: int = 0
    fusions: int = 0
    denoiser_seconds: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """What became of one unit: its cost, the reward of its image if terminal, step scores per evaluated node, or an error."""

    work: str
    search: str
    epoch: int
    cost: Cost
    reward: float | None = None
    scores: tuple[tuple[str, float | None], ...] = ()
    error: str | None = None
