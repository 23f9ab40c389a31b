"""One training step: the gradient of the joint loss over the whole step's batch, whoever computes which part.

Sums of losses are divided by the counts of the whole step (hidden tokens; anchors), so one process, several processes
and accumulation give the same loss and the same gradient.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import BertForPreTraining

from commbert.known import contains, pair_keys
from commbert.nn import counters
from commbert.nn.collectives import Processes, gather_rows, sum_gradients, summed
from commbert.nn.losses import info_nce_sum, mlm_loss_sum
from commbert.nn.masking import MaskedTokens, mask_tokens
from commbert.nn.measures import token_places
from commbert.nn.model import SpecialIds, hidden_states, padded, pooled
from commbert.settings.training import TrainingSettings
from commbert.training.data import TrainingData
from commbert.training.plan import Plan

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
    processes: Processes
    device: torch.device
    autocast: AbstractContextManager[None]


@dataclass(frozen=True)
class StepResult:
    """Means over the whole step; a loss is None where the step had nothing for it."""

    loss: float
    mlm_loss: float | None
    contrastive_loss: float | None
    n_tokens: int
    """Tokens that went through the encoder, padding not counted."""
    n_padded_tokens: int
    n_hidden_tokens: int
    n_words: int
    negatives_per_anchor: float | None
    masked_out_pct: float | None
    """Share of would-be negatives that were left out because they are known positives."""


@dataclass(frozen=True)
class WordBatch:
    """The words of a step's pairs, each once."""

    words: Ints
    """Word ids, sorted by number of tokens."""
    anchor: Ints
    """[n_pairs] rows in ``words``."""
    positive: Ints
    candidate: Ints
    """Rows in ``words`` of positives and explicit negatives (of anchors too if symmetric), each once."""
    target: Ints
    """[n_pairs] place of the positive in ``candidate``."""
    allowed: NDArray[np.bool_]
    """[n_pairs, n_candidates] may be a negative of the anchor."""
    n_masked_out: int


def gradient_of_step(model: BertForPreTraining, context: Context, step: int) -> StepResult:
    """Add the step's gradient, summed over all processes, to the parameters' ``grad``."""
    settings, processes = context.settings, context.processes
    mlm_sum, n_hidden, n_tokens, n_padded = _mlm_gradient(model, context, step)
    words = step_words(context, step)
    contrastive_sum = torch.zeros((), device=context.device)
    if words is not None:
        contrastive_sum, n, p = _contrastive_gradient(model, context, step, words)
        n_tokens, n_padded = n_tokens + n, n_padded + p
    parameters = [p for p in model.parameters() if p.requires_grad]
    sum_gradients(parameters, processes)
    # MPS has no float64; everywhere else the sums of a step are kept in it.
    precise = torch.float32 if context.device.type == "mps" else torch.float64
    counts = torch.tensor([n_tokens, n_padded], dtype=precise, device=context.device)
    losses = torch.stack([mlm_sum.detach().to(precise), contrastive_sum.detach().to(precise)])
    sums = summed(torch.cat([losses, counts]), processes).tolist()
    n_anchors = _n_terms(words, settings)
    mlm_loss = sums[0] / n_hidden if n_hidden else None
    contrastive_loss = sums[1] / n_anchors if n_anchors else None
    weights = settings.objectives
    n_negatives = None if words is None else float(words.allowed.sum()) / len(words.anchor)
    n_possible = 0 if words is None else words.allowed.size - len(words.anchor)
    return StepResult(
        loss=weights.mlm * (mlm_loss or 0.0) + weights.contrastive * (contrastive_loss or 0.0),
        mlm_loss=mlm_loss,
        contrastive_loss=contrastive_loss,
        n_tokens=int(sums[2]),
        n_padded_tokens=int(sums[3]),
        n_hidden_tokens=n_hidden,
        n_words=0 if words is None else len(words.words),
        negatives_per_anchor=n_negatives,
        masked_out_pct=None if words is None or not n_possible else 100.0 * words.n_masked_out / n_possible,
    )


def masked_windows(context: Context, step: int) -> tuple[list[Ints], MaskedTokens, Ints]:
    """Return the step's windows sorted from long to short, masked, and their lengths."""
    epoch, rows = context.plan.windows.batch(step)
    windows = context.data.windows
    lengths = windows.offsets[rows + 1] - windows.offsets[rows]
    order = np.lexsort((rows, epoch, -lengths))
    epoch, rows, lengths = epoch[order], rows[order], lengths[order]
    masking = context.settings.masking
    masked = mask_tokens(
        np.concatenate(windows.rows(rows)) if len(rows) else np.empty(0, np.int64),
        lengths,
        (epoch.astype(np.uint64) << np.uint64(40)) + rows.astype(np.uint64),
        stream=counters.key(context.settings.seed, "mask"),
        rate=masking.rate,
        mask_share=masking.mask,
        random_share=masking.random,
        mask_id=context.specials.mask,
        regular_ids=context.regular_ids,
    )
    return np.split(masked.input_ids, np.cumsum(lengths)[:-1]), masked, lengths


def _part_edges(context: Context, n: int) -> Ints:
    """Return where n rows are cut into micro-batches; the dealing and the gathering of parts must agree on it."""
    return np.linspace(0, n, context.settings.micro_batches + 1).astype(np.int64)


def _own_parts(context: Context, n: int) -> Iterator[tuple[int, slice]]:
    """Yield (number, rows) of this process's micro-batches of n rows."""
    edges = _part_edges(context, n)
    for part in range(context.processes.rank, context.settings.micro_batches, context.processes.world_size):
        if edges[part] < edges[part + 1]:
            yield part, slice(edges[part], edges[part + 1])


def _mlm_gradient(model: BertForPreTraining, context: Context, step: int) -> tuple[Tensor, int, int, int]:
    total = torch.zeros((), device=context.device)
    if not context.plan.windows.n_rows:
        return total, 0, 0, 0
    windows, masked, lengths = masked_windows(context, step)
    row, column = token_places(lengths, masked.positions)
    n_hidden = len(masked.positions)
    n_tokens = n_padded = 0
    for part, rows in _own_parts(context, len(windows)):
        _seed_dropout(context, step, "windows", part)
        here = (row >= rows.start) & (row < rows.stop)
        batch = padded(windows[rows], context.specials, context.device)
        at = (
            torch.from_numpy(row[here] - rows.start).to(context.device),
            torch.from_numpy(column[here]).to(context.device),
        )
        labels = torch.from_numpy(masked.labels[here]).to(context.device)
        frozen = context.settings.trainable == "mlm_head"
        with context.autocast:
            with torch.set_grad_enabled(not frozen):
                hidden = hidden_states(model, batch)
            logits = model.cls.predictions(hidden[at])
            part_sum = mlm_loss_sum(logits, labels)
        (context.settings.objectives.mlm * part_sum / n_hidden).backward()
        total = total + part_sum.detach()
        n_tokens += int(batch.attention_mask.sum())
        n_padded += batch.input_ids.numel()
    return total, n_hidden, n_tokens, n_padded


def step_words(context: Context, step: int) -> WordBatch | None:
    """Return the words of a step's pairs, and who may be whose negative; None without pairs."""
    _, rows = context.plan.pairs.batch(step)
    if not len(rows):
        return None
    pairs, words = context.data.pairs, context.data.words
    anchor, positive = pairs.anchor[rows], pairs.positive[rows]
    negative = np.concatenate(pairs.negatives.rows(rows))
    lengths = np.diff(words.offsets)
    chosen = np.unique(np.concatenate([anchor, positive, negative]))
    chosen = chosen[np.lexsort((chosen, -lengths[chosen]))]
    place = np.empty(len(words), np.int64)
    place[chosen] = np.arange(len(chosen))
    symmetric = context.settings.contrastive.symmetric
    candidate = np.unique(place[np.concatenate([positive, negative, anchor] if symmetric else [positive, negative])])
    allowed, n_masked_out = _allowed(context, anchor, positive, chosen[candidate])
    return WordBatch(
        chosen,
        place[anchor],
        place[positive],
        candidate,
        np.searchsorted(candidate, place[positive]),
        allowed,
        n_masked_out,
    )


def _allowed(context: Context, anchor: Ints, positive: Ints, candidate: Ints) -> tuple[NDArray[np.bool_], int]:
    same = (anchor[:, None] == candidate) | (positive[:, None] == candidate)
    if not context.settings.contrastive.mask_known_positives:
        return ~same, 0
    known = contains(context.data.known, pair_keys(anchor[:, None], candidate[None, :]))
    return ~(same | known), int((known & ~same).sum())


def _n_terms(words: WordBatch | None, settings: TrainingSettings) -> int:
    return 0 if words is None else len(words.anchor) * (2 if settings.contrastive.symmetric else 1)


def _contrastive_gradient(
    model: BertForPreTraining, context: Context, step: int, words: WordBatch
) -> tuple[Tensor, int, int]:
    settings, processes = context.settings, context.processes
    vectors, n_tokens, n_padded = _word_vectors(model, context, step, words.words)
    own = slice(processes.rank, None, processes.world_size)
    device = context.device
    temperature = settings.contrastive.temperature
    candidates = vectors[torch.from_numpy(words.candidate).to(device)]
    anchors = vectors[torch.from_numpy(words.anchor[own]).to(device)]
    target = torch.from_numpy(words.target[own]).to(device)
    allowed = torch.from_numpy(words.allowed[own]).to(device)
    total = info_nce_sum(anchors, candidates, target, allowed, temperature=temperature)
    if settings.contrastive.symmetric:
        # The other direction: find the anchor from its positive; what may not be a negative of the positive is masked.
        candidate_ids = words.words[words.candidate]
        backwards, _ = _allowed(context, words.words[words.positive], words.words[words.anchor], candidate_ids)
        back_target = np.searchsorted(words.candidate, words.anchor[own])
        total = total + info_nce_sum(
            vectors[torch.from_numpy(words.positive[own]).to(device)],
            candidates,
            torch.from_numpy(back_target).to(device),
            torch.from_numpy(backwards[own]).to(device),
            temperature=temperature,
        )
    (settings.objectives.contrastive * total / _n_terms(words, settings)).backward()
    return total.detach(), n_tokens, n_padded


def _word_vectors(model: BertForPreTraining, context: Context, step: int, words: Ints) -> tuple[Tensor, int, int]:
    """Return the vectors of all words of the step, with gradient; each process encodes its own micro-batches."""
    limit = model.config.max_position_embeddings - 2
    sequences = [ids[:limit] for ids in context.data.words.rows(words)]
    # Requires a gradient, so that a process without words too enters the gather's backward.
    work = torch.promote_types(model.dtype, torch.float32)
    parts = [torch.zeros(0, model.config.hidden_size, device=context.device, dtype=work, requires_grad=True)]
    n_tokens = n_padded = 0
    for part, rows in _own_parts(context, len(words)):
        _seed_dropout(context, step, "words", part)
        batch = padded(sequences[rows], context.specials, context.device)
        with context.autocast:
            vectors = pooled(hidden_states(model, batch), batch.attention_mask, pooling=context.pooling)
        parts.append(vectors.to(work))
        n_tokens += int(batch.attention_mask.sum())
        n_padded += batch.input_ids.numel()
    edges = _part_edges(context, len(words))
    world_size = context.processes.world_size
    rows_of = [[*range(len(edges) - 1)][rank::world_size] for rank in range(world_size)]
    local = torch.cat(parts)
    gathered = gather_rows(
        local, [sum(int(edges[p + 1] - edges[p]) for p in own) for own in rows_of], context.processes
    )
    # Rank after rank as gathered; back into the order of the words.
    order = np.concatenate([np.arange(edges[p], edges[p + 1]) for own in rows_of for p in own])
    return gathered[torch.from_numpy(np.argsort(order)).to(context.device)], n_tokens, n_padded


def _seed_dropout(context: Context, step: int, stream: str, part: int) -> None:
    torch.manual_seed(counters.key(context.settings.seed, "dropout", step, stream, part) >> 1)
