"""The model card that lies in every exported folder as README.md."""

from typing import Any

from commbert.reporting.rendering import render_markdown


def render_card(context: dict[str, Any]) -> str:
    """Return the card from what training knows: corpus, base, sizes, settings, how to load."""
    return render_markdown("model_card.md.j2", context)
