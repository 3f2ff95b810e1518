"""No name, phrasing or natural document of the evaluation may occur in training."""
import itertools
import os
import random
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

import data
from data import banks, grammar, lexicon, natural
from data.lexicon import SPLITS

PAIRS = list(itertools.combinations(SPLITS, 2))
RECORDS = [
    {"s": s, "g": f"{s}:{i}", "k": f"{s}name{i}", "q": f"a thing of the number {i} that is useful",
     "d": f"a thing of the number {i} that is useful. This text of {s} number {i} tells about Project{i} and more. It was written by hand in the year {1000 + i}.",
     "e": {"pos": "noun", "syn": [f"other{i}"]}}
    for s in ("deb", "wn", "gcide", "man") for i in range(400)]


class Splits(unittest.TestCase):
    def test_entity_names_are_disjoint(self):
        for kind in lexicon.ENTITY_KINDS[1:]:
            pools = {(s, f): set(lexicon.pool(kind, s, f)) for s in SPLITS for f in (False, True)}
            for (a, pool_a), (b, pool_b) in itertools.combinations(pools.items(), 2):
                self.assertFalse(pool_a & pool_b, f"{kind}: {a} and {b} share names")
            for key, pool in pools.items():
                self.assertGreater(len(pool), 100, f"{kind} {key} has too few names")
        for a, b in PAIRS:
            for names_a, names_b in zip(lexicon.person_parts(a), lexicon.person_parts(b)):
                self.assertFalse(set(names_a) & set(names_b), f"persons of {a} and {b} share names")

    def test_drawn_names_stay_in_their_split(self):
        for split in SPLITS:
            for filler in (False, True):
                names = lexicon.Names(random.Random(5), split, filler)
                for _ in range(300):
                    person = names.person()
                    self.assertTrue(all(lexicon.split_of(part) == split for part in person.split()), person)
                    self.assertEqual(lexicon.is_filler(person), filler)

    def phrasings(self, split):
        """Every question phrasing a split may use, entity slots left open."""
        found = set()
        for relation in list(grammar.relations().values()) + list(grammar.user_facts().values()):
            for field in ("questions", "paraphrases", "phrases"):
                if getattr(relation, field):
                    found |= {(relation.name, field, t) for t in relation.part(field, split)}
        for name, _, forms in grammar.LISTS:
            found |= {(name, "list", t) for t in grammar.split_list(forms, split)}
        for forms in (grammar.COMPARE, grammar.NEEDLE_QUESTIONS):
            found |= {("", "", t) for t in grammar.split_list(forms, split)}
        for kind, parts in banks.ASK_PARTS.items():
            found |= {(kind, "ask", t) for t in parts[split]}
        for table in (natural.PAIR, natural.MEANING):
            for source, forms in table.items():
                found |= {(source, "natural", t) for t in grammar.split_list(forms, split, "pair-" + source if table is natural.PAIR
                                                                              else "meaning-" + source)}
        for forms in (natural.CLOZE, natural.SYNONYM):
            found |= {("natural", "", t) for t in grammar.split_list(forms, split)}
        return found

    def test_question_phrasings_are_disjoint(self):
        used = {s: self.phrasings(s) for s in SPLITS}
        for a, b in PAIRS:
            self.assertFalse(used[a] & used[b], f"{a} and {b} share question phrasings")
        self.assertGreater(len(used["train"]), 500)
        self.assertGreater(len(used["test"]), 250)

    def test_generated_questions_share_no_skeleton(self):
        """The same on finished questions: template ids of different splits never meet."""
        made = {}
        for split in SPLITS:
            made[split] = {q.template for seed in range(6)
                           for q in data.make_bank(seed, split, documents=0, questions=60).questions}
        for a, b in PAIRS:
            self.assertFalse(made[a] & made[b], f"{a} and {b} share question templates")

    def test_statement_phrasings_are_disjoint(self):
        for relation in list(grammar.relations().values()) + list(grammar.user_facts().values()):
            parts = {s: set(relation.part("statements", s)) for s in SPLITS}
            for a, b in PAIRS:
                self.assertFalse(parts[a] & parts[b], relation.name)

    def test_phrasings_are_not_repeated_inside_a_relation(self):
        """A phrasing listed twice could land on both sides."""
        for relation in list(grammar.relations().values()) + list(grammar.user_facts().values()):
            for items in (relation.statements, relation.questions, relation.paraphrases, relation.phrases):
                self.assertEqual(len(items), len(set(items)), relation.name)
            self.assertFalse(set(relation.questions) & set(relation.paraphrases), relation.name)

    def test_held_out_relations_never_occur_in_training(self):
        held_out = [r for r in grammar.relations().values() if "test" in r.flags]
        self.assertGreaterEqual(len(held_out), 4)
        for split in ("train", "valid"):
            usable = {r.name for group in grammar.by_subject(split).values() for r in group}
            self.assertFalse(usable & {r.name for r in held_out})

    def check_natural(self, loaded):
        sides = {(s, name): getattr(loaded, name)[s] for s in SPLITS for name in ("story", "filler")}
        for (a, rows_a), (b, rows_b) in itertools.combinations(sides.items(), 2):
            self.assertFalse({r["g"] for r in rows_a} & {r["g"] for r in rows_b}, f"{a} and {b} share groups")
            self.assertFalse({r["d"] for r in rows_a} & {r["d"] for r in rows_b}, f"{a} and {b} share texts")

    def test_natural_documents_are_disjoint(self):
        self.check_natural(natural.Natural(RECORDS))

    @unittest.skipUnless(os.path.exists(natural.DEFAULT_PATH), "run train/data/fetch.sh first")
    def test_prepared_natural_text_is_disjoint(self):
        loaded = natural.Natural.load()
        self.check_natural(loaded)
        self.assertGreater(sum(len(rows) for rows in loaded.story.values()), 20000)


if __name__ == "__main__":
    unittest.main()
