import pytest
import torch

from mcts_ray.diffusion.memory import Slices


def sizes_tried(slices, count, fits):
    tried = []

    def task(part):
        size = part.stop - part.start
        tried.append(size)
        if size > fits:
            raise torch.OutOfMemoryError("no")
        return list(range(count))[part]

    return tried, sum(slices.run(count, task), [])


def test_everything_in_one_slice():
    assert sizes_tried(Slices(), 5, fits=9) == ([5], [0, 1, 2, 3, 4])


def test_halves_until_it_fits_and_remembers():
    slices = Slices()
    assert sizes_tried(slices, 10, fits=3) == ([10, 5, 2, 2, 2, 2, 2], list(range(10)))
    assert slices.limit == 2
    assert sizes_tried(slices, 3, fits=3) == ([2, 1], [0, 1, 2])


def test_one_sample_that_does_not_fit():
    with pytest.raises(torch.OutOfMemoryError, match="a single image"):
        sizes_tried(Slices(), 4, fits=0)


def test_other_errors_pass():
    with pytest.raises(KeyError):
        Slices().run(2, lambda part: {}[part.start])
