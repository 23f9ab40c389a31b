"""README, Makefile and CI say the same."""

import json
import re
from pathlib import Path

REPO = Path(__file__).parents[2]


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (REPO / "Makefile").read_text(), re.MULTILINE))


def test_every_make_command_of_the_readme_exists() -> None:
    used = set(re.findall(r"\bmake ([a-z-]+)", (REPO / "README.md").read_text()))
    assert {"run", "test"} <= used
    assert used <= make_targets()


def test_ci_runs_the_test_command_of_the_readme() -> None:
    assert "make test" in (REPO / ".ci" / "run").read_text().splitlines()
    assert re.search(r"^make test\b", (REPO / "README.md").read_text(), re.MULTILINE)


def test_every_file_the_readme_links_to_exists() -> None:
    for name in ("README.md", "CONTRIBUTING.md"):
        links = re.findall(r"\]\((?!https?://|#)([^)#]+)\)", (REPO / name).read_text())
        assert links
        assert [link for link in links if not (REPO / link).exists()] == []


def test_every_kind_of_source_stands_in_the_readme_as_it_may_be_written() -> None:
    import yaml

    from commbert.settings.checking import section_from_json
    from commbert.settings.corpus import CorpusSettings
    from commbert.settings.words import WordSettings

    blocks = re.findall(r"```yaml\n(.*?)```", (REPO / "README.md").read_text(), re.DOTALL)
    corpus = next(b for b in blocks if b.startswith("corpus:")).replace("64-HEX-DIGITS", "a" * 64)
    corpus = corpus.replace("40-HEX-DIGITS", "a" * 40)
    found = section_from_json(CorpusSettings, json.dumps(yaml.safe_load(corpus)["corpus"]), where="corpus")
    assert {s.kind for s in found.sources} == {"wheel", "path", "git", "archive", "table"}
    assert WordSettings.model_validate(yaml.safe_load(next(b for b in blocks if b.startswith("words:")))["words"])


def test_every_subcommand_is_a_stage_with_help() -> None:
    from typer.main import get_command

    from commbert.cli import app

    commands = get_command(app).commands
    modules = {p.stem: p.read_text(encoding="utf-8") for p in (REPO / "src/commbert/stages").glob("*.py")}
    # The others are parts of the stage evaluate.
    assert {name for name, text in modules.items() if "def run(" not in text} == {"__init__", "subjects", "textscores"}
    assert {name for name, text in modules.items() if "def run(" in text} <= set(commands)
    assert all(c.help for c in commands.values())
