"""Energy of the CPU packages by RAPL, which Linux shows in /sys/class/powercap.

Reference: Linux kernel, Documentation/power/powercap/powercap.rst. Since CVE-2020-8694 only root may read it.
"""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path("/sys/class/powercap")
MOST_W = 1000.0
"""No package draws more. A counter that could have come round twice in a gap says nothing of the gap."""
_ZONE = re.compile(r"intel-rapl:\d+")
"""Zones of the top; what lies in them (intel-rapl:0:0, cores) is counted in them, and psys counts packages again."""


class _Unreadable(Exception):  # noqa: N818  (no error of the stage: it ends in a reason beside a None)
    pass


@dataclass
class _Package:
    folder: Path
    range_uj: int
    last_uj: int | None = None
    last_s: float = 0.0
    total_uj: int = 0

    def advance(self, now_s: float) -> bool:
        """Read the counter; False if it may have come round more than once since the last time."""
        found_uj = _number(self.folder / "energy_uj")
        last_uj, last_s = self.last_uj, self.last_s
        self.last_uj, self.last_s = found_uj, now_s
        if last_uj is None:
            return True
        if (now_s - last_s) * MOST_W * 1e6 >= self.range_uj or max(last_uj, found_uj) > self.range_uj:
            return False
        # The counter goes from range_uj to 0.
        self.total_uj += found_uj - last_uj + (self.range_uj if found_uj < last_uj else 0)
        return True


class Rapl:
    """The packages of this machine, summed. They count whole: whatever runs on the machine."""

    def __init__(self, folder: Path = FOLDER, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.reason: str | None = None
        """Why nothing was read, the last time; or what was left out."""
        self._clock = clock
        self._n_lost = 0
        self._packages: list[_Package] = []
        try:
            self._packages = _packages(folder)
        except _Unreadable as error:
            self.reason = str(error)

    def read(self) -> float | None:
        """Return the joules since the first reading; None where a package could not be read."""
        if not self._packages:
            return None
        reasons = []
        for package in self._packages:
            try:
                self._n_lost += not package.advance(self._clock())
            except _Unreadable as error:
                reasons.append(str(error))
        lost = f"{self._n_lost} gaps in which the counter may have come round twice are left out"
        self.reason = "; ".join(reasons) or (lost if self._n_lost else None)
        return None if reasons else sum(package.total_uj for package in self._packages) / 1e6


def _packages(folder: Path) -> list[_Package]:
    try:
        zones = sorted(path for path in folder.iterdir() if _ZONE.fullmatch(path.name)) if folder.is_dir() else []
    except OSError as error:
        raise _Unreadable(f"{folder}: {error.strerror}") from error
    packages = [zone for zone in zones if _text(zone / "name").startswith("package")]
    if not packages:
        raise _Unreadable(f"no CPU package in {folder} (no RAPL on this CPU, or hidden from this machine)")
    return [_Package(zone, _number(zone / "max_energy_range_uj")) for zone in packages]


def _number(path: Path) -> int:
    text = _text(path)
    if not (text.isascii() and text.isdigit()):
        raise _Unreadable(f"{path}: expected a number, found {text[:20]!r}")
    return int(text)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except PermissionError as error:
        raise _Unreadable(f"{path}: permission denied (root only, since CVE-2020-8694)") from error
    except OSError as error:
        raise _Unreadable(f"{path}: {error.strerror}") from error
