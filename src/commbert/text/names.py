"""Names of functions in code."""

import re


def without_name(code: str, name: str) -> str:
    """Return a function's code with its own name replaced by ``f``; operators have no name."""
    last = _last_part(name)
    return re.sub(rf"(?<!\w){re.escape(last)}(?!\w)", "f", code) if last else code


def _last_part(name: str) -> str:
    """Return the last part of ``space::A<T>::get<int>``, without its arguments."""
    depth, end = 0, len(name)
    for at in range(len(name) - 1, -1, -1):
        if depth == 0 and name[at] != ">":
            end = at + 1
            break
        depth += (name[at] == ">") - (name[at] == "<")
    found = re.search(r"\w+\Z", name[:end])
    return found[0] if found and not re.search(r"\boperator\b", name) else ""
