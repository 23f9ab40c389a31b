"""The stages of a run, and the schema."""

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from commbert.artifacts import write_json
from commbert.cli.options import Base, In, Log, Out, Runtime, Settings, Usage, app, parsed, run_stage
from commbert.errors import EXIT_STOPPED, SettingsError
from commbert.monitoring import usable_threads
from commbert.settings.runtime import RuntimeSettings
from commbert.starter import end_with_starter


@app.command()
def model(settings: Settings, tokenizer: In, out: Out, base: Base = None, log: Log = None, usage: Usage = None) -> None:
    """Grow the base model's embeddings to the tokenizer, or draw a model anew."""

    def work() -> Any:
        from commbert.settings.model import ModelSettings
        from commbert.stages import model as stage

        return stage.run(parsed(ModelSettings, settings, "model"), base=base, tokenizer=tokenizer, out=out)

    run_stage("model", log, usage, work)


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
    texts: Annotated[Path | None, typer.Option(help="Table texts/texts, where pairs of texts are wanted.")] = None,
    text_pairs: Annotated[Path | None, typer.Option(help="Table texts/pairs; goes with --texts.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of all processes together.")] = 64,
    runtime: Runtime = "{}",
    log: Log = None,
    usage: Usage = None,
) -> None:
    """Train; goes on from its newest checkpoint. Exit code 75: stopped as asked, start again to go on."""
    from commbert.settings.training import TrainingSettings
    from commbert.training import agents, launch
    from commbert.training.stopping import listening

    run = parsed(RuntimeSettings, runtime, "runtime")
    section = parsed(TrainingSettings, settings, "training")
    if not launch.is_launched():
        end_with_starter()
        raise typer.Exit(_launch(run, section, threads=threads, checkpoints=checkpoints))
    launch.follow_launcher()
    agents.speak_for_rank()

    def work() -> Any:
        from commbert.stages import train as stage
        from commbert.training.data import DataPaths

        return stage.run(
            section,
            run,
            data=DataPaths(windows, validation_windows, pairs, validation_pairs, known, words, texts, text_pairs),
            model=model,
            corpus=corpus,
            checkpoints=checkpoints,
            best_out=best_out,
            final_out=final_out,
            metrics_out=metrics_out,
            summary_out=summary_out,
        )

    is_first = os.environ.get("RANK", "0") == "0"
    with listening():
        result = run_stage(
            "train",
            log if is_first else None,
            launch.usage_of_node(usage),
            work,
            runtime=runtime,
            root_pid=launch.tree_root(),
            resumes=True,
        )
    if result is None:
        raise typer.Exit(agents.end_of_stopped())


def _launch(run: RuntimeSettings, section: Any, *, threads: int, checkpoints: Path) -> int:
    """Start the training processes, here or on several machines, and return the exit code."""
    from commbert.training import agents, launch, nodes
    from commbert.training.locking import wait_for_turn

    n_processes = launch.process_count(run.processes, run.device)
    if agents.is_agent():
        return agents.run_agent(sys.argv[1:], n_processes=n_processes, threads=usable_threads(threads))
    if not wait_for_turn(checkpoints, run.lock_wait_s):
        return EXIT_STOPPED
    if run.nodes > 1:
        return nodes.run_on_nodes(sys.argv[1:], n_nodes=run.nodes, threads=threads, restarts=run.restarts)
    return launch.become_training(
        sys.argv[1:],
        n_processes=n_processes,
        threads=usable_threads(threads),
        most_processes=None if section.batch_per_process else section.micro_batches,
        restarts=run.restarts,
    )


@app.command()
def average(
    share: Annotated[float, typer.Option(min=0.0, max=1.0, help="Of the start model's weights.")],
    start: In,
    trained: Annotated[
        list[Path], typer.Option(help="Folder of the stage train; given once for each --out, in order.")
    ],
    out: Annotated[list[Path], typer.Option(help="Output, one for each --trained.")],
    log: Log = None,
    usage: Usage = None,
) -> None:
    """Average the trained weights with those that training started from."""

    def work() -> Any:
        from commbert.stages import average as stage

        return stage.run(share, start=start, trained=trained, out=out)

    run_stage("average", log, usage, work)


@app.command()
def evaluate(
    settings: Settings,
    files: In,
    line_words: In,
    words: In,
    known: In,
    pairs: In,
    windows: In,
    train_windows: In,
    windows_tokenizer: In,
    functions: In,
    acronyms: In,
    terms: In,
    opposites: In,
    similarity: In,
    general_text: In,
    out: Out,
    scores_out: Out,
    model: Annotated[Path | None, typer.Option(help="Evaluate this model folder.", exists=True)] = None,
    vectors: Annotated[Path | None, typer.Option(help="Evaluate this table of word vectors.", exists=True)] = None,
    by_frequency: Annotated[bool, typer.Option("--by-frequency", help="Evaluate the frequency rule.")] = False,
    pooling: Annotated[str, typer.Option(help="mean or cls.")] = "mean",
    split: Annotated[str, typer.Option(help="test, or validation (then with the validation tables).")] = "test",
    trained_head: Annotated[bool, typer.Option(help="The folder's MLM head was trained: measure it.")] = False,
    trained_nsp: Annotated[bool, typer.Option(help="The folder's NSP head was trained: measure it.")] = False,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 64,
    runtime: Runtime = "{}",
    log: Log = None,
    usage: Usage = None,
) -> None:
    """Measure a model, a baseline's word vectors or the frequency rule on a held-out split."""
    os.environ["OMP_NUM_THREADS"] = str(usable_threads(threads))

    def work() -> Any:
        from commbert.settings.evaluation import EvaluationSettings
        from commbert.settings.runtime import RuntimeSettings
        from commbert.stages import evaluate as stage
        from commbert.stages import subjects as of

        subjects: list[of.Subject] = []
        if model is not None:
            device = parsed(RuntimeSettings, runtime, "runtime").device
            subjects.append(of.ModelSubject(model, pooling, trained_head, device, trained_nsp))
        if vectors is not None:
            subjects.append(of.VectorsSubject(vectors))
        if by_frequency:
            subjects.append(of.FrequencySubject())
        if len(subjects) != 1:
            raise SettingsError(
                f"expected one of --model, --vectors and --by-frequency, found {len(subjects)}. Give one of them."
            )
        _one_of("--pooling", pooling, ("mean", "cls"))
        _one_of("--split", split, ("test", "validation"))
        return stage.run(
            parsed(EvaluationSettings, settings, "evaluation"),
            subject=subjects[0],
            data=of.EvaluationPaths(
                files=files,
                line_words=line_words,
                words=words,
                known=known,
                pairs=pairs,
                windows=windows,
                train_windows=train_windows,
                windows_tokenizer=windows_tokenizer,
                functions=functions,
                acronyms=acronyms,
                terms=terms,
                opposites=opposites,
                similarity=similarity,
                general_text=general_text,
            ),
            split=split,
            out=out,
            scores_out=scores_out,
        )

    run_stage("evaluate", log, usage, work, runtime=runtime)


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
    card_out: Out,
    settings_out: Out,
    loss_out: Out,
    figures_out: Out,
    optimizer_out: Out,
    timeline_out: Out,
    figures_table_out: Out,
    stages_table_out: Out,
    embedding_map: Annotated[Path | None, typer.Option(help="SVG of the words on a plane, to be shown.")] = None,
    own_usage_folder: Annotated[Path | None, typer.Option(help="Usage of stages whose tables only it reads.")] = None,
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
                *(ingest, words, receipts, windows, pairs, training, metrics, model, evaluation, usage_folder),
                others=others,
                embedding_map=embedding_map,
                own_usage_folder=own_usage_folder,
            ),
            outputs=stage.ReportOutputs(
                *(markdown_out, json_out, html_out, card_out, settings_out),
                *(loss_out, figures_out, optimizer_out, timeline_out, figures_table_out, stages_table_out),
            ),
        )

    run_stage("report", log, usage, work)


@app.command()
def sweep(
    settings: Settings,
    plan: Annotated[str, typer.Option(help="Rows by name, JSON: what each changes, and its runs.")],
    runs: Annotated[Path, typer.Option(help="Folder of the runs.", exists=True, file_okay=False)],
    baselines: Annotated[Path, typer.Option(help="Folder of base and baselines.", exists=True, file_okay=False)],
    markdown_out: Out,
    json_out: Out,
    html_out: Out,
    pareto_out: Out,
    other: Annotated[list[str] | None, typer.Option(help="Name of a baseline; one row each.")] = None,
    share: Annotated[list[float] | None, typer.Option(help="Share of the start weights; one point each.")] = None,
    log: Log = None,
    usage: Usage = None,
) -> None:
    """Compare all ablations with the reference run, the first of the plan."""

    def work() -> Any:
        from commbert.settings.evaluation import EvaluationSettings
        from commbert.stages import sweep as stage

        rows = {
            name: stage.SweptRun(
                changes,
                [runs / run / "validation.json" for run in names],
                [runs / run / "training.json" for run in names],
            )
            for name, (changes, names) in _rows_of(plan).items()
        }
        if not {"base", "untrained"} & {*(other or [])}:
            raise SettingsError(
                "--other: expected base or untrained among the baselines, found none. Give --other base."
            )
        reference = next(iter(rows))
        return stage.run(
            parsed(EvaluationSettings, settings, "evaluation"),
            reference=reference,
            runs=rows,
            others={name: baselines / name / "validation.json" for name in other or []},
            averages={a: runs / reference / "averages" / str(a) / "validation.json" for a in share or []},
            outputs=stage.SweepOutputs(markdown_out, json_out, html_out, pareto_out),
        )

    run_stage("sweep", log, usage, work)


def _one_of(option: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise SettingsError(f"{option}: expected {' or '.join(known)}, found {value!a}. Give one of them.")


def _rows_of(plan: str) -> dict[str, tuple[dict[str, Any], list[str]]]:
    """Return what each row of a sweep changes, and its runs."""
    try:
        rows = {
            name: (dict(row["changes"]), [str(run) for run in row["runs"]]) for name, row in json.loads(plan).items()
        }
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise SettingsError(
            f"--plan: expected JSON of rows with changes and runs, found {plan[:60]!a} ({error})."
        ) from error
    if not rows or not all(runs for _, runs in rows.values()):
        raise SettingsError("--plan: expected at least one row, each with at least one run, found none. Add runs.")
    return rows


@app.command()
def schema(
    out: Out, of: Annotated[str, typer.Option(help="config (config.yaml) or report (the JSON report).")] = "config"
) -> None:
    """Write the JSON schema of config.yaml, for editors, or of the JSON report, for its readers."""
    from commbert.reporting.schema import json_schema as report_schema
    from commbert.settings.config import json_schema

    _one_of("--of", of, ("config", "report"))
    write_json(out, report_schema() if of == "report" else json_schema())
