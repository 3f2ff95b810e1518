"""Rosters state what their questions ask, once; and the evaluation's forms and names stay out of training."""
import os
import random
import re
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

from data.lexicon import person_parts
from data.rosters import RosterWriter, load, topics


def rosters(split: str, seeds: int = 12, count: int = 25, taken: str = ""):
    for seed in range(seeds):
        writer = RosterWriter(random.Random(f"{split}/{seed}"), split, taken)
        for _ in range(count):
            roster = writer.roster()
            if roster:
                yield seed, roster


class Rosters(unittest.TestCase):
    def test_every_form_has_held_out_ones(self):
        for topic in load()[1]:
            for a in topic.attributes:
                for forms in (a.sentences, a.questions, *([a.reverse] if a.reverse else [])):
                    self.assertGreater(len(forms), 2, f"{topic.titles[0]}, {a.label}")
                    self.assertEqual(len(set(forms)), len(forms), f"{topic.titles[0]}, {a.label}")
                self.assertTrue(all("{v}" in f for f in a.sentences + a.follows + a.reverse), a.label)
                self.assertTrue(all("{e}" in f or "{x}" in f for f in a.questions), a.label)

    def test_topics_and_forms_are_split(self):
        self.assertGreater(len(load()[1]) - len(topics("train")), 1)
        self.assertEqual(len(topics("test")), len(load()[1]))
        kept = [re.compile("^" + ".+".join(map(re.escape, re.split(r"\{\w\}", f))) + "$")
                for t in load()[1] for a in t.attributes for f in (a.questions if t.held_out else a.questions[-1:])]
        trained = {f for t in topics("train") for a in t.attributes for f in a.questions[:-1]}
        kept = [k for k in kept if not any(k.fullmatch(f) for f in trained)]  # a form that two topics share
        self.assertGreater(len(kept), 40)
        for seed, roster in rosters("train"):
            for question, _ in roster.facts:
                self.assertFalse(any(k.fullmatch(question) for k in kept), f"seed {seed}: {question}")

    def test_answers_are_in_the_text(self):
        for split in ("train", "test"):
            for seed, roster in rosters(split):
                for question, answer in roster.facts:
                    said = answer.removeprefix("the ")
                    self.assertIn(said.lower(), roster.text.lower(), f"seed {seed}: {question}")

    def test_nothing_is_left_open(self):
        for split in ("train", "test"):
            for seed, roster in rosters(split):
                for text in (roster.text, *roster.missing, *(part for fact in roster.facts for part in fact)):
                    self.assertNotRegex(text, r"\{\w*\}|\[\w+\|", f"seed {seed}")

    def test_values_of_an_attribute_differ(self):
        """Otherwise a confused entity would give the right answer."""
        for seed, roster in rosters("train"):
            self.assertGreater(len(roster.table), 1)
            for label in {label for values in roster.table.values() for label in values}:
                said = [values[label].lower() for values in roster.table.values() if label in values]
                self.assertEqual(len(set(said)), len(said), f"seed {seed}: {label}")

    def test_a_question_has_one_answer_in_a_memory(self):
        for split in ("train", "test"):
            for seed in range(12):
                writer, answers = RosterWriter(random.Random(seed), split), {}
                for _ in range(25):
                    roster = writer.roster()
                    for question, answer in roster.facts if roster else ():
                        self.assertEqual(answers.setdefault(question.lower(), answer), answer, f"seed {seed}: {question}")
                    for question in roster.missing if roster else ():
                        self.assertNotIn(question.lower(), answers, f"seed {seed}")
                        answers[question.lower()] = None

    def test_entities_that_the_memory_names_already_are_not_used(self):
        taken = "The plumber was here. The router hums. We go to the library and the museum."
        for seed, roster in rosters("train", taken=taken):
            self.assertFalse({"plumber", "router", "library", "museum"} & set(roster.table), f"seed {seed}")

    def test_evaluation_names_do_not_occur(self):
        first, last = person_parts("test")
        held = set(first) | set(last)
        for seed, roster in rosters("train"):
            for values in roster.table.values():
                for label in ("name", "owner", "lead", "contact", "teacher", "head", "who"):
                    self.assertFalse(held & set(re.split(r"[ -]", values.get(label, ""))), f"seed {seed}: {values}")

    def test_the_first_document_of_a_chain_leads_to_the_answer_only(self):
        declined = several = 0
        for split in ("train", "test"):
            for seed in range(200):
                chain = RosterWriter(random.Random(seed), split).chain()
                if chain is None:
                    continue
                several += len(chain.documents) > 2
                for question, answer, place in chain.facts:
                    if answer is None:
                        self.assertEqual(place, 0)
                        declined += 1
                        continue
                    self.assertIn(answer, chain.documents[place], f"seed {seed}")
                    for i, text in enumerate(chain.documents):
                        if i != place:
                            self.assertNotRegex(text, rf"(?<!\w){re.escape(answer)}(?!\w)", f"seed {seed}: {question}")
        self.assertGreater(declined, 10)
        self.assertGreater(several, 50)

    def test_the_same_seed_gives_the_same_rosters(self):
        a, b = ([r.text for _, r in rosters("train", seeds=2)] for _ in range(2))
        self.assertEqual(a, b)


if __name__ == "__main__":
    unittest.main()
