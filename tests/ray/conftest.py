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
