"""The batched training model gives what the reference's golden files say."""

import json
import sys
import unittest
from pathlib import Path

import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "train"))

from msa.model import Documents, MsaTrainer, Queries, fake_int4  # noqa: E402
from msa.quantize import dequantize_q4, quantize_q4  # noqa: E402
from msa.reference import MsaModel, load_weights  # noqa: E402

GOLDENS = ROOT / "tests/data/msa"


def pad(rows, width):
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    for row, tokens in zip(ids, rows):
        row[: len(tokens)] = torch.tensor(tokens)
    return ids, torch.tensor([len(r) for r in rows])


class ModelTest(unittest.TestCase):
    def check(self, name, scenario):
        folder = GOLDENS / name
        golden = json.loads((folder / "golden.json").read_text())
        tensors = load_file(folder / "golden.safetensors")
        s = next(x for x in golden["scenarios"] if x["name"] == scenario)
        model = MsaTrainer(json.loads((folder / "config.json").read_text()))
        model.load(load_weights(folder))
        model.refresh()
        # Two buckets of different padding: results must not depend on the packing.
        docs = sorted(s["documents"], key=lambda d: len(d["tokens"]) > 40)
        n_short = sum(len(d["tokens"]) <= 40 for d in docs)
        rows = [d["tokens"] for d in docs]
        buckets = [pad(part, w) for part, w in ((rows[:n_short], 48), (rows[n_short:], 320)) if part]
        head = MsaModel.from_folder(folder).templates.encode("<|im_start|>user\n")
        tokens = [t for p in s["prompt"] for t in p["tokens"]]
        role0 = [p["role"] == 0 for p in s["prompt"] for _ in p["tokens"]]
        ids, _ = pad([tokens, tokens[:5]], len(tokens) + 3)
        roles = torch.zeros(ids.shape, dtype=torch.bool)
        roles[0, : len(tokens)] = torch.tensor(role0)
        roles[1, :5] = True
        none = torch.zeros(2, len(rows), dtype=torch.bool)
        off, on = torch.zeros(2, dtype=torch.bool), torch.ones(2, dtype=torch.bool)
        queries = Queries(ids, roles, ids * 0 - 100, none, none, off, on)
        with torch.no_grad():
            memory = model.encode(Documents(buckets), torch.tensor(head))
            x, scores, chosen = model.answer([queries], memory)
            logits = model.logits(x.view(2, ids.shape[1], -1)[0, len(tokens) - 1])
        order = sorted(range(len(docs)), key=lambda j: docs[j]["number"])
        for r, (layer, selected) in enumerate(s["selected"].items()):
            torch.testing.assert_close(
                scores[r][0][order], tensors[f"{scenario}.scores"][r], atol=2e-5, rtol=2e-4)
            got = [docs[j]["number"] for j in chosen[r][0].tolist()]
            self.assertEqual(got, selected, f"{name} {scenario} layer {layer}")
        torch.testing.assert_close(logits, tensors[f"{scenario}.logits"], atol=2e-4, rtol=2e-4)

    def test_goldens(self):
        for folder in sorted(GOLDENS.glob("*/golden.json")):
            for s in json.loads(folder.read_text()).get("scenarios", ()):  # interleave/ has rounds instead
                if s["documents"]:
                    with self.subTest(case=folder.parent.name, scenario=s["name"]):
                        self.check(folder.parent.name, s["name"])

    def test_fake_int4_is_the_folders_int4(self):
        w = torch.randn(6, 64, generator=torch.Generator().manual_seed(1))
        stored = dequantize_q4(*quantize_q4(w.numpy()))
        torch.testing.assert_close(fake_int4(w), torch.from_numpy(stored), atol=1e-6, rtol=0)

    def test_loss_reaches_document_encoder_and_router(self):
        folder = GOLDENS / "llama-decoupled-cosine"
        model = MsaTrainer(json.loads((folder / "config.json").read_text()))
        model.load(load_weights(folder))
        model.refresh()
        gen = torch.Generator().manual_seed(3)
        docs = torch.randint(0, 300, (6, 24), generator=gen), torch.full((6,), 24)
        ids = torch.randint(0, 300, (2, 16), generator=gen)
        targets = torch.full((2, 16), -100)
        targets[:, -1] = 5
        positive = torch.zeros(2, 6, dtype=torch.bool)
        positive[:, 2] = True
        on = torch.ones(2, dtype=torch.bool)
        q = Queries(ids, torch.ones(2, 16, dtype=torch.bool), targets, positive, ~on[:, None] & positive, on, on)
        memory = model.encode(Documents([docs]), torch.tensor([1, 2, 3]))
        losses = model.losses([q], memory, 0.1)
        losses["tokens"].backward(retain_graph=True)
        self.assertGreater(memory_gradient := model.p["v"].grad.abs().sum().item(), 0)
        self.assertIsNone(model.p["router_k"].grad)
        losses["route"].backward()
        self.assertGreater(model.p["router_k"].grad.abs().sum().item(), 0)
        self.assertGreater(model.p["router_q"].grad.abs().sum().item(), 0)
        self.assertTrue(memory_gradient < float("inf"))


if __name__ == "__main__":
    unittest.main()
