"""Tables and pictures of docs/results from the raw results of evaluate.py, train.py and rank_minilm.py.

    python3 train/report.py --raw docs/results/raw --out docs/results

Reads alone.json, settings.json, curve.json, curve-SEED.json, sets.json, needles.json, ablation.json, prose.json, minilm.json and
log.jsonl in --raw, as far as they are there, and notes.md, which is put in front. Writes default-model.md, training.svg and
memory-size.svg; the pictures are plain SVG. `--trim FOLDER` first copies the files of FOLDER to --raw, with only
the first few answers of each kind; alone.json comes from curve.json and shared.json then, curve-SEED.json from
seed-SEED/curve.json.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

ANSWERS_KEPT = 8
COLOURS = ("#1f5fa8", "#c2571a", "#2f7d4f", "#8a4fa3")


def trimmed(value):
    if isinstance(value, dict):
        return {k: v[:ANSWERS_KEPT] if k == "answers" else trimmed(v) for k, v in value.items()}
    return [trimmed(v) for v in value] if isinstance(value, list) else value


def load(folder: Path, name: str):
    path = folder / name
    if not path.exists():
        return None
    text = path.read_text()
    return [json.loads(line) for line in text.splitlines()] if name.endswith("jsonl") else json.loads(text)


def tokens_name(n: int) -> str:
    return f"{n / 1e6:.3g}M" if n >= 1e6 else f"{n / 1000:.0f}K"


def table(head: list[str], rows: list[list[object]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return "\n".join(lines + ["| " + " | ".join("–" if c is None else str(c) for c in row) + " |" for row in rows]) + "\n"


def ranks(entry: dict | None) -> str | None:
    return " / ".join(f"{float(entry[k]):.1f}" for k in ("1", "5", "16")) if entry else None


def chart(title: str, x_name: str, series: dict[str, list[tuple[float, float]]], y_max: float, x_labels: dict[float, str]) -> str:
    """A line chart: x as given, y from 0 to y_max."""
    width, height, left, top, right, bottom = 720, 340, 52, 40, 16, 44
    xs = [x for points in series.values() for x, _ in points]
    low, high = min(xs), max(xs) if max(xs) > min(xs) else min(xs) + 1
    at = lambda x, y: (left + (x - low) / (high - low) * (width - left - right),
                       height - bottom - min(y, y_max) / y_max * (height - top - bottom))
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">',
           f'<rect width="{width}" height="{height}" fill="white"/>', f'<text x="{left}" y="18" font-size="14">{title}</text>']
    for i in range(6):
        y = y_max * i / 5
        _, py = at(low, y)
        out.append(f'<line x1="{left}" x2="{width - right}" y1="{py:.1f}" y2="{py:.1f}" stroke="#ddd"/>'
                   f'<text x="{left - 6}" y="{py + 4:.1f}" text-anchor="end">{y:.3g}</text>')
    for x, label in x_labels.items():
        px, _ = at(x, 0)
        out.append(f'<text x="{px:.1f}" y="{height - bottom + 16}" text-anchor="middle">{label}</text>')
    out.append(f'<text x="{(left + width) / 2}" y="{height - 8}" text-anchor="middle">{x_name}</text>')
    for i, (name, points) in enumerate(series.items()):
        colour = COLOURS[i % len(COLOURS)]
        line = " ".join(f"{px:.1f},{py:.1f}" for px, py in (at(x, y) for x, y in points))
        out.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
        out.append(f'<text x="{left + 8 + 165 * i}" y="34" fill="{colour}">{name}</text>')
    return "\n".join(out + ["</svg>"]) + "\n"


def training_picture(log: list[dict]) -> str:
    smooth = lambda key, scale=1.0: [
        (row["seconds"] / 60, scale * sum(value(r, key) for r in log[max(0, i - 4) : i + 1]) / len(log[max(0, i - 4) : i + 1]))
        for i, row in enumerate(log)]
    value = lambda row, key: sum(row[key]) / len(row[key]) if isinstance(row[key], list) else row[key]
    series = {"loss of the answer tokens": smooth("tokens"), "routing loss": smooth("route"), "routing accuracy": smooth("hit1"),
              "token accuracy": smooth("accuracy")}
    last = log[-1]["seconds"] / 60
    return chart("Training: losses and accuracies", "minutes", series, 1.0, {m: str(m) for m in range(0, int(last) + 1, 2)})


def alone_rows(shared: dict, curve: list[dict]) -> list[dict]:
    """Exact answers to the questions whose names strangers do not share, of each size, at every size of the curve.
    Only runs whose strangers could share names (before names_asked of evaluate.py) have a shared.json."""
    words = lambda text: re.sub(r"[^\w\s$:.-]", " ", text.lower()).replace(". ", " ").rstrip(" .").split()
    rows = []
    for up_to, kinds in shared.items():
        for kind in ("single", "two-hop", "three-hop"):
            chosen, exact = set(kinds[kind]["alone"]), {}
            for size in sorted(curve, key=lambda r: r["tokens"]):
                answers = [a for a in size["kinds"][kind].get("answers", ()) if a["question"] in chosen]
                if answers:
                    exact[size["tokens"]] = round(100 * sum(words(a["said"]) == words(a["gold"]) for a in answers) / len(answers), 1)
                    count = len(answers)
            if exact:
                rows.append({"up_to": int(up_to), "kind": kind, "questions": count, "exact": exact})
    return rows


def curve_part(curve: list[dict], minilm: dict | None) -> tuple[str, str]:
    import math
    rows, lines = [], {}
    sizes = [16384, 65536, 262144, 1_000_000, 10_000_000]
    for size in sorted(curve, key=lambda row: row["tokens"]):
        asked = min(sizes, key=lambda s: abs(s - size["tokens"]))
        other = (minilm or {}).get(str(asked), {}).get("recall", {})
        for kind, entry in size["kinds"].items():
            answered = entry.get("answered", entry["questions"])
            rows.append([tokens_name(size["tokens"]), f"{kind} ({entry['questions']})", ranks(entry.get("recall")),
                         ranks(entry.get("recall_second")), ranks(entry.get("bm25")), ranks(other.get(kind)), f"{entry['exact']} / {entry['f1']} ({answered})" if "exact" in entry else None])
            x = math.log10(size["tokens"])
            if kind in ("single", "two-hop") and "recall" in entry:
                lines.setdefault(f"{kind}: recall@16", []).append((x, float(entry["recall"]["16"])))
            if kind in ("single", "two-hop") and "exact" in entry:
                lines.setdefault(f"{kind}: exact answers", []).append((x, entry["exact"]))
    head = ["memory", "questions", "recall@1 / @5 / @16", "of the second step", "BM25", "MiniLM", "exact / F1 (answered)"]
    if not any(row[3] for row in rows):
        head, rows = head[:3] + head[4:], [row[:3] + row[4:] for row in rows]
    text = table(head, rows)
    labels = {math.log10(size["tokens"]): tokens_name(size["tokens"]) for size in curve}
    return text, chart("Memory size", "tokens in memory", lines, 100.0, labels)


def loss_part(curves: list[list[dict]]) -> str:
    """Exact answers in the smallest and the largest memory of each curve, all questions of the seeds pooled."""
    ends = [(min(c, key=lambda r: r["tokens"]), max(c, key=lambda r: r["tokens"])) for c in curves]
    if any(small is large for small, large in ends):
        return ""
    rows, means = [], [0.0, 0.0]
    asked = [kind for kind in ("single", "two-hop", "three-hop", "unanswerable")
             if all("exact" in size["kinds"].get(kind, {}) for pair in ends for size in pair)]
    for kind in asked:
        each = [[size["kinds"][kind] for size in pair] for pair in ends]
        counts = [sum(pair[i]["answered"] for pair in each) for i in (0, 1)]
        shares = [sum(pair[i]["exact"] * pair[i]["answered"] for pair in each) / counts[i] for i in (0, 1)]
        means = [m + s / len(asked) for m, s in zip(means, shares)]
        rows.append([f"{kind} ({counts[0]})", *(f"{a['exact']} / {b['exact']}" for a, b in each), *(f"{s:.1f}" for s in shares),
                     f"{100 * (1 - shares[1] / shares[0]):.1f}%"])
    rows.append(["mean", *("" for _ in ends), *(f"{m:.1f}" for m in means), f"{100 * (1 - means[1] / means[0]):.1f}%"])
    sizes = [tokens_name(size["tokens"]) for size in ends[0]]
    return table(["questions", *(f"world {i + 1}" for i in range(len(ends))), *(f"all, {s}" for s in sizes), "loss"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--raw", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--trim", type=Path, help="folder of evaluate.py to copy to --raw first")
    args = parser.parse_args()
    args.raw.mkdir(parents=True, exist_ok=True)
    for source in sorted(args.trim.glob("*.json*")) if args.trim else ():
        text = source.read_text()
        if source.suffix == ".json":
            text = json.dumps(trimmed(json.loads(text)), indent=1, ensure_ascii=False) + "\n"
        (args.raw / source.name).write_text(text)
    for folder in sorted([*args.trim.glob("*-auxiliary-loss"), *args.trim.glob("seed-*")]) if args.trim else ():
        if (folder / "curve.json").exists():
            text = json.dumps(trimmed(load(folder, "curve.json")), indent=1, ensure_ascii=False) + "\n"
            (args.raw / f"{folder.name.replace('seed-', 'curve-')}.json").write_text(text)
    if args.trim and (args.trim / "shared.json").exists():
        rows = alone_rows(load(args.trim, "shared.json"), load(args.trim, "curve.json"))
        (args.raw / "alone.json").write_text(json.dumps(rows, indent=1) + "\n")
        (args.raw / "shared.json").unlink()
    args.out.mkdir(parents=True, exist_ok=True)
    parts = ["# What the default model was measured at\n", "Made by `python3 train/report.py` from the files in [raw](raw); see "
             "`train/evaluate.py` for what each number is. All questions are held out; one run, seed 2024.\n"]
    if (notes := args.raw / "notes.md").exists():
        parts.append(notes.read_text())
    if settings := load(args.raw, "settings.json"):
        kinds = list(settings[0]["exact"])
        parts += ["## Which retrieval settings\n", "Exact answers in percent, on another seed than all that follows. A list names "
                  "whatever the model writes (`free`), any document that some layer chose (`any routed`) or one of the N that routing ranks "
                  "best. `by rank`: it stands for as many of the best; `within`: down to the first gap of more than that between two scores. "
                  "`news`, `words`: route_news, route_words. `besides`: how many of the best ranked documents are read besides those that the "
                  "model asks for; `last`: shown only when it answers.\n",
                  table(["lists, read besides", *kinds, "mean"], [[r["name"], *(r["exact"][k] for k in kinds), r["mean"]] for r in settings])]
    if log := load(args.raw, "log.jsonl"):
        (args.out / "training.svg").write_text(training_picture(log))
        parts += ["## Training\n", "![Losses and accuracies](training.svg)\n"]
    if curve := load(args.raw, "curve.json"):
        text, picture = curve_part(curve, load(args.raw, "minilm.json"))
        (args.out / "memory-size.svg").write_text(picture)
        parts += ["## Routing and answers as memory grows\n", "Recall is of all documents of the first retrieval step, in percent; of the "
                  "second step once those of the first were read, and what is read besides.\n", text,
                  "![Recall and answers by memory size](memory-size.svg)\n"]
        others = [json.loads(path.read_text()) for path in sorted(args.raw.glob("curve-*.json"))]
        if loss := loss_part([curve, *others]):
            parts += [f"## From {tokens_name(min(r['tokens'] for r in curve))} to {tokens_name(max(r['tokens'] for r in curve))}\n",
                      f"Exact answers in percent in the smallest and the largest memory of {1 + len(others)} held-out worlds, each with its own "
                      "strangers. The loss is of all their questions.\n", loss]
    if curve and (alone := load(args.raw, "alone.json")):
        parts += ["## Questions about somebody whose name nobody else bears\n", "Strangers that fill a large memory share names with those "
                  "asked about, so that a question can have several right answers by chance. Exact answers in percent, of the questions "
                  "whose names no stranger bears at the size in the first column.\n",
                  table(["nobody shares the name up to", "questions", *(f"{tokens_name(int(n))} in memory" for n in alone[0]["exact"])],
                        [[tokens_name(r["up_to"]), f"{r['kind']} ({r['questions']})", *r["exact"].values()] for r in alone])]
    if prose := load(args.raw, "prose.json"):
        parts += ["## Real prose, everyday notes and rosters\n", "Prose: passages of licences, the US constitution and the Jargon File with questions "
                  "written by hand. Notes: frames and names held out from training, among 64K tokens of other documents; rosters likewise: "
                  "the same attributes of two to five entities side by side. "
                  "`holds`: the answer contains what was wanted.\n",
                  table(["set", "kind (questions)", "recall@1 / @5 / @16", "BM25", "exact", "F1", "holds"],
                        [[r["set"], f"{r['kind']} ({r['questions']})", ranks(r.get("recall")), ranks(r.get("bm25")), r["exact"], r["f1"], r["holds"]]
                         for r in prose])]
    if sets := load(args.raw, "sets.json"):
        parts += ["## Kinds of generated questions, 64K tokens each\n",
                  table(["set", "questions", "recall@1 / @5 / @16", "BM25", "exact", "F1", "declined"],
                        [[r["set"], r["questions"], ranks(r.get("recall")), ranks(r.get("bm25")), r["exact"], r["f1"], r["refusals"]] for r in sets])]
    if needles := load(args.raw, "needles.json"):
        sizes = sorted({round(r["tokens"], -4) for r in needles})
        rows = {}
        for r in needles:
            rows.setdefault(r["form"], {})[round(r["tokens"], -4)] = r["score"]
        body = [[form] + [scores.get(s) for s in sizes] for form, scores in rows.items()]
        mean = ["mean"] + [round(sum(v) / len(v), 1) if (v := [x[s] for x in rows.values() if s in x]) else None for s in sizes]
        parts += ["## Needles in a haystack, RULER's eight forms\n", "Share of the wanted values that the answer holds, in percent.\n",
                  table(["form"] + [tokens_name(s) for s in sizes], body + [mean])]
    if ablation := load(args.raw, "ablation.json"):
        parts += ["## What it is worth: 64K tokens of the world\n",
                  table(["way", "questions", "exact", "F1", "all documents read"],
                        [[r["way"], f"{r['kind']} ({r['questions']})", r["exact"], r["f1"], r["fetched_all"]] for r in ablation])]
    loss_rows = []
    for way in ("with", "without"):
        for row in load(args.raw, f"{way}-auxiliary-loss.json") or ():
            loss_rows += [[f"{way} auxiliary loss", f"{kind} ({e['questions']})", ranks(e.get("recall")), e.get("exact"), e.get("f1")]
                          for kind, e in row["kinds"].items()]
    if loss_rows:
        parts += ["## Without the auxiliary loss\n", "Two short trainings that differ in it alone, from a model whose router was made "
                  "untrained again; 64K tokens.\n",
                  table(["training", "questions", "recall@1 / @5 / @16", "exact", "F1"], loss_rows)]
    (args.out / "default-model.md").write_text("\n".join(parts))
    print(f"{args.out}/default-model.md written")


if __name__ == "__main__":
    main()
