"""Before and after: ``commbert compare``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from commbert.cli.inspect import console
from commbert.cli.options import Log, Runtime, Usage, app, parsed, run_stage
from commbert.monitoring import usable_threads

if TYPE_CHECKING:
    from commbert.inference.comparison import Comparison

_ON = (
    "A file to compare on, any number: KIND:FILE with KIND text, code, questions, similarity, pairs, terms or "
    "labelled (classifiers and scorers: columns text, label); without KIND, columns and suffix tell."
)


@app.command()
def compare(
    model_a: Annotated[Path, typer.Argument(help="Folder of the model before.")],
    model_b: Annotated[Path, typer.Argument(help="Folder of the model after.")],
    on: Annotated[list[str], typer.Option(help=_ON)],
    json: Annotated[Path | None, typer.Option(help="Write all figures to this JSON file; - prints them.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write the tables to this Markdown file.")] = None,
    name_a: Annotated[str | None, typer.Option(help="What the first model is called; its folder if not given.")] = None,
    name_b: Annotated[str | None, typer.Option(help="What the second model is called.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or mps; that of runtime if not given.")] = None,
    bootstrap: Annotated[int, typer.Option(min=100, max=100_000, help="Resamples for the intervals.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Draws the hidden words and the resamples.")] = 17,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads, at most.")] = 64,
    runtime: Runtime = "{}",
    log: Log = None,
    usage: Usage = None,
) -> None:
    """Compare two models: each figure of both, their difference, and whether it is outside of noise.

    Masked figures hide the same whole words from both, so that different vocabularies compare per word and character.
    """

    def work() -> Any:
        from commbert.artifacts import write_json, write_text
        from commbert.inference.comparedfiles import told_file
        from commbert.inference.comparedtables import markdown as as_markdown
        from commbert.inference.comparing import compare as compare_models
        from commbert.inference.models import load_model
        from commbert.inspection.showing import json_line
        from commbert.settings.runtime import RuntimeSettings

        on_device = device or parsed(RuntimeSettings, runtime, "runtime").device
        files = [told_file(given) for given in on]
        a, b = (load_model(folder, device=on_device) for folder in (model_a, model_b))
        names = (name_a or str(model_a), name_b or str(model_b))
        found = compare_models(a, b, files, names=names, n_resamples=bootstrap, seed=seed)
        if markdown is not None:
            write_text(markdown, as_markdown(found))
        if json is None or str(json) != "-":
            _print(found)
        if json is not None and str(json) == "-":
            typer.echo(json_line(found.as_dict()))
        elif json is not None:
            write_json(json, found.as_dict())
        return True

    run_stage("compare", log, usage, work, usable_threads(threads))


def _print(found: "Comparison") -> None:
    from commbert.inference.comparedtables import HEADER, by_file, cells
    from commbert.inspection.showing import grid, visible

    terminal = console(None)
    for letter, name in zip("AB", found.names, strict=True):
        terminal.print(visible(f"{letter}: {name}"))
    for title, rows in by_file(found.rows):
        terminal.print()
        terminal.print(visible(title))
        table = [[visible(cell) for cell in cells(row)] for row in rows]
        terminal.print(grid(HEADER, table, right=set(HEADER[1:-1])))
    for note in found.notes:
        terminal.print(visible(note))
