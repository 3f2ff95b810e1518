"""Documents of the generated world: facts put into words, in many styles of notes."""
import random
from dataclasses import dataclass

from . import grammar
from .grammar import Relation
from .lexicon import VALUES, Names


# A fact of the first relation settles the second one for its object: a married couple is one both ways,
# who leads a project is its lead. No second fact of that kind is made up.
IMPLIES = {"spouse": "spouse", "sibling": "sibling", "friend": "friend", "twin": "twin", "leadproject": "projectlead",
           "projectlead": "leadproject", "ceo": "employer", "founder": "employer", "teamlead": "team"}


@dataclass(frozen=True)
class Fact:
    relation: Relation
    subject: str
    object: str


def upper_first(text: str) -> str:
    return text[:1].upper() + text[1:]


def fill(template: str, subject: str, object: str = "") -> str:
    """Puts subject and object into a phrasing, with the right article before the object."""
    if "a {o}" in template and object[:1].lower() in "aeiou":
        template = template.replace(" a {o}", " an {o}")
    return template.replace("{s}", subject).replace("{o}", object)


def sentence(text: str) -> str:
    text = upper_first(text)
    return text if text.endswith((".", "!", "?", ":")) else text + "."


class Writer:
    """Puts facts into documents. One Writer serves one bank."""

    def __init__(self, rng: random.Random, split: str, filler: bool = False):
        self.rng, self.split = rng, split
        self.names = Names(rng, split, filler)
        self.known: set[tuple[str, str]] = set()  # (relation, subject) that some document states
        self.relations = grammar.by_subject(split)

    # Facts

    def fact(self, relation: Relation, subject: str, object: str | None = None) -> Fact:
        """A new fact; the object is drawn if not given."""
        object = object or self.names.value(relation.object)
        self.known.add((relation.name, subject))
        if relation.name in IMPLIES:
            self.known.add((IMPLIES[relation.name], object))
        return Fact(relation, subject, object)

    def side_facts(self, kind: str, subject: str, count: int, avoid: set[str]) -> list[Fact]:
        """Up to `count` further facts about a subject, none of a relation in `avoid`."""
        free = [r for r in self.relations.get(kind, ())
                if r.name not in avoid and (r.name, subject) not in self.known]
        return [self.fact(r, subject) for r in self.rng.sample(free, min(count, len(free)))]

    def state(self, fact: Fact) -> str:
        """A fact as a clause, by one of the split's phrasings."""
        template = self.rng.choice(fact.relation.part("statements", self.split))
        return fill(template, fact.subject, fact.object)

    # Sentences

    def chatter(self) -> str:
        rng = self.rng
        text = rng.choice(grammar.CHATTER)
        for slot, words in grammar.CHATTER_SLOTS.items():
            if slot in text:
                text = text.replace(slot, rng.choice(words))
        return text

    def told(self, fact: Fact) -> str:
        return sentence(self.rng.choice(grammar.LEAD_INS) + self.state(fact))

    def date(self, year: bool = True) -> str:
        rng = self.rng
        day, month, y = rng.randint(1, 28), rng.randrange(12), rng.randint(2019, 2026)
        return format_date(rng, y, month, day) if year else f"{day} {VALUES['month'][month]}"

    # Documents

    def document(self, facts: list[Fact], date: str | None = None, style: str | None = None) -> str:
        """A document that states all `facts`, in a random style."""
        rng = self.rng
        style = style or rng.choice(STYLES)
        sentences = [self.told(f) for f in facts]
        noise = rng.random()
        extra = 0 if noise < 0.35 else rng.randint(1, 2) if noise < 0.85 else rng.randint(3, 7)
        for _ in range(extra):
            sentences.insert(rng.randint(0, len(sentences)), self.chatter())
        return getattr(self, "_" + style)(facts, sentences, date or self.date())

    def _plain(self, facts, sentences, date):
        return " ".join(sentences)

    def _dated(self, facts, sentences, date):
        return f"{date}: " + " ".join(sentences)

    def _note(self, facts, sentences, date):
        head = self.rng.choice(("Note", "Memo", "Reminder", "Memory", "Log entry"))
        return f"{head} ({date}): " + " ".join(sentences)

    def _diary(self, facts, sentences, date):
        opening = self.rng.choice(("Dear diary,", "A day like any other.", "What a day.", "Back home at last.", "Just a few lines tonight."))
        return f"{date}\n{opening} " + " ".join(sentences)

    def _bullets(self, facts, sentences, date):
        mark = self.rng.choice(("- ", "* ", "o "))
        return "\n".join([f"Notes, {date}"] + [mark + s for s in sentences])

    def _form(self, facts, sentences, date):
        lines, last = [], None
        for fact in facts:
            if fact.subject != last:
                lines.append(f"Record: {fact.subject}" if self.rng.random() < 0.5 else upper_first(fact.subject))
                last = fact.subject
            lines.append(f"{fact.relation.label}: {fact.object}")
        return "\n".join(lines + [f"Last change: {date}"])

    def _email(self, facts, sentences, date):
        rng, first = self.rng, self.names.first
        subject = rng.choice(("update", "a few things", "for your information", "news", "question and answer", "re: yesterday", "short note"))
        greeting = rng.choice(("Hi", "Hello", "Dear", "Good morning"))
        return (f"From: {rng.choice(first)}\nTo: {rng.choice(first)}\nDate: {date}\nSubject: {subject}\n\n{greeting},\n"
                + " ".join(sentences) + "\n" + rng.choice(("Best regards", "Cheers", "Thanks", "See you")))

    def _minutes(self, facts, sentences, date):
        rng, first = self.rng, self.names.first
        present = ", ".join(rng.choice(first) for _ in range(rng.randint(2, 4)))
        return (f"Minutes of {date}\nPresent: {present}\n"
                + "\n".join(f"{i}. {s}" for i, s in enumerate(sentences, 1)))

    def _ticket(self, facts, sentences, date):
        rng = self.rng
        head = f"Ticket {rng.choice(('OPS', 'HR', 'IT', 'WEB', 'BUG', 'REQ'))}-{rng.randint(10, 9999)}"
        status = rng.choice(("open", "closed", "in progress", "waiting"))
        return f"{head} [{status}] {date}\n" + " ".join(sentences)

    def _talk(self, facts, sentences, date):
        rng, first = self.rng, self.names.first
        people = [rng.choice(first) for _ in range(2)]
        stamp = rng.randint(8, 18)
        return "\n".join([date] + [f"[{stamp}:{10 + 3 * i:02d}] {rng.choice(people)}: {s}" for i, s in enumerate(sentences[:16])]
                         + [" ".join(sentences[16:])]).rstrip()

    def _report(self, facts, sentences, date):
        title = self.rng.choice(("Weekly report", "Status", "Summary", "Briefing", "Background", "Profile", "Field notes"))
        half = (len(sentences) + 1) // 2
        return f"{title}, {date}\n\n" + " ".join(sentences[:half]) + (
            "\n\n" + " ".join(sentences[half:]) if sentences[half:] else "")

    def chat(self, said: str, noted: str, date: str, dated: bool = False) -> str:
        """A dialogue in which the user states one fact; with `dated` it shows its date."""
        rng = self.rng
        user, assistant = rng.choice((("User", "Assistant"), ("user", "assistant"), ("Human", "AI"), ("Me", "Bot")))
        reply = rng.choice(("Got it, I will remember that.", "Thanks for telling me.", "Noted!", "Sure, I made a note.", "Okay.",
                            "I will keep that in mind.", "Understood.", "Good to know."))
        ask = rng.choice(("Can you help me plan my week?", "I have a request.", "Hi there!", "What's the weather like?", "Tell me a joke.",
                          "Can you draft a mail for me?", "How do I boil an egg?", "Let's talk about tomorrow.", "Any news?"))
        answer = rng.choice(("Of course.", "Gladly. What do you have in mind?", "Hello! How can I help?", "I cannot check that right now.",
                             "Let me think about it.", "Sure, go ahead."))
        form = rng.randrange(2 if dated else 0, 5)
        if form == 0:
            return f"{user}: {sentence(said)}\n{assistant}: {reply}"
        if form == 1:
            return f"{user}: {ask}\n{assistant}: {answer}\n{user}: {sentence(said)}\n{assistant}: {reply}"
        if form == 2:
            return f"[{date}] {user}: {ask} {sentence(said)}\n{assistant}: {reply} {answer}"
        if form == 3:
            return f"Memory of {date}: {sentence(noted)}"
        return f"Conversation on {date}\n{user}: {self.chatter()} {sentence(said)}\n{assistant}: {reply}\n{user}: {self.chatter()}"


STYLES = ("plain", "plain", "plain", "dated", "note", "diary", "bullets", "form", "email", "minutes", "ticket", "talk", "report")


def format_date(rng: random.Random, year: int, month: int, day: int) -> str:
    form = rng.randrange(4)
    if form == 0:
        return f"{year}-{month + 1:02d}-{day:02d}"
    if form == 1:
        return f"{VALUES['month'][month]} {day}, {year}"
    if form == 2:
        return f"{day} {VALUES['month'][month][:3]} {year}"
    return f"{day} {VALUES['month'][month]} {year}"
