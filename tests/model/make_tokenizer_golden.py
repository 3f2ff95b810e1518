#!/usr/bin/env python3
"""Writes the golden files of tokenizer_test.cc from the PyPI package `tokenizers`.

  make_tokenizer_golden.py --qwen DIR   DIR holds Qwen3's tokenizer.json
  make_tokenizer_golden.py --show I     prints string number I of the generated ones

The strings come from a generator that tokenizer_test.cc repeats: a splitmix64 stream per string over
tests/data/tokenizer/corpus.json. Only a hash per string is stored: 64-bit FNV-1a over the ids with
added tokens parsed, the ids without, and the text decoded from the former.

It also trains small.json, a byte-level BPE in the style of SmolLM2, and describes variants of it (as
JSON merge patches) that exercise the rest of what the tokenizer understands.
"""

import argparse
import json
import pathlib
import struct

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

DATA = pathlib.Path(__file__).resolve().parents[1] / "data" / "tokenizer"
SEED = 20231105
QWEN_STRINGS = 12000
SMALL_STRINGS = 1000
MASK = (1 << 64) - 1

GPT2_LIKE_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN = GPT2_LIKE_LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


class Random:
    """splitmix64."""

    def __init__(self, seed):
        self.state = seed & MASK

    def below(self, n):
        self.state = (self.state + 0x9E3779B97F4A7C15) & MASK
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return (z ^ (z >> 31)) % n


def make_string(corpus, index):
    random = Random(SEED * 1000003 + index)
    ranges, fragments, prose = corpus["ranges"], corpus["fragments"], corpus["prose"]

    def character(bounds):
        return chr(bounds[0] + random.below(bounds[1] - bounds[0] + 1))

    def any_range():
        return ranges[random.below(len(ranges))]

    def fragment():
        return fragments[random.below(len(fragments))]

    def word():
        length = 1 + random.below(12)
        return "".join(character([97, 122] if random.below(8) else [65, 90]) for _ in range(length))

    out = ""
    kind = random.below(8)
    if kind == 0:
        for _ in range(1 + random.below(30)):
            out += fragment()
    elif kind == 1:
        for _ in range(1 + random.below(40)):
            out += character(any_range())
    elif kind == 2:
        bounds = any_range()
        for _ in range(1 + random.below(60)):
            out += character(bounds)
    elif kind == 3:
        for _ in range(1 + random.below(20)):
            out += word() + (" " if random.below(4) else fragment())
    elif kind == 4:
        for _ in range(1 + random.below(40)):
            what = random.below(3)
            out += fragment() if what == 0 else character(any_range() if what == 1 else [768, 879])
    elif kind == 5:
        for _ in range(1 + random.below(80)):
            out += character([0, 127])
    elif kind == 6:
        blanks = [" ", "\n", "\t", "\r\n", "\u00a0", "\u3000"]
        for _ in range(1 + random.below(8)):
            out += blanks[random.below(len(blanks))] * (1 + random.below(200))
            out += word() if random.below(2) else ""
    else:
        for _ in range(1 + random.below(4)):
            out += prose[random.below(len(prose))] + (" " if random.below(2) else fragment())
    return out


def fnv(data, value=0xCBF29CE484222325):
    for byte in data:
        value = ((value ^ byte) * 0x100000001B3) & MASK
    return value


def ids_bytes(ids):
    return struct.pack(f"<{len(ids) + 1}I", len(ids), *ids)


def merge_patch(target, patch):
    """RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge_patch(result.get(key), value)
    return result


def hashes(description, strings):
    """`description`: the parsed tokenizer.json."""
    parsing = Tokenizer.from_str(json.dumps(description))
    plain = Tokenizer.from_str(json.dumps(merge_patch(description, {"added_tokens": []})))
    result = []
    for text in strings:
        ids = parsing.encode(text, add_special_tokens=False).ids
        value = fnv(ids_bytes(ids))
        value = fnv(ids_bytes(plain.encode(text, add_special_tokens=False).ids), value)
        value = fnv(parsing.decode(ids, skip_special_tokens=False).encode(), value)
        result.append(f"{value:016x}")
    return result


def train_small(strings, prose):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(prose * 5 + strings, trainers.BpeTrainer(
        vocab_size=1024, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"]))
    return json.loads(tokenizer.to_str())


def variants(small):
    """Merge patches over small.json, by name."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    merges = [f"{a} {b}" for a, b in small["model"]["merges"]]

    def split(pattern, behavior="Isolated", invert=False):
        return {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": invert}

    def sequence(*parts):
        return {"type": "Sequence", "pretokenizers": list(parts)}

    def added(i, content, **flags):
        base = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
                "special": False}
        return {"id": 1024 + i, "content": content, **base, **flags}

    more = small["added_tokens"] + [
        added(0, "<think>", lstrip=True, rstrip=True),
        added(1, "hello", single_word=True),
        added(2, "\u1100\u1161", normalized=True),
        added(3, "Test", normalized=True, lstrip=True),
        added(4, "<|object_ref_end|>", special=True),
        added(5, "<|object_ref", special=True)]
    # Vocabularies that lack some byte tokens; no merge may need the missing ones.
    missing = {"Ð", "ã", "ð", "z", "Ć"}
    kept = [m for m in small["model"]["merges"] if not missing & set(m[0] + m[1])]
    sparse = {t: (None if set(t) & missing else i) for t, i in small["model"]["vocab"].items()}
    no_regex = {**byte_level, "use_regex": False}
    return {
        "smollm2": {},
        "gpt2": {"pre_tokenizer": {**byte_level, "use_regex": True}, "model": {"merges": merges}},
        "prefix_space": {"pre_tokenizer": {**byte_level, "add_prefix_space": True}},
        "qwen": {"normalizer": {"type": "NFC"}, "added_tokens": more,
                 "pre_tokenizer": sequence(split({"Regex": QWEN}), no_regex)},
        "llama3": {"model": {"ignore_merges": True}, "pre_tokenizer": sequence(
            split({"Regex": GPT2_LIKE_LLAMA3}), {**no_regex, "add_prefix_space": True})},
        "removed": {"pre_tokenizer": sequence(
            split({"String": " "}, "Removed"), {"type": "Digits", "individual_digits": False},
            split({"Regex": r"\p{Lu}\p{Ll}+|\S+"}, "Removed", True), no_regex)},
        "sparse": {"model": {"vocab": sparse, "merges": kept}},
        "unknown": {"model": {"vocab": sparse, "merges": kept, "unk_token": "<|endoftext|>"}},
        "fused_unknown": {"model": {"vocab": sparse, "merges": kept, "fuse_unk": True,
                                    "unk_token": "<|endoftext|>"}},
    }


def write(name, value):
    (DATA / name).write_text(json.dumps(value, ensure_ascii=True, indent=0) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--qwen", type=pathlib.Path)
    parser.add_argument("--show", type=int)
    arguments = parser.parse_args()
    corpus = json.loads((DATA / "corpus.json").read_text())
    if arguments.show is not None:
        print(ascii(make_string(corpus, arguments.show)))
        return
    strings = [make_string(corpus, i) for i in range(QWEN_STRINGS)]
    text_hash = f"{fnv(b'|'.join(s.encode() for s in strings[:SMALL_STRINGS])):016x}"

    small = train_small(strings[SMALL_STRINGS:2 * SMALL_STRINGS], corpus["prose"])
    (DATA / "small.json").write_text(json.dumps(small, ensure_ascii=False, indent=0) + "\n")
    golden = {"seed": SEED, "text_hash": text_hash, "variants": {}}
    for name, patch in variants(small).items():
        golden["variants"][name] = {
            "patch": patch,
            "hashes": hashes(merge_patch(small, patch), strings[:SMALL_STRINGS])}
    (DATA / "small_golden.json").write_text(json.dumps(golden, ensure_ascii=True) + "\n")

    if arguments.qwen:
        description = json.loads((arguments.qwen / "tokenizer.json").read_text())
        write("qwen3_golden.json", {"seed": SEED, "text_hash": text_hash,
                                    "hashes": hashes(description, strings)})


if __name__ == "__main__":
    main()
