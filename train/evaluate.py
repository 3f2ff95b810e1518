"""Held-out evaluation: routing recall and answers against growing memories.

    python3 train/evaluate.py --model FOLDER --natural natural.jsonl.xz --records natural.jsonl.xz --out FOLDER

Every name, document, question phrasing and natural document comes from the evaluation split. A memory
is one invented world, grown with natural documents and with worlds of strangers until it has the
wanted number of tokens; the questions stay the same while the memory grows. Answers are generated as
the engine does it: rounds of document numbers and appended texts, each prefilled with fresh routing.

Stages (--stages, each writes OUT/NAME.json as it goes, so that a time limit keeps what is done):
  settings  which retrieval settings of templates.json answer best, on another seed; later stages use them
  curve     routing and answers of the world from 16K to 10M tokens, next to BM25
  prose     real prose (data.prose), notes and rosters of held-out frames
  sets      the kinds of data.EVAL_SETS, 64K tokens each
  ablation  the world at 64K: one round only; no original text; the texts that BM25 or (--minilm) MiniLM
            ranks first, read by the same model instead of its own choice
  needles   RULER's eight forms, 32K to 1M tokens
--budget curve=4 needles=3 gives a stage so many minutes: it then stops between two kinds, sizes or forms.
train/report.py makes the tables and pictures of docs/results from these files; train/rank_minilm.py ranks
the same questions with all-MiniLM-L6-v2.
"""

from __future__ import annotations

import argparse
import bisect
import concurrent.futures
import dataclasses
import functools
import itertools
import json
import math
import multiprocessing
import random
import re
import time
from array import array
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import torch

import data
from data.notes import NoteWriter
from data.rosters import RosterWriter
from data.written import load_written
from msa.batch import Prompt, PromptWriter, load_natural
from msa.model import Documents, Memory, MsaTrainer, Queries, merge
from msa.number_list import NumberList
from msa.reference import Templates, load_weights
from msa.words import overlaps, words
from msa.world import LISTS, UNKNOWN, Question, World

ROUNDS_MAX = 4
NUMBERS_MAX, ANSWER_MAX = 40, 40  # generated tokens
DOCUMENTS_PER_ROUND = 16
# What templates.json may say about retrieval: lists of numbers free, of any routed documents or of the best ones, or standing
# for as many of the best (down to a gap between scores); what later rounds take off what scored before, and what words in
# common add; how many of the best routed documents are read besides those asked for (and when none is asked for), at once
# or last; how many when the answer declines; and what is taken from the logit of ending retrieval.
def setting(lists: bool | int, besides: int, last: bool = False, declined: int = 0, penalty: float = 0, rank: bool = False,
            news: float = 0, words: float = 0, gap: float | None = None) -> tuple[str, dict]:
    """Its name, and the keys of templates.json."""
    name = "free" if lists is False else "any routed" if lists is True else f"best {lists}"
    name += " by rank" * rank + (f" within {gap:g}" if gap is not None else "")
    name += f", news {news:g}" * (news > 0) + f", words {words:g}" * (words > 0)
    name += f", {besides} besides" + " last" * last
    name += f", {declined} when declined" * (declined > 0) + f", {penalty} off ending" * (penalty > 0)
    return name, {"numbers_from_routing": lists, "numbers_by_rank": rank, "route_news": news, "route_words": words,
                  "route_besides": besides, "route_besides_last": last, "route_when_none": max(1, besides), "route_when_declined": declined,
                  "retrieval_end_penalty": penalty, "rank_gap_max": gap}


SETTINGS = dict([
    setting(True, 1, last=True, rank=True, gap=0.05, news=0.7, words=0.25), setting(True, 1, news=0.7, words=0.25),
    setting(True, 1, last=True, rank=True, news=0.7, words=0.25), setting(1, 1, last=True, news=0.7, words=0.25),
    setting(True, 1, last=True, rank=True, news=0.7), setting(True, 1, news=0.7),
    setting(1, 1, last=True), setting(True, 1), setting(True, 0), setting(False, 0)])


def normalise(text: str) -> list[str]:
    return re.sub(r"[^\w\s$:.-]", " ", text.lower()).replace(". ", " ").rstrip(" .").split()


def f1(guess: str, gold: str) -> float:
    a, b = Counter(normalise(guess)), Counter(normalise(gold))
    common = sum((a & b).values())
    return 2 * common / (sum(a.values()) + sum(b.values())) if common else 0.0


class Bm25:
    """k1 = 1.2, b = 0.75 over lower-case words."""

    def __init__(self, texts: list[str]):
        postings: dict[str, tuple[array, array]] = defaultdict(lambda: (array("l"), array("l")))
        lengths = []
        for i, text in enumerate(texts):
            words = re.findall(r"\w+", text.lower())
            lengths.append(len(words))
            for w, n in Counter(words).items():
                documents, counts = postings[w]
                documents.append(i)
                counts.append(n)
        self.postings = {w: (np.array(d), np.array(n)) for w, (d, n) in postings.items()}
        lengths = np.array(lengths)
        self.saturation = 1.2 * (0.25 + 0.75 * lengths / max(1, lengths.mean()))

    def rank(self, query: str, k: int) -> list[int]:
        total = len(self.saturation)
        scores = np.zeros(total)
        for w in set(re.findall(r"\w+", query.lower())):
            if w not in self.postings:
                continue
            documents, counts = self.postings[w]
            idf = math.log(1 + (total - len(documents) + 0.5) / (len(documents) + 0.5))
            scores[documents] += idf * counts * 2.2 / (counts + self.saturation[documents])
        k = min(k, total)
        best = np.argpartition(-scores, k - 1)[:k]
        return [int(i) for i in best[np.argsort(-scores[best], kind="stable")] if scores[i] > 0]


@dataclasses.dataclass
class Rows:
    """Token rows one after another."""

    flat: np.ndarray
    lengths: np.ndarray

    @staticmethod
    def of(templates: Templates, texts: list[str]) -> Rows:
        """Documents numbered 1.., as they are encoded."""
        rows = templates.encode_all(templates.strings["document"],
                                    [{"number": i + 1, "text": t} for i, t in enumerate(texts)])
        lengths = np.array([len(r) for r in rows])
        return Rows(np.fromiter(itertools.chain.from_iterable(rows), np.int32, lengths.sum()), lengths)


class Bank:
    """Documents with numbers 1.., encoded in batches of like length."""

    def __init__(self, model: MsaTrainer, templates: Templates, texts: list[str], device, rows: Rows | None = None):
        self.texts, self.model, self.device = texts, model, device
        prefix = torch.tensor(templates.encode(templates.strings["head"]), device=device)
        rows = rows or Rows.of(templates, texts)
        self.n_tokens = int(rows.lengths.sum())
        starts = np.cumsum(rows.lengths) - rows.lengths
        order = np.argsort(rows.lengths, kind="stable")
        self.order = order.tolist()  # bank position -> document
        parts, at = [], 0
        while at < len(order):
            width = -(-int(rows.lengths[order[at]]) // 32) * 32
            batch = order[at : at + 65536 // width]
            batch = batch[rows.lengths[batch] <= width]
            lengths = rows.lengths[batch]
            ids = np.zeros((len(batch), width), np.int64)
            ids[np.arange(width) < lengths[:, None]] = np.concatenate(
                [rows.flat[starts[i] : starts[i] + rows.lengths[i]] for i in batch])
            ids, lengths = torch.from_numpy(ids), torch.from_numpy(lengths)
            memory = model.encode(Documents([(ids.to(device), lengths.to(device))]), prefix)
            # The prefix is the same for all parts; what encode returns is a view of the whole batch.
            memory.prefix = parts[0].prefix if parts else [(k.clone(), v.clone()) for k, v in memory.prefix]
            parts.append(memory)
            at += len(batch)
        self.memory: Memory = merge(parts)


class Asker:
    """Asks as the engine does (model/interleave.cc), many questions at once."""

    def __init__(self, model: MsaTrainer, templates: Templates, bank: Bank, batch: int = 64):
        self.model, self.t, self.bank, self.batch = model, templates, bank, batch
        self.writer = PromptWriter(templates)
        self.special = templates.special
        self.words_of: dict[int, frozenset[str]] = {}
        self.configure()

    def configure(self) -> None:
        """Takes the settings as the engine does, from templates.json."""
        templates = self.t
        self.when_none = int(templates.strings.get("route_when_none", 0))
        self.besides = int(templates.strings.get("route_besides", 0))
        self.besides_last = self._large("route_besides_last")
        self.when_declined = int(templates.strings.get("route_when_declined", 0))
        self.end_penalty = float(templates.strings.get("retrieval_end_penalty", 0))
        # True: what any layer chose; a number: so many of the best.
        self.listed = templates.strings.get("numbers_from_routing", False)
        self.lists = NumberList(templates) if self.listed else None
        self.by_rank = self._large("numbers_by_rank")
        gap = templates.strings.get("rank_gap_max")
        self.gap = math.inf if gap is None else gap
        self.news = float(templates.strings.get("route_news", 0))
        self.words = float(templates.strings.get("route_words", 0))

    def _large(self, key: str) -> bool:
        """Whether the memory is large enough for a key that is true, false or a number of documents."""
        least = self.t.strings.get(key, False)
        return least is not False and len(self.bank.texts) >= int(least is not True and least)

    def forward(self, prompts: list[Prompt], given: list[torch.Tensor] | None = None):
        """Logits of the next tokens, and what each routing layer chose: bank positions [n, k]. `given`:
        what a former call chose."""
        logits, chosen = [], []
        for at in range(0, len(prompts), self.batch):
            part = prompts[at : at + self.batch]
            out, layers = self._forward(part, given and [g[at : at + self.batch] for g in given])
            logits.append(out)
            chosen.append(layers)
        return torch.cat(logits), [torch.cat(layer) for layer in zip(*chosen)]

    def _forward(self, part: list[Prompt], given, scores_too: bool = False):
        width = -(-max(len(p.tokens) for p in part) // 32) * 32
        ids = torch.zeros(len(part), width, dtype=torch.long)
        role0 = torch.zeros(len(part), width, dtype=torch.bool)
        for i, p in enumerate(part):
            ids[i, : len(p.tokens)] = torch.tensor(p.tokens)
            role0[i, : len(p.tokens)] = torch.tensor(p.role0)
        device = self.bank.device
        none = torch.zeros(len(part), 1, dtype=torch.bool, device=device)
        on = torch.ones(len(part), dtype=torch.bool, device=device)
        q = Queries(ids.to(device), role0.to(device), ids, none, none, ~on, on)
        x, scores, chosen = self.model.answer([q], self.bank.memory, given)
        last = torch.tensor([i * width + len(p.tokens) - 1 for i, p in enumerate(part)], device=device)
        logits = self.model.logits(x[last])
        return (logits, chosen, scores) if scores_too else (logits, chosen)

    def ranked(self, prompts: list[Prompt], before: list[torch.Tensor] | None = None) -> tuple[list[dict[int, float]], list[torch.Tensor]]:
        """The best sixteen documents of each prompt with their scores, best first; the layers fused as the engine does it: a document that a
        layer did not choose counts with the last score that it did, what was routed to gains by its words (route_words).
        And what each layer chose. `before` holds each prompt's scores in the round before, empty at first, and gets
        those of this one (route_news)."""
        best, chosen = [], []
        for at in range(0, len(prompts), self.batch):
            _, layers, scores = self._forward(prompts[at : at + self.batch], None, scores_too=True)
            last = [s.gather(1, c[:, -1:]) for s, c in zip(scores, layers)]
            fused = sum(map(torch.maximum, scores, last)) / len(scores)
            listed = torch.stack([s >= least for s, least in zip(scores, last)]).any(0)
            if self.news and before is not None:
                former = before[at : at + self.batch]
                before[at : at + self.batch] = list(fused)
                if former[0].numel():
                    fused = (fused - self.news * torch.stack(former)).masked_fill(~listed, -math.inf)
            if self.words:
                fused = fused.clone()  # `before` keeps what it was
                for i, prompt in enumerate(prompts[at : at + self.batch]):
                    rows = listed[i].nonzero().flatten()
                    held = overlaps(words("\n".join(prompt.routing)), [self._words(p) for p in rows.tolist()])
                    fused[i, rows] += self.words * torch.tensor(held).to(fused)
            top = fused.topk(min(16, fused.shape[1]), dim=1)
            for positions, values in zip(top.indices.tolist(), top.values.tolist()):
                best.append({self.bank.order[p]: score for p, score in zip(positions, values)})
            chosen.append(layers)
        return best, [torch.cat(layer) for layer in zip(*chosen)]

    def _close(self, documents: list[int], scores: dict[int, float]) -> list[int]:
        """Those before the first that scores more than rank_gap_max below the one before it."""
        gaps = (scores[a] - scores[b] for a, b in itertools.pairwise(documents))
        return documents[: 1 + sum(1 for _ in itertools.takewhile(lambda g: g <= self.gap, gaps))]

    def _words(self, position: int) -> frozenset[str]:
        document = self.bank.order[position]
        if document not in self.words_of:
            self.words_of[document] = words(self.bank.texts[document])
        return self.words_of[document]

    def generate(self, prompts: list[Prompt], chosen: list[torch.Tensor], limit: int, stops: set[int],
                 choices: list | None = None) -> list[list[int]]:
        """Greedy. `choices`: the tokens are a list of these numbers (numbers_from_routing), as NumberList.choices."""
        out: list[list[int]] = [[] for _ in prompts]
        active = list(range(len(prompts)))
        for _ in range(limit):
            if not active:
                break
            rows = torch.tensor(active, device=self.bank.device)
            logits, _ = self.forward([prompts[i] for i in active], [c[rows] for c in chosen])
            tokens = logits.argmax(-1).tolist()
            if choices is not None:
                allowed = [self.lists.next(out[i], choices[i]) for i in active]
                if not out[active[0]]:  # where a list could begin
                    logits[:, self.lists.none] -= self.end_penalty
                tokens = [ids[int(row[ids].argmax())] for row, ids in zip(logits.cpu(), allowed)]
            for i, token in zip(list(active), tokens):
                out[i].append(token)
                prompts[i].add([token])
                if token in stops:
                    active.remove(i)
        return out

    def ask(self, questions: list[str], rounds: int = ROUNDS_MAX - 1, append_text: bool = True,
            given: list[list[int]] | None = None) -> list[tuple[str, list[int]]]:
        """(answer, documents fetched) of each question by Memory Interleave. `append_text` False: the
        numbers stay, the texts do not come. `given`: these documents are read, in one round."""
        s = self.t.strings
        end, stop = self.special[s["retrieval_end"]], self.special["<|im_end|>"]
        numbers_end = self.special[s["numbers_end"]]
        prompts = [self.writer.question(q) for q in questions]
        # Of each question by rounds: what was asked for, and what is read besides.
        reads: list[list[tuple[list[int], list[int]]]] = [[] for _ in questions]
        known = lambda i, besides_too: {d for asked, more in reads[i] for d in (asked + more if besides_too else asked)}
        former = [torch.empty(0)] * len(questions)  # each one's scores in the round before
        open_ = list(range(len(questions)))
        for turn in range(rounds if given is None else 0):
            if not open_:
                break
            asked = [prompts[i] for i in open_]
            before = [len(p.tokens) for p in asked]
            before_asked = [former[i] for i in open_]
            ranked, chosen = self.ranked(asked, before_asked)
            for i, scores in zip(open_, before_asked):
                former[i] = scores
            seen = [known(i, not self.besides_last) for i in open_]
            choices = None
            if self.lists:
                routed = ranked
                if self.listed is True:
                    routed = [[self.bank.order[p] for p in set(row)] for row in torch.cat(chosen, dim=1).tolist()]
                unread = [[d for d in row if d not in s] for s, row in zip(seen, routed)]
                few = None if self.listed is True else self.listed
                choices = [self.lists.choices([d + 1 for d in row[:few]]) for row in unread]
            outputs = self.generate(asked, chosen, NUMBERS_MAX, {end, numbers_end, stop}, choices)
            still = []
            for i, start, out, best, read in zip(open_, before, outputs, ranked, seen):
                p = prompts[i]
                numbers = [int(x) - 1 for x in re.findall(r"\[(\d+)\]", self.t.decode(out))]
                numbers = [d for d in dict.fromkeys(numbers) if d not in read]
                new: list[int] = []
                more = 0
                if numbers_end in out and numbers:
                    new = numbers
                    if self.by_rank:
                        new = sorted(self._close([d for d in best if d not in read][: len(numbers)], best))
                    new = [d for d in new if 0 <= d < len(self.bank.texts)][:DOCUMENTS_PER_ROUND]
                    more = self.besides if append_text else 0
                if not new and not more and turn == 0:
                    new = [d for d in best if d not in read][: self.when_none if append_text else 0]
                everything = known(i, True) | set(new)
                besides = [d for d in best if d not in everything][: min(more, DOCUMENTS_PER_ROUND - len(new))]
                listed = new if self.besides_last else new + besides
                if not listed:
                    self._take_back(p, start)
                    continue
                if listed == numbers:
                    self._read(p, questions[i], listed, append_text)
                else:
                    self._take_back(p, start)
                    self._ask_for(p, questions[i], listed, append_text)
                reads[i].append((new, besides))
                still.append(i)
            open_ = still
        for i, documents in enumerate(given or []):
            self._ask_for(prompts[i], questions[i], documents, append_text)
            reads[i] = [(list(documents), [])]
        if self.besides_last and given is None:
            prompts = [self._all_read(q, r, append_text) for q, r in zip(questions, reads)]
        fetched = [list(dict.fromkeys(d for asked, more in r for d in asked + more)) for r in reads]
        said, ranked = self._answer(questions, prompts, stop)
        if self.when_declined and append_text and given is None:
            again = []
            for i, (p, best) in enumerate(zip(prompts, ranked)):
                new = [d for d in best if d not in fetched[i]][: self.when_declined]
                if said[i] == UNKNOWN and new:
                    self._ask_for(p, questions[i], new)
                    fetched[i] += new
                    again.append(i)
            if again:
                replies, _ = self._answer([questions[i] for i in again], [prompts[i] for i in again], stop)
                for i, reply in zip(again, replies):
                    said[i] = reply
        return list(zip(said, fetched))

    def _answer(self, questions: list[str], prompts: list[Prompt], stop: int) -> tuple[list[str], list[dict[int, float]]]:
        """What is said after the prompts, which stay as they are, and the documents that they rank best."""
        ranked, chosen = self.ranked(prompts)
        before = [len(p.tokens) for p in prompts]
        for q, p in zip(questions, prompts):
            self.writer.answer(p, q, None)
        out = self.generate(prompts, chosen, ANSWER_MAX, {stop})
        for p, n in zip(prompts, before):
            del p.tokens[n:], p.role0[n:], p.labelled[n:]
        return [self.t.decode([x for x in a if x != stop]).strip() for a in out], ranked

    def _ask_for(self, p: Prompt, question: str, documents: list[int], append_text: bool = True) -> None:
        """As if the model had asked for them."""
        self.writer.numbers(p, [d + 1 for d in documents], label=False)
        self._read(p, question, documents, append_text)

    def _read(self, p: Prompt, question: str, documents: list[int], append_text: bool) -> None:
        p.role0 = [r and j < self._question_length(question) for j, r in enumerate(p.role0)]
        del p.routing[1:]
        if append_text:
            self.writer.texts(p, [(d + 1, self.bank.texts[d]) for d in documents], newest=True)

    def _all_read(self, question: str, reads: list[tuple[list[int], list[int]]], append_text: bool) -> Prompt:
        """A prompt that has read what its rounds asked for and besides, each document once, in its last round."""
        p = self.writer.question(question)
        for j, (asked, besides) in enumerate(reads):
            later = {d for a, _ in reads[j + 1 :] for d in a}
            documents = asked + [d for d in besides if d not in later]
            self._ask_for(p, question, documents, append_text)
        return p

    @staticmethod
    def _take_back(p: Prompt, start: int) -> None:
        del p.tokens[start:], p.role0[start:], p.labelled[start:]

    def _question_length(self, question: str) -> int:
        return len(self.t.encode(self.t.strings["question"], question=question))

    def route_second(self, questions: list[Question], first: list[list[int]]) -> list[list[int]]:
        """What routing ranks once the documents of each question's first step have been read, and of those that it
        ranked `first` as many as are read besides."""
        prompts, read = [], []
        for q, best in zip(questions, first):
            read.append(q.hops[0] + [d for d in best if d not in q.hops[0]][: self.besides])
            prompts.append(self.writer.question(q.text))
            self._ask_for(prompts[-1], q.text, read[-1])
        before = [torch.empty(0)] * len(questions)
        if self.news:
            self.ranked([self.writer.question(q.text) for q in questions], before)
        ranked, _ = self.ranked(prompts, before)
        return [[d for d in row if d not in known] for row, known in zip(ranked, read)]

    def route(self, questions: list[str], k: int) -> list[list[int]]:
        ranked, _ = self.ranked([self.writer.question(q) for q in questions])
        return [list(row)[:k] for row in ranked]


def held_out(seed: int, n: int, natural: list[dict]) -> tuple[list[str], dict[str, list[Question]]]:
    """A world's documents and n questions of each kind, documents given by index."""
    rng = random.Random(seed)
    world = World(rng, 60, evaluation=True)
    documents = list(world.documents)
    kinds: dict[str, list[Question]] = {
        "single": [world.single() for _ in range(n)],
        "two-hop": [q for q in (world.multi(2) for _ in range(n)) if q],
        "three-hop": [q for q in (world.multi(3) for _ in range(n // 2)) if q],
        "unanswerable": [world.unanswerable() for _ in range(n // 2)],
    }
    definitions, descriptions = [], []
    for item in rng.sample(natural, min(len(natural), 2 * n)):
        documents.append(item["text"])
        question, answer = rng.choice(item["qa"])
        kind = definitions if item["key"].startswith("wordnet") else descriptions
        kind.append(Question(question, answer, [[len(documents) - 1]]))
    kinds["definitions"], kinds["descriptions"] = definitions[:n], descriptions[:n]
    return documents, {k: v for k, v in kinds.items() if v}


def distractors(seed: int, natural: list[dict], names: set[str]):
    """Documents to grow a memory with, without end: natural text, then strangers' lives. None of them names
    anything of `names`: a question about Anna Berg would have two right answers with a second Anna Berg."""
    yield from (i["text"] for i in natural)
    # Things, events and services are the user's own; "the yoga class" of a stranger would contradict them.
    own = [name for kind in ("thing", "event", "service") for name in LISTS[kind]]
    words = "|".join(re.escape(name) for name in [*own, *sorted(names)])
    taken = re.compile(rf"\b(?:my|My|the user|The user|their|I|{words})\b")
    while True:
        seed += 1
        yield from (text for text in World(random.Random(seed), 300, evaluation=True).documents if not taken.search(text))


def names_asked(seed: int, texts: list[str], kinds: dict[str, list[Question]]) -> set[str]:
    """Who and what the questions of held_out's world and their documents name."""
    world = World(random.Random(seed), 60, evaluation=True)
    questions = [q for kind in ("single", "two-hop", "three-hop", "unanswerable") for q in kinds.get(kind, ())]
    return world.names_in([q.text for q in questions] + [texts[d] for q in questions for hop in q.hops for d in hop])


def recall(ranked: list[list[int]], questions: list[Question], k: int, step: int = 0) -> float:
    hits = [set(q.hops[step]) <= set(row[:k]) for row, q in zip(ranked, questions)]
    return round(100 * sum(hits) / len(hits), 1)


def as_world(bank: data.Bank) -> list[tuple[data.Question, Question]]:
    """A generated bank's questions in the form that this file asks."""
    return [(q, Question(q.question, q.answer, [step for step in q.steps if step])) for q in bank.questions]


def grown_world(seed: int, count: int, size: int, natural: list[dict], templates: Templates):
    """The documents of the world grown to `size` tokens, and its questions by kind. A small memory holds the
    world and as many of the natural documents as fit, and only their questions."""
    texts, kinds = held_out(seed, count, natural)
    ends = list(itertools.accumulate(len(templates.encode_text(t)) + 12 for t in texts))
    kept = bisect.bisect_right(ends, size)
    texts = texts[:kept]
    kinds = {kind: [q for q in questions if all(d < kept for hop in q.hops for d in hop)] for kind, questions in kinds.items()}
    kinds = {kind: questions for kind, questions in kinds.items() if questions}
    used = set(texts)
    budget = size - ends[kept - 1]
    for text in distractors(seed, natural, names_asked(seed, texts, kinds)):
        if budget <= 0:
            break
        if text not in used:
            texts.append(text)
            budget -= len(text) // 4 + 13 if size > 2_000_000 else len(templates.encode_text(text)) + 12
    return texts, kinds


class Memories:
    """The large memories, made by other processes while the model works on smaller ones."""

    def __init__(self, args, templates: Templates):
        self.args, self.t = args, templates
        self.natural = load_natural(args.natural, evaluation=True)
        self.records = data.Natural.load(args.records) if args.records else None
        self.jobs: dict[tuple, concurrent.futures.Future] = {}

    def begin(self, pool: concurrent.futures.Executor) -> None:
        """Orders what the stages of the command line will ask for, in that order."""
        for stage in self.args.stages:
            if stage == "settings":
                keys = [("world", self.args.seed + 1, self.args.settings_questions, size) for size in self.args.settings_tokens]
            elif stage == "curve":
                keys = [("world", self.args.seed, self.args.questions, size) for size in self.args.tokens]
            elif stage == "needles":
                keys = [("needles", size, form) for size in self.args.needle_tokens for form in data.evalsets.NIAH_FORMS]
            else:
                continue
            self.jobs |= {key: pool.submit(_make, key) for key in keys}

    def get(self, *key):
        """(texts, kinds, rows) of a world, or (bank, rows) of needles."""
        return self.jobs.pop(key).result() if key in self.jobs else self.make(key)

    def make(self, key: tuple):
        if key[0] == "world":
            _, seed, count, size = key
            texts, kinds = grown_world(seed, count, size, self.natural, self.t)
            return texts, kinds, Rows.of(self.t, texts)
        _, size, form = key
        bank = data.niah(form, self.args.seed, size, self.args.needle_questions, self.records)
        return bank, Rows.of(self.t, bank.documents)


MEMORIES: Memories | None = None  # for the processes forked from this one


def _make(key: tuple):
    return MEMORIES.make(key)


class Evaluation:
    def __init__(self, args, model: MsaTrainer, templates: Templates, device: str, memories: Memories):
        self.args, self.model, self.t, self.device = args, model, templates, device
        self.began = time.time()
        self.deadline = math.inf  # of the stage
        self.memories, self.natural, self.records = memories, memories.natural, memories.records
        args.out.mkdir(parents=True, exist_ok=True)

    def run(self, stage: str) -> None:
        self.deadline = time.time() + 60 * self.args.budget.get(stage, math.inf)
        getattr(self, stage)()

    def out_of_time(self) -> bool:
        return time.time() > min(self.deadline, self.began + self.args.minutes * 60)

    def save(self, name: str, rows: list) -> None:
        (self.args.out / f"{name}.json").write_text(json.dumps(rows, indent=1) + "\n")

    def asker(self, texts: list[str], batch: int = 64, rows: Rows | None = None) -> Asker:
        return Asker(self.model, self.t, Bank(self.model, self.t, texts, self.device, rows), batch)

    def scored(self, asker: Asker, questions: list[Question], exact, **options) -> dict:
        """Asks and scores; `exact(said, index)` is the kind's own rule."""
        replies = asker.ask([q.text for q in questions], **options)
        right = [exact(said, i) for i, (said, _) in enumerate(replies)]
        n = len(questions)
        needed = [{d for h in q.hops for d in h} <= set(f) for (_, f), q in zip(replies, questions)]
        return {
            "questions": n,
            "exact": round(100 * sum(right) / n, 1),
            "f1": round(100 * sum(f1(a, q.answer) for (a, _), q in zip(replies, questions)) / n, 1),
            "fetched_all": round(100 * sum(needed) / n, 1),
            "refusals": sum(a == UNKNOWN for a, _ in replies),
            "answers": [{"question": q.text, "gold": q.answer, "said": a, "needed": q.hops, "fetched": f}
                        for (a, f), q in zip(replies, questions)],
        }

    def world_rule(self, questions: list[Question]):
        return lambda said, i: normalise(said) == normalise(questions[i].answer)

    def settings(self) -> None:
        seed = self.args.seed + 1
        banks = []
        for size in self.args.settings_tokens:
            texts, kinds, tokens = self.memories.get("world", seed, self.args.settings_questions, size)
            asker = self.asker(texts, rows=tokens)
            for kind in (k for k in ("single", "two-hop", "three-hop", "unanswerable") if k in kinds):
                rule = self.world_rule(kinds[kind])
                banks.append((f"{kind}, {size // 1000}K", asker, kinds[kind], rule))
        notes = self.notes(seed)
        pairs = as_world(notes)[: self.args.settings_questions]
        rule = lambda said, i: data.exact_match(data.NOT_IN_MEMORY if said == UNKNOWN else said, pairs[i][0])
        banks.append(("notes", self.asker(notes.documents), [q for _, q in pairs], rule))
        rows = []
        for name, values in SETTINGS.items():
            self.t.strings.update(values)
            row = {"name": name, "settings": values, "exact": {}}
            for kind, asker, questions, rule in banks:
                asker.configure()
                row["exact"][kind] = self.scored(asker, questions, rule)["exact"]
            row["mean"] = round(sum(row["exact"].values()) / len(banks), 2)
            rows.append(row)
            print(json.dumps(row), flush=True)
            self.save("settings", rows)
            if self.out_of_time():
                break
        best = max(rows, key=lambda r: r["mean"])
        self.t.strings.update(best["settings"])
        print("from here on:", best["name"], flush=True)

    def curve(self) -> None:
        rows = []
        for size in self.args.tokens:
            started = time.time()
            texts, kinds, tokens = self.memories.get("world", self.args.seed, self.args.questions, size)
            asker = self.asker(texts, 64 if size <= 2_000_000 else 32, tokens)
            bm25 = functools.cache(functools.partial(Bm25, texts))
            row = {"tokens": asker.bank.n_tokens, "documents": len(texts), "kinds": {}}
            rows.append(row)
            for kind, questions in kinds.items():
                entry: dict = {"questions": len(questions)}
                if questions[0].hops:
                    ranked = asker.route([q.text for q in questions], 16)
                    entry["recall"] = {k: recall(ranked, questions, k) for k in (1, 5, 16)}
                    print(f"{row['tokens']} tokens, {kind}: {entry['recall']}", flush=True)
                    if all(len(q.hops) > 1 for q in questions):
                        second = asker.route_second(questions, ranked)
                        entry["recall_second"] = {k: recall(second, questions, k, 1) for k in (1, 5, 16)}
                    plain = [bm25().rank(q.text, 16) for q in questions]
                    entry["bm25"] = {k: recall(plain, questions, k) for k in (1, 5, 16)}
                answered = [q for q in questions if q.answer]
                if answered and (size <= self.args.answers_up_to or kind not in ("definitions", "descriptions")):
                    few = answered if size <= self.args.answers_up_to else answered[:100]
                    entry |= self.scored(asker, few, self.world_rule(few)) | {"answered": len(few)}
                row["kinds"][kind] = entry
                self.save("curve", rows)
                shown = {k: v for k, v in entry.items() if k != "answers"}
                print(f"{row['tokens']} tokens, {kind}: {json.dumps(shown)}", flush=True)
                if self.out_of_time():
                    return
            row["seconds"] = round(time.time() - started, 1)
            print(f"   {row['seconds']} s", flush=True)
            self.save("curve", rows)
            del asker, tokens
            if self.out_of_time():
                return

    def sets(self) -> None:
        rows = []
        for name in self.args.sets:
            if name.startswith("natural") and self.records is None:
                continue
            bank = data.eval_set(name, self.args.seed, self.args.set_questions, self.records)
            bank = data.grow(bank, self.args.set_tokens, self.args.seed, natural=self.records)
            asker, pairs = self.asker(bank.documents), as_world(bank)
            questions = [q for _, q in pairs]
            row = {"set": name, "tokens": asker.bank.n_tokens, "documents": len(bank.documents)}
            routed = [q for q in questions if q.hops]
            if routed and name != "unanswerable":
                bm25 = Bm25(bank.documents)
                ranked = asker.route([q.text for q in routed], 16)
                row["recall"] = {k: recall(ranked, routed, k) for k in (1, 5, 16)}
                row["bm25"] = {k: recall([bm25.rank(q.text, 16) for q in routed], routed, k) for k in (1, 5, 16)}

            def exact(said: str, i: int) -> bool:
                said = data.NOT_IN_MEMORY if said == UNKNOWN else said
                return data.exact_match(said, pairs[i][0])

            row |= self.scored(asker, questions, exact)
            print(json.dumps({k: v for k, v in row.items() if k != "answers"}), flush=True)
            rows.append(row)
            self.save("sets", rows)
            if self.out_of_time():
                return

    def prose(self) -> None:
        """Real prose and the example documents: what no generator made."""
        rows = []
        for name, bank in (("rosters", self.rosters(self.args.seed)), ("notes", self.notes(self.args.seed)), ("prose", data.prose()),
                           ("written", self.written(self.args.seed))):
            asker, pairs = self.asker(bank.documents), as_world(bank)
            for kind in sorted({q.kind for q, _ in pairs}):
                if self.out_of_time():
                    return
                some = [(q, w) for q, w in pairs if q.kind == kind][: self.args.prose_questions]
                questions = [w for _, w in some]
                row = {"set": name, "kind": kind, "tokens": asker.bank.n_tokens, "documents": len(bank.documents)}
                if questions[0].hops:
                    bm25 = Bm25(bank.documents)
                    ranked = asker.route([q.text for q in questions], 16)
                    row["recall"] = {k: recall(ranked, questions, k) for k in (1, 5, 16)}
                    row["bm25"] = {k: recall([bm25.rank(q.text, 16) for q in questions], questions, k) for k in (1, 5, 16)}

                def said_as(said: str) -> str:
                    return data.NOT_IN_MEMORY if said == UNKNOWN else said

                row |= self.scored(asker, questions, lambda said, i: data.exact_match(said_as(said), some[i][0]))
                row["f1"] = round(100 * sum(data.f1(said_as(a["said"]), q) for a, (q, _) in zip(row["answers"], some)) / len(some), 1)
                row["holds"] = round(100 * sum(data.parts_recall(said_as(a["said"]), q) for a, (q, _) in zip(row["answers"], some)) / len(some), 1)
                print(json.dumps({k: v for k, v in row.items() if k != "answers"}), flush=True)
                rows.append(row)
                self.save("prose", rows)

    def notes(self, seed: int) -> data.Bank:
        """Everyday notes of held-out frames and names, among unrelated documents."""
        writer = NoteWriter(random.Random(seed), "test")
        documents, questions = [], []
        while len(documents) < 60:
            note = writer.note()
            if note is None:
                continue
            documents.append(note.text)
            questions += [data.Question(q, [[len(documents) - 1]], a, a, "notes", "test", "notes", parts=[a]) for q, a in note.facts]
        bank = data.Bank(documents, random.Random(1).sample(questions, min(150, len(questions))))
        return data.grow(bank, 65536, seed, natural=self.records, split="test")

    def written(self, seed: int) -> data.Bank:
        """Passages and notes with questions written by reading them that were not trained on, among unrelated documents."""
        documents: list[str] = []
        questions: list[data.Question] = []
        for item in load_written(evaluation=True):
            at, kind = len(documents), "notes" if item["g"].startswith("note/") else "prose"
            documents.append(item["text"])
            questions += [data.Question(q, [[at]], a, a, kind, "test", "written", parts=[a]) for q, a in item["qa"]]
            answer = data.NOT_IN_MEMORY
            questions.append(data.Question(item["missing"], [], answer, answer, "not said", "test", "written", parts=[answer]))
        return data.grow(data.Bank(documents, questions), 65536, seed, natural=self.records, split="test")

    def rosters(self, seed: int) -> data.Bank:
        """Rosters of held-out forms and names, among unrelated documents: questions about one of several entities of a
        document, about what it says of the others only, and such as need two documents."""
        writer = RosterWriter(random.Random(seed), "test")
        documents: list[str] = []
        kinds: dict[str, list[data.Question]] = {"roster": [], "roster, two documents": [], "roster, not said": []}

        def ask(question: str, steps: list[list[int]], answer: str | None, kind: str) -> None:
            answer = answer or data.NOT_IN_MEMORY
            kinds[kind].append(data.Question(question, steps, answer, answer, kind, "test", "roster", parts=[answer]))

        for i in range(60):
            at = len(documents)
            if i % 3 == 2 and (chain := writer.chain()):
                documents += chain.documents
                for question, answer, place in chain.facts:
                    if answer:
                        ask(question, [[at], [at + place]], answer, "roster, two documents")
            elif roster := writer.roster():
                documents.append(roster.text)
                for question, answer in roster.facts:
                    ask(question, [[at]], answer, "roster")
                for question in roster.missing:
                    ask(question, [], None, "roster, not said")
        choose = random.Random(1)
        questions = [q for some in kinds.values() for q in choose.sample(some, min(100, len(some)))]
        return data.grow(data.Bank(documents, questions), 65536, seed, natural=self.records, split="test")

    def ablation(self) -> None:
        rows = []
        texts, kinds = grown_world(self.args.seed, self.args.questions, 65536, self.natural, self.t)
        asker, bm25 = self.asker(texts), Bm25(texts)
        minilm = json.loads(self.args.minilm.read_text()) if self.args.minilm else None
        for kind in ("single", "two-hop", "three-hop"):
            questions = kinds.get(kind, [])  # a small memory lacks some
            if not questions:
                continue
            top = [bm25.rank(q.text, 4) for q in questions]
            ways = {"as it is": {}, "one round": {"rounds": 1}, "no original text": {"append_text": False},
                    "BM25's first four": {"rounds": 1, "given": top}}
            by_question = minilm.get("65536", {}).get(kind, {}) if minilm else {}
            if all(q.text in by_question for q in questions):
                ways["MiniLM's first four"] = {"rounds": 1, "given": [by_question[q.text][:4] for q in questions]}
            chosen = dict(self.t.strings)
            ways["free numbers, none read besides"] = {}
            for way, options in ways.items():
                if way.startswith("free"):
                    self.t.strings.update(SETTINGS["free, 0 besides"])
                asker.configure()
                entry = self.scored(asker, questions, self.world_rule(questions), **options)
                self.t.strings.update(chosen)
                rows.append({"kind": kind, "way": way, **{k: v for k, v in entry.items() if k != "answers"}})
                print(json.dumps(rows[-1]), flush=True)
                self.save("ablation", rows)
                if self.out_of_time():
                    return

    def needles(self) -> None:
        rows = []
        for size in self.args.needle_tokens:
            for form in data.evalsets.NIAH_FORMS:
                bank, tokens = self.memories.get("needles", size, form)
                asker, pairs = self.asker(bank.documents, rows=tokens), as_world(bank)
                replies = asker.ask([q.text for _, q in pairs])
                ranked = asker.route([q.text for _, q in pairs], 16)
                score = sum(data.parts_recall(said, q) for (said, _), (q, _) in zip(replies, pairs)) / len(pairs)
                rows.append({"form": form, "tokens": asker.bank.n_tokens, "questions": len(pairs),
                             "score": round(100 * score, 1), "recall16": recall(ranked, [q for _, q in pairs], 16),
                             "answers": [{"gold": q.answer, "said": a} for (a, _), (_, q) in zip(replies, pairs)][:5]})
                print(json.dumps({k: v for k, v in rows[-1].items() if k != "answers"}), flush=True)
                self.save("needles", rows)
                if self.out_of_time():
                    return


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--natural", type=Path, help="file of train/build_natural.py")
    parser.add_argument("--records", type=Path, help="file of train/data/fetch.sh")
    parser.add_argument("--minilm", type=Path, help="file of train/rank_minilm.py")
    parser.add_argument("--out", type=Path, required=True, help="folder of the raw results")
    parser.add_argument("--stages", nargs="+", default=["curve", "sets", "ablation", "needles", "prose"],
                        choices=["settings", "curve", "sets", "ablation", "needles", "prose"])
    parser.add_argument("--tokens", type=int, nargs="+", default=[16384, 65536, 262144, 1_000_000, 10_000_000])
    parser.add_argument("--questions", type=int, default=200, help="of each kind of the world")
    parser.add_argument("--answers-up-to", type=int, default=300_000, help="tokens; beyond, the first 100 of the world's questions only")
    parser.add_argument("--settings-tokens", type=int, nargs="+", default=[65536, 1_000_000])
    parser.add_argument("--settings-questions", type=int, default=100, help="of each kind")
    parser.add_argument("--sets", nargs="+", default=["memory", "paraphrase", "single", "two", "three", "unanswerable",
                                                      "latest-version", "chat", "list", "compare", "natural-qa", "natural-pair"])
    parser.add_argument("--set-questions", type=int, default=100)
    parser.add_argument("--set-tokens", type=int, default=65536)
    parser.add_argument("--prose-questions", type=int, help="of each kind, at most")
    parser.add_argument("--needle-tokens", type=int, nargs="+", default=[32768, 131072, 1_000_000])
    parser.add_argument("--needle-questions", type=int, default=20)
    parser.add_argument("--set", type=json.loads, default={}, help="JSON object: instead of keys of the folder's templates.json")
    parser.add_argument("--seed", type=int, default=2024)
    parser.add_argument("--workers", type=int, default=0, help="processes that make large memories ahead of time")
    parser.add_argument("--minutes", type=float, default=60, help="of all stages")
    parser.add_argument("--budget", nargs="*", default=[], metavar="STAGE=MINUTES", help="of single stages")
    args = parser.parse_args()
    args.budget = {stage: float(minutes) for stage, minutes in (b.split("=") for b in args.budget)}
    if unknown := set(args.budget) - {"settings", "curve", "sets", "ablation", "needles", "prose"}:
        parser.error(f"no stage {', '.join(sorted(unknown))}")
    config = json.loads((args.model / "config.json").read_text())
    templates = Templates(args.model / "tokenizer.json", json.loads((args.model / "templates.json").read_text()))
    templates.strings.update(args.set)
    memories = Memories(args, templates)
    if args.workers:
        # Forked before the GPU is touched.
        global MEMORIES
        MEMORIES = memories
        fork = multiprocessing.get_context("fork")
        memories.begin(concurrent.futures.ProcessPoolExecutor(args.workers, mp_context=fork))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = MsaTrainer(config)
    model.load(load_weights(args.model))
    model.to(device).compute_dtype = torch.bfloat16 if device == "cuda" else torch.float32
    model.refresh()
    evaluation = Evaluation(args, model, templates, device, memories)
    for stage in args.stages:
        evaluation.run(stage)
        print(f"{stage} done after {time.time() - evaluation.began:.0f} s", flush=True)
        if time.time() - evaluation.began > args.minutes * 60:
            break


if __name__ == "__main__":
    main()
