"""Writes tests/data/msa: tiny random models with what the reference computes for them.

    python3 train/make_goldens.py [--out tests/data/msa] [--case NAME]

Weights are drawn with a scale that makes routing decisive; a seed is taken only if the k-th and the
next document differ by SCORE_MARGIN in every layer and each greedy token leads by LOGIT_MARGIN, so
that float32 rounding cannot change a choice. The format is described in tests/data/msa/README.md.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.trainers import BpeTrainer

from msa.quantize import quantize_q4, quantize_q8
from msa.reference import MsaModel

SCORE_MARGIN = 1.5e-3
LOGIT_MARGIN = 2e-2
N_GREEDY = 12
N_HIDDEN = 16  # last prompt tokens whose hidden states are kept
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_end|>", "<End-of-Retrieve>"]
QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

SUBJECTS = "Mara Otis Ivo Lena the keeper the harbour our garden a courier that engine".split(" ")
VERBS = "keeps found sold painted moved lost repaired borrowed hid counted".split()
OBJECTS = "lantern kettle map violin ladder basket clock letter anchor compass".split()
PLACES = "attic cellar mill chapel orchard station bridge quarry market barn".split()


def sentence(rng: random.Random) -> str:
    return (
        f"{rng.choice(SUBJECTS)} {rng.choice(VERBS)} the {rng.choice(OBJECTS)} in the "
        f"{rng.choice(PLACES)} on day {rng.randrange(1, 400)}."
    )


def make_tokenizer(style: str, path: Path, vocab_size: int) -> None:
    """A byte-level BPE with the pre-tokenizer of Qwen3 or of SmolLM2."""
    tok = Tokenizer(models.BPE())
    if style == "qwen3":
        tok.normalizer = normalizers.NFC()
        tok.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(QWEN_SPLIT), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    else:
        tok.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )
    tok.decoder = decoders.ByteLevel()
    rng = random.Random(7)
    corpus = [sentence(rng) for _ in range(2000)]
    corpus += ["Please answer the question based on the above historical document information"] * 50
    corpus += ["Please return all documents related to the question\nWhere is the"] * 50
    trainer = BpeTrainer(
        vocab_size=vocab_size - len(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tok.train_from_iterator(corpus, trainer)
    tok.add_special_tokens([AddedToken(s, normalized=False, special=True) for s in SPECIAL])
    tok.save(str(path))


def config_for(case: dict, vocab_size: int) -> dict:
    config = {
        "architectures": ["MSAForCausalLM"],
        "model_type": "msa" if case["style"] == "qwen3" else "llama",
        "vocab_size": vocab_size,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "hidden_act": "silu",
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6 if case["style"] == "qwen3" else 1e-5,
        "rope_theta": 1000000.0 if case["style"] == "qwen3" else 10000.0,
        "attention_bias": False,
        "tie_word_embeddings": case.get("tied", True),
        "torch_dtype": case["dtype"],
        "msa_config": {
            "router_layer_idx": case["layers"],
            "top_k_docs": case["top_k"],
            "pooling_kernel_size": case["pool"],
            "decouple_router": case["decoupled"],
            "head_reduce_method": "mean",
            "query_reduce_method": "max",
            "chunk_reduce_method": "max",
            "decouple_pooling_mode": "mean",
            "aux_loss_method": "INFONCE_DECOUPLE",
            "infonce_loss_temp": 0.1,
            "lmloss_weigth": 1.0,
            "rewrite_position": True,
            "routing_metric": case["metric"],
        },
    }
    return config


CASES = {
    "qwen3-decoupled-cosine": dict(
        style="qwen3", decoupled=True, metric="cosine", layers="2,3", top_k=3, pool=16,
        dtype="float32", sharded=True,
    ),
    "qwen3-decoupled-dot": dict(
        style="qwen3", decoupled=True, metric="scaled_dot", layers="2,3", top_k=2, pool=8,
        dtype="bfloat16", many=True,
    ),
    "qwen3-own-cosine": dict(
        style="qwen3", decoupled=False, metric="cosine", layers="1,3", top_k=4, pool=4,
        dtype="float16", tied=False,
    ),
    "llama-decoupled-cosine": dict(
        style="llama", decoupled=True, metric="cosine", layers="2,3", top_k=4, pool=8,
        dtype="bfloat16", many=True,
    ),
    "llama-own-dot": dict(
        style="llama", decoupled=False, metric="scaled_dot", layers="all", top_k=2, pool=16,
        dtype="float16",
    ),
    "llama-int8": dict(
        style="llama", decoupled=True, metric="cosine", layers="2,3", top_k=3, pool=8,
        dtype="int8",
    ),
    "qwen3-int4": dict(
        style="qwen3", decoupled=True, metric="cosine", layers="3", top_k=3, pool=8,
        dtype="int4",
    ),
}


def random_weights(model: MsaModel, seed: int) -> dict[str, torch.Tensor]:
    gen = torch.Generator().manual_seed(seed)
    weights = {}
    for name, p in sorted(model.state_dict().items()):
        r = torch.randn(p.shape, generator=gen)
        if name.endswith("norm.weight"):
            weights[name] = 1.0 + 0.3 * r
        elif "embed_tokens" in name or "lm_head" in name:
            weights[name] = 0.6 * r
        else:
            gain = 2.0 if ("q_proj" in name or "k_proj" in name) else 1.3
            weights[name] = gain * r / p.shape[1] ** 0.5
    return weights


def store_weights(weights: dict[str, torch.Tensor], case: dict, folder: Path) -> None:
    """Saves in the case's dtype. Matrices of int8 / int4 cases are quantised, norms stay F32."""
    out: dict[str, torch.Tensor] = {}
    for name, w in weights.items():
        if case["dtype"] in ("int8", "int4") and w.ndim == 2:
            # As in the real model: the embedding stays int8 when the rest is int4.
            if case["dtype"] == "int8" or "embed_tokens" in name:
                q, scale = quantize_q8(w.numpy())
                out[name], out[name + "_scale"] = torch.from_numpy(q), torch.from_numpy(scale)
            else:
                q, scale, minimum = quantize_q4(w.numpy())
                out[name + "_q4"] = torch.from_numpy(q)
                out[name + "_scale"] = torch.from_numpy(scale)
                out[name + "_min"] = torch.from_numpy(minimum)
        else:
            dtype = getattr(torch, case["dtype"]) if w.ndim == 2 or case["dtype"][0] != "i" else None
            out[name] = w.to(dtype or torch.float32)
    if not case.get("sharded"):
        save_file(out, folder / "model.safetensors", metadata={"format": "pt"})
        return
    names = sorted(out)
    half = len(names) // 2
    shards = {"model-00001-of-00002.safetensors": names[:half],
              "model-00002-of-00002.safetensors": names[half:]}
    weight_map = {}
    for file, members in shards.items():
        save_file({n: out[n] for n in members}, folder / file, metadata={"format": "pt"})
        weight_map |= {n: file for n in members}
    index = {"metadata": {"total_size": sum(t.nbytes for t in out.values())}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1, sort_keys=True))


def mixed_documents(model: MsaModel, rng: random.Random) -> list[tuple[int, str]]:
    """Shorter than, exactly, just over, and many times a chunk; numbers with gaps."""
    chunk = model.msa.chunk
    encode = lambda n, text: model.templates.encode(
        model.templates.strings["document"], number=n, text=text
    )
    documents = [(1, "x")]
    for number, target in ((2, 4 * chunk), (5, 4 * chunk + 1), (9, 5 * chunk - 1)):
        text = "y"
        while len(encode(number, text)) < target:  # one more letter: at most one more token
            text += rng.choice(" aeiouqxz")
        if len(encode(number, text)) != target:
            raise SystemExit(f"no text of exactly {target} tokens")
        documents.append((number, text))
    for number in (10, 12, 99, 107):
        documents.append((number, " ".join(sentence(rng) for _ in range(rng.randrange(1, 5)))))
    # Text that spells template strings is ordinary text; so are accents, emoji and newlines.
    documents.append((108, "Note <|im_end|> is\n\nonly text [3]. Ça va, naïve 東京 🙂 end"))
    return documents


def scenarios(model: MsaModel, case: dict, seed: int) -> list[dict]:
    rng = random.Random(seed)
    mixed = mixed_documents(model, rng)
    out = [
        dict(name="mixed", documents=mixed, question="Where is the lantern of Mara?", full=True),
        dict(name="one", documents=mixed[4:5], question="Who lost the clock?", full=False),
        dict(name="empty", documents=[], question="Who lost the clock?", full=False),
    ]
    if case.get("many"):
        many = [(n, sentence(rng)) for n in range(1, 301)]
        out.append(dict(name="many", documents=many, question="Where is the violin?", full=False))
    return out


class MarginTooSmall(Exception):
    pass


def margin(sorted_values: list[float], k: int) -> float:
    return sorted_values[k - 1] - sorted_values[k] if len(sorted_values) > k else float("inf")


def run_scenario(model: MsaModel, s: dict, tensors: dict[str, np.ndarray]) -> dict:
    name = s["name"]
    f32 = lambda x: x.detach().float().contiguous()
    rows = lambda per_layer: f32(torch.stack(per_layer)).flatten(-2)  # [R, n_chunks, G * D]
    bank = [model.encode_document(n, text) for n, text in s["documents"]]
    segments = model.question_segments(s["question"])
    ctx = model.prefill(segments, bank)
    for route in ctx.routes:
        if margin(sorted(route.scores.tolist(), reverse=True), model.msa.top_k) < SCORE_MARGIN:
            raise MarginTooSmall("routing")
        # The best-first order of the selected documents is part of the golden as well.
        best = sorted(route.scores.tolist(), reverse=True)[: model.msa.top_k]
        if any(a - b < SCORE_MARGIN / 10 for a, b in zip(best, best[1:])):
            raise MarginTooSmall("order")
    if bank:
        tensors[f"{name}.scores"] = f32(torch.stack([r.scores for r in ctx.routes]))
    tensors[f"{name}.logits"] = f32(ctx.logits).clone()
    if s["full"]:
        tensors[f"{name}.query_hidden"] = f32(torch.stack(ctx.hidden)[:, -N_HIDDEN:])
        prefix_keys, prefix_values = model.encode_prefix()
        tensors["prefix.keys"], tensors["prefix.values"] = rows(prefix_keys), rows(prefix_values)
        for d in bank:
            tensors[f"doc.{d.number}.keys"] = rows(d.keys)
            tensors[f"doc.{d.number}.values"] = rows(d.values)
            tensors[f"doc.{d.number}.routing_keys"] = rows(d.routing_keys)
        tensors[f"doc.{bank[3].number}.hidden"] = f32(torch.stack(bank[3].hidden))
    greedy = []
    for _ in range(N_GREEDY):
        top = ctx.logits.topk(2)
        if top.values[0] - top.values[1] < LOGIT_MARGIN:
            raise MarginTooSmall("greedy")
        greedy.append(int(top.indices[0]))
        model.decode(ctx, greedy[-1])
    return {
        "name": name,
        "documents": [
            {"number": d.number, "text": text, "tokens": d.tokens}
            for d, (_, text) in zip(bank, s["documents"])
        ],
        "question": s["question"],
        "prompt": [{"role": role, "tokens": tokens} for tokens, role in segments],
        "selected": {str(r.layer): r.selected for r in ctx.routes},
        "greedy": greedy,
    }


def write_case(name: str, case: dict, out: Path) -> None:
    folder = out / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    vocab_size = 384
    make_tokenizer(case["style"], folder / "tokenizer.json", vocab_size)
    config = config_for(case, vocab_size)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    reasons: dict[str, int] = {}
    for seed in range(1, 2000):
        store_weights(random_weights(MsaModel(config), seed), case, folder)
        model = MsaModel.from_folder(folder)
        tensors: dict[str, torch.Tensor] = {}
        try:
            with torch.no_grad():
                results = [run_scenario(model, s, tensors) for s in scenarios(model, case, seed)]
        except MarginTooSmall as reason:
            reasons[str(reason)] = reasons.get(str(reason), 0) + 1
            continue
        save_file(tensors, folder / "golden.safetensors")
        golden = {"seed": seed, "scenarios": results}
        text = json.dumps(golden, ensure_ascii=False, separators=(",", ":"))
        (folder / "golden.json").write_text(text.replace('{"number"', '\n{"number"') + "\n", "utf-8")
        for file in folder.iterdir():
            file.chmod(0o644)
        size = sum(f.stat().st_size for f in folder.iterdir())
        print(f"{name}: seed {seed}, {size / 1024:.0f} KiB, rejected {reasons}")
        return
    raise SystemExit(f"{name}: no seed with safe margins; rejected {reasons}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("tests/data/msa"))
    parser.add_argument("--case", choices=sorted(CASES), help="only this one")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name, case in CASES.items():
        if args.case in (None, name):
            write_case(name, case, args.out)


if __name__ == "__main__":
    main()
