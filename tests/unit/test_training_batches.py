import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, is_dataclass, replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from commbert.nn.collectives import Processes
from commbert.training import prefetching
from commbert.training import step as steps
from commbert.training.batches import step_batch, step_windows, step_words
from commbert.training.data import PairData
from commbert.training.plan import cut
from commbert.training.prefetching import Prefetcher, prefetched
from equivalence.training_case import SPECIALS, context, data, network, ragged, settings

torch.set_num_threads(1)
MLM_ONLY = {"objectives": {"mlm": 1.0, "contrastive": 0.0}}
PAIRS_ONLY = {"objectives": {"mlm": 0.0, "contrastive": 1.0}}


def _ints(*values):
    return np.array(values, np.int64)


def _random_cuts(n=300):
    """Yield lengths and edges of many cuts, with the number of parts asked for and the most tokens."""
    rng = np.random.default_rng(0)
    for _ in range(n):
        lengths = rng.integers(1, rng.integers(2, 60), rng.integers(0, 40))
        n_parts, most = int(rng.integers(1, 12)), int(rng.integers(20, 400))
        yield lengths, cut(lengths, n_parts=n_parts, most_tokens=most), n_parts, most


def test_cuts_by_hand():
    assert cut(_ints(4, 4, 4, 4), n_parts=2, most_tokens=99).tolist() == [0, 2, 4]
    # 12 tokens in 2 parts: the middle of the first sequence is 4, of the others 9 and 11.
    assert cut(_ints(8, 2, 2), n_parts=2, most_tokens=99).tolist() == [0, 1, 3]
    # 16 tokens, 5 at most: 4 parts though 1 was asked for.
    assert cut(_ints(4, 4, 4, 4), n_parts=1, most_tokens=5).tolist() == [0, 1, 2, 3, 4]
    assert cut(_ints(4, 4, 4, 4), n_parts=1, most_tokens=16).tolist() == [0, 4]
    assert cut(_ints(4, 4, 4, 4), n_parts=1, most_tokens=15).tolist() == [0, 2, 4]


def test_every_sequence_is_in_one_part_and_parts_are_neighbours():
    for lengths, edges, _, _ in _random_cuts():
        assert (edges[0], edges[-1]) == (0, len(lengths))
        assert (np.diff(edges) >= 0).all()


def test_there_are_as_many_parts_as_asked_for_or_as_the_tokens_demand():
    for lengths, edges, n_parts, most in _random_cuts():
        assert len(edges) - 1 == max(n_parts, math.ceil(lengths.sum() / most))


def test_no_part_has_more_than_its_share_and_a_sequence():
    for lengths, edges, _, _ in _random_cuts():
        n = len(edges) - 1
        tokens = np.array([lengths[a:b].sum() for a, b in pairwise(edges)])
        # A sequence at either edge may reach out of the part by half of itself.
        assert tokens.max(initial=0) <= lengths.sum() / n + lengths.max(initial=0)


def test_no_part_has_more_than_the_most_tokens_and_a_sequence():
    for lengths, edges, _, most in _random_cuts():
        assert all(lengths[a:b].sum() <= most + lengths.max(initial=0) for a, b in pairwise(edges))


def test_parts_are_empty_where_there_are_fewer_sequences():
    edges = cut(_ints(5, 5), n_parts=6, most_tokens=99)
    assert (np.diff(edges) > 0).sum() == 2
    assert len(edges) == 7


def test_nothing_is_cut_into_empty_parts():
    assert cut(_ints(), n_parts=3, most_tokens=9).tolist() == [0, 0, 0, 0]


def test_joined_rows_are_those_of_loops():
    rng = np.random.default_rng(0)
    rows = ragged([rng.integers(0, 99, n) for n in (3, 0, 5, 1, 0, 4)])
    for _ in range(50):
        chosen = rng.integers(0, 6, rng.integers(0, 9))
        expected = [v for r in chosen for v in rows[int(r)]]
        assert rows.joined(chosen).tolist() == expected
        short = np.minimum(rows.lengths(chosen), rng.integers(0, 6, len(chosen)))
        expected = [v for r, n in zip(chosen, short, strict=True) for v in rows[int(r)][:n]]
        assert rows.joined(chosen, short).tolist() == expected


def _ranks(n, *, is_even=False, step=0, rows=None, pooling="mean", most_positions=64, **changes):
    """Return what each of n processes would compute in a step, and the context of the first."""
    at = replace(context(settings(**changes), rows, pooling=pooling), most_positions=most_positions)
    return [step_batch(replace(at, processes=Processes(r, n)), step, is_even=is_even) for r in range(n)], at


def _is_empty(part):
    """Return whether a part is of one empty sequence; windows and words have a token at least."""
    return part.packed.longest == 2


def _parts(found):
    """Return the parts that contribute, of all ranks, in the order of their numbers."""
    return sorted((p for b in found for p in b.parts if not _is_empty(p)), key=lambda p: p.number)


def _texts(part):
    """Return the sequences of a part with [CLS] and [SEP]."""
    return [t.tolist() for t in part.packed.input_ids.split(part.packed.offsets.diff().tolist())]


def _expected_texts(at, step=0):
    """Return the step's windows, masked, and its words, each between [CLS] and [SEP]; and the places of the labels."""
    read = step_windows(at, step)
    masked, lengths = read.masked, read.lengths
    windows = np.split(masked.input_ids, np.cumsum(lengths)[:-1]) if len(lengths) else []
    words = step_words(at, step)
    texts = [w[: at.most_positions - 2] for w in at.data.words.rows(words.words)] if words else []
    return [[SPECIALS.cls, *map(int, t), SPECIALS.sep] for t in [*windows, *texts]]


CASES = {
    "both": {},
    "windows_alone": MLM_ONLY,
    "pairs_alone": PAIRS_ONLY,
    "many_parts": {"micro_batches": 13},
    "one_part": {"micro_batches": 1},
    "few_rows": {"batch_windows": 1, "batch_pairs": 1},
    "texts": {"batch_texts": 4},
    "texts_alone": {"batch_texts": 4, **PAIRS_ONLY},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_the_parts_of_all_processes_are_the_step(n, case):
    for step in range(3):
        found, at = _ranks(n, step=step, **CASES[case])
        assert [t for p in _parts(found) for t in _texts(p)] == _expected_texts(at, step)
        numbers = [p.number for p in _parts(found)]
        assert len(set(numbers)) == len(numbers)
        assert all(p.number % n == rank for rank, b in enumerate(found) for p in b.parts)
        assert len(numbers) == sum(len(b.parts) for b in found)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_window_rows_of_all_processes_are_those_of_the_step(n, case):
    found, at = _ranks(n, step=1, **CASES[case])
    _, rows = at.plan.windows.batch(1)
    assert sorted(r for b in found for r in b.window_rows.tolist()) == sorted(rows.tolist())
    for b in found:
        n_tokens = sum(len(t) - 2 for p in b.parts for t in _texts(p)) - _n_word_tokens(b)
        assert n_tokens == at.data.windows.lengths(b.window_rows).sum()


def _n_word_tokens(batch):
    """Return the tokens of words without [CLS] and [SEP], where all states are read."""
    return sum(r.n_sequences * (r.length - 2) for p in batch.parts for r in p.word_runs)


@pytest.mark.parametrize("case", CASES)
def test_counts_are_those_of_the_whole_step_on_every_process(case):
    whole, at = _ranks(1, **CASES[case])
    texts = _expected_texts(at)
    masked = step_windows(at, 0).masked
    words = step_words(at, 0)
    assert whole[0].n_tokens == sum(map(len, texts))
    assert whole[0].n_hidden_tokens == len(masked.positions)
    assert whole[0].n_words == (len(words.words) if words else 0)
    assert whole[0].n_terms == (2 * len(words.anchor) if words else 0)
    for n in (2, 3, 4):
        found, _ = _ranks(n, **CASES[case])
        for name in ("n_tokens", "n_hidden_tokens", "n_words", "n_terms", "negatives_per_anchor", "masked_out_pct"):
            assert {getattr(b, name) for b in found} == {getattr(whole[0], name)}, name
        assert len({b.words_of_ranks for b in found}) == 1


def test_a_term_counts_twice_only_if_it_is_symmetric():
    (one,), _ = _ranks(1, contrastive={"symmetric": False})
    assert one.n_terms == 11
    assert one.contrast.target_back is None
    assert one.contrast.allowed_back is None


@pytest.mark.parametrize("n", [1, 2, 3])
def test_labels_lie_at_the_tokens_that_were_hidden(n):
    found, at = _ranks(n, micro_batches=7)
    read = step_windows(at, 0)
    masked, lengths = read.masked, read.lengths
    starts = np.cumsum(lengths) - lengths
    expected = []
    for i, (start, length) in enumerate(zip(starts, lengths, strict=True)):
        here = (masked.positions >= start) & (masked.positions < start + length)
        expected += [
            (i, int(p - start) + 1, int(v)) for p, v in zip(masked.positions[here], masked.labels[here], strict=True)
        ]
    read, first = [], 0
    for part in _parts(found):
        n_labels, offsets = len(part.reading.labels), part.packed.offsets.numpy()
        places = part.reading.tokens[:n_labels].numpy()
        sequence = np.searchsorted(offsets, places, side="right") - 1
        within = places - offsets[sequence]
        read += list(zip((first + sequence).tolist(), within.tolist(), part.reading.labels.tolist(), strict=True))
        first += len(offsets) - 1
    assert read == expected


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_read_states_are_the_words_own_in_their_order(n, pooling):
    found, at = _ranks(n, pooling=pooling, micro_batches=5)
    words = [[SPECIALS.cls, *w.tolist(), SPECIALS.sep] for w in at.data.words.rows(step_words(at, 0).words)]
    read = []
    for part in _parts(found):
        tokens = part.reading.tokens[len(part.reading.labels) :]
        ids, places = part.packed.input_ids[tokens].tolist(), part.packed.position_ids[tokens].tolist()
        assert sum(r.n_sequences * r.length for r in part.word_runs) == len(tokens)
        for run in part.word_runs:
            for start in range(run.start, run.stop, run.length):
                assert places[start : start + run.length] == list(range(run.length))
                read.append(ids[start : start + run.length])
    assert read == ([[SPECIALS.cls]] * len(words) if pooling == "cls" else words)


def test_every_place_is_read_once():
    for part in _parts(_ranks(2)[0]):
        assert len(set(part.reading.tokens.tolist())) == len(part.reading.tokens)


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_gathered_words_are_put_back_into_the_steps_order(n):
    found, at = _ranks(n, micro_batches=7)
    words = step_words(at, 0)
    gathered = [
        t for b in found for p in b.parts for t in _texts(p)[-sum(r.n_sequences for r in p.word_runs) :] if p.word_runs
    ]
    assert found[0].words_of_ranks == tuple(sum(r.n_sequences for p in b.parts for r in p.word_runs) for b in found)
    for b in found:
        again = [gathered[i][1:-1] for i in b.contrast.order.tolist()]
        assert again == [w.tolist() for w in at.data.words.rows(words.words)]


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_each_pair_is_a_term_of_one_process(n):
    found, at = _ranks(n, batch_pairs=10)
    words = step_words(at, 0)
    _, rows = at.plan.pairs.batch(0)
    terms = []
    for rank, b in enumerate(found):
        c = b.contrast
        assert torch.equal(c.candidate[c.target], c.positive)
        assert torch.equal(c.candidate[c.target_back], c.anchor)
        assert c.allowed.tolist() == words.allowed[rank::n].tolist()
        assert c.allowed_back.tolist() == words.allowed_back[rank::n].tolist()
        terms += [(int(words.words[a]), int(words.words[p])) for a, p in zip(c.anchor, c.positive, strict=True)]
    pairs = at.data.pairs
    assert sorted(terms) == sorted(zip(pairs.anchor[rows].tolist(), pairs.positive[rows].tolist(), strict=True))


def test_candidates_are_the_positives_the_negatives_and_if_symmetric_the_anchors():
    for symmetric in (False, True):
        at = context(settings(contrastive={"symmetric": symmetric}))
        words, (_, rows), pairs = step_words(at, 0), at.plan.pairs.batch(0), at.data.pairs
        expected = {*pairs.positive[rows].tolist(), *(int(n) for r in rows for n in pairs.negatives[int(r)])}
        expected |= set(pairs.anchor[rows].tolist()) if symmetric else set()
        assert sorted(words.words[words.candidate].tolist()) == sorted(expected)


def test_windows_and_words_lie_from_long_to_short():
    at = context(settings())
    lengths = step_windows(at, 0).lengths
    assert (np.diff(lengths) <= 0).all()
    assert (np.diff(at.data.words.lengths(step_words(at, 0).words)) <= 0).all()


def test_a_word_of_more_tokens_than_positions_is_cut():
    rows = replace(data(n_words=5, n_pairs=6), words=ragged([[10], [*range(20, 40)], [12, 13], [*range(5, 11)], [14]]))
    found, at = _ranks(2, rows=rows, most_positions=8, **PAIRS_ONLY)
    texts = [t for p in _parts(found) for t in _texts(p)]
    assert [SPECIALS.cls, *range(20, 26), SPECIALS.sep] in texts
    assert [SPECIALS.cls, *range(5, 11), SPECIALS.sep] in texts
    assert max(map(len, texts)) == 8
    assert texts == _expected_texts(at)
    assert found[0].n_tokens == sum(map(len, texts))


def _rounds(found, n):
    """Return {number: (is_held, has words)} of all parts, and the number of the first part with words."""
    of = {p.number: (p.is_held, bool(p.word_runs)) for b in found for p in b.parts}
    return of, min(number for number, (_, has_words) in of.items() if has_words)


@pytest.mark.parametrize("n", [1, 2, 3, 4])
@pytest.mark.parametrize("parts", [4, 5, 9])
def test_held_are_whole_rounds_from_the_first_part_with_words_on(n, parts):
    found, _ = _ranks(n, micro_batches=parts)
    of, first = _rounds(found, n)
    assert all(is_held == (number // n >= first // n) for number, (is_held, _) in of.items())
    assert {is_held for is_held, _ in of.values()} == ({True} if first // n == 0 else {True, False})


def test_nothing_is_held_without_pairs():
    assert not any(p.is_held for b in _ranks(2, **MLM_ONLY)[0] for p in b.parts)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_even_processes_have_as_many_parts_held_alike(n, case):
    for parts in (4, 5, 6, 7):
        changes = {**CASES[case], "micro_batches": parts}
        found, _ = _ranks(n, is_even=True, **changes)
        assert [len(b.parts) for b in found] == [math.ceil(parts / n)] * n
        held = {tuple(p.is_held for p in b.parts) for b in found}
        if case == "windows_alone":
            # Nothing is held; where a process has no part in the last round, it is the same to hold the empty one.
            held = {tuple(p.is_held for p in b.parts if p.number < parts) for b in found}
            assert not any(any(flags) for flags in held)
        else:
            assert len(held) == 1


@pytest.mark.parametrize("n", [2, 3, 4])
def test_even_processes_compute_the_same_parts_as_others(n):
    for case in CASES.values():
        even, plain = _ranks(n, is_even=True, **case)[0], _ranks(n, **case)[0]
        for a, b in zip(even, plain, strict=True):
            real = [p for p in a.parts if not _is_empty(p)]
            for p, q in zip(real, b.parts, strict=True):
                assert _equal(replace(p, reading=q.reading), q)
                assert torch.equal(p.reading.tokens, q.reading.tokens)
                assert p.reading.is_stand_in or torch.equal(p.reading.labels, q.reading.labels)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_where_no_token_is_hidden_a_label_stands_in_and_only_for_even_processes(n):
    for case in CASES.values():
        even, plain = ([p for b in _ranks(n, is_even=e, **case)[0] for p in b.parts] for e in (True, False))
        assert all(len(p.reading.labels) > 0 for p in even)
        assert not any(p.reading.is_stand_in for p in plain)
        hidden = {p.number for p in plain if len(p.reading.labels)}
        assert {p.number for p in even if not p.reading.is_stand_in} == hidden


def _passes(monkeypatch, at, found):
    """Return the order of forward (F) and backward (B) passes of one process, without the others."""
    order, forward = [], steps._forward
    monkeypatch.setattr(steps, "_forward", lambda *a: order.append("F") or forward(*a))
    monkeypatch.setattr(steps, "gather_rows", lambda own, n, _: own.sum() + torch.zeros(sum(n), own.shape[1]))
    monkeypatch.setattr(torch.Tensor, "backward", lambda _: order.append("B"))
    steps.add_gradient(network(), at, found, 0.05)
    monkeypatch.undo()
    return "".join(order)


@pytest.mark.parametrize("case", ["both", "windows_alone", "pairs_alone", "few_rows"])
def test_even_processes_pass_forward_and_backward_in_one_order(monkeypatch, case):
    # Each pass of sharded weights is a meeting of all processes: another order is a hang.
    for n, parts in ((2, 5), (3, 7), (4, 6)):
        ranks, at = _ranks(n, is_even=True, **{**CASES[case], "micro_batches": parts})
        orders = {_passes(monkeypatch, at, found) for found in ranks}
        assert len(orders) == 1
        assert orders.pop().count("F") == math.ceil(parts / n)


def test_an_empty_part_is_one_empty_sequence_without_words():
    found, _ = _ranks(3, is_even=True, batch_windows=1, batch_pairs=1)
    empty = [p for b in found for p in b.parts if _is_empty(p)]
    assert empty
    for part in empty:
        assert _texts(part) == [[SPECIALS.cls, SPECIALS.sep]]
        assert (part.reading.tokens.tolist(), part.reading.is_stand_in, part.word_runs) == ([0], True, ())


def test_a_window_of_one_token_is_hidden_and_read():
    rows = replace(data(), windows=ragged([[10]]))
    (one,), _ = _ranks(1, rows=rows, batch_windows=1, micro_batches=1, **MLM_ONLY)
    (part,) = one.parts
    assert len(_texts(part)[0]) == 3
    assert (part.reading.tokens.tolist(), part.reading.labels.tolist()) == ([1], [10])
    assert (one.n_tokens, one.n_hidden_tokens, one.window_rows.tolist()) == (3, 1, [0])


def test_without_pairs_there_is_no_contrast():
    found, _ = _ranks(2, rows=data(n_pairs=0))
    for b in found:
        assert b.contrast is b.negatives_per_anchor is b.masked_out_pct is None
        assert (b.n_words, b.n_terms, b.words_of_ranks) == (0, 0, (0, 0))
    assert sum(len(b.window_rows) for b in found) == 9


def test_without_windows_nothing_is_hidden():
    found, _ = _ranks(2, **PAIRS_ONLY)
    assert {b.n_hidden_tokens for b in found} == {0}
    assert all(len(p.reading.labels) == 0 for b in found for p in b.parts)
    assert all(b.window_rows.tolist() == [] for b in found)


def test_with_more_processes_than_rows_some_have_nothing():
    found, _ = _ranks(4, batch_windows=2, micro_batches=4, **MLM_ONLY)
    assert sorted(len(b.window_rows) for b in found) == [0, 0, 1, 1]
    assert sum(not b.parts for b in found) == 2
    assert len({b.n_hidden_tokens for b in found}) == 1


def test_one_pair_without_would_be_negatives_has_no_share_left_out():
    rows = replace(data(), pairs=PairData(_ints(0), _ints(1), ragged([[]])))
    (one,), _ = _ranks(1, rows=rows, batch_pairs=1, contrastive={"symmetric": False})
    assert (one.negatives_per_anchor, one.masked_out_pct) == (0.0, None)


def test_nothing_is_left_out_where_known_positives_stay():
    (one,), _ = _ranks(1, contrastive={"mask_known_positives": False})
    (other,), _ = _ranks(1)
    assert one.masked_out_pct == 0.0
    assert other.masked_out_pct > 0.0
    assert one.negatives_per_anchor > other.negatives_per_anchor


def test_more_tokens_than_a_part_may_have_make_more_parts():
    rows = data(n_windows=40, n_tokens=(55, 60))
    (one,), _ = _ranks(1, rows=rows, batch_windows=40, micro_batches=1, micro_batch_tokens=512, **MLM_ONLY)
    assert len(one.parts) == math.ceil(one.n_tokens / 512)
    assert all(len(p.packed.input_ids) <= 512 + 60 for p in one.parts)


def _equal(a, b):
    """Return whether two batches are the same, tensor by tensor."""
    if isinstance(a, (torch.Tensor, np.ndarray)):
        return torch.equal(torch.as_tensor(a), torch.as_tensor(b))
    if isinstance(a, tuple):
        return len(a) == len(b) and all(_equal(x, y) for x, y in zip(a, b, strict=True))
    if is_dataclass(a):
        return type(a) is type(b) and all(_equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))
    return a == b


def test_a_step_does_not_depend_on_what_was_asked_before():
    fresh = [step_batch(context(settings()), s) for s in range(5)]
    at = context(settings())
    assert all(_equal(step_batch(at, s), fresh[s]) for s in (4, 0, 3, 3, 1, 2))
    assert not _equal(fresh[0], fresh[1])


@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4, 5, 6, 7, 8), (3, 0, 8, 8, 1, 2, 7), (5,)])
@pytest.mark.parametrize("is_even", [False, True])
def test_prefetched_batches_are_those_that_are_made_on_demand(order, is_even):
    at = replace(context(settings()), processes=Processes(1, 3))
    assert at.plan.n_steps == 9
    with prefetched(at, is_even=is_even) as found:
        for step in order:
            assert _equal(found.get(step), step_batch(at, step, is_even=is_even))


def test_the_next_step_is_made_ahead_and_none_after_the_last(monkeypatch):
    made = []
    monkeypatch.setattr(prefetching, "step_batch", lambda _, step, *, is_even: made.append(step) or step)
    at = context(settings(max_steps=3))
    with prefetched(at, is_even=False) as found:
        assert [found.get(s) for s in (0, 1, 2)] == [0, 1, 2]
    assert made == [0, 1, 2]


@pytest.mark.parametrize("ahead", [False, True])
def test_an_exception_of_the_maker_reaches_who_asks(monkeypatch, ahead):
    original = prefetching.step_batch

    def broken(at, step, *, is_even):
        if step == 1:
            raise ValueError("damaged row")
        return original(at, step, is_even=is_even)

    monkeypatch.setattr(prefetching, "step_batch", broken)
    with prefetched(context(settings()), is_even=False) as found:
        if ahead:
            found.get(0)
        with pytest.raises(ValueError, match="damaged row"):
            found.get(1)
        assert found.get(2).step == 2


def test_batches_come_on_the_device_of_the_context():
    at = replace(context(settings()), device=torch.device("meta"))
    with ThreadPoolExecutor(1) as pool:
        batch = Prefetcher(at, pool, False).get(0)
    assert {p.packed.input_ids.device.type for p in batch.parts} == {"meta"}
    assert {p.reading.tokens.device.type for p in batch.parts} == {"meta"}
    assert batch.contrast.allowed.device.type == "meta"
