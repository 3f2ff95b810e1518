"""Scores the embedded database, end to end, on questions over real prose that no generator made.

    python3 train/evaluate_prose.py --msadb build/release/cli/msadb --model models/default [--out FILE]

Stores the 617 passages of train/data/prose_docs.jsonl with the msadb program, then searches and asks
each of the questions of train/data/prose_qa.jsonl, which were written before any model answered them.
Prints routing recall of the first step's passages, BM25's on the same questions, exact match and F1.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import data
from evaluate import Bm25
from evaluate_examples import run
from msa.world import UNKNOWN


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--msadb", type=Path, required=True, help="the msadb program")
    parser.add_argument("--model", type=Path, required=True, help="model folder")
    parser.add_argument("--out", type=Path, help="write every answer there, as JSON")
    parser.add_argument("--limit", type=int, help="only the first so many questions")
    args = parser.parse_args()
    bank = data.prose()
    questions = bank.questions[: args.limit]
    bm25 = Bm25(bank.documents)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        database = Path(folder) / "prose"
        run(args.msadb, "create", database, "--model", args.model)
        lines = "\n".join(json.dumps({"text": text, "key": str(i)}) for i, text in enumerate(bank.documents))
        run(args.msadb, "insert", database, "--jsonl", "-", stdin=lines)
        for question in questions:
            hits = run(args.msadb, "search", database, question.question, "-k", 16)
            answer = run(args.msadb, "ask", database, question.question, "--max-tokens", 64)
            said = answer["answer"]
            if said.strip() == UNKNOWN:
                said = data.NOT_IN_MEMORY
            rows.append({
                "question": question.question, "kind": question.kind, "gold": question.answer,
                "said": said, "wanted": question.steps[0] if question.steps else [],
                "ranked": [int(hit["key"]) for hit in hits["hits"]],
                "bm25": [int(i) for i in bm25.rank(question.question, 16)],
                "exact": data.exact_match(said, question), "f1": data.f1(said, question),
                "holds": data.parts_recall(said, question),
            })
    for kind in sorted({row["kind"] for row in rows}):
        chosen = [row for row in rows if row["kind"] == kind]
        line = f"{kind:14} {len(chosen):4} questions"
        if chosen[0]["wanted"]:
            for name in ("ranked", "bm25"):
                found = [sum(set(row["wanted"]) <= set(row[name][:k]) for row in chosen) / len(chosen)
                         for k in (1, 5, 16)]
                line += f"  {name} @1 {found[0]:.1%} @5 {found[1]:.1%} @16 {found[2]:.1%}"
        for name in ("exact", "f1", "holds"):
            line += f"  {name} {sum(row[name] for row in chosen) / len(chosen):.1%}"
        print(line)
    if args.out:
        args.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
