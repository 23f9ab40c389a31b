# Sources to tables. Every shard of a source is read on its own (ingest, lex); what belongs to the whole corpus is
# gathered (corpus, words, tokenizer); then the shards become windows and pairs, by numbers, without their text.
# A rule's params hold its own section of the settings and a digest of its own code: nothing else reruns it.
# Priorities: what gathers all shards starts as soon as it can, beside jobs of shards that do not wait for it (corpus
# beside lex, tokenizer beside draw, pairs beside windows), and what it waits for goes before those.
# What a stage took is an output here: it goes into Snakemake's cache with the rest, and comes back with it.
from commbert.corpus.fingerprints import fingerprint_base, fingerprint_shard
from commbert.provenance import code_digest, templates_digest, uses_cache

SOURCES = {source.name: source for source in CONFIG.corpus.sources}
SHARDS = CONFIG.corpus.shards()

# Tables that depend on settings which a run may change: "" for the shared ones, else a folder beside them.
VARIANTS = CONFIG.variants
SHARED = dict(variant="")

# Snakemake's cache between runs, where the environment names a folder for it; else no trace of it.
CACHE = CACHE_FETCHED = False
try:
    is_cached = uses_cache(os.environ)
except SettingsError as error:
    raise WorkflowError(str(error))
if is_cached:

    include: "cache.smk"

    CACHE = "omit-software"  # in the folder's name: the libraries' versions
    CACHE_FETCHED = [
        "omit-software",
        "omit-storage-content",
    ]  # pinned by its sha256


wildcard_constraints:
    shard="|".join(map(re.escape, SHARDS)),
    variant=f"({'|'.join(VARIANTS)})",  # in brackets, for an empty text would be no constraint


rule fetch:
    output:
        wheel="results/sources/{source}.whl",
        usage="results/logs/fetch.{source}.usage.json",
    log:
        text="results/logs/fetch.{source}.log",
    cache: CACHE
    conda:
        "../envs/commbert.yaml"
    resources:
        **DATA_RESOURCES,
    params:
        source=lambda wildcards: SOURCES[wildcards.source].to_fetch().as_json(),
        code=code_digest("commbert.stages.fetch"),
    shell:
        "commbert fetch --source {params.source:q} --out {output.wheel} --log {log.text} --usage {output.usage}"


# Never from the cache: its files are symbolic links there, and git takes no folder with a linked HEAD for a repository.
rule fetch_git:
    output:
        folder=directory("results/sources/{source}.git"),
        usage="results/logs/fetch.{source}.usage.json",
    log:
        text="results/logs/fetch.{source}.log",
    conda:
        "../envs/commbert.yaml"
    resources:
        **DATA_RESOURCES,
    params:
        source=lambda wildcards: SOURCES[wildcards.source].to_fetch().as_json(),
        git=CONFIG.corpus.git.as_json(),
        code=code_digest("commbert.stages.fetch"),
    shell:
        "commbert fetch --source {params.source:q} --git {params.git:q} --out {output.folder} --log {log.text} "
        "--usage {output.usage}"


rule fetch_archive:
    input:
        # Snakemake's storage plugin downloads it; it is checked and kept under a name of ours.
        file=lambda wildcards: storage.http(SOURCES[wildcards.source].url),
    output:
        archive="results/sources/{source}.archive",
        usage="results/logs/fetch.{source}.usage.json",
    log:
        text="results/logs/fetch.{source}.log",
    cache: CACHE_FETCHED
    conda:
        "../envs/commbert.yaml"
    resources:
        **DATA_RESOURCES,
    params:
        source=lambda wildcards: SOURCES[wildcards.source].to_fetch().as_json(),
        code=code_digest("commbert.stages.fetch"),
    shell:
        "commbert fetch --source {params.source:q} --from {input.file:q} --out {output.archive} --log {log.text} "
        "--usage {output.usage}"


rule base:
    output:
        folder=directory("results/base"),
        usage="results/logs/base.usage.json",
    log:
        text="results/logs/base.log",
    cache: CACHE
    conda:
        "../envs/commbert.yaml"
    resources:
        **DATA_RESOURCES,
    params:
        source=lambda wildcards: CONFIG.model.base.as_json(),
        content=fingerprint_base(CONFIG.model.base),
        code=code_digest("commbert.stages.base"),
    shell:
        "commbert base --source {params.source:q} --out {output.folder} --log {log.text} --usage {output.usage}"


# A model that is drawn anew has no base, and a tokenizer that is learnt: who asks for the base gets nothing then.
BASE = rules.base.output.folder if CONFIG.has_base else []


rule ingest:
    input:
        fetched=lambda wildcards: expand(
            "results/sources/{file}", file=SHARDS[wildcards.shard][0].fetched_to
        ),
    output:
        files="results/shards/{shard}/files.parquet",
        lines="results/shards/{shard}/lines.parquet",
        summary="results/shards/{shard}/ingest.json",
        usage="results/logs/ingest.{shard}.usage.json",
    log:
        text="results/logs/ingest.{shard}.log",
    cache: CACHE
    priority: 1
    conda:
        "../envs/commbert.yaml"
    resources:
        **DATA_RESOURCES,
    params:
        settings=lambda wildcards: CONFIG.corpus.of_shard(
            SHARDS[wildcards.shard][0]
        ).as_json(),
        shard=lambda wildcards: SHARDS[wildcards.shard][1],
        fetched=lambda wildcards, input: [f"--fetched={path}" for path in input],
        content=lambda wildcards: fingerprint_shard(*SHARDS[wildcards.shard]),
        code=code_digest("commbert.stages.ingest"),
    shell:
        "commbert ingest --settings {params.settings:q} --shard {params.shard} {params.fetched:q} "
        "--files-out {output.files} --lines-out {output.lines} --summary-out {output.summary} "
        "--threads {threads} --log {log.text} --usage {output.usage}"


rule corpus:
    input:
        files=expand("results/shards/{shard}/files.parquet", shard=SHARDS),
        summaries=expand("results/shards/{shard}/ingest.json", shard=SHARDS),
    output:
        files="results/corpus/files.parquet",
        shards="results/corpus/shards.json",
        summary="results/corpus/ingest.json",
        usage="results/logs/corpus.usage.json",
    log:
        text="results/logs/corpus.log",
    cache: CACHE
    priority: 2
    conda:
        "../envs/commbert.yaml"
    resources:
        **DATA_RESOURCES,
    params:
        settings=lambda wildcards: CONFIG.corpus.gathering().as_json(),
        files=expand("--shard-files=results/shards/{shard}/files.parquet", shard=SHARDS),
        summaries=expand(
            "--shard-summary=results/shards/{shard}/ingest.json", shard=SHARDS
        ),
        code=code_digest("commbert.stages.corpus"),
    shell:
        "commbert corpus --settings {params.settings:q} {params.files:q} {params.summaries:q} "
        "--files-out {output.files} --shards-out {output.shards} --summary-out {output.summary} "
        "--threads {threads} --log {log.text} --usage {output.usage}"


rule lex:
    input:
        base=BASE,
        lines=rules.ingest.output.lines,
    output:
        folder=directory("results/lex/{shard}"),
        usage="results/logs/lex.{shard}.usage.json",
    log:
        text="results/logs/lex.{shard}.log",
    cache: CACHE
    conda:
        "../envs/commbert.yaml"
    resources:
        **DATA_RESOURCES,
    params:
        settings=lambda wildcards: CONFIG.words.of_lines().as_json(),
        cut=(
            f"--base {BASE}"
            if CONFIG.has_base
            else f"--{'lower' if CONFIG.tokenizer.lower_case else 'keep'}-case"
        ),
        code=code_digest("commbert.stages.lex"),
    shell:
        "commbert lex --settings {params.settings:q} {params.cut} --lines {input.lines} --out {output.folder} "
        "--threads {threads} --log {log.text} --usage {output.usage}"


rule words:
    input:
        files=rules.corpus.output.files,
        shards=rules.corpus.output.shards,
        lexed=expand("results/lex/{shard}", shard=SHARDS),
    output:
        words="results/corpus/words.parquet",
        english="results/corpus/english.json",
        summary="results/corpus/words.json",
        usage="results/logs/words.usage.json",
    log:
        text="results/logs/words.log",
    cache: CACHE
    priority: 2
    conda:
        "../envs/commbert.yaml"
    resources:
        **DATA_RESOURCES,
    params:
        settings=lambda wildcards: CONFIG.words.as_json(),
        lexed=expand("--lexed=results/lex/{shard}", shard=SHARDS),
        code=code_digest("commbert.stages.words"),
    shell:
        "commbert words --settings {params.settings:q} --files {input.files} --shards {input.shards} "
        "{params.lexed:q} --words-out {output.words} --english-out {output.english} "
        "--summary-out {output.summary} --threads {threads} --log {log.text} --usage {output.usage}"


rule tokenizer:
    input:
        base=BASE,
        files=rules.corpus.output.files,
        shards=rules.corpus.output.shards,
        lexed=rules.words.input.lexed,
        words=rules.words.output.words,
        english=rules.words.output.english,
    output:
        folder=directory("results{variant}/tokenizer/tokenizer"),
        words="results{variant}/tokenizer/words.parquet",
        receipts="results{variant}/tokenizer/receipts.json",
        usage="results{variant}/logs/tokenizer.usage.json",
    log:
        text="results{variant}/logs/tokenizer.log",
    cache: CACHE
    priority: 2
    conda:
        "../envs/commbert.yaml"
    resources:
        **DATA_RESOURCES,
    params:
        settings=lambda wildcards: VARIANTS[wildcards.variant].tokenizer.as_json(),
        base=f"--base {BASE}" if CONFIG.has_base else "",
        lexed=expand("--lexed=results/lex/{shard}", shard=SHARDS),
        code=code_digest("commbert.stages.tokenizer"),
    shell:
        "commbert tokenizer --settings {params.settings:q} {params.base} --files {input.files} "
        "--shards {input.shards} {params.lexed:q} --corpus-words {input.words} --english {input.english} "
        "--tokenizer-out {output.folder} --words-out {output.words} --receipts-out {output.receipts} "
        "--threads {threads} --log {log.text} --usage {output.usage}"


rule windows:
    input:
        files=rules.corpus.output.files,
        shards=rules.corpus.output.shards,
        lexed=rules.lex.output.folder,
        tokenizer=rules.tokenizer.output.folder,
    output:
        train="results{variant}/windows/train/{shard}.parquet",
        validation="results{variant}/windows/validation/{shard}.parquet",
        test="results{variant}/windows/test/{shard}.parquet",
        hashes="results{variant}/windows/hashes/{shard}.parquet",
        summary="results{variant}/windows/counts/{shard}.json",
        usage="results{variant}/logs/windows.{shard}.usage.json",
    log:
        text="results{variant}/logs/windows.{shard}.log",
    cache: CACHE
    conda:
        "../envs/commbert.yaml"
    resources:
        **DATA_RESOURCES,
    params:
        settings=lambda wildcards: VARIANTS[wildcards.variant].windows.as_json(),
        code=code_digest("commbert.stages.windows"),
    shell:
        "commbert windows --settings {params.settings:q} --files {input.files} --shards {input.shards} "
        "--lexed {input.lexed} --tokenizer {input.tokenizer} --train-out {output.train} "
        "--validation-out {output.validation} --test-out {output.test} --hashes-out {output.hashes} "
        "--summary-out {output.summary} --threads {threads} --log {log.text} --usage {output.usage}"


rule list_windows:
    input:
        train=expand(rules.windows.output.train, shard=SHARDS, allow_missing=True),
        validation=expand(
            rules.windows.output.validation, shard=SHARDS, allow_missing=True
        ),
        test=expand(rules.windows.output.test, shard=SHARDS, allow_missing=True),
        hashes=expand(rules.windows.output.hashes, shard=SHARDS, allow_missing=True),
        summaries=expand(rules.windows.output.summary, shard=SHARDS, allow_missing=True),
    output:
        train="results{variant}/windows/train.json",
        validation="results{variant}/windows/validation.json",
        test="results{variant}/windows/test.json",
        summary="results{variant}/windows/summary.json",
        usage="results{variant}/logs/list-windows.usage.json",
    log:
        text="results{variant}/logs/list-windows.log",
    cache: CACHE
    conda:
        "../envs/commbert.yaml"
    resources:
        **DATA_RESOURCES,
    params:
        parts=[
            *expand(
                "--train=results{variant}/windows/train/{shard}.parquet",
                shard=SHARDS,
                allow_missing=True,
            ),
            *expand(
                "--validation=results{variant}/windows/validation/{shard}.parquet",
                shard=SHARDS,
                allow_missing=True,
            ),
            *expand(
                "--test=results{variant}/windows/test/{shard}.parquet",
                shard=SHARDS,
                allow_missing=True,
            ),
            *expand(
                "--hashes=results{variant}/windows/hashes/{shard}.parquet",
                shard=SHARDS,
                allow_missing=True,
            ),
            *expand(
                "--shard-summary=results{variant}/windows/counts/{shard}.json",
                shard=SHARDS,
                allow_missing=True,
            ),
        ],
        code=code_digest("commbert.stages.windows"),
    shell:
        "commbert list-windows {params.parts:q} --train-out {output.train} --validation-out {output.validation} "
        "--test-out {output.test} --summary-out {output.summary} "
        "--threads {threads} --log {log.text} --usage {output.usage}"


rule draw:
    input:
        files=rules.corpus.output.files,
        shards=rules.corpus.output.shards,
        lexed=rules.lex.output.folder,
        words=rules.words.output.words,
    output:
        folder=directory("results{variant}/draws/{shard}"),
        usage="results{variant}/logs/draw.{shard}.usage.json",
    log:
        text="results{variant}/logs/draw.{shard}.log",
    cache: CACHE
    priority: 1
    conda:
        "../envs/commbert.yaml"
    resources:
        **DATA_RESOURCES,
    params:
        settings=lambda wildcards: VARIANTS[wildcards.variant].pairs.as_json(),
        code=code_digest("commbert.stages.draw"),
    shell:
        "commbert draw --settings {params.settings:q} --files {input.files} --shards {input.shards} "
        "--lexed {input.lexed} --words {input.words} --out {output.folder} "
        "--threads {threads} --log {log.text} --usage {output.usage}"


rule pairs:
    input:
        files=rules.corpus.output.files,
        drawn=expand("results{variant}/draws/{shard}", shard=SHARDS, allow_missing=True),
        words=rules.tokenizer.output.words,
    output:
        train="results{variant}/pairs/train.parquet",
        validation="results{variant}/pairs/validation.parquet",
        test="results{variant}/pairs/test.parquet",
        known="results{variant}/pairs/known.parquet",
        heldout_lines="results{variant}/pairs/heldout_lines.parquet",
        summary="results{variant}/pairs/summary.json",
        usage="results{variant}/logs/pairs.usage.json",
    log:
        text="results{variant}/logs/pairs.log",
    cache: CACHE
    priority: 2
    conda:
        "../envs/commbert.yaml"
    resources:
        **DATA_RESOURCES,
    params:
        settings=lambda wildcards: VARIANTS[wildcards.variant].pairs.as_json(),
        drawn=expand(
            "--drawn=results{variant}/draws/{shard}", shard=SHARDS, allow_missing=True
        ),
        code=code_digest("commbert.stages.pairs"),
    shell:
        "commbert pairs --settings {params.settings:q} --files {input.files} {params.drawn:q} "
        "--words {input.words} --train-out {output.train} --validation-out {output.validation} "
        "--test-out {output.test} --known-out {output.known} --heldout-lines-out {output.heldout_lines} "
        "--summary-out {output.summary} --threads {threads} --log {log.text} --usage {output.usage}"


rule acronyms:
    input:
        files=rules.corpus.output.files,
        shards=rules.corpus.output.shards,
        lines=expand("results/shards/{shard}/lines.parquet", shard=SHARDS),
    output:
        acronyms="results/corpus/acronyms.parquet",
        summary="results/corpus/acronyms.json",
        usage="results/logs/acronyms.usage.json",
    log:
        text="results/logs/acronyms.log",
    cache: CACHE
    conda:
        "../envs/commbert.yaml"
    resources:
        **DATA_RESOURCES,
    params:
        lines=expand("--lines=results/shards/{shard}/lines.parquet", shard=SHARDS),
        code=code_digest("commbert.stages.acronyms"),
    shell:
        "commbert acronyms --files {input.files} --shards {input.shards} {params.lines:q} "
        "--acronyms-out {output.acronyms} --summary-out {output.summary} "
        "--threads {threads} --log {log.text} --usage {output.usage}"


rule functions:
    input:
        files=rules.corpus.output.files,
        shards=rules.corpus.output.shards,
        lines=expand("results/shards/{shard}/lines.parquet", shard=SHARDS),
    output:
        functions="results/corpus/functions.parquet",
        summary="results/corpus/functions.json",
        usage="results/logs/functions.usage.json",
    log:
        text="results/logs/functions.log",
    cache: CACHE
    conda:
        "../envs/commbert.yaml"
    resources:
        **DATA_RESOURCES,
    params:
        lines=expand("--lines=results/shards/{shard}/lines.parquet", shard=SHARDS),
        code=code_digest("commbert.stages.functions"),
    shell:
        "commbert functions --files {input.files} --shards {input.shards} {params.lines:q} "
        "--out {output.functions} --summary-out {output.summary} "
        "--threads {threads} --log {log.text} --usage {output.usage}"


rule texts:
    input:
        files=rules.corpus.output.files,
        functions=rules.functions.output.functions,
        acronyms=rules.acronyms.output.acronyms,
        tokenizer=rules.tokenizer.output.folder,
    output:
        texts="results{variant}/texts/texts.parquet",
        pairs="results{variant}/texts/pairs.parquet",
        summary="results{variant}/texts/summary.json",
        usage="results{variant}/logs/texts.usage.json",
    log:
        text="results{variant}/logs/texts.log",
    cache: CACHE
    conda:
        "../envs/commbert.yaml"
    resources:
        **DATA_RESOURCES,
    params:
        settings=lambda wildcards: VARIANTS[wildcards.variant].texts.as_json(),
        code=code_digest("commbert.stages.texts"),
    shell:
        "commbert texts --settings {params.settings:q} --files {input.files} --functions {input.functions} "
        "--acronyms {input.acronyms} --tokenizer {input.tokenizer} --texts-out {output.texts} "
        "--pairs-out {output.pairs} --summary-out {output.summary} "
        "--threads {threads} --log {log.text} --usage {output.usage}"
