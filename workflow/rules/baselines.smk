# Word vectors without a language model, that a model is measured against: by the lines that words share, and by their
# spelling. (results/baselines/base is the untouched base model, which has no vectors of its own here.)


wildcard_constraints:
    kind="ppmi_svd|char_ngrams",


rule baseline:
    input:
        files=rules.corpus.output.files,
        shards=rules.corpus.output.shards,
        lexed=expand("results/lex/{shard}", shard=SHARDS),
        corpus_words=rules.words.output.words,
        words=expand(rules.tokenizer.output.words, **SHARED),
    output:
        vectors="results/baselines/{kind}/vectors.parquet",
        summary="results/baselines/{kind}/summary.json",
    log:
        text="results/logs/baseline.{kind}.log",
        usage="results/logs/baseline.{kind}.usage.json",
    benchmark:
        "results/benchmarks/baseline.{kind}.tsv"
    conda:
        "../envs/commbert.yaml"
    resources:
        **DATA_RESOURCES,
    params:
        settings=CONFIG.baselines.as_json(),
        pairs_settings=CONFIG.pairs.as_json(),
        lexed=expand("--lexed=results/lex/{shard}", shard=SHARDS),
        code=code_digest("commbert.stages.baseline"),
    shell:
        "commbert baseline --kind {wildcards.kind} --settings {params.settings:q} "
        "--pairs-settings {params.pairs_settings:q} --files {input.files} --shards {input.shards} {params.lexed:q} "
        "--corpus-words {input.corpus_words} --words {input.words} --vectors-out {output.vectors} "
        "--summary-out {output.summary} --threads {threads} --log {log.text} --usage {log.usage}"
