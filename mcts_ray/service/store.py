"""Durable jobs: one small JSON record for each, and the run directories, under a local path or any fsspec URL.

    lease.json               the service that carries them out
    jobs/<id>.json           the record: what was asked, where it stands, what came of it
    runs/<id>/<run>/         its run directory; another one where it was begun anew, or goes on after it had ended

A search writes its run directory on this machine while it runs. Where the store is elsewhere, that is a spool folder, whose
files are put into the store at the end of the search, before the record says that it has ended; the journal now and then before.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import fsspec
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem
from pydantic import BaseModel, ConfigDict, ValidationError

from mcts_ray.report.share import replacing
from mcts_ray.service.models import ENDED, Job, SearchRequest, Status

JOURNAL = ("journal.jsonl", "metrics.jsonl", "job.json")  # what a search goes on from
READERS = 16  # records that are read at once


class Record(BaseModel):
    """A job as it is kept. key: its idempotency key, digest: of the request that came with it. request: with model, reward and
    budget filled in, extensions included. attempt: how often it has been begun, run: the number of the run directory that it writes or
    has written. result: what was found, found: the number of the run directory that holds it, which nothing is written to any more.
    """

    model_config = ConfigDict(extra="ignore")

    id: str
    request: SearchRequest
    key: str | None = None
    digest: str = ""
    status: Status = "queued"
    created: datetime
    started: datetime | None = None
    ended: datetime | None = None
    attempt: int = 0
    run: int = 0
    found: int = 0
    error: str | None = None
    result: dict | None = None

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will come of it."""
        return self.status in ENDED

    def job(self, **more) -> Job:
        """As clients see it; while it is carried out once more, with what was found before."""
        asked = self.request
        own = self.model_dump(include={"id", "status", "created", "started", "ended", "attempt", "error", "result"})
        return Job(prompt=asked.prompt, model=asked.model, algorithm=asked.algorithm, budget=asked.budget, **own, **more)


class Files:
    """A file system whose every trouble is an OSError, which those that botocore, google.auth and gcsfs raise are not."""

    def __init__(self, fs: AbstractFileSystem) -> None:
        self._fs = fs

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return partial(_as_os_error, getattr(self._fs, name))


class JobStore:
    """The jobs under `url`. ValueError if nothing can be written there; OSError wherever the store cannot be read or written."""

    def __init__(self, url: str | Path, spool: Path | None = None) -> None:
        self.url = str(url)
        try:
            fs, self.root = _as_os_error(fsspec.url_to_fs, self.url)
            self.fs, self.local = Files(fs), isinstance(fs, LocalFileSystem)
            self.fs.makedirs(f"{self.root}/jobs", exist_ok=True)
            self.put("jobs/.writable", b"")
        except OSError as error:
            raise ValueError(f"the store {self.url} cannot be used ({error})") from error
        self.spool = Path(self.root, "runs") if self.local else spool or Path(tempfile.mkdtemp(prefix="mcts-ray-spool-"))
        self._kept: dict[Path, tuple[int, int]] = {}  # time and size of the files that `keep` has put into the store

    def save(self, record: Record) -> None:
        """Write a record, whole or not at all."""
        self.put(f"jobs/{record.id}.json", record.model_dump_json(indent=1).encode())

    def load(self) -> list[Record]:
        """All records, oldest first. ValueError naming a record that cannot be read."""
        self.fs.invalidate_cache()
        paths = sorted(path for path in self.fs.ls(f"{self.root}/jobs", detail=False) if path.endswith(".json"))
        with ThreadPoolExecutor(READERS) as readers:
            records = list(map(self._record, paths, readers.map(self.fs.cat_file, paths)))
        return sorted(records, key=lambda record: (record.created, record.id))

    def run_dir(self, id: str, run: int) -> Path:
        """Where on this machine a run is written."""
        return self.spool / id / str(run)

    def here(self, id: str, run: int) -> Path:
        """The same; where the store is elsewhere and has more of the run than this machine, with its journal from there."""
        here = self.run_dir(id, run)
        if not self.local:
            there = {name: self.read(id, run, name) for name in JOURNAL}
            journal = here / "journal.jsonl"
            if there["job.json"] and len(there["journal.jsonl"] or b"") > (journal.stat().st_size if journal.exists() else -1):
                shutil.rmtree(here, ignore_errors=True)
                _make(here, there)
        return here

    def next_run(self, id: str, run: int, goes_on: bool) -> int:
        """The number of a new run directory. goes_on: it begins with the journal of `run`, as a search that was stopped there."""
        old, new = self.run_dir(id, run), self.run_dir(id, run + 1)
        shutil.rmtree(new, ignore_errors=True)  # of a service that died before the record told of it
        if goes_on:
            files = {name: (old / name).read_bytes() for name in JOURNAL if (old / name).exists()}
            stopped = {**json.loads(files["job.json"]), "status": "interrupted"}
            _make(new, {**files, "job.json": json.dumps(stopped, indent=1, ensure_ascii=False).encode()})
        if not self.local:
            shutil.rmtree(old, ignore_errors=True)
        return run + 1

    def keep(self, id: str, run: int) -> None:
        """Put the journal of a search that runs into the store, as far as it has changed, so that it can go on on another machine."""
        here = self.run_dir(id, run)
        for name in JOURNAL:
            file = here / name
            if self.local or not file.exists():
                continue
            stat = file.stat()
            mark, data = (stat.st_mtime_ns, stat.st_size), file.read_bytes()
            if self._kept.get(file) == mark or (name == "job.json" and json.loads(data)["status"] not in ("running", "interrupted")):
                continue  # that it is done is for `publish` to say
            self._put_run(id, run, name, data)
            self._kept[file] = mark

    def publish(self, id: str, run: int) -> None:
        """Put what a run has written into the store; where that is elsewhere, the spooled files then go. What says how it has ended is
        last."""
        here = self.run_dir(id, run)
        if self.local or not here.is_dir():
            return
        files = sorted((path for path in here.rglob("*") if path.is_file()), key=lambda path: (path.name == "job.json", path))
        for file in files:
            self._put_run(id, run, file.relative_to(here).as_posix(), file.read_bytes())
        shutil.rmtree(here)
        for name in JOURNAL:
            self._kept.pop(here / name, None)

    def address(self, id: str, run: int) -> str:
        """The run directory as users may find it: a path, or a URL."""
        path = f"{self.root}/runs/{id}/{run}"
        return path if self.local else self.fs.unstrip_protocol(path)

    def read(self, id: str, run: int, name: str) -> bytes | None:
        """A file of a run directory, or None if there is none; `name` is never a client's."""
        return self.get(f"runs/{id}/{run}/{name}")

    def get(self, name: str) -> bytes | None:
        """A file of the store, or None if there is none."""
        try:
            return self.fs.cat_file(f"{self.root}/{name}")
        except FileNotFoundError:
            return None

    def remove(self, name: str) -> None:
        """Take a file out of the store."""
        self.fs.rm_file(f"{self.root}/{name}")

    def put(self, name: str, data: bytes) -> None:
        """Write a file of the store, whole or not at all."""
        path = f"{self.root}/{name}"
        if not self.local:
            self.fs.pipe_file(path, data)  # object stores show a file when it is whole
            return
        with replacing(Path(path)) as partial, open(partial, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    def _put_run(self, id: str, run: int, name: str, data: bytes) -> None:
        path = f"runs/{id}/{run}/{name}"
        self.fs.makedirs(f"{self.root}/{path.rpartition('/')[0]}", exist_ok=True)
        self.put(path, data)

    def _record(self, path: str, data: bytes) -> Record:
        try:
            return Record.model_validate_json(data)
        except ValidationError as error:
            raise ValueError(f"the record {path} of the job index cannot be read ({error.errors()[0]['msg']})") from error


def _as_os_error(call: Callable[..., Any], *args: Any, **named: Any) -> Any:
    """What a call gives; whatever it raises as an OSError in one line."""
    try:
        return call(*args, **named)
    except OSError:
        raise
    except Exception as error:
        raise OSError(" ".join(str(error).split()) or type(error).__name__) from error


def _make(run_dir: Path, files: dict[str, bytes | None]) -> None:
    """A run directory for a search to go on in, whole or not at all."""
    partial = run_dir.with_name(f"{run_dir.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "images").mkdir(parents=True)
    for name, data in files.items():
        if data is not None:
            (partial / name).write_bytes(data)
    partial.replace(run_dir)
