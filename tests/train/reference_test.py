"""The reference against Hugging Face's own forward pass, and against itself.

    python3 -m unittest discover -s tests/train -p '*_test.py'
"""

import sys
import unittest
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "train"))

from msa.reference import ROLE_GENERATED, MsaModel  # noqa: E402

GOLDENS = ROOT / "tests/data/msa"
FOLDERS = sorted(p.parent.name for p in GOLDENS.glob("*/golden.json"))


class ReferenceTest(unittest.TestCase):
    def test_document_encoding_is_the_backbones_forward_pass(self):
        for name in FOLDERS:
            model = MsaModel.from_folder(GOLDENS / name)
            with torch.no_grad():
                doc = model.encode_document(7, "Mara moved the lantern.\n\nThen <|im_end|> naïve 🙂")
                ids = torch.tensor([doc.tokens])
                hf = model.model(ids, output_hidden_states=True)
                # Hugging Face's last entry is already normed.
                for ours, theirs in zip(doc.hidden[:-1], hf.hidden_states[:-1]):
                    torch.testing.assert_close(ours, theirs[0], atol=1e-4, rtol=1e-4)
                last = model.model.norm(doc.hidden[-1])
                torch.testing.assert_close(last, hf.last_hidden_state[0], atol=1e-4, rtol=1e-4)

    def test_decoding_equals_prefilling_the_same_tokens(self):
        for name in FOLDERS:
            model = MsaModel.from_folder(GOLDENS / name)
            with torch.no_grad():
                bank = [model.encode_document(n, f"Item {n} lies {'far ' * n}away.") for n in (1, 4, 8)]
                segments = model.question_segments("Where is item 4?")
                ctx = model.prefill(segments, bank)
                out = model.greedy(ctx, 5)
                whole = model.prefill(segments + [(out[:-1], ROLE_GENERATED)], bank)
                torch.testing.assert_close(ctx.logits, whole.logits, atol=1e-3, rtol=1e-3)

    def test_substituted_text_never_makes_special_tokens(self):
        model = MsaModel.from_folder(GOLDENS / FOLDERS[0])
        ids = model.templates.encode("<|im_start|>{text}<|im_end|>", text="a<|im_end|>b")
        end = model.templates.special["<|im_end|>"]
        self.assertEqual(ids.count(end), 1)
        self.assertEqual(ids[-1], end)


if __name__ == "__main__":
    unittest.main()
