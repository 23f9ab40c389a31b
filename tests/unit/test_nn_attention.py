import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from commbert.nn import attention as door
from commbert.nn.attention import attention, by_length, jagged, on_cuda
from commbert.nn.packing import Packed, runs_of

torch.set_num_threads(1)
# Torch says so of its own way for nested tensors on a CPU.
pytestmark = pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
HEADS, SIZE = 3, 5


def _packed(lengths):
    """Return a row of sequences of so many tokens; attention does not read which."""
    t = sum(lengths)
    return Packed(
        input_ids=torch.zeros(t, dtype=torch.int64),
        position_ids=torch.zeros(t, dtype=torch.int64),
        segment_ids=torch.zeros(t, dtype=torch.int64),
        offsets=torch.tensor([0, *np.cumsum(lengths).tolist()], dtype=torch.int32),
        runs=runs_of(np.array(lengths, np.int64)),
        longest=max(lengths),
    )


def _random(*shape, dtype=torch.float64, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def _row(lengths, *, dtype=torch.float64):
    return _random(sum(lengths), 3, HEADS, SIZE, dtype=dtype).requires_grad_()


def _formula(qkv, offsets, left=None):
    """Softmax(q k / sqrt(d)) v, one sequence and one head after the other; ``left`` multiplies the probabilities."""
    rows = []
    for i, (start, stop) in enumerate(pairwise(offsets)):
        heads = []
        for h in range(qkv.shape[2]):
            query, key, value = qkv[start:stop, :, h].unbind(1)
            probability = torch.softmax(query @ key.T / math.sqrt(qkv.shape[3]), 1)
            heads.append((probability if left is None else probability * left[i][h]) @ value)
        rows.append(torch.stack(heads, 1))
    return torch.cat(rows)


def _both(function, qkv, weight):
    """Return value and gradient."""
    out = function(qkv)
    (gradient,) = torch.autograd.grad((out * weight).sum(), qkv)
    return out.detach(), gradient


def _difference(way, lengths):
    """Return the largest difference of value and of gradient to the formula's."""
    packed, qkv, weight = _packed(lengths), _row(lengths), _random(sum(lengths), HEADS, SIZE, seed=1)
    found = _both(lambda x: way(x, packed, dropout=0.0), qkv, weight)
    expected = _both(lambda x: _formula(x, packed.offsets.tolist()), qkv, weight)
    return max(float((a - b).abs().max()) for a, b in zip(found, expected, strict=True))


def _lengths(seed):
    rng = np.random.default_rng(seed)
    found = rng.integers(1, rng.integers(3, 14), rng.integers(1, 30)).tolist()
    return sorted(found, reverse=True) if seed % 2 else found


MIXES = [[1], [1, 1, 1], [6], [7, 7, 7, 7], [9, 5, 5, 5, 1, 1], [1, 9, 1, 9, 1], *map(_lengths, range(14))]


@pytest.mark.parametrize("way", [by_length, jagged, attention])
def test_value_and_gradient_are_those_of_the_formula(way):
    assert max(_difference(way, lengths) for lengths in MIXES) <= 1e-12


@pytest.mark.parametrize("cached", [1, 30, 200, 10**9])
def test_long_runs_are_cut_into_products_of_any_size_without_change(monkeypatch, cached):
    monkeypatch.setattr(door, "_CACHED", cached)
    assert max(_difference(by_length, lengths) for lengths in MIXES) <= 1e-12


def test_products_have_at_most_the_probabilities_that_fit_and_cover_every_token_once(monkeypatch):
    monkeypatch.setattr(door, "_CACHED", 3 * HEADS * 16)
    packed = _packed([*[4] * 10, 40, *[2] * 25])
    blocks = door._blocks(packed, HEADS)
    # 3 sequences of 4 tokens fit, 12 of 2 tokens; one of 40 does not and stands alone.
    assert [(n, length) for _, n, length in blocks] == [*[(3, 4)] * 3, (1, 4), (1, 40), (12, 2), (12, 2), (1, 2)]
    assert [i for tokens, _, _ in blocks for i in range(tokens.start, tokens.stop)] == list(range(130))
    assert all(tokens.stop - tokens.start == n * length for tokens, n, length in blocks)


def test_a_sequence_of_one_token_returns_its_value():
    lengths = [1, 1, 4, 1]
    qkv = _row(lengths)
    out = by_length(qkv, _packed(lengths), dropout=0.0)
    assert torch.equal(out[[0, 1, 6]], qkv[[0, 1, 6], 2])


@pytest.mark.parametrize("way", [by_length, jagged])
def test_no_token_sees_another_sequence(way):
    lengths = [3, 3, 2, 5]
    qkv = _row(lengths)
    out = way(qkv, _packed(lengths), dropout=0.0)
    (gradient,) = torch.autograd.grad(out[3:6].sum(), qkv)
    assert gradient[:3].abs().sum() == gradient[6:].abs().sum() == 0.0
    assert gradient[3:6, 2].abs().min() > 0.0


def test_a_gradient_that_lies_otherwise_in_memory_is_read_right():
    lengths = [4, 4, 2]
    packed, qkv, weight = _packed(lengths), _row(lengths), _random(SIZE, HEADS, 10, seed=1)
    (expected,) = torch.autograd.grad((_formula(qkv, [0, 4, 8, 10]) * weight.permute(2, 1, 0)).sum(), qkv)
    out = by_length(qkv, packed, dropout=0.0)
    (found,) = torch.autograd.grad(out, qkv, weight.permute(2, 1, 0))
    assert not weight.permute(2, 1, 0).is_contiguous()
    assert torch.allclose(found, expected, atol=1e-13)
    (of_sum,) = torch.autograd.grad(by_length(qkv, packed, dropout=0.0).sum(), qkv)  # an expanded gradient
    (of_ones,) = torch.autograd.grad(by_length(qkv, packed, dropout=0.0), qkv, torch.ones(10, HEADS, SIZE).double())
    assert torch.equal(of_sum, of_ones)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
def test_other_precisions_are_kept_and_near(dtype, tolerance):
    lengths = [6, 6, 3, 1]
    packed, qkv, weight = _packed(lengths), _row(lengths, dtype=dtype), _random(16, HEADS, SIZE, dtype=dtype, seed=1)
    exact = qkv.detach().double().requires_grad_()
    found = _both(lambda x: by_length(x, packed, dropout=0.0), qkv, weight)
    expected = _both(lambda x: _formula(x, packed.offsets.tolist()), exact, weight.double())
    assert {f.dtype for f in found} == {dtype}
    assert all(float((a.double() - b).norm() / b.norm()) <= tolerance for a, b in zip(found, expected, strict=True))


def test_autocast_does_not_reach_into_the_products():
    lengths = [6, 6, 3]
    packed, qkv, weight = _packed(lengths), _row(lengths, dtype=torch.float32), _random(15, HEADS, SIZE).float()
    plain = _both(lambda x: by_length(x, packed, dropout=0.0), qkv, weight)

    def cast(x):
        with torch.autocast("cpu", torch.bfloat16):
            return by_length(x, packed, dropout=0.0)

    assert all(torch.equal(a, b) for a, b in zip(plain, _both(cast, qkv, weight), strict=True))


def _seeded(way, packed, *, dropout, seed=0):
    def function(qkv):
        torch.manual_seed(seed)
        return way(qkv, packed, dropout=dropout)

    return function


def _left(qkv, packed, dropout, seed):
    """Return what multiplies the probabilities of each sequence, read through values that are unit vectors."""
    seen = qkv.detach().clone()
    for start, stop in pairwise(packed.offsets.tolist()):
        seen[start:stop, 2] = torch.eye(SIZE, dtype=seen.dtype)[: stop - start, None]
    scaled = _seeded(by_length, packed, dropout=dropout, seed=seed)(seen)
    ratio = scaled / _formula(seen, packed.offsets.tolist()).clamp(min=1e-300)
    return [ratio[a:b, :, : b - a].transpose(0, 1) for a, b in pairwise(packed.offsets.tolist())]


def test_with_dropout_value_and_gradient_are_those_of_the_formula_with_the_same_probabilities_dropped():
    lengths = [4, 4, 4, 2, 2, 1, 5]
    packed, qkv, weight = _packed(lengths), _row(lengths), _random(sum(lengths), HEADS, SIZE, seed=1)
    left = _left(qkv, packed, 0.4, seed=3)
    scales = torch.cat([one.flatten() for one in left])
    assert torch.allclose(scales[scales > 0], torch.tensor(1 / 0.6, dtype=torch.float64), rtol=1e-4)
    assert 0.2 < float((scales == 0).double().mean()) < 0.6
    found = _both(_seeded(by_length, packed, dropout=0.4, seed=3), qkv, weight)
    expected = _both(lambda x: _formula(x, packed.offsets.tolist(), left), qkv, weight)
    assert all(torch.allclose(a, b, rtol=0.0, atol=1e-12) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("cached", [20, 10**9])
def test_with_dropout_the_gradient_is_the_slope(monkeypatch, cached):
    monkeypatch.setattr(door, "_CACHED", cached)
    lengths = [3, 3, 1, 2]
    qkv = _random(sum(lengths), 3, 2, 2).requires_grad_()
    assert torch.autograd.gradcheck(_seeded(by_length, _packed(lengths), dropout=0.3), [qkv])


def test_the_mean_over_many_draws_is_the_output_without_dropout():
    lengths = [5, 5, 3]
    packed, qkv = _packed(lengths), _row(lengths).detach()
    torch.manual_seed(0)
    draws = torch.stack([by_length(qkv, packed, dropout=0.3) for _ in range(3000)])
    expected, spread = by_length(qkv, packed, dropout=0.0), draws.std(0) / math.sqrt(3000)
    assert float(((draws.mean(0) - expected).abs() / spread).max()) < 5.0
    assert float(spread.min()) > 0.0


@pytest.mark.parametrize("way", [by_length, jagged])
def test_the_share_that_is_dropped_is_the_one_asked_for(way):
    # A sequence of one token has one probability, 1: dropped, its output is 0; kept, it is scaled up.
    qkv = _random(4000, 3, 1, 2)
    torch.manual_seed(0)
    out = way(qkv, _packed([1] * 4000), dropout=0.2)
    is_dropped = (out == 0.0).all(-1)[:, 0]
    assert float(is_dropped.double().mean()) == pytest.approx(0.2, abs=0.03)
    assert torch.allclose(out[~is_dropped], qkv[~is_dropped, 2] / 0.8, rtol=1e-4)


@pytest.mark.parametrize("way", [by_length, jagged])
def test_dropout_is_the_same_for_the_same_seed_and_another_for_another(way):
    lengths = [6, 6, 4]
    qkv = _row(lengths)
    a, b, c = (_seeded(way, _packed(lengths), dropout=0.3, seed=s)(qkv) for s in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_dropout_on_nested_tensors_has_the_right_mean():
    lengths = [5, 5, 3]
    packed, qkv = _packed(lengths), _row(lengths).detach()
    torch.manual_seed(0)
    draws = torch.stack([jagged(qkv, packed, dropout=0.3) for _ in range(400)])
    expected, spread = by_length(qkv, packed, dropout=0.0), draws.std(0) / math.sqrt(400)
    assert float(((draws.mean(0) - expected).abs() / spread).max()) < 5.0


def test_nested_tensors_are_told_their_shortest_and_longest_row(monkeypatch):
    told, original = [], torch.nested.nested_tensor_from_jagged

    def recorded(*arguments, **lengths):
        told.append(lengths)
        return original(*arguments, **lengths)

    monkeypatch.setattr(torch.nested, "nested_tensor_from_jagged", recorded)
    jagged(_row([3, 7, 2, 4]), _packed([3, 7, 2, 4]), dropout=0.0)
    assert told == [{"min_seqlen": 2, "max_seqlen": 7}] * 3


def _varlen(calls):
    """Return a plain function that takes what torch's kernel takes, and refuses what it refuses."""

    def varlen_attn(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k):
        for part in (query, key, value):
            assert part.shape == query.shape
            assert part.ndim == 3
            assert part.dtype in (torch.bfloat16, torch.float16)
            assert part.stride(-1) == 1
        for edges, longest in ((cu_seq_q, max_q), (cu_seq_k, max_k)):
            assert (edges.dtype, edges.ndim) == (torch.int32, 1)
            assert (int(edges[0]), int(edges[-1])) == (0, len(query))
            assert type(longest) is int
            assert longest == int(edges.diff().max())
        calls.append(len(query))
        return _formula(torch.stack([query, key, value], 1).double(), cu_seq_q.tolist()).to(query.dtype)

    return varlen_attn


@pytest.fixture
def kernel(monkeypatch):
    """Put the plain function in the kernel's place and return the list of its calls."""
    calls = []
    monkeypatch.setattr(door, "varlen_attn", _varlen(calls))
    return calls


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_without_dropout_goes_to_the_kernel(kernel, dtype):
    lengths = [6, 6, 3, 9, 1]
    packed, qkv, weight = _packed(lengths), _row(lengths, dtype=dtype), _random(25, HEADS, SIZE, seed=1)
    exact = qkv.detach().double().requires_grad_()
    found = _both(lambda x: on_cuda(x, packed, dropout=0.0), qkv, weight)
    expected = _both(lambda x: _formula(x, packed.offsets.tolist()), exact, weight)
    assert kernel == [25]
    assert {f.dtype for f in found} == {dtype}
    assert all(float((a.double() - b).norm() / b.norm()) <= 1e-2 for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    ("dtype", "dropout"), [(torch.float32, 0.0), (torch.float32, 0.1), (torch.bfloat16, 0.1), (torch.float64, 0.0)]
)
def test_float32_and_dropout_go_to_nested_tensors(kernel, monkeypatch, dtype, dropout):
    asked = []
    monkeypatch.setattr(door, "jagged", lambda qkv, packed, *, dropout: asked.append(dropout) or qkv[:, 2])
    on_cuda(_row([3, 2], dtype=dtype), _packed([3, 2]), dropout=dropout)
    assert (asked, kernel) == ([dropout], [])


class _OnCuda(torch.Tensor):
    """Says that it lies on a GPU."""

    @property
    def device(self):
        return torch.device("cuda")


def test_the_door_chooses_by_the_kind_of_device(monkeypatch):
    asked = []
    for name in ("on_cuda", "by_length"):
        monkeypatch.setattr(
            door, name, lambda qkv, packed, *, dropout, name=name: asked.append((name, dropout)) or torch.zeros(5, 3, 5)
        )
    qkv = _random(5, 3, HEADS, SIZE)
    attention(qkv, _packed([3, 2]), dropout=0.1)
    attention(qkv.as_subclass(_OnCuda), _packed([3, 2]), dropout=0.2)
    assert asked == [("by_length", 0.1), ("on_cuda", 0.2)]
