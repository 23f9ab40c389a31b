"""What a step reads: masked windows, the words of its pairs, cut into packed micro-batches; nothing of it on a device.

All of it is a function of (settings, data, step): every process makes the same plan and packs its own parts of it.
"""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from commbert import counters
from commbert.nn.collectives import Processes
from commbert.nn.encoder import Reading
from commbert.nn.masking import MaskedTokens, mask_tokens
from commbert.nn.measures import packed_places
from commbert.nn.packing import Packed, Run, SpecialIds, full_lengths, on_tensors, pack, runs_of
from commbert.settings.training import TrainingSettings
from commbert.training.data import TrainingData
from commbert.training.plan import Plan, cut
from commbert.training.work import StepWork, step_work

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Context:
    """What stays the same over all steps."""

    settings: TrainingSettings
    data: TrainingData
    plan: Plan
    specials: SpecialIds
    regular_ids: Ints
    pooling: str
    most_positions: int
    """Tokens that the model takes at most; longer words are cut."""
    processes: Processes
    device: torch.device
    autocast: AbstractContextManager[None]


@dataclass(frozen=True)
class WindowBatch:
    """The sequences of a step that have hidden tokens, from long to short: windows, or pairs of them with NSP."""

    rows: Ints
    """[n] rows of the windows; of pairs, of the first ones."""
    masked: MaskedTokens
    lengths: Ints
    """[n] tokens without specials."""
    first_lengths: Ints | None
    """[n] tokens of the first sentence; None: there are no pairs."""
    labels: Ints | None
    """[n] whether the second sentence follows (0) or is of another file (1)."""

    def __len__(self) -> int:
        return len(self.rows)


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
class Part:
    """A micro-batch of this process."""

    number: int
    """Among all parts of the step, whoever computes them."""
    packed: Packed
    reading: Reading
    word_runs: tuple[Run, ...]
    """Where the words' tokens lie among the hidden states that are read."""
    is_held: bool
    """Its graph is kept until all words of the step are encoded, here and in the other processes."""


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
    if documents is None:
        read, lengths, first, labels = rows, data.windows.lengths(rows), None, None
    else:
        rows = documents.firsts[rows]
        pairs = documents.pairs(rows, epoch, seed=settings.seed)
        read, labels, first = pairs.rows, pairs.label, data.windows.lengths(rows)
        lengths = first + data.windows.lengths(pairs.second)
    order = np.lexsort((rows, epoch, -lengths))
    epoch, rows, lengths = epoch[order], rows[order], lengths[order]
    read = read.reshape(len(order), 1 if first is None else 2)[order].ravel()
    masking = settings.masking
    masked = mask_tokens(
        data.windows.joined(read),
        lengths,
        (epoch.astype(np.uint64) << np.uint64(40)) + rows.astype(np.uint64),
        stream=counters.key(settings.seed, "mask"),
        rate=masking.rate,
        mask_share=masking.mask,
        random_share=masking.random,
        mask_id=context.specials.mask,
        regular_ids=context.regular_ids,
    )
    if first is None or labels is None:
        return WindowBatch(rows, masked, lengths, None, None)
    return WindowBatch(rows, masked, lengths, first[order], labels[order])


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
    maker = _PartMaker(context, windows, word_ids, word_lengths, is_even, trains_head_only)
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


@dataclass(frozen=True)
class _PartMaker:
    context: Context
    windows: WindowBatch
    word_ids: Ints
    word_lengths: Ints
    is_even: bool
    trains_head_only: bool

    def part(self, number: int, start: int, stop: int, *, is_held: bool) -> Part | None:
        """Pack the sequences from start to stop: windows first, then words; None if there is none."""
        if start == stop:
            return None
        batch, n_windows = self.windows, len(self.windows)
        windows, words = slice(start, min(stop, n_windows)), slice(max(start - n_windows, 0), max(stop - n_windows, 0))
        lengths, word_lengths = batch.lengths[windows], self.word_lengths[words]
        first = None if batch.first_lengths is None else batch.first_lengths[windows]
        ends = np.concatenate([[0], np.cumsum(batch.lengths)])
        tokens = slice(ends[min(start, n_windows)], ends[min(stop, n_windows)])
        word_tokens = self.context.data.words.joined(self.word_ids[words], word_lengths)
        hidden = slice(*np.searchsorted(batch.masked.positions, [tokens.start, tokens.stop]))
        places, _ = packed_places(lengths, batch.masked.positions[hidden] - tokens.start, first)
        full_windows, full = full_lengths(lengths, first), full_lengths(word_lengths)
        first_word = int(full_windows.sum())
        if self.context.pooling == "cls":
            read, runs = first_word + np.cumsum(full) - full, runs_of(np.ones_like(full))
        else:
            read, runs = first_word + np.arange(full.sum()), runs_of(full)
        heads = np.empty(0, np.int64) if first is None else np.cumsum(full_windows) - full_windows
        return Part(
            number=number,
            packed=pack(
                np.concatenate([batch.masked.input_ids[tokens], word_tokens]),
                np.concatenate([lengths, word_lengths]),
                self.context.specials,
                None if first is None else np.concatenate([first, word_lengths]),
            ),
            reading=self._reading(
                np.concatenate([places, heads, read]),
                batch.masked.labels[hidden],
                None if batch.labels is None else batch.labels[windows],
            ),
            word_runs=runs,
            is_held=is_held,
        )

    def empty(self, number: int, *, is_held: bool) -> Part:
        """Return a part of one empty sequence, of which nothing is read but its first token, for nobody."""
        nothing = np.empty(0, np.int64)
        packed = pack(nothing, np.zeros(1, np.int64), self.context.specials)
        nsp_labels = None if self.windows.labels is None else nothing
        return Part(number, packed, self._reading(np.zeros(1, np.int64), nothing, nsp_labels), (), is_held)

    def _reading(self, tokens: Ints, labels: Ints, nsp_labels: Ints | None) -> Reading:
        is_stand_in = self.is_even and not len(labels)
        if is_stand_in:
            # Where weights are sharded, all processes use the same ones at the same time.
            labels = np.zeros(1, np.int64)
            nsp_labels = None if nsp_labels is None else labels
        return Reading(
            tokens=torch.from_numpy(tokens),
            labels=torch.from_numpy(labels),
            nsp_labels=None if nsp_labels is None else torch.from_numpy(nsp_labels),
            is_stand_in=is_stand_in,
            trains_head_only=self.trains_head_only,
        )


@contextmanager
def prefetched(context: Context, *, is_even: bool) -> Iterator["Prefetcher"]:
    """Make the batch of the next step while the device computes this one."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches") as pool:
        yield Prefetcher(context, pool, is_even)


class Prefetcher:
    """Batches of one step after another."""

    def __init__(self, context: Context, pool: ThreadPoolExecutor, is_even: bool) -> None:
        self._context, self._pool, self._is_even = context, pool, is_even
        self._next: dict[int, Future[StepBatch]] = {}

    def get(self, step: int) -> StepBatch:
        """Return the step's batch on the device, and begin with the next one."""
        pending = self._next.pop(step, None) or self._pool.submit(self._make, step)
        if step + 1 < self._context.plan.n_steps:
            self._next = {step + 1: self._pool.submit(self._make, step + 1)}
        device = self._context.device
        return on_tensors(pending.result(), lambda t: t.to(device, non_blocking=True))

    def _make(self, step: int) -> StepBatch:
        batch = step_batch(self._context, step, is_even=self._is_even)
        # A GPU fetches from pinned memory while it computes.
        return on_tensors(batch, Tensor.pin_memory) if self._context.device.type == "cuda" else batch
