"""Where the weights of a latent reward model lie. Three layouts are read; none of the checks here needs torch.

    own        config.json, model.safetensors           what `mcts-ray train reward` writes: flat, fp16, without the up path
    published  unet/, text_encoder/, state_dict.pt      and text_encoder_2/ for SDXL (folders of diffusers and transformers)
    flat       one file: the state dict of the module   .pt, .pth, .bin or .safetensors; shaped as the pipeline's networks are
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path

FAMILIES = {"sd": "Stable Diffusion 1.x/2.x", "sdxl": "SDXL"}
FLAT = (".pt", ".pth", ".bin", ".safetensors")
_HUB = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/[\w.-]+)(?P<path>(/[\w.-]+)*)")
_TIMEOUT = 10  # seconds for the hub to answer


@dataclass(frozen=True)
class Layout:
    """A model that is there to be read. name: what the user wrote; config: of an own model, else empty."""

    name: str
    kind: str  # "own" | "published" | "flat"
    path: Path
    config: dict = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Where its files lie."""
        return self.path.parent if self.kind == "flat" else self.path


def find(source: str) -> Layout:
    """The layout of a folder, a file, or a hub repository "owner/name", with a folder or file in it as "owner/name/path".

    Raises ValueError with one sentence for a source that is not there or lacks a file.
    """
    path = Path(source).expanduser()
    if not path.exists():
        path = _from_hub(source)
    if path.is_file():
        if path.suffix not in FLAT:
            raise ValueError(f"{source} is no file of weights; a latent reward model in one file ends in {', '.join(FLAT)}")
        return Layout(source, "flat", path)
    if (path / "model.safetensors").is_file() or (path / "config.json").is_file():
        return Layout(source, "own", path, _own_config(source, path))
    _check_published(source, path)
    return Layout(source, "published", path)


def check_latents(name: str, ours: tuple[str, int], theirs: tuple[str, int]) -> None:
    """ValueError unless a model of this family and this number of latent channels can score the latents of a generator of those."""
    if ours[0] != theirs[0]:
        raise ValueError(
            f"the latent reward model {name} is for {FAMILIES[ours[0]]}, and the generator is of the family {FAMILIES[theirs[0]]}; "
            "choose one that is for its latents"
        )
    if ours[1] != theirs[1]:
        raise ValueError(
            f"the latent reward model {name} reads latents of {ours[1]} channels, and the generator's have {theirs[1]}; "
            "choose one that is for its latents"
        )


def _own_config(source: str, path: Path) -> dict:
    for name in ("config.json", "model.safetensors"):
        if not (path / name).is_file():
            raise ValueError(f"the latent reward model {source} has no {name}")
    config = read_json(source, path / "config.json")
    if config.get("kind") != "lrm":
        raise ValueError(
            f"config.json of {source} describes no latent reward model (its kind is {config.get('kind')!r}); "
            "train one with mcts-ray train reward --kind lrm"
        )
    latents = config["latents"] if isinstance(config.get("latents"), dict) else {}
    parts = {
        "family": config.get("family") in [*FAMILIES],
        **{name: isinstance(config.get(name), dict) for name in ("unet", "text_encoder", "latents")},
        "enhancement": _is_number(config.get("enhancement")),
        "latents.channels": _is_number(latents.get("channels")),
        "latents.scaling_factor": _is_number(latents.get("scaling_factor")),
    }
    wrong = [name for name, fits in parts.items() if not fits]
    if wrong:
        train = "train one with mcts-ray train reward --kind lrm"
        raise ValueError(f"config.json of {source} has no {wrong[0]} of a latent reward model; {train}")
    return config


def reason(error: Exception) -> str:
    """The first line of what an error says, or its name."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and isfinite(value)


def _check_published(source: str, path: Path) -> None:
    wanted = ["unet/config.json", "text_encoder/config.json", "state_dict.pt"]
    wanted += ["text_encoder_2/config.json"] if (path / "text_encoder_2").is_dir() else []
    missing = [name for name in wanted if not (path / name).is_file()]
    if len(missing) == len(wanted):
        raise ValueError(
            f"{source} holds no latent reward model: neither config.json with model.safetensors, "
            "nor unet/, text_encoder/ and state_dict.pt"
        )
    if missing:
        raise ValueError(f"the latent reward model {source} has no {missing[0]}")


def read_json(source: str, path: Path) -> dict:
    """The object in a JSON file of a model; ValueError with one sentence if there is none."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path.name} of {source} cannot be read: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path.name} of {source} cannot be read: it holds no JSON object")
    return values


def _from_hub(source: str) -> Path:
    """A local copy of what `source` names in a hub repository, from the cache if it is complete there."""
    found = _HUB.fullmatch(source)
    if not found:
        raise ValueError(
            f"there is no latent reward model {source!r}: neither a folder, nor a file, nor a hub id like owner/name/folder"
        )
    import huggingface_hub as hub

    repo, inside = found["repo"], found["path"].strip("/")
    patterns = [inside, f"{inside}/*"] if inside else None
    try:
        hub.HfApi().model_info(repo, timeout=_TIMEOUT)  # one try, where a download would retry for half a minute
        folder = hub.snapshot_download(repo, allow_patterns=patterns)
    except Exception as error:  # no connection, no such repository, gated: the hub library has many words for it
        folder = _cached(hub, repo)
        if folder is None or not Path(folder, inside).exists():
            raise ValueError(
                f"the latent reward model {source!r} is neither here nor in the local cache, and the hub does not give it "
                f"({type(error).__name__}); check the name and the connection, or give a folder"
            ) from None
    if not Path(folder, inside).exists():
        raise ValueError(f"the hub repository {repo} has no {inside}")
    return Path(folder, inside)


def _cached(hub, repo: str) -> str | None:
    try:
        return hub.snapshot_download(repo, local_files_only=True)
    except Exception:
        return None
