"""Questions in other words keep what they ask for, and are none of the evaluation's."""
import os
import random
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

from data import grammar, wording
from data.banks import PREFIX_PARTS
from data.natural import CLOZE

TEXT = ("The curator of the museum keeps 114 violins in the northern tower. Every violin was restored by Tomasz Weglarz. "
        "Visitors may hear them on the second Sunday of the month, when the ensemble rehearses in the courtyard.")


class Wording(unittest.TestCase):
    def test_names_and_rare_words_stay(self):
        for seed in range(200):
            text = wording.reworded("What is the phone number of Ada Bell in Norwich?", random.Random(seed)).lower()
            self.assertTrue(all(w in text for w in ("phone", "number", "ada", "bell", "norwich")), text)

    def test_lead_ins_are_not_the_evaluations(self):
        held = {p.strip() for split in ("valid", "test") for p in PREFIX_PARTS[split]} - {p.strip() for p in PREFIX_PARTS["train"]}
        self.assertTrue(held)
        self.assertFalse(held & {lead.strip() for lead in wording.LEADS})
        self.assertFalse({f.replace("{}", "{c}") for f in wording.GAPS} & set(grammar.split_list(CLOZE, "test")))

    def test_query_is_made_of_the_rarest_words(self):
        rare = wording.RareWords([TEXT] + ["the museum and the month of visitors when they hear every second of the tower"] * 5)
        self.assertNotIn("museum", rare.of(TEXT, 7))
        for seed in range(50):
            query = rare.query(TEXT, random.Random(seed))
            asked = [w for w in wording.words(query) if w in wording.words(TEXT) and len(w) > 3 and w not in wording.STOP]
            self.assertGreater(len(asked), 1, query)
        self.assertIsNone(rare.query("Too short for it.", random.Random(1)))

    def test_gap_is_a_word_that_the_text_has_once(self):
        seen = set()
        for seed in range(100):
            question, answer = wording.gap(TEXT, random.Random(seed))
            self.assertEqual(TEXT.lower().count(answer.lower()), 1, answer)
            self.assertNotIn(answer.lower(), question.lower())
            sentence = question.split(": ", 1)[-1].split("? ", 1)[-1].replace("____", answer)
            self.assertIn(sentence, TEXT)
            seen.add(answer)
        self.assertGreater(len(seen), 4)
        self.assertIsNone(wording.gap("No sentence here that is long enough.", random.Random(1)))


if __name__ == "__main__":
    unittest.main()
