"""Real text: package descriptions, dictionary entries and manual pages, with questions about them."""
import json
import lzma
import os
import random
import re

from .grammar import split_list
from .lexicon import is_filler, split_of

DEFAULT_PATH = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", ".cache", "train-data",
                            "natural.jsonl.xz")

# Question forms by source. {q}: the short line or definition, {k}: the name or headword.
PAIR = {
    "deb": ["Which package is it: {q}?", "Which package provides this: {q}?", "Find the package for: {q}", "I need software: {q}. What is it called?",
            "Name the package whose purpose is: {q}", "What should I install for this: {q}?", "Is there a package for \"{q}\"? Tell me its name."],
    "man": ["Which manual page says how to {q}?", "Which command or function does this: {q}?", "What do I use to {q}?", "Name the tool or call: {q}",
            "Under which name is this documented: {q}?", "How is the thing called that does the following: {q}?"],
    "wn": ["Which word means: {q}?", "What is the term for \"{q}\"?", "Name the word for this: {q}", "How do you call this: {q}?",
           "Which dictionary entry explains: {q}?", "I look for a word. It means: {q}. Which one is it?"],
    "gcide": ["Which entry of the dictionary has this meaning: {q}?", "Which headword fits: {q}?", "Find the word: {q}", "What word would you use for this: {q}?",
              "Give me the expression that stands for: {q}", "There is a word for this: {q}. Name it."],
}
MEANING = {
    "deb": ["What is {k}?", "What is the package {k} for?", "Describe {k} in one line.", "What does the package {k} provide?", "In short, what is {k} about?"],
    "man": ["What is {k} for?", "What does {k} do?", "Describe {k} briefly.", "What is the purpose of {k}?", "In a few words, what is {k} good for?"],
    "wn": ["What does {k} mean?", "What is the meaning of {k}?", "Define {k}.", "Explain the word {k}.", "What should I understand by {k}?"],
    "gcide": ["What is meant by {k}?", "How is {k} defined?", "Give the definition of {k}.", "What does the dictionary say about {k}?", "What would {k} stand for?"],
}
CLOZE = ["Complete the sentence: {c}", "Fill in the blank: {c}", "What is missing here? {c}", "Which word was replaced by ____? {c}", "Find the gap's content: {c}"]
SYNONYM = ["What is a synonym of {k}?", "Which other word is given for {k}?", "Name a word with the same meaning as {k}.", "What else can I say instead of {k}?", "What is another expression for {k}?"]


class Natural:
    """Prepared real text. A record belongs to one split, and there to stories or to filler."""

    def __init__(self, records: list[dict]):
        self.story = {s: [] for s in ("train", "valid", "test")}
        self.filler = {s: [] for s in ("train", "valid", "test")}
        for record in records:
            # The group decides both, so two senses of a word never meet as question and filler.
            side = self.filler if is_filler(record["g"]) else self.story
            side[split_of(record["g"])].append(record)

    @staticmethod
    def load(path: str | None = None) -> "Natural":
        """Reads the file that fetch.sh wrote. Takes about two seconds; forked workers share it."""
        with lzma.open(path or DEFAULT_PATH, "rt", encoding="utf-8") as f:
            return Natural([json.loads(line) for line in f])


def document(record: dict, rng: random.Random, with_short: bool = False) -> str:
    """A record as a document; `with_short` also shows the short line of a package or page."""
    key, text, source = record["k"], record["d"], record["s"]
    if source == "wn":
        extra = record["e"]
        tail = f"\nSynonyms: {', '.join(extra['syn'])}" if extra["syn"] else ""
        return rng.choice((f"{key} ({extra['pos']}): {text}{tail}", f"{key}, {extra['pos']}. {text}{tail}"))
    if source == "gcide":
        return rng.choice((f"{key}: {text}", f"{key}\n{text}", f"Dictionary entry: {key}. {text}"))
    if with_short:
        return rng.choice((f"{key} - {record['q']}\n{text}", f"{key}: {record['q']}\n\n{text}"))
    noun = "Package" if source == "deb" else "Manual page"
    return rng.choice((f"{key}\n{text}", f"{noun}: {key}\n{text}", f"{noun} {key}. {text}"))


_NAME = re.compile(r"(?<=[a-z,] )(?:[A-Z][a-zA-Z]{2,}(?: [A-Z][a-z]{2,})?|[0-9]{2,4})(?=[ ,.;)])")


def cloze(record: dict, rng: random.Random) -> tuple[str, str] | None:
    """(sentence with a gap, what was there) for a name or number that its text has exactly once."""
    text = record["d"]
    found = [m for m in _NAME.finditer(text) if text.count(m.group()) == 1 and m.group() not in record["k"]]
    rng.shuffle(found)
    for match in found:
        start = max(text.rfind(". ", 0, match.start()) + 2, text.rfind("\n", 0, match.start()) + 1, 0)
        if start == 1:
            start = 0
        end = text.find(". ", match.end())
        newline = text.find("\n", match.end())
        end = min(e for e in (end + 1 if end >= 0 else len(text), newline if newline >= 0 else len(text), len(text)))
        gap = text[start:match.start()] + "____" + text[match.end():end]
        if 40 <= len(gap) <= 220:
            return gap, match.group()
    return None


def ask(record: dict, split: str, rng: random.Random, want: str):
    """(question, answer, sentence, template, kind, show short line) or None if the record does not allow it."""
    source, key = record["s"], record["k"]

    def pick(name, forms):
        part = split_list(forms, split, name)
        form = rng.choice(part)
        return form, f"natural/{name}/{forms.index(form)}"

    if want == "natural-pair":
        short = record["q"].rstrip(".?")
        if len(short.split()) < 3 or key.lower() in short.lower():
            return None
        form, template = pick("pair-" + source, PAIR[source])
        if source == "deb" and rng.random() < 0.5:
            short = short[:1].lower() + short[1:]
        return form.format(q=short), key, f"{key} is the entry for: {short}.", template, want, False
    how = rng.random()
    if source == "wn" and how < 0.3 and len(record["e"]["syn"]) == 1:
        form, template = pick("synonym", SYNONYM)
        answer = record["e"]["syn"][0]
        return form.format(k=key), answer, f"A synonym of {key} is {answer}.", template, want, False
    if source in ("wn", "gcide") or how < 0.4:
        answer = record["q"]
        if source in ("wn", "gcide"):
            answer = re.split(r"; | -- |, (?:as|especially)", answer)[0]
        if len(answer.split()) > 16 or len(answer) < 8:
            return None
        form, template = pick("meaning-" + source, MEANING[source])
        return form.format(k=key), answer, f"{key}: {answer}.", template, want, source in ("deb", "man")
    gap = cloze(record, rng)
    if gap is None:
        return None
    form, template = pick("cloze", CLOZE)
    return form.format(c=gap[0]), gap[1], f"The missing part is {gap[1]}.", template, want, False
