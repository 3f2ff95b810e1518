"""Words and their overlaps as tests/model/words_test.cc has them."""

import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "train"))

from msa.words import overlaps, words  # noqa: E402


class WordsTest(unittest.TestCase):
    def test_letters_and_digits_in_lower_case(self):
        self.assertEqual(words("Dr. Élodie's pet_1, ÜBER 3.5 x²!"), {"dr", "élodie", "s", "pet_1", "über", "3", "5", "x²"})
        self.assertEqual(words("“Quoted”—twice…"), {"quoted", "twice"})
        self.assertEqual(words("Анна и ΑΘΗΝΑ"), {"анна", "и", "αθηνα"})
        self.assertEqual(words("abc東京x。ひら"), {"abc", "東", "京", "x", "ひ", "ら"})

    def test_overlaps(self):
        texts = ["Mokie gets its shots from Chloe.", "When Lokie limps, Sam has a look.",
                 "Lokie is Oliver's parrot; LOKIE sings.", "It rained."]
        held = overlaps(words("Which vet has a look at Lokie?"), [words(t) for t in texts])
        for value, expected in zip(held, (0, 1, 0.3154221, 0)):
            self.assertAlmostEqual(value, expected, places=6)
        self.assertEqual(overlaps(words("Who?"), [words("One.")]), [0])


if __name__ == "__main__":
    unittest.main()
