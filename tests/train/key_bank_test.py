"""The bank of routing keys gives the loss of a plain reference, and no document of the same name as a negative."""

import json
import sys
import unittest
import unittest.mock
from pathlib import Path

import torch
import torch.nn.functional as F

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "train"))

from msa.model import Documents, KeyBank, Memory, MsaTrainer, Queries  # noqa: E402
from msa.reference import load_weights  # noqa: E402

GOLDENS = ROOT / "tests/data/msa"
NONE = -1e4


def memory_of(keys, chunks):
    """A memory whose documents have `chunks` rows each of the keys, one layer after another."""
    c_max, at, rows = max(chunks), 0, []
    for n in chunks:
        rows.append(list(range(at, at + n)) + [0] * (c_max - n))
        at += n
    mask = torch.arange(c_max)[None] < torch.tensor(chunks)[:, None]
    return Memory([], [], keys, torch.tensor(rows), mask, [])


def queries(names, wide, n_documents=3):
    b = len(names)
    ids = torch.zeros(b, 4, dtype=torch.long)
    positive = torch.zeros(b, n_documents, dtype=torch.bool)
    positive[:, 0] = True
    on = torch.ones(b, dtype=torch.bool)
    return Queries(ids, ids > 0, ids, positive, ~on[:, None] & positive, on, on, None, torch.tensor(names), torch.tensor(wide))


class KeyBankTest(unittest.TestCase):
    def setUp(self):
        self.gen = torch.Generator().manual_seed(5)
        self.rand = lambda *shape: torch.randn(*shape, generator=self.gen)

    def bank(self, hardest, parts):
        bank = KeyBank(len(parts), hardest)
        for keys, chunks, names in parts:
            bank.add(Documents([], torch.tensor(names)), memory_of(keys, chunks), torch.float32)
        return bank

    def test_scores_are_those_of_plain_loops(self):
        parts = [([self.rand(4, 6), self.rand(4, 6)], [1, 3], [[11, 0], [12, 13]]),
                 ([self.rand(3, 6), self.rand(3, 6)], [2, 1], [[14, 0], [0, 0]])]
        names, wide = [[11, 99], [14, 13], [0, 0], [7, 0]], [True, True, True, False]
        owner = torch.tensor([0, 0, 0, 1, 2, 2, 3])
        for hardest, at_once in ((2, 32), (4, 2), (16, 1)):
            self.enterContext(unittest.mock.patch("msa.model.SAMPLES_AT_ONCE", at_once))
            bank = self.bank(hardest, parts)
            self.assertTrue(bank.full())
            bank.begin([queries(names, wide)], owner)
            for layer in (0, 1):
                folded = self.rand(7, 6).requires_grad_()
                got = bank.scores(layer, folded)
                self.assertEqual(got.shape, (4, hardest))
                for sample in range(4):
                    want = []
                    for keys, chunks, document_names in parts:
                        row = 0
                        for n, said in zip(chunks, document_names):
                            for key in keys[layer][row : row + n]:
                                if wide[sample] and not set(said) & set(names[sample]) - {0}:
                                    want.append(max(folded[t] @ key for t in range(7) if owner[t] == sample))
                            row += n
                    want = sorted(want, key=lambda s: -s.item())[:hardest]
                    want_row = torch.stack(want) if want else torch.zeros(0)
                    live = got[sample][got[sample] > NONE]
                    torch.testing.assert_close(live, want_row, atol=1e-5, rtol=1e-5)
                    if want:
                        one, = torch.autograd.grad(live.logsumexp(0), folded, retain_graph=True)
                        two, = torch.autograd.grad(want_row.logsumexp(0), folded, retain_graph=True)
                        torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-5)

    def test_only_the_last_steps_are_kept(self):
        part = lambda: ([self.rand(2, 6)], [1, 1], [[1, 0], [2, 0]])
        bank = KeyBank(2)
        for n in (1, 2, 2):
            keys, chunks, names = part()
            bank.add(Documents([], torch.tensor(names)), memory_of(keys, chunks), torch.float32)
            self.assertEqual(len(bank.parts), n)
        self.assertIs(bank.parts[-1][0][0].requires_grad, False)
        torch.testing.assert_close(bank.parts[-1][0][0], keys[0])

    def test_nobody_to_set_against(self):
        bank = self.bank(3, [([self.rand(2, 6)], [1, 1], [[1, 0], [2, 0]])])
        bank.begin([queries([[5, 0]], [False])], torch.tensor([0, 0]))
        self.assertTrue((bank.scores(0, self.rand(2, 6)) <= NONE).all())

    def test_loss_is_that_of_one_memory_with_the_banks_chunks_as_negatives(self):
        folder = GOLDENS / "llama-decoupled-cosine"
        model = MsaTrainer(json.loads((folder / "config.json").read_text()))
        model.load(load_weights(folder))
        model.refresh()
        draw = lambda *shape: torch.randint(1, 300, shape, generator=self.gen)
        prefix = torch.tensor([1, 2, 3])
        old = Documents([(draw(4, 24), torch.full((4,), 24))], torch.tensor([[1], [2], [3], [4]]))
        new = Documents([(draw(6, 24), torch.full((6,), 24))], torch.zeros(6, 1, dtype=torch.int32))
        b, n = 3, 16
        positive = torch.zeros(b, 6, dtype=torch.bool)
        positive[torch.arange(b), torch.tensor([2, 0, 5])] = True
        neutral = torch.zeros_like(positive)
        neutral[0, 3] = True
        targets = torch.full((b, n), -100)
        targets[:, -1] = 7
        on = torch.ones(b, dtype=torch.bool)
        wide = torch.tensor([True, True, False])
        q = Queries(draw(b, n), torch.ones(b, n, dtype=torch.bool), targets, positive, neutral, ~on, on, None,
                    torch.tensor([[2], [9], [9]]), wide)
        bank = KeyBank(1, 64)
        bank.add(old, model.encode(old, prefix), torch.float32)
        memory = model.encode(new, prefix)
        got = model.losses([q], memory, 0.1, bank)
        plain = model.losses([q], memory, 0.1)
        self.assertGreater(got["route"].item(), plain["route"].item())
        self.assertTrue((got["hit1_wide"] <= got["hit1"]).all())
        # The same by the formula: folded queries are taken out of a call, and every chunk of the bank is scored.
        folded, inner = [], model.folded_queries
        model.folded_queries = lambda *a: folded.append(inner(*a)) or folded[-1]
        _, scores, _ = model.answer([q], memory)
        keys, names = bank.parts[0]
        want = 0.0
        for r, s in enumerate(scores):
            tokens = folded[r].view(b, n, -1)
            for i in range(b):
                negatives = [s[i, j] for j in range(6) if not positive[i, j] and not neutral[i, j]]
                if wide[i]:
                    negatives += [(tokens[i] @ key).max() for key, said in zip(keys[r], names) if said[0] != q.names[i, 0]]
                rest = torch.stack(negatives).div(0.1).logsumexp(0)
                want = want + F.softplus(rest - s[i][positive[i]][0] / 0.1) / b / len(scores)
        torch.testing.assert_close(got["route"], want, atol=1e-4, rtol=1e-4)
        one, = torch.autograd.grad(got["route"], model.p["router_q"], retain_graph=True)
        two, = torch.autograd.grad(want, model.p["router_q"])
        torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-3)


if __name__ == "__main__":
    unittest.main()
