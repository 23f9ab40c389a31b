"""Showing a training that is followed: as lines of text, or as a view that stays in its place on a terminal."""

import time
from collections.abc import Callable, Iterator
from itertools import pairwise

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from commbert.inspection.following import Follower, number
from commbert.reporting.escaping import visible

_BLOCKS, _PLAIN_BLOCKS = "▁▂▃▄▅▆▇█", "_.-~=+*#"
_BESIDE_CURVE = 30
"""Columns of a terminal for the curve's name, its least and its greatest value."""
_VALIDATIONS = 5
_COLUMNS = 6
_LARGE = 1e9
_SILENT_STEPS, _SILENT_S = 20, 60.0
"""A record that has not grown for so many steps' time, and so many seconds, belongs to a training that stands still."""


def follow(follower: Follower, console: Console, *, interval_s: float, sleep: Callable[[float], None]) -> None:
    """Show the run until its training is over: in place on a terminal, in lines elsewhere."""
    follower.look()
    if not console.is_terminal or console.is_dumb_terminal:
        _follow_in_lines(follower, console, interval_s=interval_s, sleep=sleep)
        return
    with Live(view(follower, console), console=console, auto_refresh=False) as live:
        while follower.summary is None:
            sleep(interval_s)
            follower.look()
            live.update(view(follower, console), refresh=True)


def _follow_in_lines(
    follower: Follower, console: Console, *, interval_s: float, sleep: Callable[[float], None]
) -> None:
    _say(console, state(follower))
    validated = 0
    while True:
        new = [v for v in follower.seen.validations if v["step"] > validated]
        for row in new:
            _say(console, "validation: " + "; ".join(f"{k} {v}" for k, v in _validation(row).items()))
        validated = max([validated, *(v["step"] for v in new)])
        if follower.summary is not None:
            return
        sleep(interval_s)
        if follower.look():
            validated = min(validated, follower.seen.validations[-1]["step"] if follower.seen.validations else 0)
            found = facts(follower)
            _say(
                console,
                ", ".join([state(follower), *(f"{n} {found[n]}" for n in ("loss", "speed", "memory") if n in found)]),
            )


def print_once(follower: Follower, console: Console) -> None:
    """Show the run as it is now."""
    if console.is_terminal and not console.is_dumb_terminal:
        console.print(view(follower, console))
        return
    _say(console, f"run: {_shown(follower)}")
    _say(console, f"state: {state(follower)}")
    for name, text in facts(follower).items():
        _say(console, f"{name}: {text}")
    curve = sparkline(follower.seen.losses, 60, blocks=_blocks(console))
    if curve:
        _say(console, f"loss of all steps: {curve}")
    for row in follower.seen.validations[-_VALIDATIONS:]:
        _say(console, "validation: " + "; ".join(f"{k} {v}" for k, v in _validation(row).items()))


def _say(console: Console, text: str) -> None:
    console.print(Text(text), soft_wrap=True)


def _shown(follower: Follower) -> str:
    return visible(follower.run, max_chars=200).replace("\n", "\\u{a}")


def state(follower: Follower) -> str:
    """Return in words how far the training is."""
    seen, summary = follower.seen, follower.summary
    step = seen.steps[-1] if seen.steps else 0
    of = f" of {follower.n_steps:,}" if follower.n_steps else ""
    if summary is not None:
        how = "stopped early" if summary.get("stopped_early") is True else "finished"
        best, value = number(summary, "best_step"), number(summary, "best_value")
        metric = visible(summary.get("best_metric", "?"), max_chars=40).replace("\n", " ")
        last = f", best at step {best:,.0f}: {metric} {value:.4f}" if best is not None and value is not None else ""
        return f"{how} after step {step:,}{of}{last}"
    if not follower.has_begun:
        there = "" if follower.run.is_dir() else " (there is no such folder yet)"
        return f"waiting: no training has begun in {_shown(follower)}{there}"
    share = f" ({100.0 * step / follower.n_steps:.1f} %)" if follower.n_steps else ""
    return f"step {step:,}{of}{share}{_left(follower)}{_silence(follower)}"


def _left(follower: Follower) -> str:
    seconds, seen = follower.seen.seconds_per_step(), follower.seen
    if seconds is None or not follower.n_steps:
        return ""
    return f", about {duration(seconds * max(0, follower.n_steps - seen.steps[-1]))} left"


def _silence(follower: Follower) -> str:
    silent_s, step_s = follower.silent_s, follower.seen.seconds_per_step() or 0.0
    if silent_s is None or silent_s < max(_SILENT_S, _SILENT_STEPS * step_s):
        return ""
    return f", nothing new for {duration(silent_s)}: stopped, or in a long validation"


def facts(follower: Follower) -> dict[str, str]:
    """Return the last figures by name, as text; what was not measured is left out."""
    row, found = follower.seen.last, {}
    for name, parts in _FACTS.items():
        texts = [form.format(value) for key, form in parts if (value := number(row, key)) is not None]
        if texts:
            found[name] = ", ".join(texts)
    if follower.seen.n_unreadable:
        found["unreadable"] = f"{follower.seen.n_unreadable:,} lines of the record"
    return found


_FACTS: dict[str, tuple[tuple[str, str], ...]] = {
    "loss": (
        ("loss", "{:.4f}"),
        ("mlm_loss", "mlm {:.4f}"),
        ("contrastive_loss", "pairs {:.4f}"),
        ("nsp_loss", "nsp {:.4f}"),
    ),
    "speed": (
        ("tokens_per_s", "{:,.0f} tokens/s"),
        ("padded_tokens_per_s", "padded {:,.0f} tokens/s"),
        ("padding_saved_pct", "{:.1f} % padding saved"),
        ("mfu_pct", "MFU {:.1f} %"),
        ("step_s", "{:.3f} s a step"),
    ),
    "memory": (("memory_gib", "{:.2f} GiB"), ("peak_memory_gib", "peak {:.2f} GiB")),
    "optimizer": (
        ("learning_rate", "learning rate {:.3g}"),
        ("gradient_norm", "gradient norm {:.3g}"),
        ("temperature", "temperature {:.3g}"),
    ),
    "pairs": (
        ("negatives_per_anchor", "{:.1f} negatives per anchor"),
        ("masked_out_pct", "{:.2f} % masked out as known positives"),
    ),
}
"""Keys of a step's row and how they are written, by the name of the line."""


def view(follower: Follower, console: Console) -> RenderableType:
    """Return all that is known, for a terminal."""
    head = Table.grid()
    head.add_row(Text(_shown(follower), style="bold", overflow="ellipsis", no_wrap=True))
    head.add_row(Text(state(follower)))
    parts: list[RenderableType] = [head]
    seen = follower.seen
    if follower.n_steps and seen.steps:
        bar = ProgressBar(follower.n_steps, min(seen.steps[-1], follower.n_steps), width=min(console.width, 80))
        head.add_row(bar)
    grid = Table.grid(padding=(0, 2))
    for name, text in facts(follower).items():
        grid.add_row(Text(name, style="dim"), Text(text))
    curve = sparkline(seen.losses, max(10, min(60, console.width - _BESIDE_CURVE)), blocks=_blocks(console))
    if curve:
        grid.add_row(Text("loss, all", style="dim"), Text(curve, no_wrap=True, overflow="ellipsis"))
    parts.append(grid)
    if seen.validations:
        parts.append(_validations(follower))
    return Group(*parts)


def _validations(follower: Follower) -> Table:
    rows = [_validation(row) for row in follower.seen.validations[-_VALIDATIONS:]]
    names = list(dict.fromkeys(name for row in rows for name in row))
    table = Table(title="validation", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for name in names:
        table.add_column(Text(name), justify="right")
    for row in rows:
        table.add_row(*(Text(row.get(name, "-")) for name in names))
    return table


def _validation(row: dict[str, object]) -> dict[str, str]:
    """Return the step and the first figures of a validation by name, as text."""
    found = {"step": f"{row['step']:,}"}
    for key in row:
        value = number(row, key)
        if key != "step" and value is not None and len(found) <= _COLUMNS:
            found[visible(key, max_chars=30).replace("\n", "\\u{a}")] = f"{value:.4f}"
    return found


def _blocks(console: Console) -> str:
    try:
        _BLOCKS.encode(console.encoding)
    except (UnicodeEncodeError, LookupError):
        return _PLAIN_BLOCKS
    return _BLOCKS


def sparkline(values: list[float | None], width: int, *, blocks: str = _BLOCKS) -> str:
    """Return a curve of one line: means over equal stretches, between their least and their greatest, and these two."""
    means = list(_means(values, width))
    known = [m for m in means if m is not None]
    if not known:
        return ""
    low, high = min(known), max(known)
    # Halves: the difference of two numbers of any size is one. Means of equal numbers differ by their rounding.
    span = high / 2 - low / 2
    is_flat = span <= 1e-12 * max(abs(low), abs(high))
    heights = [None if m is None else 0.0 if is_flat else (m / 2 - low / 2) / span for m in means]
    curve = "".join(" " if h is None else blocks[round(h * (len(blocks) - 1))] for h in heights)
    return f"{curve} {_bounded(low)} to {_bounded(high)}"


def _bounded(value: float) -> str:
    """Return a number in a few characters, however large it is."""
    return f"{value:.3f}" if abs(value) < _LARGE else f"{value:.3g}"


def _means(values: list[float | None], width: int) -> Iterator[float | None]:
    n = min(width, len(values))
    edges = [i * len(values) // n for i in range(n + 1)] if n else [0]
    for start, stop in pairwise(edges):
        known = [v for v in values[start:stop] if v is not None]
        # Each by itself: the sum of large ones is no number.
        yield sum(v / len(known) for v in known) if known else None


def duration(seconds: float) -> str:
    """Return a time in its two largest units."""
    whole = round(min(seconds, 1e9))
    days, hours, minutes = whole // 86_400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days:,} d {hours} h"
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {whole % 60:02d} s" if minutes else f"{whole} s"


def watch(run: Follower, console: Console, *, once: bool, interval_s: float | None) -> None:
    """Show the run, once or until its training is over or Ctrl-C is pressed."""
    if once:
        run.look()
        print_once(run, console)
        return
    is_live = console.is_terminal and not console.is_dumb_terminal
    follow(run, console, interval_s=interval_s or (1.0 if is_live else 15.0), sleep=time.sleep)
