"""The ``commbert`` command: one subcommand per stage. Stages are imported when called, so that each starts fast."""

import json
import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from commbert import __version__
from commbert.artifacts import free_gib, write_json
from commbert.errors import EXIT_STOPPED, EXIT_USER_ERROR, CommbertError, SettingsError
from commbert.monitoring import measured, usable_threads
from commbert.settings.base import Section
from commbert.settings.config import section_from_json

_log = logging.getLogger("commbert")
app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Domain embeddings from telecom source code. Usually called by Snakemake; every stage also runs alone.",
)
S = TypeVar("S", bound=Section)
Settings = Annotated[str, typer.Option(help="The stage's section of the configuration, as JSON, or a JSON file.")]
Log = Annotated[Path | None, typer.Option(help="Also write messages to this file.")]
Usage = Annotated[Path | None, typer.Option(help="Write time and memory of the stage to this JSON file.")]
In = Annotated[Path, typer.Option(help="Input.")]
Out = Annotated[Path, typer.Option(help="Output.")]
Runtime = Annotated[
    str, typer.Option(envvar="COMMBERT_RUNTIME", help="The section runtime, as JSON; changes no result.")
]


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        typer.echo(f"commbert {__version__}")
        raise typer.Exit


def _section(section: type[S], text: str, name: str) -> S:
    if text.startswith("@") or text.endswith(".json"):
        try:
            text = Path(text.removeprefix("@")).read_text(encoding="utf-8")
        except OSError as error:
            raise SettingsError(f"--settings: {error}.") from error
    return section_from_json(section, text, where=name)


def _run(stage: str, log: Path | None, usage: Path | None, work: Callable[[], Any]) -> Any:
    """Run a stage with its log and its usage record."""
    _set_up_logging(log)
    began = time.time()
    with measured() as used:
        result = work()
    if usage is not None:
        write_json(usage, {"stage": stage, "began_unix_s": round(began, 1), **used.as_dict()})
    if isinstance(result, dict):
        _log.info("%s: done in %.1f s", stage, used.wall_s)
    return result


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

        timeout_s = _section(RuntimeSettings, runtime, "runtime").fetch_timeout_s
        return stage.run(_section(WheelSource, source, "corpus.sources"), out=out, timeout_s=timeout_s)

    _run("fetch", log, usage, work)


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

        timeout_s = _section(RuntimeSettings, runtime, "runtime").fetch_timeout_s
        model = _section(ModelSettings, json.dumps({"base": json.loads(source)}), "model")
        return stage.run(model.base, out=out, timeout_s=timeout_s)

    _run("base", log, usage, work)


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
            _section(CorpusSettings, settings, "corpus"),
            wheels=wheels,
            files_out=files_out,
            lines_out=lines_out,
            summary_out=summary_out,
        )

    _run("ingest", log, usage, work)


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
            _section(WordsSettings, settings, "words"),
            files=files,
            lines=lines,
            words_out=words_out,
            line_words_out=line_words_out,
            english_out=english_out,
            summary_out=summary_out,
        )

    _run("words", log, usage, work)


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
            _section(TokenizerSettings, settings, "tokenizer"),
            base=base,
            files=files,
            lines=lines,
            corpus_words=corpus_words,
            english=english,
            tokenizer_out=tokenizer_out,
            words_out=words_out,
            receipts_out=receipts_out,
        )

    _run("tokenizer", log, usage, work)


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
            _section(WindowsSettings, settings, "windows"),
            files=files,
            lines=lines,
            tokenizer=tokenizer,
            out={"train": train_out, "validation": validation_out, "test": test_out},
            summary_out=summary_out,
        )

    _run("windows", log, usage, work)


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
            _section(PairsSettings, settings, "pairs"),
            files=files,
            line_words=line_words,
            words=words,
            out={"train": train_out, "validation": validation_out, "test": test_out},
            known_out=known_out,
            summary_out=summary_out,
        )

    _run("pairs", log, usage, work)


@app.command()
def model(settings: Settings, base: In, tokenizer: In, out: Out, log: Log = None, usage: Usage = None) -> None:
    """Grow the base model's embeddings to the tokenizer."""

    def work() -> Any:
        from commbert.settings.model import ModelSettings
        from commbert.stages import model as stage

        return stage.run(_section(ModelSettings, settings, "model"), base=base, tokenizer=tokenizer, out=out)

    _run("model", log, usage, work)


@app.command()
def train(
    settings: Settings,
    model: In,
    windows: In,
    validation_windows: In,
    pairs: In,
    validation_pairs: In,
    known: In,
    words: In,
    corpus: In,
    checkpoints: Annotated[Path, typer.Option(help="Folder of resumable state; kept when training fails or stops.")],
    best_out: Out,
    final_out: Out,
    metrics_out: Out,
    summary_out: Out,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of all processes together.")] = 64,
    runtime: Runtime = "{}",
    log: Log = None,
    usage: Usage = None,
) -> None:
    """Train; goes on from its newest checkpoint. Exit code 75: stopped as asked, start again to go on."""
    from commbert.settings.runtime import RuntimeSettings
    from commbert.settings.training import TrainingSettings
    from commbert.training import launch

    run = _section(RuntimeSettings, runtime, "runtime")
    section = _section(TrainingSettings, settings, "training")
    if not launch.is_launched():
        launch.become_training(
            sys.argv[1:],
            n_processes=launch.process_count(run.processes, run.device),
            threads=usable_threads(threads),
            micro_batches=section.micro_batches,
        )

    def work() -> Any:
        from commbert.stages import train as stage
        from commbert.training.data import DataPaths

        return stage.run(
            section,
            run,
            data=DataPaths(windows, validation_windows, pairs, validation_pairs, known, words),
            model=model,
            corpus=corpus,
            checkpoints=checkpoints,
            best_out=best_out,
            final_out=final_out,
            metrics_out=metrics_out,
            summary_out=summary_out,
        )

    is_first = os.environ.get("RANK", "0") == "0"
    if _run("train", log if is_first else None, usage if is_first else None, work) is None:
        raise typer.Exit(EXIT_STOPPED)


@app.command()
def evaluate(
    settings: Settings,
    model: In,
    files: In,
    line_words: In,
    words: In,
    known: In,
    pairs: In,
    windows: In,
    train_windows: In,
    windows_tokenizer: In,
    out: Out,
    scores_out: Out,
    pooling: Annotated[str, typer.Option(help="mean or cls.")] = "mean",
    split: Annotated[str, typer.Option(help="test, or validation (then with the validation tables).")] = "test",
    trained_head: Annotated[bool, typer.Option(help="The folder's MLM head was trained: measure it.")] = False,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 64,
    runtime: Runtime = "{}",
    log: Log = None,
    usage: Usage = None,
) -> None:
    """Measure a model on the held-out test split."""
    os.environ["OMP_NUM_THREADS"] = str(usable_threads(threads))

    def work() -> Any:
        from commbert.settings.evaluation import EvaluationSettings
        from commbert.settings.runtime import RuntimeSettings
        from commbert.stages import evaluate as stage

        return stage.run(
            _section(EvaluationSettings, settings, "evaluation"),
            model=model,
            pooling=pooling,
            has_trained_head=trained_head,
            data=stage.EvaluationPaths(
                files, line_words, words, known, pairs, windows, train_windows, windows_tokenizer
            ),
            split=split,
            device=_section(RuntimeSettings, runtime, "runtime").device,
            out=out,
            scores_out=scores_out,
        )

    _run("evaluate", log, usage, work)


@app.command()
def report(
    run: Annotated[str, typer.Option(help="Name of the run.")],
    config: Annotated[str, typer.Option(help="All settings of the run, as JSON; printed.")],
    ingest: In,
    words: In,
    receipts: In,
    windows: In,
    pairs: In,
    training: In,
    metrics: In,
    model: In,
    evaluation: In,
    usage_folder: In,
    markdown_out: Out,
    json_out: Out,
    html_out: Out,
    loss_out: Out,
    figures_out: Out,
    other: Annotated[
        list[str] | None, typer.Option(help="NAME=FILE of another evaluation.json; one column each.")
    ] = None,
    log: Log = None,
    usage: Usage = None,
) -> None:
    """Render the report of a run as Markdown, JSON and HTML, and its model card."""

    def work() -> Any:
        from commbert.stages import report as stage

        others = {name: Path(path) for name, _, path in (o.partition("=") for o in other or [])}
        return stage.run(
            run,
            config=config,
            inputs=stage.ReportInputs(
                ingest, words, receipts, windows, pairs, training, metrics, model, evaluation, usage_folder, others
            ),
            outputs=stage.ReportOutputs(markdown_out, json_out, html_out, loss_out, figures_out),
        )

    _run("report", log, usage, work)


@app.command()
def schema(out: Out) -> None:
    """Write the JSON schema of config.yaml, for editors."""
    from commbert.settings.config import json_schema

    write_json(out, json_schema())


class _OneLine(logging.Formatter):
    """Control characters in messages are shown, not sent to the terminal."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return "".join(c if c.isprintable() or c in "\n\t" else f"\\x{ord(c):02x}" for c in text)


def _set_up_logging(log: Path | None) -> None:
    root = logging.getLogger("commbert")
    root.setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.ERROR)
    root.propagate = False
    for handler in root.handlers[:]:
        root.removeHandler(handler)
    screen = logging.StreamHandler(sys.stderr)
    screen.setFormatter(_OneLine("%(message)s"))
    root.addHandler(screen)
    if log is not None:
        log.parent.mkdir(parents=True, exist_ok=True)
        file = logging.FileHandler(log, mode="w", encoding="utf-8")
        file.setFormatter(_OneLine("%(asctime)s %(levelname)s %(message)s"))
        root.addHandler(file)


def main() -> None:
    """Run the command line; a user's mistake ends in one message and exit code 1, without a traceback."""
    if not logging.getLogger("commbert").handlers:
        _set_up_logging(None)
    try:
        app()
    except CommbertError as error:
        _log.error("error: %s", error)
        sys.exit(EXIT_USER_ERROR)
    except OSError as error:
        if error.filename is None:
            _log.exception("unexpected error")
            sys.exit(EXIT_USER_ERROR)
        where = Path(os.fsdecode(error.filename))
        _log.error("error: %s: %s (%.2f GiB free on that disk).", where, error.strerror, free_gib(where.absolute()))
        sys.exit(EXIT_USER_ERROR)
    except Exception:
        # A bug of ours: the traceback belongs in the log, next to the stage that hit it.
        _log.exception("unexpected error; please report it")
        sys.exit(EXIT_USER_ERROR)
