"""What the first page says: what speaks against the run as well as what speaks for it."""

import ast
import re

import pytest

from commbert.reporting.card import render_card
from commbert.reporting.comparison import headline, lost
from commbert.reporting.context import build_context
from commbert.reporting.measured import SYSTEM_FIGURES
from commbert.reporting.rendering import render_html, render_markdown
from commbert.reporting.training import method_of
from report_case import evaluation, settings, sources, training

PICTURES = dict.fromkeys(("loss", "comparison", "optimizer"), "f.svg")
MLM = "masked language modelling"
PAIRS = "a contrastive loss over words of one line"


def system(name, **cells):
    plain = {key: {"value": None, "verdict": ""} for key, _ in SYSTEM_FIGURES}
    return {"name": name, "cells": plain | cells}


def test_a_system_that_is_better_is_named_with_both_values():
    ours = system("final", function_mrr={"value": 0.4, "low": 0.3, "high": 0.5, "verdict": ""})
    theirs = system("frequency", function_mrr={"value": 0.8, "verdict": "run is worse"})
    same = system("base", function_mrr={"value": 0.9, "verdict": ""})
    better = system("svd", function_mrr={"value": 0.1, "verdict": "run is better"})
    assert lost([ours, theirs, same, better]) == [
        "frequency is better than the run in function MRR (0.800 against 0.400)."
    ]


@pytest.mark.parametrize(("low", "high", "n"), [(0.2, 0.3, 1), (0.2, 0.5, 0), (None, None, 0)])
def test_an_auc_is_below_chance_only_where_its_whole_interval_is(low, high, n):
    found = lost([system("final", auc_lexical_novel={"value": 0.25, "low": low, "high": high, "verdict": ""})])
    assert len(found) == n
    assert all("AUC lexical, novel is below chance: 0.250 [0.200, 0.300]" in sentence for sentence in found)
    assert not lost([system("final", term_mrr={"value": 0.1, "low": 0.0, "high": 0.2, "verdict": ""})])


def test_what_beats_the_run_stands_on_the_first_page():
    change = {key: {"value": -0.2, "low": -0.3, "high": -0.1} for key, _ in SYSTEM_FIGURES}
    context = build_context(
        sources(evaluation=evaluation(0.5), others={"base": evaluation(0.7)}, differences={"base": change})
    )
    assert any(
        s.startswith("base is better than the run in AUC English (0.700 against 0.500)") for s in context["headline"]
    )


def test_figures_that_were_not_measured_give_no_sentence_and_no_error():
    none = {**evaluation(0.7), "unigram": {"top1": 0.1}}
    none["figures"] = dict.fromkeys(none["figures"])
    assert headline("final", {"final": none}, {}) == []
    change = {"base": {"retrieval_mrr": {"value": 0.1, "low": None, "high": None}}}
    assert headline("final", {"final": none, "base": evaluation(0.5)}, change) == []
    few = {**evaluation(0.7), "unigram": None}
    few["figures"] = {**none["figures"], "retrieval_mrr": {"value": 0.6, "low": None, "high": None, "n": 1}}
    assert headline("final", {"final": few}, {}) == ["retrieval MRR: 0.600."]
    assert headline("final", {"final": few, "base": evaluation(0.5)}, change) == [
        "retrieval MRR: 0.600 against 0.500 of base, difference +0.100."
    ]


def test_the_meter_of_leaks_is_of_the_split_that_the_figures_are_of():
    leaks = {
        split: {f"{name}_seen_in_training_pct": value for name in ("lines", "long_lines", "windows")}
        for split, value in (("validation", 1.0), ("test", 33.0))
    }
    context = build_context(sources(windows={**sources().windows, "leakage": leaks}))
    assert context["meters"][0].startswith(
        "Of the test split, which the figures on held-out text are of, training saw 33.0 % of"
    )


@pytest.mark.parametrize(("best", "is_said"), [(1, True), (2, False), (None, False)])
def test_figures_of_another_step_than_the_best_are_told(best, is_said):
    remarks = build_context(sources(training=training(best_step=best)))["training"]["remarks"]
    assert (
        any("weights after the last step, 2; the best validation by hard was at step 1" in s for s in remarks)
        == is_said
    )


@pytest.mark.parametrize(
    ("changes", "told", "is_mlm"),
    [
        ({"batch_texts": 0}, f"{MLM} and {PAIRS}", True),
        ({"batch_texts": 4}, f"{MLM} and {PAIRS} and over pairs of texts", True),
        ({"objectives": {"mlm": 1.0, "contrastive": 0.0}}, MLM, True),
        (
            {"objectives": {"mlm": 1.0, "contrastive": 0.0, "mlm_end": 0.5}, "batch_texts": 0},
            f"{MLM} and {PAIRS}",
            True,
        ),
        ({"objectives": {"mlm": 0.0, "contrastive": 1.0}, "batch_texts": 0}, PAIRS, False),
        (
            {"objectives": {"mlm": 0.0, "contrastive": 1.0, "mlm_end": 0.5}, "batch_texts": 0},
            f"{MLM} and {PAIRS}",
            True,
        ),
        (
            {"objectives": {"mlm": 1.0, "contrastive": 0.0}, "trainable": "mlm_head", "best_metric": "mlm_loss"},
            f"{MLM}; only the head of the model was trained",
            True,
        ),
    ],
)
def test_the_method_is_the_one_that_was_set(changes, told, is_mlm):
    assert method_of(settings(**changes)["training"]) == {"method": told, "is_mlm_trained": is_mlm}


def first_card(**changes):
    made = sources()
    known = {**made.training, "settings": settings(**changes)["training"], "run": "r", "base": "b", "pooling": "mean"}
    known |= {"layers": 1, "hidden_size": 2, "parameters": 3, "vocabulary": 4, "new_rows": 1, "step": 2}
    known["settings"]["optimizer"] = {"learning_rate": 0.1}
    return render_card({**known, "corpus": made.ingest})


@pytest.mark.parametrize(
    ("objectives", "is_mlm"), [({"mlm": 1.0, "contrastive": 0.0}, True), ({"mlm": 0.0, "contrastive": 1.0}, False)]
)
def test_hidden_tokens_are_offered_only_where_guessing_them_was_trained(objectives, is_mlm):
    context = build_context(sources(config=settings(objectives=objectives)))
    forms = [
        render_markdown(name, {**context, "figures": PICTURES}) for name in ("report.md.j2", "evaluated_card.md.j2")
    ]
    forms += [render_html("report.html.j2", context, PICTURES), first_card(objectives=objectives)]
    assert [("fill-mask" in form) for form in forms] == [is_mlm] * len(forms)
    cards = (forms[1], forms[3])
    assert all(context["training"]["method"] in " ".join(card.split()) and "## Intended use" in card for card in cards)


@pytest.mark.parametrize("objectives", [{"mlm": 1.0, "contrastive": 0.0}, {"mlm": 0.0, "contrastive": 1.0}])
def test_code_of_a_card_is_code_between_fences_of_its_own_lines(objectives):
    context = build_context(sources(config=settings(objectives=objectives)))
    texts = [
        render_markdown(name, {**context, "figures": PICTURES}) for name in ("report.md.j2", "evaluated_card.md.j2")
    ]
    for text in (*texts, first_card(objectives=objectives)):
        blocks = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
        assert len(blocks) == text.count("```") // 2
        assert blocks
        assert all(ast.parse(block) for block in blocks)


def test_every_difference_and_every_system_has_its_interval():
    context = build_context(sources())
    text = render_markdown("report.md.j2", {**context, "figures": PICTURES})
    assert "| +0.200 [+0.100, +0.300] better |" in text
    assert "| base | 0.500 [0.400, 0.600] (run is better) |" in text
    page = render_html("report.html.j2", context, PICTURES)
    assert "+0.100 to +0.300" in page
    assert "<small>0.400 to<br>0.600</small>" in page
