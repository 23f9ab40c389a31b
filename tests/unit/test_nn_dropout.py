import pytest
import torch

from commbert.nn.dropout import Dropout, kept

torch.set_num_threads(1)


def _dropped(share, x):
    torch.manual_seed(3)
    return Dropout(share)(x)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_the_share_is_dropped_and_the_mean_stays(share):
    out = _dropped(share, torch.ones(1000, 301))
    assert float((out == 0).float().mean()) == pytest.approx(share, abs=4e-3)
    assert float(out.mean()) == pytest.approx(1.0, rel=0.02)
    assert len(out.unique()) == 2


def test_neighbours_are_dropped_independently():
    is_kept, _ = kept(torch.ones(400_000), 0.5)
    for distance in (1, 2, 3, 4):
        same = (is_kept[distance:] == is_kept[:-distance]).float().mean()
        assert float(same) == pytest.approx(0.5, abs=0.005)


def test_what_is_dropped_has_no_gradient_and_the_rest_the_scale():
    x = torch.ones(50, 7, dtype=torch.float64, requires_grad=True)
    out = _dropped(0.25, x)
    out.backward(torch.full_like(x, 3.0))
    assert torch.equal(x.grad, 3.0 * out.detach())


def test_the_same_seed_drops_the_same_numbers():
    x = torch.randn(33, 5)
    assert torch.equal(_dropped(0.3, x), _dropped(0.3, x))
    assert not torch.equal(_dropped(0.3, x), Dropout(0.3)(x))


def test_outside_training_and_without_a_share_nothing_is_dropped():
    x = torch.randn(4, 4)
    assert Dropout(0.5).eval()(x) is x
    assert Dropout(0.0)(x) is x


@pytest.mark.parametrize("shape", [(0, 4), (1,), (3, 5), (2, 3, 7)])
def test_any_shape_is_drawn(shape):
    is_kept, scale = kept(torch.zeros(shape), 0.5)
    assert is_kept.shape == shape
    assert scale == 2.0
