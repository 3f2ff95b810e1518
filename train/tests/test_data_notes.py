"""Everyday notes say what their questions ask, and the evaluation's frames and names stay out of training."""
import os
import random
import re
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

from data import reading
from data.lexicon import person_parts
from data.notes import NoteWriter, frames


def notes(split: str, count: int = 150):
    for seed in range(4):
        writer = NoteWriter(random.Random(seed), split)
        for _ in range(count):
            note = writer.note()
            if note:
                yield seed, note


class Notes(unittest.TestCase):
    def test_frames_are_split(self):
        train = {f.sentence for _, fs in frames("train") for f in fs}
        test = {f.sentence for _, fs in frames("test") for f in fs}
        self.assertFalse(train & test)
        self.assertGreater(len(train), 80)
        self.assertGreater(len(test), 4)

    def test_no_slot_is_left_open(self):
        for seed, note in notes("train"):
            for text in (note.text, *note.missing, *(part for fact in note.facts for part in fact)):
                self.assertNotRegex(text, r"[{}\[\]]?\{\w+", f"seed {seed}")

    def test_words_of_an_answer_are_in_the_note(self):
        for split in ("train", "test"):
            for seed, note in notes(split, 60):
                words = note.text.lower()
                for question, answer in note.facts:
                    said = [w for w in re.findall(r"\w+", answer.lower()) if len(w) > 3 and w not in ("every", "because", "until", "room", "only", "under")]
                    self.assertTrue(all(w in words for w in said), f"seed {seed}: {question} {answer} {note.text}")

    def test_a_question_is_asked_once_in_a_memory(self):
        writer = NoteWriter(random.Random(3), "train")
        seen: dict[str, str] = {}
        for _ in range(80):
            note = writer.note()
            for question, answer in note.facts if note else ():
                self.assertEqual(seen.setdefault(question.lower(), answer), answer, question)

    def test_missing_questions_are_not_answered(self):
        for seed, note in notes("train"):
            asked = {q.lower() for q, _ in note.facts}
            self.assertFalse(asked & {q.lower() for q in note.missing}, f"seed {seed}")

    def test_evaluation_names_do_not_occur(self):
        first, last = person_parts("test")
        held = set(first) | set(last)
        for seed, note in notes("train", 60):
            for question, answer in note.facts:
                if question.startswith("Who "):
                    self.assertFalse(held & set(answer.split()), f"seed {seed}: {answer}")


class Reading(unittest.TestCase):
    def test_paragraphs_are_unwrapped_prose(self):
        text = "A short line\n\n" + "\n".join(["The curator keeps the keys of every room in the house."] * 8) + "\n\n* x = 1"
        found = list(reading.paragraphs(text))
        self.assertEqual(len(found), 1)
        self.assertNotIn("\n", found[0])

    def test_questions_stand_alone(self):
        qa = reading.about("lib-x: This package holds maps.", "pkg:x", [("What does this package hold?", "maps"),
                           ("What do these maps show us all?", "roads"), ("What holds all of the maps?", "This package")])
        self.assertEqual(qa, [["What does the package lib-x hold?", "maps"]])

    def test_eight_words_in_a_row_are_an_overlap(self):
        a, b = "one two three four five six seven eight", "so one two three four five six seven eight nine"
        self.assertTrue(reading.grams(a) & reading.grams(b))
        self.assertFalse(reading.grams(a) & reading.grams(b.replace("four", "4")))


if __name__ == "__main__":
    unittest.main()
