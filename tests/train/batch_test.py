"""A training step: its samples follow from its memory, and steps are functions of their number."""

import random
import re
import sys
import unittest
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "train"))

from data.lexicon import person_parts, split_of  # noqa: E402
from data.written import load_written  # noqa: E402
from msa.batch import (  # noqa: E402
    DECISION, NAMES_STEPS, STAGES, TEMPLATES, TINY, Asked, Shape, StepBuilder, names_in, names_of_window)
from msa.reference import Templates  # noqa: E402
from msa.world import UNKNOWN  # noqa: E402

TEXT = ("The museum in Quarrydale keeps 114 violins of the northern school. They were restored by Tomasz Weglarz in the "
        "courtyard workshop. Visitors may hear them when the ensemble rehearses on Sundays.")
SHAPE = Shape(documents=((24, 32), (36, 64), (26, 128), (10, 256)), queries=((12, 48), (6, 96), (10, 192), (8, 352), (2, 576)),
              people=12, questions=8, notes=8, rosters=8, passages=2, written=4)


class BatchTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.t = Templates(ROOT / "models/default/tokenizer.json", TEMPLATES)
        passages = [{"g": "x", "text": TEXT, "qa": [["Who restored the violins?", "Tomasz Weglarz"]]}]
        items = [{"key": "wordnet:ladle", "text": "ladle (noun): a spoon with a long handle.", "qa": [["What does ladle mean?", "a spoon with a long handle"]]}]
        cls.builder = StepBuilder(cls.t, items, SHAPE, passages)

    def samples(self, seeds):
        """(question, sample) over the memories of some steps."""
        builder = self.builder
        for seed in seeds:
            rng = random.Random(seed)
            builder.names = tuple(part[:200] for part in person_parts("train"))
            pools = builder._bank(rng)
            for pool in pools.values():
                for q in pool:
                    yield q, builder._sample({"world": [q]}, rng)

    def test_a_step_is_a_function_of_its_number(self):
        again = StepBuilder(self.t, self.builder.natural, SHAPE, self.builder.passages)
        for seed in (5, 10**8 + 17):
            a, b = self.builder.build(seed), again.build(seed)
            for (ids, n), (ids2, n2) in zip(a[0].buckets, b[0].buckets):
                self.assertTrue(torch.equal(ids, ids2) and torch.equal(n, n2))
            self.assertTrue(torch.equal(a[0].names, b[0].names))
            for q, q2 in zip(a[1], b[1]):
                self.assertTrue(all(torch.equal(getattr(q, f), getattr(q2, f)) for f in vars(q)))
        other = self.builder.build(6)
        self.assertFalse(torch.equal(other[1][0].ids, self.builder.build(5)[1][0].ids))

    def test_names_are_shared_by_the_steps_of_a_window(self):
        people = []
        for seed in (NAMES_STEPS, 2 * NAMES_STEPS - 1, 2 * NAMES_STEPS):
            self.builder.build(seed)
            people.append(set(self.builder.names[1]))
        self.assertEqual(people[0], people[1])
        self.assertNotEqual(people[1], people[2])

    def test_every_other_window_has_names_that_begin_alike(self):
        for window in range(4):
            given, family = names_of_window(window)
            self.assertTrue(all(split_of(name) == "train" for name in given + family))
            self.assertEqual(len(set(family)), len(family))
            starts = [name[:3] for name in family]
            alike = sum(starts.count(start) > 8 for start in starts) / len(starts)
            self.assertEqual(alike > 0.5, window % 2 == 1, f"window {window}: {alike}")

    def test_written_questions_are_asked_and_those_of_other_memories_declined(self):
        held_out = {row["text"] for row in load_written(evaluation=True)}
        answered = absent = 0
        for seed in range(4):
            self.builder.names = tuple(part[:200] for part in person_parts("train"))
            for q in self.builder._bank(random.Random(seed))["written"]:
                texts = [self.builder.texts[d] for hop in q.hops for d in hop]
                self.assertFalse(set(texts) & held_out)
                if q.answer != UNKNOWN:
                    self.assertIn(q.answer, texts[0])
                    answered += 1
                elif not texts:
                    absent += 1
                    self.assertFalse(any(q.text == asked for row in self.builder.written if row["text"] in self.builder.texts
                                         for asked, _ in row["qa"]))
        self.assertGreater(answered, 8)
        self.assertGreater(absent, 8)

    def test_answers_stand_in_what_was_read(self):
        answered = second = 0
        for q, s in self.samples(range(4)):
            if "Answer the question using" in self.t.decode(s.tokens):  # the other mode
                continue
            said = self.t.decode([x for x, w in zip(s.tokens, s.labelled) if w])
            prompt = self.t.decode([x for x, w in zip(s.tokens, s.labelled) if not w])
            if said.startswith("["):  # asks for documents: exactly those wanted, none of them read
                numbers = [int(n) for n in re.findall(r"\[(\d+)\]", said)]
                places = [self.builder.position[self.builder.number_of.index(n)] for n in numbers]
                self.assertEqual(sorted(places), sorted(s.positive))
                self.assertFalse(any(f"[{n}]. " in prompt for n in numbers))
                second += re.search(r"\[\d+\]\. ", prompt) is not None
            elif q.answer not in ("", UNKNOWN) and not q.parts:
                answered += 1
                self.assertTrue(all(self.builder.texts[d] in prompt for hop in q.hops for d in hop), q)
                stated = " ".join(self.builder.texts[d] for hop in q.hops for d in hop).lower()
                if len(q.hops) > 1:
                    self.assertIn(q.answer.lower().removeprefix("the ")[:12], stated)
        self.assertGreater(answered, 50)
        self.assertGreater(second, 20)

    def test_the_decision_after_reading_weighs_more(self):
        for q, s in self.samples(range(2)):
            if "Answer the question using" in self.t.decode(s.tokens):  # the other mode
                continue
            weights = [w for w in s.labelled if w]
            read = re.search(r"\[\d+\]\. ", self.t.decode(s.tokens)) is not None
            self.assertEqual(weights[0], DECISION if read else 1.0, self.t.decode(s.tokens))
            self.assertTrue(all(w == 1.0 for w in weights[1:]))

    def test_every_stage_of_a_chain_is_trained(self):
        self.builder._bank(random.Random(1))
        q = Asked("What is the number of Ada Bell's doctor?", "5", [[0], [1]])
        rng, seen = random.Random(2), {}
        for _ in range(2000):
            rounds, needed = self.builder._rounds(q, rng)
            self.assertNotIn(1, sum(rounds, []) if needed == [1] else [])
            self.assertEqual(len(sum(rounds, [])), len(set(sum(rounds, []))))
            if not needed:
                self.assertTrue({0, 1} <= set(sum(rounds, [])))
                self.assertTrue(rounds[-1])
            key = "first" if needed == [0] else "second" if needed == [1] else "answer"
            seen[key] = seen.get(key, 0) + 1 / 2000
        self.assertGreater(seen["second"], seen["first"])
        self.assertGreater(seen["second"], 0.33)
        self.assertAlmostEqual(sum(STAGES[2]), 1)

    def test_names_tell_strangers_from_namesakes(self):
        ada = names_in("Where does Ada Bell live?", False)
        self.assertTrue(ada & names_in("Ada Bell moved to Oslo.", True))
        self.assertFalse(ada & names_in("Ada Moss and Karl Bell live in Oslo.", True))
        self.assertTrue(names_in("Who treats Fiffi?", False) & names_in("Fiffi is treated by Ada.", True))
        self.assertFalse(names_in("Where is the ladder?", False))
        self.assertFalse(names_in("What happened in March?", False))

    def test_a_sample_bears_its_documents_names(self):
        documents, queries, _ = self.builder.build(3)
        seen = 0
        for q in queries:
            for names, positive, wide in zip(q.names, q.positive, q.wide):
                if wide and positive.any():
                    for row in documents.names[positive]:
                        seen += 1
                        self.assertIn(row[0].item(), names.tolist())  # the text's own hash
        self.assertGreater(seen, 5)

    def test_documents_of_the_smallest_shape_fit(self):
        builder = StepBuilder(self.t, self.builder.natural, TINY, self.builder.passages)
        documents, queries, prefix = builder.build(1)
        self.assertEqual([tuple(ids.shape) for ids, _ in documents.buckets], list(TINY.documents))
        self.assertEqual([tuple(q.ids.shape) for q in queries], list(TINY.queries))
        self.assertTrue(all((q.weights > 0).eq(q.targets >= 0).all() for q in queries))


if __name__ == "__main__":
    unittest.main()
