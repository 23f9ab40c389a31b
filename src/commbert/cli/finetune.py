"""Fine-tuning from a labelled table, by the workflow or by hand."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from commbert.cli.options import In, Log, Out, Runtime, Usage, app, parsed, run_stage
from commbert.errors import SettingsError
from commbert.monitoring import usable_threads
from commbert.settings.base import merged

_MADE = {
    "checkpoints": "checkpoint",
    "best_out": "best",
    "final_out": "final",
    "evaluation_out": "evaluation.json",
}
Made = Annotated[Path | None, typer.Option(help="Output; by default below --out.")]


@app.command()
def finetune(
    table: Annotated[Path, typer.Argument(help="CSV or TSV file with a header, a text column and a label column.")],
    model: Annotated[Path, typer.Option("--model", "-m", help="Folder of the encoder to start from.")] = Path(
        "results/runs/final/final"
    ),
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder of everything that is made, with a report in it.")
    ] = None,
    settings: Annotated[
        str, typer.Option(help="Section of the fine-tuning, as JSON, or a JSON file; the options below come on top.")
    ] = "{}",
    text_column: Annotated[str | None, typer.Option(help="Column of the text.")] = None,
    label_column: Annotated[str | None, typer.Option(help="Column of the class or score.")] = None,
    split_column: Annotated[
        str | None, typer.Option(help="Column that says train, validation, test; else 10 % each are drawn.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="classification, or scoring: the label is a number.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training rows, at most.")] = None,
    batch: Annotated[int | None, typer.Option(help="Rows of a step.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="At the end of the warm-up.")] = None,
    max_length: Annotated[int | None, typer.Option(help="Tokens of a text; longer ones are cut.")] = None,
    best_metric: Annotated[
        str | None, typer.Option(help="macro_f1, accuracy, weighted_f1, loss; mae, rmse ...")
    ] = None,
    patience: Annotated[int | None, typer.Option(help="Epochs without gain before stopping.")] = None,
    class_weights: Annotated[str | None, typer.Option(help="none or balanced.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of split, head, order and dropout.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or mps.")] = None,
    checkpoints: Annotated[
        Path | None, typer.Option(help="Folder of resumable state; kept when training fails or stops.")
    ] = None,
    best_out: Made = None,
    final_out: Made = None,
    evaluation_out: Made = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 64,
    runtime: Runtime = "{}",
    log: Log = None,
    usage: Usage = None,
) -> None:
    """Teach a model the classes or scores of a table; started again after a stop, it goes on from its last epoch."""
    from commbert.settings.finetune import FinetuneSettings
    from commbert.settings.runtime import RuntimeSettings

    given = {
        "text": text_column,
        "label": label_column,
        "task": task,
        "epochs": epochs,
        "batch": batch,
        "learning_rate": learning_rate,
        "max_length": max_length,
        "best_metric": best_metric,
        "patience": patience,
        "class_weights": class_weights,
        "seed": seed,
    }
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if split_column is not None:
        changes["split"] = {"column": split_column}
    section = parsed(FinetuneSettings, settings, "finetune")
    section = parsed(FinetuneSettings, json.dumps(merged(section.model_dump(mode="json"), changes)), "finetune")
    run = parsed(RuntimeSettings, runtime, "runtime")
    if device is not None:
        run = parsed(RuntimeSettings, json.dumps({**run.model_dump(mode="json"), "device": device}), "runtime")
    made = _made(out, checkpoints=checkpoints, best_out=best_out, final_out=final_out, evaluation_out=evaluation_out)
    n_threads = usable_threads(threads)

    def work() -> Any:
        from commbert.stages import findings
        from commbert.stages import finetune as stage

        result = stage.run(section, run, paths=stage.FinetunePaths(table=table, model=model, **made), threads=n_threads)
        if out is not None:
            findings.run(
                evaluation=made["evaluation_out"],
                report_out=out / "report.md",
                outcome_out=out / "test.svg",
                curves_out=out / "curves.svg",
            )
        return result

    result = run_stage("finetune", log, usage, work, n_threads, resumes=True)
    if out is not None:
        typer.echo(_told(result, out))


def _made(out: Path | None, **paths: Path | None) -> dict[str, Path]:
    """Return the output paths: as given, else below the folder ``out``."""
    if out is None and None in paths.values():
        raise SettingsError(
            "finetune: expected --out (a folder for everything), or --checkpoints, --best-out, --final-out and "
            "--evaluation-out."
        )
    return {name: path or (out or Path()) / _MADE[name] for name, path in paths.items()}


def _told(result: dict[str, Any], out: Path) -> str:
    figures = result["test"]["best"]["figures"]
    shown = {"accuracy": "accuracy", "macro_f1": "macro F1", "mae": "MAE", "spearman": "Spearman"}
    told = [
        f"{label} {figures[key]['value']:.3f} [{figures[key]['low']:.3f}, {figures[key]['high']:.3f}]"
        for key, label in shown.items()
        if key in figures and figures[key]["value"] is not None
    ]
    n = result["table"]["rows"]["test"]
    return f"{', '.join(told)} on {n} test rows. Model: {out / 'best'}. Report: {out / 'report.md'}"


@app.command()
def findings(
    evaluation: In, report_out: Out, outcome_out: Out, curves_out: Out, log: Log = None, usage: Usage = None
) -> None:
    """Write the report of a fine-tuning: figures, confusion table, curves."""

    def work() -> Any:
        from commbert.stages import findings as stage

        return stage.run(evaluation=evaluation, report_out=report_out, outcome_out=outcome_out, curves_out=curves_out)

    run_stage("findings", log, usage, work)
