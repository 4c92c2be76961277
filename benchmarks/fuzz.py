"""The HTTP API under requests made from its own OpenAPI document, right and wrong ones, by schemathesis (`pip install 'mcts-ray[fuzz]'`).

    python -m benchmarks.fuzz                    # 200 requests of every operation, on searches that take no time
    python -m benchmarks.fuzz --examples 5 --name fuzz-smoke

The application and the life cycle are the real ones; what is made up are the searches, since the API is what is asked about. There is one
of each fate: done, running (begun again as often as it ends), cancelled and failed. Three quarters of the requests that are right, which is
about half of all, name one of them, or a prompt that leads to one; the others are as schemathesis has made them. A case fails on a 5xx, an
answer of another status, type or form than the document says (of an error: an object with a sentence), a wrong value that is taken, and
more than 10 s. The whole fails, too, if an operation has never succeeded. `statuses` counts the answers as the server has sent them.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import uvicorn

from benchmarks.common import ROOT, write
from mcts_ray.diffusion.resolve import resolve_model
from mcts_ray.executor.base import Progress
from mcts_ray.service.app import make_app
from mcts_ray.service.errors import ServiceError
from mcts_ray.service.jobs import Jobs
from mcts_ray.service.models import SearchRequest
from mcts_ray.service.runner import Cancelled, Ended
from mcts_ray.service.settings import Settings
from mcts_ray.service.store import JobStore

TOKEN = "a-token-for-fuzzing"
IDS = "MCTS_RAY_FUZZ_IDS"  # the environment variable that takes the ids to schemathesis
FATES = {"a red circle": "done", "a green square": "running", "a blue triangle": "cancelled", "a yellow ring": "failed"}
RUN = 0.3  # seconds of the search that runs
HARMLESS = ("seed", "guidance", "response_format", "user")  # fields that go with every other one
CHECKS = (
    "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance", "ignored_auth",
    "negative_data_rejection",
)  # fmt: skip


class Fated:
    """Searches that end at once, or soon, as their prompt says."""

    def start(self) -> None: ...

    def close(self) -> None: ...

    def census(self) -> list:
        return []

    def goes_on(self, out: Path, budget: int) -> bool:
        return False

    def spent(self, out: Path) -> int:
        return 0

    def found(self, out: Path) -> None:
        return None

    def extend(self, out: Path, nfe: int) -> bool:
        return True

    def run(self, request: SearchRequest, out: Path, on_progress: Callable[[Progress], None]) -> Ended:
        fate = FATES.get(request.prompt, "done")
        try:
            _spend(request, RUN if fate == "running" else 0.0, on_progress)
        except Cancelled:
            fate = "cancelled"
        if fate in ("running", "failed"):
            return Ended("failed", error="so it was made up")
        (out / "images").mkdir(parents=True)
        for name, text in {"images/01.png": "PNG", "tree.json": '{"nodes": []}', "report.html": "<html>"}.items():
            (out / name).write_text(text)
        result = {"run_dir": str(out), "images": [str(out / "images" / "01.png")], "reward": {"name": "x", "best": 0.5, "mean": 0.5}}
        return Ended(fate, result | {"ledger": {"nfe": 1, "seconds": 0.1, "decodes": 1}})


class Counted:
    """ASGI middleware that counts which operation was answered with which status; `elsewhere` are addresses that the document has not."""

    def __init__(self, app) -> None:
        self.app = app
        paths = app.openapi()["paths"]
        self._patterns = {path: re.compile(re.sub(r"\{\w+\}", "[^/]+", path)) for path in paths}
        self.counts = {f"{method.upper()} {path}": Counter() for path, methods in paths.items() for method in methods}
        self.elsewhere: Counter = Counter()

    async def __call__(self, scope, receive, send) -> None:
        async def counting(message) -> None:
            if message["type"] == "http.response.start":
                path = next((path for path, pattern in self._patterns.items() if pattern.fullmatch(scope["path"])), None)
                self.counts.get(f"{scope['method']} {path}", self.elsewhere)[message["status"]] += 1
            await send(message)

        await self.app(scope, receive, counting)

    def found(self) -> dict:
        """How often which status, by operation; and the operations that have never succeeded."""
        statuses = {name: {str(status): count[status] for status in sorted(count)} for name, count in self.counts.items()}
        never = [name for name, count in self.counts.items() if not any(200 <= status < 300 for status in count)]
        return {"statuses": statuses, "elsewhere": sum(self.elsewhere.values()), "never_succeeded": never}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=200, help="requests of each operation")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", default="fuzz", help="of the results file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        port, ids, counted, stop = serve(folder)
        start = time.monotonic()
        env = {**os.environ, "SCHEMATHESIS_HOOKS": "benchmarks.fuzz_hooks", IDS: ",".join(ids.values())}
        done = subprocess.run(command(port, arguments), capture_output=True, text=True, cwd=ROOT, env=env)
        seconds = time.monotonic() - start
        stop()
    print(done.stdout[-6000:], done.stderr[-2000:], file=sys.stderr)
    found = {"examples": arguments.examples, "seconds": round(seconds, 1), **counted.found(), "tail": tail(done.stdout)}
    passed = done.returncode == 0 and not found["never_succeeded"]
    write(arguments.name, {"passed": passed, **found})
    return int(not passed)


def command(port: int, arguments: argparse.Namespace) -> list[str]:
    """Run schemathesis with the checks that the API promises to pass."""
    options = ["--checks", ",".join(CHECKS), "--max-examples", str(arguments.examples), "--seed", str(arguments.seed)]
    options += ["--request-timeout", "10", "--header", f"Authorization: Bearer {TOKEN}", "--mode", "all"]
    return [sys.executable, "-m", "schemathesis.cli", "run", f"http://127.0.0.1:{port}/openapi.json", *options]


def aim(case, ids: list[str]) -> None:
    """Have three of four cases ask for what is there; the same case always for the same, so that a failure can be had again."""
    path, body = case.path_parameters or {}, case.body
    draw = zlib.crc32(repr((case.method, case.path, sorted(path.items()), body if isinstance(body, dict) else None)).encode())
    if draw % 4 == 0:
        return
    draw //= 4
    if "id" in path:
        path["id"] = ids[draw % len(ids)]
    if "n" in path:
        path["n"] = 1
    if isinstance(body, dict) and "nfe" in body:
        case.body = {"nfe": draw % 3}  # little, so that the budget of the service lasts
    if isinstance(body, dict) and "prompt" in body:
        kept = {name: body[name] for name in (HARMLESS if draw % 4 else body) if name in body}
        case.body = kept | {"prompt": list(FATES)[draw // 4 % len(FATES)]}


def serve(folder: str) -> tuple[int, dict[str, str], Counted, Callable[[], None]]:
    """The application on a free port, in a thread: the port, an id of each fate, the counts, and what ends it."""
    settings = Settings(max_queue=10_000, max_budget=1000)
    jobs = Jobs(settings, JobStore(folder), Fated(), {"scenes": resolve_model("scenes")})
    counted = Counted(make_app(jobs, TOKEN, settings))
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(counted, port=port, log_level="error", ws="none"))
    ids: dict[str, str] = {}

    async def run() -> None:
        await jobs.start()
        ids.update([(fate, (await jobs.submit(SearchRequest(prompt=prompt))).id) for prompt, fate in FATES.items()])
        keeper = asyncio.create_task(_keep_running(jobs, ids["running"]))
        await server.serve()
        keeper.cancel()
        await jobs.close()

    thread = threading.Thread(target=asyncio.run, args=(run(),), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)

    def stop() -> None:
        server.should_exit = True
        thread.join(10)

    return port, ids, counted, stop


async def _keep_running(jobs: Jobs, id: str) -> None:
    while True:
        if (await jobs.job(id)).has_ended:
            with contextlib.suppress(ServiceError):
                await jobs.extend(id, 0)
        await asyncio.sleep(0.05)


def _spend(request: SearchRequest, seconds: float, on_progress: Callable[[Progress], None]) -> None:
    """Tell of progress, once or for some seconds."""
    end = time.monotonic() + seconds
    for nfe in range(1, 1000):
        on_progress(Progress(nfe, request.budget, 0.1 * nfe, (0.5,), 1, 0, 1, (b"\xff\xd8",)))
        if time.monotonic() >= end:
            return
        time.sleep(0.01)


def tail(text: str) -> list[str]:
    """The last lines, which sum it up."""
    return [line for line in text.splitlines() if line.strip()][-12:]


if __name__ == "__main__":
    sys.exit(main())
