"""The service under deaths: do all searches end, is any carried out twice, and is everything back after a restart of everything?

    python -m benchmarks.service_chaos           # 20 searches of 240 NFE, and three deaths meanwhile
    python -m benchmarks.service_chaos --searches 4 --budget 16 --levels 4 --name service_chaos-smoke

First, with the searches at work, the Serve replica is killed and every submission is repeated with its key; then the tree manager is
killed, and then the jobs actor, with which everything that searches ends. Then, twice, as many again are submitted, and with some of them
at work everything is ended, once by SIGKILL to every process of the cluster and once by `mcts-ray down`, and started again. A unit that is
told twice in one journal counts as twice, as does a key that gives another search, and one that spent more than its budget. The service
must be ready, and answer after each death, within 60 s.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections import Counter
from pathlib import Path

from benchmarks.common import write
from benchmarks.serving import JOBS, MANAGER, PROMPT, REPLICA, begin, kill, user

READY = 60.0  # seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--searches", type=int, default=20)
    parser.add_argument("--budget", type=int, default=240, help="NFE of each, a multiple of the levels")
    parser.add_argument("--levels", type=int, default=30)
    parser.add_argument("--name", default="service_chaos", help="of the results file")
    arguments = parser.parse_args()
    with user() as folder:
        from mcts_ray.service.up import down

        ready = begin()
        start = time.monotonic()
        found = {"ready_seconds": ready, "searches": arguments.searches, "budget": arguments.budget}
        found["deaths"] = asyncio.run(deaths(arguments, folder))
        found["restarts"] = {}
        for how, end in (("killed", lambda: kill(folder)), ("down", down)):
            before = asyncio.run(unfinished(arguments, how))
            end()
            ready = begin()
            found["restarts"][how] = {"ready_seconds": ready, **asyncio.run(back(arguments, before))}
        found["seconds"] = round(time.monotonic() - start, 1)
        down()
    write(arguments.name, {**found, "limits": {"lost": 0, "twice": 0, "seconds": READY}, "passed": passed(found)})
    return int(not passed(found))


def passed(found: dict) -> bool:
    """Whether everybody was killed who should be, nothing was lost or done twice, and the service was back in time."""
    deaths, restarts = found["deaths"], found["restarts"].values()
    kept = all(part["lost"] == part["twice"] == 0 for part in (deaths, *restarts))
    seconds = [found["ready_seconds"], *deaths["back_seconds"].values(), *(part["ready_seconds"] for part in restarts)]
    return kept and min(deaths["killed"].values()) > 0 and max(seconds) <= READY


async def deaths(arguments: argparse.Namespace, folder: str) -> dict:
    """Kill a replica, the manager and the jobs actor while searches are at work."""
    from mcts_ray import AsyncClient

    async with AsyncClient() as client:
        ids = await submit(client, arguments, "first")
        waits = [asyncio.create_task(client.wait(id)) for id in ids]
        killed, back_seconds = {}, {}
        for name, share in ((REPLICA, 0.1), (MANAGER, 0.3), (JOBS, 0.5)):
            await at_work(client, ids, share)
            who = name.removeprefix("ray::")
            killed[who] = await asyncio.to_thread(kill, folder, name)
            start = time.monotonic()
            await patiently(lambda: client.job(ids[0]))
            back_seconds[who] = round(time.monotonic() - start, 1)
            if name == REPLICA:
                again = await patiently(lambda: submit(client, arguments, "first"))
        jobs = await asyncio.gather(*waits)
        listed = [job.id async for job in client.jobs()]
    twice = sum(one != other for one, other in zip(ids, again)) + len(listed) - len(ids)
    begun_again = sum(job.attempt > 1 for job in jobs)
    return {"killed": killed, "back_seconds": back_seconds, "begun_again": begun_again, **account(jobs, twice)}


async def unfinished(arguments: argparse.Namespace, name: str) -> dict[str, dict]:
    """Submit more; returns the whole index, by id, once some of them are at work."""
    from mcts_ray import AsyncClient

    async with AsyncClient() as client:
        ids = await submit(client, arguments, name)
        await at_work(client, ids, 0.1)
        return {job.id: job.model_dump() async for job in client.jobs()}


async def back(arguments: argparse.Namespace, before: dict[str, dict]) -> dict:
    """After a restart: is the index the same, and do those end that had not?"""
    from mcts_ray import AsyncClient

    async with AsyncClient() as client:
        after = {job.id: job.model_dump() async for job in client.jobs()}
        ended = [id for id, job in before.items() if job["status"] == "done"]
        changed = [id for id in ended if after.get(id) != before[id]]
        unreadable = [id for id in ended if not await client.png(id)]
        jobs = await asyncio.gather(*(client.wait(id) for id in before if id not in ended and id in after))
    missing = before.keys() - after.keys()
    found = {"index": len(before), "missing": len(missing), "changed": len(changed), "unfinished": len(jobs)}
    found |= account(jobs, len(after.keys() - before.keys()))
    return found | {"lost": found["lost"] + len(missing) + len(changed) + len(unreadable)}


async def submit(client, arguments: argparse.Namespace, name: str) -> list[str]:
    """As many searches as are asked for, with keys by which they can be submitted again."""
    from mcts_ray import SearchConfig

    configs = [SearchConfig(budget=arguments.budget, levels=arguments.levels, seed=seed) for seed in range(arguments.searches)]
    jobs = await asyncio.gather(*(client.submit(PROMPT, config, key=f"{name}-{config.seed}") for config in configs))
    return [job.id for job in jobs]


async def at_work(client, ids: list[str], share: float) -> None:
    """Until searches have spent this share of their budgets together, and one of them runs and has a part of its own behind it."""
    while True:
        jobs = await patiently(lambda: asyncio.gather(*map(client.job, ids)))
        spent = [job.progress.nfe / job.budget if job.progress else 0.0 for job in jobs]
        running = any(job.status == "running" and nfe > 0 for job, nfe in zip(jobs, spent))
        if running and sum(spent) >= share * len(ids):
            return
        assert not all(job.has_ended for job in jobs), "the searches had ended before anything could be killed; give them more budget"
        await asyncio.sleep(0.1)


async def patiently(call):
    """An answer, where a replica may just have been killed: what every client must be ready for."""
    from mcts_ray.service.errors import ServiceError

    deadline = time.monotonic() + 120
    while True:
        try:
            return await call()
        except (ConnectionError, ServiceError):
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.5)


def account(jobs: list, twice: int) -> dict:
    """What came of searches: done, lost, and carried out twice on top of `twice`."""
    done = [job for job in jobs if job.status == "done"]
    return {"done": len(done), "lost": len(jobs) - len(done), "twice": twice + sum(map(told_twice, done))}


def told_twice(job) -> int:
    """Units that were told more than once in the journal of a search, or 1 if it spent more than it might."""
    lines = Path(job.result["run_dir"], "journal.jsonl").read_text(encoding="utf-8").splitlines()
    told = Counter(line["work"].partition("/")[2] for line in map(json.loads, lines) if line["type"] == "tell")  # without the search's id
    return sum(count - 1 for count in told.values()) or int(job.result["ledger"]["nfe"] > job.budget)


if __name__ == "__main__":
    sys.exit(main())
