"""Which routing settings suit a backbone whose own q and k route (no trained router)?

    python3 train/calibrate.py FOLDER [--pairs 200]

Measures routing recall@1 and @3 of natural pairs (a Debian package's one-line description as the
query, its long description as the document) and of generated facts, for each layer, chunk size and
metric, and for windows of layers fused as Search fuses them (mean of layer scores). Queries are run
without memory, which is what all routing layers see up to the first selection.
"""

from __future__ import annotations

import argparse
import random
import re
import subprocess
from pathlib import Path

import torch

from msa.reference import MsaModel, l2_normalize, pool

PEOPLE = "Mara Otis Ivo Lena Petra Samir Noor Hugo Ines Taro Willa Juno".split()
FACTS = [
    ("{a} keeps the {o} in the {p}.", "Where does {a} keep the {o}?"),
    ("The meeting with {a} about the {o} was moved to {d} at {h} o'clock.",
     "When is the meeting with {a} about the {o}?"),
    ("{a} is allergic to {f} and always carries medicine.", "What is {a} allergic to?"),
    ("{a} sold the {o} to a collector from {c} for {n} euros.", "Who bought the {o} from {a}?"),
    ("The password hint for {a}'s {o} account is {f}.", "What is the hint for {a}'s {o} password?"),
    ("{a} was born in {c} and moved away at the age of {h}.", "In which city was {a} born?"),
]
WORDS = {
    "o": "lantern kettle violin ladder basket clock letter compass telescope bicycle".split(),
    "p": "attic cellar mill chapel orchard station barn garage shed library".split(),
    "d": "Monday Tuesday Wednesday Thursday Friday Saturday".split(),
    "f": "peanuts shellfish strawberries pollen cinnamon garlic".split(),
    "c": "Lisbon Oslo Prague Kyoto Lima Tunis Ghent Turin".split(),
}


def fact_pairs(n: int, rng: random.Random) -> list[tuple[str, str]]:
    pairs: dict[str, str] = {}
    while len(pairs) < n:
        document, question = rng.choice(FACTS)
        values = {k: rng.choice(v) for k, v in WORDS.items()}
        values |= {"a": rng.choice(PEOPLE), "h": rng.randrange(2, 12), "n": rng.randrange(10, 900)}
        pairs.setdefault(question.format(**values), document.format(**values))
    return list(pairs.items())


def package_pairs(n: int, rng: random.Random) -> list[tuple[str, str]]:
    command = ["dpkg-query", "-W", "-f", "${Description}\\n\\n"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    pairs = []
    for record in text.split("\n\n"):
        title, _, body = record.strip().partition("\n")
        body = re.sub(r"\n \.?", "\n", "\n" + body).strip()
        if len(title) > 20 and 100 < len(body) < 900:
            pairs.append((title, body))
    return rng.sample(sorted(set(pairs)), min(n, len(set(pairs))))


@torch.no_grad()
def layer_states(model: MsaModel, ids: list[int], first: int, prefix) -> tuple[list, list]:
    """q and k of every layer for one sequence starting at position `first` after `prefix`."""
    cos, sin = model.rope(torch.arange(first, first + len(ids)))
    x = model.model.embed_tokens(torch.tensor(ids))
    queries, keys = [], []
    for i, layer in enumerate(model.model.layers):
        q, k, v = model.project(i, layer.input_layernorm(x), cos, sin)
        queries.append(q)
        keys.append(k)
        n_shared = 0
        if prefix is not None:
            n_shared = prefix[0][i].shape[0]
            k, v = torch.cat([prefix[0][i], k]), torch.cat([prefix[1][i], v])
        x = model.mlp_block(i, x + model.attend(i, q, k, v, n_shared))
    return queries, keys


def score_matrix(model, queries, keys, chunk: int, metric: str) -> torch.Tensor:
    """[n_queries, n_documents] of one layer."""
    rows = [pool(k, chunk) for k in keys]
    owner = torch.repeat_interleave(torch.arange(len(rows)), torch.tensor([len(r) for r in rows]))
    table = torch.cat(rows)
    if metric == "cosine":
        table = l2_normalize(table)
    table = table.flatten(1)
    q = torch.cat(queries)
    q = l2_normalize(q) if metric == "cosine" else q * model.head_dim**-0.5
    folded = q.view(-1, model.n_kv_heads, model.group, model.head_dim).sum(2).flatten(1) / model.n_heads
    asker = torch.repeat_interleave(torch.arange(len(queries)), torch.tensor([len(x) for x in queries]))
    scores = folded @ table.T  # [query tokens, chunks]
    by_query = torch.full((len(queries), len(table)), -1e9)
    by_query.scatter_reduce_(0, asker[:, None].expand_as(scores), scores, "amax")
    out = torch.full((len(queries), len(rows)), -1e9)
    return out.scatter_reduce(1, owner.expand_as(by_query), by_query, "amax")


def recall(scores: torch.Tensor, k: int) -> float:
    order = scores.topk(k, dim=1).indices
    return (order == torch.arange(len(scores))[:, None]).any(1).float().mean().item() * 100


def report(table: dict, n_layers: int) -> None:
    """Best windows of layers, by the mean of both sets' recall@1 and @3."""
    rows = []
    settings = sorted({key[:3] for key in table})
    for form, metric, chunk in settings:
        for start in range(n_layers):
            for end in range(start + 1, n_layers + 1):
                figures = []
                for name in ("packages", "facts"):
                    s = sum(table[form, metric, chunk, i][name] for i in range(start, end))
                    figures += [recall(s, 1), recall(s, 3)]
                rows.append((sum(figures) / 4, form, metric, chunk, start, end - 1, figures))
    print("mean  question metric chunk layers  packages@1 @3  facts@1 @3")
    shown: dict[tuple, int] = {}
    for mean, form, metric, chunk, start, last, figures in sorted(rows, reverse=True):
        shown[form, metric, chunk] = shown.get((form, metric, chunk), 0) + 1
        if shown[form, metric, chunk] <= 4:
            text = " ".join(f"{x:5.1f}" for x in figures)
            print(f"{mean:5.1f} {form:6} {metric:10} {chunk:3} {start}-{last}  {text}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = MsaModel.from_folder(args.folder)
    t = model.templates
    with torch.no_grad():
        prefix = model.encode_prefix()
    first = prefix[0][0].shape[0] + model.msa.top_k
    rng = random.Random(11)
    sets = {"packages": package_pairs(args.pairs, rng), "facts": fact_pairs(args.pairs, rng)}
    question_forms = {"plain": "{question}", "folder": t.strings["question"]}
    table: dict[tuple, dict[str, torch.Tensor]] = {}
    n_layers = len(model.model.layers)
    for name, pairs in sets.items():
        keys = [
            layer_states(model, t.encode(t.strings["document"], number=n + 1, text=d), 0, None)[1]
            for n, (_, d) in enumerate(pairs)
        ]
        for form, template in question_forms.items():
            queries = [
                layer_states(model, t.encode(template, question=q), first, prefix)[0]
                for q, _ in pairs
            ]
            for metric in ("cosine", "scaled_dot"):
                for chunk in (8, 16, 32, 64):
                    for i in range(n_layers):
                        s = score_matrix(model, [q[i] for q in queries], [k[i] for k in keys], chunk, metric)
                        table.setdefault((form, metric, chunk, i), {})[name] = s
    report(table, n_layers)


if __name__ == "__main__":
    main()
