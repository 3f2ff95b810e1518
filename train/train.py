"""Trains an MSA model, in runs of a few minutes that continue each other.

    python3 train/train.py --base FOLDER --natural natural.jsonl.xz --state STATE \\
        --minutes 8.5 --total-minutes 17 --out FOLDER

The schedule runs over training time: the first 4% warms the router up (a = 0.1, b = 1), then both
losses count (a = 1, b = 0.5), and the routing loss has negatives of the last --bank-steps memories besides.
Every run ends with a checkpoint in STATE, a line per 20 steps in STATE/log.jsonl, and the folder OUT as it
would ship; OUT is also written now and then on the way. --tiny is a smoke test on a CPU.

--base is a converted backbone or a model that was trained before; the latter wants a short --warmup. --reset-router
makes a trained model's router projections copies of q and k again, for the ablation without auxiliary loss.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from pathlib import Path

import torch

import data
from msa.batch import NAMES_STEPS, TEMPLATES, TINY, Shape, StepBuilder, load_natural, load_passages, to_device
from msa.export import write_model
from msa.model import MATRICES, ROUTERS, KeyBank, MsaTrainer, fake_int4, layer_input, layer_output
from msa.reference import Templates, load_weights

ROUTING = {
    "router_layer_idx": "15,17,19,21,23,25,27,29",
    "top_k_docs": 16,
    "pooling_kernel_size": 16,
    "decouple_router": True,
    "head_reduce_method": "mean",
    "query_reduce_method": "max",
    "chunk_reduce_method": "max",
    "decouple_pooling_mode": "mean",
    "aux_loss_method": "INFONCE_DECOUPLE",
    "infonce_loss_temp": 0.05,
    "rewrite_position": True,
    "routing_metric": "cosine",
}
LEARNING_RATE = {"body": 5e-4, "router": 1e-3, "embed": 2e-4, "norm": 5e-4}
WARMUP = 0.04  # share of the time in which the router is aligned first


class Steps(torch.utils.data.Dataset):
    """Step i is a pure function of the seed and i."""

    def __init__(self, builder: StepBuilder, seed: int, first: int):
        self.builder, self.seed, self.first = builder, seed, first

    def __len__(self):
        return 10**7

    def __getitem__(self, i):
        return self.builder.build(self.seed * 10**8 + self.first + i)


def one_thread(_):
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


def learning_rate_factor(progress: float, step: int) -> float:
    rise = min(1.0, (step + 1) / 60)
    return rise * (0.04 + 0.96 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def parameter_groups(model: MsaTrainer) -> list[dict]:
    groups: dict[str, list] = {}
    for key, p in model.p.items():
        kind = ("router" if key in ROUTERS else "body" if key in MATRICES
                else "embed" if key in ("embed", "head") else "norm")
        groups.setdefault(kind, []).append(p)
    return [{"params": ps, "lr": LEARNING_RATE[k], "base_lr": LEARNING_RATE[k],
             "weight_decay": 0.01 if k in ("router", "body") else 0.0} for k, ps in groups.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--base", type=Path, required=True, help="model folder to start from")
    parser.add_argument("--natural", type=Path, help="file of train/build_natural.py")
    parser.add_argument("--records", type=Path, help="file of train/data/fetch.sh")
    parser.add_argument("--passages", type=Path, help="file of train/data/reading.py")
    parser.add_argument("--state", type=Path, required=True, help="folder of the checkpoint and log")
    parser.add_argument("--out", type=Path, help="model folder to write at the end")
    parser.add_argument("--minutes", type=float, default=8.5, help="of this run, from its start")
    parser.add_argument("--total-minutes", type=float, default=17.0, help="training time of all runs")
    parser.add_argument("--steps", type=int, help="stop after so many steps of this run")
    parser.add_argument("--peak", type=float, default=1.0, help="factor of all learning rates")
    parser.add_argument("--warmup", type=float, default=WARMUP, help="share of time that aligns the router first")
    parser.add_argument("--route-weight", type=float, default=0.5, help="b; 0: no auxiliary loss")
    parser.add_argument("--bank-steps", type=int, default=NAMES_STEPS, help="memories of former steps that give negatives; 0: none")
    parser.add_argument("--reset-router", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=14)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--no-qat", action="store_true", help="train without int4 rounding")
    parser.add_argument("--random-init", action="store_true", help="speed test without weights")
    parser.add_argument("--export-minutes", type=float, default=5.0, help="write OUT that often")
    parser.add_argument("--tiny", action="store_true", help="small buckets (CPU smoke test)")
    args = parser.parse_args()
    began = exported = time.time()
    # Worker batches hold many small tensors; file descriptors would run out.
    torch.multiprocessing.set_sharing_strategy("file_system")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(args.seed)
    torch.backends.cuda.matmul.allow_tf32 = True

    config = json.loads((args.base / "config.json").read_text())
    config["model_type"] = config["model_type"] if config["model_type"] != "qwen3" else "msa"
    small = config["num_hidden_layers"] < 30
    routing = {**ROUTING, **({"router_layer_idx": "2,3"} if small else {})}
    config["msa_config"] = routing
    templates = Templates(args.base / "tokenizer.json", TEMPLATES)
    natural = load_natural(args.natural, evaluation=False)
    records = data.Natural.load(args.records) if args.records else None
    builder = StepBuilder(templates, natural, TINY if args.tiny else Shape(), load_passages(args.passages), records)

    model = MsaTrainer(config)
    if not args.random_init:
        weights = load_weights(args.base)
        model.load({k: w for k, w in weights.items() if not (args.reset_router and "router_" in k)})
        del weights
    model.to(device)
    model.qat = not args.no_qat
    model.compute_dtype = torch.bfloat16 if device == "cuda" else torch.float32
    optimizer = torch.optim.AdamW(parameter_groups(model), betas=(0.9, 0.95), fused=device == "cuda")
    elapsed, step = 0.0, 0
    args.state.mkdir(parents=True, exist_ok=True)
    checkpoint = args.state / "checkpoint.pt"
    if checkpoint.exists():
        saved = torch.load(checkpoint, map_location=device, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        elapsed, step = saved["elapsed"], saved["step"]
        print(f"continuing at step {step}, {elapsed / 60:.1f} min trained", flush=True)
    if args.compile:
        torch._dynamo.config.recompile_limit = 64  # one per weight shape
        model.layer_input = torch.compile(layer_input, dynamic=False)
        model.layer_output = torch.compile(layer_output, dynamic=False)
        model.fake_int4 = torch.compile(fake_int4, dynamic=False)

    loader = torch.utils.data.DataLoader(
        Steps(builder, args.seed, step), batch_size=None, num_workers=args.workers,
        worker_init_fn=one_thread, prefetch_factor=6 if args.workers else None,
        pin_memory=device == "cuda", persistent_workers=False)
    log = open(args.state / "log.jsonl", "a")
    # Leave room for saving the checkpoint and the folder.
    deadline = began + args.minutes * 60
    temperature = routing["infonce_loss_temp"]
    key_bank = KeyBank(args.bank_steps) if args.bank_steps else None
    mark, first_step, tokens, waited = time.time(), step, 0, 0.0
    batches = iter(loader)
    while True:
        asked = time.time()
        batch = next(batches)
        waited += time.time() - asked  # for the processes that build steps
        progress = elapsed / (args.total_minutes * 60)
        for group in optimizer.param_groups:
            group["lr"] = args.peak * group["base_lr"] * learning_rate_factor(progress, step)
        a, b = (0.1, 1.0) if progress < args.warmup else (1.0, args.route_weight)
        documents, queries, prefix = to_device(*batch, device)

        def forward_backward():
            model.refresh()
            memory = model.encode(documents, prefix)
            # While the router is aligned its keys change too fast to be kept.
            use = key_bank is not None and b > 0 and key_bank.full() and progress >= args.warmup
            losses = model.losses(queries, memory, temperature, key_bank if use else None)
            (a * losses["tokens"] + b * losses["route"]).backward()
            if key_bank is not None and b > 0:
                key_bank.add(documents, memory, model.compute_dtype)
            return losses

        try:
            losses = forward_backward()
        except Exception as error:  # a compiler that fails must not cost the run
            if not args.compile or step > first_step:
                raise
            print(f"running uncompiled: {error!r}"[:2000], flush=True)
            model.layer_input, model.layer_output, model.fake_int4 = layer_input, layer_output, fake_int4
            optimizer.zero_grad(set_to_none=True)
            losses = forward_backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        tokens += sum(i.numel() for i, _ in documents.buckets) + sum(q.ids.numel() for q in queries)
        if step % 20 == 0 or step == first_step + 1 or args.tiny:
            hits = [round(x, 3) for x in losses["hit1"].tolist()]  # waits for the device
            now = time.time()
            line = {
                "step": step, "progress": round(progress, 4), "seconds": round(elapsed, 1),
                "tokens": round(losses["tokens"].item(), 4), "route": round(losses["route"].item(), 4),
                "accuracy": round(losses["token_accuracy"].item(), 4), "hit1": hits,
                "norm": round(float(norm), 3), "lr": optimizer.param_groups[0]["lr"],
                "tokens_per_second": round(tokens / (now - mark)), "waited": round(waited, 2),
            }
            if "hit1_wide" in losses:
                line["hit1_wide"] = [round(x, 3) for x in losses["hit1_wide"].tolist()]
            if device == "cuda":
                line["memory_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 1)
            log.write(json.dumps(line) + "\n")
            log.flush()
            if step % 100 == 0 or step < first_step + 42 or args.tiny:
                print(json.dumps(line), flush=True)
            if step > first_step + 20:  # the first steps compile
                elapsed += now - mark
            mark, tokens, waited = now, 0, 0.0
            if not math.isfinite(line["tokens"]):
                raise SystemExit("the loss is not finite")
            if args.out and now - exported > args.export_minutes * 60:
                write_model(model.export(), config, TEMPLATES, args.base / "tokenizer.json", args.out)
                mark = exported = time.time()
            if now > deadline or (args.steps and step - first_step >= args.steps):
                break
            if elapsed >= args.total_minutes * 60:
                break
    del batches, loader
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "elapsed": elapsed,
                "step": step}, checkpoint)
    if args.out:
        write_model(model.export(), config, TEMPLATES, args.base / "tokenizer.json", args.out)
    print(f"stopped at step {step}, {elapsed / 60:.2f} min trained, wall {time.time() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
