"""Turns the fetched packages into the compact files the data package reads.

  prepare.py natural CACHE          CACHE/natural.jsonl.xz from apt lists and unpacked packages
  prepare.py prose CACHE            prose_docs.jsonl beside this script: passages of public-domain and
                                    verbatim-copyable texts, for the questions in prose_qa.jsonl
  prepare.py names FAKER_FOLDER     names.txt beside this script, from an unpacked `faker` wheel

A line of natural.jsonl.xz is {"s": source, "g": group, "k": key, "q": short line, "d": long text,
"e": extra}. The group (source package or headword) decides the split, so texts that belong
together never fall on both sides.
"""
import ast
import glob
import gzip
import hashlib
import json
import lzma
import os
import re
import sys

LONG_MAX = 1100  # characters of a document; 300 tokens
SIZE_MAX = 20 * 1000 * 1000


def order(key: str) -> str:
    """A fixed pseudo-random order, to subsample without bias towards the front of the alphabet."""
    return hashlib.sha256(key.encode()).hexdigest()


def clip(text: str, limit: int = LONG_MAX) -> str:
    """Cuts at the last sentence end before the limit."""
    if len(text) <= limit:
        return text
    cut = max(text.rfind(". ", 0, limit), text.rfind("\n", 0, limit))
    return text[: cut + 1].rstrip() if cut > limit // 2 else ""


def stanzas(path: str):
    with open(path, encoding="utf-8", errors="replace") as lines:
        fields, last = {}, None
        for line in lines:
            line = line.rstrip("\n")
            if not line:
                if fields:
                    yield fields
                fields, last = {}, None
            elif line[0] == " " and last:
                fields[last] += "\n" + line[1:]
            elif ": " in line or line.endswith(":"):
                last, _, value = line.partition(":")
                fields[last] = value.strip()
        if fields:
            yield fields


def debian(cache: str):
    source = {}
    for fields in stanzas(f"{cache}/Packages"):
        name = fields["Package"]
        source[name] = fields.get("Source", name).split()[0]
    seen, rows = set(), []
    for fields in stanzas(f"{cache}/Translation-en"):
        name = fields.get("Package", "")
        description = fields.get("Description-en", "")
        short, _, body = description.partition("\n")
        paragraphs, current = [], []
        for line in body.split("\n") + ["."]:
            if line.strip() == ".":
                if current:
                    paragraphs.append(" ".join(current))
                current = []
            elif line.startswith(" ") and current:
                paragraphs.append(" ".join(current))
                current = [line.strip()]
            else:
                current.append(line.strip())
        if not paragraphs or name not in source or re.search(r"-(dbg|dbgsym|l10n)$", name):
            continue
        first = re.sub(r"\W+", "", paragraphs[0].lower())
        if len(first) < 60 or first in seen or len(short) < 12:
            continue
        seen.add(first)
        text = clip("\n".join(paragraphs))
        if text and text.isascii() and short.isascii():
            rows.append({"s": "deb", "g": "pkg:" + source[name], "k": name, "q": short, "d": text})
    return rows


def wordnet(cache: str):
    rows = []
    for part in ("noun", "verb", "adj", "adv"):
        with open(f"{cache}/x/wordnet-base/usr/share/wordnet/data.{part}", encoding="utf-8") as f:
            for line in f:
                if line.startswith("  "):
                    continue
                head, _, gloss = line.partition(" | ")
                fields = head.split()
                count = int(fields[3], 16)
                lemmas = [re.sub(r"\(.*\)$", "", fields[4 + 2 * i]).replace("_", " ")
                          for i in range(count)]
                gloss = gloss.strip()
                definition = gloss.split('; "')[0].strip()
                if len(definition) < 25 or not lemmas[0].replace(" ", "").replace("-", "").isalpha():
                    continue
                rows.append({"s": "wn", "g": "word:" + lemmas[0].lower(), "k": lemmas[0],
                             "q": definition, "d": gloss,
                             "e": {"pos": {"adj": "adjective", "adv": "adverb"}.get(part, part),
                                   "syn": lemmas[1:5]}})
    return rows


def gcide(cache: str):
    path = f"{cache}/x/dict-gcide/usr/share/dictd/gcide.dict.dz"
    with gzip.open(path, "rt", encoding="utf-8", errors="replace") as f:
        text = f.read()
    rows = []
    for entry in re.split(r"\n(?=\S)", text):
        head = re.match(r"([A-Z][a-z]+(?:[ -][a-z]+)?) \\", entry)
        if not head:
            continue
        body = entry.split("\n", 1)[-1]
        body = re.sub(r"\[(?:1913|WordNet|PJC|Webster|Obs|R\.|Archaic)[^\]]*\]", "", body)
        body = re.sub(r"[\\{}]", "", body)
        body = re.sub(r"\s+", " ", body).strip()
        body = clip(body, 700)
        definition = re.sub(r"^(?:\d+\. )?(?:\([A-Z][^)]*\) )?", "", body)
        definition = re.split(r"(?<=[a-z)])[.;:] ", definition)[0].rstrip(".;: ")
        word = head.group(1)
        if (len(body) > 120 and 25 <= len(definition) <= 220 and body.isascii()
                and "[" not in definition and "]" not in definition and not re.match(r"[A-Z]+[a-z]*\\. ", definition)
                and not definition.startswith(("See ", "Same as", "of "))):
            rows.append({"s": "gcide", "g": "word:" + word.lower(), "k": word, "q": definition,
                         "d": body})
    seen, unique = set(), []
    for row in rows:
        if row["k"] not in seen:
            seen.add(row["k"])
            unique.append(row)
    return unique


def clean_roff(line: str) -> str:
    line = re.sub(r"\\f(\[[^\]]*\]|\(..|.)", "", line)
    line = re.sub(r"\\s[+-]?\d", "", line)
    line = line.replace("\\-", "-").replace("\\&", "").replace("\\e", "\\").replace("\\(aq", "'")
    line = re.sub(r"\\\(l?q|\\\(rq|\\\[[lr]q\]", '"', line)
    line = re.sub(r"\\\(em|\\\[em\]", "-", line)
    line = re.sub(r"\\\((..)|\\\[[^\]]*\]|\\\*\(..|\\\*\[[^\]]*\]", "", line)
    line = re.sub(r"\\[%|^/,:]", "", line).replace("\\ ", " ").replace("\\~", " ")
    return line


def manpages(cache: str):
    rows, seen = [], set()
    pattern = f"{cache}/x/*/usr/share/man/man[1-8]/*.gz"
    for path in sorted(glob.glob(pattern)):
        name = os.path.basename(path)[:-3].rsplit(".", 1)[0]
        if name in seen or os.path.islink(path):
            continue
        try:
            with gzip.open(path, "rt", encoding="utf-8", errors="replace") as f:
                lines = f.read().split("\n")
        except OSError:
            continue
        section, sections = None, {}
        for line in lines:
            header = re.match(r"\.S[Hh] +\"?([A-Za-z ]+?)\"? *$", line)
            if header:
                section = header.group(1).upper()
                sections[section] = []
            elif section in ("NAME", "DESCRIPTION"):
                if line.startswith((".TP", ".IP", ".PP", ".sp", ".P", ".LP", ".Pp")):
                    sections[section].append("\n")
                    line = line.split(" ", 1)[1] if line.startswith(".IP ") else ""
                m = re.match(r"\.(B|I|BR|BI|IR|RB|RI|IB|Nm|Nd|Fl|Ar|Pa|Xr|Cm|Sy|Em|SM) +(.*)", line)
                if m:
                    words = m.group(2).replace('"', "")
                    mixed = m.group(1) in ("BR", "BI", "IR", "RB", "RI", "IB")
                    line = ("- " if m.group(1) == "Nd" else "") + (
                        re.sub(r" (?=[(),.;:])", "", words) if mixed else words)
                elif line.startswith((".", "'")):
                    continue
                text = clean_roff(line).strip()
                if text:
                    sections[section].append(text)
        title = " ".join(sections.get("NAME", [])).replace("\n", " ")
        _, dash, short = title.partition(" - ")
        body = " ".join(sections.get("DESCRIPTION", []))
        body = re.sub(r" *\n[ \n]*", "\n", body).strip()
        body = clip(body)
        if not dash or len(short) < 12 or len(body) < 120 or not (body + short).isascii():
            continue
        if re.search(r"\\[a-zA-Z(\[]|\.\\\"", body):
            continue
        seen.add(name)
        rows.append({"s": "man", "g": "man:" + re.split(r"[-_.]", name)[0], "k": name,
                     "q": short.strip(), "d": body})
    return rows


def natural(cache: str) -> None:
    rows, texts = [], set()
    limits = {"deb": 36000, "wn": 70000, "gcide": 30000, "man": 9000}
    for read in (debian, wordnet, gcide, manpages):
        part = read(cache)
        part.sort(key=lambda row: order(row["s"] + row["k"] + row["d"]))
        kept = 0
        for row in part:
            text = re.sub(r"\W+", " ", row["d"].lower())
            if text in texts or kept == limits[row["s"]]:
                continue
            texts.add(text)
            rows.append(row)
            kept += 1
        print(f"{read.__name__}: {kept} of {len(part)}", flush=True)
    target = f"{cache}/natural.jsonl.xz"
    with lzma.open(target, "wt", encoding="utf-8", preset=6) as f:
        for row in rows:
            f.write(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n")
    size = os.path.getsize(target)
    if size > SIZE_MAX:
        sys.exit(f"{target} has {size} bytes, more than {SIZE_MAX}: lower the limits in natural()")


def names(faker: str) -> None:
    """Given and family names in plain ASCII, most widely shared between locales first."""
    count = {"first": {}, "last": {}}
    for path in sorted(glob.glob(f"{faker}/faker/providers/person/*_*/__init__.py")):
        with open(path, encoding="utf-8") as f:
            tree = ast.parse(f.read())
        for node in ast.walk(tree):
            if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Name):
                continue
            target = node.targets[0].id
            which = ("first" if target.startswith("first_name") else
                     "last" if target.startswith("last_name") else None)
            if not which or "roman" in target:
                continue
            for value in {v.value for v in ast.walk(node.value) if isinstance(v, ast.Constant)}:
                if isinstance(value, str) and re.fullmatch(r"[A-Z][a-z]{2,10}", value):
                    count[which][value] = count[which].get(value, 0) + 1
    first = sorted(count["first"], key=lambda n: (-min(count["first"][n], 2), order(n)))[:3000]
    taken = set(first)
    last = [n for n in sorted(count["last"], key=lambda n: (-min(count["last"][n], 2), order(n)))
            if n not in taken][:6000]
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "names.txt"), "w",
              encoding="utf-8") as f:
        f.write(" ".join(sorted(first)) + "\n" + " ".join(sorted(last)) + "\n")
    print(len(first), len(last))


def passages(text: str, prefix: str) -> list[dict]:
    """Paragraphs of a text, short ones joined with the next, unwrapped."""
    rows, current = [], ""
    for paragraph in re.split(r"\n\s*\n", text):
        paragraph = re.sub(r"[-=]{4,}", "", paragraph)
        paragraph = re.sub(r"\s+", " ", paragraph).strip()
        if not paragraph:
            continue
        if current and len(current) + len(paragraph) > 900:
            rows.append(current)
            current = ""
        current = f"{current}\n{paragraph}" if current else paragraph
        if len(current) >= 350:
            rows.append(current)
            current = ""
    if current:
        rows.append(current)
    return [{"id": f"{prefix}/{i}", "text": row} for i, row in enumerate(rows)]


def prose(cache: str) -> None:
    rows = []
    for name in ("Apache-2.0", "MPL-2.0", "GPL-3", "CC0-1.0"):
        with open(f"/usr/share/common-licenses/{name}", encoding="utf-8") as f:
            rows += passages(f.read(), name)
    for name in ("us-constitution", "us-declaration"):
        with gzip.open(f"{cache}/x/miscfiles/usr/share/state/{name}.gz", "rt", encoding="utf-8") as f:
            rows += passages(f.read(), name)
    with gzip.open(f"{cache}/x/jargon-text/usr/share/doc/jargon-text/jargon.txt.gz", "rt",
                   encoding="utf-8") as f:
        jargon = f.read()
    entries = []
    for entry in re.split(r"\n(?=   :\S)", jargon)[1:]:
        text = re.sub(r"\s+", " ", entry).strip()[1:]
        key = text.split(":")[0]
        if 200 <= len(text) <= 1000 and key[0] in "ABCDabcd":
            entries.append({"id": "jargon/" + key, "text": text})
    rows += sorted({row["id"]: row for row in entries}.values(), key=lambda row: row["id"])
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "prose_docs.jsonl"), "w",
              encoding="utf-8") as f:
        for row in rows:
            f.write(json.dumps(row, ensure_ascii=False) + "\n")
    print(len(rows), "passages")


if __name__ == "__main__":
    {"natural": natural, "prose": prose, "names": names}[sys.argv[1]](sys.argv[2])
