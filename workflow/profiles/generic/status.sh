#!/usr/bin/env bash
# Prints running, success or failed for a job of Slurm, with and without slurmdbd. For another scheduler, ask that one.
# A look that hangs would stop the whole workflow, without a word: it has 30 s.
state=$(timeout 30 scontrol --oneliner show job "$1" 2>/dev/null | sed -n 's/.*JobState=\([A-Z_]*\).*/\1/p')
[ -n "$state" ] || state=$(timeout 30 sacct -X -n -P -j "$1" -o State 2>/dev/null | head -n 1 | cut -d ' ' -f 1)
case "$state" in
  COMPLETED) echo success ;;
  BOOT_FAIL|CANCELLED|DEADLINE|FAILED|NODE_FAIL|OUT_OF_MEMORY|PREEMPTED|TIMEOUT) echo failed ;;
  # Also when nothing was said: a controller that is busy for a moment has lost no job.
  *) echo running ;;
esac
