"""Asks the embedded database the questions of train/data/example_qa.jsonl about examples/documents.

    python3 train/evaluate_examples.py --msadb build/release/cli/msadb --model models/default

64 questions, written before any model answered them; four ask what the documents do not say. An answer is right when
it holds one of the accepted wordings, or declines where none is accepted. Prints the wrong ones and the score.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def run(*command: object) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{command[1]} failed: {done.stdout}{done.stderr}")
    return done.stdout


def plain(text: str) -> str:
    return " ".join(text.lower().split())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--msadb", type=Path, required=True, help="the msadb program")
    parser.add_argument("--model", type=Path, required=True, help="model folder")
    args = parser.parse_args()
    lines = (ROOT / "train/data/example_qa.jsonl").read_text(encoding="utf-8").splitlines()
    questions = [json.loads(line) for line in lines]
    right = 0
    with tempfile.TemporaryDirectory() as folder:
        database = Path(folder) / "examples"
        run(args.msadb, "create", database, "--model", args.model)
        run(args.msadb, "ingest", database, ROOT / "examples/documents")
        for question in questions:
            said = json.loads(run(args.msadb, "ask", database, question["question"], "--max-tokens", 64, "--json"))["answer"]
            wanted = question["accepted"] or ["I don't know"]
            if any(plain(one) in plain(said) for one in wanted):
                right += 1
            else:
                print(f"{question['question']}  wanted {' or '.join(wanted)}, said {said}")
    print(f"{right} of {len(questions)} right")


if __name__ == "__main__":
    main()
