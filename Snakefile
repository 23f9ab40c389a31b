# commbert: from a tree of telecom source code to an embedding model that knows its words.
# Stages are plain commands (`commbert --help`); this file says what depends on what.
import os
import re
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.utils import min_version

from commbert.errors import BusyError, SettingsError
from commbert.locks import hold_run_lock
from commbert.settings.config import load
from commbert.settings.files import check_file
from commbert.starter import STARTED_BY, this_process
from commbert.submission import agree_on_submission

min_version("9.27")

try:
    check_file("config.yaml")
except SettingsError as error:
    raise WorkflowError(str(error))


configfile: "config.yaml"


try:
    for path in workflow.configfiles:
        check_file(path)
    CONFIG = load(config)
except SettingsError as error:
    raise WorkflowError(str(error))

# Jobs find the commands of this installation, and the settings that change no result, in their environment. They end
# with this process: on a cluster, where every job reads this file, with the one of their own machine.
os.environ.update(
    PATH=os.pathsep.join(
        [os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)]
    ),
    COMMBERT_RUNTIME=CONFIG.runtime.as_json(),
)
os.environ[STARTED_BY] = this_process()


onstart:
    # In place of Snakemake's own lock, which outlives a killed process (`nolock: true` in the profiles).
    if workflow.is_main_process:
        try:
            hold_run_lock(Path(".snakemake"))
        except BusyError as error:
            raise WorkflowError(str(error))


wildcard_constraints:
    run=f"({'|'.join(map(re.escape, CONFIG.runs))})(@[0-9]+)?",
    source="[A-Za-z0-9._-]+",


include: "workflow/rules/resources.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/baselines.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/compare.smk"
include: "workflow/rules/explore.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/sweep.smk"
include: "workflow/rules/finetune.smk"


try:
    agree_on_submission(CONFIG.as_json(), is_main=workflow.is_main_process)
except SettingsError as error:
    raise WorkflowError(str(error))


# Nodes of a cluster often see no network: what downloads stays where Snakemake runs.
localrules:
    fetch,
    fetch_git,
    fetch_archive,
    base,
    all,
    data,
    train,
    evaluate,
    report,
    sweep,
    finetune,


rule data:
    input:
        rules.words.output.summary,
        expand(rules.list_windows.output.summary, **SHARED),
        expand(rules.pairs.output.summary, **SHARED),
        expand(rules.tokenizer.output.receipts, **SHARED),


rule train:
    input:
        expand("results/runs/{run}/training.json", run=CONFIG.main_runs),
        expand("results/runs/{run}/final", run=CONFIG.main_runs),


rule evaluate:
    input:
        # Those that reports show: a corpus without word pairs has no vectors by shared lines.
        expand(
            "results/baselines/{name}/evaluation.json",
            name=[name for name in BASELINES if name in CONFIG.report.beside],
        ),
        expand("results/runs/{run}/evaluation.json", run=CONFIG.main_runs),
        COMPARISONS,


rule report:
    input:
        expand("reports/{run}_training_report.md", run=CONFIG.reported_runs),
        expand("reports/{run}_neighbours.html", run=CONFIG.reported_runs),


rule sweep:
    input:
        rules.sweep_table.output.markdown,


rule finetune:
    input:
        expand("results/finetune/{finetuning}/final", finetuning=CONFIG.finetune),
        expand("reports/{finetuning}_finetune_report.md", finetuning=CONFIG.finetune),


rule all:
    default_target: True
    input:
        rules.report.input,
        expand("results/runs/{run}/release", run=CONFIG.reported_runs),
        COMPARISONS,
