"""One Ray cluster for all tests of a session: starting one takes seconds, and so does every actor that imports torch."""

import logging

import pytest


@pytest.fixture(scope="session")
def cluster():
    import ray

    ray.init(
        address="local", num_cpus=4, include_dashboard=False, object_store_memory=200 * 2**20, namespace="mcts_ray",
        log_to_driver=False, logging_level=logging.ERROR,
    )  # fmt: skip
    yield ray
    ray.shutdown()


@pytest.fixture
def quick(monkeypatch):
    """No waiting, and no Ray."""
    from mcts_ray.actors import entering, patience, working

    monkeypatch.setattr("mcts_ray.actors.tree_manager.logs.set_up", lambda: None)
    monkeypatch.setattr("ray.kill", lambda *_, **__: None)
    monkeypatch.setattr(working, "PAUSE", 0.01)
    monkeypatch.setattr(working, "LONGEST", 0.01)
    monkeypatch.setattr(patience, "LATE", 0.2)
    monkeypatch.setattr(entering, "LATE", 0.2)
    monkeypatch.setattr(patience, "NEXT", 0.1)
