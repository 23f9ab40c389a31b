"""One training step: the gradient of the joint loss over the whole step's batch, whoever computes which part.

Sums of losses are divided by the counts of the whole step (hidden tokens; anchors), so one process, several processes
and accumulation give the same loss and the same gradient. Weights of pairs change the sum and not the count.
"""

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from commbert import counters
from commbert.nn.collectives import gather_rows
from commbert.nn.encoder import Bert
from commbert.nn.losses import info_nce_sum
from commbert.nn.packing import pooled
from commbert.nn.projection import Projection
from commbert.settings.training import Contrastive, Objectives
from commbert.training.batches import Contrast, StepBatch
from commbert.training.context import Context
from commbert.training.parts import Part


@dataclass(frozen=True)
class LossSums:
    """This process's share of the step's loss sums, on the device, without gradient."""

    mlm: Tensor
    contrastive: Tensor
    nsp: Tensor


def weights_at(objectives: Objectives, step: int, n_steps: int) -> tuple[float, float]:
    """Return the weights of MLM and of the pair loss at a step, counted from 0.

    With ``mlm_end`` MLM moves from ``mlm`` to it along half a cosine, and the sum of both weights stays.
    """
    if objectives.mlm_end is None:
        return objectives.mlm, objectives.contrastive
    share = 0.5 * (1.0 + math.cos(math.pi * step / max(1, n_steps - 1)))
    mlm = objectives.mlm_end + (objectives.mlm - objectives.mlm_end) * share
    return mlm, objectives.mlm + objectives.contrastive - mlm


def add_gradient(
    model: Bert,
    context: Context,
    batch: StepBatch,
    temperature: Tensor | float,
    projection: Projection | None = None,
) -> LossSums:
    """Add this process's share of the step's gradient to the parameters' ``grad``.

    Args:
        model: In training mode.
        context: What stays the same.
        batch: What this process computes, on the device.
        temperature: Of the pair loss; a tensor if it is learnt.
        projection: Head on the word vectors that only the pair loss sees.
    """
    mlm_weight, pair_weight = weights_at(context.settings.objectives, batch.step, context.plan.n_steps)
    work = torch.promote_types(model.dtype, torch.float32)
    # MPS has no float64; everywhere else the sums of a step are kept in it.
    precise = torch.float32 if context.device.type == "mps" else torch.float64
    mlm_sum = torch.zeros((), dtype=precise, device=context.device)
    pair_sum, nsp_sum = mlm_sum.clone(), mlm_sum.clone()
    held: list[Tensor] = []
    # Requires a gradient, so that a process without words too enters the gather's backward.
    size = model.config.hidden_size
    vectors = [torch.zeros(0, size, device=context.device, dtype=work, requires_grad=True)]
    for part in batch.parts:
        part_sum, part_nsp_sum, part_vectors = _forward(model, context, batch.step, part)
        vectors.append(part_vectors.to(work))
        if part_sum is None:
            continue
        mlm_sum += part_sum.detach()
        term = mlm_weight / batch.n_hidden_tokens * part_sum if batch.n_hidden_tokens else 0.0 * part_sum
        if part_nsp_sum is not None:
            nsp_sum += part_nsp_sum.detach()
            term = term + context.settings.objectives.nsp / max(batch.n_sentence_pairs, 1) * part_nsp_sum
        if part.is_held:
            held.append(term)
        elif term.requires_grad:
            term.backward()
    if batch.contrast is not None:
        own = torch.cat(vectors)
        if projection is not None:
            own = projection(own)
        gathered = gather_rows(own, batch.words_of_ranks, context.processes)
        total = _pair_loss_sum(gathered, batch.contrast, temperature, context.settings.contrastive)
        pair_sum += total.detach()
        held.append(pair_weight / batch.n_terms * total)
    if held:
        torch.stack([t.to(work) for t in held]).sum().backward()
    return LossSums(mlm_sum, pair_sum, nsp_sum)


def _forward(model: Bert, context: Context, step: int, part: Part) -> tuple[Tensor | None, Tensor | None, Tensor]:
    """Return a part's summed losses of MLM and NSP, and the vectors of its words."""
    torch.manual_seed(counters.key(context.settings.seed, "dropout", step, part.number) >> 1)
    with context.autocast:
        out = model(part.packed, part.reading)
        vectors = pooled(out.hidden, part.word_runs, pooling=context.pooling)
    if part.reading.is_stand_in and out.mlm_loss_sum is not None:
        return 0.0 * (out.mlm_loss_sum + out.hidden.sum()), _times_0(out.nsp_loss_sum), vectors
    return out.mlm_loss_sum, out.nsp_loss_sum, vectors


def _times_0(value: Tensor | None) -> Tensor | None:
    return None if value is None else 0.0 * value


def _pair_loss_sum(gathered: Tensor, contrast: Contrast, temperature: Tensor | float, settings: Contrastive) -> Tensor:
    loss_sum = partial(
        info_nce_sum,
        temperature=temperature,
        hardest=settings.hardest,
        hardness=settings.hardness,
        weight=contrast.weight,
    )
    vectors = gathered.index_select(0, contrast.order)
    candidates = vectors.index_select(0, contrast.candidate)
    anchors = vectors.index_select(0, contrast.anchor)
    total = loss_sum(anchors, candidates, contrast.target, contrast.allowed)
    if contrast.target_back is None or contrast.allowed_back is None:
        return total
    positives = vectors.index_select(0, contrast.positive)
    return total + loss_sum(positives, candidates, contrast.target_back, contrast.allowed_back)
