"""Writes tests/data/msa/interleave: a tiny model that does write document numbers, and what the
reference's Memory Interleave makes of it.

    python3 train/make_interleave_golden.py [--out tests/data/msa/interleave]

A random model never writes "[4]". Here the upper end of one (last MLP, final norm, head) is fitted to
the tokens that a script dictates. All below stays random, and with it memory and routing: neither sees
what is fitted, so the states to fit on are computed once. Nothing of the script is in the golden: it is
what the fitted and rounded model does by itself. Margins as in make_goldens.py.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

import make_goldens as base
from msa.reference import Interleaved, MsaModel

STEPS = 400
CASE = dict(style="qwen3", decoupled=True, metric="cosine", layers="2,3", top_k=3, pool=8,
            dtype="bfloat16", tied=False)
NUMBERS = [2, 4, 7, 10, 12, 31, 99, 108, 205, 206]
LIST_END, RETRIEVAL_END, STOP = "<|object_ref_end|>", "<End-of-Retrieve>", "<|im_end|>"

# What the model shall write: per question the lists of its rounds, then the answer. Numbers exist,
# are unknown (55, 300), or were read before.
SCRIPTS = [
    dict(name="two-hops", question="Where is the lantern that Mara keeps?",
         lists=["[4][55][12]" + LIST_END, "[206]" + LIST_END, RETRIEVAL_END],
         answer="The answer to the question is: in the mill, says [206]."),
    dict(name="at-once", question="Who lost the clock?", lists=[RETRIEVAL_END],
         answer="The answer to the question is: nobody"),
    dict(name="read-before", question="What is in the cellar?",
         lists=["[31]" + LIST_END, "[31][300]" + LIST_END],
         answer="The answer to the question is: a map [31] [7]"),
    dict(name="rounds-used-up", question="Where is the lantern that Mara keeps?", rounds_max=2,
         lists=["[4][55][12]" + LIST_END], answer="The answer to the question is: Otis painted it"),
    dict(name="list-cut-off", question="What did Ivo paint in the barn?", retrieval_tokens_max=6,
         lists=["[108][99][10]"], answer="unknown"),
    dict(name="stopped", question="Is there a violin?", lists=[STOP], answer="no"),
]


def options(script: dict) -> dict:
    return {k: script[k] for k in ("rounds_max", "retrieval_tokens_max") if k in script}


class Dictate:
    """Gives the script's tokens one by one, whatever the logits."""

    def __init__(self, model: MsaModel, script: dict):
        encode = model.templates.encode
        self.tokens = [t for text in script["lists"] for t in encode(text)[: script.get("retrieval_tokens_max")]]
        self.tokens += encode(script["answer"]) + encode(STOP)
        self.said: list[int] = []

    def __call__(self, logits: torch.Tensor) -> int:
        self.said.append(self.tokens[len(self.said)])
        return self.said[-1]


def follow(model: MsaModel, bank, texts: dict[int, str]):
    """What the model sees when the scripts are followed: the states before the last MLP where a token
    is chosen, those tokens, and all prompts."""
    last = model.model.layers[-1]
    latest = []
    hook = last.post_attention_layernorm.register_forward_pre_hook(
        lambda _, args: latest.append(args[0][-1].detach().clone()))
    states, targets, prompts = [], [], []
    for script in SCRIPTS:
        dictate = Dictate(model, script)

        def choose(logits, dictate=dictate):
            states.append(latest[-1])
            return dictate(logits)

        with torch.no_grad():
            result = model.interleave(script["question"], bank, texts, choose=choose, **options(script))
        prompts += [r.segments for r in result.rounds]
        if len(dictate.said) != len(dictate.tokens):
            raise SystemExit(f"{script['name']}: the script was not followed to its end")
        targets += dictate.said
    hook.remove()
    return torch.stack(states), torch.tensor(targets), prompts


def fit(model: MsaModel, x: torch.Tensor, y: torch.Tensor) -> float:
    """Fits the upper end to give `y` after `x`; returns the final loss."""
    last = model.model.layers[-1]
    trained = [*last.mlp.parameters(), *last.post_attention_layernorm.parameters(),
               *model.model.norm.parameters(), *model.lm_head.parameters()]
    optimizer = torch.optim.Adam(trained, lr=1e-2)
    for step in range(STEPS):
        logits = model.head(model.mlp_block(model.config["num_hidden_layers"] - 1, x))
        loss = torch.nn.functional.cross_entropy(logits, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()


def run(model: MsaModel, script: dict, bank, texts, tensors: dict[str, torch.Tensor]) -> dict:
    margins = []

    def greedy(logits):
        top = logits.topk(2)
        margins.append((top.values[0] - top.values[1]).item())
        return int(top.indices[0])

    result: Interleaved = model.interleave(script["question"], bank, texts, choose=greedy, **options(script))
    if min(margins) < base.LOGIT_MARGIN:
        raise SystemExit(f"{script['name']}: a token leads by {min(margins)} only")
    name = script["name"]
    tensors[f"{name}.logits"] = torch.stack([r.logits for r in result.rounds]).float().contiguous()
    tensors[f"{name}.restart_logits"] = result.restart_logits.float().clone()
    print(f"{name}: {[(r.numbers, r.read) for r in result.rounds]} {result.text!r}, smallest lead {min(margins):.2f}")
    return {
        "name": name,
        "question": script["question"],
        **options(script),
        "rounds": [
            {
                "prompt": [{"role": role, "tokens": tokens} for tokens, role in r.segments],
                "selected": {str(layer): numbers for layer, numbers in r.selected.items()},
                "written": r.written,
                "numbers": r.numbers,
                "read": r.read,
            }
            for r in result.rounds
        ],
        "restart": result.restart,
        "answer": result.answer,
        "text": result.text,
    }


def routing_is_decided(model: MsaModel, prompts, bank) -> bool:
    """Whether no choice of documents, nor their order, hangs on rounding."""
    for segments in prompts:
        for route in model.prefill(segments, bank).routes:
            scores = sorted(route.scores.tolist(), reverse=True)
            if base.margin(scores, model.msa.top_k) < base.SCORE_MARGIN:
                return False
            best = scores[: model.msa.top_k]
            if any(a - b < base.SCORE_MARGIN / 10 for a, b in zip(best, best[1:])):
                return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("tests/data/msa/interleave"))
    folder = parser.parse_args().out
    torch.set_num_threads(1)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    base.make_tokenizer(CASE["style"], folder / "tokenizer.json", 384)
    config = base.config_for(CASE, 384)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")

    for seed in range(1, 200):
        torch.manual_seed(seed)
        rng = random.Random(seed)
        texts = {n: " ".join(base.sentence(rng) for _ in range(rng.randrange(1, 4))) for n in NUMBERS}
        base.store_weights(base.random_weights(MsaModel(config), seed), CASE, folder)
        model = MsaModel.from_folder(folder)
        with torch.no_grad():
            bank = [model.encode_document(n, texts[n]) for n in NUMBERS]
            states, targets, prompts = follow(model, bank, texts)
            if routing_is_decided(model, prompts, bank):
                break
    else:
        raise SystemExit("no seed with safe routing")
    loss = fit(model, states, targets)
    base.store_weights({k: v.detach() for k, v in model.state_dict().items()}, CASE, folder)

    model = MsaModel.from_folder(folder)  # rounded as stored
    tensors: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        bank = [model.encode_document(n, texts[n]) for n in NUMBERS]
        results = [run(model, script, bank, texts, tensors) for script in SCRIPTS]
    save_file(tensors, folder / "golden.safetensors")
    golden = {
        "seed": seed,
        "documents": [{"number": d.number, "text": texts[d.number], "tokens": d.tokens} for d in bank],
        "questions": results,
    }
    text = json.dumps(golden, ensure_ascii=False, separators=(",", ":"))
    (folder / "golden.json").write_text(text.replace('{"number"', '\n{"number"').replace('{"name"', '\n{"name"') + "\n", "utf-8")
    for file in folder.iterdir():
        file.chmod(0o644)
    size = sum(f.stat().st_size for f in folder.iterdir())
    print(f"seed {seed}, loss {loss:.4f}, {size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
