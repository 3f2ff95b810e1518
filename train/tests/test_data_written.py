"""Written questions are answered by their passages, and nothing of the evaluation's prose or names is among them."""
import os
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

import data
from data import reading
from data.written import load_written

TRAIN, HELD_OUT = load_written(evaluation=False), load_written(evaluation=True)


class Written(unittest.TestCase):
    def test_there_are_enough_of_both_splits(self):
        self.assertGreater(len(TRAIN), 800)
        self.assertGreater(len(HELD_OUT), 60)
        self.assertTrue(any(row["g"].startswith("note/") for row in HELD_OUT))
        self.assertTrue(any(not row["g"].startswith("note/") for row in HELD_OUT))

    def test_answers_are_spans_that_the_question_does_not_give_away(self):
        for row in TRAIN + HELD_OUT:
            self.assertTrue(row["qa"], row["g"])
            for question, answer in row["qa"]:
                self.assertIn(answer, row["text"], row["g"])
                self.assertLessEqual(len(answer.split()), 14, row["g"])
                if len(answer) > 3:
                    self.assertNotIn(answer.lower(), question.lower(), row["g"])

    def test_a_question_has_one_answer(self):
        answers: dict[str, str] = {}
        for row in TRAIN + HELD_OUT:
            for question, answer in row["qa"]:
                self.assertEqual(answers.setdefault(question.lower(), answer), answer, question)

    def test_splits_share_no_text_and_no_question(self):
        ours = {q.lower() for row in TRAIN for q, _ in row["qa"]}
        held = {q.lower() for row in HELD_OUT for q, _ in row["qa"]}
        self.assertFalse(ours & held)
        grams = set().union(*(reading.grams(row["text"]) for row in TRAIN))
        for row in HELD_OUT:
            self.assertFalse(reading.grams(row["text"]) & grams, row["g"])

    def test_the_prose_of_the_evaluation_is_not_among_them(self):
        bank = data.prose()
        held = set().union(*(reading.grams(text) for text in bank.documents))
        asked = {q.question.lower() for q in bank.questions}
        for row in TRAIN + HELD_OUT:
            self.assertFalse(reading.grams(row["text"]) & held, row["g"])
            self.assertFalse({q.lower() for q, _ in row["qa"]} & asked, row["g"])


if __name__ == "__main__":
    unittest.main()
