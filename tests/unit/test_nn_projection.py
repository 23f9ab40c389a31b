import pytest
import torch

from commbert.nn.projection import make_projection
from commbert.settings.training import Contrastive

LIKE = torch.zeros((), dtype=torch.float64)


def _made(seed=0, size=16, **changes):
    return make_projection(Contrastive(**changes), size, seed=seed, like=LIKE)


def _rows(n=5, h=16):
    return torch.randn(n, h, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_a_linear_projection_is_one_matrix():
    made, x = _made(projection="linear", projection_size=4), _rows()
    (weight,) = made.parameters()
    assert weight.shape == (4, 16)
    assert torch.allclose(made(x), x @ weight.T, rtol=1e-12)


def test_an_mlp_is_two_matrices_with_a_relu_between():
    made, x = _made(projection="mlp", projection_size=4), _rows()
    first, second = made.parameters()
    assert (first.shape, second.shape) == ((16, 16), (4, 16))
    inner = x @ first.T
    inner[inner < 0] = 0
    assert torch.allclose(made(x), inner @ second.T, rtol=1e-12)
    assert not torch.allclose(made(x), x @ first.T @ second.T)


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_without_a_size_a_projection_keeps_that_of_the_vectors(kind):
    assert _made(projection=kind)(_rows()).shape == (5, 16)
    assert _made(projection=kind)(_rows(0)).shape == (0, 16)


def test_the_weights_follow_the_seed_alone():
    torch.manual_seed(3)
    first = [p.detach().clone() for p in _made(projection="mlp").parameters()]
    torch.rand(9)
    again, other = (list(_made(seed, projection="mlp").parameters()) for seed in (0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_the_weights_have_the_spread_of_one_over_the_size():
    (weight,) = _made(size=400, projection="linear").parameters()
    assert weight.std().item() == pytest.approx(0.05, rel=0.01)
    assert abs(weight.mean().item()) < 0.0005


def test_none_makes_no_projection():
    assert _made() is None
    assert make_projection(None, 16, seed=0, like=LIKE) is None
