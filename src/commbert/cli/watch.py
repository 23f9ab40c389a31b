"""``commbert watch``: a training seen from another terminal."""

import contextlib
import io
import sys
from pathlib import Path
from typing import Annotated

import typer

from commbert.cli.options import app
from commbert.errors import SettingsError


@app.command()
def watch(
    run: Annotated[Path, typer.Argument(help="Folder of the run, as results/runs/final; it need not exist yet.")],
    once: Annotated[bool, typer.Option("--once", help="Show what there is now, and end.")] = False,
    interval_s: Annotated[
        float | None,
        typer.Option(min=0.05, max=86_400.0, help="Seconds between two looks; 1 on a terminal, 15 elsewhere."),
    ] = None,
) -> None:
    """Follow a training from another terminal, until it is over or Ctrl-C is pressed; training does not notice.

    Shows how far it is, the last figures, the curve of the loss and the last validations; plain lines where the output
    is no terminal.
    """
    from rich.console import Console

    from commbert.inspection.following import Follower
    from commbert.inspection.watching import watch as show

    if run.exists() and not run.is_dir():
        raise SettingsError(f"{run}: expected the folder of a run, found a file. Give its folder.")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that is not UTF-8 shows \u.. for what it lacks
    console = Console(highlight=False, markup=False, emoji=False)
    with contextlib.suppress(KeyboardInterrupt):  # the way to end it
        show(Follower(run), console, once=once, interval_s=interval_s)
