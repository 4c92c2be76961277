"""MCTS_RAY_HOME: where the URL, the token (0600) and, unless told otherwise, the jobs of a service lie."""

from __future__ import annotations

import json
import os
import secrets
import tempfile
from pathlib import Path
from typing import Any

from platformdirs import user_data_dir

from mcts_ray.service.settings import TOKEN

SHORTEST = 16  # characters of a token


def home() -> Path:
    """The folder: MCTS_RAY_HOME, else the platform's user data folder."""
    return Path(os.environ.get("MCTS_RAY_HOME") or user_data_dir("mcts-ray", appauthor=False)).expanduser().absolute()


def make_token() -> str:
    """The token in the home, made at first use; readable by its owner only. ValueError if others may read it."""
    file = home() / "token"
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return _read_token(file)
    with os.fdopen(handle, "w") as out:
        out.write(token := secrets.token_urlsafe(32))
    return token


def given_token() -> str | None:
    """That of MCTS_RAY_TOKEN. ValueError if it is too short to protect anything."""
    token = os.environ.get(TOKEN, "").strip()
    if token and len(token) < SHORTEST:
        raise ValueError(f"{TOKEN} holds no token of at least {SHORTEST} characters; set a longer one, or unset it, and one is made")
    return token or None


def keep_token(token: str) -> None:
    """Put it into the home in place of the one that is there; readable by its owner only."""
    write_secret(home() / "token", token)


def write_secret(file: Path, text: str) -> None:
    """Write it whole or not at all, and so that only its owner can read it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}-")  # is 0600
    try:
        with os.fdopen(handle, "w") as out:
            out.write(text)
        os.replace(partial, file)
    except BaseException:
        os.unlink(partial)
        raise


def _read_token(file: Path) -> str:
    if file.stat().st_mode & 0o077:
        raise ValueError(f"token file {file} can be read by others; make it private with `chmod 600 {file}`")
    token = file.read_text().strip()
    if len(token) < SHORTEST:
        raise ValueError(f"token file {file} holds no token of at least {SHORTEST} characters; delete it, and a new one is made")
    return token


def find_service() -> tuple[str, str | None]:
    """(URL, token) of the service to speak to: MCTS_RAY_URL and MCTS_RAY_TOKEN, else what `mcts-ray up` has written.

    Raises ValueError if no service is known.
    """
    url = os.environ.get("MCTS_RAY_URL") or read_state().get("url")
    if not url:
        raise ValueError("no service is known here; start one with `mcts-ray up`, or set MCTS_RAY_URL")
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"MCTS_RAY_URL {url!r} is no address of a service; it must look like http://127.0.0.1:8000")
    file = home() / "token"
    token = os.environ.get(TOKEN, "").strip() or (_read_token(file) if file.is_file() else None)
    return url.rstrip("/"), token


def token_source() -> str:
    """Where the token of `find_service` comes from, in words."""
    return TOKEN if os.environ.get(TOKEN, "").strip() else str(home() / "token")


def read_state() -> dict[str, Any]:
    """What `mcts-ray up` has written of the service that runs: url, address of its cluster, and the session if it is its own."""
    try:
        return json.loads((home() / "service.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def write_state(state: dict[str, Any] | None) -> None:
    """Replace it; None: no service runs any more. The URL is in a file of its own too, for scripts."""
    folder = home()
    folder.mkdir(parents=True, exist_ok=True)
    if state is None:
        for name in ("service.json", "url"):
            (folder / name).unlink(missing_ok=True)
        return
    (folder / "url").write_text(state["url"] + "\n", encoding="utf-8")
    partial = folder / "service.json.partial"
    partial.write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")
    partial.replace(folder / "service.json")
