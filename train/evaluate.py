"""Held-out evaluation: routing recall and answers against growing memories.

    python3 train/evaluate.py --model FOLDER --natural natural.jsonl.xz --tokens 16384 65536 --out eval.json

Every name, document, question phrasing and natural document comes from the evaluation split. A memory
is one invented world, grown with natural documents and with worlds of strangers until it has the
wanted number of tokens; the questions stay the same while the memory grows. Answers are generated as
the engine does it: rounds of document numbers and appended texts, each prefilled with fresh routing.
BM25 over the same documents is the yardstick of routing.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import re
import time
from collections import Counter, defaultdict
from pathlib import Path

import torch

from msa.batch import Prompt, PromptWriter, load_natural
from msa.model import Documents, Memory, MsaTrainer, Queries, merge
from msa.reference import Templates, load_weights
from msa.world import UNKNOWN, Question, World

ROUNDS_MAX = 4
NUMBERS_MAX, ANSWER_MAX = 24, 32  # generated tokens
DOCUMENTS_PER_ROUND = 4


def normalise(text: str) -> list[str]:
    return re.sub(r"[^\w\s$:.-]", " ", text.lower()).replace(". ", " ").rstrip(" .").split()


def f1(guess: str, gold: str) -> float:
    a, b = Counter(normalise(guess)), Counter(normalise(gold))
    common = sum((a & b).values())
    return 2 * common / (sum(a.values()) + sum(b.values())) if common else 0.0


class Bm25:
    """k1 = 1.2, b = 0.75 over lower-case words."""

    def __init__(self, texts: list[str]):
        self.postings: dict[str, list[tuple[int, int]]] = defaultdict(list)
        self.lengths = []
        for i, text in enumerate(texts):
            words = re.findall(r"\w+", text.lower())
            self.lengths.append(len(words))
            for w, n in Counter(words).items():
                self.postings[w].append((i, n))
        self.mean = sum(self.lengths) / max(1, len(texts))

    def rank(self, query: str, k: int) -> list[int]:
        scores: dict[int, float] = defaultdict(float)
        total = len(self.lengths)
        for w in set(re.findall(r"\w+", query.lower())):
            found = self.postings.get(w, ())
            idf = math.log(1 + (total - len(found) + 0.5) / (len(found) + 0.5))
            for i, n in found:
                scores[i] += idf * n * 2.2 / (n + 1.2 * (0.25 + 0.75 * self.lengths[i] / self.mean))
        return sorted(scores, key=lambda i: -scores[i])[:k]


class Bank:
    """Documents with numbers 1.., encoded in batches of like length."""

    def __init__(self, model: MsaTrainer, templates: Templates, texts: list[str], device):
        self.texts, self.model, self.device = texts, model, device
        prefix = torch.tensor(templates.encode(templates.strings["head"]), device=device)
        rows = [templates.encode(templates.strings["document"], number=i + 1, text=t) for i, t in enumerate(texts)]
        self.n_tokens = sum(map(len, rows))
        self.order = sorted(range(len(rows)), key=lambda i: len(rows[i]))  # bank position -> document
        parts, at = [], 0
        while at < len(rows):
            width = -(-len(rows[self.order[at]]) // 32) * 32
            batch = [i for i in self.order[at : at + 65536 // width] if len(rows[i]) <= width]
            ids = torch.zeros(len(batch), width, dtype=torch.long)
            for row, i in zip(ids, batch):
                row[: len(rows[i])] = torch.tensor(rows[i])
            lengths = torch.tensor([len(rows[i]) for i in batch])
            parts.append(model.encode(Documents([(ids.to(device), lengths.to(device))]), prefix))
            at += len(batch)
        self.memory: Memory = merge(parts)
        self.position = {doc: p for p, doc in enumerate(self.order)}


class Asker:
    def __init__(self, model: MsaTrainer, templates: Templates, bank: Bank, batch: int = 64):
        self.model, self.t, self.bank, self.batch = model, templates, bank, batch
        self.writer = PromptWriter(templates)
        self.special = templates.special

    def forward(self, prompts: list[Prompt]):
        """Next tokens and, per routing layer, document scores [n, documents] in document order."""
        tokens, scores = [], []
        for at in range(0, len(prompts), self.batch):
            part = prompts[at : at + self.batch]
            width = -(-max(len(p.tokens) for p in part) // 32) * 32
            ids = torch.zeros(len(part), width, dtype=torch.long)
            role0 = torch.zeros(len(part), width, dtype=torch.bool)
            for i, p in enumerate(part):
                ids[i, : len(p.tokens)] = torch.tensor(p.tokens)
                role0[i, : len(p.tokens)] = torch.tensor(p.role0)
            n = len(self.bank.texts)
            device = self.bank.device
            none = torch.zeros(len(part), n, dtype=torch.bool, device=device)
            on = torch.ones(len(part), dtype=torch.bool, device=device)
            q = Queries(ids.to(device), role0.to(device), ids, none, none, ~on, on)
            x, layer_scores, _ = self.model.answer([q], self.bank.memory)
            last = torch.tensor([i * width + len(p.tokens) - 1 for i, p in enumerate(part)], device=device)
            tokens += self.model.logits(x[last]).argmax(-1).tolist()
            scores.append(torch.stack(layer_scores).mean(0).float())
        return tokens, torch.cat(scores)

    def generate(self, prompts: list[Prompt], limit: int, stops: set[int]) -> list[list[int]]:
        out: list[list[int]] = [[] for _ in prompts]
        active = list(range(len(prompts)))
        for _ in range(limit):
            if not active:
                break
            tokens, _ = self.forward([prompts[i] for i in active])
            for i, token in zip(list(active), tokens):
                out[i].append(token)
                prompts[i].add([token])
                if token in stops:
                    active.remove(i)
        return out

    def ask(self, questions: list[str], append_text: bool = True) -> list[tuple[str, list[int]]]:
        """(answer, documents fetched) of each question by Memory Interleave."""
        s = self.t.strings
        end, stop = self.special[s["retrieval_end"]], self.special["<|im_end|>"]
        numbers_end = self.special[s["numbers_end"]]
        prompts = [self.writer.question(q) for q in questions]
        fetched: list[list[int]] = [[] for _ in questions]
        open_ = list(range(len(questions)))
        for _ in range(ROUNDS_MAX - 1 if append_text else 0):
            if not open_:
                break
            before = [len(prompts[i].tokens) for i in open_]
            outputs = self.generate([prompts[i] for i in open_], NUMBERS_MAX, {end, numbers_end, stop})
            still = []
            for i, start, out in zip(open_, before, outputs):
                p = prompts[i]
                numbers = [int(x) for x in re.findall(r"\[(\d+)\]", self.t.decode(out))]
                new = [n - 1 for n in dict.fromkeys(numbers)
                       if 1 <= n <= len(self.bank.texts) and n - 1 not in fetched[i]][:DOCUMENTS_PER_ROUND]
                if end in out or not new:
                    del p.tokens[start:], p.role0[start:], p.labelled[start:]
                    continue
                p.role0 = [r and j < self._question_length(questions[i]) for j, r in enumerate(p.role0)]
                self.writer.texts(p, [(d + 1, self.bank.texts[d]) for d in new], newest=True)
                fetched[i] += new
                still.append(i)
            open_ = still
        for q, p in zip(questions, prompts):
            self.writer.answer(p, q, None)
        answers = self.generate(prompts, ANSWER_MAX, {stop})
        return [(self.t.decode([x for x in a if x != stop]).strip(), f) for a, f in zip(answers, fetched)]

    def _question_length(self, question: str) -> int:
        return len(self.t.encode(self.t.strings["question"], question=question))

    def route(self, questions: list[str], k: int) -> list[list[int]]:
        _, scores = self.forward([self.writer.question(q) for q in questions])
        top = scores.topk(min(k, scores.shape[1]), dim=1).indices.tolist()
        return [[self.bank.order[p] for p in row] for row in top]


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


def distractors(seed: int, natural: list[dict]):
    """Documents to grow a memory with, without end: natural text, then strangers' lives."""
    yield from (i["text"] for i in natural)
    while True:
        seed += 1
        # Things, events and services are the user's own; a stranger's must not contradict them.
        for text in World(random.Random(seed), 300, evaluation=True).documents:
            if not re.search(r"\b(?:my|My|the user|The user|their|I)\b", text):
                yield text


def recall(ranked: list[list[int]], questions: list[Question], k: int) -> float:
    hits = [set(q.hops[0]) <= set(row[:k]) for row, q in zip(ranked, questions)]
    return round(100 * sum(hits) / len(hits), 1)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--natural", type=Path)
    parser.add_argument("--tokens", type=int, nargs="+", default=[16384, 65536])
    parser.add_argument("--questions", type=int, default=100, help="of each kind")
    parser.add_argument("--seed", type=int, default=2024)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--examples", type=int, default=4)
    parser.add_argument("--answers-up-to", type=int, default=300000, help="tokens; beyond, routing only")
    parser.add_argument("--minutes", type=float, default=60)
    args = parser.parse_args()
    began = time.time()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = json.loads((args.model / "config.json").read_text())
    templates = Templates(args.model / "tokenizer.json", json.loads((args.model / "templates.json").read_text()))
    model = MsaTrainer(config)
    model.load(load_weights(args.model))
    model.to(device).compute_dtype = torch.bfloat16 if device == "cuda" else torch.float32
    model.refresh()
    natural = load_natural(args.natural, evaluation=True)
    base, kinds = held_out(args.seed, args.questions, natural)
    used = set(base)
    results = []
    for size in args.tokens:
        texts = list(base)
        budget = size - sum(len(templates.encode_text(t)) + 12 for t in texts)
        for text in distractors(args.seed, natural):
            if budget <= 0:
                break
            if text not in used:
                texts.append(text)
                budget -= len(templates.encode_text(text)) + 12
        bank = Bank(model, templates, texts, device)
        asker = Asker(model, templates, bank)
        bm25 = Bm25(texts)
        row = {"tokens": bank.n_tokens, "documents": len(texts), "kinds": {}}
        for kind, questions in kinds.items():
            entry: dict = {"questions": len(questions)}
            if questions[0].hops:
                ranked = asker.route([q.text for q in questions], 16)
                plain = [bm25.rank(q.text, 16) for q in questions]
                entry["recall"] = {k: recall(ranked, questions, k) for k in (1, 5, 16)}
                entry["bm25"] = {k: recall(plain, questions, k) for k in (1, 5, 16)}
            answered = [q for q in questions if q.answer]
            if answered and size <= args.answers_up_to:
                replies = asker.ask([q.text for q in answered])
                exact = [normalise(a) == normalise(q.answer) for (a, _), q in zip(replies, answered)]
                entry["exact"] = round(100 * sum(exact) / len(exact), 1)
                entry["f1"] = round(100 * sum(f1(a, q.answer) for (a, _), q in zip(replies, answered)) / len(exact), 1)
                needed = [{d for h in q.hops for d in h} <= set(f) for (_, f), q in zip(replies, answered)]
                entry["fetched_all"] = round(100 * sum(needed) / len(needed), 1)
                entry["false_refusals"] = sum(a == UNKNOWN != q.answer for (a, _), q in zip(replies, answered))
                entry["examples"] = [
                    {"question": q.text, "gold": q.answer, "answer": a, "needed": q.hops, "fetched": f}
                    for (a, f), q in list(zip(replies, answered))[: args.examples]]
            row["kinds"][kind] = entry
            shown = {k: v for k, v in entry.items() if k != "examples"}
            print(f"{bank.n_tokens} tokens, {kind}: {json.dumps(shown)}", flush=True)
            for e in entry.get("examples", []):
                print("   ", json.dumps(e), flush=True)
        results.append(row)
        if args.out:
            args.out.write_text(json.dumps(results, indent=1) + "\n")
        if time.time() - began > args.minutes * 60:
            break


if __name__ == "__main__":
    main()
