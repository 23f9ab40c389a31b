"""Checks of raw settings against their sections, and what is wrong with them in the user's words."""

import difflib
import json
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from commbert.errors import SettingsError
from commbert.settings.base import Section

S = TypeVar("S", bound=Section)
M = TypeVar("M", bound=BaseModel)


def section_from_json(section: type[S], text: str, *, where: str) -> S:
    """Check one section given as JSON text (how a rule hands a stage its settings).

    Raises:
        SettingsError: If the text is no JSON or breaks the section's rules.
    """
    try:
        raw = json.loads(text)
    except json.JSONDecodeError as error:
        raise SettingsError(f"{where}: expected JSON, found {text[:60]!r} ({error}).") from error
    return checked(section, raw, where)


def checked(model: type[M], raw: Any, where: str, prefix: str = "") -> M:
    """Return the model of raw values.

    Args:
        model: A section, or all of them.
        raw: As read from YAML or JSON.
        where: Name of the file, for messages.
        prefix: Setting in which the values stand.

    Raises:
        SettingsError: With one line per problem: setting, expected, found, nearest known name.
    """
    lines = problems(model, raw, where, prefix)
    if lines:
        raise SettingsError("\n".join(lines))
    return model.model_validate_json(json.dumps(raw))


def problems(model: type[BaseModel], raw: Any, where: str, prefix: str) -> list[str]:
    """Return a line for each problem; arguments as of ``checked``."""
    try:
        model.model_validate_json(json.dumps(raw))
    except ValidationError as error:
        found = [_explain(model, raw, e, where, prefix) for e in error.errors() if not _is_echo(e)]
        return list(dict.fromkeys(found))
    except (TypeError, ValueError, RecursionError) as error:
        return [f"{where}: a value is no number, text, list or mapping ({error}). Quote dates and the like."]
    return []


def _is_echo(error: Any) -> bool:
    """Return whether a list is called too short only because its items are wrong, each with a line of its own."""
    return bool(error["type"] == "too_short" and len(error["input"]) >= error["ctx"]["min_length"])


def _explain(model: type[BaseModel], raw: Any, error: Any, where: str, prefix: str) -> str:
    path = _path_in(raw, error["loc"])
    name = ".".join([prefix, *map(str, path)] if prefix else map(str, path))
    at = f"{where} {name}".rstrip()
    value, message = error["input"], error["msg"]
    if error["type"] == "extra_forbidden":
        known = _known_keys(model, error["loc"][:-1])
        near = difflib.get_close_matches(str(path[-1]), known, 1)
        parent = name.rsplit(".", 1)[0] + "." if "." in name else ""
        hint = f"Did you mean {parent}{near[0]}?" if near else f"Known here: {', '.join(sorted(known))}."
        return f"{at}: unknown setting. {hint}"
    if error["type"] == "missing":
        return f"{at}: missing, and it has no default."
    if error["type"] in ("union_tag_invalid", "union_tag_not_found"):
        kinds = [tag.strip(" '") for tag in error.get("ctx", {}).get("expected_tags", "").split(",") if tag]
        given = value.get("kind") if isinstance(value, dict) else None
        alike = difflib.get_close_matches(str(given).lower(), kinds, 1)
        these = f" of {', '.join(kinds)}" if kinds else ""
        suggestion = f" Did you mean {alike[0]}?" if alike else ""
        return f"{at}: expected a kind{these}, found {json.dumps(given, default=str)[:40]}.{suggestion}"
    if error["type"] == "value_error":
        return f"{at}: {message.removeprefix('Value error, ')}."
    hint = ""
    if isinstance(value, str) and _is_number(value):
        hint = ' YAML reads 1e5, 3e-4 and "30" as text: write 100000, 3.0e-4 or 30 without quotes.'
    expected = message.removeprefix("Input should be ").removeprefix("a valid ")
    return f"{at}: expected {expected}, found {json.dumps(value, default=str)[:80]}.{hint}"


def _path_in(raw: Any, loc: tuple[str | int, ...]) -> list[str | int]:
    """Drop from pydantic's location what is no key of the file (tags of unions, names of alternatives)."""
    path: list[str | int] = []
    at_tag = True
    for i, key in enumerate(loc):
        if at_tag and isinstance(raw, dict) and raw.get("kind") == key:
            at_tag = False  # the tag of a union, which may be spelt like one of its keys
            continue
        inside = (isinstance(raw, dict) and key in raw) or (isinstance(raw, list) and isinstance(key, int))
        if inside:
            raw, at_tag = raw[key], True
            path.append(key)
        elif i == len(loc) - 1 and isinstance(raw, dict) and not isinstance(key, int):
            path.append(key)
    return path


def _known_keys(model: type[BaseModel], loc: tuple[str | int, ...]) -> list[str]:
    """Return the names that the section at ``loc`` knows, by way of the JSON schema (unions and lists included)."""
    schema = model.model_json_schema()
    node: dict[str, Any] = schema
    for key in loc:
        node = _resolve(schema, node)
        if isinstance(key, int):
            node = node.get("items", {})
        elif "discriminator" in node:
            node = {"$ref": node["discriminator"]["mapping"][key]}
        else:
            others = [*node.get("patternProperties", {}).values(), node.get("additionalProperties", {})]
            node = node.get("properties", {}).get(key, others[0])
    return list(_resolve(schema, node).get("properties", {}))


def _resolve(schema: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in node:
        node = schema["$defs"][node["$ref"].rsplit("/", 1)[1]]
    return node


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
