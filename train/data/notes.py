"""Everyday notes with questions, from the frames of notes.txt: titles, several facts in running text, many styles.

Values are drawn from closed lists of the file and from the kinds below; names of people come from the
names of a split, so no evaluation name occurs in training. The frames of the evaluation split are held
out by a checksum of their sentence.
"""
from __future__ import annotations

import random
import re
import zlib
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from .lexicon import NOUNS, person_parts, split_of

HERE = Path(__file__).resolve().parent
MONTHS = "January February March April May June July August September October November December".split()
ONSET = "b br c ch d dr f fl g gr h j k kl l m n p pr qu r s sh st t tr v w z Å Ø".split()
NUCLEUS = "a e i o u a e o ai ei ou á é ö ü ã ia ø å ê y".split()
CODA = ["", "", "n", "r", "l", "s", "m", "nd", "ng", "k", "tz", "ck", "rd", "ss", "ff", "th", "v", "nt"]
STREETS = "Street Road Lane Avenue Close Square Walk Gate Hill Row Mews Terrace Way".split()
MIXED = {
    "side": "south|north|east|west|garden|back", "colour": "red|blue|green|yellow|grey|white|black|orange|purple|brown|turquoise|cream",
    "reason": "the wind is weakest there|it is dry there|the children must not reach it|there is more light|it was the only free place|"
              "it is close to the door|the old place was too damp|nobody else needs the room|it is cheaper|the neighbours asked for it|"
              "there is no budget for it|the deadline is too close|it was tried before without success|the room is too small",
    "feed": "nettle manure|coffee grounds|compost|wood ash|tomato fertiliser|horn meal|bone meal|seaweed extract",
    "pest": "Slugs|Blackbirds|Caterpillars|Voles|Aphids|Pigeons|Deer|Rabbits",
    "fix": "a net|a copper band|a low fence|a ring of sawdust|a layer of straw|crushed eggshells|a strip of gravel",
    "amount": "two kilos|five kilos|a bucketful|twelve pieces|three baskets|forty pieces|half a kilo",
    "rest": "under a cloth|in the fridge|in a warm place|on the balcony|on a rack|with the lid closed",
    "relative": "Grandmother {first}|Uncle {first}|Aunt {first}|our neighbour {first}|Grandfather {first}|my cousin {first}|my colleague {first}",
    "portion": "one cup of dry food|half a tin|two carrots|a handful of pellets|60 g of meat|a spoonful of seeds|a bowl of rice|90 g of wet food|three biscuits",
    "platform": "platform {d}|pier {d}|bay {d}|stop {L}|the church square|the market place|jetty {d}|the east gate|the town hall|track {d}",
    "gate": "{L}{d}|{d}|{L}{dd}", "parity": "even|odd", "unitday": "day|week|month|night",
    "unit": "the night shift|the print shop|the support desk|the field team|the finance office|the laboratory|the north branch|purchasing|the tram depot|the greenhouse",
    "effect": "cut the licence cost by half|made the nightly run twice as fast|saved {dd} euros a month|freed two servers|broke the old reports|"
              "cost three weekends|doubled the number of tests|ended the outages|took {d} weeks",
    "where": "on the gateway|in the cellar|at the supplier|in the north building|on the backup server|at the warehouse|in the control room|on the second floor",
    "form": "receipts|timesheet|signed form|travel report|invoice|holiday request|photos of the damage|attendance list",
    "expensefor": "meals|fuel|phone calls|parking|tools|stamps|snacks|working clothes",
    "class": "first class|booked by plane|paid in advance|made by taxi|combined with a holiday",
    "lateact": "comes late|loses a game|forgets the key|misses a rehearsal|breaks a cup|has a birthday|leaves last",
    "bring": "the cake|the drinks|a round of coffee|flowers|the chairs in|the biscuits|ice cream",
    "plan": "visit the archive in {city}|buy a second stove|move to a larger room|print a calendar|paint the fence|change the supplier|sell the old van|"
            "hire a second tester|rent a hall in {city}|close the account|repair the roof first|invite the mayor|postpone the release|write a new manual|"
            "drop the newsletter|plant a hedge|switch to weekly invoices|cancel the summer party",
    "request": "a new monitor|the floor plan|a longer break|the sales figures|a second key|the contract|photos of the site|an extra week|the list of members|"
               "a quieter room|the test results|a larger budget|the slides",
    "brand": "Koga|Brompton|Gazelle|Volvo|Peugeot|Meindl|Lowa|Salomon|Ortlieb|Vaude|Bianchi|Kettler|Fjällräven|Škoda|Honda",
    "size": "{dd}|M|L|XL|S|{dd} and a half", "vehicle": "bicycle|van|scooter|touring bike|trailer|camper|rowing boat|motorbike|cargo bike|tractor",
    "spot2": "behind the school|in the second row of the garage|in {street}|under the bridge|at the depot|next to the bakery|in slot {dd}|at the marina, berth {dd}",
    "blood": "A positive|0 negative|B positive|AB negative|0 positive|A negative|B negative",
    "countkids": "two children|two daughters|two sons|a son and a daughter|twins",
    "drinkx": "jasmine tea|black coffee|cold milk|tonic water|elderflower juice|cocoa|peppermint tea|tomato juice|dry cider|malt beer",
    "language": "Portuguese|Finnish|Arabic|Korean|Polish|Italian|Hindi|Greek|Turkish|Dutch|Hungarian|Danish|Swedish|Czech|Basque|Welsh|Maltese",
    "command": "systemctl restart {w}|make {w}|./{w}.sh --now|docker restart {w}|service {w} reload|{w}ctl reset|kill -HUP {dd}{dd}",
    "login": "root|deploy|{w}|admin|{w}_ops|postgres",
    "path": "/etc/{w}/{w}.conf|/var/log/{w}.log|/srv/{w}/data|~/{w}/notes.txt|/opt/{w}/settings.yaml|C:\\{w}\\{w}.ini|{w}_{w}.json",
    "url": "git.{w}.example/{w}|https://{w}.example.org/{w}|{w}.example.net|code.{w}.org/{w}/{w}",
    "host": "{w}{d}|{w}-{w}|{w}.{w}.example|10.{d}.{d}.{dd}|db-{w}-{d}", "ticket": "OPS-{n}|#{n}|INC{n}{n}|{L}{L}{L}-{n}",
    "rank": "first|second|third",
    "flight": "{L}{L} {n}|{L}{L}{n}", "roomcode": "{d}.{dd}|{L}{dd}|{dd}{d}|{W}", "password": "{w}-{w}-{dd}|{W}{n}!|{w}{w}{dd}|{L}{dd}{w}{L}{d}",
    "code": "{L}{L}-{n}|{n}{n}|{L}{n}-{dd}|{dd}-{n}-{L}|{L}{L}{L}{n}|{w}-{n}|{n}/{dd}|{d}{L}{n}{L}",
    "version": "{d}.{dd}|{d}.{d}.{d}|{d}.{dd}.{d}|v{d}.{d}|{dd}.{dd}",
    "hotel": "Hotel {W}|the {W} Inn|Pension {surname}|Villa {W}|the Old {W}|{surname}'s guest house",
    "org": "{W}|{surname} & Co|{W} {W}|{surname} Ltd|the shop in {street}|{W} AG|{surname} Brothers|{W} Online",
}


@dataclass
class Frame:
    sentence: str
    questions: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class Topic:
    titles: list[str]
    frames: list[Frame] = field(default_factory=list)


@lru_cache(None)
def load() -> tuple[dict[str, list[str]], list[Topic]]:
    lists, topics = {}, []
    for line in (HERE / "notes.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("= "):
            name, values = line[2:].split(" ", 1)
            lists[name] = [v.strip() for v in values.split(" | ")]
        elif line.startswith("# ") and " | " in line and topics is not None and not line.startswith("# Frames"):
            topics.append(Topic([t.strip() for t in line[2:].split(" | ")]))
        elif line.startswith("S "):
            topics[-1].frames.append(Frame(line[2:]))
        elif line.startswith("Q "):
            question, answer = line[2:].split(" -> ")
            topics[-1].frames[-1].questions.append((question.strip(), answer.strip()))
    lists |= {name: v.split("|") for name, v in MIXED.items()}
    return lists, topics


def held_out(text: str) -> bool:
    return zlib.crc32(text.encode()) % 10 == 0


@lru_cache(None)
def frames(split: str) -> list[tuple[Topic, list[Frame]]]:
    out = []
    for topic in load()[1]:
        out.append((topic, [f for f in topic.frames if held_out(f.sentence) == (split == "test")]))
    return [(t, fs) for t, fs in out if fs]


class Values:
    def __init__(self, rng: random.Random, split: str):
        self.rng, self.split = rng, split
        self.first_names, self.last_names = person_parts(split)
        self.lists = load()[0]

    def word(self, capital: bool = False) -> str:
        """A made-up word of the split."""
        r = self.rng
        while True:
            if r.random() < 0.3:
                w = r.choice(NOUNS)
            else:
                w = "".join(r.choice(ONSET) + r.choice(NUCLEUS) + r.choice(CODA) for _ in range(r.randint(1, 3))).lower()
            if len(w) > 2 and split_of(w) == self.split:
                return w.capitalize() if capital else w

    def surname(self) -> str:
        r = self.rng
        name = r.choice(self.last_names) if r.random() < 0.6 else self.word(True)
        return name + ("-" + r.choice(self.last_names) if r.random() < 0.04 else "")

    def first(self) -> str:
        return self.rng.choice(self.first_names) if self.rng.random() < 0.75 else self.word(True)

    def value(self, kind: str) -> str:
        r = self.rng
        if kind in self.lists:
            text = r.choice(self.lists[kind])
            return re.sub(r"\{(\w+)\}", lambda m: self.piece(m[1]), text)
        return str(getattr(self, "k_" + kind)())

    def piece(self, name: str) -> str:
        r = self.rng
        simple = {"d": lambda: str(r.randint(1, 9)), "dd": lambda: str(r.randint(10, 99)), "n": lambda: str(r.randint(100, 9999)),
                  "L": lambda: r.choice("ABCDEFGHJKLMNPQRSTUVWXYZ"), "w": self.word, "W": lambda: self.word(True)}
        return simple[name]() if name in simple else self.value(name)

    def k_person(self):
        r = self.rng.random()
        name = f"{self.first()} {self.surname()}"
        return f"{self.first()} {name}" if r < 0.04 else f"{name.split(' ')[0]} {self.rng.choice('ABCDEFGHJKLMPRST')}. {self.surname()}" if r < 0.08 else name
    def k_first(self): return self.first()
    def k_surname(self): return self.surname()
    def k_titled(self): return f"{self.rng.choice(('Mr.', 'Mrs.', 'Ms.', 'Dr.'))} {self.surname()}"
    def k_word(self): return self.word(True)
    def k_city(self): return self.word(True) + self.rng.choice(("", "", "stad", "ville", "holm", " Bay", "mouth", "o", "burg"))
    def k_street(self): return f"{self.word(True)} {self.rng.choice(STREETS)}"
    def k_address(self): return self.rng.choice((f"{self.rng.randint(1, 199)} {self.k_street()}", f"{self.k_street()} {self.rng.randint(1, 99)}"))
    def k_email(self): return f"{self.word()}{self.rng.choice(('', '.', '_'))}{self.word()}@{self.rng.choice(('example.com', 'example.org', self.word() + '.example'))}"
    def k_small(self): return self.rng.choice((str(self.rng.randint(2, 40)), self.rng.choice("two three four five six eight ten twelve".split())))
    def k_number(self):
        n = self.rng.randint(100, 99999)
        return self.rng.choice((f"{n:,}", str(n)))
    def k_digits(self): return str(self.rng.randint(1000, 99999))
    def k_port(self): return str(self.rng.randint(1024, 65000))
    def k_decimal(self): return f"{self.rng.randint(1, 9)}.{self.rng.randint(1, 9)}"
    def k_year(self): return str(self.rng.randint(1950, 2032))
    def k_month(self): return self.rng.choice(MONTHS)
    def k_monthyear(self): return f"{self.rng.choice(MONTHS)} {self.rng.randint(2015, 2031)}"
    def k_date(self):
        d, m = self.rng.randint(1, 28), self.rng.choice(MONTHS)
        return self.rng.choice((f"{d} {m}", f"{m} {d}", f"{d} {m}", f"the {d}th of {m}" if 3 < d < 21 else f"{d} {m}"))
    def k_datefull(self):
        d, m, y = self.rng.randint(1, 28), self.rng.randrange(12), self.rng.randint(1950, 2030)
        return self.rng.choice((f"{d} {MONTHS[m]} {y}", f"{MONTHS[m]} {d}, {y}", f"{y}-{m + 1:02}-{d:02}", f"{d} {MONTHS[m]}"))
    def k_time(self):
        r = self.rng
        h, m = r.randint(0, 23), r.choice((0, 5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 55))
        return r.choice((f"{h}:{m:02}", f"{h:02}:{m:02}", f"{h % 12 + 1} {r.choice(('am', 'pm'))}", f"{h % 12 + 1}:{m:02} {r.choice(('am', 'pm'))}",
                         r.choice(("noon", "half past seven", "eight in the morning", "quarter to nine", "six in the evening", "ten o'clock", "half past four"))))
    def k_minutes(self): return self.rng.choice((f"{self.rng.randint(3, 95)} minutes", self.rng.choice(("eighteen minutes", "half an hour", "twenty minutes", "an hour", "forty minutes", "two hours", "ten minutes"))))
    def k_hours(self): return self.rng.choice(("three hours", "four hours", "five hours", "six hours", "eight hours", "ninety minutes"))
    def k_days(self): return self.rng.choice(("two days", "ten days", "three weeks", "thirty days", "a week", "fourteen days", "six months", f"{self.rng.randint(2, 90)} days"))
    def k_degrees(self): return f"{self.rng.randint(14, 25)}0 degrees"
    def k_grams(self): return self.rng.choice((f"{self.rng.randint(2, 95)}0 g", f"{self.rng.randint(1, 9)} tablespoons", f"{self.rng.choice(('half a', 'one', 'two', 'three'))} cups"))
    def k_money(self):
        n = self.rng.randint(2, 990)
        return self.rng.choice((f"{n} euros", f"${n}", f"{n} pounds", f"£{n}", f"{n}.{self.rng.randint(10, 99)} euros", f"{n} francs", f"€{n}"))
    def k_bigmoney(self):
        n = self.rng.randint(2, 990)
        return self.rng.choice((f"{n},000 euros", f"${n},{self.rng.randint(100, 999)}", f"{n},500 pounds", f"{self.rng.randint(1, 9)}.{self.rng.randint(1, 9)} million euros"))
    def k_phone(self):
        r = self.rng
        d = lambda n: "".join(r.choice("0123456789") for _ in range(n))
        return r.choice((f"555 {d(4)}", f"0{d(3)} {d(6)}", f"+{r.randint(30, 49)} {d(3)} {d(7)}", f"{d(3)}-{d(3)}-{d(4)}", f"0{d(2)}/{d(7)}", f"({d(3)}) {d(3)} {d(4)}"))


@dataclass
class Note:
    text: str
    facts: list[tuple[str, str]]  # question, answer
    missing: list[str]  # questions about the same things that neither this nor another note answers


def fill(text: str, bound: dict[str, str]) -> str:
    return re.sub(r"\{(\w+)\}", lambda m: bound[m[1]], text)


class NoteWriter:
    """Notes of one memory: no frame twice with the same bound subject, so that answers stay unique."""

    def __init__(self, rng: random.Random, split: str):
        self.rng, self.split, self.values = rng, split, Values(rng, split)
        self.asked: set[str] = set()

    def choose(self, text: str) -> str:
        return re.sub(r"\[([^\]]*)\]", lambda m: self.rng.choice(m[1].split("|")), text)

    def state(self, frame: Frame, bound: dict[str, str]) -> tuple[str, list[tuple[str, str]]] | None:
        local = dict(bound)
        seen = set(bound.values())
        for slot, kind in re.findall(r"\{(\w+):(\w+)\}", frame.sentence):
            for _ in range(9):
                local[slot] = self.values.value(kind)
                if local[slot] not in seen:
                    break
            seen.add(local[slot])
        text = fill(re.sub(r"\{(\w+):\w+\}", r"{\1}", self.choose(frame.sentence)), local)
        qa = []
        for question, answer in frame.questions:
            q = fill(question, local)
            a = fill(answer, local) if "{" in answer else local[answer] if answer in local else answer
            if q.lower() not in self.asked:
                qa.append((q, a))
        if not qa:
            return None
        return text[:1].upper() + text[1:], qa

    def note(self) -> Note | None:
        r = self.rng
        topic, options = r.choice(frames(self.split))
        bound: dict[str, str] = {}
        title = r.choice(topic.titles)
        for slot, kind in re.findall(r"\{(\w+)(?::(\w+))?\}", " ".join(topic.titles)):
            named = {"pet": "first", "dish": "dish", "breed": "breed", "name": "word", "n": "small"}
            bound[slot] = self.values.value(kind or named.get(slot, slot))
        title = fill(re.sub(r"\{(\w+):\w+\}", r"{\1}", title), bound)
        shows_subject = not {"pet", "name", "dish"} & set(bound) or any(
            bound[s] in title for s in ("pet", "name", "dish") if s in bound)
        count = r.choice((1, 1, 2, 2, 3, 3, 4, 5, 6))
        chosen = r.sample(options, min(count, len(options)))
        if r.random() < 0.2 and "name" not in bound and "dish" not in bound:  # a note that strays
            other, more = r.choice(frames(self.split))
            chosen += [f for f in r.sample(more, 1) if not re.search(r"\{(pet|name|dish|breed)\}", f.sentence + str(f.questions))]
        sentences, facts, missing = [], [], []
        left_out = r.randrange(12)
        for i, frame in enumerate(chosen):
            made = self.state(frame, bound)
            if made is None:
                continue
            self.asked |= {q.lower() for q, _ in made[1]}
            if i == left_out and len(chosen) > 1:
                missing = [q for q, _ in made[1]]
                continue
            sentences.append(made[0])
            facts += made[1]
        if not sentences:
            return None
        style = r.random()
        if not shows_subject:
            style = max(style, 0.3)
            title = next(bound[s] for s in ("pet", "name", "dish") if s in bound).capitalize() + ": " + title
        if style < 0.3 and not {"pet", "name", "dish"} & set(bound):
            text = " ".join(sentences)
        elif style < 0.5:
            text = f"# {title}\n\n" + " ".join(sentences)
        elif style < 0.6:
            text = f"{title}: " + " ".join(sentences)
        elif style < 0.72:
            mark = r.choice(("- ", "* ", "• ", "1. "))
            text = f"{title}\n" + "\n".join(mark + s for s in sentences)
        elif style < 0.8:
            text = f"{self.values.value('datefull')} - {title}\n" + "\n".join(sentences)
        elif style < 0.88:
            text = f"Subject: {title}\nHi {self.values.first()},\n" + " ".join(sentences) + f"\nBest, {self.values.first()}"
        elif style < 0.94:
            text = "\n".join(f"[{r.randint(8, 19)}:{r.randint(10, 59)}] {n}: {s}" for n, s in zip([self.values.first() for _ in sentences], sentences))
            text = f"{title}\n{text}"
        else:
            text = f"## {title}\n\n" + "\n\n".join(sentences)
        width = r.choice((0, 0, 0, 72, 90, 100))
        if width and "\n" not in text.strip("\n").replace(f"# {title}\n\n", ""):
            lines, line = [], ""
            for word in text.split(" "):
                if line and len(line) + len(word) > width:
                    lines.append(line)
                    line = word
                else:
                    line = f"{line} {word}".strip(" ") if line else word
            text = "\n".join(lines + [line])
        return Note(text, [(q[:1].upper() + q[1:], a) for q, a in facts], missing)
