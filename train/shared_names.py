"""Which questions of the world name somebody whose name a stranger in the grown memory bears too.

    python3 train/shared_names.py --natural natural.jsonl.xz --tokens 65536 1000000 10000000 --out shared.json

The more strangers evaluate.py adds, the more of its questions have several right answers by chance. This
writes, for each size, the questions with a full name in them that nobody else bears; train/report.py scores them apart.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

from evaluate import grown_world, held_out
from msa.batch import TEMPLATES, load_natural
from msa.reference import Templates

NAME = re.compile(r"[A-Z][\w'-]+ [A-Z][\w'-]+")


def names_in(question: str) -> list[str]:
    return NAME.findall(re.sub(r"^\w+ ", "", question))  # the first word is a capital one anyway


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokenizer", type=Path, default=Path("models/default/tokenizer.json"), help="counts the memory's tokens")
    parser.add_argument("--natural", type=Path, required=True)
    parser.add_argument("--tokens", type=int, nargs="+", default=[65536, 1_000_000, 10_000_000])
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--seed", type=int, default=2024)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    templates, natural = Templates(args.tokenizer, TEMPLATES), load_natural(args.natural, evaluation=True)
    own = len(held_out(args.seed, args.questions, natural)[0])
    out = {}
    for size in args.tokens:
        texts, kinds = grown_world(args.seed, args.questions, size, natural, templates)
        strangers = {name for text in texts[own:] for name in NAME.findall(text)}
        out[str(size)] = {}
        for kind in ("single", "two-hop", "three-hop", "unanswerable"):
            named = [q.text for q in kinds.get(kind, []) if names_in(q.text)]
            alone = [q for q in named if not strangers & set(names_in(q))]
            out[str(size)][kind] = {"named": len(named), "alone": alone}
            print(size, kind, len(named), "name somebody,", len(alone), "nobody else bears the name", flush=True)
    args.out.write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    main()
