"""The types that training and evaluation share."""
import re
import string
from dataclasses import dataclass, field

NOT_IN_MEMORY = "This is not in memory."

KINDS = ("single", "two", "three", "unanswerable", "latest-version", "compare", "list", "chat",
         "needle", "natural-pair", "natural-qa")


@dataclass
class Question:
    """A question about the documents of one bank; README.md describes the fields."""
    question: str
    steps: list[list[int]]
    answer: str
    answer_long: str
    kind: str
    split: str
    template: str
    tags: list[str] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)


@dataclass
class Bank:
    """Documents without numbers, and questions whose steps index into them."""
    documents: list[str]
    questions: list[Question]


def approx_tokens(text: str) -> int:
    """SmolLM2 tokens of a document with its number around it, estimated (within 5% over a bank)."""
    return len(text) * 5 // 16 + 13


def normalize(text: str) -> str:
    """SQuAD's normalisation: lower case, no punctuation, no articles, single spaces."""
    text = "".join(c if c not in string.punctuation else " " for c in text.lower())
    return " ".join(w for w in text.split() if w not in ("a", "an", "the"))


def _short(prediction: str) -> str:
    prediction = prediction.replace("<|im_end|>", "").strip()
    return re.sub(r"^the answer to the question is:?\s*", "", prediction, flags=re.I)


def exact_match(prediction: str, question: Question) -> bool:
    """True if the prediction is the short answer (or its sentence), or holds exactly all its parts."""
    said = normalize(_short(prediction))
    if said in (normalize(question.answer), normalize(question.answer_long)):
        return True
    if len(question.parts) < 2:
        return False
    pieces = {normalize(p) for p in re.split(r",|;| and ", _short(prediction))} - {""}
    return pieces == {normalize(p) for p in question.parts}


def f1(prediction: str, question: Question) -> float:
    """Token F1 against the short answer."""
    said, want = normalize(_short(prediction)).split(), normalize(question.answer).split()
    left = list(want)
    hits = 0
    for word in said:
        if word in left:
            left.remove(word)
            hits += 1
    return 2 * hits / (len(said) + len(want)) if hits else 0.0


def parts_recall(prediction: str, question: Question) -> float:
    """Share of the wanted values that occur in the prediction: RULER's string-match score."""
    said = f" {normalize(_short(prediction))} "
    parts = question.parts or [question.answer]
    return sum(f" {normalize(p)} " in said for p in parts) / len(parts)
