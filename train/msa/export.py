"""Writes a trained model as the folder that ships: int4 matrices, int8 embedding, F32 norms."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from msa.quantize import quantize_q4, quantize_q8_rows

SHARD_BYTES_MAX = 45_000_000  # files of a repository should stay below 50 MB


def tensors_of(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    out: dict[str, torch.Tensor] = {}
    for name, w in weights.items():
        a = w.numpy().astype(np.float32)
        if a.ndim == 1:
            out[name] = w.contiguous()
        elif "embed_tokens" in name or "lm_head" in name:
            q, scale = quantize_q8_rows(a)
            out[name], out[name + "_scale"] = torch.from_numpy(q), torch.from_numpy(scale)
        else:
            parts = quantize_q4(a)
            for suffix, part in zip(("_q4", "_scale", "_min"), parts):
                out[name + suffix] = torch.from_numpy(part)
    return out


def write_model(weights, config: dict, templates: dict, tokenizer: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob("model*.safetensors*"):
        old.unlink()
    shards: list[dict[str, torch.Tensor]] = [{}]
    size = 0
    for name, t in tensors_of(weights).items():
        if size + t.nbytes > SHARD_BYTES_MAX and shards[-1]:
            shards.append({})
            size = 0
        shards[-1][name] = t.contiguous()
        size += t.nbytes
    weight_map = {}
    for i, shard in enumerate(shards):
        file = f"model-{i + 1:05}-of-{len(shards):05}.safetensors"
        save_file(shard, out / file, metadata={"format": "pt"})
        (out / file).chmod(0o644)
        weight_map |= {name: file for name in shard}
    total = sum(t.nbytes for shard in shards for t in shard.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (out / "model.safetensors.index.json").write_text(json.dumps(index) + "\n")
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    (out / "templates.json").write_text(json.dumps(templates, indent=2, ensure_ascii=False) + "\n")
    if tokenizer.resolve() != (out / "tokenizer.json").resolve():
        shutil.copyfile(tokenizer, out / "tokenizer.json")
