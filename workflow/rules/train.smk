# One start model, one training and one evaluation per run; the data stages are shared. Checkpoints are no outputs:
# Snakemake deletes the outputs of a job that failed or runs again, and a checkpoint must outlive both.


rule model:
    input:
        base=rules.base.output.folder,
        tokenizer=rules.tokenizer.output.folder,
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
        start=rules.model.output.folder,
        windows=rules.list_windows.output.train,
        validation_windows=rules.list_windows.output.validation,
        pairs=rules.pairs.output.train,
        validation_pairs=rules.pairs.output.validation,
        known=rules.pairs.output.known,
        words=rules.tokenizer.output.words,
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
        start=rules.model.output.folder,
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
    "{params.head} --files {input.files} --line-words {input.line_words} --words {input.words} "
    "--known {input.known} --pairs {input.pairs} --windows {input.windows} --train-windows {input.train_windows} "
    "--windows-tokenizer {input.tokenizer} --out {output.evaluation} --scores-out {output.scores} "
    "--threads {threads} --log {log.text} --usage {log.usage}"
)
TEST_TABLES = dict(
    files=rules.corpus.output.files,
    line_words=rules.pairs.output.heldout_lines,
    words=rules.tokenizer.output.words,
    known=rules.pairs.output.known,
    pairs=rules.pairs.output.test,
    windows=rules.list_windows.output.test,
    train_windows=rules.list_windows.output.train,
    tokenizer=rules.tokenizer.output.folder,
)


rule evaluate_base:
    input:
        **TEST_TABLES,
        model=rules.base.output.folder,
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
        code=code_digest("commbert.stages.evaluate"),
    shell:
        EVALUATE


rule evaluate_run:
    input:
        **TEST_TABLES,
        model=rules.average_run.output.final,
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
        code=code_digest("commbert.stages.evaluate"),
    shell:
        EVALUATE
