"""Reading questions over real prose, by rules over a dependency parse (spaCy, en_core_web_sm).

    python3 train/data/reading.py --packages FOLDER --natural natural.jsonl.xz --model en_core_web_sm-3.8.0 \\
        --out reading.jsonl.xz

FOLDER holds unpacked Debian packages (fetch.sh). A line of the result is {"g": group, "text": passage,
"qa": [[question, answer], ...]}; every answer is a span of its passage. Passages that share eight words in
a row with the evaluation's prose (prose_docs.jsonl) are left out, and so are entries of the Jargon File.
"""

from __future__ import annotations

import argparse
import glob
import gzip
import html
import json
import lzma
import random
import re
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
PRONOUNS = set("it this that these those they he she we i you which who what there one some such its their his her".split())
WORDS_MIN, WORDS_MAX = 30, 130


def paragraphs(text: str):
    """Unwrapped paragraphs of running prose, joined up to a passage's length."""
    current = ""
    for block in re.split(r"\n\s*\n", text):
        block = re.sub(r"\s+", " ", re.sub(r"\[\d+\]|\*\*|``|_{2,}|[-=*#~]{4,}", "", block)).strip()
        words = block.split()
        if len(words) < 8 or not re.match(r"[A-Z\"']", block) or not re.search(r"[.!?]\W*$", block):
            continue
        if sum(w.isalpha() or w[:-1].isalpha() for w in words) < 0.75 * len(words):
            continue
        for sentence in re.split(r"(?<=[.!?]) (?=[A-Z])", block):
            if current and len(current.split()) + len(sentence.split()) > WORDS_MAX:
                yield current
                current = ""
            if len(sentence.split()) <= WORDS_MAX:
                current = f"{current} {sentence}".strip()
        if len(current.split()) >= WORDS_MIN + 20:
            yield current
            current = ""


def sources(folder: Path):
    """(group, passage) of the packages' texts."""
    for path in sorted(glob.glob(f"{folder}/*/usr/share/**/*.txt.gz", recursive=True)):
        text = gzip.open(path, "rt", encoding="utf-8", errors="replace").read()
        for i, p in enumerate(paragraphs(text)):
            yield f"{Path(path).stem}/{i}", p
    for path in sorted(glob.glob(f"{folder}/debian-handbook/**/en-US/*.html", recursive=True)
                       + glob.glob(f"{folder}/anarchism/**/*.html", recursive=True)):
        text = Path(path).read_text(encoding="utf-8", errors="replace")
        text = re.sub(r"(?s)<(script|style|pre|head)[^>]*>.*?</\1>", "", text)
        text = re.sub(r"</?(p|div|li|h\d|td|tr|br|dd|dt|ul|ol|blockquote)\b[^>]*>", "\n\n", text)
        text = html.unescape(re.sub(r"<[^>]+>", "", text))
        for i, p in enumerate(paragraphs(text)):
            yield f"{Path(path).stem}/{i}", p
    for path in glob.glob(f"{folder}/dict-foldoc/**/*.dict.dz", recursive=True):
        text = gzip.open(path, "rt", encoding="utf-8", errors="replace").read()
        for entry in re.split(r"\n(?=\S)", text):
            head, _, body = entry.partition("\n")
            if "Jargon" in entry or not 30 <= len(body.split()) <= 220:
                continue
            body = re.sub(r"<[^>\n]*>|\(\d{4}-\d\d-\d\d\)|\[[^\]]*\]|\([^()]*http[^()]*\)|[{}]", "", body)
            body = re.sub(r"\s+", " ", body).strip()
            words = body.split()[:WORDS_MAX]
            yield f"foldoc/{head}", f"{head}: " + re.sub(r"(?<=[.!?])[^.!?]*$", "", " ".join(words))


def grams(text: str) -> set[int]:
    words = re.findall(r"\w+", text.lower())
    return {hash(tuple(words[i : i + 8])) for i in range(len(words) - 7)}


def clean(text: str) -> str:
    return text.strip(" ,;:-\"'()")


def lower_first(text: str, first) -> str:
    keep = first.pos_ == "PROPN" or first.ent_type_ or first.text == "I" or first.text[1:].lower() != first.text[1:]
    return text if keep else text[:1].lower() + text[1:]


def questions(sent) -> list[tuple[str, str]]:
    """Questions whose answers are spans of the sentence."""
    out: list[tuple[str, str]] = []
    doc, root = sent.doc, sent.root
    if not 5 <= len(sent) <= 34 or root.pos_ not in ("VERB", "AUX") or sent.text[-1] != ".":
        return out
    subject = next((c for c in root.children if c.dep_ in ("nsubj", "nsubjpass")), None)
    if subject is None or subject.i > root.i or subject.lower_ in PRONOUNS or subject.tag_ in ("PRP", "WDT", "WP", "EX"):
        return out
    if any(c.dep_ in ("conj", "ccomp", "parataxis") and c.i > root.i and len(list(c.subtree)) > 9 for c in root.children):
        return out
    left, right = subject.left_edge.i, subject.right_edge.i
    subject_text = clean(doc[left : right + 1].text)
    if len(subject_text.split()) > 12 or subject.right_edge.i >= root.i:
        return out
    rest = clean(doc[right + 1 : sent.end - 1].text) if sent[-1].is_punct else clean(doc[right + 1 : sent.end].text)
    lead = clean(doc[sent.start : left].text)
    personal = subject.ent_type_ in ("PERSON",) or subject.lower_ in ("people", "maintainer", "user", "developer", "author",
        "administrator", "developers", "users", "maintainers", "authors", "workers", "man", "woman", "person")
    wh = "Who" if personal else "What"
    aux = [c for c in root.children if c.dep_ in ("aux", "auxpass") and c.i < root.i]
    # Who or what did it?
    if doc[right + 1].text not in (",", "(") and 2 <= len(rest.split()) <= 18 and not lead:
        out.append((f"{wh} {rest}?", subject_text))
    first = lower_first(subject_text, doc[left])

    def body(answer_left: int, answer_right: int) -> str | None:
        """The clause after the verb without the answer."""
        tail = doc[root.i + 1 : answer_left].text + " " + doc[answer_right + 1 : sent.end - 1].text
        tail = re.sub(r"\s+([,.;:])", r"\1", re.sub(r"\s+", " ", tail)).strip(" ,;:")
        return tail if len(tail.split()) <= 14 else None

    def ask(word: str, answer_left: int, answer_right: int) -> None:
        tail = body(answer_left, answer_right)
        if tail is None:
            return
        tail = f" {tail}" if tail else ""
        if root.pos_ == "AUX":
            text = f"{word} {root.text} {first}{tail}?"
        elif aux:
            between = doc[aux[0].i + 1 : root.i].text
            text = f"{word} {aux[0].text} {first} {between + ' ' if between else ''}{root.text}{tail}?"
        else:
            do = {"VBZ": "does", "VBD": "did", "VBP": "do"}.get(root.tag_)
            if not do:
                return
            text = f"{word} {do} {first} {root.lemma_}{tail}?"
        answer = clean(doc[answer_left : answer_right + 1].text)
        if 1 <= len(answer.split()) <= 16 and answer.lower() not in PRONOUNS:
            out.append((re.sub(r"\s+", " ", text), answer))

    for child in root.children:
        l, r = child.left_edge.i, child.right_edge.i
        if child.i < root.i:
            continue
        if child.dep_ in ("dobj", "attr", "oprd") and child.lower_ not in PRONOUNS:
            ask("Who" if child.ent_type_ == "PERSON" else "What", l, r)
            number = next((c for c in child.children if c.dep_ == "nummod"), None)
            if number is not None and child.tag_ == "NNS" and child.dep_ == "dobj":
                ask(f"How many {child.text}", l, r)
        elif child.dep_ == "acomp" and r - l <= 8:
            ask("How" if root.lemma_ == "be" else "What", l, r)
        elif child.dep_ in ("prep", "agent") and list(child.children):
            inner = next(iter(c for c in child.children if c.dep_ in ("pobj", "pcomp")), None)
            if inner is None:
                continue
            kind = inner.ent_type_
            if kind in ("DATE", "TIME"):
                ask("How long" if child.lower_ == "for" else "When", l, r)
            elif kind in ("GPE", "LOC", "FAC"):
                ask("Where", l, r)
            elif child.dep_ == "agent":
                ask("By whom" if kind == "PERSON" else "By what", l, r)
                if out and out[-1][1].lower().startswith("by "):
                    out[-1] = (out[-1][0], out[-1][1][3:])
            elif child.lower_ in ("for", "with", "from", "to", "into", "on") and inner.dep_ == "pobj":
                ask(f"{child.text.capitalize()} what", l, r)
                if out and out[-1][1].lower().startswith(child.lower_ + " "):
                    out[-1] = (out[-1][0], out[-1][1][len(child.text) + 1 :])
        elif child.dep_ == "advcl" and any(c.lower_ in ("because", "since") for c in child.children):
            ask("Why", l, r)
        elif child.dep_ == "advcl" and any(c.lower_ in ("if", "when") for c in child.children):
            ask("When", l, r)
        elif child.dep_ == "xcomp" and doc[l].lower_ == "to" and root.tag_ == "VBN" and root.lower_ == "used":
            ask("What", l, r)
            if out and out[-1][1].startswith("to "):
                out[-1] = (out[-1][0][:-1] + " for?", out[-1][1])
    return out


def about(text: str, group: str, qa: list[tuple[str, str]]) -> list[list[str]]:
    """Questions that stand alone: "this package" gets its name, what still points elsewhere is left out."""
    named = text.split(":")[0] if group.startswith(("pkg:", "man:")) else None
    out = []
    for question, answer in qa:
        if named:
            question = re.sub(r"\b[Tt]his (package|library|program|tool|module|function|command|macro|page)\b",
                              lambda m: f"the {m[1]} {named}", question)
        if re.search(r"(?i)\b(this|these|those|such)\b", question) or not 3 < len(question.split()) < 24:
            continue
        if not re.match(r"(?i)(this|these|those|such|the package|the library)\b", answer):
            out.append([question[:1].upper() + question[1:], answer])
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--packages", type=Path, required=True)
    parser.add_argument("--natural", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=240)
    parser.add_argument("--part", type=int, default=0)
    parser.add_argument("--parts", type=int, default=1)
    parser.add_argument("--skip", type=int, default=0, help="passages done by an earlier run")
    args = parser.parse_args()
    began = time.time()
    import spacy
    nlp = spacy.load(args.model, exclude=["lemmatizer_lookup", "textcat"])
    held: set[int] = set()
    for line in open(HERE / "prose_docs.jsonl", encoding="utf-8"):
        held |= grams(json.loads(line)["text"])
    items = [(g, t) for g, t in sources(args.packages) if not grams(t) & held]
    with lzma.open(args.natural, "rt", encoding="utf-8") as f:
        for line in f:
            row = json.loads(line)
            if row["s"] in ("deb", "man") and len(row["d"].split()) >= WORDS_MIN:
                items.append((row["g"], f"{row['k']}: " + " ".join(row["d"].split()[:WORDS_MAX])))
    random.Random(5).shuffle(items)
    items = items[args.part :: args.parts][args.skip :]
    rng = random.Random(args.part)
    n = n_qa = 0
    with lzma.open(args.out, "wt", encoding="utf-8") as f:
        for doc, group in nlp.pipe(((t, g) for g, t in items), as_tuples=True, batch_size=64):
            qa = about(doc.text, group, [q for s in doc.sents for q in questions(s) if q[1] in doc.text])
            if qa:
                rng.shuffle(qa)
                f.write(json.dumps({"g": group, "text": doc.text, "qa": qa[:6]}, ensure_ascii=False) + "\n")
                n += 1
                n_qa += len(qa[:6])
            if time.time() - began > args.seconds:
                break
    print(f"{args.out}: {n} passages of {len(items)}, {n_qa} questions, {time.time() - began:.0f} s")


if __name__ == "__main__":
    main()
