import logging
import os

import pytest

# Before torch is imported anywhere: tests are small, and more threads only get in each other's way.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(tryfirst=True)  # before xdist looks for groups
def pytest_collection_modifyitems(items):
    """With `-n`: a file stays in one process, and all that need the session's Ray cluster in the same one."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group("ray" if "ray" in item.path.parts else str(item.path)))


@pytest.fixture(autouse=True)
def _own_logger():
    """What an actor that was made in this process has set up goes with the test."""
    logger = logging.getLogger("mcts_ray")
    kept = logger.handlers, logger.propagate, logger.level
    yield
    logger.handlers, logger.propagate = kept[:2]
    logger.setLevel(kept[2])


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """The tiny pipeline saved as a local folder, as a user would have one."""
    from tests.tiny import tiny_pipeline

    folder = tmp_path_factory.mktemp("tiny") / "pipeline"
    tiny_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory):
    """A tiny CLIP with tokenizer and image processor, saved as the published ones are."""
    from tests.tiny_clip import save_clip

    return save_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="session")
def tiny_xl_folder(tmp_path_factory):
    """The tiny SDXL pipeline saved as a local folder."""
    from tests.tiny import tiny_xl_pipeline

    folder = tmp_path_factory.mktemp("tiny") / "xl"
    tiny_xl_pipeline().save_pretrained(folder)
    return folder
