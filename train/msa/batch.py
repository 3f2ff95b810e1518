"""One training step as tensors: a memory of documents and the single-step samples asked against it.

A chain of retrieval is cut into single steps (paper, post-training): sample j of a question holds the
prompt up to round j and learns that round's output only: the numbers of the documents needed next,
or, when all have been read, the end of retrieval and the answer. The memory mixes one invented
world with natural documents, so every question has both near and far negatives.
"""

from __future__ import annotations

import dataclasses
import json
import lzma
import random
from pathlib import Path

import numpy as np
import torch

from msa.model import Documents, Queries
from msa.reference import Templates
from msa.world import UNKNOWN, Question, World, split_of_key

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
}


@dataclasses.dataclass
class Shape:
    """Bucket sizes (sequences, padded tokens) of one step."""

    documents: tuple[tuple[int, int], ...] = ((208, 32), (144, 64), (56, 160))
    queries: tuple[tuple[int, int], ...] = ((104, 48), (56, 96), (64, 192), (40, 352))
    people: int = 58


TINY = Shape(documents=((32, 48), (12, 160)), queries=((6, 96), (4, 352)), people=6)


@dataclasses.dataclass
class Sample:
    tokens: list[int]
    role0: list[bool]
    labelled: list[bool]  # tokens the model must produce
    positive: list[int]  # bank positions needed in this step
    neutral: list[int]
    forced: bool
    use_memory: bool


class Prompt:
    """A prompt under construction."""

    def __init__(self):
        self.tokens: list[int] = []
        self.role0: list[bool] = []
        self.labelled: list[bool] = []

    def add(self, tokens: list[int], role0: bool = False, label: bool = False) -> "Prompt":
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
        return p.add(self.t.encode(self.s["tail"])).add(self.t.encode(self.s["response_head"]))

    def numbers(self, p: Prompt, numbers: list[int], label: bool) -> Prompt:
        text = "".join(f"[{n}]" for n in numbers)
        return p.add(self.t.encode(text + self.s["numbers_end"]), label=label)

    def texts(self, p: Prompt, documents: list[tuple[int, str]], newest: bool) -> Prompt:
        for number, text in documents:
            p.add(self.t.encode(self.s["appended_document"], number=number, text=text), role0=newest)
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


class StepBuilder:
    def __init__(self, templates: Templates, natural: list[dict], shape: Shape, evaluation: bool = False):
        self.t, self.natural, self.shape, self.evaluation = templates, natural, shape, evaluation
        self.writer = PromptWriter(templates)

    def build(self, seed: int) -> tuple[Documents, list[Queries], torch.Tensor]:
        rng = random.Random(seed)
        world = World(rng, self.shape.people, self.evaluation)
        questions = self._bank(world, rng)
        samples: list[list[Sample]] = [[] for _ in self.shape.queries]
        tries = 0
        while any(len(s) < n for s, (n, _) in zip(samples, self.shape.queries)):
            tries += 1
            if tries > 40 * sum(n for n, _ in self.shape.queries):
                raise RuntimeError(f"seed {seed}: buckets cannot be filled")
            sample = self._sample(world, questions, rng)
            if sample is None:
                continue
            for bucket, (n, width) in zip(samples, self.shape.queries):
                if len(sample.tokens) <= width:
                    if len(bucket) < n:
                        bucket.append(sample)
                    break
        queries = [self._tensors(s, width) for s, (_, width) in zip(samples, self.shape.queries)]
        return Documents(self.buckets), queries, self._prefix()

    def _prefix(self) -> torch.Tensor:
        return torch.tensor(self.t.encode(self.t.strings["head"]))

    # -- The memory --

    def _bank(self, world: World, rng: random.Random) -> list[dict]:
        """Fills the document buckets; returns the natural items that are in memory."""
        capacity = sum(n for n, _ in self.shape.documents)
        first = int(10 ** rng.uniform(0, 5.3))
        numbers = rng.sample(range(first, first + 3 * capacity), capacity)
        self.texts: list[str] = []
        slots: list[list[tuple[int, list[int]]]] = [[] for _ in self.shape.documents]
        self.number_of: list[int] = []  # by source: world documents, then natural ones

        def place(text: str) -> bool:
            source = len(self.texts)
            number = numbers[min(source, capacity - 1)]
            tokens = self.t.encode(self.t.strings["document"], number=number, text=text)
            for slot, (n, width) in zip(slots, self.shape.documents):
                if len(tokens) <= width and len(slot) < n and source < capacity:
                    slot.append((source, tokens))
                    self.texts.append(text)
                    self.number_of.append(number)
                    return True
            return False

        self.world_source: dict[int, int] = {}
        for i, text in enumerate(world.documents):
            if len(self.texts) < capacity * 0.75 and place(text):
                self.world_source[i] = len(self.texts) - 1
        items = []
        for item in rng.sample(self.natural, min(6 * capacity, len(self.natural))):
            if len(self.texts) == capacity:
                break
            if place(item["text"]):
                items.append({**item, "source": len(self.texts) - 1})
        # Bank order is bucket by bucket; what is left of a bucket repeats its last document's place.
        self.position: dict[int, int] = {}
        self.buckets = []
        base = 0
        for slot, (n, width) in zip(slots, self.shape.documents):
            ids = torch.zeros(n, width, dtype=torch.long)
            lengths = torch.zeros(n, dtype=torch.long)
            for j, (source, tokens) in enumerate(slot):
                ids[j, : len(tokens)] = torch.tensor(tokens)
                lengths[j] = len(tokens)
                self.position[source] = base + j
            self.buckets.append((ids, lengths))
            base += n
        self.n_positions = base
        return items

    # -- Samples --

    def _question(self, world: World, items: list[dict], rng: random.Random) -> Question | None:
        """A question whose documents are given by source (index of self.texts)."""
        x = rng.random()
        if items and x < 0.28:
            item = rng.choice(items)
            text, answer = rng.choice(item["qa"])
            return Question(text, answer, [[item["source"]]])
        if x < 0.36:
            return world.unanswerable()
        q = world.single() if x < 0.66 else world.multi(2 if x < 0.9 else 3)
        if q is None or any(d not in self.world_source for hop in q.hops for d in hop):
            return None
        return Question(q.text, q.answer, [[self.world_source[d] for d in hop] for hop in q.hops])

    def _pairs(self, sources: list[int]) -> list[tuple[int, str]]:
        return [(self.number_of[s], self.texts[s]) for s in sources]

    def _noise(self, gold: list[int], rng: random.Random, n: int) -> list[int]:
        """Documents that were fetched in vain: half of them share a word with a gold document."""
        pool = [s for s in rng.sample(range(len(self.texts)), min(60, len(self.texts))) if s not in gold]
        if gold and rng.random() < 0.5:
            words = {w for s in gold for w in self.texts[s].split() if w[:1].isupper()}
            pool.sort(key=lambda s: -len(words.intersection(self.texts[s].split())))
        return pool[:n]

    def _sample(self, world: World, items: list[dict], rng: random.Random) -> Sample | None:
        q = self._question(world, items, rng)
        if q is None:
            return None
        gold = [s for hop in q.hops for s in hop]
        n_rounds = len(q.hops)
        final = n_rounds if rng.random() < 0.5 else rng.randrange(n_rounds + 1)
        if q.answer == "":
            final = 0
        if final == n_rounds and n_rounds and rng.random() < 0.2:
            return self._route_form(q, gold, rng)
        p = self.writer.question(q.text)
        rounds = q.hops[:final]
        if not q.hops and rng.random() < 0.5:
            rounds = [[]]  # unanswerable, seen after reading what routing brought up
        for j, hop in enumerate(rounds):
            read = hop + (self._noise(gold, rng, rng.randrange(1, 3)) if not hop or rng.random() < 0.3 else [])
            rng.shuffle(read)
            self.writer.numbers(p, [self.number_of[s] for s in read], label=False)
            self.writer.texts(p, self._pairs(read), newest=j == len(rounds) - 1)
        if final < n_rounds:
            needed = sorted(q.hops[final])
            self.writer.numbers(p, [self.number_of[s] for s in needed], label=True)
        else:
            needed = gold
            self.writer.answer(p, q.text, q.answer)
        positions = [self.position[s] for s in needed]
        neutral = [self.position[s] for s in gold if s not in needed]
        return Sample(p.tokens, p.role0, p.labelled, positions, neutral, rng.random() < 0.9, True)

    def _route_form(self, q: Question, gold: list[int], rng: random.Random) -> Sample:
        """The engine's other mode: the texts are given at once, in a chat message."""
        read = gold + self._noise(gold, rng, rng.randrange(0, 3))
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
        positive = np.zeros((b, self.n_positions), bool)
        neutral = np.zeros((b, self.n_positions), bool)
        empty = np.concatenate([lengths.numpy() == 0 for _, lengths in self.buckets])
        for i, s in enumerate(samples):
            n = len(s.tokens)
            ids[i, :n], role0[i, :n] = s.tokens, s.role0
            for j in range(1, n):
                if s.labelled[j]:
                    targets[i, j - 1] = s.tokens[j]
            positive[i, s.positive] = True
            neutral[i, s.neutral] = True
            neutral[i] |= empty
        flag = lambda name: torch.tensor([getattr(s, name) for s in samples])
        return Queries(*map(torch.from_numpy, (ids, role0, targets, positive, neutral)),
                       flag("forced"), flag("use_memory"))


def to_device(documents: Documents, queries: list[Queries], prefix: torch.Tensor, device):
    move = lambda x: x.to(device, non_blocking=True)
    documents = Documents([(move(ids), move(lengths)) for ids, lengths in documents.buckets])
    queries = [Queries(*(move(getattr(q, f.name)) for f in dataclasses.fields(Queries))) for q in queries]
    return documents, queries, move(prefix)
