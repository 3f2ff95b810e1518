"""The mean of two or more model folders of one shape, tensor by tensor, as one folder.

    python3 train/average.py --models OLD NEW --shares 0.4 0.6 --out MEAN

Of a model and what further training made of it, the mean keeps most of what either does better
(Wortsman et al., "Robust fine-tuning of zero-shot models", 2022). Config, templates and tokenizer are
those of the last folder; weights are rounded to int4 anew.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from msa.export import write_model
from msa.reference import load_weights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", type=Path, nargs="+", required=True)
    parser.add_argument("--shares", type=float, nargs="+", required=True, help="one for each model; their sum is 1")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    if len(args.models) != len(args.shares) or abs(sum(args.shares) - 1) > 1e-6:
        parser.error("give one share for each model, with the sum 1")
    mean: dict = {}
    for folder, share in zip(args.models, args.shares):
        weights = load_weights(folder)
        if mean and {k: w.shape for k, w in weights.items()} != {k: w.shape for k, w in mean.items()}:
            parser.error(f"{folder} has other tensors than {args.models[0]}")
        mean = {k: share * w + mean.get(k, 0) for k, w in weights.items()}
    last = args.models[-1]
    config, templates = (json.loads((last / f"{name}.json").read_text()) for name in ("config", "templates"))
    write_model(mean, config, templates, last / "tokenizer.json", args.out)


if __name__ == "__main__":
    main()
