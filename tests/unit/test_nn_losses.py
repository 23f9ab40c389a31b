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


# -- Hard negatives and weights ----------------------------------------------------------------------------------------


def _scene(b=6, n=14, seed=0, share=0.6):
    """Return anchors, candidates, targets and a mask, in which a row allows nothing and another one word."""
    rng = torch.Generator().manual_seed(seed)
    anchor, candidate = (torch.randn(k, 8, dtype=torch.float64, generator=rng) for k in (b, n))
    allowed = torch.rand(b, n, generator=rng) < share
    allowed[1] = False
    allowed[2] = torch.arange(n) == 5
    return anchor, candidate, torch.randperm(n, generator=rng)[:b], allowed


def _plain(anchor, candidate, target, allowed, *, temperature, hardest=None, hardness=0.0, weight=None):
    """The loss of one anchor after the other, with Python's own exp and log of few numbers."""
    total = 0.0
    for i in range(len(anchor)):
        cosine = [functional.cosine_similarity(anchor[i], c, dim=0) for c in candidate]
        t = int(target[i])
        negatives = [j for j in range(len(candidate)) if allowed[i, j] and j != t]
        negatives = sorted(negatives, key=lambda j: -cosine[j].item())[:hardest]
        positive = torch.exp(cosine[t] / temperature)
        harder = [torch.exp(hardness * cosine[j] / temperature) for j in negatives]
        shares = [h / (sum(harder) / len(harder)) for h in harder]
        terms = [w * torch.exp(cosine[j] / temperature) for w, j in zip(shares, negatives, strict=True)]
        total = total + (1.0 if weight is None else weight[i]) * -torch.log(positive / (positive + sum(terms)))
    return total


LEVERS = [
    {},
    {"hardest": 1},
    {"hardest": 3},
    {"hardest": 13},
    {"hardest": 500},
    {"hardness": 0.3},
    {"hardness": 2.0},
    {"hardest": 4, "hardness": 0.7},
]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("lever", LEVERS)
def test_mined_and_weighted_losses_and_gradients_are_those_of_loops(lever, weighted):
    weight = torch.tensor([0.5, 2.0, 0.0, 1.0, 3.0, 0.25], dtype=torch.float64) if weighted else None
    found = []
    for loss_of in (info_nce_sum, _plain):
        anchor, candidate, target, allowed = _scene()
        leaves = [anchor.requires_grad_(), candidate.requires_grad_(), torch.tensor(0.2).double().requires_grad_()]
        loss = loss_of(anchor, candidate, target, allowed, temperature=leaves[2], weight=weight, **lever)
        loss.backward()
        found.append([loss.detach(), *(leaf.grad for leaf in leaves)])
    for ours, expected in zip(*found, strict=True):
        assert torch.allclose(ours, expected, rtol=1e-10, atol=1e-12)


def test_mining_as_many_as_there_are_changes_no_bit():
    scene = _scene()
    every = info_nce_sum(*scene, temperature=0.1)
    assert torch.equal(info_nce_sum(*scene, temperature=0.1, hardest=13), every)
    assert torch.equal(info_nce_sum(*scene, temperature=0.1, hardest=14), every)
    assert not torch.equal(info_nce_sum(*scene, temperature=0.1, hardest=2), every)


def test_of_equally_similar_negatives_the_first_are_mined():
    anchor = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    candidate = torch.tensor([[1.0, 0.1], [0.0, 1.0], [0.0, 2.0], [0.0, 3.0], [1.0, 1.0]], dtype=torch.float64)
    gradients = candidate.clone().requires_grad_()
    allowed = torch.ones(1, 5, dtype=torch.bool)
    info_nce_sum(anchor, gradients, torch.tensor([0]), allowed, temperature=0.5, hardest=3).backward()
    assert (gradients.grad.abs().sum(1) > 0).tolist() == [True, True, True, False, True]


def test_the_positive_is_not_one_of_the_mined():
    anchor, candidate = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])
    allowed = torch.ones(1, 3, dtype=torch.bool)
    one = info_nce_sum(anchor, candidate, torch.tensor([0]), allowed, temperature=0.5, hardest=1)
    alone = info_nce_sum(anchor, candidate[:2], torch.tensor([0]), allowed[:, :2], temperature=0.5)
    assert float(one) == pytest.approx(float(alone), rel=1e-6)


@pytest.mark.parametrize("lever", [{"hardest": 2}, {"hardness": 1.0}, {"hardest": 2, "hardness": 1.0}])
def test_an_anchor_without_negatives_gives_zero_and_a_zero_gradient_with_every_lever(lever):
    anchor = _rows(1).requires_grad_()
    nothing = torch.zeros(1, 3, dtype=torch.bool)
    loss = info_nce_sum(anchor, _rows(3, seed=1), torch.tensor([2]), nothing, temperature=0.1, **lever)
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(anchor.grad, torch.zeros_like(anchor))


@pytest.mark.parametrize("lever", LEVERS)
def test_no_anchor_gives_zero_with_every_lever(lever):
    none, mask = torch.zeros(0, dtype=torch.int64), torch.zeros(0, 3, dtype=torch.bool)
    weight = torch.zeros(0)
    assert float(info_nce_sum(_rows(0), _rows(3), none, mask, temperature=0.1, weight=weight, **lever)) == 0.0


def test_a_very_large_hardness_stays_finite_and_counts_the_hardest_as_often_as_there_are_negatives():
    anchor = torch.tensor([[1.0, 0.0]], dtype=torch.float64).requires_grad_()
    candidate = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
    allowed = torch.ones(1, 4, dtype=torch.bool)
    loss = info_nce_sum(anchor, candidate, torch.tensor([0]), allowed, temperature=0.05, hardness=100.0)
    loss.backward()
    assert loss.item() == pytest.approx(math.log1p(3 * math.exp((0.8 - 1) / 0.05)), rel=1e-9)
    assert torch.isfinite(anchor.grad).all()


def test_equal_vectors_have_the_loss_of_guessing_whatever_the_hardness():
    ones = torch.ones(5, 3, dtype=torch.float64)
    found = info_nce_sum(
        ones, ones, torch.arange(5), torch.ones(5, 5, dtype=torch.bool), temperature=0.05, hardness=3.0
    )
    assert float(found) == pytest.approx(5 * math.log(5), rel=1e-12)
