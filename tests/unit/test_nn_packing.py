from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
import torch

import oracle
from commbert.nn.packing import Run, on_tensors, pack, pack_sequences, pooled, runs_of
from equivalence.training_case import REGULAR, SPECIALS

torch.set_num_threads(1)


def _ints(*values):
    return np.array(values, np.int64)


def test_a_packed_row_by_hand():
    # Sequences [10, 11], [] and [12]: each between [CLS] = 2 and [SEP] = 3.
    packed = pack(_ints(10, 11, 12), _ints(2, 0, 1), SPECIALS)
    assert packed.input_ids.tolist() == [2, 10, 11, 3, 2, 3, 2, 12, 3]
    assert packed.position_ids.tolist() == [0, 1, 2, 3, 0, 1, 0, 1, 2]
    assert packed.segment_ids.tolist() == [0] * 9
    assert packed.offsets.tolist() == [0, 4, 6, 9]
    assert packed.runs == (Run(0, 1, 4), Run(4, 1, 2), Run(6, 1, 3))
    assert packed.longest == 4


def test_tokens_are_int64_and_offsets_int32():
    packed = pack(_ints(10), _ints(1), SPECIALS)
    assert {packed.input_ids.dtype, packed.position_ids.dtype, packed.segment_ids.dtype} == {torch.int64}
    assert packed.offsets.dtype == torch.int32


def test_an_empty_sequence_is_cls_and_sep():
    packed = pack_sequences([[]], SPECIALS)
    assert packed.input_ids.tolist() == [SPECIALS.cls, SPECIALS.sep]
    assert packed.offsets.tolist() == [0, 2]


def test_no_sequence_is_an_empty_row():
    packed = pack_sequences([], SPECIALS)
    assert (len(packed.input_ids), packed.offsets.tolist(), packed.runs, packed.longest) == (0, [0], (), 0)


def test_sequences_apart_are_packed_as_those_end_to_end():
    rng = np.random.default_rng(0)
    sequences = [rng.choice(REGULAR, n) for n in (3, 0, 7, 7, 1)]
    a = pack_sequences([s.tolist() for s in sequences], SPECIALS)
    b = pack(np.concatenate(sequences), _ints(3, 0, 7, 7, 1), SPECIALS)
    assert all(torch.equal(getattr(a, f), getattr(b, f)) for f in ("input_ids", "position_ids", "offsets"))
    assert (a.runs, a.longest) == (b.runs, b.longest)


def test_packed_tokens_are_those_of_a_padded_batch_in_its_order():
    rng = np.random.default_rng(1)
    sequences = [rng.choice(REGULAR, n) for n in rng.integers(0, 20, 30)]
    batch, packed = oracle.padded(sequences, SPECIALS), pack_sequences(sequences, SPECIALS)
    at = batch.attention_mask.bool()
    assert torch.equal(packed.input_ids, batch.input_ids[at])
    assert torch.equal(packed.position_ids, torch.arange(at.shape[1]).expand_as(at)[at])
    assert packed.offsets.diff().tolist() == at.sum(1).tolist()


def test_equal_neighbours_are_one_run():
    assert runs_of(_ints(5, 5, 2, 2, 2, 5)) == (Run(0, 2, 5), Run(10, 3, 2), Run(16, 1, 5))


def test_runs_of_nothing():
    assert runs_of(_ints()) == ()


def test_runs_follow_each_other_without_gaps():
    lengths = np.random.default_rng(2).integers(1, 4, 200)
    runs = runs_of(lengths)
    assert [r.start for r in runs] == [0, *(r.stop for r in runs[:-1])]
    assert np.repeat([r.length for r in runs], [r.n_sequences for r in runs]).tolist() == lengths.tolist()
    assert all(a.length != b.length for a, b in pairwise(runs))


def test_a_run_stops_after_its_last_token():
    assert Run(start=7, n_sequences=3, length=4).stop == 19


def test_pooling_by_hand():
    # One sequence of two tokens, two of one token.
    hidden = torch.tensor([[1.0, 2.0], [3.0, 6.0], [5.0, 5.0], [7.0, 8.0]])
    runs = runs_of(_ints(2, 1, 1))
    assert pooled(hidden, runs, pooling="mean").tolist() == [[2.0, 4.0], [5.0, 5.0], [7.0, 8.0]]
    assert pooled(hidden, runs, pooling="cls").tolist() == [[1.0, 2.0], [5.0, 5.0], [7.0, 8.0]]


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_pooling_is_that_of_a_padded_batch_in_value_and_gradient(pooling):
    lengths = _ints(9, 9, 9, 4, 1, 1, 6)
    generator = torch.Generator().manual_seed(0)
    padded = torch.randn(len(lengths), 9, 8, dtype=torch.float64, generator=generator, requires_grad=True)
    weight = torch.randn(len(lengths), 8, dtype=torch.float64, generator=generator)
    mask = (torch.arange(9) < torch.from_numpy(lengths)[:, None]).long()
    packed = padded[mask.bool()]
    expected, found = oracle.pooled(padded, mask, pooling=pooling), pooled(packed, runs_of(lengths), pooling=pooling)
    assert torch.allclose(found, expected, rtol=1e-13, atol=1e-14)
    (a,), (b,) = (torch.autograd.grad((v * weight).sum(), padded) for v in (expected, found))
    assert torch.allclose(a, b, rtol=1e-13, atol=1e-14)


def test_pooling_reads_only_what_the_runs_name():
    hidden = torch.arange(12.0).view(6, 2)
    assert pooled(hidden, (Run(2, 1, 3),), pooling="mean").tolist() == [[6.0, 7.0]]


def test_pooling_without_sequences_gives_no_rows_of_the_right_size_and_kind():
    found = pooled(torch.ones(3, 5, dtype=torch.float64), (), pooling="mean")
    assert (found.shape, found.dtype) == ((0, 5), torch.float64)


@dataclass(frozen=True)
class _Inner:
    rows: torch.Tensor
    none: torch.Tensor | None


@dataclass(frozen=True)
class _Outer:
    inner: _Inner
    several: tuple[_Inner, ...]
    number: int
    name: str


def test_tensors_are_changed_wherever_they_lie_and_nothing_else():
    one, two = torch.ones(2), torch.full((3,), 2.0)
    value = _Outer(_Inner(one, None), (_Inner(two, one), _Inner(one, None)), 7, "x")
    found = on_tensors(value, lambda t: t + 1)
    assert found.inner.rows.tolist() == [2.0, 2.0]
    assert found.several[0].rows.tolist() == [3.0] * 3
    assert [i.none if i.none is None else i.none.tolist() for i in found.several] == [[2.0, 2.0], None]
    assert (found.number, found.name, found.inner.none) == (7, "x", None)
    assert value.inner.rows is one


def test_a_packed_row_moves_whole():
    packed = pack_sequences([[10, 11], [12]], SPECIALS)
    moved = packed.to(torch.device("meta"))
    tensors = (moved.input_ids, moved.position_ids, moved.segment_ids, moved.offsets)
    assert {t.device.type for t in tensors} == {"meta"}
    assert (moved.runs, moved.longest) == (packed.runs, packed.longest)
