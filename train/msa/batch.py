"""One training step as tensors: a memory of documents and the single-step samples asked against it.

A chain of retrieval is cut into single steps (paper, post-training): sample j of a question holds the
prompt up to round j and learns that round's output only: the numbers of the documents needed next,
or, when all have been read, the end of retrieval and the answer. A memory mixes one invented world
(msa.world or data.banks) with everyday notes (data.notes), rosters (data.rosters), passages of real
prose with questions by rule (data.reading) and with questions written by reading them (data.written),
dictionary entries and package descriptions, so every question has both near and far negatives. What memory does not hold is declined after reading the
nearest documents.

Names of people come from a few hundred that 64 steps in a row share (NAMES_SHARED, NAMES_NEAR): a memory's
own strangers, and those of former steps in the bank of routing keys (model.KeyBank), share given or family
names with whoever is asked about, or bear names that begin alike, as strangers do in a memory of millions of
tokens.
"""

from __future__ import annotations

import dataclasses
import json
import lzma
import random
import re
import uuid
import zlib
from pathlib import Path

import numpy as np
import torch

import data
from data.lexicon import person_parts, split_of, warm
from data.notes import MONTHS, NoteWriter
from data.rosters import RosterWriter
from data.wording import RareWords, gap, reworded
from data.written import load_written
from msa.model import NAME_BITS, Documents, Queries
from msa.reference import Templates
from msa.world import LAST_END, LAST_START, UNKNOWN, World, split_of_key

# What a trained folder's templates.json holds; SmolLM2 has these special tokens.
TEMPLATES = {
    "retrieval": "generate",
    "head": "<|im_start|>user\n",
    "document": "<|im_start|>[{number}]. {text}[{number}]<|im_end|>",
    "question": "{question}",
    "tail": "<|im_end|>\n",
    "response_head": "<|im_start|>assistant\n",
    "numbers_end": "<file_sep>",
    "appended_document": "[{number}]. {text}\n",
    "appended_end": "<file_sep>",
    "retrieval_end": "<empty_output>",
    "restart": "<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n",
    "answer_prefix": "",
    "route_documents": 3,
    "answer_head": "<|im_start|>user\nDocuments:\n",
    "answer_tail": "\nAnswer the question using the documents.\nQuestion: {question}<|im_end|>\n"
    "<|im_start|>assistant\n",
    "stop": ["<|im_end|>"],
    "route_when_none": 1,
    "numbers_from_routing": True,
    "numbers_by_rank": 5000,
    "rank_gap_max": 0.05,
    "route_news": 0.7,
    "route_words": 0.25,
    "route_besides": 1,
    "route_besides_last": 5000,
}


@dataclasses.dataclass
class Shape:
    """Bucket sizes (sequences, padded tokens) of one step."""

    documents: tuple[tuple[int, int], ...] = ((96, 32), (144, 64), (92, 128), (56, 256))
    queries: tuple[tuple[int, int], ...] = ((104, 48), (44, 96), (60, 192), (48, 352), (20, 576))
    people: int = 44
    questions: int = 44  # of a generated bank
    notes: int = 48
    rosters: int = 22
    passages: int = 24
    written: int = 44


TINY = Shape(documents=((8, 32), (16, 64), (10, 128), (4, 256)), queries=((6, 48), (4, 192), (3, 352)),
             people=6, questions=4, notes=6, rosters=4, passages=4, written=4)
# Shares of the questions, by where they come from. What a memory lacks goes to the others.
SHARES = {"world": 0.4, "note": 0.1, "roster": 0.11, "passage": 0.1, "written": 0.16, "item": 0.06, "needle": 0.07}
# The kinds of generated questions; "unanswerable" ones are few, so that a stated answer is not declined.
MIX = {"single": 13, "two": 26, "three": 12, "unanswerable": 11, "latest-version": 10, "compare": 4, "list": 11, "chat": 8,
       "needle": 4, "natural-pair": 4, "natural-qa": 7, "paraphrase": 15, "chat-paraphrase": 5}
# After how many rounds of reading a sample's step is taken, by the number of rounds that its question needs. The request
# for a second document is the rarest and hardest step: it gets most.
STAGES = {0: (1.0,), 1: (0.24, 0.76), 2: (0.18, 0.44, 0.38), 3: (0.15, 0.28, 0.29, 0.28)}
# Share of rounds in which documents were read besides, as the engine does (route_besides), where an answer follows and
# where it asks for more: it shows them when it answers.
NOISE, NOISE_ASKING = 0.65, 0.25
MISSED = 0.09  # share of samples with a round that read in vain
EARLY = 0.1  # share of chains of which the second document was read with the first
REWORDED = 0.1
SCATTERED = 0.7  # share of the memories whose documents' numbers lie far apart
DENSE = 0.6  # share of the worlds
ABSENT = 10  # written items that are asked about and not in the memory
DECISION = 3.0  # weight of the token that ends retrieval or asks for more, once something has been read
NAMES_SHARED = (300, 300)  # given and family names
NAMES_NEAR = (60, 60, 6)  # of every other window: fewer, and the family names that begin in six ways besides
NAMES_STEPS = 64
NAMES_MAX = 24  # hashed names kept of a document or sample


@dataclasses.dataclass
class Sample:
    tokens: list[int]
    role0: list[bool]
    labelled: list[float]  # weight of the tokens that the model must produce, else 0
    positive: list[int]  # bank positions needed in this step
    neutral: list[int]
    forced: bool
    use_memory: bool
    names: list[int] = dataclasses.field(default_factory=list)  # hashed, of the question and its documents
    wide: bool = False  # may be set against the documents of other memories


class Prompt:
    """A prompt under construction."""

    def __init__(self):
        self.tokens: list[int] = []
        self.role0: list[bool] = []
        self.labelled: list[float] = []
        self.routing: list[str] = []  # the texts of role 0

    def add(self, tokens: list[int], role0: bool = False, label: float = 0) -> "Prompt":
        self.tokens += tokens
        self.role0 += [role0] * len(tokens)
        self.labelled += [label] * len(tokens)
        return self


class PromptWriter:
    """The template's parts, in the order the engine writes them (docs/model-folder.md)."""

    def __init__(self, templates: Templates):
        self.t, self.s = templates, templates.strings

    def question(self, question: str) -> Prompt:
        p = Prompt().add(self.t.encode(self.s["question"], question=question), role0=True)
        p.routing = [question]
        return p.add(self.t.encode(self.s["tail"])).add(self.t.encode(self.s["response_head"]))

    def numbers(self, p: Prompt, numbers: list[int], label: bool) -> Prompt:
        text = "".join(f"[{n}]" for n in numbers)
        return p.add(self.t.encode(text + self.s["numbers_end"]), label=label)

    def texts(self, p: Prompt, documents: list[tuple[int, str]], newest: bool) -> Prompt:
        for number, text in documents:
            p.add(self.t.encode(self.s["appended_document"], number=number, text=text), role0=newest)
            p.routing += [text] * newest
        return p.add(self.t.encode(self.s["appended_end"]))

    def answer(self, p: Prompt, question: str, answer: str | None) -> Prompt:
        p.add(self.t.encode(self.s["retrieval_end"]), label=answer is not None)
        p.add(self.t.encode(self.s["restart"], question=question))
        if answer is not None:
            p.add(self.t.encode(self.s["answer_prefix"] + answer + "<|im_end|>"), label=True)
        return p


def load_natural(path: Path | None, evaluation: bool) -> list[dict]:
    if path is None:
        return []
    with lzma.open(path, "rt", encoding="utf-8") as f:
        items = [json.loads(line) for line in f]
    return [i for i in items if split_of_key(i["key"]) == evaluation]


def load_passages(path: Path | None) -> list[dict]:
    """Prose with questions (data/reading.py), its training split."""
    if path is None:
        return []
    with lzma.open(path, "rt", encoding="utf-8") as f:
        return [i for i in map(json.loads, f) if split_of(i["g"]) == "train"]


_COMMON = set(MONTHS) | set("Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split())
_NAME = re.compile(r"[^\W\d_a-zà-ÿ][\w-]+(?: [^\W\d_a-zà-ÿ][\w-]*\.?)*")


def names_in(text: str, starts: bool) -> set[int]:
    """Hashes of the names that a text mentions: pairs of words with capitals that follow each other, and single ones.
    `starts`: also a single one that begins a sentence. "Ada Bell" and "Ada Moss" have no hash in common."""
    out: set[int] = set()
    for m in _NAME.finditer(text):
        parts = m.group().removesuffix(".").split(" ")
        if len(parts) == 1:
            before = text[: m.start()].rstrip(" \"(*-#")
            if parts[0] in _COMMON or (not starts and (not before or before[-1] in ".!?:\n")):
                continue
            out.add(_hashed(parts[0]))
        else:
            out |= {_hashed(f"{a} {b}") for a, b in zip(parts, parts[1:])}
    return out


def names_of_window(window: int) -> tuple[list[str], list[str]]:
    """The given and family names of NAMES_STEPS steps in a row, all of the training split."""
    rng = random.Random(f"names/{window}")
    if window % 2 == 0:
        given, family = (rng.sample(part, n) for part, n in zip(person_parts("train"), NAMES_SHARED))
        return given, family
    given, family = (rng.sample(part, n) for part, n in zip(person_parts("train"), NAMES_NEAR))
    alike = [start + end for start in rng.sample(LAST_START, NAMES_NEAR[2]) for end in LAST_END]
    return given, family + [name for name in alike if split_of(name) == "train" and name not in family]


def near_key(key: str, word: str, rng: random.Random) -> str:
    """A key that is easily taken for `key`: another word in it, or other hexadecimal digits."""
    parts = key.split("-")
    at = rng.randrange(len(parts))
    if len(parts) == 5:  # a UUID
        parts[at] = "".join(rng.choice("0123456789abcdef") for _ in parts[at])
    else:
        parts[at] = word
    return "-".join(parts)


def _hashed(name: str) -> int:
    return 1 + zlib.crc32(name.encode()) % (NAME_BITS - 1)


@dataclasses.dataclass
class Asked:
    """A question about a step's memory; documents are sources, indices of StepBuilder.texts."""

    text: str
    answer: str
    hops: list[list[int]]  # as in world.Question; for UNKNOWN: what to read before saying so
    parts: list[str] = dataclasses.field(default_factory=list)  # of a list: one for each document
    wide: bool = False  # no other memory can hold another answer, though the question names nobody


class StepBuilder:
    def __init__(self, templates: Templates, natural: list[dict], shape: Shape, passages: list[dict] = (),
                 records: data.Natural | None = None):
        self.t, self.natural, self.shape = templates, natural, shape
        self.passages, self.records = passages, records
        self.written = load_written(evaluation=False)
        self.rare = RareWords(p["text"] for p in passages)
        self.writer = PromptWriter(templates)
        warm("train")

    def build(self, seed: int) -> tuple[Documents, list[Queries], torch.Tensor]:
        rng = random.Random(seed)
        self.names = names_of_window(seed // NAMES_STEPS)
        pools = self._bank(rng)
        samples: list[list[Sample]] = [[] for _ in self.shape.queries]
        tries = 0
        while any(len(s) < n for s, (n, _) in zip(samples, self.shape.queries)):
            tries += 1
            if tries > 12 * sum(n for n, _ in self.shape.queries):
                break  # what is left of a bucket repeats samples
            sample = self._sample(pools, rng)
            if sample is None:
                continue
            fits = [(b, n) for b, (n, width) in zip(samples, self.shape.queries) if len(sample.tokens) <= width]
            for bucket, n in fits[:2]:
                if len(bucket) < n:
                    bucket.append(sample)
                    break
        for bucket, (n, width) in zip(samples, self.shape.queries):
            spare = bucket or [s for b in samples for s in b if len(s.tokens) <= width]
            bucket += [rng.choice(spare) for _ in range(n - len(bucket))]
        queries = [self._tensors(s, width) for s, (_, width) in zip(samples, self.shape.queries)]
        names: list[list[int]] = [[]] * self.n_positions
        for source, text in enumerate(self.texts):
            names[self.position[source]] = [_hashed(text), *sorted(names_in(text, starts=True))]
        return Documents(self.buckets, rows_of_names(names)), queries, self._prefix()

    def _prefix(self) -> torch.Tensor:
        return torch.tensor(self.t.encode(self.t.strings["head"]))

    # -- The memory --

    def _bank(self, rng: random.Random) -> dict[str, list[Asked]]:
        """Fills the document buckets; returns the questions by where they come from."""
        capacity = sum(n for n, _ in self.shape.documents)
        # Documents of a memory have any numbers up to its size; remembered one after another, such as begin alike.
        if rng.random() < SCATTERED:
            numbers = range(1, int(10 ** rng.uniform(3, 6.5)))
        else:
            first = int(10 ** rng.uniform(0, 5.6))
            numbers = range(first, first + 3 * capacity)
        self.numbers = rng.sample(numbers, capacity)
        self.texts: list[str] = []
        self.slots: list[list[tuple[int, list[int]]]] = [[] for _ in self.shape.documents]
        self.number_of: list[int] = []
        self.words_of: dict[int, set[str]] = {}
        pools: dict[str, list[Asked]] = {name: [] for name in SHARES}
        self._place_notes(pools["note"], rng)
        self._place_rosters(pools["roster"], rng)
        for item in rng.sample(self.passages, min(self.shape.passages, len(self.passages))):
            source = self._place(item["text"])
            if source is not None:
                pools["passage"] += [Asked(q, a, [[source]], wide=True) for q, a in item["qa"]]
                if rng.random() < 0.4 and (query := self.rare.query(item["text"], rng)):
                    pools["passage"].append(Asked(query, "", [[source]], wide=True))
                if rng.random() < 0.4 and (made := gap(item["text"], rng)):
                    pools["passage"].append(Asked(*made, [[source]], wide=True))
        self._place_written(pools["written"], rng)
        self._place_needles(pools["needle"], rng)
        if rng.random() < 0.5:
            self._place_world(pools["world"], rng, capacity)
        else:
            self._place_generated(pools["world"], rng)
        for item in rng.sample(self.natural, min(4 * capacity, len(self.natural))):
            if len(self.texts) == capacity:
                break
            source = self._place(item["text"])
            if source is not None:
                pools["item"] += [Asked(q, a, [[source]], wide=True) for q, a in item["qa"]]
        # Bank order is bucket by bucket.
        self.position: dict[int, int] = {}
        self.buckets = []
        base = 0
        for slot, (n, width) in zip(self.slots, self.shape.documents):
            ids = torch.zeros(n, width, dtype=torch.long)
            lengths = torch.zeros(n, dtype=torch.long)
            for j, (source, tokens) in enumerate(slot):
                ids[j, : len(tokens)] = torch.tensor(tokens)
                lengths[j] = len(tokens)
                self.position[source] = base + j
            self.buckets.append((ids, lengths))
            base += n
        self.n_positions = base
        return {name: pool for name, pool in pools.items() if pool}

    def _place(self, text: str) -> int | None:
        """The source of a document put into the smallest bucket with room; None if there is none."""
        source = len(self.texts)
        if source == len(self.numbers):
            return None
        tokens = self.t.encode(self.t.strings["document"], number=self.numbers[source], text=text)
        for slot, (n, width) in zip(self.slots, self.shape.documents):
            if len(tokens) <= width and len(slot) < n:
                slot.append((source, tokens))
                self.texts.append(text)
                self.number_of.append(self.numbers[source])
                return source
        return None

    def _place_notes(self, pool: list[Asked], rng: random.Random) -> None:
        notes = NoteWriter(rng, "train")
        for _ in range(self.shape.notes):
            note = notes.note()
            if note is None:
                continue
            source = self._place(note.text)
            if source is None:
                continue
            pool += [Asked(q, a, [[source]]) for q, a in note.facts]
            # What the note does not say is declined after a look at it.
            if note.missing and rng.random() < 0.7:
                pool.append(Asked(rng.choice(note.missing), UNKNOWN, [[source]]))

    def _place_rosters(self, pool: list[Asked], rng: random.Random) -> None:
        writer = RosterWriter(rng, "train", "\n".join(self.texts))
        for i in range(self.shape.rosters):
            if i % 2:
                self._place_chain(writer, pool, rng)
            elif (roster := writer.roster()) and (source := self._place(roster.text)) is not None:
                pool += [Asked(q, a, [[source]]) for q, a in roster.facts]
                pool += [Asked(q, UNKNOWN, [[source]]) for q in roster.missing]

    def _place_chain(self, writer: RosterWriter, pool: list[Asked], rng: random.Random) -> None:
        chain = writer.chain()
        sources = [self._place(text) for text in chain.documents] if chain else []
        if not sources or None in sources:
            return
        for question, answer, place in chain.facts:
            if answer is not None:
                pool.append(Asked(question, answer, [[sources[0]], [sources[place]]]))
            else:
                pool.append(Asked(question, UNKNOWN, [[sources[0]]]))

    def _place_written(self, pool: list[Asked], rng: random.Random) -> None:
        items = rng.sample(self.written, min(self.shape.written + ABSENT, len(self.written)))
        for item in items[: self.shape.written]:
            source = self._place(item["text"])
            if source is None:
                continue
            # Of prose no other memory says the same; another note may ("When is the dentist?").
            pool += [Asked(q, a, [[source]], wide=not item["g"].startswith("note/")) for q, a in item["qa"]]
            if rng.random() < 0.6:
                pool.append(Asked(item["missing"], UNKNOWN, [[source]]))
        for item in items[self.shape.written :]:  # not in this memory
            pool.append(Asked(rng.choice(item["qa"])[0], UNKNOWN, []))

    def _place_needles(self, pool: list[Asked], rng: random.Random) -> None:
        """Keys with one to four values, a document each, among keys much like them: exact copies, several numbers in one
        round. Several keys may be asked for at once."""
        words = NoteWriter(rng, "train").values
        make = {
            "number": lambda: str(rng.randint(10**5, 10**8)),
            "uuid": lambda: str(uuid.UUID(int=rng.getrandbits(128), version=4)),
            "code": lambda: words.value("code"),
            "password": lambda: words.value("password"),
            "name": lambda: words.value("person"),
        }
        asked: list[tuple[str, int, str]] = []  # what several keys can be asked for at once: key, source, value
        about, kind = "", ""
        for i in range(max(2, self.shape.notes // 6)):
            if i % 4 == 0:
                asked = []
                kind = rng.choice(list(make))
                about = rng.choice(("secret", "hidden", "special", "registered", "stored"))
            plain = lambda: f"{words.word()}-{words.word()}" if rng.random() < 0.7 else make["uuid"]()
            key = plain()
            count = rng.choice((1, 1, 1, 2, 3, 4))
            form = rng.choice((
                "The {about} {kind} of {key} is {value}.", "{key} has the {about} {kind} {value}.",
                "Note: a {about} {kind} for {key} is {value}.", "For {key} somebody wrote down this {about} {kind}: {value}."))
            sources, values = [], []
            for _ in range(count):
                value = make[kind]()
                source = self._place(form.format(about=about, kind=kind, key=key, value=value))
                if source is not None:
                    sources.append(source)
                    values.append(value)
            for _ in range(rng.randrange(4)):
                other = near_key(key, words.word(), rng) if rng.random() < 0.6 else plain()
                if other != key:
                    self._place(form.format(about=about, kind=kind, key=other, value=make[kind]()))
            if len(values) == 1:
                ask = rng.choice(("What is the {about} {kind} of {key}?", "Which {about} {kind} does {key} have?"))
                pool.append(Asked(ask.format(about=about, kind=kind, key=key), values[0], [sources], wide=True))
                asked.append((key, sources[0], values[0]))
            elif values:
                ask = rng.choice(("What are all the {about} {kind}s of {key}?", "List every {about} {kind} of {key}.",
                                  "Which {about} {kind}s does {key} have?"))
                pool.append(Asked(ask.format(about=about, kind=kind, key=key), ", ".join(values), [sources], values, True))
            if len(asked) > 1:
                keys, sources, values = zip(*rng.sample(asked, len(asked)))
                ask = rng.choice(("What are the {about} {kind}s of {keys}?", "Which {about} {kind}s do {keys} have?"))
                keys = ", ".join(keys[:-1]) + " and " + keys[-1]
                pool.append(Asked(ask.format(about=about, kind=kind, keys=keys), ", ".join(values), [list(sources)], list(values), True))

    def _place_world(self, pool: list[Asked], rng: random.Random, capacity: int) -> None:
        dense = rng.random() < DENSE
        world = World(rng, self.shape.people, False, self.names, dense)
        source_of: dict[int, int] = {}
        for i, text in enumerate(world.documents):
            if len(self.texts) < capacity * 0.92 and (source := self._place(text)) is not None:
                source_of[i] = source
        about: dict[str, list[int]] = {}
        for fact in world.facts.values():
            if fact.document in source_of:
                about.setdefault(fact.subject, []).append(source_of[fact.document])
        for _ in range(4 * self.shape.people):
            x = rng.random()
            if x < 0.05:
                if (q := world.stranger()) is not None:
                    pool.append(Asked(q.text, UNKNOWN, []))
                continue
            if x < 0.14:
                q = world.unanswerable()
                near = next((s for subject, s in about.items() if re.search(rf"\b{re.escape(subject)}\b", q.text)), [])
                pool.append(Asked(q.text, UNKNOWN, [rng.sample(sorted(set(near)), 1)] if near else []))
                continue
            q = world.single() if x < 0.44 else world.multi(2 if x < 0.83 else 3)
            if q is not None and all(d in source_of for hop in q.hops for d in hop):
                pool.append(Asked(q.text, q.answer, [[source_of[d] for d in hop] for hop in q.hops]))

    def _place_generated(self, pool: list[Asked], rng: random.Random) -> None:
        bank = data.make_bank(rng.getrandbits(60), "train", 0, self.shape.questions, MIX, self.records, self.names)
        wanted = {d for q in bank.questions for step in q.steps for d in step}
        order = sorted(range(len(bank.documents)), key=lambda d: d not in wanted)
        source_of: dict[int, int] = {}
        for d in order:
            if (source := self._place(bank.documents[d])) is not None:
                source_of[d] = source
        for q in bank.questions:
            if any(d not in source_of for step in q.steps for d in step):
                continue
            hops = [[source_of[d] for d in step] for step in q.steps if step]
            answer = UNKNOWN if q.answer == data.NOT_IN_MEMORY else q.answer
            listed = q.parts if q.kind == "list" and len(q.parts) == len(hops[0]) else []
            pool.append(Asked(q.question, answer, hops, listed))

    # -- Samples --

    def _pairs(self, sources: list[int]) -> list[tuple[int, str]]:
        return [(self.number_of[s], self.texts[s]) for s in sources]

    def _words(self, source: int) -> set[str]:
        if source not in self.words_of:
            self.words_of[source] = {w for w in re.findall(r"\w+", self.texts[source]) if len(w) > 3 or w[:1].isupper()}
        return self.words_of[source]

    def _noise(self, question: str, gold: list[int], rng: random.Random, n: int) -> list[int]:
        """Documents that were fetched in vain: mostly such as share words with the question or what it is about."""
        pool = [s for s in rng.sample(range(len(self.texts)), min(160, len(self.texts))) if s not in gold]
        if rng.random() < 0.7:
            words = set(re.findall(r"\w+", question)).union(*({w for w in self._words(s) if w[:1].isupper()} for s in gold))
            near = {s: len(words & self._words(s)) for s in pool}
            pool.sort(key=lambda s: -near[s])
        return pool[:n]

    def _rounds(self, q: Asked, rng: random.Random) -> tuple[list[list[int]], list[int]]:
        """What was read in each round before this step, and what is to be asked for now; nothing: the answer."""
        hops = [sorted(hop, key=self.number_of.__getitem__) for hop in q.hops]
        done = rng.choices(range(len(hops) + 1), STAGES[len(hops)])[0] if q.answer else 0
        if len(hops) > 1 and done and rng.random() < EARLY:
            hops = [hops[0] + hops[1], *hops[2:]]
            done = max(1, done - 1)
        rounds = list(hops[:done])
        if not hops and rng.random() < 0.6:
            rounds = [[]]  # unanswerable, seen after reading what routing brought up
        elif hops and q.answer and rng.random() < MISSED:
            # A round brought nothing that helps. Before the answer the last one did, or none would follow.
            rounds.insert(rng.randrange(len(rounds) + (done < len(hops))), [])
        gold = [s for hop in q.hops for s in hop]
        full = []
        noise = NOISE_ASKING if done < len(hops) else NOISE
        for hop in rounds:
            besides = rng.choice((1, 1, 2)) if not hop or rng.random() < noise else 0
            read = hop + [s for s in self._noise(q.text, gold, rng, besides) if all(s not in r for r in full)]
            if rng.random() < 0.5:
                rng.shuffle(read)
            else:
                read.sort(key=self.number_of.__getitem__)
            full.append(read)
        return full, hops[done] if done < len(hops) else []

    def _sample(self, pools: dict[str, list[Asked]], rng: random.Random) -> Sample | None:
        q = rng.choice(pools[rng.choices(list(pools), [SHARES[name] for name in pools])[0]])
        gold = [s for hop in q.hops for s in hop]
        names = sorted(names_in(q.text, starts=False))
        wide = q.wide or bool(names)
        names += [_hashed(self.texts[s]) for s in gold]
        names += sorted(set().union(*(names_in(self.texts[s], starts=False) for s in gold)))
        text = reworded(q.text, rng) if rng.random() < REWORDED else q.text
        rounds, needed = self._rounds(q, rng)
        if not needed and gold and q.answer != UNKNOWN and not q.parts and rng.random() < 0.06:
            return self._route_form(q, gold, rng)
        p = self.writer.question(text)
        answer = q.answer
        for j, read in enumerate(rounds):
            if q.parts:
                value_of = dict(zip(q.hops[0], q.parts))
                if any(s in value_of for s in read):
                    answer = ", ".join(value_of[s] for s in read if s in value_of)
            self.writer.numbers(p, [self.number_of[s] for s in read], label=False)
            self.writer.texts(p, self._pairs(read), newest=j == len(rounds) - 1)
        start = len(p.tokens)
        if needed:
            self.writer.numbers(p, sorted(self.number_of[s] for s in needed), label=True)
        else:
            self.writer.answer(p, text, answer)
        if rounds:
            p.labelled[start] = DECISION
        wanted = needed or gold
        return Sample(p.tokens, p.role0, p.labelled, [self.position[s] for s in wanted],
                      [self.position[s] for s in gold if s not in wanted], rng.random() < 0.9, True, names, wide)

    def _route_form(self, q: Asked, gold: list[int], rng: random.Random) -> Sample:
        """The engine's other mode: the texts are given at once, in a chat message."""
        read = gold + self._noise(q.text, gold, rng, rng.randrange(0, 3))
        rng.shuffle(read)
        s, t = self.t.strings, self.t
        answer = q.answer
        if rng.random() < 0.1:
            read, answer = [r for r in read if r != gold[-1]], UNKNOWN
        p = Prompt().add(t.encode(s["answer_head"], question=q.text))
        for number, text in self._pairs(read):
            p.add(t.encode(s["appended_document"], number=number, text=text))
        p.add(t.encode(s["answer_tail"], question=q.text), role0=True)
        p.add(t.encode(answer + "<|im_end|>"), label=True)
        positions = [self.position[x] for x in gold]
        return Sample(p.tokens, p.role0, p.labelled, positions, [], True, answer != UNKNOWN and rng.random() < 0.5)

    def _tensors(self, samples: list[Sample], width: int) -> Queries:
        b = len(samples)
        ids = np.zeros((b, width), np.int64)
        role0 = np.zeros((b, width), bool)
        targets = np.full((b, width), -100, np.int64)
        weights = np.zeros((b, width), np.float32)
        positive = np.zeros((b, self.n_positions), bool)
        neutral = np.zeros((b, self.n_positions), bool)
        empty = np.concatenate([lengths.numpy() == 0 for _, lengths in self.buckets])
        for i, s in enumerate(samples):
            n = len(s.tokens)
            ids[i, :n], role0[i, :n] = s.tokens, s.role0
            for j in range(1, n):
                if s.labelled[j]:
                    targets[i, j - 1] = s.tokens[j]
                    weights[i, j - 1] = s.labelled[j]
            positive[i, s.positive] = True
            neutral[i, s.neutral] = True
            neutral[i] |= empty
        flag = lambda name: torch.tensor([getattr(s, name) for s in samples])
        return Queries(*map(torch.from_numpy, (ids, role0, targets, positive, neutral)),
                       flag("forced"), flag("use_memory"), torch.from_numpy(weights),
                       rows_of_names([s.names for s in samples]), flag("wide"))


def rows_of_names(names: list[list[int]]) -> torch.Tensor:
    """[n, NAMES_MAX], 0 where there are fewer; of more the first ones."""
    out = np.zeros((len(names), NAMES_MAX), np.int32)
    for row, some in zip(out, names):
        row[: min(len(some), NAMES_MAX)] = some[:NAMES_MAX]
    return torch.from_numpy(out)


def to_device(documents: Documents, queries: list[Queries], prefix: torch.Tensor, device):
    move = lambda x: x.to(device, non_blocking=True)
    documents = Documents([(move(ids), move(lengths)) for ids, lengths in documents.buckets], move(documents.names))
    queries = [Queries(*(move(getattr(q, f.name)) for f in dataclasses.fields(Queries))) for q in queries]
    return documents, queries, move(prefix)
