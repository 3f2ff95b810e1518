"""Memories grow with documents that give no question a second right answer."""

import itertools
import random
import re
import sys
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "train"))

from evaluate import distractors, held_out, names_asked  # noqa: E402
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


if __name__ == "__main__":
    unittest.main()
