"""The journal of a search: what was asked and what was told, as plain records, enough to rebuild the search.

A search is deterministic: the same asks and tells in the same order make the same tree. So the journal keeps the units
as they went out (for the reader, and to notice a search that is not the same) and the outcomes as they came back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict

from mcts_ray.gain.choose import gains_of
from mcts_ray.search.base import Cost, Outcome, Search, Work


def asked(work: Work) -> dict:
    """The record of one unit going out; its setting is in the header of the journal."""
    edges = [[edge.node, edge.level, edge.phi] for edge in work.edges]
    record = {"type": "ask", "work": work.id, "epoch": work.epoch, "parent": work.parent, "action": work.action}
    record |= {"edges": edges, "keep": list(work.keep), "scored": list(work.scored)}
    if work.fuse:
        record["fuse"] = {"mode": work.fuse.mode, "particles": list(work.fuse.particles), "weights": list(work.fuse.weights)}
        if work.fuse.draw:
            record["fuse"]["draw"] = work.fuse.draw
    if work.version is not None:
        record["version"] = work.version
    return record


def reissued(work: Work) -> dict:
    """The record of a unit that was lost and went out again."""
    return {"type": "reissue", "work": work.id, "epoch": work.epoch}


def told(outcome: Outcome, seconds: float) -> dict:
    """The record of one outcome coming back, `seconds` after the first ask."""
    record = {"type": "tell", "seconds": seconds, **vars(outcome), "cost": dict(vars(outcome.cost))}
    del record["gains"]
    if outcome.ess is None:  # as of every unit that was not fused
        del record["cosine"], record["ess"]
    if outcome.gains:  # without the features, which only a trainer reads
        record["gains"] = [{"node": g.node, "version": g.version, "jumps": [asdict(jump) for jump in g.jumps]} for g in outcome.gains]
    return record


def halted(costs: Iterable[Cost], seconds: float) -> dict:
    """The record of a search that was ended with units in flight, which had spent `costs`."""
    return {"type": "halt", "seconds": seconds, "costs": [asdict(cost) for cost in costs]}


def extended(nfe: int) -> dict:
    """The record of more budget being given."""
    return {"type": "extend", "nfe": nfe}


def resumed(search: str) -> dict:
    """The record of a search going on in another process, by the id that it has there; what halted it before is void."""
    return {"type": "resume", "search": search}


def effective(records: Sequence[dict], search: str) -> list[dict]:
    """The records without the halts after which the search was resumed, under the id that the search has now."""
    last = max((place for place, record in enumerate(records) if record["type"] == "resume"), default=0)
    return [_moved(record, search) for place, record in enumerate(records) if record["type"] != "halt" or place > last]


def _moved(record: dict, search: str) -> dict:
    """A record of a search under another id, which the ids of its units begin with."""
    if "work" not in record:
        return record
    moved = {**record, "work": f"{search}/{record['work'].partition('/')[2]}"}
    return {**moved, "search": search} if "search" in record else moved


def outcome_of(record: dict) -> Outcome:
    """The outcome in a record of type "tell"."""
    fields = {name: value for name, value in record.items() if name not in ("type", "seconds")}
    fields["cost"] = Cost(**fields["cost"])
    fields["scores"] = tuple((node, score) for node, score in fields["scores"])
    fields["gains"] = tuple(gains_of(gains) for gains in fields.get("gains", ()))
    return Outcome(**fields)


def replay(search: Search, records: Iterable[dict], on_ask: Callable[[Work], None] | None = None) -> None:
    """Bring a fresh search to where the journal ends; units that were still out are in flight again. `on_ask` is told of every unit.

    Raises ValueError if the search asks for other units than the journal holds, that is if its configuration differs.
    """
    for record in records:
        if record["type"] == "ask":
            works = search.ask(1)
            if [asked(work) for work in works] != [record]:
                raise ValueError(f"the journal of search {search.id!r} does not belong to this configuration")
            if on_ask:
                on_ask(works[0])
        elif record["type"] == "reissue":
            search.reissue(record["work"])
        elif record["type"] == "tell":
            search.tick(record["seconds"])
            search.tell(outcome_of(record))
        elif record["type"] == "extend":
            search.extend(record["nfe"])
        elif record["type"] == "halt":
            search.tick(record["seconds"])
            search.halt(Cost(**cost) for cost in record["costs"])
