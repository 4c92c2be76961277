"""Durable jobs: one small JSON record for each, and the run directories, under a local path or any fsspec URL.

    jobs/<id>.json           the record: what was asked, where it stands, what came of it
    runs/<id>/<run>/         its run directory; another one where it was begun anew

A search writes its run directory on this machine while it runs. Where the store is elsewhere, that is a spool folder, whose
files are put into the store at the end of the search, before the record says that it has ended.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from datetime import datetime
from pathlib import Path

import fsspec
from fsspec.implementations.local import LocalFileSystem
from pydantic import BaseModel, ConfigDict, ValidationError

from mcts_ray.service.models import ENDED, Job, SearchRequest, Status


class Record(BaseModel):
    """A job as it is kept. key: its idempotency key, digest: of the request that came with it. request: with model, reward and
    budget filled in, extensions included. attempt: how often it has been begun, run: the number of the run directory that it writes or
    has written.
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
    error: str | None = None
    result: dict | None = None

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will come of it."""
        return self.status in ENDED

    def job(self, **more) -> Job:
        """As clients see it."""
        asked = self.request
        own = self.model_dump(include={"id", "status", "created", "started", "ended", "attempt", "error", "result"})
        return Job(prompt=asked.prompt, model=asked.model, algorithm=asked.algorithm, budget=asked.budget, **own, **more)


class JobStore:
    """The jobs under `url`. ValueError if nothing can be written there."""

    def __init__(self, url: str | Path, spool: Path | None = None) -> None:
        self.url = str(url)
        try:
            self.fs, self.root = fsspec.url_to_fs(self.url)
            self.local = isinstance(self.fs, LocalFileSystem)
            self.fs.makedirs(f"{self.root}/jobs", exist_ok=True)
            self._put(f"{self.root}/jobs/.writable", b"")
        except (OSError, ValueError, ImportError) as error:
            raise ValueError(f"the store {self.url} cannot be used ({error})") from error
        self.spool = Path(self.root, "runs") if self.local else spool or Path(tempfile.mkdtemp(prefix="mcts-ray-spool-"))

    def save(self, record: Record) -> None:
        """Write a record, whole or not at all."""
        self._put(f"{self.root}/jobs/{record.id}.json", record.model_dump_json(indent=1).encode())

    def load(self) -> list[Record]:
        """All records, oldest first. ValueError naming a record that cannot be read."""
        paths = sorted(self.fs.glob(f"{self.root}/jobs/*.json"))
        records = [self._record(path, data) for path, data in self.fs.cat(paths).items()] if paths else []
        return sorted(records, key=lambda record: (record.created, record.id))

    def run_dir(self, id: str, run: int) -> Path:
        """Where on this machine a run is written."""
        return self.spool / id / str(run)

    def publish(self, id: str, run: int) -> None:
        """Put what a run has written into the store; where that is elsewhere, the spooled files then go."""
        here = self.run_dir(id, run)
        if self.local or not here.is_dir():
            return
        self.fs.makedirs(f"{self.root}/runs/{id}", exist_ok=True)
        for file in sorted(path for path in here.rglob("*") if path.is_file()):
            self.fs.pipe_file(f"{self.root}/runs/{id}/{run}/{file.relative_to(here).as_posix()}", file.read_bytes())
        shutil.rmtree(here)

    def address(self, id: str, run: int) -> str:
        """The run directory as users may find it: a path, or a URL."""
        path = f"{self.root}/runs/{id}/{run}"
        return path if self.local else self.fs.unstrip_protocol(path)

    def read(self, id: str, run: int, name: str) -> bytes | None:
        """A file of a run directory, or None if there is none; `name` is never a client's."""
        try:
            return self.fs.cat_file(f"{self.root}/runs/{id}/{run}/{name}")
        except FileNotFoundError:
            return None

    def _put(self, path: str, data: bytes) -> None:
        if not self.local:
            self.fs.pipe_file(path, data)  # object stores show a file when it is whole
            return
        partial = f"{path}.partial"
        with open(partial, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)

    def _record(self, path: str, data: bytes) -> Record:
        try:
            return Record.model_validate_json(data)
        except ValidationError as error:
            raise ValueError(f"the record {path} of the job index cannot be read ({error.errors()[0]['msg']})") from error
