"""Which GPUs CUDA_VISIBLE_DEVICES leaves to this process."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

_MOST_DIGITS = 9


@dataclass(frozen=True)
class Selection:
    """Positions in the list of GPUs, in the order in which CUDA counts them, and how they were named."""

    positions: tuple[int, ...]
    by_number: bool = False
    by_slice: bool = False


def select(uuids: Sequence[str | None], visible: str | None, parent_of: Callable[[str], str | None]) -> Selection:
    """Return the GPUs that CUDA would use.

    Args:
        uuids: Of all GPUs, in the order of the driver; None where it does not tell.
        visible: CUDA_VISIBLE_DEVICES: numbers, ``GPU-`` UUIDs or beginnings of them, ``MIG-`` UUIDs of slices; None:
            it is not set, and all GPUs are visible. As for CUDA, the first entry that names nothing ends the list, and
            one that stands in it twice hides all GPUs.
        parent_of: Returns the UUID of the GPU that a slice is part of.

    Reference: CUDA C++ programming guide, section "CUDA environment variables".
    """
    if visible is None:
        return Selection(tuple(range(len(uuids))))
    found: list[int] = []
    by_number = by_slice = False
    entries: set[str] = set()
    for entry in (part.strip() for part in visible.split(",")):
        if entry.startswith("MIG-"):
            position, by_slice = _position(uuids, _parent(entry, parent_of)), True
        elif entry.startswith("GPU-"):
            position = _position(uuids, entry)
        else:
            position, by_number = _number(entry, len(uuids)), True
        if position is None:
            break
        if entry in entries:
            return Selection(())
        entries.add(entry)
        found.append(position)
    return Selection(tuple(dict.fromkeys(found)), by_number and bool(found), by_slice and bool(found))


def _number(entry: str, n: int) -> int | None:
    # Python refuses to read numbers of thousands of digits.
    is_number = entry.isascii() and entry.isdigit() and len(entry) <= _MOST_DIGITS
    return int(entry) if is_number and int(entry) < n else None


def _position(uuids: Sequence[str | None], beginning: str | None) -> int | None:
    """Return the only GPU whose UUID begins so."""
    if beginning is None:
        return None
    found = [i for i, uuid in enumerate(uuids) if uuid is not None and uuid.startswith(beginning)]
    return found[0] if len(found) == 1 else None


def _parent(entry: str, parent_of: Callable[[str], str | None]) -> str | None:
    if entry.startswith("MIG-GPU-"):
        # Drivers before 470: the GPU's UUID / GPU instance / compute instance.
        return entry.removeprefix("MIG-").partition("/")[0]
    return parent_of(entry)
