# One start model, one training and one evaluation per run; the data stages are shared. Checkpoints are no outputs:
# Snakemake deletes the outputs of a job that failed or runs again, and a checkpoint must outlive both.
from commbert.settings.runs import name_and_seed


rule model:
    input:
        base=rules.base.output.folder,
        tokenizer=lambda wildcards: expand(
            rules.tokenizer.output.folder, variant=CONFIG.variant_of(wildcards.run)
        ),
    output:
        folder=directory("results/runs/{run}/start"),
    log:
        text="results/logs/model.{run}.log",
        usage="results/logs/model.{run}.usage.json",
    benchmark:
        "results/benchmarks/model.{run}.tsv"
    conda:
        "../envs/commbert.yaml"
    params:
        settings=lambda wildcards: CONFIG.model_of(wildcards.run).of_start().as_json(),
        code=code_digest("commbert.stages.model"),
    shell:
        "commbert model --settings {params.settings:q} --base {input.base} --tokenizer {input.tokenizer} "
        "--out {output.folder} --log {log.text} --usage {log.usage}"


rule train_run:
    input:
        # A run with another seed starts where the run itself does.
        start=lambda wildcards: expand(
            rules.model.output.folder, run=name_and_seed(wildcards.run)[0]
        ),
        windows=lambda wildcards: expand(
            rules.list_windows.output.train, variant=CONFIG.variant_of(wildcards.run)
        ),
        validation_windows=lambda wildcards: expand(
            rules.list_windows.output.validation,
            variant=CONFIG.variant_of(wildcards.run),
        ),
        pairs=lambda wildcards: expand(
            rules.pairs.output.train, variant=CONFIG.variant_of(wildcards.run)
        ),
        validation_pairs=lambda wildcards: expand(
            rules.pairs.output.validation, variant=CONFIG.variant_of(wildcards.run)
        ),
        known=lambda wildcards: expand(
            rules.pairs.output.known, variant=CONFIG.variant_of(wildcards.run)
        ),
        words=lambda wildcards: expand(
            rules.tokenizer.output.words, variant=CONFIG.variant_of(wildcards.run)
        ),
        corpus=rules.corpus.output.summary,
    output:
        best=directory("results/runs/{run}/trained/best"),
        final=directory("results/runs/{run}/trained/final"),
        metrics="results/runs/{run}/metrics.jsonl",
        summary="results/runs/{run}/training.json",
    log:
        text="results/logs/train.{run}.log",
        usage="results/logs/train.{run}.usage.json",
    benchmark:
        "results/benchmarks/train.{run}.tsv"
    conda:
        "../envs/commbert.yaml"
    threads: CONFIG.runtime.threads
    params:
        settings=lambda wildcards: CONFIG.training_of(wildcards.run).as_json(),
        code=code_digest("commbert.stages.train"),
    shell:
        "commbert train --settings {params.settings:q} --model {input.start} --windows {input.windows} "
        "--validation-windows {input.validation_windows} --pairs {input.pairs} "
        "--validation-pairs {input.validation_pairs} --known {input.known} --words {input.words} "
        "--corpus {input.corpus} --checkpoints results/runs/{wildcards.run}/checkpoint --best-out {output.best} --final-out {output.final} "
        "--metrics-out {output.metrics} --summary-out {output.summary} --threads {threads} "
        "--log {log.text} --usage {log.usage}"


# A stage of its own: another share of the start model trains nothing anew.
rule average_run:
    input:
        start=lambda wildcards: expand(
            rules.model.output.folder, run=name_and_seed(wildcards.run)[0]
        ),
        best=rules.train_run.output.best,
        final=rules.train_run.output.final,
    output:
        best=directory("results/runs/{run}/best"),
        final=directory("results/runs/{run}/final"),
    log:
        text="results/logs/average.{run}.log",
        usage="results/logs/average.{run}.usage.json",
    benchmark:
        "results/benchmarks/average.{run}.tsv"
    conda:
        "../envs/commbert.yaml"
    params:
        share=lambda wildcards: CONFIG.model_of(wildcards.run).average_with_base,
        code=code_digest("commbert.stages.average"),
    shell:
        "commbert average --share {params.share} --start {input.start} --trained {input.best} --out {output.best} "
        "--trained {input.final} --out {output.final} --log {log.text} --usage {log.usage}"


EVALUATE = (
    "commbert evaluate --settings {params.settings:q} --model {input.model} --pooling {params.pooling} "
    "{params.head} --split {params.split} --files {input.files} --line-words {input.line_words} --words {input.words} "
    "--known {input.known} --pairs {input.pairs} --windows {input.windows} --train-windows {input.train_windows} "
    "--windows-tokenizer {input.tokenizer} --out {output.evaluation} --scores-out {output.scores} "
    "--threads {threads} --log {log.text} --usage {log.usage}"
)
# Words, pairs and lines are the shared ones, so that all runs answer the same questions; windows are cut by the run's own
# tokenizer.
WORD_TABLES = dict(
    files=rules.corpus.output.files,
    line_words=expand(rules.pairs.output.heldout_lines, **SHARED),
    words=expand(rules.tokenizer.output.words, **SHARED),
    known=expand(rules.pairs.output.known, **SHARED),
)


rule evaluate_base:
    input:
        **WORD_TABLES,
        model=rules.base.output.folder,
        pairs=expand(rules.pairs.output.test, **SHARED),
        windows=expand(rules.list_windows.output.test, **SHARED),
        train_windows=expand(rules.list_windows.output.train, **SHARED),
        tokenizer=expand(rules.tokenizer.output.folder, **SHARED),
    output:
        evaluation="results/baselines/base/evaluation.json",
        scores="results/baselines/base/scores.parquet",
    log:
        text="results/logs/evaluate.base.log",
        usage="results/logs/evaluate.base.usage.json",
    benchmark:
        "results/benchmarks/evaluate.base.tsv"
    conda:
        "../envs/commbert.yaml"
    threads: CONFIG.runtime.threads
    params:
        settings=lambda wildcards: CONFIG.evaluation.as_json(),
        pooling=CONFIG.model.pooling,
        head="",
        split="test",
        code=code_digest("commbert.stages.evaluate"),
    shell:
        EVALUATE


rule evaluate_run:
    input:
        **WORD_TABLES,
        model=rules.average_run.output.final,
        pairs=expand(rules.pairs.output.test, **SHARED),
        windows=lambda wildcards: expand(
            rules.list_windows.output.test, variant=CONFIG.variant_of(wildcards.run)
        ),
        train_windows=lambda wildcards: expand(
            rules.list_windows.output.train, variant=CONFIG.variant_of(wildcards.run)
        ),
        tokenizer=lambda wildcards: expand(
            rules.tokenizer.output.folder, variant=CONFIG.variant_of(wildcards.run)
        ),
    output:
        evaluation="results/runs/{run}/evaluation.json",
        scores="results/runs/{run}/scores.parquet",
    log:
        text="results/logs/evaluate.{run}.log",
        usage="results/logs/evaluate.{run}.usage.json",
    benchmark:
        "results/benchmarks/evaluate.{run}.tsv"
    conda:
        "../envs/commbert.yaml"
    threads: CONFIG.runtime.threads
    params:
        settings=lambda wildcards: CONFIG.evaluation.as_json(),
        pooling=lambda wildcards: CONFIG.model_of(wildcards.run).pooling,
        head=lambda wildcards: (
            "--trained-head"
            if CONFIG.training_of(wildcards.run).objectives.mlm > 0
            else ""
        ),
        split="test",
        code=code_digest("commbert.stages.evaluate"),
    shell:
        EVALUATE


rule evaluate_run_on_validation:
    input:
        **WORD_TABLES,
        model=rules.average_run.output.final,
        pairs=expand(rules.pairs.output.validation, **SHARED),
        windows=lambda wildcards: expand(
            rules.list_windows.output.validation,
            variant=CONFIG.variant_of(wildcards.run),
        ),
        train_windows=lambda wildcards: expand(
            rules.list_windows.output.train, variant=CONFIG.variant_of(wildcards.run)
        ),
        tokenizer=lambda wildcards: expand(
            rules.tokenizer.output.folder, variant=CONFIG.variant_of(wildcards.run)
        ),
    output:
        evaluation="results/runs/{run}/validation.json",
        scores="results/runs/{run}/validation_scores.parquet",
    log:
        text="results/logs/evaluate-validation.{run}.log",
        usage="results/logs/evaluate-validation.{run}.usage.json",
    benchmark:
        "results/benchmarks/evaluate-validation.{run}.tsv"
    conda:
        "../envs/commbert.yaml"
    threads: CONFIG.runtime.threads
    params:
        settings=lambda wildcards: CONFIG.evaluation.as_json(),
        pooling=lambda wildcards: CONFIG.model_of(wildcards.run).pooling,
        head=lambda wildcards: (
            "--trained-head"
            if CONFIG.training_of(wildcards.run).objectives.mlm > 0
            else ""
        ),
        split="validation",
        code=code_digest("commbert.stages.evaluate"),
    shell:
        EVALUATE
