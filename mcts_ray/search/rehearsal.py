"""A search carried out without a model, to see what it would spend."""

from __future__ import annotations

from collections import deque

from mcts_ray.search.base import Cost, Ledger, Outcome, Search, Work


def rehearse(search: Search, in_flight: int) -> Ledger:
    """Run a search to its end with at most `in_flight` units out, told in order; returns what it spent."""
    out: deque[Work] = deque()
    while not search.done:
        out.extend(search.ask(in_flight - len(out)))
        search.tell(_outcome(out.popleft()))
    return search.ledger


def _outcome(work: Work) -> Outcome:
    """Rewards and scores are hashes: the ids of the nodes as numbers in [0, 1)."""
    cost = Cost(nfe=work.nfe, decodes=work.decodes, reward_calls=work.reward_calls, fusions=int(work.fuse is not None))
    reward = _worth(work.edges[-1].node) if work.terminal else None
    return Outcome(work.id, work.search, work.epoch, cost, reward, tuple((node, _worth(node)) for node in work.scored))


def _worth(node: str) -> float:
    return int(node, 16) / 2**128
