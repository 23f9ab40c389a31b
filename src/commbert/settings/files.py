"""Checks of a configuration file's text, before anything is made of it."""

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from commbert.errors import SettingsError


class _StrictLoader(yaml.SafeLoader):
    """Refuses a key that stands twice in one mapping: YAML readers would take the last one in silence."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        seen: dict[Any, int] = {}
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            key, line = key_node.value, key_node.start_mark.line + 1
            if isinstance(key, str) and key in seen and key != "<<":
                raise SettingsError(
                    f"{node.start_mark.name}: {key!r} stands in line {seen[key]} and again in line {line}. "
                    "Keep one of them."
                )
            if isinstance(key, str):
                seen[key] = line
        return super().construct_mapping(node, deep)


def check_file(path: str | Path) -> None:
    """Refuse duplicate keys, and the switch by which a configuration file would run code.

    A file that is missing or no YAML is left to its reader.

    Raises:
        SettingsError: Naming file and lines.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise SettingsError(
            f"{path}: expected UTF-8 text, found byte {error.object[error.start]:#x} at {error.start}."
        ) from error
    except OSError:
        return
    if "__use_yte__" in text:
        raise SettingsError(f"{path}: __use_yte__ is refused: it would run code from the file. Remove that line.")
    loader = _StrictLoader(text)
    loader.name = str(path)
    try:
        loader.get_single_data()
    except (yaml.YAMLError, ValueError, RecursionError):
        return
    finally:
        loader.dispose()
