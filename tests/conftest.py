import os

import pytest

# Before torch is imported anywhere: tests are small, and more threads only get in each other's way.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """The tiny pipeline saved as a local folder, as a user would have one."""
    from tests.tiny import tiny_pipeline

    folder = tmp_path_factory.mktemp("tiny") / "pipeline"
    tiny_pipeline().save_pretrained(folder)
    return folder
