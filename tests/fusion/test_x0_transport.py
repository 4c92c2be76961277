import torch

from mcts_ray.diffusion.noise import draw
from mcts_ray.fusion.x0_transport import x0_transport
from mcts_ray.tree.weights import Refusal
from tests.fusion.family import ALPHA, NAMES, SIGMA, kept, weights

W = torch.tensor(weights())


def states(shape=(4, 8, 8), **options):
    """Blobs on a little texture, without which tokens of the ground could as well change places."""
    made = kept(shape=shape, **options).values()
    return torch.stack([state.x0 for state in made]) + 0.1 * draw(NAMES, shape), torch.stack([state.eps for state in made])


def fuse(x0, eps, w=W):
    return x0_transport(x0, eps, w, ALPHA, SIGMA)


def test_noise_keeps_its_norm():
    """With alpha 0 only the noise is left: the weighted mean of the eps, as long as they are."""
    x0, eps = states()
    noise = x0_transport(x0, eps, W, 0.0, 1.0)
    mean = torch.einsum("n,nchw->chw", W, eps)
    norm = (W @ eps.flatten(1).norm(dim=1)) / W.sum()
    torch.testing.assert_close(noise, norm / mean.norm() * mean, rtol=1e-4, atol=1e-4)


def test_a_constant_on_the_predictions_goes_through():
    """[7] As does a scale of everything."""
    x0, eps = states()
    fused = fuse(x0, eps)
    torch.testing.assert_close(fuse(x0 + 0.7, eps), fused + ALPHA * 0.7, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(fuse(3 * x0, 3 * eps), 3 * fused, rtol=1e-4, atol=1e-4)


def test_channels_may_be_turned():
    """[7]"""
    x0, eps = states()
    turn = torch.linalg.qr(draw(["turn"], (4, 4))[0])[0]
    turned = [torch.einsum("dc,nchw->ndhw", turn, part) for part in (x0, eps)]
    torch.testing.assert_close(fuse(*turned), torch.einsum("dc,chw->dhw", turn, fuse(x0, eps)), rtol=1e-4, atol=1e-4)


def test_hardly_any_weight_is_no_weight():
    x0, eps = states()
    light = torch.cat([W, torch.tensor([1e-4])])
    other = draw(["other"], (4, 8, 8))
    assert torch.equal(fuse(torch.cat([x0, 9 * other]), torch.cat([eps, other]), light), fuse(x0, eps))


def test_types_and_strides():
    """[15]"""
    x0, eps = states()
    for dtype in (torch.float16, torch.bfloat16):
        half = fuse(x0.to(dtype), eps.to(dtype))
        assert half.dtype == dtype and torch.equal(half, fuse(x0.to(dtype).float(), eps.to(dtype).float()).to(dtype))
    last = [part.contiguous(memory_format=torch.channels_last) for part in (x0, eps)]
    torch.testing.assert_close(fuse(*last), fuse(x0, eps))


def test_sdxl():
    fused = fuse(*states((4, 128, 128)))
    assert fused.shape == (4, 128, 128) and fused.isfinite().all()


def test_still():
    assert fuse(*states(apart=0.0)) is Refusal.STILL
