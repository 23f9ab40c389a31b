import math

import pytest
import torch
from torch.nn import functional

from commbert.nn import losses
from commbert.nn.losses import info_nce_sum, mlm_loss_sum

torch.set_num_threads(1)


def _rows(n, h=8, dtype=torch.float64, seed=0):
    return torch.randn(n, h, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def test_info_nce_of_orthogonal_vectors_by_hand():
    # Two anchors along x and y; candidates x, y, -x. Cosines of the first: 1, 0, -1; of the second: 0, 1, 0.
    anchor = torch.tensor([[2.0, 0.0], [0.0, 0.5]])
    candidate = torch.tensor([[3.0, 0.0], [0.0, 1.0], [-4.0, 0.0]])
    found = info_nce_sum(anchor, candidate, torch.tensor([0, 1]), torch.ones(2, 3, dtype=torch.bool), temperature=0.5)
    e = math.exp
    expected = math.log(e(2) + e(0) + e(-2)) - 2 + math.log(e(2) + 2 * e(0)) - 2
    assert float(found) == pytest.approx(expected, rel=1e-6)


def test_info_nce_of_equal_vectors_is_the_logarithm_of_their_number():
    ones = torch.ones(5, 3, dtype=torch.float64)
    found = info_nce_sum(ones, ones, torch.arange(5), torch.ones(5, 5, dtype=torch.bool), temperature=0.05)
    assert float(found) == pytest.approx(5 * math.log(5), rel=1e-12)


def test_a_masked_candidate_has_no_influence_on_value_or_gradient():
    anchor, candidate = _rows(2).requires_grad_(), _rows(4, seed=1)
    allowed = torch.tensor([[True, True, False, True], [True, True, False, True]])
    gradients = []
    for third in (candidate[2], 100 * torch.ones(8)):
        candidate = candidate.clone()
        candidate[2] = third
        loss = info_nce_sum(anchor, candidate, torch.tensor([0, 1]), allowed, temperature=0.1)
        gradients.append((loss, *torch.autograd.grad(loss, anchor)))
    assert torch.equal(gradients[0][0], gradients[1][0])
    assert torch.equal(gradients[0][1], gradients[1][1])


def test_a_masked_candidate_counts_as_if_it_were_not_there():
    anchor, candidate = _rows(1), _rows(4, seed=1)
    allowed = torch.tensor([[True, False, True, False]])
    masked = info_nce_sum(anchor, candidate, torch.tensor([0]), allowed, temperature=0.1)
    removed = info_nce_sum(
        anchor, candidate[[0, 2]], torch.tensor([0]), torch.ones(1, 2, dtype=torch.bool), temperature=0.1
    )
    assert float(masked) == pytest.approx(float(removed), rel=1e-12)


def test_the_positive_takes_part_though_the_mask_forbids_it():
    anchor, candidate = _rows(1), _rows(3, seed=1)
    every, none = (
        info_nce_sum(anchor, candidate, torch.tensor([1]), torch.tensor([row]), temperature=0.1)
        for row in ([True, True, True], [True, False, True])
    )
    assert torch.equal(every, none)


def test_a_fully_masked_row_gives_zero_and_a_zero_gradient():
    anchor = _rows(1).requires_grad_()
    loss = info_nce_sum(
        anchor, _rows(3, seed=1), torch.tensor([2]), torch.zeros(1, 3, dtype=torch.bool), temperature=0.1
    )
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(anchor.grad, torch.zeros_like(anchor))


def test_no_anchor_gives_zero():
    loss = info_nce_sum(
        torch.zeros(0, 8),
        _rows(3, dtype=torch.float32),
        torch.zeros(0, dtype=torch.int64),
        torch.zeros(0, 3, dtype=torch.bool),
        temperature=0.1,
    )
    assert float(loss) == 0.0


def test_a_vector_of_length_zero_gives_a_finite_loss():
    anchor = torch.zeros(1, 8, requires_grad=True)
    loss = info_nce_sum(
        anchor, _rows(3, dtype=torch.float32), torch.tensor([0]), torch.ones(1, 3, dtype=torch.bool), temperature=0.1
    )
    loss.backward()
    assert loss.item() == pytest.approx(math.log(3), rel=1e-6)
    assert torch.isfinite(anchor.grad).all()


def test_the_length_of_vectors_has_no_influence():
    anchor, candidate, target = _rows(2), _rows(3, seed=1), torch.tensor([0, 1])
    allowed = torch.ones(2, 3, dtype=torch.bool)
    a, b = (info_nce_sum(anchor * s, candidate * s, target, allowed, temperature=0.1) for s in (1.0, 1000.0))
    assert float(a) == pytest.approx(float(b), rel=1e-12)


def test_bf16_inputs_are_computed_in_float32():
    anchor, candidate = _rows(4, dtype=torch.float32).bfloat16(), _rows(6, dtype=torch.float32, seed=1).bfloat16()
    arguments = (torch.arange(4), torch.ones(4, 6, dtype=torch.bool))
    with torch.autocast("cpu", torch.bfloat16):
        found = info_nce_sum(anchor, candidate, *arguments, temperature=0.02)
    expected = info_nce_sum(anchor.double(), candidate.double(), *arguments, temperature=0.02)
    assert found.dtype == torch.float32
    # bf16 logits of up to 50 would be off by 0.1 each.
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


def _decoder(n_vocabulary=9, h=8, dtype=torch.float64):
    return _rows(n_vocabulary, h, dtype, seed=5), _rows(1, n_vocabulary, dtype, seed=6)[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_mlm_loss_by_hand(dtype):
    # Logits log 1, log 2, log 5: the right token, the second, has 2 of 8.
    bias = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64).log().to(dtype)
    tolerance = 1e-6 if dtype == torch.float32 else 1e-14
    nothing = torch.zeros(1, 2, dtype=dtype)
    found = mlm_loss_sum(nothing, torch.zeros(3, 2, dtype=dtype), bias, torch.tensor([1]))
    assert float(found) == pytest.approx(math.log(4), rel=tolerance)


@pytest.mark.parametrize("at_a_time", [9, 20, 2**23])
def test_mlm_loss_and_its_gradients_are_those_of_cross_entropy(monkeypatch, at_a_time):
    monkeypatch.setitem(losses._LOGITS_AT_A_TIME, "cpu", at_a_time)
    labels = torch.tensor([1, 2, 7, 1, 0])
    gradients = []
    for ours in (True, False):
        leaves = [t.clone().requires_grad_() for t in (_rows(5), *_decoder())]
        if ours:
            loss = mlm_loss_sum(*leaves, labels)
        else:
            features, embeddings, bias = leaves
            loss = functional.cross_entropy(features @ embeddings.T + bias, labels, reduction="sum")
        (0.3 * loss).backward()
        gradients.append([loss.detach(), *(t.grad for t in leaves)])
    for found, expected in zip(*gradients, strict=True):
        assert torch.allclose(found, expected, rtol=1e-12, atol=1e-14)


def test_frozen_embeddings_get_no_gradient_and_the_features_do():
    features = _rows(2).requires_grad_()
    embeddings, bias = _decoder()
    mlm_loss_sum(features, embeddings, bias, torch.tensor([1, 2])).backward()
    assert embeddings.grad is None
    assert features.grad.norm() > 0


def test_a_second_backward_fails_instead_of_scaling_twice():
    features = _rows(2).requires_grad_()
    loss = mlm_loss_sum(features, *_decoder(), torch.tensor([1, 2]))
    loss.backward(retain_graph=True)
    with pytest.raises(TypeError):
        loss.backward()


def test_mlm_loss_of_no_token_is_zero():
    none = torch.zeros(0, dtype=torch.int64)
    assert float(mlm_loss_sum(torch.zeros(0, 8, dtype=torch.float64), *_decoder(), none)) == 0.0


def test_mlm_logits_under_bf16_autocast_are_summed_in_float32():
    leaves, labels = [_rows(5, dtype=torch.float32), *_decoder(dtype=torch.float32)], torch.tensor([1, 2, 7, 1, 0])
    with torch.autocast("cpu", torch.bfloat16):
        found = mlm_loss_sum(*leaves, labels)
    features, embeddings, bias = leaves
    expected = functional.cross_entropy(features @ embeddings.T + bias, labels, reduction="sum")
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(float(expected), rel=2e-2)
    assert float(found) != float(expected)
