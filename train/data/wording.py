"""Questions in other words by rule, and questions made of a text's own rare words: what makes routing notice words as BM25 does."""
from __future__ import annotations

import random
import re
from collections import Counter

STOP = set("""a about after again all also an and any are as at be been before being by can could did do does for from had has have
he her his how i if in into is it its many me much my no not of on or our she so some than that the their them then there they this
those to under up was we were what when where which who whom whose why will with would you your""".split())
# None of these begins a question of the evaluation (grammar.PREFIXES has those).
LEADS = ("Tell me: ", "I want to know: ", "Question: ", "Here is what I need: ", "Let me ask: ", "Look this up: ")
ABOUT = ("{}", "What do we have about {}?", "Find {}.", "Which text mentions {}?", "Something about {}", "notes on {}")
GAPS = ("Complete the sentence: {}", "Fill in the blank: {}", "What is missing here? {}")


def words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())


def reworded(question: str, rng: random.Random) -> str:
    """The question as somebody in a hurry types it: without capitals or mark, as bare words, or after a lead-in."""
    how = rng.random()
    if how < 0.3:
        return question.lower()
    if how < 0.5:
        return question.rstrip(" ?.!")
    if how < 0.8:
        kept = [w for w in question.rstrip(" ?.!").split() if w.lower().strip(",;:'") not in STOP]
        return " ".join(kept) if len(kept) > 1 else question.lower()
    return rng.choice(LEADS) + question[:1].lower() + question[1:]


class RareWords:
    """How many of a collection's texts hold a word."""

    def __init__(self, texts):
        self.count = Counter(w for text in texts for w in set(words(text)))

    def of(self, text: str, n: int) -> list[str]:
        """The n rarest words of a text, of those that can be asked for."""
        found = {w for w in words(text) if len(w) > 3 and not w.isdigit() and w not in STOP}
        return sorted(found, key=lambda w: (self.count[w], w))[:n]

    def query(self, text: str, rng: random.Random) -> str | None:
        """Asks for a text by two to four of its rare words."""
        rare = self.of(text, 7)
        if len(rare) < 4:
            return None
        chosen = rng.sample(rare, rng.choice((2, 3, 3, 4)))
        joined = ", ".join(chosen[:-1]) + " and " + chosen[-1] if rng.random() < 0.5 else " ".join(chosen)
        return rng.choice(ABOUT).format(joined)


def gap(text: str, rng: random.Random) -> tuple[str, str] | None:
    """(a sentence of the text without one of its words, that word): a name, a number or a long word that the text has once."""
    sentences = [s for s in re.split(r"(?<=[.!?])\s+", text) if 8 <= len(s.split()) <= 26]
    rng.shuffle(sentences)
    for s in sentences:
        found = [m for m in re.finditer(r"(?<=[\w,] )(?:[A-Z][\w-]{2,}|\d[\d.,]*\d|[a-z][a-z-]{6,})(?=[ ,.;])", s)
                 if text.lower().count(m.group().lower()) == 1]
        if found:
            m = rng.choice(found)
            return rng.choice(GAPS).format(s[: m.start()] + "____" + s[m.end():]), m.group()
    return None
