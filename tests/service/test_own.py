"""Ray's token for a cluster of our own."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from mcts_ray.service import own

ROOT = Path(__file__).parents[2]
SHOW = "from mcts_ray.service.own import token_mode; print(token_mode())"


@pytest.fixture
def token_mode(tmp_path):
    """What a process of a user with this home and environment finds."""

    def token_mode(**env):
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        env = {**kept, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT), **env}
        return subprocess.run([sys.executable, "-c", SHOW], env=env, capture_output=True, text=True, timeout=120)

    return token_mode


def test_a_token_is_made_where_ray_looks_for_it_and_is_private(token_mode, tmp_path):
    file = tmp_path / ".ray" / "auth_token"
    assert token_mode().stdout == "{'RAY_AUTH_MODE': 'token'}\n"
    token = file.read_text()
    assert len(token) == 64 and stat.S_IMODE(file.stat().st_mode) == 0o600
    file.chmod(0o644)  # as Ray makes it
    assert token_mode().stdout == "{'RAY_AUTH_MODE': 'token'}\n"
    assert file.read_text() == token and stat.S_IMODE(file.stat().st_mode) == 0o600


def test_what_the_user_has_decided_is_left_alone(token_mode, tmp_path):
    assert token_mode(RAY_AUTH_MODE="disabled").stdout == "{}\n"
    assert token_mode(RAY_AUTH_TOKEN="mine").stdout == "{'RAY_AUTH_MODE': 'token'}\n"
    assert not (tmp_path / ".ray").exists()
    done = token_mode(RAY_AUTH_TOKEN_PATH=str(tmp_path / "missing"))
    assert done.returncode == 1 and "ValueError: Ray's token cannot be read" in done.stderr


def test_a_home_that_cannot_be_written_is_told(token_mode, tmp_path):
    (tmp_path / ".ray").touch()
    done = token_mode()
    assert done.returncode == 1 and f"ValueError: Ray's token cannot be written to {tmp_path}/.ray/auth_token" in done.stderr


def test_a_start_that_fails_leaves_nothing_running(monkeypatch, tmp_path):
    script = tmp_path / "python"
    script.write_text(f"#!/bin/sh\nsleep 600 >/dev/null 2>&1 &\necho $! > {tmp_path}/pid\necho too slow >&2\nexit 1\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    monkeypatch.setattr(own, "token_mode", dict)
    with pytest.raises(RuntimeError, match="Ray could not be started: too slow"):
        own.start(1, dashboard=False)
    pid = int((tmp_path / "pid").read_text())
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
