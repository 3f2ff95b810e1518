"""Banks are deterministic, their steps point at the evidence, and answers are unique."""
import os
import random
import re
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

import data
from data.banks import Builder
from data.natural import Natural
from data.schema import NOT_IN_MEMORY, normalize

from test_data_splits import RECORDS

NATURAL = Natural(RECORDS)
EXTRACTIVE = ("single", "two", "three", "latest-version", "chat", "needle", "list", "natural-pair", "natural-qa")


class Banks(unittest.TestCase):
    def banks(self, split="train", mix=None, count=4, questions=40):
        return [data.make_bank(seed, split, 120, questions, mix, NATURAL) for seed in range(count)]

    def test_same_seed_same_bank_with_any_worker_count(self):
        alone = list(data.iter_banks(7, workers=0, count=4, documents=64, questions=8))
        shared = list(data.iter_banks(7, workers=2, count=4, documents=64, questions=8))
        self.assertEqual(alone, shared)
        self.assertEqual(list(data.iter_banks(7, start=2, count=2, documents=64, questions=8)), alone[2:])
        self.assertNotEqual(alone[0], alone[1])

    def test_steps_are_distinct_valid_documents(self):
        for split in ("train", "valid", "test"):
            for bank in self.banks(split):
                for q in bank.questions:
                    flat = [i for step in q.steps for i in step]
                    self.assertEqual(len(flat), len(set(flat)), q)
                    self.assertTrue(all(0 <= i < len(bank.documents) for i in flat), q)
                    self.assertTrue(all(step for step in q.steps), q)
                    self.assertEqual(q.split, split)

    def test_answers_stand_in_the_last_step(self):
        for split in ("train", "valid", "test"):
            for bank in self.banks(split):
                for q in bank.questions:
                    if q.kind not in EXTRACTIVE:
                        continue
                    text = " ".join(bank.documents[i] for i in q.steps[-1])
                    for part in q.parts:
                        self.assertIn(normalize(part), normalize(text), q)

    def test_the_newest_version_is_the_answer(self):
        for bank in self.banks(mix={"latest-version": 1}):
            for q in bank.questions:
                (step,) = q.steps
                self.assertGreaterEqual(len(step), 2)
                self.assertIn(q.answer.lower(), bank.documents[step[-1]].lower(), q)

    def test_two_hop_bridges_connect(self):
        """Some name of the first document is what the second document is about."""
        for bank in self.banks(mix={"two": 1}):
            for q in bank.questions:
                first, second = (bank.documents[step[0]] for step in q.steps)
                shared = set(re.findall(r"[A-Z][a-z]{3,}", first)) & set(re.findall(r"[A-Z][a-z]{3,}", second))
                self.assertTrue(shared, (q, first, second))
                self.assertGreaterEqual(len(q.template.split("+")), 2)

    def test_unanswerable_questions_say_so_and_nobody_states_the_fact(self):
        seen = 0
        for bank in self.banks("test", {"unanswerable": 1}):
            for q in bank.questions:
                seen += 1
                self.assertEqual(q.answer, NOT_IN_MEMORY)
                self.assertEqual(q.answer_long, NOT_IN_MEMORY)
                self.assertLessEqual(len(q.steps), 1)
        self.assertEqual(seen, 160)
        for bank in self.banks("train"):
            for q in bank.questions:
                self.assertEqual(q.answer == NOT_IN_MEMORY, q.kind == "unanswerable")

    def test_one_fact_has_one_source(self):
        """No relation of a subject is stated twice except where versions or lists want it."""
        for seed in range(6):
            builder = Builder(random.Random(seed), "train", None)
            stated = {}
            original = builder.writer.fact

            def spy(relation, subject, object=None):
                fact = original(relation, subject, object)
                stated.setdefault((relation.name, subject), set()).add(fact.object)
                return fact

            builder.writer.fact = spy
            for _ in range(25):
                for kind in ("single", "two", "three", "unanswerable", "compare"):
                    builder.one(kind)
            twice = {key: values for key, values in stated.items() if len(values) > 1}
            self.assertFalse(twice)

    def test_documents_carry_no_numbers_of_their_own(self):
        for bank in self.banks():
            for text in bank.documents:
                self.assertFalse(re.match(r"\[\d+\]", text), text)
                self.assertNotIn("{s}", text)
                self.assertNotIn("{o}", text)
                self.assertNotIn("<|im_", text)

    def test_grow_keeps_questions_and_reaches_the_size(self):
        bank = data.make_bank(1, "test", 50, 10)
        grown = data.grow(bank, 40000, 3)
        size = sum(map(data.approx_tokens, grown.documents))
        self.assertTrue(39000 <= size <= 40000, size)
        for old, new in zip(bank.questions, grown.questions):
            self.assertEqual([[bank.documents[i] for i in s] for s in old.steps],
                             [[grown.documents[i] for i in s] for s in new.steps])
        self.assertEqual(grown, data.grow(bank, 40000, 3))

    def test_filler_never_names_a_subject_of_the_questions(self):
        bank = data.make_bank(2, "test", 0, 60)
        source = data.filler(9, "test")
        text = "\n".join(next(source) for _ in range(1500))
        for q in bank.questions:
            if q.kind == "single":
                for name in re.findall(r"[A-Z][a-z]+ [A-Z][a-z]+", q.question.split(": ")[-1]):
                    if all(data.lexicon.split_of(w) == "test" for w in name.split()) and name in text:
                        self.assertTrue(data.lexicon.is_filler(name), name)


class Needles(unittest.TestCase):
    def test_all_eight_forms(self):
        self.assertEqual(len(data.NIAH_FORMS), 8)
        for form in data.NIAH_FORMS:
            bank = data.niah(form, 1, 12000, questions=5)
            size = sum(map(data.approx_tokens, bank.documents))
            self.assertTrue(11000 <= size <= 12000, (form, size))
            text = "\n".join(bank.documents)
            for q in bank.questions:
                wanted = 4 if form in ("multivalue", "multiquery") else 1
                self.assertEqual(len(q.parts), wanted)
                for part, index in zip(q.parts, q.steps[0]):
                    self.assertIn(part, bank.documents[index])
                    self.assertEqual(text.count(part), 1)
            self.assertEqual(bank, data.niah(form, 1, 12000, questions=5))

    def test_unknown_names_are_refused_with_the_choices(self):
        with self.assertRaisesRegex(ValueError, "single_1"):
            data.niah("nope", 1, 1000)
        with self.assertRaisesRegex(ValueError, "paraphrase"):
            data.eval_set("nope")


class EvalSets(unittest.TestCase):
    def test_every_set_is_of_the_test_split(self):
        for name in data.EVAL_SETS:
            bank = data.eval_set(name, questions=10, natural=NATURAL)
            self.assertEqual({q.split for q in bank.questions}, {"test"}, name)
            self.assertEqual(len(bank.questions), 10)
        tags = [t for q in data.eval_set("paraphrase", questions=20).questions for t in q.tags]
        self.assertEqual(tags.count("paraphrase"), 20)
        tags = [t for q in data.eval_set("unseen-relation", questions=20).questions for t in q.tags]
        self.assertEqual(tags.count("unseen-relation"), 20)

    def test_prose_questions_point_at_passages_with_their_answer(self):
        bank = data.prose()
        self.assertGreaterEqual(len(bank.questions), 100)
        self.assertEqual(len({q.question for q in bank.questions}), len(bank.questions))
        self.assertEqual(len(set(bank.documents)), len(bank.documents))
        for q in bank.questions:
            if q.kind == "unanswerable":
                self.assertEqual((q.steps, q.answer), ([], NOT_IN_MEMORY))
            else:
                self.assertIn(normalize(q.answer), normalize(bank.documents[q.steps[-1][0]]), q)


class Scores(unittest.TestCase):
    def question(self, answer, parts=None):
        return data.Question("?", [[0]], answer, f"It is {answer}.", "single", "test", "t", [], parts or [answer])

    def test_exact_match(self):
        q = self.question("the compass room")
        self.assertTrue(data.exact_match("The answer to the question is: compass room.<|im_end|>", q))
        self.assertTrue(data.exact_match("It is the compass room.", q))
        self.assertFalse(data.exact_match("the compass rooms", q))
        self.assertFalse(data.exact_match("", q))

    def test_parts_in_any_order(self):
        q = self.question("a1, b2", ["a1", "b2"])
        self.assertTrue(data.exact_match("b2 and a1", q))
        self.assertFalse(data.exact_match("b2", q))
        self.assertEqual(data.parts_recall("b2, c3", q), 0.5)

    def test_f1(self):
        q = self.question("red Fiat Panda")
        self.assertEqual(data.f1("red Fiat Panda", q), 1.0)
        self.assertAlmostEqual(data.f1("a blue Fiat Panda", q), 2 / 3)
        self.assertEqual(data.f1("nothing", q), 0.0)


if __name__ == "__main__":
    unittest.main()
