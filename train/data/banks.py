"""Banks: documents and the questions about them."""
import multiprocessing
import random
from typing import Iterator

from . import grammar, natural as nat
from .lexicon import ENTITY_KINDS, VALUES, warm
from .natural import Natural
from .schema import NOT_IN_MEMORY, Bank, Question, approx_tokens
from .world import IMPLIES, Fact, Writer, fill, format_date, sentence, upper_first

DEFAULT_MIX = {"single": 24, "two": 20, "three": 10, "unanswerable": 10, "latest-version": 8, "compare": 3, "list": 4,
               "chat": 8, "needle": 3, "natural-pair": 6, "natural-qa": 4}
DATED_STYLES = ("dated", "note", "bullets", "email", "minutes", "ticket", "report", "form")
NEEDLE_TYPES = ("magic number", "access code", "passphrase", "ticket number", "safe word", "serial")


class Builder:
    """Collects the documents and questions of one bank."""

    def __init__(self, rng: random.Random, split: str, natural: Natural | None):
        self.rng, self.split, self.natural = rng, split, natural
        self.writer = Writer(rng, split)
        self.names = self.writer.names
        self.documents: list[str] = []
        self.questions: list[Question] = []
        self.used_user: set[str] = set()
        self.used_groups: set[str] = set()

    # Parts

    def add(self, text: str) -> int:
        self.documents.append(text)
        return len(self.documents) - 1

    def pick(self, items):
        return self.rng.choice(items)

    def fact_document(self, fact: Fact) -> int:
        """A document with one asked-for fact, alone or among others."""
        rng, writer, facts = self.rng, self.writer, [fact]
        kind = fact.relation.subject
        luck = rng.random()
        if luck >= 0.35:
            facts += writer.side_facts(kind, fact.subject, rng.randint(1, 3), set())
        if 0.75 <= luck < 0.9 or luck >= 0.96:  # a roster: others with the same relation
            for _ in range(rng.randint(1, 4)):
                other = self.names.near(kind, fact.subject) if rng.random() < 0.5 else self.names.entity(kind)
                facts.append(writer.fact(fact.relation, other))
        if luck >= 0.95:  # a long document
            for _ in range(rng.randint(2, 6)):
                other_kind = self.pick(tuple(writer.relations))
                other = self.names.entity(other_kind)
                facts += writer.side_facts(other_kind, other, rng.randint(1, 4), set())
        if luck < 0.9 or rng.random() < 0.5:
            head, tail = facts[:1], facts[1:]
            facts = tail + head if rng.random() < 0.4 else head + tail
        else:
            rng.shuffle(facts)
        return self.add(writer.document(facts))

    def distract(self, fact: Fact, count: int) -> list[int]:
        """Documents that share names or wording with a fact but do not state it."""
        added = []
        for _ in range(count):
            kind, luck = fact.relation.subject, self.rng.random()
            if luck < 0.55:
                added.append(self.fact_document(self.writer.fact(fact.relation, self.names.near(kind, fact.subject))))
            else:
                facts = self.writer.side_facts(kind, fact.subject, self.rng.randint(1, 2), set())
                if facts:
                    added.append(self.add(self.writer.document(facts)))
        return added

    def decorate(self, text: str) -> str:
        suffix = self.pick(SUFFIX_PARTS[self.split]) if text.endswith((".", "?", "!")) else ""
        return self.pick(PREFIX_PARTS[self.split]) + upper_first(text) + suffix

    def wording(self, relation, phrase: str, want_paraphrase: bool = False) -> tuple[str, str, list[str]]:
        """(question, template id, tags) about the object of `relation` for the subject `phrase`."""
        luck = self.rng.random()
        paraphrases = relation.part("paraphrases", self.split)
        if paraphrases and (want_paraphrase or luck < 0.3):
            form = self.pick(paraphrases)
            return fill(form, phrase), f"{relation.name}/P{relation.paraphrases.index(form)}", ["paraphrase"]
        if luck < 0.7 or not relation.part("phrases", self.split):
            form = self.pick(relation.part("questions", self.split))
            return fill(form, phrase), f"{relation.name}/Q{relation.questions.index(form)}", []
        noun = self.pick(relation.part("phrases", self.split))
        forms = grammar.ASK["person" if relation.object == "person" else "other"]
        form = self.pick(ASK_PARTS["person" if relation.object == "person" else "other"][self.split])
        return (form.replace("{r}", fill(noun, phrase)),
                f"{relation.name}/R{relation.phrases.index(noun)}/ask{forms.index(form)}", [])

    def question(self, text, steps, answer, answer_long, kind, template, tags=(), parts=None):
        self.questions.append(Question(self.decorate(text), steps, answer, sentence(answer_long), kind, self.split,
                                       template, list(tags), parts or [answer]))

    def relation(self, accept=lambda r: True):
        while True:
            kind = self.pick(SUBJECT_WEIGHTS)
            found = [r for r in self.writer.relations.get(kind, ()) if accept(r)]
            if found:
                return self.pick(found)

    def path(self, hops: int) -> list:
        """Relations that chain: each one's object is the next one's subject."""
        while True:
            # A relation inside a chain needs a noun phrase of this split.
            path = [self.relation(lambda r: hops == 1 or r.object in ENTITY_KINDS and r.part("phrases", self.split))]
            while len(path) < hops:
                last = len(path) == hops - 1
                used = {r.name for r in path}
                options = [r for r in self.writer.relations.get(path[-1].object, ())
                           if r.name not in used and r.name != IMPLIES.get(path[-1].name)
                           and (last or r.object in ENTITY_KINDS and r.part("phrases", self.split))]
                if not options:
                    break
                path.append(self.pick(options))
            if len(path) == hops:
                return path

    def chain_phrase(self, path, subject: str) -> tuple[str, str]:
        """A noun phrase for the end of a chain, and its template id."""
        phrase, ids = subject, []
        for relation in path:
            noun = self.pick(relation.part("phrases", self.split))
            phrase = fill(noun, phrase)
            ids.append(f"{relation.name}/R{relation.phrases.index(noun)}")
        return phrase, "+".join(ids)

    def spare(self) -> int:
        """How many distractors a question brings along."""
        return self.pick((0, 1, 1, 2, 2, 3))

    # Kinds of questions

    def single(self, kind="single", accept=lambda r: True, paraphrase=False):
        relation = self.relation(accept)
        fact = self.writer.fact(relation, self.names.entity(relation.subject))
        index = self.fact_document(fact)
        self.distract(fact, self.spare())
        text, template, tags = self.wording(relation, fact.subject, paraphrase)
        if "test" in relation.flags:
            tags = tags + ["unseen-relation"]
        self.question(text, [[index]], fact.object, fill(relation.long, fact.subject, fact.object), kind, template, tags)

    def chain(self, hops: int, kind: str):
        path = self.path(hops)
        subject, facts = self.names.entity(path[0].subject), []
        for relation in path:
            facts.append(self.writer.fact(relation, subject))
            subject = facts[-1].object
        steps = [[self.fact_document(f)] for f in facts]
        for fact in facts:
            self.distract(fact, self.pick((0, 1, 1)))
        phrase, ids = self.chain_phrase(path[:-1], facts[0].subject)
        text, template, tags = self.wording(path[-1], phrase)
        self.question(text, steps, facts[-1].object, fill(path[-1].long, facts[-1].subject, facts[-1].object), kind,
                      f"{template}+{ids}", tags)

    def two(self):
        self.chain(2, "two")

    def three(self):
        self.chain(3, "three")

    def unanswerable(self):
        rng, how = self.rng, self.rng.random()
        if how < 0.12 and self.unanswerable_user():
            return
        steps = []
        if how < 0.7:  # the relation is missing, or the whole subject
            relation = self.relation()
            subject = self.names.entity(relation.subject)
            missing = self.writer.fact(relation, subject)
            near = []
            if rng.random() < 0.8:
                facts = self.writer.side_facts(relation.subject, subject, rng.randint(1, 3), set())
                if facts:
                    near.append(self.add(self.writer.document(facts)))
                near += self.distract(missing, rng.randint(1, 2))
            text, template, tags = self.wording(relation, subject)
            if near and self.split == "train" and rng.random() < 0.3:
                steps, tags = [near[:1]], tags + ["looked"]
        else:  # a hop is missing
            path = self.path(2)
            start = self.names.entity(path[0].subject)
            first = self.writer.fact(path[0], start)
            second = self.writer.fact(path[1], first.object)
            if rng.random() < 0.6:
                steps = [[self.fact_document(first)]]
            else:
                self.fact_document(second)
            self.distract(second, rng.randint(0, 2))
            self.distract(first, 1)
            phrase, ids = self.chain_phrase(path[:1], start)
            text, template, tags = self.wording(path[1], phrase)
            template += "+" + ids
        self.question(text, steps, NOT_IN_MEMORY, NOT_IN_MEMORY, "unanswerable", template, tags)

    def user_fact(self):
        free = [f for f in grammar.user_facts().values() if f.name not in self.used_user]
        if not free:
            return None
        fact = self.pick(free)
        self.used_user.add(fact.name)
        return fact

    def user_wording(self, fact, want_paraphrase: bool = False):
        paraphrases = fact.part("paraphrases", self.split)
        if paraphrases and (want_paraphrase or self.rng.random() < 0.4):
            form = self.pick(paraphrases)
            return form, f"{fact.name}/P{fact.paraphrases.index(form)}", ["paraphrase"]
        form = self.pick(fact.part("questions", self.split))
        return form, f"{fact.name}/Q{fact.questions.index(form)}", []

    def user_document(self, fact, value: str, date: str | None = None) -> int:
        said = fill(self.pick(fact.part("statements", self.split)), "", value)
        return self.add(self.writer.chat(said, fill(fact.long, "", value), date or self.writer.date(), date is not None))

    def unanswerable_user(self) -> bool:
        fact = self.user_fact()
        if fact is None:
            return False
        text, template, tags = self.user_wording(fact)
        self.question(text, [], NOT_IN_MEMORY, NOT_IN_MEMORY, "unanswerable", template, tags)
        return True

    def chat(self, paraphrase=False):
        fact = self.user_fact()
        if fact is None:
            return self.single(paraphrase=paraphrase)
        text, template, tags = self.user_wording(fact, paraphrase)
        if self.rng.random() < 0.25 and "mut" in fact.flags:  # the user changed it later
            values, dates = self.distinct(fact.object, self.rng.randint(2, 3)), self.dates(3)
            steps = [[self.user_document(fact, v, d) for v, d in zip(values, dates)]]
            value, tags = values[-1], tags + ["changed"]
        else:
            value = self.names.value(fact.object)
            steps = [[self.user_document(fact, value)]]
        self.question(text, steps, value, fill(fact.long, "", value), "chat", template, tags)

    def distinct(self, kind: str, count: int) -> list[str]:
        values: list[str] = []
        while len(values) < count:
            value = self.names.value(kind)
            if value not in values:
                values.append(value)
        return values

    def dates(self, count: int) -> list[str]:
        """Dates in ascending order, all in one bank-wide format each."""
        days = sorted(self.rng.sample(range(7 * 12 * 28), count))
        return [format_date(self.rng, 2019 + d // 336, d % 336 // 28, d % 28 + 1) for d in days]

    def latest(self):
        relation = self.relation(lambda r: "mut" in r.flags and r.object != "date")
        subject = self.names.entity(relation.subject)
        values = self.distinct(relation.object, self.rng.randint(2, 4))
        indices = []
        for value, date in zip(values, self.dates(len(values))):
            fact = self.writer.fact(relation, subject, value)
            indices.append(self.add(self.writer.document([fact], date, self.pick(DATED_STYLES))))
        self.distract(fact, self.spare())
        text, template, tags = self.wording(relation, subject)
        form = self.pick(LATEST_PARTS[self.split])
        self.question(form.replace("{q}", text), [indices], values[-1], fill(relation.long, subject, values[-1]), "latest-version",
                      f"{template}/latest{grammar.LATEST.index(form)}", tags)

    def compare(self):
        relation = self.relation(lambda r: "less" in r.flags or "more" in r.flags)
        first = self.names.entity(relation.subject)
        second = self.names.near(relation.subject, first)
        while True:
            values = self.distinct(relation.object, 2)
            keys = [sort_key(relation.object, v) for v in values]
            if keys[0][0] == keys[1][0] and keys[0] != keys[1]:
                break
        facts = [self.writer.fact(relation, s, v) for s, v in zip((first, second), values)]
        steps = [[self.fact_document(f) for f in facts]]
        lowest = first if keys[0] < keys[1] else second
        highest = second if lowest == first else first
        answer = lowest if "less" in relation.flags else highest
        phrase = relation.flags.get("less") or relation.flags["more"]
        form = self.pick(grammar.split_list(grammar.COMPARE, self.split))
        self.question(form.format(phrase=phrase, a=first, b=second), steps, answer, f"{answer} {phrase}", "compare",
                      f"{relation.name}/compare{grammar.COMPARE.index(form)}")

    def several(self):
        name, varies, forms = self.pick(grammar.LISTS)
        relation = grammar.relations()[name]
        count = self.rng.randint(2, 4)
        if varies == "subject":
            x = self.names.entity(relation.object)
            facts = [self.writer.fact(relation, self.names.entity(relation.subject), x) for _ in range(count)]
            parts = [f.subject for f in facts]
        else:
            x = self.names.entity(relation.subject)
            parts = self.distinct(relation.object, count)
            facts = [self.writer.fact(relation, x, v) for v in parts]
        indices = [self.add(self.writer.document([f] + self.writer.side_facts(relation.subject, f.subject, self.pick((0, 0, 1)), {name})))
                   for f in facts]
        self.distract(facts[0], self.spare())
        form = self.pick(grammar.split_list(forms, self.split))
        answer = ", ".join(parts)
        self.question(form.replace("{x}", x), [indices], answer, answer, "list", f"{name}/list{forms.index(form)}", parts=parts)

    def needle(self):
        kind, key = self.pick(NEEDLE_TYPES), self.names.entity(self.pick(("thing", "project", "place_name", "product")))
        value = self.names.value(self.pick(("code", "number", "plate")))

        def text(k, v):
            form = self.pick(grammar.split_list(grammar.NEEDLE_DOCS, self.split))
            parts = [sentence(form.format(t=kind, k=k, v=v))]
            for _ in range(self.pick((0, 1, 2, 4))):
                parts.insert(self.rng.randint(0, len(parts)), self.writer.chatter())
            return " ".join(parts)

        index = self.add(text(key, value))
        for _ in range(self.spare()):
            self.add(text(self.names.entity("thing"), self.names.value("code")))
        form = self.pick(grammar.split_list(grammar.NEEDLE_QUESTIONS, self.split))
        self.question(form.format(t=kind, k=key), [[index]], value, f"the {kind} for {key} is {value}", "needle",
                      f"needle/{grammar.NEEDLE_QUESTIONS.index(form)}")

    def real(self, want: str):
        if self.natural is None:
            return self.single()
        records = self.natural.story[self.split]
        for _ in range(200):
            record = self.pick(records)
            if record["g"] in self.used_groups:
                continue
            made = nat.ask(record, self.split, self.rng, want)
            if made is None:
                continue
            text, answer, long, template, kind, show = made
            self.used_groups.add(record["g"])
            index = self.add(nat.document(record, self.rng, show))
            self.question(text, [[index]], answer, long, kind, template)
            return None
        raise RuntimeError("no natural record is left: use a smaller bank")

    def one(self, kind: str):
        make = {"single": self.single, "two": self.two, "three": self.three, "unanswerable": self.unanswerable,
                "latest-version": self.latest, "compare": self.compare, "list": self.several, "chat": self.chat, "needle": self.needle,
                "natural-pair": lambda: self.real("natural-pair"), "natural-qa": lambda: self.real("natural-qa"),
                "paraphrase": lambda: self.single(paraphrase=True, accept=lambda r: bool(r.part("paraphrases", self.split))),
                "chat-paraphrase": lambda: self.chat(paraphrase=True),
                "unseen-relation": lambda: self.single(accept=lambda r: "test" in r.flags)}
        make[kind]()

    def finish(self, documents: int) -> Bank:
        """Pads with unrelated documents up to `documents` and shuffles everything."""
        missing = documents - len(self.documents)
        if missing > 0:
            source = _filler(self.rng, self.split, self.natural, 0.3)
            self.documents += [next(source) for _ in range(missing)]
        order = list(range(len(self.documents)))
        self.rng.shuffle(order)
        place = {old: new for new, old in enumerate(order)}
        for q in self.questions:
            q.steps = [[place[i] for i in step] for step in q.steps]
        self.rng.shuffle(self.questions)
        return Bank([self.documents[i] for i in order], self.questions)


def _parts(items: list[str], plain: int) -> dict[str, list[str]]:
    """Splits prefixes or suffixes: the undecorated form is everyone's, the others are divided."""
    empty, rest = items[:plain], items[plain:]
    return {s: empty + grammar.split_list(rest, s) for s in ("train", "valid", "test")}


PREFIX_PARTS = _parts(grammar.PREFIXES, 5)
SUFFIX_PARTS = _parts(grammar.SUFFIXES, 7)
ASK_PARTS = {kind: {s: grammar.split_list(forms, s) for s in ("train", "valid", "test")} for kind, forms in grammar.ASK.items()}
LATEST_PARTS = _parts(grammar.LATEST, 2)
SUBJECT_WEIGHTS = ("person",) * 6 + ("org",) * 3 + ("project",) * 3 + ("city",) * 2 + ("event",) * 3 + ("pet",) * 2 + (
    "product",) * 2 + ("book",) * 2 + ("thing",) * 3 + ("place_name",) * 2 + ("meeting",) * 2 + ("server",) * 2 + ("team",) * 2


def sort_key(kind: str, value: str) -> tuple:
    """(what must be equal to be comparable, the value to order by)."""
    words = value.split()
    if kind == "date":
        return "", VALUES["month"].index(words[1]), int(words[0])
    if kind == "money":
        return words[1], int(words[0])
    return "", int(value)


def _filler(rng: random.Random, split: str, natural: Natural | None, with_natural: float) -> Iterator[str]:
    records = natural.filler[split] if natural else []
    kinds = tuple(grammar.by_subject(split))
    while True:
        writer = Writer(rng, split, filler=True)
        for _ in range(200):  # names may repeat afterwards: nobody asks about them
            if records and rng.random() < with_natural:
                yield nat.document(rng.choice(records), rng, rng.random() < 0.3)
                continue
            kind = rng.choice(SUBJECT_WEIGHTS if rng.random() < 0.8 else kinds)
            subject = writer.names.entity(kind)
            facts = writer.side_facts(kind, subject, rng.randint(1, 3), set())
            if rng.random() < 0.06:
                for _ in range(rng.randint(2, 8)):
                    facts += writer.side_facts("person", writer.names.person(), rng.randint(1, 3), set())
            yield writer.document(facts)


def filler(seed, split: str = "train", natural: Natural | None = None, with_natural: float = 0.3) -> Iterator[str]:
    """Endless documents about names that no question uses."""
    return _filler(random.Random(f"filler/{split}/{seed}"), split, natural, with_natural)


def make_bank(seed, split: str = "train", documents: int = 256, questions: int = 32, mix: dict | None = None,
              natural: Natural | None = None, people: tuple | None = None) -> Bank:
    """A bank of `documents` texts with `questions` questions.

    `people`: the given and family names to take, of those of the split. If the questions' own documents already exceed `documents`, the bank is as large as they need.
    """
    rng = random.Random(f"bank/{split}/{seed}")
    builder = Builder(rng, split, natural)
    if people:
        builder.names.first, builder.names.last = people
    mix = mix or DEFAULT_MIX
    for kind in rng.choices(list(mix), weights=list(mix.values()), k=questions):
        builder.one(kind)
    return builder.finish(documents)


def make_sample(seed, split: str = "train", documents: int = 16, mix: dict | None = None,
                natural: Natural | None = None) -> Bank:
    """A bank with one question."""
    return make_bank(f"sample/{seed}", split, documents, 1, mix, natural)


_worker_args: dict = {}


def _init_worker(args):
    _worker_args.update(args)


def _work(seed, transform):
    bank = make_bank(seed, **_worker_args)
    return transform(bank) if transform else bank


def iter_banks(seed, split: str = "train", workers: int = 0, start: int = 0, count: int | None = None,
               transform=None, **arguments) -> Iterator:
    """Banks start, start+1, ...; bank i depends on (seed, split, i) and the arguments only.

    `transform` (a module-level function) is applied to each bank inside the worker: tokenizing there keeps
    that work off the training process.
    """
    stop = None if count is None else start + count

    def seeds():
        i = start
        while stop is None or i < stop:
            yield f"{seed}/{i}"
            i += 1

    if workers <= 0:
        for key in seeds():
            bank = make_bank(key, split, **arguments)
            yield transform(bank) if transform else bank
        return
    warm(split)
    context = multiprocessing.get_context("fork")
    with context.Pool(workers, _init_worker, ({"split": split, **arguments},)) as pool:
        # A window of tasks instead of imap, which would run ahead of the consumer without bound.
        window, source = [], seeds()
        for key in source:
            window.append(pool.apply_async(_work, (key, transform)))
            if len(window) >= 4 * workers:
                yield window.pop(0).get()
        while window:
            yield window.pop(0).get()


def grow(bank: Bank, tokens: int, seed, count_tokens=approx_tokens, natural: Natural | None = None, split: str | None = None,
         with_natural: float = 0.3) -> Bank:
    """The bank with filler documents up to `tokens`; its own documents are scattered through them."""
    split = split or (bank.questions[0].split if bank.questions else "test")
    rng = random.Random(f"grow/{split}/{seed}")
    total, extra = sum(map(count_tokens, bank.documents)), []
    for text in _filler(rng, split, natural, with_natural):
        total += count_tokens(text)
        if total > tokens:
            break
        extra.append(text)
    size = len(bank.documents) + len(extra)
    places = sorted(rng.sample(range(size), len(bank.documents)))
    documents, source, old = [], iter(extra), 0
    for i in range(size):
        if old < len(places) and places[old] == i:
            documents.append(bank.documents[old])
            old += 1
        else:
            documents.append(next(source))
    questions = [Question(q.question, [[places[i] for i in step] for step in q.steps], q.answer, q.answer_long, q.kind, q.split,
                          q.template, list(q.tags), list(q.parts)) for q in bank.questions]
    return Bank(documents, questions)
