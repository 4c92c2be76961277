import numpy as np

from mcts_ray.reward.jpeg import JpegCompressibility, bits_per_pixel


def test_flat_images_compress_better_than_noise():
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    flat = np.full_like(noise, 128)
    flat_score, noise_score = JpegCompressibility()(np.stack([flat, noise]), ["", ""])
    assert noise_score < flat_score < 0


def test_size_does_not_change_the_unit():
    small = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    large = np.tile(small, (4, 4, 1))
    assert abs(bits_per_pixel(large) - bits_per_pixel(small)) < 0.1 * bits_per_pixel(small)
