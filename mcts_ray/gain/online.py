"""Learning while searches run: a bounded buffer of transitions, fine-tuning, and versions that are only kept if they are not worse.

A transition is a pair of children of one state that differ in the jump alone, with the difference of their rewards; it trains the network
of the target `value` (`mcts_ray.gain.learn.pair_loss`), those of the other targets stay what they are. A new version is judged on the
held-out transitions of the offline data, which nothing is ever trained on and to which nothing is added: one of higher loss is rolled back.
Every attempt is a line of online.jsonl. Trainers of several processes share the buffer of a folder, from one search to the next, and take
turns at it, each going on from the newest version.
"""

from __future__ import annotations

import contextlib
import json
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from mcts_ray.gain.choose import Transition
from mcts_ray.gain.evaluator import make_network, save_weights
from mcts_ray.gain.folder import VERSIONS, Config, folder_of, weights
from mcts_ray.gain.learn import Examples, losses, pair_loss
from mcts_ray.report.share import replacing, turn

CAPACITY = 4096  # transitions in a buffer
BUFFER = "buffer.safetensors"
LOG = "online.jsonl"


@dataclass(frozen=True, eq=False)
class Version:
    """Weights, fp16, by their number."""

    number: int
    state: dict[str, np.ndarray]


class ReplayBuffer:
    """The newest transitions, at most `capacity`; `total`: how many have ever come in."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._rows: deque[Transition] = deque(maxlen=capacity)
        self.total = 0

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, transitions: Iterable[Transition]) -> None:
        """Append; the oldest make room."""
        for transition in transitions:
            self._rows.append(transition)
            self.total += 1

    def sample(self, rng: np.random.Generator, count: int) -> list[Transition]:
        """So many, drawn with replacement."""
        return [self._rows[int(row)] for row in rng.integers(0, len(self._rows), count)]

    def save(self, file: Path) -> None:
        """Written whole, replaced at once."""
        rows = list(self._rows)
        numbers = {name: np.array([getattr(row, name) for row in rows]) for name in ("level", "k", "other", "difference")}
        features = np.stack([np.frombuffer(row.features, np.float16) for row in rows])
        with replacing(file) as unfinished:
            save_file({"features": features, **numbers, "total": np.array([self.total])}, unfinished)

    @classmethod
    def load(cls, file: Path, capacity: int = CAPACITY) -> ReplayBuffer:
        """What has been saved, if anything has."""
        found = cls(capacity)
        if file.is_file():
            tensors = load_file(file)
            columns = (tensors[name].tolist() for name in ("level", "k", "other", "difference"))
            found.add(Transition(row.tobytes(), *rest) for row, *rest in zip(tensors["features"], *columns))
            found.total = int(tensors.get("total", [found.total])[0])  # an older file does not tell
        return found


class OnlineTrainer:
    """Fine-tunes the newest version of the IGE in a folder (`mcts_ray.gain.folder.begin_online`) on what searches bring.

    every: transitions that must have come before another version is tried. steps, batch, lr: of an attempt. ValueError for a folder without
    held-out transitions.
    """

    def __init__(
        self, source: str, *, capacity: int = CAPACITY, every: int = 64, steps: int = 40, batch: int = 64, lr: float = 1e-4, seed: int = 0
    ) -> None:
        self.folder, self.every, self.steps, self.batch, self.lr, self.seed = folder_of(source), every, steps, batch, lr, seed
        self.config = Config.read(source)
        self.held_out = _held_out(self.folder)
        self.version, self.capacity = -1, capacity
        self._catch_up()

    def add(self, transitions: Iterable[Transition]) -> None:
        """Take transitions of running searches; those of jumps that the IGE does not know are left out."""
        if known := [one for one in transitions if {one.k, one.other} <= set(self.config.jumps)]:
            with turn(self.folder / ".lock", BUFFER, wait=True):
                self._read()
                self.buffer.add(known)
                self.buffer.save(self.folder / BUFFER)

    @property
    def due(self) -> bool:
        """Whether enough has come, by whatever process, for another attempt."""
        return self.buffer.total - self._seen >= self.every

    def learn(self) -> Version | None:
        """Fine-tune, judge, and keep or roll back; the new version if it is kept."""
        with turn(self.folder / ".lock", LOG, wait=True):
            self._catch_up()
            return self._attempt()

    def _read(self) -> None:
        """What has come so far, and how much of it had when there was an attempt last; the number of that."""
        self.buffer, log = ReplayBuffer.load(self.folder / BUFFER, self.capacity), self._log()
        self._seen = max((line["transitions"] for line in log), default=0)
        self.attempts = max([self.version, *(line["version"] for line in log)])

    def _catch_up(self) -> None:
        """Take up the newest version, which another process may have made, and what else has come."""
        newest, file = weights(self.folder)
        if newest != self.version:
            self.version = newest
            self._state = {name: torch.from_numpy(value).float() for name, value in load_file(file).items()}
            self.loss = self._judge(self._state)
        self._read()

    def _attempt(self) -> Version | None:
        self._seen = self.buffer.total
        self.attempts += 1
        state = {name: value.half().float() for name, value in self._tuned().items()}  # as it will be read
        loss = self._judge(state)
        kept, before = loss <= self.loss, self.loss
        if kept:
            self._state, self.loss, self.version = state, loss, self.attempts
            network = make_network(self.config)
            network.load_state_dict(state)
            (self.folder / VERSIONS).mkdir(exist_ok=True)
            save_weights(network, self.folder / VERSIONS / f"{self.version:05d}.safetensors")
        self._write({"version": self.attempts, "kept": kept, "held_out": loss, "before": before, "transitions": self.buffer.total})
        return Version(self.version, {name: value.half().numpy() for name, value in state.items()}) if kept else None

    def _tuned(self) -> dict[str, torch.Tensor]:
        """The newest weights after `steps` steps on the buffer."""
        network = make_network(self.config)
        network.load_state_dict(self._state)
        network.eval()  # no dropout: few steps
        optimiser = torch.optim.AdamW(network.parameters(), lr=self.lr, weight_decay=0.0)
        rng = np.random.default_rng([self.seed, self.attempts])
        for _ in range(self.steps):
            rows = self.buffer.sample(rng, self.batch)
            features = torch.from_numpy(np.stack([np.frombuffer(row.features, np.float16) for row in rows]))
            levels, pairs = [row.level for row in rows], [(row.k, row.other) for row in rows]
            difference = torch.tensor([row.difference for row in rows], dtype=torch.float32)
            loss = pair_loss(network, self.config, features, levels, pairs, difference)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
        return network.state_dict()

    @torch.no_grad()
    def _judge(self, state: dict[str, torch.Tensor]) -> float:
        """Negative log likelihood of the held-out values."""
        network = make_network(self.config)
        network.load_state_dict(state)
        return float(losses(network.eval(), self.config, self.held_out, beta=0.0)["value"])

    def _log(self) -> list[dict]:
        """Attempts so far; a line that was cut off, with its process, says of none."""
        file = self.folder / LOG
        found = []
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else ():
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
        return found

    def _write(self, line: dict) -> None:
        with open(self.folder / LOG, "a+b") as file:
            cut_off = file.tell() and file.seek(-1, 2) is not None and file.read(1) != b"\n"
            file.write((b"\n" if cut_off else b"") + json.dumps(line).encode() + b"\n")


def _held_out(folder: Path) -> Examples:
    file = folder / "held_out.safetensors"
    if not file.is_file():
        raise ValueError(f"ige_model {folder} has no held_out.safetensors by which later versions could be judged; train it again")
    found = load_file(file)
    return Examples(torch.from_numpy(found["features"]), found["level"], {"value": torch.from_numpy(found["value"]).float()})
