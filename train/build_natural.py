"""Collects natural query-document pairs from Debian packages into one compressed file.

    apt-get -o Acquire::Languages=en update && apt-get download wordnet-base dict-gcide
    python3 train/build_natural.py --descriptions '/var/lib/apt/lists/*Translation-en*' \\
        --wordnet wordnet-base_*.deb --gcide dict-gcide_*.deb --out models/.local/natural.jsonl.xz

Each line: {"key": split key, "text": document, "qa": [[question, answer], ...]}; an empty answer means
that the pair serves retrieval only. Nothing is picked by hand: every record that has the fields is
taken, in the order of the files, up to the limits below. Licences: package descriptions are under
the terms of their packages in Debian main; WordNet 3.0 under the WordNet licence; GCIDE under GPL-3+.
"""

from __future__ import annotations

import argparse
import glob
import gzip
import json
import lzma
import random
import re
import subprocess
import tempfile
from collections import Counter
from pathlib import Path

WORDS_MAX = 110  # of a document
WORDNET_MAX = 45000

IS_A = re.compile(
    r"^(?:The )?([A-Z][\w.+-]*(?: [\w.+-]+){0,3}?) (is|are|was|were) ((?:an?|the|one of) [^.;:]{12,110})[.;]"
)
PRONOUN = re.compile(
    r"(?i)(this|it|there|these|they|that|here|which|what|their|its|his|her|our|your|my|other|another"
    r"|some|each|both|one)\b"
)


def squeeze(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


def cut(text: str) -> str:
    """At most WORDS_MAX words, ending at a sentence end when one is near."""
    words = text.split(" ")
    if len(words) <= WORDS_MAX:
        return text
    head = " ".join(words[:WORDS_MAX])
    end = max(head.rfind(". "), head.rfind(".\n"))
    return head[: end + 1] if end > len(head) // 2 else head


def sentence_questions(text: str) -> list[list[str]]:
    """Questions that a sentence of the form 'X is a Y.' states the answer to."""
    out = []
    for sentence in re.split(r"(?<=[.!?])\s+", text):
        m = IS_A.match(sentence)
        if m and not PRONOUN.match(m[1]):
            out.append([f"What {m[2]} {m[1]}?", m[3]])
    return out[:2]


def debian(pattern: str):
    seen = set()
    for file in sorted(glob.glob(pattern)):
        command = ["/usr/lib/apt/apt-helper", "cat-file", file]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        for record in text.split("\n\n"):
            m = re.match(r"Package: (\S+)\n(?:\S.*\n)*?Description-en: (.*)\n((?: .*\n?)*)", record)
            if not m:
                continue
            name, short = m[1], squeeze(m[2])
            paragraphs = re.sub(r"(?m)^ ?\.$", "", m[3]).split("\n\n")
            body = cut(squeeze(" ".join(paragraphs)))
            start = body[:110]
            if len(body) < 80 or start in seen or len(short) < 12:
                continue
            seen.add(start)
            rng = random.Random(name)
            qa = [[short, ""], [f"Which package provides this: {short}?", name]]
            text = f"{name}: {body}"
            if rng.random() < 0.5:
                text = f"{name} - {short}. {body}"
                qa.append([f"What is {name}?", short])
            qa += sentence_questions(body)
            yield {"key": "debian:" + name, "text": text, "qa": qa}


def gcide_definitions(deb: Path, folder: Path) -> dict[str, str]:
    """Headword -> first definition of the dictionary, for one-word headwords."""
    subprocess.run(["dpkg", "-x", str(deb), str(folder)], check=True)
    raw = gzip.open(folder / "usr/share/dictd/gcide.dict.dz", "rt", encoding="utf-8", errors="replace")
    out: dict[str, str] = {}
    entry = re.compile(r"^([A-Z][a-z]+) \\.*\n((?:   .*\n|\n)+)", re.M)
    for m in entry.finditer(raw.read()):
        body = re.sub(r"\[[^\]]*\]|\{|\}", "", m[2])
        body = squeeze(body)
        first = re.search(r"(?:1\.|^|\] )\s*(?:\([^)]*\) )?([A-Z][^.]{15,160})\.", body)
        if first:
            out.setdefault(m[1].lower(), first[1])
    return out


def wordnet(deb: Path, gcide: dict[str, str], folder: Path):
    subprocess.run(["dpkg", "-x", str(deb), str(folder)], check=True)
    items = []
    for pos in ("noun", "verb", "adj"):
        for line in open(folder / f"usr/share/wordnet/data.{pos}", encoding="utf-8"):
            if line.startswith("  ") or " | " not in line:
                continue
            head, gloss = line.split(" | ", 1)
            lemma = head.split(" ")[4].replace("_", " ").split("(")[0]
            definition = squeeze(gloss.split('; "')[0]).rstrip(";")
            if not 20 < len(definition) < 220:
                continue
            examples = [squeeze(e) for e in re.findall(r'"([^"]{10,120})"', gloss)]
            text = f"{lemma} ({pos}): {definition}." + "".join(f" Example: {e}." for e in examples[:1])
            qa = [[f"Which word means {definition}?", lemma]]
            if len(definition) < 110:
                qa.append([f"What does {lemma} mean?", definition])
            if lemma.lower() in gcide:
                other = gcide[lemma.lower()]
                qa.append([f"What is the word for this: {other}?", lemma])
                qa.append([other, ""])
            items.append({"key": "wordnet:" + lemma, "text": text, "qa": qa})
    # A word with several senses has no single right document.
    count = Counter(i["key"] for i in items)
    items = [i for i in items if count[i["key"]] == 1]
    random.Random(3).shuffle(items)
    # Pairs of independently written definitions are worth most.
    items.sort(key=lambda i: -len(i["qa"]))
    yield from items[:WORDNET_MAX]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--descriptions", required=True, help="pattern of apt Translation-en files")
    parser.add_argument("--wordnet", type=Path, required=True, help="wordnet-base .deb")
    parser.add_argument("--gcide", type=Path, required=True, help="dict-gcide .deb")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as tmp:
        gcide = gcide_definitions(args.gcide, Path(tmp) / "gcide")
        items = list(debian(args.descriptions)) + list(wordnet(args.wordnet, gcide, Path(tmp) / "wn"))
    with lzma.open(args.out, "wt", encoding="utf-8") as f:
        for item in items:
            f.write(json.dumps(item, ensure_ascii=False) + "\n")
    kinds = Counter(i["key"].split(":")[0] for i in items)
    print(f"{args.out}: {dict(kinds)}, {sum(len(i['qa']) for i in items)} questions, "
          f"{len(gcide)} GCIDE definitions, {args.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
