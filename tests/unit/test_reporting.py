"""Text of others stays text in every form of the report."""

import html
import re
from types import SimpleNamespace

import pytest
from markdown_it import MarkdownIt

from commbert.leakage import LONG_LINE_TOKENS
from commbert.reporting.context import _corpus
from commbert.reporting.escaping import code_block, markdown_cell, visible
from commbert.reporting.figures import loss_figure
from commbert.reporting.rendering import render_html, render_markdown

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "a | b | c",
    "[x](javascript:alert(1))",
    "![x](http://example.invalid/x.png)",
    "__init__",
    "`code`",
    "**bold**",
    "a\nb",
    "\x1b[31mred",
    "\u202egnp.exe",
    "&lt;b&gt;",
    "'quote\"",
    "{{ 7 * 7 }}",
    "\\| x",
    "https://example.invalid",
    "x" * 10_000,
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_stays_in_its_markdown_cell(text: str) -> None:
    page = MarkdownIt("commonmark").enable("table").render(f"| a | b |\n|---|---|\n| {markdown_cell(text)} | end |\n")
    cells = re.findall(r"<td>(.*?)</td>", page, re.DOTALL)
    assert len(cells) == 2
    assert not re.search(r"<(?!/?(table|thead|tbody|tr|th|td)\b)", page)


def test_a_markdown_cell_shows_exactly_the_text() -> None:
    text = "rlc_am<entity> & 'x' | [y](z) *w* `v`"
    page = MarkdownIt("commonmark").enable("table").render(f"| a |\n|---|\n| {markdown_cell(text)} |\n")
    assert html.unescape(re.findall(r"<td>(.*?)</td>", page)[0]) == text


def test_a_long_text_is_cut() -> None:
    assert len(visible("x" * 500, max_chars=80)) == 80


def test_control_and_direction_marks_are_spelt_out() -> None:
    assert visible("a\x1b[31m\u202eb") == "a\\u{1b}[31m\\u{202e}b"


def test_nothing_in_a_line_ends_a_code_block() -> None:
    page = MarkdownIt("commonmark").render("text\n\n" + code_block("```\n</pre><script>x</script>\n---") + "\n")
    assert page.count("<pre>") == 1
    assert "<script>" not in page


def test_settings_with_markup_are_text_in_the_page(minimal_context: dict) -> None:
    minimal_context["settings"] = {"corpus": {"name": "</pre><script>alert(1)</script>"}}
    minimal_context["neighbours"] = [{"word": "<b>w</b>", "columns": {"final": ["<i>x</i>"]}}]
    page = render_html("report.html.j2", minimal_context, {"loss": "<svg/>", "comparison": "<svg/>"})
    assert "<script>" not in page
    assert "<b>" not in page
    assert "<i>" not in page


def test_the_same_values_give_the_same_picture() -> None:
    steps = [{"step": i, "loss": 1.0 / i, "mlm_loss": None, "contrastive_loss": 2.0} for i in range(1, 5)]
    assert loss_figure(steps, []) == loss_figure(steps, [])


def test_a_run_of_one_step_without_validation_has_a_picture() -> None:
    assert "<svg" in loss_figure([{"step": 1, "loss": 1.0, "mlm_loss": 1.0, "contrastive_loss": None}], [])


def test_the_markdown_report_says_that_it_was_resumed(minimal_context: dict) -> None:
    minimal_context["training"]["resumed_at_steps"] = [3, 7]
    text = render_markdown("report.md.j2", {**minimal_context, "figures": {"loss": "l.svg", "comparison": "c.svg"}})
    assert "| resumed at steps | 3, 7 |" in text


def test_both_reports_say_what_chose_the_best_step_and_its_figures(minimal_context: dict) -> None:
    minimal_context["training"]["best_step"] = 7
    for text in both(minimal_context):
        assert "best at step 7 by hard" in text
        assert re.search(r"figures of the best validation[\s|]+hard 0.400, retrieval_mrr 0.200\s", text)
        assert re.search(r"share of the start model in the weights[\s|]+0.25\s", text)


@pytest.mark.parametrize("key", ["auc_frequency_matched", "auc_frequency_matched_novel", "retrieval_mrr", "mlm_top1"])
def test_the_picture_shows_each_figure_of_the_validations(key: str) -> None:
    steps = [{"step": i, "loss": 1.0, "mlm_loss": None, "contrastive_loss": None} for i in (1, 2)]
    assert loss_figure(steps, [{"step": 2, key: 0.25}]) != loss_figure(steps, [{"step": 2, key: None}])


def both(context: dict) -> tuple[str, str]:
    """Return the report as text of its Markdown and of its page, without markup."""
    figures = {"loss": "<svg/>", "comparison": "<svg/>"}
    page = render_html("report.html.j2", context, figures)
    return render_markdown("report.md.j2", {**context, "figures": figures}), html.unescape(
        re.sub(r"<[^>]+>", " ", page)
    )


def made_of(facts: dict, *, redact: bool = True) -> dict:
    """Return the corpus section of a report on a corpus of these facts."""
    ingest = {"accounting": {}, "sources": [], **facts}
    return _corpus(SimpleNamespace(ingest=ingest, config={"corpus": {"redact_secrets": redact}}))


def test_the_accounting_ends_with_what_came_in_the_sum_of_all_its_rows() -> None:
    rows = {"used": {"files": 2, "bytes": 30, "lines": 4}, "binary": {"files": 5, "bytes": 600, "lines": 0}}
    assert made_of({"accounting": rows})["came_in"] == {"files": 7, "bytes": 630, "lines": 4}


def test_both_reports_show_the_total_of_the_accounting_last(minimal_context: dict) -> None:
    markdown, page = both(minimal_context)
    assert "| used | 1 | 2 | 3 |\n| came in | 4 | 5 | 6 |\n" in markdown
    assert re.search(r"used\s+1\s+2\s+3\s+came in\s+4\s+5\s+6\s", page)
    assert all("It balances" in text for text in (markdown, page))


@pytest.mark.parametrize(
    ("facts", "place", "state", "digests"),
    [
        ({"package": "p", "version": "1", "sha256": "a", "digest": "b"}, "p", "1", ["sha256 a", "digest b"]),
        ({"url": "https://h/r", "commit": "c", "digest": "b"}, "https://h/r", "c", ["digest b"]),
        ({"path": "/x", "digest": "b"}, "/x", "", ["digest b"]),
    ],
)
def test_every_kind_of_source_has_its_place_state_and_digests(facts, place, state, digests) -> None:
    [source] = made_of({"sources": [facts]})["sources"]
    assert (source["place"], source["state"], source["digests"]) == (place, state, digests)


def test_both_reports_tell_of_each_source_where_it_is_from_and_what_was_used(minimal_context: dict) -> None:
    minimal_context["corpus"]["sources"][0] |= {"files_used": 77, "lines_used": 8888}
    for text in both(minimal_context):
        assert all(part in text for part in ("https://h.invalid/r", "0" * 40, "digest f00", "MIT", "77", "8,888"))


def test_secrets_stand_in_the_report_as_numbers_by_rule(minimal_context: dict) -> None:
    minimal_context["corpus"]["secrets"] = {"private key": 1234}
    for text in both(minimal_context):
        assert re.search(r"private key[\s|]+1,234", text)
        assert "No rule found" not in text


@pytest.mark.parametrize(("looked", "said"), [(True, "No rule found a secret"), (False, "Secrets were not looked for")])
def test_a_report_without_secrets_says_whether_they_were_looked_for(minimal_context, looked, said) -> None:
    minimal_context["corpus"] |= {"secrets_looked_for": looked}
    assert all(said in text for text in both(minimal_context))
    assert made_of({}, redact=looked)["secrets_looked_for"] is looked


def test_skipped_examples_are_text(minimal_context: dict) -> None:
    hostile = "s:<script>x</script>|[y](javascript:z): duplicate of s:`a`"
    minimal_context["corpus"]["skipped_examples"] = [hostile]
    markdown, page = both(minimal_context)
    assert hostile in page
    shown = MarkdownIt("commonmark").enable("table").render(markdown)
    assert "<script" not in shown
    assert "<a " not in shown
    assert hostile in html.unescape(shown)


def test_the_number_of_directories_is_of_all_and_not_of_those_that_are_listed(minimal_context: dict) -> None:
    markdown, page = both(minimal_context)
    assert "| 61: s:d |" in markdown
    assert "| 61 |" in markdown  # training lists none
    assert page.count("61") == 3


def test_the_report_names_the_length_of_a_long_line(minimal_context: dict) -> None:
    for text in both(minimal_context):
        assert f"lines of {LONG_LINE_TOKENS} tokens or more" in text
        assert "token ids" in text


@pytest.fixture
def minimal_context() -> dict:
    split = {"files": 1, "lines": 2, "n_directories": 61, "directories": ["s:d"]}
    window = {"windows": 1, "tokens_per_window": 2.0, "windows_with_dropped_lines_pct": 0.0}
    cell = {"text": "0.5", "value": 0.5, "low": 0.4, "high": 0.6}
    fertility = {"tokens_per_word": 1.0, "one_token_words_pct": 100.0}
    splits = ("train", "validation", "test")
    return {
        "run": "final",
        "columns": ["final"],
        "headline": ["a sentence"],
        "rows": [{"key": "k", "label": "L", "meaning": "", "cells": {"final": cell}}],
        "meters": ["what leaks"],
        "alarms": [],
        "system_figures": ["AUC"],
        "systems": [
            {"name": "final", "cells": {"auc": {"value": 0.5, "verdict": ""}}, "wall_s": 1.0, "cpu_s": None},
            {"name": "ppmi_svd", "cells": {"auc": {"value": None, "verdict": ""}}, "wall_s": None, "cpu_s": None},
        ],
        "controls": [{"rung": "english", "n": 7, "model": 0.5, "blind": 0.5, "classifier": None, "frequency": 0.5}],
        "strata": [
            {"rung": "lexical", "by": "lines", "bucket": "0 lines", "cells": {"final": {**cell, "n": 7}}},
        ],
        "opposites": [
            {"name": "final", "n": 2, "rate": 0.5, "mutual_rate": None, "examples": [["ul_x", "dl_x"]]},
        ],
        "geometry": [{"label": "Effective rank", "values": {"final": 0.1, "ppmi_svd": None}}],
        "popularity_mrr": 0.1,
        "leakage": {
            "test": {
                "lines_seen_in_training_pct": 1.0,
                "long_lines_seen_in_training_pct": 1.0,
                "windows_seen_in_training_pct": 1.0,
            }
        },
        "corpus": {
            "sources": [
                {
                    "name": "s",
                    "kind": "git",
                    "license": "MIT",
                    "place": "https://h.invalid/r",
                    "state": "0" * 40,
                    "digests": ["digest f00"],
                    "files_used": 1,
                    "lines_used": 3,
                }
            ],
            "accounting": {"used": {"files": 1, "bytes": 2, "lines": 3}},
            "came_in": {"files": 4, "bytes": 5, "lines": 6},
            "secrets_looked_for": True,
            "secrets": {},
            "skipped_examples": [],
            "split_by": "directory",
            "splits": dict.fromkeys(splits, split),
        },
        "words": {"words": 1, "words_in_training": 1},
        "windows": dict.fromkeys(splits, window),
        "pairs": {"known_pairs": 1, **{s: {"same_line": 1} for s in splits}},
        "receipts": {
            "entries_before": 1,
            "entries_after": 1,
            "entries_added": 0,
            "entries_added_seen_in_heldout_pct": 0.0,
            "new_rows_never_trained": 0,
            "english_words_recut": 0,
            "english_words_checked": 1,
            "first_words": [],
            "fertility": {"before": fertility, "after": fertility},
        },
        "training": {
            "steps": 1,
            "planned_steps": 1,
            "stopped_early": False,
            "best_step": None,
            "best_metric": "hard",
            "figures_at_best": {"hard": 0.4, "retrieval_mrr": 0.2, "mlm_loss": None},
            "windows_epochs": 1.0,
            "pairs_epochs": 1.0,
            "first_loss": 1.0,
            "last_loss": 1.0,
            "largest_gradient_norm": 1.0,
            "trained_s": 1.0,
            "tokens": 1,
            "tokens_per_s": 1.0,
            "median_gradient_norm": 1.0,
            "clipped_steps_pct": 0.0,
            "last_temperature": 0.05,
            "collapsed_at_steps": [],
            "strategy": "single",
            "strategy_reason": "one process",
            "mean_negatives_per_anchor": None,
            "mean_masked_out_pct": None,
            "device": "cpu",
            "world_size": 1,
            "precision": "fp32",
            "precision_reason": "as set",
            "resumed_at_steps": [],
            "parameters_trained": 1,
        },
        "model": {"average": {"share": 0.25}},
        "neighbours": [],
        "stages": [],
        "stages_total_s": 0.0,
        "machine": {"cpu": "c", "cores": 1, "memory_gib": 1.0, "gpus": []},
        "environment": {"commit": None, "versions": {"python": "3"}},
        "settings": {},
        "settings_digest": "0",
        "digests": {},
    }
