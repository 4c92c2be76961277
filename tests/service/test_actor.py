"""The processes of a service without a cluster: which token they demand, and that they log in their form."""

import asyncio
from types import SimpleNamespace

import pytest

from mcts_ray.service import actor, serve
from mcts_ray.service.home import make_token
from mcts_ray.service.settings import Settings


@pytest.fixture(autouse=True)
def begun(monkeypatch, tmp_path):
    """Nothing is opened; returns a list with an entry for each time that logs were set up."""
    begun = []
    monkeypatch.setattr(actor.logs, "set_up", lambda: begun.append(1))
    monkeypatch.setattr(actor.JobsActor, "_open", lambda self: asyncio.Event().wait())
    monkeypatch.setenv("MCTS_RAY_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MCTS_RAY_TOKEN", raising=False)
    return begun


def token(*arguments, **settings):
    async def ask():
        jobs = actor.JobsActor(Settings(**settings), *arguments)
        try:
            return await jobs.token()
        finally:
            await jobs.close()

    return asyncio.run(ask())


def test_the_token_of_the_node_is_taken_as_up_takes_it(monkeypatch, tmp_path):
    made = token()
    assert made == make_token()
    monkeypatch.setenv("MCTS_RAY_TOKEN", "the-operators-token\n")
    assert token() == "the-operators-token" and token(token=False) is None
    monkeypatch.setenv("MCTS_RAY_TOKEN", "  \n")
    assert token() == made
    monkeypatch.setenv("MCTS_RAY_TOKEN", "short")
    with pytest.raises(ValueError, match="MCTS_RAY_TOKEN holds no token of at least 16 characters"):
        token()
    monkeypatch.chdir(tmp_path)
    assert token(str(tmp_path / "home"), str(tmp_path)) == made  # by `up`, which has looked at it


def test_a_replica_logs_in_the_form_of_the_service_and_bears_the_token(monkeypatch, begun):
    async def answer():
        return "the-operators-token"

    async def start_with(*arguments):
        assert begun == [1] and arguments == (Settings(max_queue=7), "home", None)
        return SimpleNamespace(token=SimpleNamespace(remote=answer))

    monkeypatch.setattr(actor, "start_with", start_with)
    made = serve.Front.func_or_class.__mro__[1]  # what Serve has wrapped
    front = object.__new__(made)
    asyncio.run(front.__init__({"max_queue": 7}, "home"))
    assert front.token == "the-operators-token"
