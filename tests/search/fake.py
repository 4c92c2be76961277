"""A world without tensors: the reward of an image is a hash of its node id, so every path has a known worth."""

from collections.abc import Callable

from mcts_ray.search import Cost, Outcome, Search, Work
from mcts_ray.search.journal import asked, told


def worth(node: str) -> float:
    """The reward of a terminal node: its id read as a number in [0, 1)."""
    return int(node, 16) / 2**128


def refusal_of(work: Work, reason: str = "copy") -> Outcome:
    """What an executor would tell of a unit whose particles could not be fused."""
    return Outcome(work.id, work.search, work.epoch, Cost(), refused=reason)


def outcome_of(work: Work, error: str | None = None) -> Outcome:
    """What an executor would tell of one unit."""
    terminal = work.terminal and error is None
    images = 0 if error else work.decodes
    cost = Cost(work.nfe, 2 * work.nfe, images, images, int(work.fuse is not None), 0.01 * work.nfe)
    reward = worth(work.edges[-1].node) if terminal else None
    scores = () if error else tuple((node, worth(node)) for node in work.scored)
    return Outcome(work.id, work.search, work.epoch, cost, reward, scores, error)


def journalled(search: Search, stop: int, answer: Callable[[Work, int], Outcome], looked: Callable[[], None] = lambda: None) -> list[dict]:
    """Tell a search `stop` outcomes, `answer(work, step)` each, out of order and with up to 4 units out; returns its journal. `looked` is
    called after each."""
    lines: list[dict] = []
    out: list[Work] = []
    for step in range(stop):
        for work in search.ask(4 - len(out)):
            out.append(work)
            lines.append(asked(work))
        if not out:
            break
        outcome = answer(out.pop(step % len(out)), step)
        search.tell(outcome)
        lines.append(told(outcome, 0.0))
        looked()
    return lines


def carry_out(search: Search, room: int = 4, fails=lambda work: False) -> list[Work]:
    """Run a search to its end, `room` units at a time; returns all units in the order they went out."""
    works = []
    while not search.done:
        batch = search.ask(room)
        assert batch, "the search is not done but asks for nothing"
        works += batch
        for work in batch:
            search.tell(outcome_of(work, "broken" if fails(work) else None))
    return works


def carry_out_in_flight(search: Search, room: int, fails=lambda work: False) -> list[Work]:
    """Run a search to its end with up to `room` units out, told one by one in order; returns all units."""
    works, out = [], []
    while not search.done:
        out += search.ask(room - len(out))
        work = out.pop(0)
        works.append(work)
        search.tell(outcome_of(work, "broken" if fails(work) else None))
    return works
