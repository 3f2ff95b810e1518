"""What of asked texts other texts hold, by their words: model/words.h in Python."""

from __future__ import annotations

import math
import re
from collections import Counter

# Ideographs, kana and Hangul syllables are words by themselves.
_WORD = re.compile(r"[^\W\u2e80-\U0010ffff]+|(?=\w)[\u2e80-\U0010ffff]")


def words(text: str) -> frozenset[str]:
    return frozenset(_WORD.findall(text.lower()))


def overlaps(asked: frozenset[str], texts: list[frozenset[str]]) -> list[float]:
    """Of each text, 0 to 1: the length of the vector of its words among those asked for, each as long as it is rare in
    `texts` (idf), of that of all words asked for that any text holds."""
    held = Counter(word for text in texts for word in text if word in asked)
    weights = {word: math.log((len(texts) + 1) / (n + 0.5)) ** 2 for word, n in held.items()}
    total = sum(weights.values())
    return [math.sqrt(sum(weights[w] for w in weights if w in text) / total) if total else 0.0 for text in texts]
