"""Templates to text."""

import base64
import json
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from commbert.reporting.escaping import code_block, markdown_cell, visible

_TEMPLATES = Path(__file__).parent / "templates"


def render_markdown(template: str, context: dict[str, Any]) -> str:
    """Render a Markdown template; text of others goes through the filter ``cell``."""
    environment = _environment(autoescape=False)
    environment.filters["cell"] = markdown_cell
    environment.filters["block"] = code_block
    return environment.get_template(template).render(context)


def render_html(template: str, context: dict[str, Any], figures: dict[str, str]) -> str:
    """Render a self-contained page: escaped throughout, no script, pictures inside, nothing loaded from anywhere."""
    environment = _environment(autoescape=True)
    environment.filters["cell"] = visible
    data_uris = {
        name: "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode() for name, svg in figures.items()
    }
    return environment.get_template(template).render(context, figures=data_uris)


def _environment(*, autoescape: bool) -> Environment:
    # Markdown has its own escaping; HTML is always escaped, whatever the template's file name.
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["yaml"] = lambda value: yaml.safe_dump(value, sort_keys=False, allow_unicode=False, width=100)
    environment.filters["n"] = _number
    environment.filters["json"] = lambda value: json.dumps(value, sort_keys=True)
    return environment


def _number(value: float | None, digits: int = 0) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"
