"""MCTS_RAY_HOME: where the URL, the token (0600) and, unless told otherwise, the jobs of a service lie."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import Any

from platformdirs import user_data_dir


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


def _read_token(file: Path) -> str:
    if file.stat().st_mode & 0o077:
        raise ValueError(f"token file {file} can be read by others; make it private with `chmod 600 {file}`")
    token = file.read_text().strip()
    if len(token) < 16:
        raise ValueError(f"token file {file} holds no token of at least 16 characters; delete it, and a new one is made")
    return token


def find_service() -> tuple[str, str | None]:
    """(URL, token) of the service to speak to: MCTS_RAY_URL and MCTS_RAY_TOKEN, else what `mcts-ray up` has written.

    Raises ValueError if no service is known.
    """
    url = os.environ.get("MCTS_RAY_URL") or read_state().get("url")
    if not url:
        raise ValueError("no service is known here; start one with `mcts-ray up`, or set MCTS_RAY_URL")
    file = home() / "token"
    token = os.environ.get("MCTS_RAY_TOKEN") or (_read_token(file) if file.is_file() else None)
    return url.rstrip("/"), token


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
