"""The stage that shows a run's words."""

from pathlib import Path
from typing import Annotated, Any

import typer

from commbert.cli.options import In, Ins, Log, Out, Runtime, Settings, Usage, app, parsed, run_stage
from commbert.errors import SettingsError
from commbert.monitoring import usable_threads


@app.command()
def explore(
    settings: Settings,
    run: Annotated[str, typer.Option(help="Name of the run; printed.")],
    base: Annotated[Path, typer.Option(help="Folder of the base model.", exists=True, file_okay=False)],
    model: Annotated[Path, typer.Option(help="Folder of the run's model.", exists=True, file_okay=False)],
    words: In,
    corpus_words: In,
    files: In,
    shards: In,
    lexed: Ins,
    vectors_out: Out,
    projector_vectors_out: Out,
    projector_metadata_out: Out,
    word2vec_out: Out,
    page_out: Out,
    map_out: Out,
    figure_out: Out,
    summary_out: Out,
    base_pooling: Annotated[str, typer.Option(help="mean or cls.")] = "mean",
    base_name: Annotated[str, typer.Option(help="What the run started from; printed.")] = "base model",
    pooling: Annotated[str, typer.Option(help="mean or cls.")] = "mean",
    telling: Annotated[list[str] | None, typer.Option(help="A word to show without asking; any number.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 64,
    runtime: Runtime = "{}",
    log: Log = None,
    usage: Usage = None,
) -> None:
    """Show a run's words: a page of neighbours beside the base model, vectors for other programs, a map."""

    def work() -> Any:
        from commbert.reporting.vectors import VectorFiles
        from commbert.settings.explore import ExploreSettings
        from commbert.settings.runtime import RuntimeSettings
        from commbert.stages import explore as stage

        return stage.run(
            parsed(ExploreSettings, settings, "explore"),
            run,
            base=stage.ExploredModel(base, _pooling("--base-pooling", base_pooling)),
            model=stage.ExploredModel(model, _pooling("--pooling", pooling)),
            base_name=base_name,
            telling=telling or [],
            device=parsed(RuntimeSettings, runtime, "runtime").device,
            data=stage.ExploreInputs(words, corpus_words, files, shards, {path.name: path for path in lexed}),
            out=stage.ExploreOutputs(
                VectorFiles(vectors_out, projector_vectors_out, projector_metadata_out, word2vec_out),
                page_out,
                map_out,
                figure_out,
                summary_out,
            ),
        )

    run_stage("explore", log, usage, work, usable_threads(threads))


def _pooling(option: str, value: str) -> str:
    if value not in ("mean", "cls"):
        raise SettingsError(f"{option}: expected mean or cls, found {value!a}. Give one of them.")
    return value
