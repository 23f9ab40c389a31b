"""What a step reads: masked windows, the words of its pairs, cut into packed micro-batches; nothing of it on a device.

All of it is a function of (settings, data, step): every process makes the same plan and packs its own parts of it.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from commbert import counters
from commbert.nn.collectives import Processes
from commbert.nn.masking import mask_tokens
from commbert.nn.packing import full_lengths
from commbert.training.context import Context
from commbert.training.parts import Part, PartMaker, WindowBatch
from commbert.training.plan import cut
from commbert.training.work import StepWork, step_work

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class WordBatch:
    """The words and texts of a step's pairs, each once."""

    words: Ints
    """Word ids, from many tokens to few."""
    anchor: Ints
    """[n_pairs] rows in ``words``."""
    positive: Ints
    candidate: Ints
    """Rows in ``words`` of positives and explicit negatives (of anchors too if symmetric), each once."""
    target: Ints
    """[n_pairs] place of the positive in ``candidate``."""
    allowed: NDArray[np.bool_]
    """[n_pairs, n_candidates] may be a negative of the anchor."""
    allowed_back: NDArray[np.bool_] | None
    """[n_pairs, n_candidates] may be a negative of the positive; None unless symmetric."""
    n_masked_out: int
    weight: NDArray[np.float32] | None
    """[n_pairs] what the loss of each pair is multiplied by; None: 1."""


@dataclass(frozen=True)
class Contrast:
    """The terms of the pair loss that this process computes: its share of the step's pairs."""

    order: Tensor
    """[n_words] where each word of the step lies when all are gathered rank after rank."""
    anchor: Tensor
    """[n_own] rows in the words."""
    positive: Tensor
    candidate: Tensor
    """[n_candidates] rows in the words."""
    target: Tensor
    """[n_own] place of the positive in ``candidate``."""
    allowed: Tensor
    """[n_own, n_candidates] may be a negative of the anchor."""
    target_back: Tensor | None
    """The same for finding the anchor from its positive; None unless symmetric."""
    allowed_back: Tensor | None
    weight: Tensor | None
    """[n_own] what the loss of each pair is multiplied by, in both directions; None: 1."""


@dataclass(frozen=True)
class StepBatch:
    """A step as one process sees it; the counts are those of the whole step."""

    step: int
    parts: tuple[Part, ...]
    """This process's own."""
    contrast: Contrast | None
    """None without pairs."""
    words_of_ranks: tuple[int, ...]
    """Number of words that each process encodes."""
    n_terms: int
    """Terms of the pair loss."""
    n_hidden_tokens: int
    n_sentence_pairs: int
    """0 without NSP."""
    n_tokens: int
    """Tokens that go through the encoder."""
    n_words: int
    negatives_per_anchor: float | None
    """That take part, on average."""
    pair_weight: float | None
    """Mean weight of the step's pairs."""
    masked_out_pct: float | None
    """Share of would-be negatives that were left out because they are known positives."""
    window_rows: Ints
    """Rows of the windows that this process computes."""
    work: StepWork


def step_windows(context: Context, step: int) -> WindowBatch:
    """Return the windows of a step, or with NSP its pairs of windows, with their masks."""
    epoch, rows = context.plan.windows.batch(step)
    data, settings = context.data, context.settings
    documents = data.documents if settings.objectives.nsp else None
    pairs = None
    if documents is not None:
        rows = documents.firsts[rows]
        pairs = documents.pairs(rows, epoch, seed=settings.seed)
    lengths = data.windows.lengths(rows)
    if pairs is not None:
        lengths = lengths + data.windows.lengths(pairs.second)
    order = np.lexsort((rows, epoch, -lengths))
    epoch, rows, lengths = epoch[order], rows[order], lengths[order]
    pairs = None if pairs is None else pairs.chosen(order)
    masking = settings.masking
    masked = mask_tokens(
        data.windows.joined(rows if pairs is None else pairs.rows),
        lengths,
        (epoch.astype(np.uint64) << np.uint64(40)) + rows.astype(np.uint64),
        stream=counters.key(settings.seed, "mask"),
        rate=masking.rate,
        mask_share=masking.mask,
        random_share=masking.random,
        mask_id=context.specials.mask,
        regular_ids=context.regular_ids,
    )
    if pairs is None:
        return WindowBatch(rows, masked, lengths, None, None)
    return WindowBatch(rows, masked, lengths, data.windows.lengths(rows), pairs.label)


def step_words(context: Context, step: int) -> WordBatch | None:
    """Return the words and texts of a step's pairs, and who may be whose negative; None without pairs."""
    _, rows = context.plan.pairs.batch(step)
    _, text_rows = context.plan.texts.batch(step)
    if not len(rows) + len(text_rows):
        return None
    pairs, texts, words = context.data.pairs, context.data.texts, context.data.words
    anchor = np.concatenate([pairs.anchor[rows], texts.anchor[text_rows]])
    positive = np.concatenate([pairs.positive[rows], texts.positive[text_rows]])
    negative = pairs.negatives.joined(rows)
    chosen = np.unique(np.concatenate([anchor, positive, negative]))
    chosen = chosen[np.lexsort((chosen, -words.lengths(chosen)))]
    place = np.empty(len(words), np.int64)
    place[chosen] = np.arange(len(chosen))
    symmetric = context.settings.contrastive.symmetric
    candidate = np.unique(place[np.concatenate([positive, negative, anchor] if symmetric else [positive, negative])])
    masks = context.settings.contrastive.mask_known_positives
    known = context.data.partners.among(chosen)[:, candidate] if masks else None
    anchor, positive = place[anchor], place[positive]
    allowed, n_masked_out = _allowed(known, anchor, positive, candidate)
    return WordBatch(
        words=chosen,
        anchor=anchor,
        positive=positive,
        candidate=candidate,
        target=np.searchsorted(candidate, positive),
        allowed=allowed,
        allowed_back=_allowed(known, positive, anchor, candidate)[0] if symmetric else None,
        n_masked_out=n_masked_out,
        weight=_weights(context, rows, len(text_rows)),
    )


def _weights(context: Context, rows: Ints, n_texts: int) -> NDArray[np.float32] | None:
    """Return what the loss of each pair is multiplied by; of texts always 1."""
    if context.settings.contrastive.pair_weights != "pmi":
        return None
    return np.concatenate([context.data.pairs.pmi_weights[rows], np.ones(n_texts, np.float32)])


def _allowed(
    known: NDArray[np.bool_] | None, anchor: Ints, positive: Ints, candidate: Ints
) -> tuple[NDArray[np.bool_], int]:
    """Return which candidates may be negatives of which anchors, and how many are not because they are known."""
    same = (anchor[:, None] == candidate) | (positive[:, None] == candidate)
    if known is None:
        return ~same, 0
    left_out = known[anchor]
    return ~(same | left_out), int((left_out & ~same).sum())


def _negatives_per_anchor(words: WordBatch, hardest: int | None) -> float:
    n = words.allowed.sum(1)
    return float((n if hardest is None else np.minimum(n, hardest)).sum()) / len(words.anchor)


def step_batch(context: Context, step: int, *, is_even: bool = False) -> StepBatch:
    """Return what this process computes in a step.

    Args:
        context: What stays the same.
        step: Counted from 0.
        is_even: Give every process as many parts, and every part a label, stand-ins if need be (sharded weights
            demand it).
    """
    settings, processes = context.settings, context.processes
    windows, words = step_windows(context, step), step_words(context, step)
    word_ids = words.words if words else np.empty(0, np.int64)
    word_lengths = np.minimum(context.data.words.lengths(word_ids), context.most_positions - 2)
    all_lengths = np.concatenate([full_lengths(windows.lengths, windows.first_lengths), full_lengths(word_lengths)])
    edges = cut(all_lengths, n_parts=context.plan.n_parts, most_tokens=settings.micro_batch_tokens)
    n_windows, world_size = len(windows), processes.world_size
    word_edges = np.clip(edges - n_windows, 0, None)
    # Held are whole rounds of parts, so that all processes do the same at the same time.
    with_words = np.flatnonzero(np.diff(word_edges))
    first_held = with_words[0] // world_size * world_size if len(with_words) else len(edges)
    trains_head_only = step < settings.head_only_steps
    maker = PartMaker(context, windows, word_ids, word_lengths, is_even, trains_head_only)
    own = range(processes.rank, len(edges) - 1, world_size)
    parts = [maker.part(p, edges[p], edges[p + 1], is_held=p >= first_held) for p in own]
    if is_even:
        n_rounds = -(-(len(edges) - 1) // world_size)
        parts = [p or maker.empty(i, is_held=i >= first_held) for p, i in zip(parts, own, strict=True)]
        parts += [maker.empty(len(edges), is_held=first_held < len(edges))] * (n_rounds - len(parts))
    window_edges = np.clip(edges, None, n_windows)
    words_of_ranks, order = _gathered(word_edges, world_size)
    n_possible = words.allowed.size - len(words.anchor) if words else 0
    return StepBatch(
        step=step,
        parts=tuple(p for p in parts if p),
        contrast=_contrast(words, order, processes) if words else None,
        words_of_ranks=words_of_ranks,
        n_terms=0 if words is None else len(words.anchor) * (2 if settings.contrastive.symmetric else 1),
        n_hidden_tokens=len(windows.masked.positions),
        n_sentence_pairs=0 if windows.labels is None else len(windows.labels),
        n_tokens=int(all_lengths.sum()),
        n_words=len(word_ids),
        negatives_per_anchor=_negatives_per_anchor(words, settings.contrastive.hardest) if words else None,
        pair_weight=(1.0 if words.weight is None else float(words.weight.mean())) if words else None,
        masked_out_pct=100.0 * words.n_masked_out / n_possible if words and n_possible else None,
        window_rows=np.concatenate(
            [windows.rows[:0], *(windows.rows[window_edges[p] : window_edges[p + 1]] for p in own)]
        ),
        work=step_work(
            all_lengths,
            edges,
            n_windows=n_windows,
            hidden_before=np.searchsorted(windows.masked.positions, np.concatenate([[0], np.cumsum(windows.lengths)])),
            reads_sentences=windows.labels is not None,
            reads_all=context.pooling != "cls",
            n_compared=words.allowed.size * (2 if settings.contrastive.symmetric else 1) if words else 0,
            trains_head_only=trains_head_only,
        ),
    )


def _gathered(edges: Ints, world_size: int) -> tuple[tuple[int, ...], Ints]:
    """Return how many words each process encodes, and where each word lies when they are gathered."""
    of_rank = [range(rank, len(edges) - 1, world_size) for rank in range(world_size)]
    order = np.concatenate([np.arange(edges[p], edges[p + 1]) for own in of_rank for p in own])
    return tuple(sum(int(edges[p + 1] - edges[p]) for p in own) for own in of_rank), np.argsort(order)


def _contrast(words: WordBatch, order: Ints, processes: Processes) -> Contrast:
    own = slice(processes.rank, None, processes.world_size)
    back = words.allowed_back
    return Contrast(
        order=torch.from_numpy(order),
        anchor=torch.from_numpy(words.anchor[own]),
        positive=torch.from_numpy(words.positive[own]),
        candidate=torch.from_numpy(words.candidate),
        target=torch.from_numpy(words.target[own]),
        allowed=torch.from_numpy(words.allowed[own]),
        target_back=None if back is None else torch.from_numpy(np.searchsorted(words.candidate, words.anchor[own])),
        allowed_back=None if back is None else torch.from_numpy(back[own]),
        weight=None if words.weight is None else torch.from_numpy(words.weight[own]),
    )
