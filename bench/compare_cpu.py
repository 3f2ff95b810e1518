"""msadb's model on this CPU next to llama.cpp and PyTorch: same weights, same threads, same run.

    python3 bench/compare_cpu.py [--model models/default] [--threads N] [--repeat N] [--tokens 256]

Prefill is one sequence of --tokens tokens through all layers and the head once; decode is --generate
tokens, one at a time, after 64. The runs of all engines are interleaved, so that a busy machine slows
all alike; medians and their ratios are printed.

llama.cpp (PyPI llama-cpp-python) gets a GGUF file written here from the model folder, with the very
same quantised weights: our int4 and int8 forms are its Q4_1 and Q8_0. It rounds activations to 8 bits,
as msadb's precision `fast` does; msadb's default `fine` keeps 16. PyTorch (transformers) gets the same
values as float32, its fastest form on most CPUs. Both are checked to predict what msadb's reference
predicts. Router projections, which only msadb has, are left out of the files.

Needs numpy, gguf, llama-cpp-python, torch, transformers and safetensors in this Python, and
bench_model, which is built when it is missing.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "train"))

PROMPT = 64  # tokens before decoding


def need(module: str, package: str):
    try:
        return __import__(module)
    except ImportError:
        raise SystemExit(f"this Python has no {module}; python3 -m pip install {package}")


np = need("numpy", "numpy")


# --- The same weights as GGUF and as a Hugging Face model -------------------------------------------


def raw_tensors(folder: Path) -> dict:
    from safetensors import safe_open

    tensors = {}
    for file in sorted(folder.glob("model*.safetensors")):
        with safe_open(file, framework="pt") as f:
            tensors |= {name: f.get_tensor(name) for name in f.keys()}
    return tensors


def blocks(base: str, raw: dict):
    """(GGUF type name, rows of packed bytes or float32 rows) of one matrix, without loss."""
    as_bytes = lambda t: np.ascontiguousarray(t.numpy()).view(np.uint8)
    if base + "_q4" in raw:
        q, scale, low = (raw[base + end].numpy() for end in ("_q4", "_scale", "_min"))
        rows, groups = scale.shape
        half = lambda a: as_bytes_np(a.astype(np.float16)).reshape(rows, groups, 2)
        return "Q4_1", np.concatenate([half(scale), half(low), q.reshape(rows, groups, 16)], 2).reshape(rows, -1)
    if base + "_scale" in raw:
        q, scale = raw[base].numpy(), raw[base + "_scale"].numpy()
        rows, groups = q.shape[0], q.shape[1] // 32
        scale = np.repeat(scale, groups // scale.shape[1], axis=1).astype(np.float16)
        head = as_bytes_np(scale).reshape(rows, groups, 2)
        return "Q8_0", np.concatenate([head, as_bytes(raw[base]).reshape(rows, groups, 32)], 2).reshape(rows, -1)
    return "F32", raw[base].float().numpy()


def as_bytes_np(a):
    return np.ascontiguousarray(a).view(np.uint8)


def write_gguf(folder: Path, config: dict, raw: dict, path: Path) -> None:
    gguf = need("gguf", "gguf")
    if config["model_type"] not in ("llama", "qwen3", "msa"):
        raise SystemExit(f"no GGUF form for model_type {config['model_type']}")
    arch = "llama" if config["model_type"] == "llama" else "qwen3"
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    w = gguf.GGUFWriter(str(path), arch)
    w.add_context_length(config["max_position_embeddings"])
    w.add_embedding_length(config["hidden_size"])
    w.add_block_count(config["num_hidden_layers"])
    w.add_feed_forward_length(config["intermediate_size"])
    w.add_head_count(heads)
    w.add_head_count_kv(kv_heads)
    w.add_key_length(config["head_dim"])
    w.add_value_length(config["head_dim"])
    w.add_rope_dimension_count(config["head_dim"])
    w.add_rope_freq_base(config["rope_theta"])
    w.add_layer_norm_rms_eps(config["rms_norm_eps"])
    w.add_vocab_size(config["vocab_size"])
    w.add_tokenizer_model("none")  # token ids go in and out

    def add(name: str, base: str, heads_to_permute: int = 0) -> None:
        kind, data = blocks(base, raw)
        if heads_to_permute:  # Llama's GGUF rotates neighbours, the checkpoint halves
            order = np.arange(data.shape[0]).reshape(heads_to_permute, 2, -1).swapaxes(1, 2).reshape(-1)
            data = data[order]
        w.add_tensor(name, np.ascontiguousarray(data), raw_dtype=gguf.GGMLQuantizationType[kind])

    add("token_embd.weight", "model.embed_tokens.weight")
    add("output_norm.weight", "model.norm.weight")
    if "lm_head.weight" in raw or "lm_head.weight_q4" in raw:
        add("output.weight", "lm_head.weight")
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        llama = arch == "llama"
        for name, base, permute in (
            ("attn_norm", "input_layernorm", 0), ("ffn_norm", "post_attention_layernorm", 0),
            ("attn_q", "self_attn.q_proj", heads * llama), ("attn_k", "self_attn.k_proj", kv_heads * llama),
            ("attn_v", "self_attn.v_proj", 0), ("attn_output", "self_attn.o_proj", 0),
            ("ffn_gate", "mlp.gate_proj", 0), ("ffn_up", "mlp.up_proj", 0), ("ffn_down", "mlp.down_proj", 0),
            ("attn_q_norm", "self_attn.q_norm", 0), ("attn_k_norm", "self_attn.k_norm", 0),
        ):
            if layer + base + ".weight" in raw or layer + base + ".weight_q4" in raw:
                add(f"blk.{i}.{name}.weight", layer + base + ".weight", permute)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


# --- The engines: each gives seconds for one prefill and for one decode run --------------------------


class LlamaCpp:
    def __init__(self, gguf_file: Path, threads: int, context: int):
        self.c = need("llama_cpp", "llama-cpp-python")
        c = self.c
        quiet = c.llama_log_callback(lambda *_: None)
        c.llama_log_set(quiet, None)
        self.quiet = quiet
        c.llama_backend_init()
        self.model = c.llama_model_load_from_file(str(gguf_file).encode(), c.llama_model_default_params())
        if not self.model:
            raise SystemExit("llama.cpp does not load the GGUF file")
        params = c.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = context, context, context
        params.n_threads = params.n_threads_batch = threads
        self.ctx = c.llama_init_from_model(self.model, params)
        self.vocab = c.llama_vocab_n_tokens(c.llama_model_get_vocab(self.model))

    def run(self, tokens: list[int]) -> None:
        c = self.c
        array = (c.llama_token * len(tokens))(*tokens)
        if c.llama_decode(self.ctx, c.llama_batch_get_one(array, len(tokens))) != 0:
            raise SystemExit("llama_decode failed")

    def logits(self):
        return np.ctypeslib.as_array(self.c.llama_get_logits_ith(self.ctx, -1), shape=(self.vocab,))

    def clear(self) -> None:
        self.c.llama_memory_clear(self.c.llama_get_memory(self.ctx), True)

    def prefill(self, tokens: list[int]):
        self.clear()
        start = time.perf_counter()
        self.run(tokens)
        logits = self.logits()
        return time.perf_counter() - start, np.array(logits)

    def decode(self, prompt: list[int], count: int) -> float:
        self.clear()
        self.run(prompt)
        start = time.perf_counter()
        for _ in range(count):
            self.run([int(self.logits().argmax())])
        self.logits()
        return time.perf_counter() - start


class Torch:
    def __init__(self, folder: Path, config: dict, threads: int):
        self.torch = torch = need("torch", "torch")
        need("transformers", "transformers")
        from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

        from msa.reference import load_weights

        torch.set_num_threads(threads)
        fields = {k: v for k, v in config.items() if k not in ("msa_config", "model_type", "architectures")}
        qwen = config["model_type"] != "llama"
        kind, model = (Qwen3Config, Qwen3ForCausalLM) if qwen else (LlamaConfig, LlamaForCausalLM)
        self.model = model(kind(**fields, attn_implementation="sdpa")).float().eval()
        weights = {k: v for k, v in load_weights(folder).items() if "router" not in k and k != "temperature"}
        left = self.model.load_state_dict(weights, strict=False)
        if [k for k in left.missing_keys if k != "lm_head.weight"] or left.unexpected_keys:
            raise SystemExit(f"weights do not fit: {left}")
        self.model.tie_weights()

    def prefill(self, tokens: list[int]):
        with self.torch.inference_mode():
            ids = self.torch.tensor([tokens])
            start = time.perf_counter()
            logits = self.model(ids, logits_to_keep=1).logits[0, -1]
            return time.perf_counter() - start, logits.numpy()

    def decode(self, prompt: list[int], count: int) -> float:
        with self.torch.inference_mode():
            out = self.model(self.torch.tensor([prompt]), use_cache=True, logits_to_keep=1)
            start = time.perf_counter()
            for _ in range(count):
                token = out.logits[0, -1].argmax().view(1, 1)
                out = self.model(token, past_key_values=out.past_key_values, use_cache=True)
            return time.perf_counter() - start


def msadb(binary: Path, args, precision: str) -> tuple[float, float, float]:
    """tokens/s of encoding, prefill and decoding, one warm run."""
    command = [binary, args.model, "--threads", args.threads, "--documents", 8, "--document-tokens", args.tokens,
               "--prompt-tokens", PROMPT, "--generate", args.generate, "--repeat", 1, "--precision", precision, "--json"]
    result = json.loads(subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True).stdout)
    return result["encode"], result["prefill"], result["decode"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, default=ROOT / "models/default")
    parser.add_argument("--bench", type=Path, help="bench_model; built into build/release when missing")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--generate", type=int, default=64)
    parser.add_argument("--repeat", type=int, default=5)
    args = parser.parse_args()
    binary = args.bench or ROOT / "build/release/bench/kernels/bench_model"
    if not binary.exists():
        subprocess.run([ROOT / "scripts/build.sh"], check=True, env={**os.environ, "TARGETS": "bench_model"})
    config = json.loads((args.model / "config.json").read_text())
    rng = np.random.default_rng(1)
    tokens = rng.integers(0, config["vocab_size"], args.tokens).tolist()

    with tempfile.TemporaryDirectory() as temporary:
        gguf_file = Path(temporary) / "model.gguf"
        write_gguf(args.model, config, raw_tensors(args.model), gguf_file)
        llama = LlamaCpp(gguf_file, args.threads, max(args.tokens, PROMPT + args.generate) + 8)
    torch = Torch(args.model, config, args.threads)

    expected, got = torch.prefill(tokens)[1], llama.prefill(tokens)[1]
    error = float(np.sqrt(((expected - got) ** 2).mean() / expected.var()))
    print(f"llama.cpp against PyTorch: logits differ by {100 * error:.1f}% of their spread (8-bit activations)")
    if not error < 0.2:
        raise SystemExit("llama.cpp computes something else: the GGUF file is wrong")

    names = ["msadb fine (default)", "msadb fast", "llama.cpp Q4_1/Q8_0", "PyTorch float32"]
    rates = {name: {"encode": [], "prefill": [], "decode": []} for name in names}
    for _ in range(args.repeat):
        for name, precision in zip(names[:2], ("fine", "fast")):
            for what, rate in zip(("encode", "prefill", "decode"), msadb(binary, args, precision)):
                rates[name][what].append(rate)
        for name, engine in zip(names[2:], (llama, torch)):
            rates[name]["prefill"].append(args.tokens / engine.prefill(tokens)[0])
            rates[name]["decode"].append(args.generate / engine.decode(tokens[:PROMPT], args.generate))

    median = {name: {what: statistics.median(r) for what, r in rates[name].items() if r} for name in names}
    print(f"{args.model}, {args.threads} threads, prefill of {args.tokens}, decode of {args.generate} after "
          f"{PROMPT} tokens; tokens/s, medians of {args.repeat} (lowest to highest)")
    for name in names:
        cells = [f"{what} {median[name][what]:7.1f} ({min(r):.0f} to {max(r):.0f})"
                 for what, r in rates[name].items() if r]
        print(f"{name:22s}" + "   ".join(cells))
    for ours in names[:2]:
        for rival in names[2:]:
            ratios = [f"{what} x{median[ours][what] / median[rival][what]:.2f}" for what in ("prefill", "decode")]
            print(f"{ours} / {rival}: " + ", ".join(ratios))


if __name__ == "__main__":
    main()
