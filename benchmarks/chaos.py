"""Kill actors and nodes at random while they hold work: is anything lost or told twice, and how long until work goes on?

    python -m benchmarks.chaos                                # 102 kills, 10 of each kind, the others of the manager
    python -m benchmarks.chaos --kills 6 --least 1 --name -   # one of each kind, only printed

Searches of a tiny pipeline (random weights) run two at a time on a cluster of this machine with two nodes besides the head, jumps chosen
by an IGE that learns online and siblings fused, until all kills have been made. A victim is stopped by SIGSTOP, and once the tree manager
waits for its answer it is killed: by SIGKILL, by `ray.kill`, or with its node (`Cluster.remove_node`). A kill counts if the call that the
victim held has ended with its death; the tree manager always holds the searches. Ray looks every half second whether a node is alive,
instead of every 3 s, and calls it dead after five looks in vain, as it does by default.

Checked after every kill: the journals hold what they held before, no outcome twice, outcomes come again, and in flight is what the
journals have asked for and not told. At the end of every search: the budget is spent, no unit failed, nothing is in flight, and its
journal alone rebuilds its tree. `passed`: all that, `--least` kills of each kind, and no more than 20 minutes; otherwise the exit code is 1.

Recovery, by kind: `seconds` from a kill to the next outcome in each journal that had not ended, which another denoiser may have made;
`back`, seconds until the victim, restarted or replaced, has done work itself, waited for after each of the first four kills of a kind;
`nfe` spent once more because of the kill, as far as anybody had been told of them: with a denoiser what its units had behind them, with
the manager what had been reported and was not in a journal, and the walks that made lost states again; `unreported`, at most how many more
NFE a denoiser had spent in calls that it had not answered, which nobody can know.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import random
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks.common import write
from benchmarks.kills import BACK, KINDS, LEAST, NOTICE, Kill, chosen, lacking, make_ige, process_of, signalled, summary

PROMPTS = ["a red circle", "a blue square"]
REWARD = "benchmarks.chaos:slow_jpeg"
HEALTH = 500  # ms between two looks at whether a node is alive
LOOK = 0.25  # seconds between two looks of this script at the journals
ASK, TELL = b'{"type":"ask"', b'{"type":"tell"'  # the beginnings of a unit and of an outcome in a journal
PATIENCE = 600.0  # seconds for work to go on, on a machine that is busy with other things


def slow_jpeg(images, prompts):
    """A reward of a known pace: 20 ms an image."""
    from mcts_ray.reward.jpeg import JpegCompressibility

    time.sleep(0.02 * len(prompts))
    return JpegCompressibility()(images, prompts)


class Chaos:
    """A cluster, a searcher on it with two denoisers, and the searches that it carries out in a thread. As a context manager."""

    def __init__(self, model: Path, folder: Path, ige: Path | None = None, seed: int = 0, budget: int = 2500) -> None:
        self.model, self.folder, self.ige, self.budget = model, folder, ige, budget
        self.random = random.Random(seed)
        self.kills: list[Kill] = []
        self.searches, self.failed_units, self.missed = 0, 0, 0
        self.runs: list[Path] = []
        self.error: BaseException | None = None
        self._journals: dict[Path, bytes] = {}
        self._read: dict[Path, tuple[list[tuple[str, int]], int]] = {}
        self._again: int | None = None  # NFE spent once more when the last kill was written down, while its searches run

    def __enter__(self) -> Chaos:
        import ray
        from ray.cluster_utils import Cluster

        from mcts_ray import Searcher

        head = {"num_cpus": 0, "include_dashboard": False, "_system_config": {"health_check_period_ms": HEALTH}}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.nodes = [self._node() for _ in range(2)]
        ray.init(address=self.cluster.address, namespace="mcts_ray", log_to_driver=False, logging_level=logging.FATAL)
        self.searcher = Searcher.from_pretrained(str(self.model), device="cpu", executor="ray", workers=2, address=self.cluster.address)
        return self

    def __exit__(self, *_: Any) -> None:
        import ray

        self.searcher.close()
        ray.shutdown()
        self.cluster.shutdown()

    def _node(self) -> Any:
        return self.cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20)

    def run(self, victims: Sequence[tuple[str, str]]) -> list[Kill]:
        """Make these kills (kind, how) in turn while searches run, and check. AssertionError for what does not hold."""
        left = list(victims)
        while left:
            thread = self._begin()
            while left and thread.is_alive():
                if self._strike(*left[0]):
                    left.pop(0)
            thread.join(20 * PATIENCE)
            self._check_end(thread)
        return self.kills

    # searches ------------------------------------------------------------------------------------------------------

    def _config(self) -> Any:
        from mcts_ray import SearchConfig

        ige = {"ige_model": str(self.ige), "ige_choice": "top-m", "ige_online": str(self.folder / "online")}
        jump = {"jump": "ige", **ige} if self.ige else {}
        return SearchConfig(
            algorithm="mcts", levels=8, budget=self.budget, guidance=2.0, images=3, seeds=7, fuse="features", fuse_after=6,
            in_flight=24, reward=REWARD, seed=self.searches, **jump,
        )  # fmt: skip

    def _begin(self) -> threading.Thread:
        """Two searches in a thread; returns once outcomes come."""
        self.runs = [self.folder / f"{self.searches}-{index}" for index in range(len(PROMPTS))]
        self.searches += 1
        config, self._journals, self.error, self.results, self._again = self._config(), {}, None, [], None

        def search() -> None:
            try:
                self.results = self.searcher.many(PROMPTS, config, outs=self.runs)
            except BaseException as error:  # told by the checks
                self.error = error

        thread = threading.Thread(target=search, daemon=True)
        thread.start()
        self._until(lambda: all(self._tells(run) for run in self.runs) or not thread.is_alive(), "searches begin")
        return thread

    def _tells(self, run: Path) -> list[tuple[str, int]]:
        """The outcomes in a journal, which may not have been begun yet: unit and NFE. What has been read is not read again."""
        path = run / "journal.jsonl"
        data = path.read_bytes() if path.exists() else b""
        tells, begin = self._read.get(run, ([], 0))
        end = data.rfind(b"\n") + 1
        records = (json.loads(line) for line in data[begin:end].splitlines() if line.startswith(TELL))
        tells += ((record["work"], record["cost"]["nfe"]) for record in records)
        self._read[run] = tells, max(begin, end)
        return tells

    def _records(self, run: Path) -> list[dict[str, Any]]:
        from mcts_ray.executor.record import read_journal

        try:
            return read_journal(run)[1]
        except ValueError:  # not begun yet
            return []

    # kills ---------------------------------------------------------------------------------------------------------

    def _strike(self, kind: str, how: str) -> bool:
        """Kill one of a kind in this way that holds work; False if none did, or had answered before it died."""
        census = self.searcher.backend.census()
        self._account(census)
        if not census["in_flight"]:
            time.sleep(0.05)
            return False
        what = "denoiser" if kind == "node" else kind
        victim = self._victim(what)
        if victim is None:
            return False
        handle, pid, place = victim
        for run in self.runs:
            self._journals[run] = (run / "journal.jsonl").read_bytes()
        held = self.searcher.backend.census()
        start = time.monotonic()
        self._kill(handle, pid, how)
        lost = held["spent"] - sum(map(self._told_nfe, self.runs)) if kind == "manager" else 0
        if kind != "manager" and not self._noticed(what, held["died"][what]):
            self.missed += 1
            return False
        wait = sum(kill.kind == kind for kill in self.kills) < BACK
        seconds, back = self._recovery(what, place, pid, start, wait)
        self._check(kind)
        self._again = self.searcher.backend.census()["again"]
        nfe = max(0, lost) + max(0, self._again - (0 if kind == "manager" else held["again"]))
        unreported = {"denoiser": held["unreported"][place : place + 1], "manager": held["unreported"]}.get(what, [])
        self.kills.append(Kill(kind, how, seconds, back, nfe, sum(unreported)))
        print(f"{len(self.kills)}: {self.kills[-1]}", flush=True)
        return True

    def _kill(self, handle: Any, pid: int, how: str) -> None:
        import ray

        if how == "remove_node":
            self._remove_node(handle)
            signalled(pid, signal.SIGKILL)  # stopped, it would not see that its node has gone
        elif how == "SIGKILL":
            os.kill(pid, signal.SIGKILL)
        else:
            ray.kill(handle, no_restart=how.endswith("for good"))
            signalled(pid, signal.SIGCONT)

    def _account(self, census: dict[str, Any]) -> None:
        """States that the last kill has cost, and that were made again since."""
        if self._again is not None and census["again"] > self._again:
            self.kills[-1] = replace(self.kills[-1], nfe=self.kills[-1].nfe + census["again"] - self._again)
            self._again = census["again"]

    def _told_nfe(self, run: Path) -> int:
        """NFE of the outcomes in a journal."""
        return sum(nfe for _, nfe in self._tells(run))

    def _recovery(self, what: str, place: int, pid: int, start: float, wait: bool) -> tuple[float, float | None]:
        """Seconds since `start` until outcomes come again, and until the victim works again, if it does before all is done, or before
        outcomes come where nobody is to `wait` for it."""
        before = {run: len(self._tells(run)) for run in self.runs}
        seconds: dict[str, float] = {}

        def recovered() -> bool:
            if all(len(self._tells(run)) > before[run] or self._over(run) for run in self.runs):
                seconds.setdefault("work", round(time.monotonic() - start, 2))
            if self._works(what, place, pid):
                seconds.setdefault("back", round(time.monotonic() - start, 2))
            return "work" in seconds and (not wait or "back" in seconds or all(map(self._over, self.runs)))

        self._until(recovered, f"work after the death of a {what}")
        return seconds["work"], seconds.get("back")

    def _works(self, what: str, place: int, pid: int) -> bool:
        """Whether the one of a kind at this place, which has died as process `pid`, has answered since, a denoiser with NFE."""
        if what == "manager":
            return process_of(self.searcher.backend._manager) not in (None, pid)
        census = self.searcher.backend.census()
        answered = census["answered"][what][place : place + 1]
        return any(answered) and (what != "denoiser" or census["nfe"][place] > 0)

    def _noticed(self, kind: str, died: int) -> bool:
        """Whether the call that the victim held ends with its death."""
        deadline = time.monotonic() + NOTICE
        while time.monotonic() < deadline:
            if self.searcher.backend.census()["died"][kind] > died:
                return True
            time.sleep(0.05)
        return False

    def _victim(self, kind: str) -> tuple[Any, int, int] | None:
        """(handle, process, place among its kind) of an actor, stopped, with a call to answer; None if it gets none."""
        import ray

        if kind == "manager":
            handle = self.searcher.backend._manager
            pid = process_of(handle)
            return None if pid is None else (handle, pid, 0)
        handles = ray.get(self.searcher.backend._manager.actors.remote())[kind]
        if not handles:
            return None
        handle = self.random.choice(handles)
        pid = process_of(handle)
        if pid is None:
            return None
        signalled(pid, signal.SIGSTOP)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            if handle in ray.get(self.searcher.backend._manager.actors.remote(True))[kind]:
                return handle, pid, handles.index(handle)
            time.sleep(0.02)
        signalled(pid, signal.SIGCONT)
        return None

    def _remove_node(self, handle: Any) -> None:
        """The node of an actor goes, and another one comes."""
        from ray._private.state import actors

        id = actors(handle._actor_id.hex())["Address"]["NodeID"]
        node = next(node for node in self.nodes if node.node_id == id)
        self.cluster.remove_node(node, allow_graceful=False)
        self.nodes = [other for other in self.nodes if other is not node] + [self._node()]

    def _over(self, run: Path) -> bool:
        """Whether a search has ended, as its job.json says, or needs nothing more."""
        state = json.loads((run / "job.json").read_text())
        return state["status"] != "running" or not self.searcher.backend.census()["in_flight"]

    # checks --------------------------------------------------------------------------------------------------------

    def _check(self, kind: str) -> None:
        """After a kill: nothing that was in the journals is lost, no outcome is told twice, and the accounts agree."""
        for run in self.runs:
            assert (run / "journal.jsonl").read_bytes().startswith(self._journals[run]), f"a journal has changed its past after {kind}"
            works = Counter(work for work, _ in self._tells(run))
            assert not [work for work, times in works.items() if times > 1], f"an outcome was told twice after {kind}"
        for in_flight, out in self._books():
            assert in_flight == out, f"{in_flight} units are in flight after {kind}, {out} by the journal"

    def _books(self) -> list[tuple[int, int]]:
        """Of each search the units in flight, and those that its journal has asked for and not told: both in one step of the manager's
        event loop, so that nothing happens meanwhile, and once what waits for the next outcome has been written."""
        import ray

        async def balance(manager: Any) -> list[tuple[int, int]]:
            found = []
            for job in (running.job for running in manager.running.values()):
                job.observer.flush()
                data = (job.observer.path / "journal.jsonl").read_bytes()
                found.append((job.search.in_flight, data.count(ASK) - data.count(TELL)))
            return found

        def books(manager: Any) -> list[tuple[int, int]]:  # in a thread beside that of the loop
            return asyncio.run_coroutine_threadsafe(balance(manager), manager._opening.get_loop()).result()

        return ray.get(self.searcher.backend._manager.__ray_call__.remote(books))

    def _check_end(self, thread: threading.Thread) -> None:
        """After the searches: whole budgets, nothing in flight, journals that rebuild the trees."""
        assert not thread.is_alive(), "the searches do not end"
        assert self.error is None, f"the searches have failed: {self.error!r}"
        census = self.searcher.backend.census()
        assert (census["searches"], census["in_flight"], census["out"], census["finished"]) == (0, 0, 0, 0), f"left behind: {census}"
        for run, result in zip(self.runs, self.results, strict=True):
            self.failed_units += len(result.errors)
            assert not result.errors, f"units have failed: {result.errors}"
            nodes = result.tree["nodes"]
            assert self.budget - 8 < result.ledger.nfe <= self.budget, f"{result.ledger.nfe} of {self.budget} NFE were spent"
            assert sum(node["level"] > 0 for node in nodes) == result.ledger.nfe, "the account does not fit the tree"
            assert len(result.images) == 3, "images are missing"
            told = {record["work"] for record in self._records(run) if record["type"] == "tell" and record["reward"] is not None}
            assert len(told) == len(result.finished), "an outcome in the journal is not in the result"
            assert self._replayed(run, result) == nodes, "the journal alone does not rebuild the tree"

    def _replayed(self, run: Path, result: Any) -> list[dict[str, Any]]:
        """The nodes of a fresh search that has been told what the journal holds."""
        from mcts_ray.executor.plan import build
        from mcts_ray.executor.record import read_journal
        from mcts_ray.search.journal import replay

        header, records, _ = read_journal(run)
        search = build(result.model, self._denoiser, header["search"], result.prompt, result.config)
        replay(search, records)
        return search.nodes()

    @cached_property
    def _denoiser(self) -> Any:
        """The model in this process, which knows its levels."""
        from mcts_ray.diffusion.adapters.make import make_adapter
        from mcts_ray.diffusion.denoiser import Denoiser
        from mcts_ray.diffusion.load import load_pipeline
        from mcts_ray.diffusion.resolve import resolve_model

        return Denoiser(make_adapter(load_pipeline(resolve_model(str(self.model)), "cpu")))

    def _until(self, holds: Any, what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not holds():
            assert time.monotonic() < deadline, f"waited {PATIENCE:.0f} s in vain: {what}"
            time.sleep(LOOK)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=102)
    parser.add_argument("--kinds", default=",".join(KINDS), help="victims")
    parser.add_argument("--least", type=int, default=LEAST, help="kills of each of these kinds that there must be")
    parser.add_argument("--budget", type=int, default=2500, help="NFE of a search")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", default="chaos", help="of the results file; -: only print")
    arguments = parser.parse_args()
    from tests.tiny import tiny_pipeline

    asked = arguments.kinds.split(",")
    if unknown := set(asked) - set(KINDS):
        parser.error(f"unknown kind {', '.join(sorted(unknown))}; choose from {', '.join(KINDS)}")
    victims = chosen(asked, arguments.kills, arguments.least, arguments.seed)
    start, broken = time.monotonic(), []
    with tempfile.TemporaryDirectory(prefix="mr") as name:
        folder = Path(name)
        tiny_pipeline().save_pretrained(folder / "tiny")
        ige = make_ige(folder / "tiny", REWARD, PROMPTS, folder) if "trainer" in asked else None
        with Chaos(folder / "tiny", folder, ige, arguments.seed, arguments.budget) as chaos:
            try:
                chaos.run(victims)
            except Exception as error:  # what was found before is told all the same
                traceback.print_exc()
                broken = [str(error) or repr(error)]
    seconds = round(time.monotonic() - start, 1)
    broken += lacking(chaos.kills, asked, arguments.least, seconds)
    found = {"passed": not broken, "broken": broken, "kills": len(chaos.kills), "missed": chaos.missed, "searches": 2 * chaos.searches}
    found |= {"failed_units": chaos.failed_units, "seconds": seconds, "recovery": summary(chaos.kills)}
    found["each"] = [asdict(kill) for kill in chaos.kills]
    if arguments.name == "-":
        print(json.dumps(found, indent=2))
    else:
        write(arguments.name, found)
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
