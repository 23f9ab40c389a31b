"""The losses, as plain functions of tensors. All return sums: the caller divides by the global count."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from commbert.nn.products import linear_gradients, precise_linear

_LOGITS_AT_A_TIME = {"cpu": 2**25, "cuda": 2**28}
"""Logits in memory at a time: 128 MiB and 1 GiB; a part's hidden tokens mostly fit in one."""


def mlm_loss_sum(
    features: Float[Tensor, "n h"], embeddings: Float[Tensor, "v h"], bias: Float[Tensor, "v"], labels: Int[Tensor, "n"]
) -> Float[Tensor, ""]:
    """Return the summed cross-entropy, in nats, of predicting ``labels`` by the tied decoder; 0 for no token.

    The logits of all tokens (n x 30,522 numbers) never exist together: slices of them are made, turned into their
    gradient, and forgotten. Under autocast the products are in its precision, the softmax in float32.

    Args:
        features: What the decoder multiplies with the embeddings.
        embeddings: One row per vocabulary entry.
        bias: One number per vocabulary entry.
        labels: The right entries.

    Reference: Devlin et al. 2019, arXiv:1810.04805, section 3.1.
    """
    device = features.device.type
    product = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else features.dtype
    with torch.autocast(device, enabled=False):
        out: Tensor = _TiedCrossEntropy.apply(features, embeddings, bias, labels, product)
    return out


class _TiedCrossEntropy(torch.autograd.Function):
    """Makes the gradients in forward, slice by slice; backward only scales them."""

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, embeddings: Tensor, bias: Tensor, labels: Tensor, product: torch.dtype
    ) -> Tensor:
        wants_features, wants_embeddings, wants_bias = ctx.needs_input_grad[:3]
        work = torch.promote_types(product, torch.float32)
        matrix = embeddings.to(product)
        of_features = torch.empty_like(features) if wants_features else None
        of_embeddings = None
        of_bias = torch.zeros_like(bias) if wants_bias else None
        total = torch.zeros((), dtype=work, device=features.device)
        step = max(1, _LOGITS_AT_A_TIME.get(features.device.type, 2**26) // len(embeddings))
        for rows in (slice(at, at + step) for at in range(0, len(labels), step)):
            part, label = features[rows].to(product), labels[rows, None]
            logits = precise_linear(part, matrix).add_(bias)
            normalizer = torch.logsumexp(logits, 1, keepdim=True)
            total += (normalizer - logits.gather(1, label)).sum()
            # The gradient of cross-entropy is softmax - one-hot.
            of_logits = logits.sub_(normalizer).exp_()
            of_logits.scatter_add_(1, label, torch.full_like(label, -1, dtype=of_logits.dtype))
            if of_bias is not None:
                of_bias += of_logits.sum(0)
            wants = (wants_features, wants_embeddings)
            of_part, of_matrix = linear_gradients(of_logits.to(product), part, matrix, wants=wants)
            if of_features is not None and of_part is not None:
                of_features[rows] = of_part
            if of_matrix is not None:
                of_embeddings = of_matrix if of_embeddings is None else of_embeddings.add_(of_matrix)
        ctx.gradients = (of_features, of_embeddings, of_bias)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        # Given away, so that a second backward fails instead of scaling twice.
        made, ctx.gradients = ctx.gradients, None
        return *(None if g is None else g.mul_(gradients[0]) for g in made), None, None


def nsp_loss_sum(logits: Float[Tensor, "n 2"], labels: Int[Tensor, "n"]) -> Float[Tensor, ""]:
    """Return the summed cross-entropy, in nats, of telling what follows from what does not; 0 for no pair.

    Args:
        logits: Of (follows, is random).
        labels: 0 = follows, 1 = is random.

    Reference: Devlin et al. 2019, arXiv:1810.04805, section 3.1, task 2.
    """
    work = torch.promote_types(logits.dtype, torch.float32)
    return functional.cross_entropy(logits.to(work), labels, reduction="sum")


def info_nce_sum(
    anchor: Float[Tensor, "b h"],
    candidate: Float[Tensor, "n h"],
    target: Int[Tensor, "b"],
    allowed: Bool[Tensor, "b n"],
    *,
    temperature: float | Float[Tensor, ""],
    hardest: int | None = None,
    hardness: float = 0.0,
    weight: Float[Tensor, "b"] | None = None,
) -> Float[Tensor, ""]:
    """Return the summed InfoNCE loss, in nats, of finding each anchor's positive among the candidates.

    An anchor to which nothing but its positive is allowed contributes 0: it has no negative to learn from.
    The negatives may be mined (Schroff et al. 2015, arXiv:1503.03832, section 3.2) and weighted by how similar they are
    (see ``_harder``); what is chosen is chosen without gradient.

    Args:
        anchor: Vectors of the anchors, of any length.
        candidate: Vectors of the candidates: positives of all anchors, and further negatives.
        target: Row of each anchor's positive in ``candidate``.
        allowed: Which candidates count as negatives of an anchor; the positive always takes part.
        temperature: Divides the cosine; typical 0.02 to 0.1.
        hardest: Only so many of an anchor's negatives take part, those of the highest cosine; None: all.
        hardness: How much more a similar negative counts; 0: all count alike.
        weight: What each anchor's loss is multiplied by; None: 1.

    Reference: van den Oord et al. 2018, arXiv:1807.03748, eq. 4, with f = exp(cosine / temperature).
    """
    # In float32 whatever the autocast: in bf16 a small loss has a third of its gradient wrong.
    with torch.autocast(anchor.device.type, enabled=False):
        work = torch.promote_types(anchor.dtype, torch.float32)
        a = functional.normalize(anchor.to(work), dim=-1)
        c = functional.normalize(candidate.to(work), dim=-1)
        logits = a @ c.T / temperature
        if hardest is not None or hardness:
            allowed = allowed.scatter(1, target[:, None], value=False)
        if hardest is not None:
            allowed = _hardest(logits.detach(), allowed, hardest)
        if hardness:
            logits = _harder(logits, allowed, hardness)
        allowed = allowed.scatter(1, target[:, None], value=True)
        logits = logits.masked_fill(~allowed, -torch.inf)
        if weight is None:
            return functional.cross_entropy(logits, target, reduction="sum")
        return (functional.cross_entropy(logits, target, reduction="none") * weight.to(work)).sum()


def _hardest(logits: Float[Tensor, "b n"], negative: Bool[Tensor, "b n"], k: int) -> Bool[Tensor, "b n"]:
    """Return which negatives are an anchor's ``k`` most similar ones; of equal ones the first, on every device."""
    if k >= logits.shape[1]:
        return negative
    logits = logits.masked_fill(~negative, -torch.inf)
    last = logits.topk(k, dim=1).values[:, -1:]
    above, equal = logits > last, logits == last
    return negative & (above | (equal & (equal.cumsum(1) <= k - above.sum(1, keepdim=True))))


def _harder(logits: Float[Tensor, "b n"], negative: Bool[Tensor, "b n"], hardness: float) -> Float[Tensor, "b n"]:
    """Add the logarithm of the importance weights of Robinson et al. to the logits of the negatives.

    A negative's weight is exp(beta s) over its mean over the anchor's negatives, with s = cosine / temperature and
    beta = ``hardness``; gradients go through it, as in the authors' code. Their class prior tau+ is 0: no debiasing.

    Reference: Robinson et al. 2021, arXiv:2010.04592, eq. 4.
    """
    scaled = hardness * logits
    # An anchor without negatives has no mean; its row stays as it is.
    none = ~negative.any(1, keepdim=True)
    mean = torch.logsumexp(scaled.masked_fill(~negative, -torch.inf).masked_fill(none, 0.0), 1, keepdim=True)
    mean = mean - negative.sum(1, keepdim=True).clamp(min=1).to(logits.dtype).log()
    return torch.where(negative, logits + scaled - mean, logits)
