import numpy as np
import pytest

PROMPTS = ["a red circle", "a blue square", "a red circle", "a green ring left of a white cross"]


@pytest.fixture(scope="session")
def images():
    """Four images that are no square."""
    return np.random.default_rng(0).integers(0, 256, (4, 40, 48, 3), dtype=np.uint8)


@pytest.fixture
def prompts():
    return list(PROMPTS)
