#!/bin/sh
# run_fuzzer.sh PROGRAM CORPUS [libFuzzer options]: fuzzes for $MUSTER_FUZZ_SECONDS (60) from the seeds of the program and
# what CORPUS has kept of earlier runs. An input that fails stays in CORPUS.failed/.
set -eu
program=$1 corpus=$2
shift 2
mkdir -p "$corpus" "$corpus.failed"
exec "$program" "$corpus" -max_total_time="${MUSTER_FUZZ_SECONDS:-60}" -timeout=25 -rss_limit_mb=2048 -close_fd_mask=3 \
  -print_final_stats=1 -verbosity=1 -artifact_prefix="$corpus.failed/" "$@"
