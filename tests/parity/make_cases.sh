#!/usr/bin/env bash
# Makes the parity cases that are too large to keep: W18, W32 and R50-FPN, and more of the tiny model.
#   tests/parity/make_cases.sh [DIR] [ARCH...]     default: build/parity-cases, and tiny w18 w32 r50
# MUSTER_ORACLE_PYTHON  Python of the environment that ../shared/oracle/setup.sh makes
# MUSTER_SHARED         the shared folder (default: ../shared)
# Then: MUSTER_PARITY_CASES=DIR ctest --preset release -L parity. A case that is there is not made again.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=$(realpath -m "${1:-build/parity-cases}")
shift || true
archs=("$@")
[ ${#archs[@]} -gt 0 ] || archs=(tiny w18 w32 r50)
python=${MUSTER_ORACLE_PYTHON:?set it to the Python of the environment that ../shared/oracle/setup.sh makes}
oracle=$(realpath "${MUSTER_SHARED:-../shared}")/oracle
here=$(realpath tests/parity)
mkdir -p "$out"
# MKL's kernels, also its logarithm, depend on the CPU; these are the same on all of them, and the comparing
# programs ask for them too.
export OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE=1
reproducible=(env MKL_CBWR=COMPATIBLE)

# dump ARCH CASE BN SAMPLER DTYPE [more options]
dump() {
  local arch=$1 images=$2 bn=$3 sampler=$4 dtype=$5
  shift 5
  local suffix=""
  [[ " $* " == *" --lr 0.001 "* ]] && suffix=_lr0.001
  local stem=${arch}_${images}_${bn}_${sampler}${suffix}
  [ "$dtype" = float32 ] || stem+=_$dtype
  if [ -e "$out/$stem.json" ]; then
    echo "$stem is there"
    return
  fi
  local program=("$oracle/oracle.py" dump)
  [ "$images" = crowd ] && program=("$here/crowd_oracle.py" "$oracle")
  local start=$SECONDS
  "${reproducible[@]}" "$python" "${program[@]}" --arch "$arch" --case "$images" --bn "$bn" --sampler "$sampler" \
    --dtype "$dtype" --suffix "$suffix" --out "$out" "$@"
  # The comparison needs the losses of later steps (in the .json), not their tensors.
  rm -f "$out/${stem}"_step[1-9].safetensors
  echo "$stem took $((SECONDS - start)) s"
}

for arch in "${archs[@]}"; do
  case $arch in
    tiny)
      # The weights of ../shared/oracle/cases.
      cp -n "$oracle/cases/tiny_init.safetensors" "$out/" 2>/dev/null || true
      for dtype in float64 float32; do
        dump tiny small eval strided $dtype --lr 0.001 --no-detections
        dump tiny small train first_k $dtype --no-detections
        dump tiny small4u train strided $dtype
        dump tiny small4u eval first_k $dtype --lr 0.001 --no-detections
        dump tiny emptygt train strided $dtype
        dump tiny crowd train strided $dtype --no-detections
      done
      ;;
    *)
      # Not under MKL_CBWR: the start need not be reproducible, and takes 60 training steps.
      [ -e "$out/${arch}_init.safetensors" ] || "$python" "$oracle/oracle.py" init --arch "$arch" --out "$out"
      rm -f "$out/${arch}"_init*.pth
      dump "$arch" small train strided float64
      dump "$arch" small train strided float32 --steps 1
      dump "$arch" small eval strided float64 --lr 0.001 --no-detections
      if [ "$arch" = w18 ]; then
        dump w18 small4u train strided float32 --steps 1
        dump w18 emptygt train first_k float32 --steps 1 --no-detections
      fi
      ;;
  esac
done
