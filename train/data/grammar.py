"""Phrasings: the relation families, how questions are put, and the chatter around facts.

Every list of phrasings is cut into train, valid and test parts, so a phrasing seen in training never
occurs in the evaluation.
"""
import os
import zlib
from dataclasses import dataclass
from functools import lru_cache

HERE = os.path.dirname(os.path.abspath(__file__))


def split_list(items: list[str], split: str, key: str = "") -> list[str]:
    """The part of a list of phrasings that a split may use. The last ones are the test's.

    Of three phrasings, the middle one goes to valid or train, half and half by `key`.
    """
    n = len(items)
    if n < 3:
        raise ValueError(f"too few phrasings to split: {items}")
    if n == 3:
        middle = ("valid" if zlib.crc32(key.encode()) & 1 else "train")
        return [t for t, owner in zip(items, ("train", middle, "test")) if owner == split]
    test = 2 if n >= 6 else 1
    return {"train": items[:n - test - 1], "valid": items[n - test - 1:n - test],
            "test": items[n - test:]}[split]


@dataclass(frozen=True)
class Relation:
    name: str
    subject: str
    object: str
    flags: dict
    label: str
    statements: list[str]
    questions: list[str]
    paraphrases: list[str]
    phrases: list[str]      # noun phrases for the object
    long: str

    def part(self, field: str, split: str) -> list[str]:
        items = getattr(self, field)
        if "test" in self.flags:  # a whole relation that only the evaluation sees
            return items if split == "test" else []
        return _part(self.name, field, split)


@lru_cache(None)
def _part(name: str, field: str, split: str) -> tuple[str, ...]:
    relation = relations().get(name) or user_facts()[name]
    items = getattr(relation, field)
    return tuple(split_list(items, split, f"{name}/{field}"))


def _read(path: str, user: bool) -> dict[str, Relation]:
    result = {}
    with open(os.path.join(HERE, path), encoding="utf-8") as f:
        blocks = f.read().split("\n@ ")[1:]
    for block in blocks:
        head, *lines = block.strip().split("\n")
        fields = dict(line.split(" ", 1) for line in lines if line and not line.startswith("#"))
        left, _, right = head.partition(" > ")
        words = left.split()
        target, _, rest = right.partition(" ")
        flags = {}
        for flag in _flags(rest):
            key, _, value = flag.partition("=")
            flags[key] = value
        cut = lambda key: [t.strip() for t in fields.get(key, "").split(" | ") if t.strip()]
        result[words[0]] = Relation(
            words[0], "user" if user else words[1], target, flags, fields.get("K", ""), cut("S"), cut("Q"),
            cut("P"), cut("R"), fields.get("L", fields.get("N", "")).strip())
    return result


def _flags(text: str) -> list[str]:
    flags = []
    for word in text.split():
        if word in ("mut", "test") or word.startswith(("less=", "more=")):
            flags.append(word)
        elif flags:
            flags[-1] += " " + word  # the phrase of less= and more= has spaces
    return flags


@lru_cache(None)
def relations() -> dict[str, Relation]:
    return _read("relations.txt", user=False)


@lru_cache(None)
def user_facts() -> dict[str, Relation]:
    return _read("user_facts.txt", user=True)


@lru_cache(None)
def by_subject(split: str) -> dict[str, list[Relation]]:
    """Relations a split may use, by the kind of their subject."""
    result: dict[str, list[Relation]] = {}
    for relation in relations().values():
        if "test" not in relation.flags or split == "test":
            result.setdefault(relation.subject, []).append(relation)
    return result


# Ways to ask for a noun phrase. {r} is the phrase; WHO for persons, WHAT for everything else.
ASK = {
    "person": ["Who is {r}?", "Tell me who {r} is.", "Do you know who {r} is?", "Name {r}.", "I want to write to {r}. Who is it?",
               "Which person is {r}?", "I need the name of {r}.", "Who was {r} again?",
               "Could you find out who {r} is?", "Whose name do I need if I am looking for {r}?"],
    "other": ["What is {r}?", "Tell me {r}.", "I need to know {r}.", "Can you give me {r}?", "Please look up {r}.",
              "Do you know {r}?", "{r}: what is it?", "I would like to know {r}.",
              "Could you find {r} for me?", "Remind me of {r}."],
}
PREFIXES = ["", "", "", "", "", "Quick question: ", "Hi! ", "Sorry, I forgot. ", "One more thing: ", "Help me remember. ",
            "Please check the notes. ", "For the report: ", "Just checking: ",
            "I can't recall this. ", "Hello, a short one: ", "This is for a form I fill in. "]
SUFFIXES = ["", "", "", "", "", "", "", " Thanks.", " Please be brief.", " I need it for a letter.",
            " It is urgent.", " Cheers!", " Thank you in advance."]

COMPARE = ["Who or what {phrase}: {a} or {b}?", "Which one {phrase}, {a} or {b}?", "Compare {a} and {b}: which of them {phrase}?",
           "{a} or {b}: which one {phrase}?", "Of {a} and {b}, which {phrase}?", "Between {a} and {b}, tell me which one {phrase}."]

# Questions with several documents in one round: relation, what varies, question forms.
LISTS = [
    ("team", "subject", ["Who are the members of {x}?", "List everyone in {x}.", "Which people belong to {x}?", "Name all members of {x}.", "Who is in {x}?"]),
    ("home", "subject", ["Which people live in {x}?", "Who lives in {x}?", "List everybody with a home in {x}.", "Name all people who live in {x}.", "Who are the residents of {x} in my notes?"]),
    ("employer", "subject", ["Who works at {x}?", "List all people employed by {x}.", "Which people have a job at {x}?", "Name everyone who works for {x}.", "Who is on the staff of {x}?"]),
    ("client", "subject", ["Which projects are done for {x}?", "List the projects of the client {x}.", "What did {x} order?", "Name every project that {x} pays for.", "For which projects is {x} the client?"]),
    ("owner", "subject", ["What belongs to {x}?", "Which things does {x} own?", "List the belongings of {x}.", "Name everything that {x} owns.", "What is the property of {x}?"]),
    ("borrower", "subject", ["Which books did {x} borrow?", "What has {x} borrowed?", "List the books lent to {x}.", "Name all books that {x} has on loan.", "Which books must {x} return?"]),
    ("allergy", "object", ["What are the allergies of {x}?", "List everything {x} is allergic to.", "Which allergies does {x} have?", "Name all the allergies of {x}.", "To which things is {x} allergic?"]),
    ("language", "object", ["Which languages is {x} learning?", "List the languages {x} studies.", "What languages does {x} practise?", "Name all languages that {x} learns.", "In which languages does {x} take lessons?"]),
    ("hobby", "object", ["What are the hobbies of {x}?", "List the hobbies of {x}.", "Which hobbies does {x} have?", "Name all pastimes of {x}.", "What does {x} do in free time? Name everything."]),
    ("supplied", "object", []),
][:-1]

LATEST = ["{q}", "{q}", "{q} I need the latest state.", "As of now: {q}", "{q} Only the newest information counts.",
          "{q} What holds today?", "Given all updates so far: {q}"]

NEEDLE_DOCS = ["The secret {t} for {k} is {v}.", "Remember this: the {t} of {k} is {v}.", "{k} has the {t} {v}.", "A {t} was assigned to {k}: {v}.",
               "Do not lose the {t} for {k}, which is {v}.", "Somebody wrote on the wall: {t} of {k} = {v}."]
NEEDLE_QUESTIONS = ["What is the {t} for {k}?", "Which {t} belongs to {k}?", "Find the {t} of {k}.", "What {t} does {k} have?",
                    "What is the hidden {t} assigned to {k}?"]

LEAD_INS = ["", "", "", "", "", "", "By the way, ", "As far as I know, ", "It turns out that ", "For the record, ", "Just so you know, ",
            "I heard that ", "Note that ", "As everyone knows, ", "According to a colleague, ", "We learned that ",
            "It is confirmed that ", "Apparently ", "Word has it that ", "Please note: "]

# Chatter: sentences without facts that any question asks for.
CHATTER = ["The weather was {w} {d}.", "We talked for {n} minutes and then had {m}.", "There was a long queue {d}, as usual.", "I was {f} {d}.",
           "Nothing else of note happened {d}.", "The coffee {d} was {c}.", "Somebody left the lights on {d}.", "The train was {n} minutes late.",
           "I still have to {t}.", "Later I want to {t}.", "We agreed to {t} when there is time.", "The mood was {c} {d}.",
           "It took {n} minutes to {t}.", "Everyone seemed {f} {d}.", "The phone rang {n} times, always a wrong number.",
           "I should {t} more often.", "Lunch was {c}, with {m} at the end.", "Please do not forget to {t}.",
           "More details follow as soon as somebody finds time to {t}.", "The discussion was {c} and took {n} minutes."]
CHATTER_SLOTS = {
    "{w}": ["rainy", "sunny", "foggy", "windy", "mild", "freezing", "stormy", "humid", "grey", "changeable", "lovely"],
    "{d}": ["today", "yesterday", "this morning", "last week", "in the afternoon", "all day", "after lunch", "this time", "over the weekend", "at noon"],
    "{n}": ["five", "ten", "twelve", "fifteen", "twenty", "thirty", "forty", "seven"],
    "{m}": ["a sandwich", "some soup", "a slice of cake", "tea", "biscuits", "a salad", "leftovers", "an apple"],
    "{f}": ["tired", "in a good mood", "busy", "a bit nervous", "late", "quite relaxed", "optimistic", "distracted", "hungry", "pleased"],
    "{c}": ["fine", "better than expected", "rather short", "lively", "a little odd", "not worth mentioning", "good", "so-so", "calm", "hectic"],
    "{t}": ["water the plants", "clean the whiteboard", "answer the mail", "order paper", "sort the photos", "call back", "update the list",
            "tidy up", "check the heating", "empty the bins", "send the forms", "read the leaflet", "charge the batteries", "write a summary",
            "close the windows", "book the tickets", "archive the old files", "repair the blinds"],
}
