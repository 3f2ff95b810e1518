"""A model folder of random weights, small enough to try every stage on a CPU: it answers nonsense.

    python3 train/tiny_base.py --tokenizer models/default/tokenizer.json --out build/tiny
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from msa.batch import TEMPLATES
from msa.export import write_model
from msa.model import MsaTrainer
from train import ROUTING

CONFIG = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 32, "rms_norm_eps": 1e-5, "rope_theta": 100000.0, "vocab_size": 49152,
    "tie_word_embeddings": True, "eos_token_id": 2, "max_position_embeddings": 8192,
    "msa_config": {**ROUTING, "router_layer_idx": "2,3"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.manual_seed(1)
    write_model(MsaTrainer(CONFIG).export(), CONFIG, TEMPLATES, args.tokenizer, args.out)
    print(f"{args.out} written")


if __name__ == "__main__":
    main()
