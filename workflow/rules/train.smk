# One start model, one training and one evaluation per run; the data stages are shared. Checkpoints are no outputs:
# Snakemake deletes the outputs of a job that failed or runs again, and a checkpoint must outlive both.
from commbert.settings.runs import name_and_seed

# 2 to 4.5 GiB for a model of 22 million weights on a CPU; weights, gradients and AdamW's state of 110 million are 1.8 GiB,
# and what is kept for backward grows with the batch. On several nodes each has this much; `commbert train` on the first
# one starts the others.
NODES, GPUS = CONFIG.runtime.nodes, CONFIG.runtime.gpus
TRAINING_RESOURCES = dict(
    mem_mb=lambda wildcards, input, attempt: int(
        (12000 + 20 * input.size_mb) * attempt
    ),
    runtime=1440,
    nodes=NODES,
    **(
        dict(
            mpi="srun",
            tasks=NODES,
            slurm_extra=f"--gpus-per-node={GPUS} {WARNING}" if GPUS else WARNING,
        )
        if NODES > 1
        else dict(gpu=GPUS, slurm_extra=WARNING)
    ),
)


rule model:
    input:
        # The base, another run that this one starts from, or nothing.
        base=lambda wildcards: CONFIG.start_of(wildcards.run) or BASE,
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
    resources:
        **MODEL_RESOURCES,
    params:
        settings=lambda wildcards: CONFIG.model_of(wildcards.run).of_start().as_json(),
        base=lambda wildcards, input: f"--base {input.base}" if input.base else "",
        code=code_digest("commbert.stages.model"),
    shell:
        "commbert model --settings {params.settings:q} {params.base} --tokenizer {input.tokenizer} "
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
        # The texts and their pairs, or nothing.
        texts=lambda wildcards: (
            expand(
                [rules.texts.output.texts, rules.texts.output.pairs],
                variant=CONFIG.variant_of(wildcards.run),
            )
            if CONFIG.reads_texts(wildcards.run)
            else []
        ),
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
    resources:
        **TRAINING_RESOURCES,
    params:
        settings=lambda wildcards: CONFIG.training_of(wildcards.run).as_json(),
        texts=lambda wildcards, input: (
            f"--texts {input.texts[0]} --text-pairs {input.texts[1]}"
            if input.texts
            else ""
        ),
        code=code_digest("commbert.stages.train"),
    shell:
        # exec: a signal for the group must not end the shell before the training has saved.
        "exec commbert train --settings {params.settings:q} --model {input.start} --windows {input.windows} "
        "--validation-windows {input.validation_windows} --pairs {input.pairs} "
        "--validation-pairs {input.validation_pairs} --known {input.known} --words {input.words} {params.texts} "
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
    resources:
        **MODEL_RESOURCES,
    params:
        share=lambda wildcards: CONFIG.model_of(wildcards.run).average_with_base,
        code=code_digest("commbert.stages.average"),
    shell:
        "commbert average --share {params.share} --start {input.start} --trained {input.best} --out {output.best} "
        "--trained {input.final} --out {output.final} --log {log.text} --usage {log.usage}"


# A point of the curve over shares of the start weights; its model is only measured.
rule average_share:
    input:
        start=lambda wildcards: expand(
            rules.model.output.folder, run=name_and_seed(wildcards.run)[0]
        ),
        final=rules.train_run.output.final,
    output:
        final=temp(directory("results/runs/{run}/averages/{share}/final")),
    log:
        text="results/logs/average-share.{run}.{share}.log",
        usage="results/logs/average-share.{run}.{share}.usage.json",
    benchmark:
        "results/benchmarks/average-share.{run}.{share}.tsv"
    conda:
        "../envs/commbert.yaml"
    resources:
        **MODEL_RESOURCES,
    params:
        code=code_digest("commbert.stages.average"),
    shell:
        "commbert average --share {wildcards.share} --start {input.start} --trained {input.final} --out {output.final} "
        "--log {log.text} --usage {log.usage}"
