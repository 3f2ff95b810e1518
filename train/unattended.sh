#!/usr/bin/env bash
# Trains and evaluates on a machine that one can only look at now and then, and that may go away:
#
#   setsid train/unattended.sh IN OUT < /dev/null > OUT/log 2>&1 &
#
# IN holds natural.jsonl.xz, pairs.jsonl.xz, reading.jsonl.xz (train/run_all.sh data), minilm.json (rank) and, to go
# on from a trained model, its folder as base.tar.xz or in parts base.tar.xz.00, .01, ... With SECOND_GPU=1 that model is
# evaluated on the machine's GPU 1 (raw-base) while GPU 0 trains, and the trained one on both. OUT gets
#   PACKED, model.tar.xz.00, ...   the trained model in parts of 15 MiB, before evaluation starts; sha256 beside it
#   raw.tar.xz                     results and training log, made again every half minute
#   DONE                           when all is over
# Nobody may empty OUT meanwhile: what is in it is made once.
# Variables are those of train/run_all.sh; ABLATE=1 adds its ablation, ONLY=ablate does nothing else.
set -uo pipefail
cd "$(dirname "$0")/.."
in=$(realpath "$1") out=$(realpath "$2")
export DATA=$in WORK=${WORK:-$out/work} TOTAL=${TOTAL:-15} PYTHONUNBUFFERED=1
export MODEL=$WORK/model RAW=$WORK/raw REPORT=$WORK/report
mkdir -p "$WORK"
echo $$ > "$out/pid"
for file in natural pairs reading; do
  xz -t "$in/$file.jsonl.xz" || { echo "$in/$file.jsonl.xz is missing or not whole"; touch "$out/DONE"; exit 1; }
done
cp "$in/minilm.json" "$WORK/" 2> /dev/null

if compgen -G "$in/base.tar.xz*" > /dev/null; then
  mkdir -p "$WORK/base"
  cat "$in"/base.tar.xz* | xz -dc -T0 | tar x -C "$WORK/base" --strip-components=1 || exit 1
  export BASE=$WORK/base WARMUP=${WARMUP:-0.01} PEAK=${PEAK:-0.7}
fi

pack_results() {
  tar c -C "$out" --ignore-failed-read log -C "$WORK" raw raw-base state/log.jsonl 2> /dev/null | xz -1 > "$out/raw.part"
  mv "$out/raw.part" "$out/raw.tar.xz"
}
while sleep 30; do pack_results; done &
packer=$!
trap 'kill $packer 2> /dev/null; pack_results; touch "$out/DONE"' EXIT

if [ "${ONLY:-}" != ablate ]; then
  if [ -n "${SECOND_GPU:-}" ] && [ -n "${BASE:-}" ]; then
    CUDA_VISIBLE_DEVICES=$SECOND_GPU MODEL=$BASE RAW=$WORK/raw-base SECOND_GPU='' train/run_all.sh evaluate &
  fi
  ${SECOND_GPU:+env CUDA_VISIBLE_DEVICES=0} train/run_all.sh train || echo "training ended with an error"
  [ -e "$MODEL/config.json" ] || exit 1
  tar c -C "$WORK" model | xz -1 -T0 > "$WORK/model.tar.xz"
  sha256sum < "$WORK/model.tar.xz" > "$out/sha256"
  split -b 15M -d "$WORK/model.tar.xz" "$out/model.tar.xz."
  touch "$out/PACKED"
  train/run_all.sh evaluate || echo "a part of the evaluation ended with an error"
  for job in $(jobs -p); do [ "$job" = "$packer" ] || wait "$job"; done
fi
if [ -n "${ABLATE:-}" ]; then train/run_all.sh ablate || echo "the ablation ended with an error"; fi
