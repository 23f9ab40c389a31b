"""The model card that lies in every exported folder as README.md."""

from typing import Any

from commbert.reporting.rendering import render_markdown
from commbert.reporting.training import method_of


def render_card(context: dict[str, Any]) -> str:
    """Return the card from what training knows: corpus, base, sizes, settings, how to load."""
    return render_markdown("model_card.md.j2", {**context, **method_of(context["settings"])})


def render_weights(average: dict[str, Any]) -> str:
    """Return the card's last section: the share of the start model in the weights, and the digests of both."""
    return render_markdown("model_card_weights.md.j2", average)
