"""Rosters: documents that state the same attributes of two to five entities side by side, with questions for each.

What they teach is to bind an attribute to its entity: the plumber's number, not the electrician's two sentences on. The
frames are in rosters.txt. Held out: the topics marked there, and of the other topics the last form of every sentence and
question; names as everywhere else.
"""
from __future__ import annotations

import random
import re
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from .notes import Values

HERE = Path(__file__).resolve().parent


@dataclass
class Attribute:
    kind: str
    label: str
    subject: bool  # its value may stand for the entity in a question
    sentences: list[str] = field(default_factory=list)
    follows: list[str] = field(default_factory=list)
    questions: list[str] = field(default_factory=list)
    reverse: list[str] = field(default_factory=list)


@dataclass
class Topic:
    titles: list[str]
    held_out: bool
    kind: str = ""
    phrase: str = ""
    bare: str = ""
    attributes: list[Attribute] = field(default_factory=list)


@dataclass
class Roster:
    text: str
    facts: list[tuple[str, str]]  # question, answer
    missing: list[str]  # questions whose answer the text has for others, not for this one
    table: dict[str, dict[str, str]]  # entity -> label -> value, as stated


@dataclass
class Chain:
    documents: list[str]  # the first says who is who
    facts: list[tuple[str, str | None, int]]  # question, answer, the document that holds it; None, 0: nothing does


@lru_cache(None)
def load() -> tuple[dict[str, list[str]], list[Topic]]:
    lists: dict[str, list[str]] = {}
    topics: list[Topic] = []
    cut = lambda text: [part.strip() for part in text.split(" | ")]
    for line in (HERE / "rosters.txt").read_text(encoding="utf-8").split("\n\n", 1)[1].splitlines():
        mark, _, rest = line.partition(" ")
        if mark == "=":
            name, values = rest.split(" ", 1)
            lists[name] = cut(values)
        elif mark in ("#", "#!"):
            topics.append(Topic(cut(rest), mark == "#!"))
        elif mark == "E":
            topics[-1].kind, topics[-1].phrase, topics[-1].bare = cut(rest)
        elif mark == "A":
            kind, label = rest.split(" ", 1)
            subject = label.endswith(" subject")
            topics[-1].attributes.append(Attribute(kind, label.removesuffix(" subject"), subject))
        elif mark in ("S", "C", "Q", "R"):
            name = {"S": "sentences", "C": "follows", "Q": "questions", "R": "reverse"}[mark]
            getattr(topics[-1].attributes[-1], name).extend(cut(rest))
    return lists, topics


@lru_cache(None)
def topics(split: str) -> list[Topic]:
    """The evaluation asks about all topics, in forms of its own; of some it has all forms for itself."""
    return [t for t in load()[1] if split != "train" or not t.held_out]


class RosterWriter:
    """Rosters of one memory. No entity of common nouns comes twice, so a question has one answer.

    `taken` are texts of the same memory: entities that they mention are not used."""

    def __init__(self, rng: random.Random, split: str, taken: str = ""):
        self.rng, self.split, self.values = rng, split, Values(rng, split)
        self.values.lists = {**self.values.lists, **load()[0]}
        self.taken, self.used = taken.lower(), set()
        self.stated: dict[tuple[str, str], set[str]] = {}

    def forms(self, topic: Topic, items: list[str]) -> list[str]:
        if self.split == "train":
            return items[:-1]
        return items if topic.held_out else items[-1:]

    def form(self, topic: Topic, items: list[str]) -> str:
        text = self.rng.choice(self.forms(topic, items))
        return re.sub(r"\[([^\]]*)\]", lambda m: self.rng.choice(m[1].split("|")), text)

    def value(self, kind: str) -> str:
        return f"Project {self.values.word(True)} {self.values.word(True)}" if kind == "projectname" else self.values.value(kind)

    def fresh(self, kind: str) -> str | None:
        """An entity that nothing in this memory names."""
        for _ in range(20):
            name = self.value(kind)
            if name.lower() not in self.used and not re.search(rf"(?i)\b{re.escape(name)}\b", self.taken):
                self.used.add(name.lower())
                return name
        return None

    @staticmethod
    def fill(form: str, topic: Topic, x: str, v: str) -> str:
        e = topic.phrase.replace("{x}", x)
        text = form.replace("{E}", e[:1].upper() + e[1:]).replace("{e}", e).replace("{x}", x).replace("{v}", v)
        return text[:1].upper() + text[1:]

    def roster(self) -> Roster | None:
        r = self.rng
        topic = r.choice(topics(self.split))
        count = r.choice((2, 2, 2, 3, 3, 4, 5))
        entities = [x for x in (self.fresh(topic.kind) for _ in range(count)) if x]
        if len(entities) < 2:
            return None
        chosen = r.sample(topic.attributes, min(len(topic.attributes), r.choice((1, 2, 2, 3, 3))))
        table: dict[str, dict[str, str]] = {x: {} for x in entities}
        for a in chosen:
            # What is asked for by its value must have that value alone, in the whole memory.
            seen = self.stated.setdefault((topic.titles[0], a.label), set()) if a.reverse else set()
            for x in entities:
                for _ in range(30):
                    v = self.value(a.kind)
                    same = " ".join(sorted(re.findall(r"\w+", v.lower().replace("th of", ""))))  # 3 May, May 3
                    if same.removeprefix("the ") not in seen:
                        break
                else:
                    return None
                seen.add(same)
                table[x][a.label] = v
        gap = None
        if len(chosen) * len(entities) > 2 and r.random() < 0.35:
            gap = r.choice(entities), r.choice(chosen)
            del table[gap[0]][gap[1].label]
            if not table[gap[0]]:
                return None
        text = self.text(topic, chosen, table, complete=gap is None)
        return Roster(text, *self.questions(topic, chosen, table, gap), table)

    def chain(self) -> Chain | None:
        """Who somebody is stands in one document, his number in another: the first one only leads to the second."""
        r = self.rng
        contacts = next(t for t in load()[1] if any(a.subject for a in t.attributes))
        name, others = contacts.attributes[0], contacts.attributes[1:]
        roles = [x for x in (self.fresh(r.choice(("helper", "post"))) for _ in range(r.choice((1, 2, 2, 3, 4)))) if x]
        people = [p for p in (self.fresh("person") for _ in roles) if p]
        if not roles or len(people) < len(roles):
            return None
        who = dict(zip(roles, people))
        first = self.text(contacts, [name], {x: {name.label: p} for x, p in who.items()}, complete=True)
        # The second part is about the people, by their names.
        by_name = Topic(contacts.titles, contacts.held_out, "person", "{x}", "{x}", others)
        chosen = r.sample(others, r.choice((1, 1, 2)))
        table: dict[str, dict[str, str]] = {p: {} for p in people}
        for a in chosen:
            values: set[str] = set()
            while len(values) < len(people):
                values.add(self.value(a.kind))
            for p, v in zip(people, sorted(values)):
                table[p][a.label] = v
        missing = None
        if len(people) > 1 and r.random() < 0.2:
            missing = r.choice(roles)
            del table[who[missing]]
        order = list(table.items())
        r.shuffle(order)
        groups = [dict(order)] if r.random() < 0.4 else [{p: values} for p, values in order]
        documents = [first] + [self.text(by_name, chosen, g, complete=True) for g in groups]
        facts: list[tuple[str, str | None, int]] = []
        for x, p in who.items():
            for a in chosen:
                question = self.fill(self.form(contacts, a.questions), contacts, x, "")
                place = next((i for i, g in enumerate(groups) if p in g), -1)
                facts.append((question, None if x == missing else table[p][a.label], 1 + place))
        return Chain(documents, facts)

    # -- Questions --

    def questions(self, topic, chosen, table, gap) -> tuple[list[tuple[str, str]], list[str]]:
        r, facts, missing = self.rng, [], []
        names = next((a for a in chosen if a.subject), None)
        for x, values in table.items():
            for a in chosen:
                if a.label not in values:
                    continue
                # Somebody named in the roster may be asked for by name.
                if names and a is not names and names.label in values and r.random() < 0.35:
                    e = values[names.label]
                    question = self.form(topic, a.questions).replace("{e}", e).replace("{x}", e)
                else:
                    question = self.fill(self.form(topic, a.questions), topic, x, "")
                facts.append((question[:1].upper() + question[1:], values[a.label]))
                if a.reverse and not (names and a is not names) and r.random() < 0.4:
                    facts.append((self.fill(self.form(topic, a.reverse), topic, x, values[a.label]), topic.phrase.replace("{x}", x)))
        if gap:
            missing.append(self.fill(self.form(topic, gap[1].questions), topic, gap[0], ""))
        if r.random() < 0.3 and (other := self.fresh(topic.kind)):  # one of the kind, not in the roster
            missing.append(self.fill(self.form(topic, r.choice(chosen).questions), topic, other, ""))
        r.shuffle(facts)
        return facts, missing

    # -- Forms of the text --

    def bare(self, topic: Topic, x: str) -> str:
        return topic.bare.replace("{x}", x)

    def prose(self, topic, chosen, table) -> list[str]:
        """Sentences, entity by entity; later ones may lean on the first."""
        r, out = self.rng, []
        for x, values in table.items():
            order = [a for a in chosen if a.label in values]
            if r.random() < 0.3:
                r.shuffle(order)
            said = []
            for i, a in enumerate(order):
                lean = i > 0 and a.follows and r.random() < 0.75
                said.append(self.fill(r.choice([self.choose(f) for f in a.follows]) if lean else self.form(topic, a.sentences),
                                      topic, x, values[a.label]))
            out.append(" ".join(said))
        return out

    def choose(self, text: str) -> str:
        return re.sub(r"\[([^\]]*)\]", lambda m: self.rng.choice(m[1].split("|")), text)

    def text(self, topic, chosen, table, complete: bool) -> str:
        r = self.rng
        title = r.choice(topic.titles)
        upper = lambda s: s[:1].upper() + s[1:]
        cells = lambda x: [f"{a.label} {table[x][a.label]}" for a in chosen if a.label in table[x]]
        style = r.choice(("prose", "prose", "prose", "lines", "mail", "mixed", "list", "colon", "table", "csv", "block",
                          "by attribute", "in order" if complete else "list", "chat"))
        if style in ("prose", "lines", "mail", "chat"):
            said = self.prose(topic, chosen, table)
            if style == "mail":
                return (f"Subject: {title}\n\nHi {self.values.first()},\n" + " ".join(said)
                        + f"\n{r.choice(('Best', 'Cheers', 'Regards', 'See you'))}, {self.values.first()}")
            if style == "chat":
                return "\n".join(f"{self.values.first()}: {s}" for s in said)
            if style == "lines":
                mark = r.choice(("- ", "* ", "• ", ""))
                return f"{title}\n" + "\n".join(mark + s for s in said)
            if r.random() < 0.3:  # something else in between
                said.insert(r.randrange(1, len(said) + 1), r.choice(ASIDES))
            return (f"# {title}\n\n" if r.random() < 0.4 else f"{title}: " if r.random() < 0.3 else "") + " ".join(said)
        if style == "mixed":  # every sentence names its entity, in any order
            said = [self.fill(self.form(topic, a.sentences), topic, x, values[a.label])
                    for x, values in table.items() for a in chosen if a.label in values]
            r.shuffle(said)
            return (f"{title}. " if r.random() < 0.5 else "") + " ".join(said)
        if style == "list":
            mark = r.choice(("- ", "* ", "1. "))
            dash = r.choice((": ", " - ", ", "))
            return f"{title}\n" + "\n".join(f"{mark}{upper(self.bare(topic, x))}{dash}{', '.join(cells(x))}" for x in table)
        if style == "colon":
            return f"{title}: " + "; ".join(f"{self.bare(topic, x)} ({', '.join(cells(x))})" for x in table) + "."
        if style in ("table", "csv"):
            rows = [[""] + [a.label for a in chosen]]
            rows += [[self.bare(topic, x)] + [table[x].get(a.label, "") for a in chosen] for x in table]
            if style == "csv":
                return f"{title}\n" + "\n".join(r_[0] + ";" + ";".join(r_[1:]) for r_ in rows)
            lines = ["| " + " | ".join(row) + " |" for row in rows]
            return f"{title}\n\n" + "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])
        if style == "block":
            return f"{title}\n\n" + "\n\n".join(
                "\n".join([upper(self.bare(topic, x))] + [f"  {a.label}: {table[x][a.label]}" for a in chosen if a.label in table[x]])
                for x in table)
        join = lambda parts: ", ".join(parts[:-1]) + " and " + parts[-1] if len(parts) > 1 else parts[0]
        said, pair = [], r.choice(("{} {}", "{}: {}", "{} ({})", "{} - {}"))
        for a in chosen:
            having = [x for x in table if a.label in table[x]]
            if style == "by attribute" or len(having) < 2:
                said.append(f"{upper(a.label)}: " + join([pair.format(self.bare(topic, x), table[x][a.label]) for x in having]) + ".")
            else:
                said.append(f"{upper(a.label)} of {join([self.bare(topic, x) for x in having])}: "
                            f"{join([table[x][a.label] for x in having])}, in this order.")
        return f"{title}. " + " ".join(said)


ASIDES = ("The rest is as it was last year.", "Please tell me if something has changed.", "I will add more later.",
          "The weather was too bad for anything else.", "Keep this list near the door.", "We talked about it over coffee.",
          "Somebody should type this up properly.", "That is all I know so far.")
