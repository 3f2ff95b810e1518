"""MSA for training and batched evaluation: the same mathematics as reference.py, over padded batches.

What differs from the reference is only layout. Weights of all layers are stacked per kind; a batch
holds buckets of equally padded sequences; documents are encoded first and their pooled K, V and
routing keys stay differentiable, so that the loss of an answer reaches the document encoder and the
router. tests/train/model_test.py holds this file to the golden files of the reference.

Quantisation-aware training: with `qat`, every forward pass uses weights rounded to the model
folder's int4 form, and gradients pass straight through, so what ships is what was trained.
"""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import nn

from msa.reference import MsaConfig

SCORES_MAX = 1 << 31  # scores of tokens with chunks that exist at once
NAME_BITS = 8192  # names that documents and questions mention are hashed to 1 .. NAME_BITS - 1
SAMPLES_AT_ONCE = 32  # of the key bank's search
MEMORY_PAD = 8  # prefix rows are padded to this many, so that attention masks stay aligned

# Stacked parameter -> name inside a layer.
MATRICES = {
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
ROUTERS = {"router_q": "self_attn.router_q_proj.0", "router_k": "self_attn.router_k_proj.0"}
NORMS = {"norm1": "input_layernorm", "norm2": "post_attention_layernorm"}
HEAD_NORMS = {"q_norm": "self_attn.q_norm", "k_norm": "self_attn.k_norm"}


@dataclasses.dataclass
class Documents:
    """Buckets of right-padded documents; bank order is bucket by bucket."""

    buckets: list[tuple[torch.Tensor, torch.Tensor]]  # ids [B, T], lengths [B]
    names: torch.Tensor | None = None  # [n_documents, n] hashed names that they mention, 0: none


@dataclasses.dataclass
class Memory:
    """What the routing layers keep; chunks of all documents in one flat list."""

    keys: list[torch.Tensor]  # per routing layer [n_chunks, G * D]
    values: list[torch.Tensor]
    routing_keys: list[torch.Tensor]
    document_chunks: torch.Tensor  # [n_documents, c_max] indices of chunks
    chunk_mask: torch.Tensor  # [n_documents, c_max] True where the document has that chunk
    prefix: list[tuple[torch.Tensor, torch.Tensor]]  # per layer K, V [n_prefix, G, D]


@dataclasses.dataclass
class Queries:
    """Right-padded prompts against one memory. `targets`: -100 where nothing is to be predicted."""

    ids: torch.Tensor  # [B, T]
    role0: torch.Tensor  # [B, T] bool: tokens that route
    targets: torch.Tensor  # [B, T]: the token that should follow
    positive: torch.Tensor  # [B, n_documents] bool: documents this step needs
    neutral: torch.Tensor  # [B, n_documents] bool: neither positive nor negative
    forced: torch.Tensor  # [B] bool: positives are selected whatever their score
    use_memory: torch.Tensor  # [B] bool: False hides memory from attention
    weights: torch.Tensor | None = None  # [B, T] of the targets; None: all alike
    names: torch.Tensor | None = None  # [B, n] hashed names of the question and its documents, 0: none
    wide: torch.Tensor | None = None  # [B] bool: documents of other memories that share no name are negatives


class KeyBank:
    """Routing keys of the memories of former steps: negatives without gradient, slightly stale, that cost a
    search and no encoding (after MoCo and "cross-batch memory", arXiv 1912.06798). A question whose answer no
    other memory can hold (Queries.wide) is set against the chunks of documents that share none of its names, the
    `hardest` of them in each layer."""

    def __init__(self, steps: int, hardest: int = 48):
        self.steps, self.hardest = steps, hardest
        self.parts: list[tuple[list[torch.Tensor], torch.Tensor]] = []  # keys per layer [n_chunks, G * D], names

    @torch.no_grad()
    def add(self, documents: Documents, memory: Memory, dtype: torch.dtype) -> None:
        rows, owner = memory.document_chunks[memory.chunk_mask], memory.chunk_mask.nonzero()[:, 0]
        keys = [k[rows].to(dtype) for k in memory.routing_keys]
        self.parts = [*self.parts, (keys, documents.names[owner])][-self.steps :]

    def full(self) -> bool:
        return len(self.parts) == self.steps

    @torch.no_grad()
    def begin(self, buckets: list[Queries], owner: torch.Tensor) -> None:
        """Once for all layers: which chunks are no negatives of which samples, and where the samples' tokens are.
        `owner`: the samples of the role-0 tokens, ascending."""
        names = torch.cat([q.names for q in buckets])
        wide = torch.cat([q.wide & q.positive.any(1) for q in buckets])
        counts = torch.bincount(owner, minlength=len(names))
        starts = counts.cumsum(0) - counts
        # Few samples at a time, of like length: padding, which repeats a token, costs less than an atomic maximum.
        samples = (wide & (counts > 0)).nonzero()[:, 0]
        samples = samples[counts[samples].argsort(stable=True)]
        bits = lambda ids: torch.zeros(len(ids), NAME_BITS, device=ids.device, dtype=self.parts[0][0][0].dtype).scatter_(
            1, ids.long(), 1.0).index_fill_(1, torch.zeros(1, dtype=torch.long, device=ids.device), 0.0)
        known = torch.cat([bits(part) for _, part in self.parts])
        self.n_samples, self.blocks = len(names), []
        for some in samples.split(SAMPLES_AT_ONCE) if len(samples) else ():
            at = torch.arange(int(counts[some].max()), device=owner.device)
            tokens = starts[some, None] + torch.minimum(at, counts[some, None] - 1)
            self.blocks.append((some, tokens, bits(names[some]) @ known.T > 0))

    def scores(self, r: int, folded: torch.Tensor) -> torch.Tensor:
        """[n_samples, hardest] of layer r, -1e4 where there is none; the gradient reaches `folded`, the folded queries
        [n_tokens, G * D] of the tokens that `begin` was told of."""
        out = folded.new_full((self.n_samples, self.hardest), -1e4, dtype=torch.float32)
        keys = torch.cat([part[r] for part, _ in self.parts])
        k = min(self.hardest, len(keys))
        for samples, tokens, barred in self.blocks:
            with torch.no_grad():
                q = folded[tokens].to(keys.dtype)  # [b, T, G * D]
                best = (q.flatten(0, 1) @ keys.T).view(*tokens.shape, -1).amax(1)
                top = best.masked_fill_(barred, -1e4).topk(k, dim=1)
                chosen = keys[top.indices]  # [b, k, G * D]
                token = tokens.gather(1, (q @ chosen.transpose(1, 2)).argmax(1))
            exact = (folded[token].float() * chosen.float()).sum(-1)
            exact = exact.masked_fill(top.values <= -1e3, -1e4)
            out = out.index_copy(0, samples, F.pad(exact, (0, self.hardest - k), value=-1e4))
        return out


def rms_norm(x, weight, eps):
    y = x.float()
    y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + eps)
    return (y * weight.float()).to(x.dtype)


def rotate(x, cos, sin):
    a, b = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-b, a), dim=-1) * sin


def layer_input(x, norm, wq, wk, wv, eps: float):
    h = rms_norm(x, norm, eps)
    return h, F.linear(h, wq), F.linear(h, wk), F.linear(h, wv)


def layer_output(x, attended, wo, norm, gate, up, down, eps: float):
    x = x + F.linear(attended, wo)
    h = rms_norm(x, norm, eps)
    return x + F.linear(F.silu(F.linear(h, gate)) * F.linear(h, up), down)


def fake_int4(w: torch.Tensor) -> torch.Tensor:
    """Rounded to the folder's int4 form (quantize.quantize_q4); the gradient passes straight through."""
    g = w.detach().float().unflatten(-1, (-1, 32))
    low = g.amin(-1, keepdim=True).half().float()
    scale = ((g.amax(-1, keepdim=True) - low) / 15).half().float()
    safe = torch.where(scale > 0, scale, torch.ones_like(scale))
    q = torch.round((g - low) / safe).clamp(0, 15)
    rounded = (q * scale + low).flatten(-2)
    return w + (rounded - w.detach())


class MsaTrainer(nn.Module):
    def __init__(self, config: dict):
        super().__init__()
        self.config, self.msa = config, MsaConfig.parse(config)
        c = config
        self.n_layers, hidden = c["num_hidden_layers"], c["hidden_size"]
        self.n_heads, self.n_kv_heads = c["num_attention_heads"], c["num_key_value_heads"]
        self.head_dim = c.get("head_dim") or hidden // self.n_heads
        self.group = self.n_heads // self.n_kv_heads
        self.eps = c["rms_norm_eps"]
        self.qk_norm = c["model_type"] in ("msa", "qwen3")
        q_dim, kv_dim, mlp = self.n_heads * self.head_dim, self.n_kv_heads * self.head_dim, c["intermediate_size"]
        shapes = {
            "q": (q_dim, hidden), "k": (kv_dim, hidden), "v": (kv_dim, hidden), "o": (hidden, q_dim),
            "gate": (mlp, hidden), "up": (mlp, hidden), "down": (hidden, mlp),
        }
        n_routing = len(self.msa.routing_layers)
        p = {name: nn.Parameter(torch.randn(self.n_layers, *s) * 0.02) for name, s in shapes.items()}
        if self.msa.decoupled:
            p["router_q"] = nn.Parameter(torch.randn(n_routing, q_dim, hidden) * 0.02)
            p["router_k"] = nn.Parameter(torch.randn(n_routing, kv_dim, hidden) * 0.02)
        for name in NORMS:
            p[name] = nn.Parameter(torch.ones(self.n_layers, hidden))
        if self.qk_norm:
            for name in HEAD_NORMS:
                p[name] = nn.Parameter(torch.ones(self.n_layers, self.head_dim))
        p["embed"] = nn.Parameter(torch.randn(c["vocab_size"], hidden) * 0.02)
        p["final_norm"] = nn.Parameter(torch.ones(hidden))
        if not c.get("tie_word_embeddings", False):
            p["head"] = nn.Parameter(torch.randn(c["vocab_size"], hidden) * 0.02)
        self.p = nn.ParameterDict(p)
        self.compute_dtype = torch.float32
        self.qat = False
        self.layer_input, self.layer_output, self.fake_int4 = layer_input, layer_output, fake_int4
        self.live: dict[str, torch.Tensor] = {}
        inv = 1.0 / c["rope_theta"] ** (torch.arange(0, self.head_dim, 2).float() / self.head_dim)
        angle = torch.arange(4096).float()[:, None] * inv[None]
        angle = torch.cat((angle, angle), -1)
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)

    # -- Weights in and out, by their names in the folder --

    def named_slices(self):
        """(folder name, parameter key, index into its first dimension or None)."""
        for i in range(self.n_layers):
            kinds = {**MATRICES, **NORMS, **(HEAD_NORMS if self.qk_norm else {})}
            for key, name in kinds.items():
                yield f"model.layers.{i}.{name}.weight", key, i
        if self.msa.decoupled:
            for r, i in enumerate(self.msa.routing_layers):
                for key, name in ROUTERS.items():
                    yield f"model.layers.{i}.{name}.weight", key, r
        yield "model.embed_tokens.weight", "embed", None
        yield "model.norm.weight", "final_norm", None
        if "head" in self.p:
            yield "lm_head.weight", "head", None

    @torch.no_grad()
    def load(self, weights: dict[str, torch.Tensor]) -> None:
        """From a folder's weights. Router projectors that it lacks start as copies of q and k."""
        for name, key, index in self.named_slices():
            source = weights.get(name)
            if source is None and key in ROUTERS:
                layer = self.msa.routing_layers[index]
                source = weights[f"model.layers.{layer}.{MATRICES[key[-1]]}.weight"]
            target = self.p[key] if index is None else self.p[key][index]
            target.copy_(source)

    @torch.no_grad()
    def export(self) -> dict[str, torch.Tensor]:
        return {
            name: (self.p[key] if index is None else self.p[key][index]).detach().float().cpu()
            for name, key, index in self.named_slices()
        }

    def refresh(self) -> None:
        """Recomputes the weights used by forward passes; call after every optimiser step."""
        self.live = {}
        for key, w in self.p.items():
            if self.qat and (key in MATRICES or key in ROUTERS):
                w = self.fake_int4(w)
            w = w.to(self.compute_dtype)
            # unbind's gradient is one stack; indexing would add a full-size tensor per layer.
            self.live[key] = w if key in ("embed", "head", "final_norm") else w.unbind(0)

    # -- Shared pieces --

    def split_heads(self, x, n):
        return x.view(*x.shape[:-1], n, self.head_dim)

    def projections(self, i, x, cos, sin):
        """h [N, hidden], q [N, H, D], k [N, G, D], v [N, G, D] of flat tokens, q and k rotated."""
        w = self.live
        h, q, k, v = self.layer_input(x, w["norm1"][i], w["q"][i], w["k"][i], w["v"][i], self.eps)
        q, k, v = (self.split_heads(q, self.n_heads), self.split_heads(k, self.n_kv_heads),
                   self.split_heads(v, self.n_kv_heads))
        if self.qk_norm:
            q, k = rms_norm(q, w["q_norm"][i], self.eps), rms_norm(k, w["k_norm"][i], self.eps)
        return h, rotate(q, cos, sin), rotate(k, cos, sin), v

    def finish(self, i, x, attended):
        w = self.live
        return self.layer_output(x, attended, w["o"][i], w["norm2"][i], w["gate"][i], w["up"][i],
                                 w["down"][i], self.eps)

    def heads_first(self, x, shape, repeat=True):
        """[B * T, n, D] -> [B, H, T, D], key heads repeated for their group."""
        x = x.view(*shape, *x.shape[1:]).transpose(1, 2)
        return x.repeat_interleave(self.group, 1) if repeat and x.shape[1] != self.n_heads else x

    def angles(self, positions):
        dtype = self.compute_dtype
        return self.cos[positions].to(dtype)[:, None], self.sin[positions].to(dtype)[:, None]

    # -- Stage 1 --

    def encode(self, documents: Documents, prefix_ids: torch.Tensor) -> Memory:
        buckets = [(prefix_ids[None], torch.tensor([len(prefix_ids)], device=prefix_ids.device))]
        buckets += documents.buckets
        shapes = [ids.shape for ids, _ in buckets]
        sizes = [b * t for b, t in shapes]
        device, chunk = prefix_ids.device, self.msa.chunk
        flat = torch.cat([ids.reshape(-1) for ids, _ in buckets])
        x = F.embedding(flat, self.live["embed"])
        positions = torch.cat([torch.arange(t, device=device).repeat(b) for b, t in shapes])
        cos, sin = self.angles(positions)
        masks = [torch.arange(t, device=device)[None] < lengths[:, None]
                 for (_, t), (_, lengths) in zip(shapes, buckets)]
        memory = Memory([], [], [], *self.chunk_table(documents), [])
        for i in range(self.n_layers):
            h, q, k, v = self.projections(i, x, cos, sin)
            attended = []
            for qb, kb, vb, shape in zip(q.split(sizes), k.split(sizes), v.split(sizes), shapes):
                out = F.scaled_dot_product_attention(
                    self.heads_first(qb, shape), self.heads_first(kb, shape),
                    self.heads_first(vb, shape), is_causal=True)
                attended.append(out.transpose(1, 2).reshape(shape[0] * shape[1], -1))
            memory.prefix.append((k[: sizes[0]], v[: sizes[0]]))
            if i in self.msa.routing_layers:
                r = self.msa.routing_layers.index(i)
                kr = F.linear(h, self.live["router_k"][r]) if self.msa.decoupled else k.flatten(1)

                def pooled(y):
                    parts = []
                    for yb, (b, t), mask in list(zip(y.split(sizes), shapes, masks))[1:]:
                        n = -(-t // chunk)
                        m = F.pad(mask, (0, n * chunk - t)).view(b, n, chunk, 1)
                        z = F.pad(yb.reshape(b, t, -1), (0, 0, 0, n * chunk - t)).view(b, n, chunk, -1)
                        total = torch.where(m, z, torch.zeros_like(z)).sum(2, dtype=torch.float32)
                        parts.append((total / m.sum(2).clamp(min=1)).flatten(0, 1))
                    return torch.cat(parts)

                memory.keys.append(pooled(k.flatten(1)).to(x.dtype))
                memory.values.append(pooled(v.flatten(1)).to(x.dtype))
                key = pooled(kr)
                if self.msa.metric == "cosine":
                    key = F.normalize(self.split_heads(key, self.n_kv_heads), dim=-1, eps=1e-12).flatten(1)
                memory.routing_keys.append(key)
            if i + 1 < self.n_layers:  # nothing reads the last layer's output
                x = self.finish(i, x, torch.cat(attended))
        return memory

    def chunk_table(self, documents: Documents):
        chunk, tables, counts, base = self.msa.chunk, [], [], 0
        c_max = max(-(-ids.shape[1] // chunk) for ids, _ in documents.buckets)
        device = documents.buckets[0][0].device
        for ids, lengths in documents.buckets:
            b, n = ids.shape[0], -(-ids.shape[1] // chunk)
            rows = base + torch.arange(b * n, device=device).view(b, n)
            tables.append(F.pad(rows, (0, c_max - n)))
            counts.append((lengths + chunk - 1) // chunk)
            base += b * n
        mask = torch.arange(c_max, device=device)[None] < torch.cat(counts)[:, None]
        return torch.cat(tables), mask

    # -- Stages 2 and 3 --

    def folded_queries(self, r, h, q, routing) -> torch.Tensor:
        """[n_tokens, G * D] of the flat role-0 tokens `routing`: a score is their inner product with a key."""
        q = q[routing]
        if self.msa.decoupled:
            q = self.split_heads(F.linear(h[routing], self.live["router_q"][r]), self.n_heads)
        q = q.float()
        q = F.normalize(q, dim=-1, eps=1e-12) if self.msa.metric == "cosine" else q * self.head_dim**-0.5
        return q.view(-1, self.n_kv_heads, self.group, self.head_dim).sum(2).flatten(1) / self.n_heads

    def document_scores(self, r, folded, owner, n_samples: int, memory: Memory) -> torch.Tensor:
        """[n_samples, n_documents]: max over role-0 tokens and chunks, float32. `owner`: the tokens' samples."""
        dtype = self.compute_dtype
        keys = memory.routing_keys[r].to(dtype).T
        best = torch.full((n_samples, keys.shape[1]), -1e4, device=keys.device)
        # The scores of all tokens with all chunks of a large memory would not fit.
        step = max(1, SCORES_MAX // keys.shape[1])
        for part, of in zip(folded.to(dtype).split(step), owner.split(step)):
            scores = (part @ keys).float()
            best = best.scatter_reduce(0, of[:, None].expand_as(scores), scores, "amax")
        per_document = best[:, memory.document_chunks].masked_fill(~memory.chunk_mask, -1e4)
        return per_document.amax(-1)

    def choose(self, scores, positive, forced):
        """The documents [B, k] that a layer attends to."""
        ranked = scores.detach() + 1e3 * (positive & forced[:, None])
        return ranked.topk(min(self.msa.top_k, scores.shape[1]), dim=1).indices

    def rows_of(self, chosen, use_memory, memory: Memory):
        """Chunk rows of documents [B, k * c_max], and their mask."""
        rows = memory.document_chunks[chosen].flatten(1)
        mask = memory.chunk_mask[chosen].flatten(1) & use_memory[:, None]
        return rows, mask

    def answer(self, buckets: list[Queries], memory: Memory, given: list[torch.Tensor] | None = None,
               key_bank: KeyBank | None = None):
        """Hidden states of all tokens [N, hidden] before the final norm (bucket after bucket), and
        per routing layer the scores [n_samples, n_documents] and the chosen documents
        [n_samples, k]. `given`: the chosen documents of a former call, used without routing again, as
        for a token generated after its prompt; then there are no scores. `key_bank`: its scores follow, in a fourth list."""
        device = buckets[0].ids.device
        shapes = [q.ids.shape for q in buckets]
        sizes, counts = [b * t for b, t in shapes], [b for b, _ in shapes]
        n_prefix = memory.prefix[0][0].shape[0]
        first = n_prefix + self.msa.top_k
        positions = torch.cat([torch.arange(first, first + t, device=device).repeat(b) for b, t in shapes])
        cos, sin = self.angles(positions)
        x = F.embedding(torch.cat([q.ids.reshape(-1) for q in buckets]), self.live["embed"])
        routing = torch.cat([q.role0.reshape(-1) for q in buckets]).nonzero()[:, 0]
        sample_of = torch.cat([
            (sum(counts[:i]) + torch.arange(b, device=device)).repeat_interleave(t)
            for i, (b, t) in enumerate(shapes)])
        owner = sample_of[routing]
        positive, forced, use_memory = (
            torch.cat([getattr(q, name) for q in buckets]) for name in ("positive", "forced", "use_memory"))
        pad = (-n_prefix) % MEMORY_PAD
        causal = [torch.ones(t, t, dtype=torch.bool, device=device).tril() for _, t in shapes]
        prefix_mask = [(torch.arange(n_prefix + pad, device=device) < n_prefix).expand(t, -1) for _, t in shapes]
        all_scores, all_chosen, bank_scores = [], [], []
        if key_bank is not None:
            key_bank.begin(buckets, owner)
        for i in range(self.n_layers):
            h, q, k, v = self.projections(i, x, cos, sin)
            shared = [F.pad(y, (0, 0, 0, 0, 0, pad))[None] for y in memory.prefix[i]]
            routes = i in self.msa.routing_layers
            if routes:
                r = self.msa.routing_layers.index(i)
                if given is None:
                    folded = self.folded_queries(r, h, q, routing)
                    scores = self.document_scores(r, folded, owner, sum(counts), memory)
                    if key_bank is not None:
                        bank_scores.append(key_bank.scores(r, folded))
                    chosen = self.choose(scores, positive, forced)
                    all_scores.append(scores)
                else:
                    chosen = given[r]
                rows, row_mask = self.rows_of(chosen, use_memory, memory)
                all_chosen.append(chosen)
                rows, row_mask = rows.split(counts), row_mask.split(counts)
            attended = []
            for j, (qb, kb, vb, (b, t)) in enumerate(zip(q.split(sizes), k.split(sizes), v.split(sizes), shapes)):
                keys, values = ([y.expand(b, -1, -1, -1)] for y in shared)
                wide = (b, 1, t, -1)
                masks = [prefix_mask[j].expand(wide)]
                if routes:
                    shape = (*rows[j].shape, self.n_kv_heads, self.head_dim)
                    keys.append(F.embedding(rows[j], memory.keys[r]).view(shape))
                    values.append(F.embedding(rows[j], memory.values[r]).view(shape))
                    masks.append(row_mask[j][:, None, None].expand(wide))
                masks.append(causal[j].expand(wide))
                keys.append(kb.view(b, t, *kb.shape[1:]))
                values.append(vb.view(b, t, *vb.shape[1:]))
                full = [torch.cat(parts, 1).transpose(1, 2).repeat_interleave(self.group, 1)
                        for parts in (keys, values)]
                out = F.scaled_dot_product_attention(
                    self.heads_first(qb, (b, t)), *full, attn_mask=torch.cat(masks, -1))
                attended.append(out.transpose(1, 2).reshape(b * t, -1))
            x = self.finish(i, x, torch.cat(attended))
        return (x, all_scores, all_chosen) if key_bank is None else (x, all_scores, all_chosen, bank_scores)

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        x = rms_norm(x, self.live["final_norm"], self.eps)
        return F.linear(x, self.live.get("head", self.live["embed"])).float()

    # -- Losses --

    def losses(self, buckets: list[Queries], memory: Memory, temperature: float,
               key_bank: KeyBank | None = None) -> dict[str, torch.Tensor]:
        """`tokens` and `route`: mean losses; the rest are counts for the log. With a `key_bank` its hardest chunks are
        negatives besides the memory's documents; `hit1` stays that of the memory alone, `hit1_wide` is against both."""
        x, scores, _, *more = self.answer(buckets, memory, key_bank=key_bank)
        targets = torch.cat([q.targets.reshape(-1) for q in buckets])
        where = (targets >= 0).nonzero()[:, 0]
        logits = self.logits(x[where])
        positive = torch.cat([q.positive for q in buckets])
        neutral = torch.cat([q.neutral for q in buckets])
        weight = positive / positive.sum(1, keepdim=True).clamp(min=1)
        aux, hits, wide_hits = x.new_zeros((), dtype=torch.float32), [], []
        for r, s in enumerate(scores):
            # Each positive against the negatives only (paper's L_aux).
            s = s / temperature
            rest = s.masked_fill(positive | neutral, -1e9).logsumexp(1, keepdim=True)
            if more:
                far = more[0][r] / temperature
                rest = torch.logaddexp(rest, far.logsumexp(1, keepdim=True))
                top = s.detach().masked_fill(~positive, -1e9).amax(1)
                others = torch.maximum(s.detach().masked_fill(positive | neutral, -1e9).amax(1), far.detach().amax(1))
                wide_hits.append(((top > others) & positive.any(1)).float().sum())
            aux = aux + (F.softplus(rest - s) * weight).sum() / len(scores)
            best = s.detach().masked_fill(neutral, -1e9).argmax(1)
            hits.append(positive.gather(1, best[:, None])[:, 0].float().sum())
        routed = positive.any(1).sum()
        loss = F.cross_entropy(logits, targets[where], reduction="none")
        if buckets[0].weights is not None:
            w = torch.cat([q.weights.reshape(-1) for q in buckets])[where]
            loss = loss * w / w.mean()
        return {
            "tokens": loss.mean(),
            "route": aux / routed.clamp(min=1),
            "token_accuracy": (logits.detach().argmax(-1) == targets[where]).float().mean(),
            "hit1": torch.stack(hits) / routed.clamp(min=1),
            **({"hit1_wide": torch.stack(wide_hits) / routed.clamp(min=1)} if wide_hits else {}),
        }


def merge(parts: list[Memory]) -> Memory:
    """One memory out of several encoded with the same weights."""
    c_max = max(m.document_chunks.shape[1] for m in parts)
    tables, masks, base = [], [], 0
    for m in parts:
        short = c_max - m.document_chunks.shape[1]
        tables.append(F.pad(m.document_chunks, (0, short)) + base)
        masks.append(F.pad(m.chunk_mask, (0, short)))
        base += m.keys[0].shape[0]
    join = lambda name: [torch.cat(layer) for layer in zip(*(getattr(m, name) for m in parts))]
    return Memory(join("keys"), join("values"), join("routing_keys"), torch.cat(tables),
                  torch.cat(masks), parts[0].prefix)
