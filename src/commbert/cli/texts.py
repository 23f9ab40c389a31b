"""The stages that read comments and functions."""

from typing import Any

from commbert.cli.options import In, Ins, Log, Out, Settings, Threads, Usage, app, parsed, run_stage


@app.command()
def acronyms(
    files: In,
    shards: In,
    lines: Ins,
    acronyms_out: Out,
    summary_out: Out,
    threads: Threads = 1,
    log: Log = None,
    usage: Usage = None,
) -> None:
    """Find what acronyms stand for in the comments of all shards."""

    def work() -> Any:
        from commbert.stages import acronyms as stage

        return stage.run(
            files=files,
            shards=shards,
            lines={path.parent.name: path for path in lines},
            acronyms_out=acronyms_out,
            summary_out=summary_out,
        )

    run_stage("acronyms", log, usage, work, threads)


@app.command()
def functions(
    files: In,
    shards: In,
    lines: Ins,
    out: Out,
    summary_out: Out,
    threads: Threads = 1,
    log: Log = None,
    usage: Usage = None,
) -> None:
    """Find the functions of all files, with what their comments say."""

    def work() -> Any:
        from commbert.stages import functions as stage

        lines_of = {path.parent.name: path for path in lines}
        return stage.run(files=files, shards=shards, lines=lines_of, out=out, summary_out=summary_out)

    run_stage("functions", log, usage, work, threads)


@app.command()
def texts(
    settings: Settings,
    files: In,
    functions: In,
    acronyms: In,
    tokenizer: In,
    texts_out: Out,
    pairs_out: Out,
    summary_out: Out,
    threads: Threads = 1,
    log: Log = None,
    usage: Usage = None,
) -> None:
    """Pair texts of the training files that mean the same: briefs and functions, acronyms and expansions."""

    def work() -> Any:
        from commbert.settings.texts import TextsSettings
        from commbert.stages import texts as stage

        return stage.run(
            parsed(TextsSettings, settings, "texts"),
            files=files,
            functions=functions,
            acronyms=acronyms,
            tokenizer=tokenizer,
            texts_out=texts_out,
            pairs_out=pairs_out,
            summary_out=summary_out,
        )

    run_stage("texts", log, usage, work, threads)
