"""What a user reads when the configuration or an input is wrong, and how fast a dry run is planned."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

REPO = Path(__file__).parents[2]


def dry_run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "-s",
        str(REPO / "Snakefile"),
        "-d",
        str(folder),
        "--cores",
        "1",
        "-n",
    ]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)


def plan_of_preset(folder: Path, preset: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Plan a preset in an empty folder: what the repository's own folder holds already would not be planned there."""
    files = [str(REPO / "config.yaml"), str(REPO / "resources" / "presets" / preset)]
    return dry_run(folder, *arguments, "--configfile", *files)


def test_the_paper_preset_plans_the_reference_method(tmp_path: Path) -> None:
    done = plan_of_preset(tmp_path, "paper.yaml", "train", "-p")
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    assert '"epochs":30' in said
    assert '"learning_rate":2e-05' in said
    assert '"contrastive":0.3,"mlm":0.7' in said
    assert '"max_windows":10285' in said
    assert '"batch_per_process":true,"batch_texts":0,"batch_windows":64' in said
    assert "bert-base-uncased" in said


def test_the_preset_for_chinese_questions_plans_masked_language_modelling_alone(tmp_path: Path) -> None:
    done = plan_of_preset(tmp_path, "chinese-qa.yaml", "train", "evaluate", "-p")
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    for part in (
        '"epochs":40',
        '"batch_windows":32',
        '"max_length":50',
        '"unit":"file"',
        '"contrastive":0.0,"mlm":1.0',
        '"validate_every_steps":"epoch"',
        '"split_column":"split"',
        "google-bert/bert-base-chinese",
    ):
        assert part in said, part
    assert "commbert baseline" not in said
    preset = yaml.safe_load((REPO / "resources/presets/chinese-qa.yaml").read_text(encoding="utf-8"))
    [source] = preset["corpus"]["sources"]
    assert hashlib.sha256((REPO / source["path"]).read_bytes()).hexdigest() == source["sha256"]


@pytest.mark.parametrize("preset", sorted(p.name for p in (REPO / "resources" / "presets").glob("*.yaml")))
def test_every_preset_is_accepted(tmp_path: Path, preset: str) -> None:
    done = plan_of_preset(tmp_path, preset, "-q", "rules")
    assert done.returncode == 0, done.stderr


def test_a_misspelt_setting_is_named_with_the_nearest_known_one(tmp_path: Path) -> None:
    config = yaml.safe_load((REPO / "config.yaml").read_text())
    config["training"]["batch_window"] = 3
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    done = dry_run(tmp_path)
    assert done.returncode == 1
    assert "training.batch_window: unknown setting. Did you mean training.batch_windows?" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_the_configuration_and_the_presets_fit_the_schema() -> None:
    schema = json.loads((REPO / "workflow/schemas/config.schema.json").read_text())
    validator = Draft202012Validator(schema)
    assert not list(validator.iter_errors(yaml.safe_load((REPO / "config.yaml").read_text())))


def test_the_configuration_names_every_setting() -> None:
    from commbert.settings.config import load

    config = yaml.safe_load((REPO / "config.yaml").read_text())

    def missing(known: dict, given: dict, at: str) -> list[str]:
        found = []
        for key, value in known.items():
            if key not in given:
                found.append(f"{at}{key}")
            elif isinstance(value, dict) and isinstance(given[key], dict) and at + key != "runs":
                found += missing(value, given[key], f"{at}{key}.")
        return found

    assert missing(load(config).model_dump(mode="json"), config, "") == []


def test_a_dry_run_imports_no_torch(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text((REPO / "config.yaml").read_text())
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['snakemake', '-s', {str(REPO / 'Snakefile')!r}, '-d', {str(tmp_path)!r}, '-c1', '-n', '-q']\n"
        "try:\n    runpy.run_module('snakemake', run_name='__main__')\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        "heavy = {'torch', 'transformers', 'polars', 'datasets'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def config_text() -> str:
    return (REPO / "config.yaml").read_text()


def test_braces_in_a_setting_are_text_and_no_wildcard(tmp_path: Path) -> None:
    config = yaml.safe_load(config_text())
    config["words"]["pattern"] = r"\b[a-z_]{2,40}\b"
    config["corpus"]["sources"][0]["license"] = "{run} {source}"
    config["evaluation"]["telling_words"] = ["a{b}"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    done = dry_run(tmp_path)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (config_text() + "\ntraining: {epochs: 3}\n", "'training' stands in line"),
        (config_text().replace("  epochs: 1\n", "  epochs: 1\n  epochs: 2\n"), "'epochs' stands in line"),
        ("__use_yte__: true\n" + config_text(), "__use_yte__ is refused"),
        (config_text().replace("  final: {}\n", "  final: null\n"), "runs.final"),
        (config_text().replace('include: ["/sionna/phy/**/*.py"]', 'include: ["!"]'), "is no pattern"),
    ],
    ids=["section twice", "key twice", "yte", "no run", "pattern"],
)
def test_a_wrong_file_is_refused_in_a_few_words(tmp_path: Path, text: str, message: str) -> None:
    if message == "runs.final":
        config = yaml.safe_load(text)
        config["runs"] = {"final": None}
        config["report"]["compare_with"] = ["base"]
        text, message = yaml.safe_dump(config), "expected at least one run"
    (tmp_path / "config.yaml").write_text(text)
    done = dry_run(tmp_path)
    assert done.returncode == 1
    assert message in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_yte_in_the_file_runs_no_code(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    code = f"__use_yte__: true\n__definitions__: [\"import os; os.system('touch {mark}')\"]\n"
    (tmp_path / "config.yaml").write_text(code + config_text())
    assert dry_run(tmp_path).returncode == 1
    assert not mark.exists()
