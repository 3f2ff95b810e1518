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

import data
from msa.world import UNKNOWN

ROOT = Path(__file__).resolve().parent.parent


def run(*command: object, stdin: str = "") -> dict:
    """What the msadb program prints with --json."""
    done = subprocess.run([str(word) for word in (*command, "--json")], input=stdin, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{command[1]} failed: {done.stdout}{done.stderr}")
    return json.loads(done.stdout)


def holds(said: str, wanted: str) -> bool:
    return f" {data.normalize(wanted)} " in f" {data.normalize(said)} "


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
            said = run(args.msadb, "ask", database, question["question"], "--max-tokens", 64)["answer"]
            wanted = question["accepted"] or [UNKNOWN]
            if any(holds(said, one) for one in wanted):
                right += 1
            else:
                print(f"{question['question']}  wanted {' or '.join(wanted)}, said {said}")
    print(f"{right} of {len(questions)} right")


if __name__ == "__main__":
    main()
