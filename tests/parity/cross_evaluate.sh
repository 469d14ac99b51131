#!/usr/bin/env bash
# One checkpoint, evaluated on bccd by Muster and by mmdetection's modules: the figures and the detections must agree.
#   tests/parity/cross_evaluate.sh CHECKPOINT.pth...
# Checkpoints of either program: `muster-trainer train --config configs/quick/bccd.textproto`, or
# `bccd_baseline.py DATA --save FILE` (../shared/oracle/bccd_baseline.md).
# MUSTER_ORACLE_PYTHON  Python of the environment that ../shared/oracle/setup.sh makes
# MUSTER_SHARED         the shared folder (default: ../shared)
# MUSTER_TRAINER        the program (default: build/release/bin/muster-trainer)
set -euo pipefail
[ $# -gt 0 ] || { sed -n '2,/^set/p' "$0" | sed '$d; s/^# \{0,1\}//'; exit 2; }
checkpoints=()
for file in "$@"; do checkpoints+=("$(realpath "$file")"); done
cd "$(dirname "$0")/../.."
python=${MUSTER_ORACLE_PYTHON:?set it to the Python of the environment that ../shared/oracle/setup.sh makes}
shared=$(realpath "${MUSTER_SHARED:-../shared}")
trainer=${MUSTER_TRAINER:-build/release/bin/muster-trainer}
export OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE=1
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
failed=0
for checkpoint in "${checkpoints[@]}"; do
  echo "== $checkpoint: Muster, mmdetection"
  "$trainer" evaluate --config configs/quick/bccd.textproto --data-root "$shared/data" --checkpoint "$checkpoint" \
    --json --output "$folder/muster.json" > "$folder/muster.figures"
  "$python" "$shared/oracle/bccd_baseline.py" "$shared/data/bccd" --threads 1 --load "$checkpoint" \
    --results "$folder/mmdetection.json" > "$folder/mmdetection.figures"
  python3 tests/parity/compare_detections.py "$folder/muster.figures" "$folder/muster.json" \
    "$folder/mmdetection.figures" "$folder/mmdetection.json" || failed=1
done
exit $failed
