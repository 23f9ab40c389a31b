"""Templates to text."""

import base64
import hashlib
import json
import math
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from commbert.reporting.escaping import code_block, markdown_cell, visible

_TEMPLATES = Path(__file__).parent / "templates"


def render_markdown(template: str, context: dict[str, Any]) -> str:
    """Render a Markdown template; text of others goes through the filter ``cell``."""
    environment = _environment(autoescape=False)
    environment.filters["cell"] = markdown_cell
    environment.filters["block"] = code_block
    return environment.get_template(template).render(context)


def render_html(template: str, context: dict[str, Any], figures: dict[str, str]) -> str:
    """Render a self-contained page: escaped throughout, pictures inside, nothing loaded from anywhere.

    The one script, which sorts tables, is ours and is named by its digest in the page's policy: no other one runs.
    """
    environment = _environment(autoescape=True)
    environment.filters["cell"] = visible
    data_uris = {
        name: "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode() for name, svg in figures.items()
    }
    script = (_TEMPLATES / "sort.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = environment.get_template(template)
    return page.render(context, figures=data_uris, sort_script=Markup(script), sort_script_sha256=digest)  # noqa: S704 (a file of this package)


def as_yaml(value: Any) -> str:
    """Return YAML that both Snakemake's reader and ours read as the same value: ASCII, floats with a point."""
    text: str = yaml.safe_dump(value, sort_keys=False, allow_unicode=False, width=100)
    return text


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
    environment.filters["yaml"] = as_yaml
    environment.filters["shown"] = visible
    environment.filters["n"] = _number
    environment.filters["s"] = _significant
    environment.filters["duration"] = _duration
    environment.filters["json"] = lambda value: json.dumps(value, sort_keys=True)
    return environment


def _number(value: float | None, digits: int = 0) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def _significant(value: float | None, digits: int = 3) -> str:
    """Return a number with so many significant digits, without an exponent where it is of everyday size."""
    if value is None:
        return "–"
    if value == 0:
        return "0"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{decimals}f}" if decimals <= 7 else f"{value:.{digits - 1}e}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
