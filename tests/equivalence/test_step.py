"""One step's loss and gradient: however it is cut into parts, and against transformers' own loss."""

import copy
import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

import oracle
from commbert.known import pair_keys
from commbert.training.batches import _allowed, step_windows, step_words
from commbert.training.data import PairData
from commbert.training.optimization import trainable_parameters
from equivalence.training_case import (
    LEVERS,
    NO_DROPOUT,
    SPECIALS,
    context,
    data,
    error,
    gradient,
    gradient_of_step,
    network,
    of_projection,
    ragged,
    settings,
)

MLM_ONLY = {"objectives": {"mlm": 1.0, "contrastive": 0.0}}
PAIRS_ONLY = {"objectives": {"mlm": 0.0, "contrastive": 1.0}}


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("parts", [2, 4, 7])
def test_parts_give_the_gradient_of_one_batch(parts, symmetric):
    model = network(dtype=torch.float64, **NO_DROPOUT)
    changes = {"contrastive": {"symmetric": symmetric}}
    whole, expected = gradient(model, context(settings(micro_batches=1, **changes)))
    cut, found = gradient(model, context(settings(micro_batches=parts, **changes)))
    assert error(found, expected) <= 1e-10
    assert cut.loss == pytest.approx(whole.loss, rel=1e-12)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_mlm_is_transformers_own_loss_and_gradient(dtype, tolerance):
    model = network(dtype=dtype, **NO_DROPOUT)
    at = context(settings(**MLM_ONLY))
    ours, found = gradient(model, at)
    read = step_windows(at, 0)
    masked, lengths = read.masked, read.lengths
    windows = np.split(masked.input_ids, np.cumsum(lengths)[:-1])
    batch = oracle.padded(windows, SPECIALS)
    labels = torch.full_like(batch.input_ids, -100)
    ends = np.cumsum(lengths)
    for position, label in zip(masked.positions, masked.labels, strict=True):
        row = int(np.flatnonzero(position < ends)[0])
        labels[row, int(position - (ends[row] - lengths[row])) + 1] = int(label)
    theirs = oracle.theirs(model)
    nsp = torch.zeros(len(windows), dtype=torch.int64)
    out = theirs(batch.input_ids, batch.attention_mask, labels=labels, next_sentence_label=nsp)
    mlm = out.loss - functional.cross_entropy(out.seq_relationship_logits, nsp)
    mlm.backward()
    assert ours.mlm_loss == pytest.approx(mlm.item(), rel=tolerance)
    expected = torch.cat([g.flatten() for g in oracle.gradients(theirs, model).values()])
    assert error(found, expected) <= tolerance


def _by_hand(model, at, *, symmetric, projection=None):
    """InfoNCE, anchor by anchor, in plain loops over words."""
    pairs, words, known = at.data.pairs, at.data.words, set(at.data.known.tolist())
    _, rows = at.plan.pairs.batch(0)
    batch = [(int(pairs.anchor[r]), int(pairs.positive[r])) for r in rows]
    texts, text_rows = at.data.texts, at.plan.texts.batch(0)[1]
    batch += [(int(texts.anchor[r]), int(texts.positive[r])) for r in text_rows]
    pool = {p for _, p in batch} | {int(n) for r in rows for n in pairs.negatives[int(r)]}
    pool |= {a for a, _ in batch} if symmetric else set()
    ids = sorted(pool | {a for a, _ in batch})
    inputs = oracle.padded([words[i] for i in ids], SPECIALS)
    hidden = oracle.hidden_states(model, inputs)
    vectors = oracle.pooled(hidden, inputs.attention_mask, pooling="mean")
    if projection is not None:
        first, *second = projection.parameters()
        vectors = vectors @ first.T
        vectors = vectors.clamp(min=0) @ second[0].T if second else vectors
    vectors = functional.normalize(vectors, dim=-1)
    vector = dict(zip(ids, vectors, strict=True))
    lever, weight = at.settings.contrastive, _pmi(pairs) if at.settings.contrastive.pair_weights == "pmi" else None
    terms = []
    for a, p in batch + ([(p, a) for a, p in batch] if symmetric else []):
        negatives = [
            c for c in sorted(pool) if c not in (a, p) and int(pair_keys(np.array([a]), np.array([c]))[0]) not in known
        ]
        logits = torch.stack([vector[a] @ vector[c] for c in (p, *negatives)]) / lever.temperature
        if lever.hardest is not None:
            order = sorted(range(1, len(logits)), key=lambda i: -logits[i].item())
            logits = logits[[0, *order[: lever.hardest]]]
        positive, others = logits[:1].exp(), logits[1:].exp()
        if lever.hardness and len(others):
            share = (lever.hardness * logits[1:]).exp()
            others = others * share / share.mean()
        loss = torch.log(positive.sum() + others.sum()) - logits[0]
        terms.append(loss * (weight.get((min(a, p), max(a, p)), 1.0) if weight else 1.0))
    return torch.stack(terms).mean()


def _pmi(pairs):
    """Return the weight of each pair of words, counted in loops, as training holds it: in float32."""
    rows = [tuple(sorted(r)) for r in zip(pairs.anchor.tolist(), pairs.positive.tolist(), strict=True)]
    together, ends, n = Counter(rows), Counter(w for r in rows for w in r), len(rows)
    pmi = {(a, b): max(0.0, math.log(2 * n * c / (ends[a] * ends[b]))) for (a, b), c in together.items()}
    mean = sum(pmi[r] for r in rows) / n
    return {r: float(np.float32(w / mean)) for r, w in pmi.items()}


@pytest.mark.parametrize("n_texts", [0, 4])
@pytest.mark.parametrize("symmetric", [False, True])
def test_the_pair_loss_is_info_nce_written_as_loops(symmetric, n_texts):
    model = network(dtype=torch.float64, **NO_DROPOUT)
    at = context(settings(contrastive={"symmetric": symmetric}, batch_texts=n_texts, **PAIRS_ONLY))
    ours, found = gradient(model, at)
    assert ours.batch.n_terms == (11 + n_texts) * (2 if symmetric else 1)
    theirs = oracle.theirs(model)
    expected = _by_hand(theirs, at, symmetric=symmetric)
    expected.backward()
    assert ours.contrastive_loss == pytest.approx(expected.item(), rel=1e-10)
    assert error(found, torch.cat([g.flatten() for g in oracle.gradients(theirs, model).values()])) <= 1e-10


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("lever", LEVERS)
def test_the_pair_loss_with_its_levers_is_that_written_as_loops(lever, symmetric):
    model = network(dtype=torch.float64, **NO_DROPOUT)
    plain = {"symmetric": symmetric, "temperature": 0.3}
    at = context(settings(contrastive={**plain, **LEVERS[lever]}, batch_texts=2, **PAIRS_ONLY))
    ours, found = gradient(model, at)
    theirs, head = oracle.theirs(model), copy.deepcopy(ours.projection)
    for p in head.parameters() if head is not None else ():
        p.grad = None
    expected = _by_hand(theirs, at, symmetric=symmetric, projection=head)
    expected.backward()
    assert ours.contrastive_loss == pytest.approx(expected.item(), rel=1e-9)
    of_model = [g.flatten() for g in oracle.gradients(theirs, model).values()]
    assert error(found, torch.cat([*of_model, *of_projection(head)])) <= 1e-9
    without, _ = gradient(model, context(settings(contrastive=plain, **PAIRS_ONLY)))
    assert abs(without.contrastive_loss - ours.contrastive_loss) > 1e-3


@pytest.mark.parametrize("lever", LEVERS)
@pytest.mark.parametrize("parts", [3, 7])
def test_parts_give_the_gradient_of_one_batch_with_every_lever(parts, lever):
    model = network(dtype=torch.float64, **NO_DROPOUT)
    whole, expected = gradient(model, context(settings(micro_batches=1, contrastive=LEVERS[lever])))
    cut, found = gradient(model, context(settings(micro_batches=parts, contrastive=LEVERS[lever])))
    assert error(found, expected) <= 1e-10
    assert cut.loss == pytest.approx(whole.loss, rel=1e-12)


def test_the_weights_of_pairs_leave_the_number_of_terms_that_divides_their_sum():
    model = network(dtype=torch.float64, **NO_DROPOUT)
    at = context(settings(contrastive={"pair_weights": "pmi"}, **PAIRS_ONLY))
    found, _ = gradient(model, at)
    assert found.batch.n_terms == 2 * 11
    _, rows = at.plan.pairs.batch(0)
    assert found.batch.pair_weight == pytest.approx(float(at.data.pairs.pmi_weights[rows].mean()))


@pytest.mark.parametrize(("hardest", "expected"), [(None, 1.5), (1, 1.0), (2, 1.5)])
def test_the_negatives_that_take_part_are_counted_by_hand(hardest, expected):
    # Pair (0, 1) has 2 and 3, pair (0, 2) has 3 and not 1, which shares a line with 0: one of four is left out.
    at = _four_words(symmetric=False, hardest=hardest)
    known = np.array([(0 << 32) + 1, (1 << 32) + 3], np.uint64)
    at = replace(at, data=replace(at.data, known=known))
    result = gradient_of_step(network(), at, 0)
    assert result.batch.negatives_per_anchor == expected
    assert result.batch.masked_out_pct == 25.0


def test_the_joint_gradient_is_the_weighted_sum_of_both():
    model = network(dtype=torch.float64, **NO_DROPOUT)
    joint, found = gradient(model, context(settings(objectives={"mlm": 0.7, "contrastive": 0.3})))
    mlm, of_mlm = gradient(model, context(settings(**MLM_ONLY)))
    pairs, of_pairs = gradient(model, context(settings(**PAIRS_ONLY)))
    assert error(found, 0.7 * of_mlm + 0.3 * of_pairs) <= 1e-10
    assert joint.loss == pytest.approx(0.7 * mlm.mlm_loss + 0.3 * pairs.contrastive_loss, rel=1e-12)


def test_the_gradient_is_the_slope_of_the_loss():
    model = network(dtype=torch.float64, **NO_DROPOUT)
    at = context(settings())
    _, found = gradient(model, at)
    direction = [torch.randn_like(p) for p in model.parameters()]
    slope = sum(
        float((p.grad * d).sum()) for p, d in zip(model.parameters(), direction, strict=True) if p.grad is not None
    )
    losses = []
    for h in (1e-5, -1e-5):
        with torch.no_grad():
            for p, d in zip(model.parameters(), direction, strict=True):
                p.add_(d, alpha=h)
        losses.append(gradient_of_step(model, at, 0).loss)
        with torch.no_grad():
            for p, d in zip(model.parameters(), direction, strict=True):
                p.sub_(d, alpha=h)
    assert (losses[0] - losses[1]) / 2e-5 == pytest.approx(slope, rel=1e-5)
    assert torch.isfinite(found).all()


def _four_words(**contrastive):
    """Pairs (0, 1) and (0, 2), negative 3 for the first; words 1 and 3 share a line somewhere."""
    rows = replace(
        data(n_words=4),
        words=ragged([[10], [11, 12], [13], [14, 15, 16]]),
        pairs=PairData(np.array([0, 0]), np.array([1, 2]), ragged([[3], []])),
        known=np.array(sorted([(0 << 32) + 1, (0 << 32) + 2, (1 << 32) + 3]), np.uint64),
    )
    return context(settings(batch_pairs=2, contrastive=contrastive), rows)


def _allowed_ids(batch):
    """For each pair, in the order of the positives, the word ids that count as negatives."""
    names = batch.words[batch.candidate]
    order = np.argsort(batch.words[batch.positive])
    return [sorted(names[row].tolist()) for row in batch.allowed[order]]


def test_other_positives_of_the_anchor_are_no_negatives():
    assert _allowed_ids(step_words(_four_words(symmetric=False), 0)) == [[3], [3]]


def test_known_positives_stay_negatives_when_they_are_not_masked():
    at = _four_words(symmetric=False, mask_known_positives=False)
    assert _allowed_ids(step_words(at, 0)) == [[2, 3], [1, 3]]


def test_the_share_left_out_is_counted_by_hand():
    # 2 anchors x 3 candidates less their positives = 4 would-be negatives, 2 of them known.
    result = gradient_of_step(network(), _four_words(symmetric=False), 0)
    assert result.batch.masked_out_pct == 50.0
    assert result.batch.negatives_per_anchor == 1.0


def test_backwards_a_positive_has_its_own_known_partners_masked():
    # From 1 back to 0: 2 may be a negative; 3 shares a line with 1, 0 is the answer, 1 is itself.
    at = _four_words(symmetric=True)
    allowed, _ = _allowed(at.data.partners.among(np.arange(4)), np.array([1]), np.array([0]), np.arange(4))
    assert allowed.tolist() == [[False, False, True, False]]


def test_a_word_named_twice_is_encoded_once():
    batch = step_words(_four_words(symmetric=False), 0)
    assert sorted(batch.words.tolist()) == [0, 1, 2, 3]


def test_the_same_pair_twice_adds_no_negative():
    at = _four_words(symmetric=True)
    pairs = PairData(np.array([0, 0]), np.array([1, 1]), ragged([[], []]))
    at = replace(at, data=replace(at.data, pairs=pairs))
    assert gradient_of_step(network(), at, 0).contrastive_loss == 0.0


@pytest.mark.parametrize("changes", [{}, MLM_ONLY, PAIRS_ONLY])
def test_dropout_is_on_and_the_same_whenever_a_step_is_repeated(changes):
    model = network(dtype=torch.float64)
    at = context(settings(**changes))
    first, found = gradient(model, at, step=1)
    torch.rand(17)
    _, again = gradient(model, at, step=1)
    without, _ = gradient(network(dtype=torch.float64, **NO_DROPOUT), at, step=1)
    assert torch.equal(found, again)
    assert first.loss != without.loss


def test_bf16_autocast_leaves_the_pair_loss_in_float32():
    model = network(**NO_DROPOUT)
    plain, _ = gradient(model, context(settings(**PAIRS_ONLY)))
    at = context(settings(**PAIRS_ONLY), autocast=torch.autocast("cpu", torch.bfloat16))
    cast, _ = gradient(model, at)
    # The encoder is rounded, and nothing after it: a logit of 20 in bf16 alone would be off by 0.06.
    assert cast.contrastive_loss != plain.contrastive_loss
    assert cast.contrastive_loss == pytest.approx(plain.contrastive_loss, abs=0.3)


def test_a_frozen_encoder_receives_no_gradient():
    model = network()
    chosen = settings(trainable="mlm_head", **MLM_ONLY)
    trainable_parameters(model, chosen)
    gradient_of_step(model, context(chosen), 0)
    assert {n for n, p in model.named_parameters() if p.grad is not None} == {
        "mlm_bias",
        "mlm_dense.weight",
        "mlm_dense.bias",
        "mlm_norm.weight",
        "mlm_norm.bias",
    }


def test_tokens_are_counted_with_cls_and_sep():
    rows = replace(data(), windows=ragged([[10, 11, 12], [13]]))
    result, _ = gradient(network(), context(settings(batch_windows=2, micro_batches=1, **MLM_ONLY), rows))
    assert result.batch.n_tokens == 3 + 2 + 1 + 2


def _masked_by_window(at, step):
    """Return {(epoch, window): what the model sees}; equal windows of a step follow each other by epoch."""
    epoch, rows = at.plan.windows.batch(step)
    lengths = np.array([len(at.data.windows[int(r)]) for r in rows])
    order = np.lexsort((rows, epoch, -lengths))
    read = step_windows(at, step)
    masked, lengths = read.masked, read.lengths
    seen = np.split(masked.input_ids, np.cumsum(lengths)[:-1])
    return {(int(epoch[o]), int(rows[o])): ids.tolist() for o, ids in zip(order, seen, strict=True)}


def test_a_window_is_masked_anew_in_every_epoch():
    # One step is one epoch.
    at = context(settings(batch_windows=26, **MLM_ONLY), data(n_tokens=(20, 30)))
    first, second = _masked_by_window(at, 0), _masked_by_window(at, 1)
    assert {r for _, r in first} == {r for _, r in second} == {*range(26)}
    assert sum(first[0, r] == second[1, r] for r in range(26)) <= 3


def test_a_window_is_masked_alike_in_batches_of_any_size():
    small, large = (context(settings(batch_windows=n, **MLM_ONLY)) for n in (2, 13))
    expected = {k: v for step in range(2) for k, v in _masked_by_window(large, step).items()}
    found = {k: v for step in range(13) for k, v in _masked_by_window(small, step).items()}
    assert len(found) == 26
    assert found == expected


def named_gradient(model, at):
    result, _ = gradient(model, at)
    return result, {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in model.named_parameters()}


def test_while_the_head_trains_alone_mlm_has_no_gradient_for_the_encoder():
    model = network(dtype=torch.float64, **NO_DROPOUT)
    both = {"objectives": {"mlm": 0.7, "contrastive": 0.3}}
    _, plain = named_gradient(model, context(settings(**both)))
    first, found = named_gradient(model, context(settings(head_only_steps=1, **both)))
    _, without = named_gradient(model, context(settings(objectives={"mlm": 0.0, "contrastive": 0.3})))
    head = {name for name in plain if name.startswith("mlm_")}
    assert len(head) == 5
    for name, value in found.items():
        expected = plain[name] if name in head else without[name]
        assert torch.allclose(value, expected, rtol=1e-10, atol=1e-14), name
    assert first.mlm_loss > 0


def test_after_its_steps_the_head_trains_with_the_encoder_again():
    model = network(dtype=torch.float64, **NO_DROPOUT)
    _, plain = gradient(model, context(settings()), step=1)
    _, found = gradient(model, context(settings(head_only_steps=1)), step=1)
    assert error(found, plain) == 0.0
