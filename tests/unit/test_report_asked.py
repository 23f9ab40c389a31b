"""What was asked against what was done, and what was out of the ordinary."""

import html
import re

import pytest

from commbert.reporting.context import build_context
from commbert.reporting.curves import loss_figure, optimizer_figure
from commbert.reporting.rendering import render_html, render_markdown
from report_case import settings, sources, step, training


def lines(**changes):
    return {line["what"]: line for line in build_context(sources(**changes))["asked"]}


def test_a_run_that_did_what_was_asked_differs_nowhere():
    found = lines(training=training(windows_epochs=0.5, pairs_epochs=1.0), config=settings(epochs=1, epoch="longer"))
    assert {line["what"] for line in found.values() if line["verdict"] == "differs"} == set()


@pytest.mark.parametrize(
    ("what", "changes"),
    [
        ("steps", {"training": training(steps=1)}),
        ("passes", {"config": settings(epochs=30)}),
        ("windows of a step", {"config": settings(batch_windows=8)}),
        ("share of tokens hidden", {"steps": [step(1, hidden_tokens=40), step(2)]}),
        ("pairs of a step", {"config": settings(batch_pairs=6)}),
        ("beta (weight of MLM)", {"steps": [step(1), step(2, mlm_weight=0.6)]}),
        ("peak learning rate", {"steps": [step(1, learning_rate=1.0e-5), step(2)]}),
        ("temperature", {"steps": [step(1), step(2, temperature=0.06)]}),
        ("validations", {"validations": []}),
        ("stop early", {"training": training(stopped_early=True, steps=1)}),
        ("seed", {"config": settings(seed=18)}),
        ("precision", {"config": settings(precision="bf16")}),
        ("share of the start model", {"model": {**sources().model, "average": {"share": 0.5}}}),
    ],
)
def test_what_was_done_otherwise_is_told(what, changes):
    assert lines(**changes)[what]["verdict"] == "differs"


def test_a_setting_left_to_the_program_is_told_as_decided_with_its_reason():
    assert lines()["precision"]["verdict"] == "decided"
    assert lines(config=settings(precision="fp32"))["precision"]["verdict"] == "as asked"
    assert lines()["strategy"]["done"] == "single (one process)"


def test_the_weight_of_nsp_is_told_where_it_was_asked_for():
    asked = settings(objectives={"mlm": 0.7, "contrastive": 0.3, "nsp": 0.5})
    told = {"sentence_pairs": 4, "nsp_loss": 0.7}
    found = lines(config=asked, steps=[step(n, nsp_weight=0.5, **told) for n in (1, 2)])["weight of NSP"]
    assert (found["asked"], found["done"], found["verdict"]) == ("0.5", "0.5", "as asked")
    found = lines(config=asked, steps=[step(1, nsp_weight=0.5, **told), step(2, nsp_weight=0.0, **told)])
    assert (found["weight of NSP"]["done"], found["weight of NSP"]["verdict"]) == ("0 to 0.5", "differs")
    assert "weight of NSP" not in lines()


def test_the_values_of_each_side_are_those_asked_and_measured():
    found = lines(steps=[step(1), step(2, mlm_weight=0.5)], config=settings(objectives={"mlm": 0.7, "mlm_end": 0.5}))
    assert (found["beta (weight of MLM)"]["asked"], found["beta (weight of MLM)"]["done"]) == ("0.7 to 0.5",) * 2
    assert found["peak learning rate"]["done"] == "2.00e-05, 1.00e-05 at the end"
    assert found["share of tokens hidden"]["done"].startswith("15.0 % (24 tokens")
    assert found["pairs of a step"]["done"] == "5.0"
    assert found["windows of a step"]["done"] == "4.0"
    assert found["share of lines for test"]["done"] == "10.0 %"


def test_per_process_batches_are_multiplied_by_the_processes():
    found = lines(config=settings(batch_per_process=True, batch_windows=2), training=training(world_size=2))
    assert found["windows of a step"]["asked"] == "2 x 2 processes"
    assert found["windows of a step"]["verdict"] == "as asked"


def test_a_run_without_pairs_has_no_line_about_them():
    steps = [step(i, pair_terms=0, contrastive_loss=None, negatives_per_anchor=None) for i in (1, 2)]
    assert not {"pairs of a step", "temperature"} & set(lines(steps=steps))


ODD = {
    "one step": ({"training": training(steps=1, planned_steps=1), "steps": [step(1)]}, "one step long"),
    "no validation": ({"validations": [], "training": training(best_step=None, figures_at_best={})}, "no validation"),
    "no GPU": ({}, "no GPU"),
    "resumed": ({"training": training(resumed_at_steps=[1, 2, 3])}, "resumed 3 times, at step 1, 2, 3"),
    "stopped": ({"training": training(steps=2, planned_steps=90, stopped_early=True)}, "after 2 of 90 planned"),
    "ended": ({"training": training(steps=2, planned_steps=90)}, "ended after 2 of 90 planned"),
    "collapsed": ({"training": training(collapsed_at_steps=[2])}, "collapsed in the validations at step 2"),
}


@pytest.mark.parametrize(("changes", "said"), ODD.values(), ids=ODD)
def test_every_form_says_what_was_out_of_the_ordinary(changes, said):
    made = sources(**changes)
    context = build_context(made)
    pictures = {
        "loss": loss_figure(made.steps, made.validations),
        "optimizer": optimizer_figure(made.steps, max_gradient_norm=1.0),
        "comparison": "<svg/>",
    }
    assert any(said in sentence for sentence in context["training"]["remarks"])
    page = html.unescape(re.sub(r"<[^>]+>", " ", render_html("report.html.j2", context, pictures)))
    markdown = render_markdown("report.md.j2", {**context, "figures": pictures})
    assert said in " ".join(page.split())
    assert said in html.unescape(markdown)
    assert said in html.unescape(render_markdown("evaluated_card.md.j2", context))


def test_a_usual_run_on_a_gpu_has_no_remarks():
    machine = {"cpu": "c", "cores": 1, "memory_gib": 1.0, "gpus": [{"name": "H100", "memory_gib": 80.0}]}
    assert build_context(sources(training=training(machine=machine)))["training"]["remarks"] == []


def test_further_figures_of_the_record_are_shown_where_they_are_there():
    made = sources(steps=[step(1, mfu_pct=20.0), step(2, mfu_pct=40.0)])
    context = build_context(made)
    [found] = context["training"]["further"]
    assert (found["mean"], found["most"]) == (30.0, 40.0)
    plain = optimizer_figure(sources().steps, max_gradient_norm=1.0)
    assert "measured matrix speed" in optimizer_figure(made.steps, max_gradient_norm=1.0)
    assert "measured matrix speed" not in plain
