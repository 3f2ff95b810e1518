"""Memory Sparse Attention, written to be read next to the paper (arXiv 2603.23516).

This is the slow, obvious, float32 version that everything else is compared with. Norms, rotary
embedding, MLP and projections are Hugging Face's own Qwen3 / Llama modules; what the paper adds
(document-wise positions, chunk pooling, routing, attention over selected documents) is here, one
function per step, one document and one token at a time where that is the clearest form.

Section numbers refer to the paper's stages as docs/model-folder.md names them:
  stage 1  encode_document   text -> pooled K, V and routing keys
  stage 2  route             question -> the top-k documents of one layer
  stage 3  prefill, decode   causal attention over [template prefix; selected memory; local tokens]
  3.4      interleave        rounds of: write document numbers, read their text, prefill again
"""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaModel, Qwen3Config, Qwen3Model
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

# Roles of prompt tokens. Only role 0 routes.
ROLE_QUERY, ROLE_GENERATED, ROLE_TEMPLATE = 0, -1, -2

# What the released MSA-4B uses; a model folder's templates.json may replace any of them.
DEFAULT_TEMPLATES = {
    "document": "<|im_start|>[{number}]. {text}[{number}]<|im_end|>",
    "head": "<|im_start|>user\n",
    "question": "\nPlease answer the question based on the above historical document information"
    "\n\n{question}\nPlease return all documents related to the question\n",
    "tail": "<|im_end|>\n",
    "response_head": "<|im_start|>",
    "numbers_end": "<|object_ref_end|>",
    "appended_document": "[{number}]. {text}\n",
    "appended_end": "<|object_ref_end|>",
    "retrieval_end": "<End-of-Retrieve>",
    "restart": "<|im_start|>The user's question is: {question}\n<|object_ref_end|>",
    "answer_prefix": "The answer to the question is: ",
    "stop": ["<|im_end|>"],
}


# --- Model folder ---------------------------------------------------------------------------------


@dataclasses.dataclass
class MsaConfig:
    """msa_config of config.json, as published, plus `routing_metric`."""

    routing_layers: list[int]
    top_k: int  # documents each routing layer selects
    chunk: int  # tokens pooled into one memory row, P
    decoupled: bool  # separate router projectors, else the backbone's own q and k route
    metric: str  # "cosine" | "scaled_dot"

    @staticmethod
    def parse(config: dict) -> "MsaConfig":
        msa = config.get("msa_config", {})
        n_layers = config["num_hidden_layers"]
        upper_half = ",".join(map(str, range(n_layers // 2, n_layers)))
        layers = str(msa.get("router_layer_idx", upper_half))
        return MsaConfig(
            routing_layers=(
                list(range(n_layers)) if layers == "all" else sorted({int(x) for x in layers.split(",")})
            ),
            top_k=int(msa.get("top_k_docs", 16)),
            chunk=int(msa.get("pooling_kernel_size", 64)),
            decoupled=bool(msa.get("decouple_router", config["model_type"] == "msa")),
            metric=msa.get("routing_metric", "cosine"),
        )


def dequantize_q8(q: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """int8 [out, in] with one scale per group of inputs [out, n_groups] -> float32 [out, in]."""
    return (q.float().view(*scale.shape, -1) * scale.float()[..., None]).view(q.shape)


def dequantize_q4(q: torch.Tensor, scale: torch.Tensor, minimum: torch.Tensor) -> torch.Tensor:
    """uint8 [out, in/2]: byte j of a group of 32 holds element j (low nibble) and j + 16 (high)."""
    out, n = q.shape[0], q.shape[1] * 2
    b = q.view(out, n // 32, 16)
    nibbles = torch.cat([b & 15, b >> 4], dim=-1).float()
    return (nibbles * scale.float()[..., None] + minimum.float()[..., None]).view(out, n)


def load_weights(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of the folder's safetensors files as float32, quantised ones expanded."""
    raw: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("model*.safetensors")):
        with safe_open(file, framework="pt") as f:
            for name in f.keys():
                raw[name] = f.get_tensor(name)
    weights = {}
    for name, t in raw.items():
        if name.endswith(".weight_q4"):
            base = name[: -len("_q4")]
            weights[base] = dequantize_q4(t, raw[base + "_scale"], raw[base + "_min"])
        elif name.endswith(("_scale", "_min")):
            continue
        elif t.dtype == torch.int8:
            weights[name] = dequantize_q8(t, raw[name + "_scale"])
        else:
            weights[name] = t.float()
    return weights


class Templates:
    """Template strings and their tokens.

    Special tokens count only where the template itself spells them. Substituted text is ordinary
    text, whatever it contains: `<|im_end|>` inside a document is eight plain characters or so.
    """

    def __init__(self, tokenizer_file: Path, strings: dict[str, str]):
        self.strings = {**DEFAULT_TEMPLATES, **strings}
        spec = json.loads(tokenizer_file.read_text(encoding="utf-8"))
        self.special = {t["content"]: t["id"] for t in spec["added_tokens"]}
        self.full = Tokenizer.from_file(str(tokenizer_file))
        spec["added_tokens"] = []
        self.plain = Tokenizer.from_str(json.dumps(spec))
        longest_first = sorted(self.special, key=len, reverse=True)
        self.split_special = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")")

    def encode(self, template: str, **values) -> list[int]:
        """Tokens of a template string with {name} replaced by values[name]."""
        return self.encode_all(template, [values])[0]

    def encode_all(self, template: str, rows: list[dict]) -> list[list[int]]:
        """As encode for each of the rows, the text of all tokenised at once."""
        pieces = [self._pieces(template, values) for values in rows]
        texts = [p for row in pieces for p in row if isinstance(p, str)]
        tokens = iter(self.plain.encode_batch(texts, add_special_tokens=False))
        return [[i for p in row for i in (next(tokens).ids if isinstance(p, str) else (p,))] for row in pieces]

    def _pieces(self, template: str, values: dict) -> list[int | str]:
        """Special tokens of the template, and the text between them as one piece each."""
        out: list[int | str] = []
        run = ""  # plain text since the last special token: tokenised as one piece
        for part in re.split(r"(\{number\}|\{text\}|\{question\})", template):
            if part in ("{number}", "{text}", "{question}"):
                run += str(values[part[1:-1]])
                continue
            for piece in self.split_special.split(part):
                if piece in self.special:
                    out += ([run] if run else []) + [self.special[piece]]
                    run = ""
                else:
                    run += piece
        return out + ([run] if run else [])

    def encode_text(self, text: str) -> list[int]:
        return self.plain.encode(text, add_special_tokens=False).ids if text else []

    def decode(self, ids: list[int]) -> str:
        return self.full.decode(ids, skip_special_tokens=False)


# --- What memory holds ----------------------------------------------------------------------------


@dataclasses.dataclass
class EncodedDocument:
    """One document's memory; first index of every tensor list: routing layer ordinal."""

    number: int
    tokens: list[int]
    keys: list[torch.Tensor]  # [n_chunks, G, D], pooled after RoPE
    values: list[torch.Tensor]  # [n_chunks, G, D]
    routing_keys: list[torch.Tensor]  # [n_chunks, G, D], in the metric's form
    hidden: list[torch.Tensor]  # n_layers + 1 times [n_tokens, hidden]: embeddings, then each layer


@dataclasses.dataclass
class LayerRoute:
    layer: int
    scores: torch.Tensor  # [n_documents], in the bank's order
    selected: list[int]  # document numbers, best first


@dataclasses.dataclass
class Context:
    """The assembled K/V of every layer: what decoding attends to."""

    keys: list[torch.Tensor]  # [n_rows, G, D] per layer
    values: list[torch.Tensor]
    position: int  # of the next token
    routes: list[LayerRoute]
    hidden: list[torch.Tensor]  # of the local tokens: embeddings, then each layer
    logits: torch.Tensor  # [vocab], after the last local token


@dataclasses.dataclass
class Round:
    """One round of Memory Interleave: a prefill with fresh routing and the list written after it."""

    segments: list[tuple[list[int], int]]  # the prompt that was prefilled
    selected: dict[int, list[int]]  # layer -> documents routed to, best first
    logits: torch.Tensor  # [vocab], after the prompt
    written: list[int]  # tokens generated in search of documents
    numbers: list[int]  # document numbers among them, in order
    read: list[int]  # those whose text was appended


@dataclasses.dataclass
class Interleaved:
    rounds: list[Round]
    restart: list[int]  # tokens appended after the last prompt (and `written`, if it ended retrieval)
    restart_logits: torch.Tensor  # [vocab], where the answer starts
    answer: list[int]  # generated tokens, without the stop token
    text: str  # trimmed of the template's fixed words


def pool(x: torch.Tensor, chunk: int) -> torch.Tensor:
    """Mean over consecutive `chunk` tokens, the last chunk over what it has: [T,..] -> [ceil,..]."""
    return torch.stack([part.float().mean(0) for part in x.split(chunk)])


def l2_normalize(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(x, dim=-1, eps=1e-12)


# --- The model ------------------------------------------------------------------------------------


class MsaModel(torch.nn.Module):
    def __init__(self, config: dict, templates: Templates | None = None):
        super().__init__()
        self.config = config
        self.msa = MsaConfig.parse(config)
        self.templates = templates
        # Qwen3 and Llama differ in one thing here: RMSNorm on each head of q and k.
        self.qk_norm = config["model_type"] in ("msa", "qwen3")
        hf_config, hf_model = (
            (Qwen3Config, Qwen3Model) if self.qk_norm else (LlamaConfig, LlamaModel)
        )
        fields = {k: v for k, v in config.items() if k not in ("msa_config", "model_type", "architectures")}
        c = hf_config(**fields, attn_implementation="eager")
        self.hf_config = c
        self.model = hf_model(c)
        self.n_heads, self.n_kv_heads = c.num_attention_heads, c.num_key_value_heads
        self.head_dim = c.head_dim
        self.group = self.n_heads // self.n_kv_heads
        if self.msa.decoupled:
            for i in self.msa.routing_layers:
                attn = self.model.layers[i].self_attn
                for name, width in (
                    ("router_q_proj", self.n_heads * self.head_dim),
                    ("router_k_proj", self.n_kv_heads * self.head_dim),
                ):
                    setattr(
                        attn,
                        name,
                        torch.nn.Sequential(torch.nn.Linear(c.hidden_size, width, bias=False)),
                    )
        if not c.tie_word_embeddings:
            self.lm_head = torch.nn.Linear(c.hidden_size, c.vocab_size, bias=False)

    @staticmethod
    def from_folder(folder: str | Path) -> "MsaModel":
        folder = Path(folder)
        config = json.loads((folder / "config.json").read_text())
        template_file = folder / "templates.json"
        strings = json.loads(template_file.read_text()) if template_file.exists() else {}
        model = MsaModel(config, Templates(folder / "tokenizer.json", strings))
        model.load_state_dict(load_weights(folder), strict=True)
        return model.float().eval()

    # -- Pieces of a layer --

    def rope(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.model.rotary_emb(torch.zeros(1), positions[None])  # cos, sin: [1, T, D]

    def project(self, i: int, h: torch.Tensor, cos, sin):
        """q [T,H,D] and k [T,G,D], normed (Qwen3) and rotated, and v [T,G,D] of layer i."""
        attn, n = self.model.layers[i].self_attn, h.shape[0]
        q = attn.q_proj(h).view(n, self.n_heads, self.head_dim)
        k = attn.k_proj(h).view(n, self.n_kv_heads, self.head_dim)
        v = attn.v_proj(h).view(n, self.n_kv_heads, self.head_dim)
        if self.qk_norm:
            q, k = attn.q_norm(q), attn.k_norm(k)
        q, k = apply_rotary_pos_emb(q[None], k[None], cos, sin, unsqueeze_dim=2)
        return q[0], k[0], v

    def attend(self, i: int, q, keys, values, n_shared: int) -> torch.Tensor:
        """Attention of T local queries over [n_shared rows that all see; T local rows, causal]."""
        n = q.shape[0]
        k = keys.repeat_interleave(self.group, dim=1)  # [S, H, D]
        v = values.repeat_interleave(self.group, dim=1)
        scores = torch.einsum("thd,shd->hts", q, k) * self.head_dim**-0.5
        row = torch.arange(keys.shape[0])[None, :]
        allowed = row <= n_shared + torch.arange(n)[:, None]
        scores = scores.masked_fill(~allowed, float("-inf"))
        out = torch.einsum("hts,shd->thd", scores.softmax(-1), v)
        return self.model.layers[i].self_attn.o_proj(out.reshape(n, -1))

    def mlp_block(self, i: int, x: torch.Tensor) -> torch.Tensor:
        layer = self.model.layers[i]
        return x + layer.mlp(layer.post_attention_layernorm(x))

    def head(self, x: torch.Tensor) -> torch.Tensor:
        x = self.model.norm(x)
        tied = self.hf_config.tie_word_embeddings
        return torch.nn.functional.linear(
            x, self.model.embed_tokens.weight if tied else self.lm_head.weight
        )

    # -- Stage 1: a document becomes memory --

    def encode_document(self, number: int, text: str) -> EncodedDocument:
        ids = self.templates.encode(self.templates.strings["document"], number=number, text=text)
        return self.encode_tokens(number, ids)

    def encode_tokens(self, number: int, ids: list[int]) -> EncodedDocument:
        cos, sin = self.rope(torch.arange(len(ids)))  # positions restart at 0 for every document
        x = self.model.embed_tokens(torch.tensor(ids))
        doc = EncodedDocument(number, ids, [], [], [], [x])
        for i, layer in enumerate(self.model.layers):
            h = layer.input_layernorm(x)
            q, k, v = self.project(i, h, cos, sin)
            if i in self.msa.routing_layers:
                kr = k  # the backbone's own normed, rotated k
                if self.msa.decoupled:  # no norm, no RoPE
                    kr = layer.self_attn.router_k_proj(h).view(k.shape)
                kr = pool(kr, self.msa.chunk)
                doc.routing_keys.append(l2_normalize(kr) if self.msa.metric == "cosine" else kr)
                doc.keys.append(pool(k, self.msa.chunk))
                doc.values.append(pool(v, self.msa.chunk))
            x = self.mlp_block(i, x + self.attend(i, q, k, v, n_shared=0))
            doc.hidden.append(x)
        return doc

    def encode_prefix(self) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """K and V of the template head's tokens in every layer, positions 0.., encoded alone."""
        ids = self.templates.encode(self.templates.strings["head"])
        cos, sin = self.rope(torch.arange(len(ids)))
        x = self.model.embed_tokens(torch.tensor(ids))
        keys, values = [], []
        for i, layer in enumerate(self.model.layers):
            q, k, v = self.project(i, layer.input_layernorm(x), cos, sin)
            keys.append(k)
            values.append(v)
            x = self.mlp_block(i, x + self.attend(i, q, k, v, n_shared=0))
        return keys, values

    # -- Stage 2: routing in one layer --

    def fold(self, i: int, h: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
        """Folded queries [T, G, D] so that score(t, c) = <fold[t], routing_key[c]>."""
        qr = q
        if self.msa.decoupled:
            qr = self.model.layers[i].self_attn.router_q_proj(h).view(q.shape)
        qr = l2_normalize(qr) if self.msa.metric == "cosine" else qr * self.head_dim**-0.5
        # Query head h belongs to key head h // group; the mean over all H heads is the score.
        return qr.view(-1, self.n_kv_heads, self.group, self.head_dim).sum(2) / self.n_heads

    def document_scores(self, r: int, folded: torch.Tensor, bank: list[EncodedDocument]):
        """Max over query tokens and chunks, one score per document of the bank."""
        return torch.stack(
            [torch.einsum("tgd,cgd->tc", folded, d.routing_keys[r]).max() for d in bank]
        )

    def route(self, r: int, folded: torch.Tensor, bank: list[EncodedDocument]) -> LayerRoute:
        layer = self.msa.routing_layers[r]
        if not bank or folded.shape[0] == 0:
            return LayerRoute(layer, torch.zeros(len(bank)), [])
        scores = self.document_scores(r, folded, bank)
        best_first = sorted(range(len(bank)), key=lambda j: (-scores[j].item(), bank[j].number))
        return LayerRoute(layer, scores, [bank[j].number for j in best_first[: self.msa.top_k]])

    # -- Stage 3: the question meets memory --

    def prefill(self, segments: list[tuple[list[int], int]], bank: list[EncodedDocument]) -> Context:
        """Runs [(token ids, role), ...] after the template prefix. `bank`: ascending numbers."""
        ids = [t for tokens, _ in segments for t in tokens]
        roles = torch.tensor([role for tokens, role in segments for _ in tokens])
        prefix_keys, prefix_values = self.encode_prefix()
        first = prefix_keys[0].shape[0] + self.msa.top_k  # global RoPE offset by the configured k
        cos, sin = self.rope(torch.arange(first, first + len(ids)))
        x = self.model.embed_tokens(torch.tensor(ids))
        ctx = Context([], [], first + len(ids), [], [x], x)
        by_number = {d.number: d for d in bank}
        for i, layer in enumerate(self.model.layers):
            h = layer.input_layernorm(x)
            q, k, v = self.project(i, h, cos, sin)
            shared_keys, shared_values = [prefix_keys[i]], [prefix_values[i]]
            if i in self.msa.routing_layers:
                r = self.msa.routing_layers.index(i)
                queries = roles == ROLE_QUERY
                route = self.route(r, self.fold(i, h, q)[queries], bank)
                ctx.routes.append(route)
                for number in sorted(route.selected):
                    shared_keys.append(by_number[number].keys[r])
                    shared_values.append(by_number[number].values[r])
            n_shared = sum(part.shape[0] for part in shared_keys)
            ctx.keys.append(torch.cat(shared_keys + [k]))
            ctx.values.append(torch.cat(shared_values + [v]))
            x = self.mlp_block(i, x + self.attend(i, q, ctx.keys[i], ctx.values[i], n_shared))
            ctx.hidden.append(x)
        ctx.logits = self.head(x[-1])
        return ctx

    def decode(self, ctx: Context, token: int) -> torch.Tensor:
        """Appends one generated token to the context (no routing) and returns the next logits."""
        cos, sin = self.rope(torch.tensor([ctx.position]))
        x = self.model.embed_tokens(torch.tensor([token]))
        for i, layer in enumerate(self.model.layers):
            q, k, v = self.project(i, layer.input_layernorm(x), cos, sin)
            n_shared = ctx.keys[i].shape[0]
            ctx.keys[i] = torch.cat([ctx.keys[i], k])
            ctx.values[i] = torch.cat([ctx.values[i], v])
            x = self.mlp_block(i, x + self.attend(i, q, ctx.keys[i], ctx.values[i], n_shared))
        ctx.position += 1
        ctx.logits = self.head(x[-1])
        return ctx.logits

    def question_segments(self, question: str) -> list[tuple[list[int], int]]:
        t = self.templates
        return [
            (t.encode(t.strings["question"], question=question), ROLE_QUERY),
            (t.encode(t.strings["tail"]), ROLE_TEMPLATE),
            (t.encode(t.strings["response_head"]), ROLE_GENERATED),
        ]

    def greedy(self, ctx: Context, n_tokens: int, stop: set[int] = frozenset()) -> list[int]:
        """Up to n_tokens of greedy decoding; a stop token ends it and is included."""
        out: list[int] = []
        while len(out) < n_tokens:
            out.append(int(ctx.logits.argmax()))
            if out[-1] in stop:
                break
            if len(out) < n_tokens:
                self.decode(ctx, out[-1])
        return out


    # -- Section 3.4: Memory Interleave --

    def interleave(
        self,
        question: str,
        bank: list[EncodedDocument],
        texts: dict[int, str],
        rounds_max: int = 4,
        retrieval_tokens_max: int = 128,
        answer_tokens_max: int = 256,
        choose=lambda logits: int(logits.argmax()),
    ) -> Interleaved:
        """Rounds of "write numbers, read their text, prefill again", then the answer.

        `choose` picks each generated token from its logits; greedy unless a caller dictates them.
        """
        t = self.templates
        literal = lambda name: t.encode(t.strings[name], question=question)
        stop = {t.special[s] for s in t.strings["stop"]}
        numbers_end, retrieval_end = literal("numbers_end"), literal("retrieval_end")
        ends_with = lambda tokens, end: tokens[-len(end) :] == end
        segments = self.question_segments(question)
        rounds: list[Round] = []
        known: list[int] = []
        while True:
            ctx = self.prefill(segments, bank)
            selected = {route.layer: route.selected for route in ctx.routes}
            rounds.append(Round(list(segments), selected, ctx.logits, [], [], []))
            if len(rounds) == rounds_max:
                break
            # 1. The model writes document numbers.
            written = rounds[-1].written
            while len(written) < retrieval_tokens_max:
                token = choose(ctx.logits)
                if token in stop:
                    break
                written.append(token)
                self.decode(ctx, token)
                if ends_with(written, numbers_end) or ends_with(written, retrieval_end):
                    break
            rounds[-1].numbers = [int(n) for n in re.findall(r"\[(\d+)\]", t.decode(written))]
            # 2. The text of those that exist and are new is appended.
            news: list[int] = []
            if ends_with(written, numbers_end):
                for number in rounds[-1].numbers:
                    if number in texts and number not in known:
                        rounds[-1].read.append(number)
                        known.append(number)
                        news += t.encode(t.strings["appended_document"], number=number, text=texts[number])
            if not news:
                break
            # 3. Everything so far is prefilled again. Question and newest texts route.
            segments = segments[:1] + [
                (tokens, ROLE_GENERATED if role == ROLE_QUERY else role) for tokens, role in segments[1:]
            ]
            segments += [(written, ROLE_GENERATED), (news, ROLE_QUERY), (literal("appended_end"), ROLE_TEMPLATE)]
        # 4. Retrieval has ended: by the model's word, which stays, or for want of new documents or
        # rounds, as if it had said so after the prompt.
        restart = literal("restart")
        if rounds[-1].written != retrieval_end:
            ctx = self.prefill(segments, bank)
            restart = retrieval_end + restart
        for token in restart:
            self.decode(ctx, token)
        restart_logits, answer = ctx.logits, []
        while len(answer) < answer_tokens_max:
            token = choose(ctx.logits)
            if token in stop:
                break
            answer.append(token)
            self.decode(ctx, token)
        text = t.decode(answer).strip().removeprefix(t.strings["answer_prefix"].strip()).strip()
        return Interleaved(rounds, restart, restart_logits, answer, text)


def to_numpy(x: torch.Tensor) -> np.ndarray:
    return x.detach().float().contiguous().numpy()
