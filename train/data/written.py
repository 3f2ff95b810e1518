"""Passages with questions written by reading them: prose of Debian packages, and invented notes.

A line of written.jsonl is {"g": where it is from, "text": passage, "qa": [[question, answer], ...],
"missing": a question on the same subject that the passage does not answer}; every answer is a span of
its passage. What "g" begins with "note/" is invented, the rest is copied from packages of Debian main;
docs/data-card.md names them. One passage in twelve is never trained on.
"""

from __future__ import annotations

import json
import os
import zlib

HERE = os.path.dirname(os.path.abspath(__file__))


def is_held_out(text: str) -> bool:
    return zlib.crc32(text.encode()) % 12 == 0


def load_written(evaluation: bool) -> list[dict]:
    with open(os.path.join(HERE, "written.jsonl"), encoding="utf-8") as f:
        rows = [json.loads(line) for line in f]
    return [row for row in rows if is_held_out(row["text"]) == evaluation]
