#!/usr/bin/env bash
# Runs the GPU tests and benches of an archive of bench/gpu/pack.sh, each within a time limit, and
# goes on after one that fails.
#
#   run.sh [--out FOLDER] [--seconds N] STEP|GROUP...     run.sh --list
#
# Two of them beside each other, each with its CUDA_VISIBLE_DEVICES, share a machine of two GPUs.
#
# FOLDER (default ./out) gets `log`, the whole output of every step, and `summary`, one line a step:
# result, seconds, name. A step that would begin when less than 20 of the N seconds are left is not
# started; one that begins later than it should gets what is left. Ends with 1 when a step failed.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
export LD_LIBRARY_PATH="$here/lib:/usr/local/cuda/lib64${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
export MSADB_TEST_DATA_DIR="$here/data"
export PATH="$here/bin:$PATH:/usr/local/cuda/bin"
sanitizer=compute-sanitizer
command -v $sanitizer >/dev/null || sanitizer=/usr/local/cuda/compute-sanitizer/compute-sanitizer
check="$sanitizer --error-exitcode 9 --print-limit 5 --check-exit-code no"
folder=${MSADB_BENCH_FOLDER:-/tmp}

# group  name  limit in seconds  command
steps=(
"quick|machine|20|nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv; nproc; df -h $folder | tail -1"
"quick|kernels|120|kernels_cuda_backend_test --gtest_brief=1"
"quick|kernels-route|60|kernels_cuda_route_test --gtest_brief=1"
"quick|route|60|route_topk_bench"
"quick|index|200|index_gpu_test --gtest_brief=1"
"quick|index-property|180|index_property_test --gtest_brief=1"
"quick|model|90|model_cuda_test --gtest_filter=-*DefaultModel*"
"quick|bench-model|100|bench_gpu_model"
"quick|storage|60|storage_block_cache_test --gtest_brief=1"
"quick|db|120|db_database_test --gtest_brief=1"
"quick|db-gpu|60|db_gpu_test --gtest_brief=1"
"quick|db-failure|60|db_gpu_failure_test --gtest_brief=1"
"search|bench-search|200|gpu_search_bench --no-faiss"
"search|bench-search-int8|200|gpu_search_bench --rows 195312,1562496 --int8"
"search|bench-search-faiss|200|gpu_search_bench --rows 1562496"
"question|bench-question|330|gpu_question_bench --rows 1562496 --content-gb \${CONTENT_GB:-60} --seconds 150"
"check|memcheck-route|120|$check --tool memcheck route_topk_bench --sanitize"
"check|racecheck-route|180|$check --tool racecheck route_topk_bench --sanitize"
"check|memcheck-kernels|240|$check --tool memcheck kernels_cuda_backend_test --gtest_filter=-*RandomShapes*:*RotationWith*:*NoMemory*:*AbsentDevice*"
"check|racecheck-kernels|240|$check --tool racecheck kernels_cuda_backend_test --gtest_filter=*FusedSteps*:*PackedDocuments*:*Decode*:*EachQuery*:*StreamedProducts*:*ThatAppends*"
"check|memcheck-index|300|$check --tool memcheck index_gpu_test --gtest_filter=*Agrees*:*OddRows*"
"database|bench-db|500|db_bench --documents 195312 --chunks 8 --query-tokens 64 --device cuda:0 --folder $folder"
"database|bench-db-wide|500|db_bench --documents 195312 --chunks 8 --dim 1024 --layers 3 --query-tokens 64 --device cuda:0 --folder $folder"
"two|bench-search-two|240|gpu_search_bench --no-faiss --rows 390624,1562496 --devices 0 --devices 0,1"
"two|index-two|200|index_gpu_test --gtest_brief=1"
"two|bench-db-two|300|db_bench --documents 97656 --chunks 8 --query-tokens 64 --device cuda:0,1 --folder $folder"
"two|bench-question-two|330|gpu_question_bench --rows 1562496 --content-gb \${CONTENT_GB:-60} --seconds 150 --devices 0,1"
)

out=out seconds=100000 wanted=()
while [ $# -gt 0 ]; do
  case $1 in
    --list) printf '%s\n' "${steps[@]}" | awk -F'|' '{printf "%-10s %-20s %4d s\n", $1, $2, $3}'; exit ;;
    --out) out=$2; shift 2 ;;
    --seconds) seconds=$2; shift 2 ;;
    *) wanted+=("$1"); shift ;;
  esac
done
mkdir -p "$out"
failed=0
for name in "${wanted[@]}"; do
  known=0
  for step in "${steps[@]}"; do
    IFS='|' read -r group step_name limit command <<<"$step"
    [ "$name" = "$group" ] || [ "$name" = "$step_name" ] || continue
    known=1
    left=$((seconds - SECONDS))
    if [ $left -lt 20 ]; then
      echo "not started     $step_name" | tee -a "$out/summary"
      failed=1
      continue
    fi
    begin=$SECONDS
    echo "=== $step_name: $command" | tee -a "$out/log"
    start=$(stat -c %s "$out/log")
    timeout -k 5 $((left < limit ? left : limit)) bash -c "$command" 2>&1 | tee -a "$out/log"
    result=${PIPESTATUS[0]}
    if [ "$result" != 0 ]; then
      failed=1 verdict="FAIL $result"
    elif tail -c +$((start + 1)) "$out/log" | grep -qiE 'skipped'; then
      verdict="ok, skips"
    else
      verdict=ok
    fi
    printf '%-9s %4d s  %s\n' "$verdict" $((SECONDS - begin)) "$step_name" >>"$out/summary"
  done
  [ $known = 1 ] || { echo "no step or group $name; see --list" >&2; failed=1; }
done
echo "=== summary"
cat "$out/summary"
exit $failed
