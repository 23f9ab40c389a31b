# What jobs ask a cluster for; site facts (partition, account) stand in the profiles. Locally nothing of this limits
# anything. Peaks were measured with the default configuration and with five million lines in shards of half a million
# (README); a job that was killed for memory asks for more the next time. runtime is in minutes.

# At most 0.5 GiB: memory follows the shard. The part by size is for shards that were made larger.
DATA_RESOURCES = dict(
    mem_mb=lambda wildcards, input, attempt: int((2000 + 20 * input.size_mb) * attempt),
    runtime=60,
)
# 0.7 to 1 GiB for a model of 22 million weights; one of 340 million in fp32, read twice, takes 3 GiB.
MODEL_RESOURCES = dict(mem_mb=lambda wildcards, attempt: 6000 * attempt, runtime=60)
# 0.6 to 1.5 GiB, half a minute on four cores; it grows with the vocabulary and the model. A GPU is not asked for.
MEASURING_RESOURCES = dict(
    mem_mb=lambda wildcards, attempt: 8000 * attempt, runtime=240
)
# 0.3 GiB.
REPORT_RESOURCES = dict(mem_mb=lambda wildcards, attempt: 2000 * attempt, runtime=30)
# Slurm warns this many seconds before it takes the node away (out of time, preempted): training saves, ends with exit
# code 75, and goes on from there when the job is started again.
WARNING = "--signal=TERM@120"
