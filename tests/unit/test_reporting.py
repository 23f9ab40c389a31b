"""Text of others stays text in every form of the report."""

import html
import re

import pytest
from markdown_it import MarkdownIt

import report_case
from commbert.leakage import LONG_LINE_TOKENS
from commbert.reporting.context import build_context, corpus_section
from commbert.reporting.curves import loss_figure, optimizer_figure
from commbert.reporting.escaping import code_block, markdown_cell, visible
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
PICTURES = dict.fromkeys(("loss", "comparison", "optimizer"), "<svg/>")


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


@pytest.mark.parametrize(
    "text",
    [
        "https://h.invalid/x",
        "HTTP://h.invalid",
        "www.h.invalid",
        "- a",
        "+ a",
        "=",
        "1. a",
        "12) a",
        "123. a",
        "    code",
    ],
)
def test_a_text_is_no_link_no_list_and_no_heading(text: str) -> None:
    shown = markdown_cell(text)
    assert "://" not in shown
    assert "www." not in shown
    page = MarkdownIt("commonmark").enable("table").render(f"a\n\n- {shown}\n")
    assert page == f"<p>a</p>\n<ul>\n<li>{html.escape(text)}</li>\n</ul>\n"


def test_a_percentage_and_brackets_stay_readable_in_the_source() -> None:
    assert markdown_cell("12.5 % (of 3)") == "12.5 % (of 3)"


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
    minimal_context["neighbours"] = [{"word": "<b>w</b>", "columns": {"final": ["<i>x</i>"], "base": []}}]
    page = render_html("report.html.j2", minimal_context, PICTURES)
    assert page.count("<script") == 1  # ours
    assert "alert" not in page.partition("<script")[2]
    assert "<b>" not in page
    assert "<i>" not in page


def test_the_same_values_give_the_same_picture() -> None:
    steps = [report_case.step(i, mlm_loss=None) for i in range(1, 5)]
    assert loss_figure(steps, []) == loss_figure(steps, [])
    assert optimizer_figure(steps, max_gradient_norm=1.0) == optimizer_figure(steps, max_gradient_norm=1.0)


def test_a_run_of_one_step_without_validation_has_a_picture() -> None:
    assert "<svg" in loss_figure([{"step": 1, "loss": 1.0, "mlm_loss": 1.0, "contrastive_loss": None}], [])


def test_the_markdown_report_says_that_it_was_resumed(minimal_context: dict) -> None:
    minimal_context["training"]["resumed_at_steps"] = [3, 7]
    text, _ = both(minimal_context)
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
    page = render_html("report.html.j2", context, PICTURES).partition("<body")[2].partition("<script")[0]
    text = html.unescape(re.sub(r"<[^>]+>", " ", page))
    return render_markdown("report.md.j2", {**context, "figures": PICTURES}), text


def made_of(facts: dict, *, redact: bool = True) -> dict:
    """Return the corpus section of a report on a corpus of these facts."""
    ingest = {"accounting": {}, "sources": [], **facts}
    return corpus_section(ingest, is_redacted=redact)


def test_the_accounting_ends_with_what_came_in_the_sum_of_all_its_rows() -> None:
    rows = {"used": {"files": 2, "bytes": 30, "lines": 4}, "binary": {"files": 5, "bytes": 600, "lines": 0}}
    assert made_of({"accounting": rows})["came_in"] == {"files": 7, "bytes": 630, "lines": 4}


def test_both_reports_show_the_total_of_the_accounting_last(minimal_context: dict) -> None:
    minimal_context["corpus"]["came_in"] = {"files": 4, "bytes": 5, "lines": 6}
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
        assert all(
            part in html.unescape(text)
            for part in ("https://h.invalid/r", "0" * 40, "digest f00", "MIT", "77", "8,888")
        )


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
    assert len(re.findall(r" 61(: s:d)? ", page)) == 3


def test_the_report_names_the_length_of_a_long_line(minimal_context: dict) -> None:
    for text in both(minimal_context):
        assert f"lines of {LONG_LINE_TOKENS} tokens or more" in text
        assert "token ids" in text


@pytest.fixture
def minimal_context() -> dict:
    return build_context(report_case.sources())
