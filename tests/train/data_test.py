"""Nothing of the evaluation occurs in training, and questions follow from their documents."""

import random
import re
import sys
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "train"))

from msa.world import RELATIONS, UNKNOWN, World, in_evaluation  # noqa: E402


def worlds(evaluation, n=6, dense=False):
    return [World(random.Random(seed), 40, evaluation, dense=dense) for seed in range(n)]


class WorldTest(unittest.TestCase):
    def test_names_are_split(self):
        for evaluation in (False, True):
            for w in worlds(evaluation) + worlds(evaluation, dense=True):
                for names in w.entities.values():
                    self.assertTrue(names)
                    self.assertTrue(all(in_evaluation(n) == evaluation for n in names))

    def test_phrasings_are_split(self):
        """No training question or document matches a phrasing kept for the evaluation."""
        held = []
        for r in RELATIONS:
            for template in (r.questions[-1], r.docs[-1]):
                parts = map(re.escape, re.split(r"\{\w+\}", template))
                held.append(re.compile("^" + "(?:[A-Z0-9$].{2,60}|.{2,60})".join(parts) + "$"))
                for other in r.questions[:-1] + r.docs[:-1]:
                    self.assertNotEqual(template, other)
        for w in worlds(False):
            for _ in range(200):
                q = w.single().text
                relation = [r for r in RELATIONS if any(
                    re.fullmatch(re.escape(t).replace(r"\{s\}", ".+"), q) for t in r.questions[:-1])]
                self.assertTrue(relation or q.endswith(" now?"), q)

    def test_answers_are_in_the_documents_named(self):
        for w in worlds(False) + worlds(True) + worlds(False, dense=True):
            for _ in range(100):
                q = w.single()
                self.assertTrue(any(q.answer in w.documents[d] for d in q.hops[0]), q)
                for hops in (2, 3):
                    q = w.multi(hops)
                    if q:
                        self.assertTrue(any(q.answer in w.documents[d] for hop in q.hops for d in hop), q)

    def test_names_in_texts(self):
        w = World(random.Random(3), 40, True)
        name = next(iter(next(iter(w.entities.values()))))
        self.assertEqual(w.names_in([f"Who is {name}?"]), {name})
        self.assertEqual(w.names_in([f"Who is {name}son?", "", "nobody"]), set())

    def test_dense_worlds_say_the_same_of_many_with_names_alike(self):
        for w in worlds(False, dense=True):
            people = w.entities["person"]
            self.assertLessEqual(len({name.split()[0] for name in people}), 5)
            asked = [f for f in w.facts.values() if f.subject in people]
            alike = [sum(g.relation is f.relation and g.subject != f.subject and g.subject.split()[0] == f.subject.split()[0]
                         for g in asked) for f in asked]
            self.assertGreater(sum(alike) / len(alike), 3)
            self.assertTrue(any(w.multi(3) for _ in range(5)))

    def test_strangers_are_named_nowhere(self):
        for dense in (False, True):
            for w in worlds(False, dense=dense):
                strangers = [q for q in (w.stranger() for _ in range(30)) if q]
                self.assertTrue(strangers)
                known = [n for names in w.entities.values() for n in names]
                about_known = {t.format(s=n) for r in RELATIONS for t in r.questions for n in known}
                for q in strangers:
                    self.assertEqual((q.answer, q.hops), (UNKNOWN, []))
                    self.assertNotIn(q.text, about_known)

    def test_unanswerable_is_not_stated(self):
        for w in worlds(True):
            for _ in range(50):
                self.assertEqual(w.unanswerable().hops, [])


if __name__ == "__main__":
    unittest.main()
