"""What lies in the folder of an IGE, and where the one of scenes is. No torch here, so that a request can be checked before it is loaded.

    config.json                   what it is: model, widths, levels and grid, jumps, targets, data; the table of best jumps
    model.safetensors             version 0 of its weights, fp16
    versions/00001.safetensors    later versions, made online
    held_out.safetensors          transitions that no version has been trained on, by which versions are judged
    online.jsonl                  what became of each attempt at a version
    buffer.safetensors            what searches have brought to learn from
"""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

SHIPPED = Path(__file__).parents[1] / "scenes" / "weights" / "ige"
TARGETS = ("reward_rate", "similarity", "jump_error", "value")
FAR = 30.0  # stands for an infinite log-SNR
PRINT = 64  # weights that stand for a generator
ALIKE = 0.1  # relative distance of those up to which another generator is a finer tuning of the same
CLOSE = 1e-3  # of log-SNRs that count as the same
VERSIONS = "versions"


@dataclass(frozen=True)
class Config:
    """What an IGE is and what it has learned from, as in `config.json`.

    reader: what its features are (`mcts_ray.gain.reader`), features: how many; width, blocks: of the network. levels, grid: T and
    where the levels lie, log_snr: of each level 0 ... T. jumps, targets: what it predicts. units: center and scale of each target in
    training. worth: what one unit of a target is worth in reward. counts: states in training, by level, one number for each jump.
    table: the best jump at each level 1 ... T at `price`, reward per call. generator: `fingerprint` of the U-Net. data: what the
    transitions were. calibration: the line of step scores at each level by which `reward_rate` was made.
    """

    model: str
    reward: str
    reader: Mapping[str, Any]
    features: int
    levels: int
    grid: str
    log_snr: tuple[float, ...]
    jumps: tuple[int, ...]
    targets: tuple[str, ...]
    units: Mapping[str, tuple[float, float]]
    worth: Mapping[str, float]
    counts: Mapping[int, tuple[int, ...]]
    table: tuple[int, ...]
    price: float
    generator: tuple[float, ...]
    width: int = 64
    blocks: int = 2
    calibration: Mapping[int, tuple[float, float]] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, source: str | Path) -> Config:
        """ValueError for a folder that holds no IGE."""
        folder = folder_of(source)
        try:
            found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            if found.pop("kind") != "ige":
                raise ValueError("it is another kind of network")
            found["counts"] = {int(level): tuple(counts) for level, counts in found["counts"].items()}
            found["calibration"] = {int(level): tuple(line) for level, line in found.get("calibration", {}).items()}
            found["units"] = {name: tuple(pair) for name, pair in found["units"].items()}
            lists = {name: tuple(found[name]) for name in ("log_snr", "jumps", "targets", "table", "generator")}
            return cls(**found | lists)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise ValueError(f"ige_model {folder} holds no IGE that can be read: config.json: {reason}") from None

    def write(self, folder: Path) -> None:
        """As `read` wants it."""
        (folder / "config.json").write_text(json.dumps({"kind": "ige", **asdict(self)}, indent=1) + "\n", encoding="utf-8")

    @property
    def children(self) -> int:
        """J: over how many children of a jump its gain was averaged in training."""
        return self.data["scale"]["noises"]

    def known(self, level: int) -> tuple[int, ...]:
        """The jumps for which there were data at a level."""
        return tuple(k for k, count in zip(self.jumps, self.counts.get(level, ())) if count and k <= level)

    def table_of(self, jumps: Sequence[int]) -> tuple[int, ...]:
        """The table where only some of its jumps may be made: each of the others becomes the next smaller one."""
        return tuple(max((k for k in jumps if k <= best), default=min(jumps)) for best in self.table)

    def check_search(self, levels: int, grid: str, target: str, jumps: Sequence[int], reward: str | None = None) -> None:
        """ValueError unless it knows the levels of a search, its target, its jumps and, where one is given, its reward."""
        if (levels, grid) != (self.levels, self.grid):
            mine = f"levels {self.levels} and grid {self.grid}"
            raise ValueError(f"the IGE was trained for {mine}, not levels {levels} and grid {grid}; set them so or train another")
        if target not in self.targets:
            raise ValueError(f"the IGE was not trained on {target}; set ige_target to {' or '.join(self.targets)}")
        if reward is not None and reward not in (self.reward, self.reward.rpartition(":")[2]):  # MODULE:FUNCTION, given as the function
            raise ValueError(f"the IGE was trained on gains in reward {self.reward}, not {reward}; set reward so or train another")
        if not set(jumps) <= set(self.jumps):
            raise ValueError(f"the IGE knows jumps of {_list(self.jumps)} levels, not all of {_list(jumps)}; set jumps to some of its")

    def guidance_note(self, guidance: float) -> str | None:
        """What to know of a search with this guidance; None where it is that of training."""
        trained = self.data.get("guidance")
        if trained in (None, guidance):
            return None
        return f"the IGE was trained at guidance {trained:g}; what it predicts of jumps at guidance {guidance:g} has not been measured"

    def check_model(self, generator: Sequence[float], log_snr: Sequence[float]) -> None:
        """ValueError unless the U-Net and its levels are those that it was trained with."""
        name = f"the IGE was trained on {self.model} and does not fit this model"
        if _distance(generator, self.generator) > ALIKE:
            raise ValueError(f"{name}: its U-Net has other weights than the one whose features it has learned to read")
        if any(abs(here - there) > CLOSE * max(1, abs(there)) for here, there in zip(finite(log_snr), self.log_snr, strict=True)):
            raise ValueError(f"{name}: the noise at its levels is another one")


def folder_of(source: str | Path) -> Path:
    """Where an IGE lies; "scenes" is the shipped one."""
    return SHIPPED if source == "scenes" else Path(source).expanduser()


def find_ige(model: str, source: str | None) -> str:
    """The IGE `source` to use with a model, None being the one shipped with it. ValueError if there is none."""
    if source is None:
        if model != "scenes":
            raise ValueError(f"model {model} has no IGE of its own; choose one with ige_model, or set jump to constant, table or ays")
        source = "scenes"
    if source == "scenes" and not (SHIPPED / "config.json").is_file():
        raise ValueError("this installation has no IGE for scenes; train one with `mcts-ray train gain` and name its folder with ige_model")
    Config.read(source)
    return source


def begin_online(source: str, out: str) -> str:
    """Make `out` the folder in which an IGE goes on learning, with `source` as version 0; one that is there already stays as it is.

    ValueError for a folder that holds something else, or goes on from another IGE, and for one without held-out data by which versions
    could be judged.
    """
    folder, base = Path(out).expanduser().absolute(), folder_of(source)
    weights(source, 0)
    if (folder / "config.json").is_file():
        Config.read(folder)
        if (folder / "model.safetensors").read_bytes() != (base / "model.safetensors").read_bytes():
            raise ValueError(f"ige_online {folder} goes on from another IGE than ige_model {base}; choose another folder")
        return str(folder)
    if folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"ige_online {folder} holds something else than an IGE; choose another folder")
    if not (base / "held_out.safetensors").is_file():
        raise ValueError(f"ige_model {base} has no held_out.safetensors by which later versions could be judged; train it again")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f"{folder.name}.", dir=folder.parent) as beside:
            whole = Path(beside) / "ige"
            whole.mkdir()
            for name in ("model.safetensors", "held_out.safetensors", "config.json"):
                shutil.copyfile(base / name, whole / name)
            whole.replace(folder)
    except OSError as error:
        if not (folder / "config.json").is_file():
            raise ValueError(f"ige_online {folder} cannot be written ({error.strerror})") from error
        return begin_online(source, out)  # another process has just begun it
    return str(folder)


def absolute(source: str) -> str:
    """The same IGE for a process with another working directory."""
    return source if source == "scenes" else str(Path(source).expanduser().absolute())


def weights(source: str | Path, version: int | None = None) -> tuple[int, Path]:
    """A version of the weights, None being the newest: its number and its file. ValueError if it is not there."""
    folder = folder_of(source)
    there = {0: folder / "model.safetensors"} | {int(file.stem): file for file in (folder / VERSIONS).glob("[0-9]*.safetensors")}
    number = max(there) if version is None else version
    if number not in there or not there[number].is_file():
        name = "the IGE of scenes" if folder == SHIPPED else f"ige_model {folder}"
        raise ValueError(f"{name} has no version {number}; it has {_list(sorted(there))}")
    return number, there[number]


def finite(log_snr: Sequence[float]) -> list[float]:
    """Log-SNRs with +-30 for infinite ones."""
    return [min(max(float(value), -FAR), FAR) for value in log_snr]


def _distance(here: Sequence[float], there: Sequence[float]) -> float:
    """Relative distance of two fingerprints."""
    if len(here) != len(there):
        return math.inf
    return math.dist(here, there) / math.hypot(*there)


def _list(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
