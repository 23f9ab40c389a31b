# Classes or scores of a labelled table, learnt by an encoder: one model and one report per entry of the section finetune.
# Checkpoints are no outputs, as in train.smk.

# 1.2 GiB measured. One process, so one GPU, however many a training has.
FINETUNING_RESOURCES = dict(
    mem_mb=lambda wildcards, attempt: 12000 * attempt,
    runtime=1440,
    gpu=min(GPUS, 1),
    slurm_extra=WARNING,
)


wildcard_constraints:
    # Without entries nothing may match; an empty text would be no constraint.
    finetuning="|".join(map(re.escape, CONFIG.finetune)) or "(?!)",


rule finetune_table:
    input:
        table=lambda wildcards: os.path.join(
            workflow.basedir, CONFIG.finetune[wildcards.finetuning].table
        ),
        # What the table starts from: the base model (where there is none, the one drawn in its place), a run, a folder.
        model=lambda wildcards: {
            "base": BASE
            or expand(rules.model.output.folder, run=CONFIG.untrained_run),
            **{
                run: expand(rules.average_run.output.final, run=run)
                for run in CONFIG.runs
            },
        }.get(
            CONFIG.finetune[wildcards.finetuning].model,
            os.path.join(
                workflow.basedir, CONFIG.finetune[wildcards.finetuning].model
            ),
        ),
    output:
        best=directory("results/finetune/{finetuning}/best"),
        final=directory("results/finetune/{finetuning}/final"),
        evaluation="results/finetune/{finetuning}/evaluation.json",
    log:
        text="results/logs/finetune.{finetuning}.log",
        usage="results/logs/finetune.{finetuning}.usage.json",
    benchmark:
        "results/benchmarks/finetune.{finetuning}.tsv"
    conda:
        "../envs/commbert.yaml"
    threads: CONFIG.runtime.threads
    resources:
        **FINETUNING_RESOURCES,
    params:
        settings=lambda wildcards: CONFIG.finetune[wildcards.finetuning]
        .of_stage()
        .as_json(),
        code=code_digest("commbert.stages.finetune"),
    shell:
        # exec: a signal for the group must not end the shell before the training has saved.
        "exec commbert finetune {input.table:q} --settings {params.settings:q} --model {input.model:q} "
        "--checkpoints results/finetune/{wildcards.finetuning}/checkpoint --best-out {output.best} "
        "--final-out {output.final} --evaluation-out {output.evaluation} --threads {threads} "
        "--log {log.text} --usage {log.usage}"


rule finetune_report:
    input:
        evaluation=rules.finetune_table.output.evaluation,
    output:
        markdown=report(
            "reports/{finetuning}_finetune_report.md",
            caption="../report/finetune_report.rst",
            category="Reports",
            labels={"run": "{finetuning}", "format": "Fine-tuning, Markdown"},
        ),
        outcome=report(
            "reports/figures/{finetuning}_finetune_test.svg",
            caption="../report/finetune_test.rst",
            category="Figures",
            labels={"run": "{finetuning}", "figure": "test rows of the fine-tuning"},
        ),
        curves=report(
            "reports/figures/{finetuning}_finetune_curves.svg",
            caption="../report/finetune_curves.rst",
            category="Figures",
            labels={"run": "{finetuning}", "figure": "curves of the fine-tuning"},
        ),
    log:
        text="results/logs/findings.{finetuning}.log",
        usage="results/logs/findings.{finetuning}.usage.json",
    benchmark:
        "results/benchmarks/findings.{finetuning}.tsv"
    conda:
        "../envs/commbert.yaml"
    resources:
        **REPORT_RESOURCES,
    params:
        code=code_digest("commbert.stages.findings"),
        templates=templates_digest(),
    shell:
        "commbert findings --evaluation {input.evaluation} --report-out {output.markdown} "
        "--outcome-out {output.outcome} --curves-out {output.curves} --log {log.text} --usage {log.usage}"
