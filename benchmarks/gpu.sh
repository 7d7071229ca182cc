#!/usr/bin/env bash
# Measures the rows of a GPU in at most nine minutes, and stores them with the GPU's name:
#
#     benchmarks/gpu.sh                      writes benchmarks/results/gpu_*.json
#     benchmarks/gpu.sh FOLDER               writes there
#     benchmarks/gpu.sh --smoke FOLDER       tiny sizes, on the CPU: does everything run?
#
# PYTHON chooses the interpreter. It needs quickstudy's dependencies; higher and torchopt add rows.
# A part that fails or takes too long is named at the end; the others are measured all the same.
set -u
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
[ -x "$python" ] || python=$(command -v "$python" || command -v python3)

options=(--device cuda)
if [ "${1:-}" = --smoke ]; then
  options=(--device cpu --smoke)
  shift
fi
folder=${1:-benchmarks/results}
failed=()

# measure PART SECONDS: no case begins after so many seconds, and the part is stopped after
# twenty more. The sum of all is 530.
measure() {
  echo "== $1"
  timeout --kill-after=10 $(($2 + 20)) "$python" -m benchmarks.gpu "$1" "${options[@]}" \
    --seconds "$2" --out "$folder/gpu_$1.json" || failed+=("$1")
}

measure meta_step 200
measure plan 110
measure evaluate 50
measure environments 50
measure sampling 20

if [ ${#failed[@]} -gt 0 ]; then
  echo "Not measured to the end: ${failed[*]}." >&2
  exit 1
fi
echo "All parts are measured: $folder/gpu_*.json"
