"""Whose a store is: its `lease.json` names the service that carries out the jobs there, so that no two ever do.

A lease is renewed every few seconds and runs out by itself. Before that, another service takes it over where the one that had it is
dead: at once if that was the same one before a restart, or a process of this machine.
"""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from datetime import datetime, timedelta, timezone
from pathlib import Path

from pydantic import BaseModel, ValidationError

from mcts_ray.service.store import JobStore

RENEW, LASTS = 5.0, 30.0  # seconds between two renewals, and that a lease is good for without one
LOOK = 0.5  # seconds between two looks at the lease of a service that may be dead
NAME = "lease.json"


class InUse(ValueError):
    """Another service has the store."""


class Holder(BaseModel):
    """Who has a store: `owner` stays the same over restarts, `place`, `pid` and `born` (when its process began) do not."""

    owner: str
    host: str
    place: str
    pid: int
    born: str
    until: datetime

    def died(self) -> bool:
        """Whether it was a process of this machine that is no more."""
        return self.place == _place() and _born(self.pid) != self.born

    def is_process(self, other: Holder) -> bool:
        """Whether both are the same process, of the same service."""
        return self.model_dump(exclude={"until"}) == other.model_dump(exclude={"until"})


class Lease:
    """The lease of `store` for this process. owner: who it is, also after a restart; None: somebody new."""

    def __init__(self, store: JobStore, owner: str | None = None) -> None:
        self.store = store
        pid, never = os.getpid(), datetime.fromtimestamp(0, timezone.utc)
        name, host = owner or uuid.uuid4().hex, socket.gethostname()
        self.holder = Holder(owner=name, host=host, place=_place(), pid=pid, born=_born(pid) or "", until=never)
        self._lost: str | None = None
        self._writing = threading.Lock()

    def take(self) -> None:
        """Have the store. Blocks while it is not clear whether who has it is alive; InUse, in a sentence, if so."""
        there = self._there()
        while there and there.owner != self.holder.owner and there.until > _now() and not there.died():
            time.sleep(LOOK)
            seen, there = there, self._there()
            if there and there.until != seen.until:
                raise InUse(
                    f"the store {self.store.url} is in use by the service at {there.host} (process {there.pid}) until "
                    f"{there.until:%H:%M:%S} UTC at least; end that one first, or choose another store"
                )
        with self._writing:
            self._lost = None
            self._write()

    def renew(self) -> None:
        """Have it for longer. InUse if somebody else has taken it."""
        with self._writing:
            self.check()
            there = self._there()
            if there is None and self.holder.until > _now():
                there = self.holder
            if there is None or not there.is_process(self.holder):
                by = f" by the service at {there.host} (process {there.pid})" if there else ""
                self._lost = f"the store {self.store.url} was taken over{by} from this service"
            self.check()
            self._write()

    def check(self) -> None:
        """InUse if it was lost."""
        if self._lost:
            raise InUse(self._lost)

    def hold(self) -> None:
        """Called before anything is written to the store: InUse if that is another's by now."""
        self.check()
        if self.holder.until <= _now():
            self.renew()

    def release(self) -> None:
        """Let the next one have it."""
        with self._writing:
            there = self._there()
            if there and there.is_process(self.holder):
                self.store.remove(NAME)
            self._lost = f"this service has let go of the store {self.store.url}"  # a renewal may be on its way

    def _there(self) -> Holder | None:
        """Who has it, if anybody; what cannot be read is nobody's."""
        data = self.store.get(NAME)
        try:
            return Holder.model_validate_json(data) if data else None
        except ValidationError:
            return None

    def _write(self) -> None:
        longer = self.holder.model_copy(update={"until": _now() + timedelta(seconds=LASTS)})
        self.store.put(NAME, longer.model_dump_json().encode())
        self.holder = longer


def _place() -> str:
    """What the numbers of processes belong to: a boot of a machine, and a container on it."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def _born(pid: int) -> str | None:
    """When a process of this machine began, as the kernel counts; None if it is dead, "" where the system does not say."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if state in "ZX" else rest[18]
    except OSError:
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        pass
    return ""


def _now() -> datetime:
    return datetime.now(timezone.utc)
