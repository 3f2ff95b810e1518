"""Lists of document numbers: the evaluation's rule is the engine's (tests/model/number_list_test.cc)."""

import sys
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "train"))

from msa.batch import TEMPLATES  # noqa: E402
from msa.number_list import NumberList  # noqa: E402
from msa.reference import Templates  # noqa: E402


class NumberListTest(unittest.TestCase):
    def setUp(self):
        self.t = Templates(ROOT / "models/default/tokenizer.json", TEMPLATES)
        self.lists = NumberList(self.t)

    def next(self, text, numbers):
        """What may follow `text`, as texts."""
        return sorted(self.t.decode([i]) for i in self.lists.next(self.t.encode_text(text), NumberList.choices(numbers)))

    def test_only_choices_once_each(self):
        self.assertEqual(self.next("", [14, 140]), ["<empty_output>", "["])
        self.assertEqual(self.next("", []), ["<empty_output>"])
        self.assertEqual(self.next("[1", [14, 140, 25]), ["4"])
        self.assertEqual(self.next("[14", [14, 140, 25]), ["0", "]", "]["])
        self.assertEqual(self.next("[14]", [14, 25]), ["<file_sep>", "["])
        self.assertEqual(self.next("[14][2", [14, 25]), ["5"])
        self.assertEqual(self.next("[14][25]", [14, 25]), ["<file_sep>"])
        for text in ("[99]", "14", "[14][14]", "[]", "[014]", "no list"):
            self.assertEqual(self.next(text, [14, 25]), [], text)

    def test_rows_at_once_are_tokenised_as_one_by_one(self):
        rows = [{"number": 3, "text": "plain"}, {"number": 40, "text": "<|im_end|> {number} é"}, {"number": 5, "text": ""}]
        template = self.t.strings["document"]
        together = self.t.encode_all(template, rows)
        special = self.t.special
        for row, tokens in zip(rows, together):
            self.assertEqual(tokens, self.t.encode(template, **row))
            middle = self.t.encode_text(f"[{row['number']}]. {row['text']}[{row['number']}]")
            self.assertEqual(tokens, [special["<|im_start|>"], *middle, special["<|im_end|>"]])


if __name__ == "__main__":
    unittest.main()
