"""The data stages."""

from pathlib import Path
from typing import Annotated, Any

import typer

from commbert.cli.options import Base, In, Ins, Log, Out, Runtime, Settings, Threads, Usage, app, parsed, run_stage
from commbert.settings.baselines import BaselineKind


@app.command()
def fetch(
    source: Annotated[str, typer.Option(help="The source's settings, as JSON.")],
    out: Out,
    downloaded: Annotated[Path | None, typer.Option("--from", help="The downloaded file of an archive.")] = None,
    git: Annotated[str, typer.Option(help="corpus.git, as JSON.")] = "{}",
    runtime: Runtime = "{}",
    log: Log = None,
    usage: Usage = None,
) -> None:
    """Fetch one corpus source: a wheel, a git repository, a downloaded archive."""

    def work() -> Any:
        from commbert.settings.corpus import GitRules, ShardSettings
        from commbert.settings.runtime import RuntimeSettings
        from commbert.stages import fetch as stage

        timeout_s = parsed(RuntimeSettings, runtime, "runtime").fetch_timeout_s
        # The kinds of source are told apart by the section that holds them; text that is no JSON is refused there too.
        one = parsed(ShardSettings, f'{{"source": {source or "null"}, "cleaning": {{}}}}', "corpus.sources").source
        rules = parsed(GitRules, git, "corpus.git")
        return stage.run(one, out=out, timeout_s=timeout_s, downloaded=downloaded, git=rules)

    run_stage("fetch", log, usage, work, runtime=runtime)


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

    run_stage("base", log, usage, work, runtime=runtime)


@app.command()
def ingest(
    settings: Settings,
    files_out: Out,
    lines_out: Out,
    summary_out: Out,
    shard: Annotated[int, typer.Option(min=0, help="Number of the shard of the source.")] = 0,
    fetched: Annotated[Path | None, typer.Option(help="What the stage fetch made of the source.")] = None,
    threads: Threads = 1,
    log: Log = None,
    usage: Usage = None,
) -> None:
    """Read one shard of a source into files and lines."""

    def work() -> Any:
        from commbert.settings.corpus import ShardSettings
        from commbert.stages import ingest as stage

        return stage.run(
            parsed(ShardSettings, settings, "corpus"),
            shard=shard,
            fetched=fetched,
            files_out=files_out,
            lines_out=lines_out,
            summary_out=summary_out,
        )

    run_stage("ingest", log, usage, work, threads)


@app.command()
def corpus(
    settings: Settings,
    shard_files: Ins,
    shard_summary: Ins,
    files_out: Out,
    shards_out: Out,
    summary_out: Out,
    threads: Threads = 1,
    log: Log = None,
    usage: Usage = None,
) -> None:
    """Gather all shards: drop copies, deal the files to train, validation and test."""

    def work() -> Any:
        from commbert.settings.corpus import GatheringSettings
        from commbert.stages import corpus as stage

        return stage.run(
            parsed(GatheringSettings, settings, "corpus"),
            shards=[stage.ShardPaths(f, s) for f, s in zip(shard_files, shard_summary, strict=True)],
            files_out=files_out,
            shards_out=shards_out,
            summary_out=summary_out,
        )

    run_stage("corpus", log, usage, work, threads)


@app.command()
def lex(
    settings: Settings,
    lines: In,
    out: Out,
    base: Base = None,
    lower_case: Annotated[bool, typer.Option("--lower-case/--keep-case", help="Where there is no base.")] = True,
    threads: Threads = 1,
    log: Log = None,
    usage: Usage = None,
) -> None:
    """Cut the lines of one shard into words and pre-tokens, as numbers."""

    def work() -> Any:
        from commbert.settings.words import WordSettings
        from commbert.stages import lex as stage

        section = parsed(WordSettings, settings, "words")
        return stage.run(section, base=base, lower_case=lower_case, lines=lines, out=out)

    run_stage("lex", log, usage, work, threads)


@app.command()
def words(
    settings: Settings,
    files: In,
    shards: In,
    lexed: Ins,
    words_out: Out,
    english_out: Out,
    summary_out: Out,
    threads: Threads = 1,
    log: Log = None,
    usage: Usage = None,
) -> None:
    """Count and number the words of all shards."""

    def work() -> Any:
        from commbert.settings.words import WordsSettings
        from commbert.stages import words as stage

        return stage.run(
            parsed(WordsSettings, settings, "words"),
            files=files,
            shards=shards,
            folders={folder.name: folder for folder in lexed},
            words_out=words_out,
            english_out=english_out,
            summary_out=summary_out,
        )

    run_stage("words", log, usage, work, threads)


@app.command()
def tokenizer(
    settings: Settings,
    files: In,
    shards: In,
    lexed: Ins,
    corpus_words: In,
    english: In,
    tokenizer_out: Out,
    words_out: Out,
    receipts_out: Out,
    base: Base = None,
    threads: Threads = 1,
    log: Log = None,
    usage: Usage = None,
) -> None:
    """Grow the tokenizer by words of the code, or learn one, and prove it."""

    def work() -> Any:
        from commbert.settings.tokenizer import TokenizerSettings
        from commbert.stages import tokenizer as stage

        return stage.run(
            parsed(TokenizerSettings, settings, "tokenizer"),
            base=base,
            files=files,
            shards=shards,
            folders={folder.name: folder for folder in lexed},
            corpus_words=corpus_words,
            english=english,
            tokenizer_out=tokenizer_out,
            words_out=words_out,
            receipts_out=receipts_out,
        )

    run_stage("tokenizer", log, usage, work, threads)


@app.command()
def windows(
    settings: Settings,
    files: In,
    shards: In,
    lexed: In,
    tokenizer: In,
    train_out: Out,
    validation_out: Out,
    test_out: Out,
    hashes_out: Out,
    summary_out: Out,
    threads: Threads = 1,
    log: Log = None,
    usage: Usage = None,
) -> None:
    """Cut the lines of one shard into windows."""

    def work() -> Any:
        from commbert.settings.windows import WindowsSettings
        from commbert.stages import windows as stage

        return stage.run(
            parsed(WindowsSettings, settings, "windows"),
            files=files,
            shards=shards,
            lexed=lexed,
            tokenizer=tokenizer,
            out=stage.ShardWindows(
                {"train": train_out, "validation": validation_out, "test": test_out}, hashes_out, summary_out
            ),
        )

    run_stage("windows", log, usage, work, threads)


@app.command("list-windows")
def list_windows(
    train: Ins,
    validation: Ins,
    test: Ins,
    hashes: Ins,
    shard_summary: Ins,
    train_out: Out,
    validation_out: Out,
    test_out: Out,
    summary_out: Out,
    threads: Threads = 1,
    log: Log = None,
    usage: Usage = None,
) -> None:
    """List the windows of all shards, and measure what leaks from training."""

    def work() -> Any:
        from commbert.stages import windows as stage

        columns = zip(train, validation, test, hashes, shard_summary, strict=True)
        parts = [
            stage.ShardWindows({"train": a, "validation": b, "test": c}, hashed, told)
            for a, b, c, hashed, told in columns
        ]
        out = {"train": train_out, "validation": validation_out, "test": test_out}
        return stage.gather(parts, out=out, summary_out=summary_out)

    run_stage("list-windows", log, usage, work, threads)


@app.command()
def draw(
    settings: Settings,
    files: In,
    shards: In,
    lexed: In,
    words: In,
    out: Out,
    threads: Threads = 1,
    log: Log = None,
    usage: Usage = None,
) -> None:
    """Draw positive pairs from the lines of one shard."""

    def work() -> Any:
        from commbert.settings.pairs import PairsSettings
        from commbert.stages import draw as stage

        section = parsed(PairsSettings, settings, "pairs")
        return stage.run(section, files=files, shards=shards, lexed=lexed, words=words, out=out)

    run_stage("draw", log, usage, work, threads)


@app.command()
def pairs(
    settings: Settings,
    files: In,
    drawn: Ins,
    words: In,
    train_out: Out,
    validation_out: Out,
    test_out: Out,
    known_out: Out,
    heldout_lines_out: Out,
    summary_out: Out,
    threads: Threads = 1,
    log: Log = None,
    usage: Usage = None,
) -> None:
    """Choose the word pairs of every split from what was drawn, with their negatives."""

    def work() -> Any:
        from commbert.settings.pairs import PairsSettings
        from commbert.stages import pairs as stage

        return stage.run(
            parsed(PairsSettings, settings, "pairs"),
            folders=drawn,
            files=files,
            words=words,
            out=stage.PairsOutputs(
                {"train": train_out, "validation": validation_out, "test": test_out},
                known=known_out,
                heldout_lines=heldout_lines_out,
                summary=summary_out,
            ),
        )

    run_stage("pairs", log, usage, work, threads)


@app.command()
def baseline(
    kind: Annotated[BaselineKind, typer.Option(help="From the lines that words share, or from their spelling.")],
    settings: Settings,
    pairs_settings: Annotated[str, typer.Option(help="The section pairs, as JSON: long lines and keywords.")],
    files: In,
    shards: In,
    lexed: Ins,
    corpus_words: In,
    words: In,
    vectors_out: Out,
    summary_out: Out,
    threads: Threads = 1,
    log: Log = None,
    usage: Usage = None,
) -> None:
    """Make word vectors without a language model, to measure the model against."""

    def work() -> Any:
        from commbert.settings.baselines import BaselinesSettings
        from commbert.settings.pairs import PairsSettings
        from commbert.stages import baseline as stage

        folders = {folder.name: folder for folder in lexed}
        return stage.run(
            parsed(BaselinesSettings, settings, "baselines"),
            parsed(PairsSettings, pairs_settings, "pairs"),
            kind=kind,
            data=stage.BaselinePaths(files, shards, folders, corpus_words, words),
            vectors_out=vectors_out,
            summary_out=summary_out,
        )

    run_stage("baseline", log, usage, work, threads)
