"""The losses, as plain functions of tensors. All return sums: the caller divides by the global count."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional


def mlm_loss_sum(logits: Float[Tensor, "n v"], labels: Int[Tensor, "n"]) -> Float[Tensor, ""]:
    """Return the summed cross-entropy, in nats, of predicting ``labels``; 0 for no token.

    Reference: Devlin et al. 2019, arXiv:1810.04805, section 3.1.
    """
    return functional.cross_entropy(
        logits.to(torch.promote_types(logits.dtype, torch.float32)), labels, reduction="sum"
    )


def info_nce_sum(
    anchor: Float[Tensor, "b h"],
    candidate: Float[Tensor, "n h"],
    target: Int[Tensor, "b"],
    allowed: Bool[Tensor, "b n"],
    *,
    temperature: float,
) -> Float[Tensor, ""]:
    """Return the summed InfoNCE loss, in nats, of finding each anchor's positive among the candidates.

    An anchor to which nothing but its positive is allowed contributes 0: it has no negative to learn from.

    Args:
        anchor: Vectors of the anchors, of any length.
        candidate: Vectors of the candidates: positives of all anchors, and further negatives.
        target: Row of each anchor's positive in ``candidate``.
        allowed: Which candidates count as negatives of an anchor; the positive always takes part.
        temperature: Divides the cosine; typical 0.02 to 0.1.

    Reference: van den Oord et al. 2018, arXiv:1807.03748, eq. 4, with f = exp(cosine / temperature).
    """
    # In float32 whatever the autocast: in bf16 a small loss has a third of its gradient wrong.
    with torch.autocast(anchor.device.type, enabled=False):
        work = torch.promote_types(anchor.dtype, torch.float32)
        a = functional.normalize(anchor.to(work), dim=-1)
        c = functional.normalize(candidate.to(work), dim=-1)
        logits = a @ c.T / temperature
        allowed = allowed.scatter(1, target[:, None], value=True)
        return functional.cross_entropy(logits.masked_fill(~allowed, -torch.inf), target, reduction="sum")
