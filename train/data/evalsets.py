"""Evaluation sets: held-out questions of every kind, needles in haystacks, and real prose."""
import json
import os
import random
import uuid

from .banks import Builder, grow, make_bank
from .lexicon import ADJECTIVES, NOUNS, split_of
from .natural import Natural
from .schema import Bank, Question, approx_tokens

HERE = os.path.dirname(os.path.abspath(__file__))

# Each set is one mix of kinds over test entities, test phrasings and test documents.
EVAL_SETS = {
    "single": {"single": 1}, "two": {"two": 1}, "three": {"three": 1}, "unanswerable": {"unanswerable": 1},
    "paraphrase": {"paraphrase": 1}, "unseen-relation": {"unseen-relation": 1}, "latest-version": {"latest-version": 1},
    "chat": {"chat": 1}, "chat-paraphrase": {"chat-paraphrase": 1}, "compare": {"compare": 1}, "list": {"list": 1}, "needle": {"needle": 1},
    "natural-pair": {"natural-pair": 1}, "natural-qa": {"natural-qa": 1},
    "memory": {"single": 3, "chat": 1, "latest-version": 1},
    "mixed": {"single": 3, "paraphrase": 2, "two": 3, "three": 1, "unanswerable": 1, "chat": 1, "latest-version": 1},
}


def eval_set(name: str, seed=0, questions: int = 100, natural: Natural | None = None, documents: int = 0) -> Bank:
    """A test-split bank for one of EVAL_SETS; enlarge it with grow().

    It holds the questions' documents and their distractors only, about 150 to 400 tokens a question. A
    chat question uses up one of 40 facts about the user, so the chat sets have
    at most 40 questions: take several seeds.
    """
    if name not in EVAL_SETS:
        raise ValueError(f"unknown evaluation set {name!r}: choose one of {', '.join(EVAL_SETS)}")
    if name.startswith("natural") and natural is None:
        raise ValueError(f"{name} needs prepared text: run fetch.sh and pass natural=Natural.load()")
    if name.startswith("chat"):
        questions = min(questions, 40)
    return make_bank(f"eval/{name}/{seed}", "test", documents, questions, EVAL_SETS[name], natural)


# RULER (arXiv 2404.06654, appendix B) needles: noise or essays around, words/numbers/uuids as keys
# and values. A document bank replaces the one long text: each needle sits in a document of its own.
NIAH_FORMS = {
    "single_1": dict(haystack="noise", keys="word", values="number"),
    "single_2": dict(haystack="text", keys="word", values="number"),
    "single_3": dict(haystack="text", keys="word", values="uuid"),
    "multikey_1": dict(haystack="text", keys="word", values="number", distractors=3),
    "multikey_2": dict(haystack="needles", keys="word", values="number"),
    "multikey_3": dict(haystack="needles", keys="uuid", values="uuid"),
    "multivalue": dict(haystack="text", keys="word", values="number", values_per_key=4),
    "multiquery": dict(haystack="text", keys="word", values="number", keys_per_query=4),
}
_NOISE = ("The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.")


def _needle_value(rng: random.Random, kind: str) -> str:
    if kind == "number":
        return str(rng.randint(1000000, 9999999))
    if kind == "uuid":
        return str(uuid.UUID(int=rng.getrandbits(128), version=4))
    while True:
        word = f"{rng.choice(ADJECTIVES)}-{rng.choice(NOUNS)}"
        if split_of(word) == "test":
            return word


def niah(form: str, seed, tokens: int, questions: int = 20, natural: Natural | None = None, count_tokens=approx_tokens) -> Bank:
    """A bank of about `tokens` tokens with needles in RULER's form, and `questions` questions.

    Keys that are words can run out in "multikey_2" (about 2,000 test words); longer ones then combine two words.
    """
    if form not in NIAH_FORMS:
        raise ValueError(f"unknown form {form!r}: choose one of {', '.join(NIAH_FORMS)}")
    options = NIAH_FORMS[form]
    rng = random.Random(f"niah/{form}/{seed}")
    noun = {"number": "number", "uuid": "uuid"}[options["values"]]
    used: set[str] = set()

    def fresh(kind):
        for attempt in range(10000):
            value = _needle_value(rng, kind)
            if kind == "word" and attempt >= 20:
                value += "-" + rng.choice(NOUNS)
            if value not in used:
                used.add(value)
                return value
        raise RuntimeError("needle keys ran out")

    def needle(key, value):
        return f"One of the special magic {noun}s for {key} is: {value}."

    def padded(text):
        if options["haystack"] == "text":
            return text
        return f"{_NOISE} {text} {_NOISE}" if options["haystack"] == "noise" else text

    documents, asked, total = [], [], 0
    for _ in range(questions):
        keys = [fresh(options["keys"]) for _ in range(options.get("keys_per_query", 1))]
        step, values = [], []
        for key in keys:
            for _ in range(options.get("values_per_key", 1)):
                value = fresh(options["values"])
                values.append(value)
                step.append(len(documents))
                documents.append(padded(needle(key, value)))
        for _ in range(options.get("distractors", 0)):
            documents.append(padded(needle(fresh(options["keys"]), fresh(options["values"]))))
        names = keys[0] if len(keys) == 1 else ", ".join(keys[:-1]) + ", and " + keys[-1]
        if len(values) == 1:
            text = f"What is the special magic {noun} for {names} mentioned in the provided text?"
        else:
            text = f"What are all the special magic {noun}s for {names} mentioned in the provided text?"
        answer = ", ".join(values)
        asked.append(Question(text, [step], answer, f"The special magic {noun}{'s' if len(values) > 1 else ''} for {names} "
                              f"mentioned in the provided text {'are' if len(values) > 1 else 'is'} {answer}.",
                              "needle", "test", f"niah/{form}", [form], values))
    bank = Bank(documents, asked)
    if options["haystack"] == "text":
        return grow(bank, tokens, f"niah/{form}/{seed}", count_tokens, natural, "test")
    total = sum(map(count_tokens, documents))
    extra = []
    while True:
        text = (needle(fresh(options["keys"]), fresh(options["values"])) if options["haystack"] == "needles"
                else " ".join([_NOISE] * rng.randint(1, 3)))
        total += count_tokens(text)
        if total > tokens:
            break
        extra.append(text)
    builder = Builder(rng, "test", None)
    builder.documents, builder.questions = documents + extra, asked
    return builder.finish(0)


def prose() -> Bank:
    """Questions over real prose, written by reading it; all passages of the texts are the bank."""
    with open(os.path.join(HERE, "prose_docs.jsonl"), encoding="utf-8") as f:
        rows = [json.loads(line) for line in f]
    place = {row["id"]: i for i, row in enumerate(rows)}
    questions = []
    with open(os.path.join(HERE, "prose_qa.jsonl"), encoding="utf-8") as f:
        for line in f:
            row = json.loads(line)
            steps = [[place[i] for i in step] for step in row["steps"]]
            questions.append(Question(row["question"], steps, row["answer"], row.get("long", row["answer"]), row["kind"], "test",
                                      "prose/" + row["id"], row.get("tags", []), [row["answer"]]))
    return Bank([row["text"] for row in rows], questions)
