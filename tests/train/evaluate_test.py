"""Memories grow with documents that give no question a second right answer; later rounds rank what is new, as the engine."""

import itertools
import json
import random
import re
import sys
import unittest
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "train"))

from evaluate import Asker, Bank, distractors, held_out, names_asked  # noqa: E402
from msa.batch import TEMPLATES  # noqa: E402
from msa.model import MsaTrainer  # noqa: E402
from msa.reference import Templates, load_weights  # noqa: E402
from msa.world import LISTS, World  # noqa: E402


class GrowthTest(unittest.TestCase):
    def test_strangers_bear_no_name_asked_for_and_own_none_of_the_users_things(self):
        texts, kinds = held_out(2024, 30, [])
        names = names_asked(2024, texts, kinds)
        self.assertGreater(len(names), 20)
        own = [name for kind in ("thing", "event", "service") for name in LISTS[kind]]
        unwanted = re.compile(r"\b(?:" + "|".join(map(re.escape, [*own, *names])) + r")\b")
        grown = list(itertools.islice(distractors(2024, [], names), 5000))
        self.assertEqual([text for text in grown if unwanted.search(text)], [])
        # What must not come does come up in worlds that are not asked about: the filter has work to do.
        self.assertTrue(any(unwanted.search(text) for text in World(random.Random(2025), 300, evaluation=True).documents))


class NewsTest(unittest.TestCase):
    def test_what_scored_before_counts_less(self):
        folder = ROOT / "models/default"
        model = MsaTrainer(json.loads((folder / "config.json").read_text()))
        model.load(load_weights(folder))
        model.compute_dtype = torch.float32
        model.refresh()
        t = Templates(folder / "tokenizer.json", dict(TEMPLATES))
        texts = ["Ada has a ferret named Pip.", "Ada likes soup.", "Pip sees the vet Dr. Moss.", "Ada lives in Oslo.", "It rained."]
        with torch.no_grad():
            asker = Asker(model, t, Bank(model, t, texts, "cpu"))
            first, second = ([asker.writer.question(q)] for q in ("Who is the vet of Ada's ferret?", "Who is the vet of Pip?"))
            scores = {}
            for share in (0.0, 0.7):
                asker.news = share
                before = [torch.empty(0)]
                asker.ranked(first, before)
                former = before[0]
                ranked, _ = asker.ranked(second, before)
                scores[share] = list(ranked[0]), former, before[0]
        self.assertEqual(scores[0.0][1].numel(), 0)  # nothing is kept where nothing is taken off
        ranked, former, now = scores[0.7]
        expected = sorted(range(len(texts)), key=lambda p: -(now[p] - 0.7 * former[p]).item())
        self.assertEqual(ranked, [asker.bank.order[p] for p in expected])
        self.assertNotEqual(ranked, scores[0.0][0])

    def test_settings_for_large_memories(self):
        asker = Asker.__new__(Asker)
        asker.bank = type("", (), {"texts": ["a"] * 3})
        for value, large in ((False, False), (True, True), (3, True), (4, False), (0, True)):
            asker.t = type("", (), {"strings": {"numbers_by_rank": value}})
            self.assertEqual(asker._large("numbers_by_rank"), large, value)


if __name__ == "__main__":
    unittest.main()
