"""Multiple choice: ``commbert choose``, of one question or of a file."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from commbert.cli.asking import DEFAULT_MODEL, Answers, AsJson, Device, Model, load, progress
from commbert.cli.options import app
from commbert.errors import DataError

if TYPE_CHECKING:
    from rich.table import Table

    from commbert.inference.answering import Accuracy, Answered
    from commbert.inference.models import AskedModel
    from commbert.inference.questions import QuestionFile

_LEGEND = (
    "blind: without the question; gain: what the question adds, in points of accuracy; 95 % intervals beside both."
)
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
    how, answers = cast("Scoring", scoring), Answers(as_json=json)
    if file is None:
        _choose_one(load(model, device), question or "", option or [], how, calibrated, answers)
        return
    columns = QuestionColumns(
        question_column, tuple(option_column or ()), answer_column, domain_column, cast("AnswerAs", answer_as)
    )
    if str(file) == "-":
        read = questions_of(sys.stdin.buffer, columns, skips_mistakes=skip_mistakes)
    else:
        read = read_questions(file, columns, skips_mistakes=skip_mistakes)
    _choose_all(load(model, device), read, how, calibrated, answers, seed)


def _choose_one(
    model: "AskedModel", question: str, options: list[str], scoring: Any, is_calibrated: bool, answers: Answers
) -> None:
    from commbert.inference.choosing import choose_all
    from commbert.inference.questions import Question
    from commbert.inspection.showing import grid, visible

    [found] = choose_all(model, [Question(question, tuple(options))], scoring=scoring, is_calibrated=is_calibrated)
    if isinstance(found, str):
        raise DataError(found)
    both = list(zip(found.options, found.blind, strict=True))
    rows = [{**vars(o), "probability_without_question": b.probability} for o, b in both]
    order = sorted(both, key=lambda pair: -pair[0].score)
    header = ["option", "probability", "nats per piece", "pieces", "without the question"]
    cells = [
        [visible(o.option), f"{o.probability:.1%}", f"{o.score:.3f}", str(o.n_pieces), f"{b.probability:.1%}"]
        for o, b in order
    ]
    value = {"question": question, "chosen": options[found.chosen], "options": rows}
    answers.give(value, lambda: grid(header, cells, right=set(header[1:])))


def _choose_all(
    model: "AskedModel", read: "QuestionFile", scoring: Any, is_calibrated: bool, answers: Answers, seed: int
) -> None:
    from commbert.inference.answering import accuracies, sorted_out
    from commbert.inference.choosing import choose_all

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
    if answers.as_json:
        for row in answered:
            answers.give(row.as_dict(), str)
        answers.give(
            {"summary": {"accuracy": [f.as_dict() for f in figures], "asked": len(answered), "skipped": skipped}}, str
        )
        return
    answers.give({}, lambda: _accuracies(figures) if figures else _chosen(answered))
    notes = [*([_LEGEND] if figures else []), *(_skipped(skipped) if skipped else [])]
    if notes:
        answers.give({}, lambda: "\n".join(notes))


def _accuracies(figures: "list[Accuracy]") -> "Table":
    from commbert.inspection.showing import grid, visible

    header = ["domain", "items", "accuracy", "95 %", "chance", "blind", "gain", "95 % "]
    cells = [
        [
            visible(f.domain),
            str(f.n),
            f"{f.accuracy.value:.1%}",
            f"{f.accuracy.low:.0%} to {f.accuracy.high:.0%}",
            f"{f.chance:.1%}",
            f"{f.blind.value:.1%}",
            f"{100 * f.difference.value:+.1f}",
            f"{100 * f.difference.low:+.0f} to {100 * f.difference.high:+.0f}",
        ]
        for f in figures
    ]
    return grid(header, cells, right=set(header[1:]))


def _chosen(answered: "list[Answered]") -> "Table":
    """Return what was chosen, for files that have no answers."""
    from commbert.inspection.showing import grid, visible

    cells = []
    for row in answered:
        best = row.choice.options[row.choice.chosen]
        cells.append([str(row.question.line), visible(best.option), f"{best.probability:.1%}"])
    return grid(["line", "chosen", "probability"], cells, right={"line", "probability"})


def _skipped(skipped: dict[int, str]) -> Iterator[str]:
    from commbert.inspection.showing import visible

    yield f"Skipped: {len(skipped)} questions."
    for line, reason in list(skipped.items())[:_SHOWN]:
        yield f"  line {line}: {visible(reason)}"
    if len(skipped) > _SHOWN:
        yield f"  and {len(skipped) - _SHOWN} more; --json names them all."
