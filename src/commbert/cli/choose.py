"""Multiple choice: ``commbert choose``, of one question or of a file."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from commbert.cli.asking import DEFAULT_MODEL, AsJson, Device, Model, load, progress
from commbert.cli.inspect import console
from commbert.cli.options import app
from commbert.errors import DataError

if TYPE_CHECKING:
    from rich.console import Console

    from commbert.inference.answering import Accuracy, Answered
    from commbert.inference.models import AskedModel
    from commbert.inference.questions import QuestionFile

_SHOWN = 20
"""Skipped questions that are printed one by one."""


@app.command()
def choose(
    question: Annotated[
        str | None, typer.Argument(help="The question; [MASK] or ____ in it is where the options go, else its end.")
    ] = None,
    option: Annotated[list[str] | None, typer.Option(help="An option; given at least twice.")] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file",
            "-f",
            help="Questions: .csv, .tsv or .jsonl with question, option_1 ..; - is standard input, as JSON lines.",
        ),
    ] = None,
    model: Model = DEFAULT_MODEL,
    device: Device = "auto",
    json: AsJson = False,
    scoring: Annotated[
        str, typer.Option(help="word-l2r hides the rest of a word with its piece; plain hides the piece alone.")
    ] = "word-l2r",
    calibrated: Annotated[
        bool, typer.Option("--calibrated", help="Compare what the question adds: score less that without it.")
    ] = False,
    question_column: Annotated[str, typer.Option(help="Column of the question.")] = "",
    option_column: Annotated[list[str] | None, typer.Option(help="Column of an option, or of a JSON list.")] = None,
    answer_column: Annotated[str, typer.Option(help="Column of the answer: letter, number from 1, or text.")] = "",
    domain_column: Annotated[str, typer.Option(help="Column of the domain.")] = "",
    answer_as: Annotated[str, typer.Option(help="auto, letter, number or text: how answers name options.")] = "auto",
    skip_mistakes: Annotated[
        bool, typer.Option("--skip-mistakes", help="Pass over rows that are wrong, and count them.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap.")] = 17,
) -> None:
    """Choose between options: the one whose pieces the model holds most likely, by pseudo-log-likelihood per piece.

    Of a file: accuracy by domain with 95 % intervals, beside chance and the choice without the question.
    """
    from typing import cast, get_args

    from commbert.inference.choosing import SCORINGS, Scoring
    from commbert.inference.questions import AnswerAs, QuestionColumns, questions_of, read_questions

    if (question is None) == (file is None):
        raise DataError("expected a question with options, or a file of questions by --file, and not both.")
    if file is not None and option:
        raise DataError("expected the options in the file, found --option. Leave it out.")
    for name, value, known in (("--scoring", scoring, SCORINGS), ("--answer-as", answer_as, get_args(AnswerAs))):
        if value not in known:
            raise DataError(f"{name}: expected {', '.join(known)}, found {value!a}. Give one of them.")
    how = cast("Scoring", scoring)
    if file is None:
        _choose_one(load(model, device), question or "", option or [], how, calibrated, json)
        return
    columns = QuestionColumns(
        question_column, tuple(option_column or ()), answer_column, domain_column, cast("AnswerAs", answer_as)
    )
    if str(file) == "-":
        read = questions_of(sys.stdin.buffer, columns, skips_mistakes=skip_mistakes)
    else:
        read = read_questions(file, columns, skips_mistakes=skip_mistakes)
    _choose_all(load(model, device), read, how, calibrated, json, seed)


def _choose_one(
    model: "AskedModel", question: str, options: list[str], scoring: Any, is_calibrated: bool, as_json: bool
) -> None:
    from commbert.inference.choosing import choose_all
    from commbert.inference.questions import Question
    from commbert.inspection.showing import grid, json_line, visible

    [found] = choose_all(model, [Question(question, tuple(options))], scoring=scoring, is_calibrated=is_calibrated)
    if isinstance(found, str):
        raise DataError(found)
    both = list(zip(found.options, found.blind, strict=True))
    if as_json:
        rows = [{**vars(o), "probability_without_question": b.probability} for o, b in both]
        typer.echo(json_line({"question": question, "chosen": options[found.chosen], "options": rows}))
        return
    order = sorted(both, key=lambda pair: -pair[0].score)
    header = ["option", "probability", "nats per piece", "pieces", "without the question"]
    cells = [
        [visible(o.option), f"{o.probability:.1%}", f"{o.score:.3f}", str(o.n_pieces), f"{b.probability:.1%}"]
        for o, b in order
    ]
    console(None).print(grid(header, cells, right=set(header[1:])))


def _choose_all(
    model: "AskedModel", read: "QuestionFile", scoring: Any, is_calibrated: bool, as_json: bool, seed: int
) -> None:
    from commbert.inference.answering import accuracies, sorted_out
    from commbert.inference.choosing import choose_all
    from commbert.inspection.showing import json_line

    with progress("questions", len(read.questions)) as advance:
        choices = choose_all(
            model,
            read.questions,
            scoring=scoring,
            is_calibrated=is_calibrated,
            on_progress=lambda n: advance(n, len(read.questions)),
        )
    answered, unasked = sorted_out(read.questions, choices)
    skipped = dict(sorted({**read.skipped, **unasked}.items()))
    figures = accuracies(answered, n_resamples=1000, seed=seed)
    if as_json:
        for row in answered:
            typer.echo(json_line(row.as_dict()))
        summary = {"accuracy": [f.as_dict() for f in figures], "asked": len(answered), "skipped": skipped}
        typer.echo(json_line({"summary": summary}))
        return
    terminal = console(None)
    if figures:
        _print_accuracies(terminal, figures)
    else:
        _print_choices(terminal, answered)
    _print_skipped(terminal, skipped)


def _print_accuracies(terminal: "Console", figures: "list[Accuracy]") -> None:
    from commbert.inspection.showing import grid, visible

    header = ["domain", "questions", "accuracy", "95 %", "chance", "without the question", "question adds", "95 % "]
    cells = [
        [
            visible(f.domain),
            str(f.n),
            f"{f.accuracy.value:.1%}",
            f"{f.accuracy.low:.0%} to {f.accuracy.high:.0%}",
            f"{f.chance:.1%}",
            f"{f.blind.value:.1%}",
            f"{100 * f.difference.value:+.1f} points",
            f"{100 * f.difference.low:+.0f} to {100 * f.difference.high:+.0f}",
        ]
        for f in figures
    ]
    terminal.print(grid(header, cells, right=set(header[1:])))


def _print_choices(terminal: "Console", answered: "list[Answered]") -> None:
    """Print what was chosen, for files that have no answers."""
    from commbert.inspection.showing import grid, visible

    cells = []
    for row in answered:
        best = row.choice.options[row.choice.chosen]
        cells.append([str(row.question.line), visible(best.option), f"{best.probability:.1%}"])
    terminal.print(grid(["line", "chosen", "probability"], cells, right={"line", "probability"}))


def _print_skipped(terminal: "Console", skipped: dict[int, str]) -> None:
    from commbert.inspection.showing import visible

    if not skipped:
        return
    terminal.print(f"Skipped: {len(skipped)} questions.")
    for line, reason in list(skipped.items())[:_SHOWN]:
        terminal.print(f"  line {line}: {visible(reason)}")
    if len(skipped) > _SHOWN:
        terminal.print(f"  and {len(skipped) - _SHOWN} more; --json names them all.")
