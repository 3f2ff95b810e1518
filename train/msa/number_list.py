"""Which tokens may come next in a list of document numbers: the engine's `numbers_from_routing`.

The same rule as model/number_list.h: "[4][17]" names documents of a given choice, each at most once,
and is closed by numbers_end; or there is no list, and retrieval_end comes at once.
"""

from __future__ import annotations

import re

from msa.reference import Templates


class NumberList:
    def __init__(self, templates: Templates):
        t = templates
        self.end, self.none = t.special[t.strings["numbers_end"]], t.special[t.strings["retrieval_end"]]
        self.pieces = {i: piece for piece, i in t.plain.get_vocab().items() if re.fullmatch(r"[\[\]0-9]+", piece)}

    @staticmethod
    def choices(numbers: list[int]) -> tuple[set[str], set[str]]:
        """The numbers as text, and all that these begin with: what `next` wants."""
        names = {str(n) for n in numbers}
        return names, {n[:i] for n in names for i in range(len(n) + 1)}

    @staticmethod
    def beginning(text: str, choices: set[str], starts: set[str]) -> bool | None:
        """True: a list of whole numbers; False: one that breaks off inside a number; None: no list."""
        *whole, rest = text.split("]")
        if any(not n.startswith("[") or n[1:] not in choices for n in whole) or len(set(whole)) < len(whole):
            return None
        if not rest:
            return True
        if not rest.startswith("[") or rest[1:] not in starts:
            return None
        named = {n[1:] for n in whole}
        return False if any(c.startswith(rest[1:]) for c in choices - named) else None

    def next(self, tokens: list[int], choices: tuple[set[str], set[str]]) -> list[int]:
        if any(t not in self.pieces for t in tokens):
            return []
        text = "".join(self.pieces[t] for t in tokens)
        out = [t for t, piece in self.pieces.items() if self.beginning(text + piece, *choices) is not None]
        if not tokens:
            return out + [self.none]
        return out + [self.end] if self.beginning(text, *choices) else out
