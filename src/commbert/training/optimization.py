"""AdamW with decay groups, and the learning-rate schedule."""

import torch
from transformers import BertForPreTraining

from commbert.settings.training import Optimizer, TrainingSettings

_HEAD = "cls.predictions.transform."
_NEVER = ("bert.pooler.", "cls.seq_relationship.")
"""No objective reads these: without this, weight decay would shrink what the base model brought."""


def trainable_parameters(model: BertForPreTraining, settings: TrainingSettings) -> dict[str, torch.nn.Parameter]:
    """Freeze what the objectives do not train and return the rest by name, in the model's order.

    Decoder weight and bias are tied and appear once, under the embeddings and ``cls.predictions.bias``.
    """
    chosen: dict[str, torch.nn.Parameter] = {}
    for name, parameter in model.named_parameters():
        is_head = name.startswith("cls.predictions.")
        used = not name.startswith(_NEVER) and (settings.objectives.mlm > 0 or not is_head)
        parameter.requires_grad_(used and (settings.trainable == "all" or is_head))
        if parameter.requires_grad:
            chosen[name] = parameter
    return chosen


def make_optimizer(parameters: dict[str, torch.nn.Parameter], settings: Optimizer) -> torch.optim.AdamW:
    """Return AdamW: decay for matrices only; the MLM head's own parameters may have their own rate.

    Each group carries its peak rate under ``peak``.
    Reference: Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2.
    """
    head_rate = settings.head_learning_rate or settings.learning_rate
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for name, parameter in parameters.items():
        rate = head_rate if name.startswith(_HEAD) else settings.learning_rate
        decay = settings.weight_decay if parameter.ndim >= 2 else 0.0
        groups.setdefault((rate, decay), []).append(parameter)
    return torch.optim.AdamW(
        [{"params": ps, "lr": rate, "peak": rate, "weight_decay": decay} for (rate, decay), ps in groups.items()],
        betas=(settings.beta1, settings.beta2),
        eps=settings.epsilon,
        fused=True,
    )


def rate_factor(step: int, n_steps: int, warmup_fraction: float) -> float:
    """Return what the peak rate is multiplied by at a step (from 0): linear warm-up from above 0, then linear to 0."""
    n_warmup = round(warmup_fraction * n_steps)
    if step < n_warmup:
        return (step + 1) / n_warmup
    return (n_steps - step) / max(1, n_steps - n_warmup)


def set_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set every group's rate to its peak times the factor."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor
