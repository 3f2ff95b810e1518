"""Invented worlds: people, firms, projects and the user's own life, as memories with questions.

A World is consistent: every (subject, relation) has one current value, so that a whole training
step can serve as one memory. Splits: names (of people, firms, projects, pets), and the last
document, question and noun phrasings of every relation belong to the evaluation only; no training
document or question uses them. Values of closed classes (cities, foods, weekdays) are shared.
"""

from __future__ import annotations

import dataclasses
import random
import re
import zlib
from collections.abc import Sequence

FIRST = (
    "Ada Adam Agnes Ahmed Aiko Alan Alice Amara Amir Ana Andre Anika Anton Aria Arjun Astrid Bela "
    "Ben Bianca Boris Bruno Camila Carl Carmen Cecil Chen Chloe Clara Cyrus Dalia Dana Daniel David "
    "Diego Dina Dora Edgar Elena Eli Elsa Emil Emma Enzo Erik Esra Eva Farah Felix Fiona Frank Gabriel "
    "Gina Grace Greta Gustav Hana Hassan Hector Heidi Helen Hugo Ida Igor Ines Irene Isaac Ivan Jack "
    "Jana Jasper Jean Jonas Jorge Julia Kai Karim Karin Kate Kenji Kira Lara Lars Laura Leo Lina Louis "
    "Lucia Luis Lukas Magda Maria Marco Mark Marta Max Maya Mei Mia Milan Milo Mona Nadia Nina Noah "
    "Nora Olga Oliver Omar Oscar Otto Paula Pedro Petra Rafael Rania Rashid Rita Robert Rosa Ruth Sam "
    "Sara Sven Tara Theo Tim Tina Tom Uma Vera Victor Vikram Wanda Yara Yusuf Zara Zoe"
).split()
LAST_START = "Ab Ack Al Ash Bar Beck Bell Ben Berg Bos Bran Bren Cal Cas Cor Dar Del Dun El Fal Fer Gar Gold Gran Hal Har Hol Jan Kal Kar Kel Kor Lam Lan Lin Lor Mar Mel Mor Nor Ol Pal Pen Quin Ram Ros Sal San Sch Sel Sol Tal Tor Val Ver Wal Wes Win Yor Zan".split()
LAST_END = "ado aker ani ano ard asan berg bright by cott den der dez dorf ell en ero ett field ford gard ham hart ic ini is kin land ley low man mann mer more nan ner ov quist ran ridge sen shaw ski son stein stone ton ura vale vich wall wick wood worth".split()
ORG_END = "Labs Foods Partners Logistics Systems Bakery Motors Press Clinic Studio Energy Textiles Insurance Robotics Gardens Analytics Shipping Interiors".split()
PROJECT = "Falcon Maple Orion Comet Granite Harbor Lotus Nimbus Onyx Pelican Quartz Raven Saffron Tundra Umber Violet Willow Zephyr Amber Basalt Cedar Delta Ember Fjord Glacier Heron Indigo Juniper Kestrel Lagoon".split()
PET_START = "Bi Bo Chi Coo Di Fi Gus Jo Ki Lo Mo Ni Pe Pip Ro Ru Ta To Wi Zi".split()
PET_END = "bby dge ffin ggle kie lla mbo mmy nzo ppy rley scuit sky ster tto xie zzle".split()

LISTS = {
    "city": "Lisbon Oslo Prague Kyoto Lima Tunis Ghent Turin Porto Bergen Krakow Leipzig Nairobi Quito Denver Austin Boston Halifax Cork Leeds Bristol Malmo Tampere Riga Vilnius Split Zagreb Athens Izmir Cairo Accra Dakar Mumbai Pune Hanoi Manila Osaka Perth Hobart Dunedin Toronto Montreal Havana Bogota Santiago Cordoba Seville Valencia Lyon Nantes Zurich Basel Vienna Graz Munich Hamburg Cologne Utrecht Antwerp Geneva".split(),
    "food": "sushi|lentil soup|lasagna|pad thai|falafel|goulash|paella|ramen|pierogi|mushroom risotto|fish tacos|apple pie|dumplings|borscht|green curry|shakshuka|gnocchi|beef stew|pancakes|caesar salad".split("|"),
    "allergy": "peanuts|shellfish|strawberries|penicillin|cinnamon|garlic|latex|bee stings|eggs|soy|sesame|pollen|cats|walnuts|ibuprofen|milk".split("|"),
    "colour": "red blue green yellow purple orange turquoise black white grey pink silver brown beige".split(),
    "hobby": "rock climbing|pottery|chess|bird watching|salsa dancing|woodworking|photography|fencing|baking|sailing|astronomy|knitting|archery|gardening|origami|cycling|swimming|calligraphy".split("|"),
    "instrument": "violin piano cello flute trumpet guitar harp clarinet drums saxophone banjo oboe accordion".split(),
    "language": "Portuguese Finnish Arabic Korean Swahili Polish Italian Mandarin Hindi Greek Turkish Dutch Hungarian Vietnamese Danish".split(),
    "job": "nurse|architect|pilot|pastry chef|geologist|translator|electrician|librarian|dentist|accountant|beekeeper|carpenter|journalist|veterinarian|photographer|plumber|teacher|surgeon".split("|"),
    "subject": "marine biology|law|history|chemistry|economics|philosophy|computer science|medicine|music|statistics|physics|linguistics".split("|"),
    "animal": "dog cat parrot rabbit hamster tortoise ferret horse goldfish canary".split(),
    "product": "olive oil|solar panels|running shoes|office chairs|drones|board games|medical scanners|bicycles|coffee machines|wool coats|phone cases|tents|ceramic tiles|garden tools".split("|"),
    "place": "the blue drawer in the hallway|the top shelf of the pantry|the glove box of the car|the shoebox under the bed|the safe behind the mirror|the garden shed|the desk at the office|the red suitcase in the attic|the kitchen cabinet above the sink|the pocket of the winter coat|the basement next to the boiler|the toolbox in the garage|the jar on the windowsill|the second drawer of the nightstand|the locker at the gym".split("|"),
    "thing": "passport|spare key|vaccination card|camera charger|birth certificate|sewing kit|hiking boots|insurance papers|old laptop|grandmother's ring|tax folder|sleeping bag|blood pressure monitor|umbrella|library card|chess set".split("|"),
    "shop": "the market on Elm Street|an online auction|the flea market|a bookshop near the station|the hardware store|a friend from work|the airport shop|the museum store".split("|"),
    "weekday": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split(),
    "month": "January February March April May June July August September October November December".split(),
    "event": "dentist appointment|parent-teacher conference|car inspection|piano recital|team offsite|eye exam|budget review|house viewing|yoga class|job interview|haircut|flight to the conference|book club|vet visit|choir rehearsal".split("|"),
    "service": "home wifi|streaming account|office printer|bike lock|garage door|alarm system|online bank|old phone|storage unit|photo backup".split("|"),
    "medicine": "ibuprofen|vitamin D|antihistamines|blood thinners|insulin|eye drops|cough syrup|iron tablets|melatonin".split("|"),
    "drink": "black coffee|green tea|oat milk latte|ginger tea|orange juice|espresso|hot chocolate|sparkling water|mint tea".split("|"),
    "material": "oak steel bamboo copper linen granite leather glass aluminium marble".split(),
}

# Relations: "@ name subject value", D documents, Q questions, N noun phrases (linking relations).
# Alternatives are separated by " | "; in D and Q the last one, and in N the last, is for evaluation.
RELATIONS_TEXT = """
@ manager person person
D {s}'s manager is {v}. | {s} reports to {v}. | {v} manages {s}. | {v} has been {s}'s boss since last year. | At the annual review, {s} was assessed by {v}, who leads the team {s} is in. | {s} answers to {v} at work.
Q Who is {s}'s manager? | Who manages {s}? | Who does {s} report to? | Who is the boss of {s}? | Whom does {s} answer to at work?
N {s}'s manager | the manager of {s} | the person who manages {s} | {s}'s boss
@ spouse person person
D {s} is married to {v}. | {v} and {s} got married last summer. | {s}'s husband or wife is {v}. | {v} is the spouse of {s}. | {s} and {v} celebrated their wedding anniversary. | {s} tied the knot with {v}.
Q Who is {s} married to? | Who is {s}'s spouse? | Whom did {s} marry? | Who is the partner of {s}? | Whose wedding with {s} took place?
N {s}'s spouse | the person {s} married | the spouse of {s} | the partner {s} is married to
@ sister person person
D {v} is the sister of {s}. | {s} has a sister called {v}. | {s}'s sister is {v}. | {s} grew up with a sister, {v}. | {s} shared a room with sister {v} as a child.
Q Who is {s}'s sister? | What is the name of {s}'s sister? | Who is the sister of {s}? | How is {s}'s sister called?
N {s}'s sister | the sister of {s} | the sister that {s} has
@ doctor person person
D {s}'s doctor is {v}. | {s} goes to Dr. {v} for checkups. | Dr. {v} treats {s}. | {s} has been a patient of Dr. {v} for years. | When ill, {s} sees Dr. {v}.
Q Who is {s}'s doctor? | Which doctor treats {s}? | Who does {s} see for checkups? | Which physician looks after {s}?
N {s}'s doctor | the doctor of {s} | the doctor who treats {s} | {s}'s physician
@ employer person org
D {s} works at {v}. | {s} is employed by {v}. | {v} hired {s} in spring. | {s} has a job at {v}. | {s} earns a salary at {v}.
Q Where does {s} work? | Which company employs {s}? | Who is {s}'s employer? | What company does {s} work for? | At which firm does {s} have a job?
N {s}'s employer | the company {s} works for | the firm that employs {s} | {s}'s workplace
@ lives person city
D {s} lives in {v}. | {s} has an apartment in {v}. | {s} moved to {v} two years ago. | {s}'s home is in {v}. | {s} resides in {v}.
Q Where does {s} live? | In which city does {s} live? | Which city is {s}'s home in? | What city did {s} move to? | Where is {s} residing?
@ born person city
D {s} was born in {v}. | {s} comes from {v}. | {s}'s birthplace is {v}. | {s} grew up in {v} and was born there. | {v} is the city where {s} came into the world.
Q Where was {s} born? | What is {s}'s birthplace? | In which city was {s} born? | Which town did {s} come into the world in?
@ allergy person allergy
D {s} is allergic to {v}. | {s} cannot have {v} because of an allergy. | {s} has a severe allergy to {v}. | Keep {v} away from {s}, who is allergic. | {s} gets a rash from {v}.
Q What is {s} allergic to? | Which allergy does {s} have? | What must {s} avoid because of an allergy? | What gives {s} an allergic reaction?
@ likesfood person food
D {s}'s favorite dish is {v}. | {s} loves {v}. | {s} always orders {v}. | For the birthday dinner {s} asked for {v}. | Nothing makes {s} happier than {v} for dinner.
Q What is {s}'s favorite dish? | What food does {s} love? | What does {s} always order? | Which meal makes {s} happiest?
@ hobby person hobby
D {s} enjoys {v} on weekends. | {s}'s hobby is {v}. | {s} spends the evenings with {v}. | {s} took up {v} a while ago. | In free time, {s} is into {v}.
Q What is {s}'s hobby? | What does {s} enjoy on weekends? | What does {s} do in the evenings? | What pastime is {s} into?
@ plays person instrument
D {s} plays the {v}. | {s} has been taking {v} lessons. | {s} practices the {v} every day. | {s} bought a new {v} to practice on. | {s} performed on the {v} at the concert.
Q Which instrument does {s} play? | What instrument does {s} practice? | What does {s} play? | On what instrument did {s} perform?
@ job person job
D {s} is a {v}. | {s} works as a {v}. | {s} trained to become a {v}. | By profession {s} is a {v}. | {s} makes a living as a {v}.
Q What is {s}'s profession? | What does {s} do for a living? | What is {s}'s job? | As what does {s} work?
@ speaks person language
D {s} is learning {v}. | {s} speaks fluent {v}. | {s} takes {v} classes. | {s} has been studying the {v} language. | {s} can hold a conversation in {v}.
Q Which language is {s} learning? | What language does {s} speak? | Which language classes does {s} take? | In what tongue can {s} converse?
@ studied person subject
D {s} studied {v} at university. | {s} has a degree in {v}. | {s} graduated in {v}. | {s}'s major was {v}. | {s} spent five years reading {v} at college.
Q What did {s} study? | What subject does {s} have a degree in? | What was {s}'s major? | Which field did {s} read at college?
@ phone person phone
D {s}'s phone number is {v}. | You can reach {s} at {v}. | {s} has a new number: {v}. | Call {s} on {v}. | To contact {s}, dial {v}.
Q What is {s}'s phone number? | At what number can I reach {s}? | How can I call {s}? | What number should I dial for {s}?
@ birthday person date
D {s}'s birthday is on {v}. | {s} was born on {v}. | {s} celebrates a birthday on {v}. | {v} is {s}'s birthday. | {s} turns a year older every {v}.
Q When is {s}'s birthday? | On what day was {s} born? | What date is {s}'s birthday? | When does {s} turn a year older?
@ pet person pet
D {s} has a {animal} named {v}. | {s}'s {animal} is called {v}. | {v} is the {animal} that belongs to {s}. | {s} adopted a {animal} and named it {v}. | {s} walks home to feed the {animal} {v}.
Q What is the name of {s}'s pet? | What is {s}'s pet called? | Which pet belongs to {s}? | How did {s} name the pet?
N {s}'s pet | the pet of {s} | the animal {s} adopted
@ vet pet person
D {v} is the vet of {s}. | {s} the pet is treated by {v}. | {s} gets its shots from {v}. | {s} is taken to {v} for checkups. | When {s} limps, {v} has a look.
Q Who is the vet of {s}? | Who treats {s}? | Who gives {s} its shots? | Which vet has a look at {s}?
N the vet of {s} | {s}'s vet | the vet who treats {s}
@ petfood pet food
D {s} the pet stole some {v} from the table. | {s} once ate a whole plate of {v}. | {s} is crazy about {v}, although it is bad for pets. | {s} begged for {v} all evening.
Q What did {s} steal from the table? | What did {s} once eat? | What is {s} crazy about? | What did {s} beg for?
@ hq org city
D {s} has its headquarters in {v}. | {s} is based in {v}. | The head office of {s} is in {v}. | {s} opened its main office in {v}. | {v} is home to the central office of {s}.
Q Where is {s} based? | Where are the headquarters of {s}? | In which city is the head office of {s}? | Which city is home to {s}'s central office?
@ ceo org person
D {v} is the CEO of {s}. | {s} is run by {v}. | {s} appointed {v} as chief executive. | {v} leads the company {s}. | {v} sits at the head of {s}.
Q Who is the CEO of {s}? | Who runs {s}? | Who leads {s}? | Who is the chief executive at {s}? | Who is at the head of {s}?
N the CEO of {s} | the person who runs {s} | {s}'s chief executive | the head of {s}
@ makes org product
D {s} makes {v}. | {s} sells {v} all over Europe. | {s} is known for its {v}. | The main product of {s} is {v}. | {s} earns its money with {v}.
Q What does {s} make? | What does {s} sell? | What is {s} known for? | With what does {s} earn its money?
@ founded org year
D {s} was founded in {v}. | {s} started business in {v}. | The company {s} dates back to {v}. | {s} was established in {v}. | {v} was the year {s} opened its doors.
Q When was {s} founded? | In what year did {s} start business? | In which year was {s} established? | When did {s} open its doors?
@ lead project person
D {v} leads {s}. | The lead of {s} is {v}. | {v} was put in charge of {s}. | {s} is headed by {v}. | Responsibility for {s} lies with {v}.
Q Who leads {s}? | Who is in charge of {s}? | Who is the lead of {s}? | With whom lies responsibility for {s}?
N the lead of {s} | the person who leads {s} | whoever is in charge of {s} | the head of {s}
@ client project org
D The client of {s} is {v}. | {s} is being done for {v}. | {v} ordered {s}. | {v} pays for {s}. | {v} commissioned {s}.
Q Who is the client of {s}? | For which company is {s} being done? | Who pays for {s}? | Which firm commissioned {s}?
N the client of {s} | the company that {s} is done for | {s}'s client | the firm that commissioned {s}
@ deadline project date
D The deadline of {s} is {v}. | {s} is due on {v}. | {s} has to be finished by {v}. | We moved the deadline of {s} to {v}. | {s} must ship no later than {v}.
Q When is {s} due? | What is the deadline of {s}? | By when does {s} have to be finished? | What is the latest date for shipping {s}?
@ budget project money
D {s} has a budget of {v}. | The budget of {s} is {v}. | We approved {v} for {s}. | {s} may cost up to {v}. | {v} has been set aside for {s}.
Q What is the budget of {s}? | How much may {s} cost? | How much was approved for {s}? | What sum is set aside for {s}?
@ version project version
D {s} is now at version {v}. | We released version {v} of {s}. | The current release of {s} is {v}. | {s} was upgraded to {v}. | Version {v} of {s} went live.
Q What version is {s} at? | What is the current release of {s}? | Which version of {s} did we release? | Which version of {s} went live?
@ stored thing place
D My {s} is in {v}. | I put my {s} in {v}. | I keep my {s} in {v}. | The user stores their {s} in {v}. | I moved my {s} to {v}. | If I need my {s}, I should look in {v}.
Q Where is my {s}? | Where did I put my {s}? | Where do I keep my {s}? | Where can I find my {s}? | In what place should I look for my {s}?
@ bought thing shop
D I bought my {s} at {v}. | My {s} came from {v}. | I got my {s} from {v}. | The user purchased their {s} from {v}. | It was {v} where I picked up my {s}.
Q Where did I buy my {s}? | Where did I get my {s}? | Where did my {s} come from? | From where did I pick up my {s}?
@ thingcost thing money
D My {s} cost {v}. | I paid {v} for my {s}. | The price of my {s} was {v}. | The user spent {v} on their {s}. | I handed over {v} for my {s}.
Q How much did my {s} cost? | What did I pay for my {s}? | What was the price of my {s}? | What sum did I hand over for my {s}?
@ lent thing person
D I lent my {s} to {v}. | {v} borrowed my {s}. | {v} still has my {s}. | The user gave their {s} to {v} for a few days. | My {s} is with {v} at the moment.
Q Who borrowed my {s}? | To whom did I lend my {s}? | Who has my {s}? | With whom is my {s} at the moment?
N the person who borrowed my {s} | the one I lent my {s} to | whoever has my {s}
@ when event slot
D My {s} is on {v}. | I have a {s} on {v}. | The {s} was moved to {v}. | The user's {s} is scheduled for {v}. | Reminder: {s}, {v}. | Don't forget the {s}, it takes place {v}.
Q When is my {s}? | What time is the {s}? | On which day is my {s}? | For when is my {s} scheduled? | When does the {s} take place?
@ eventwith event person
D My {s} is with {v}. | {v} will be there for my {s}. | I am meeting {v} for the {s}. | {v} is the contact for my {s}. | The one to ask for at the {s} is {v}.
Q Who is my {s} with? | Whom am I meeting for the {s}? | Who is the contact for my {s}? | Whom should I ask for at the {s}?
N the contact for my {s} | the person I am meeting for the {s} | whoever my {s} is with
@ code service code
D The code for my {s} is {v}. | My {s} password is {v}. | I set the password of the {s} to {v}. | The user's code for the {s}: {v}. | To unlock the {s}, use {v}.
Q What is the code for my {s}? | What is my {s} password? | Which password did I set for the {s}? | How do I unlock the {s}?
@ servicecost service money
D The {s} costs me {v} a month. | I pay {v} per month for the {s}. | The monthly fee of my {s} is {v}. | The {s} is billed at {v} each month.
Q How much does the {s} cost per month? | What do I pay for the {s}? | What is the monthly fee of my {s}? | At what rate is the {s} billed?
@ takes person medicine
D {s} takes {v} every morning. | {s} needs {v} daily. | The doctor told {s} to use {v}. | {s} has a prescription for {v}. | {s} never travels without {v}.
Q Which medicine does {s} take? | What does {s} need daily? | What was {s} prescribed? | What medication does {s} never travel without?
@ drinks person drink
D {s} drinks {v} in the morning. | {s} prefers {v}. | {s} starts the day with {v}. | Offer {s} some {v}, the usual choice. | A cup of {v} is what {s} wants first thing.
Q What does {s} drink in the morning? | What drink does {s} prefer? | How does {s} start the day? | What beverage does {s} want first thing?
@ colour person colour
D {s}'s favorite color is {v}. | {s} likes {v} best. | {s} painted the bedroom {v}. | {s} always wears {v}. | Of all colors {s} would pick {v}.
Q What is {s}'s favorite color? | Which color does {s} like best? | What color does {s} wear? | Which color would {s} pick?
@ trip person trip
D {s} is travelling to {v}. | {s} booked a trip to {v}. | {s} will be in {v}. | {s} has tickets to {v}. | {s} packs the bags for {v}.
Q Where is {s} travelling to? | Where did {s} book a trip to? | To what place does {s} have tickets? | For which destination does {s} pack?
"""

CHANGING = {"manager", "employer", "lives", "phone", "stored", "when", "deadline", "version", "budget", "lead", "code"}
FILLER = (
    "The weather was mild that day.|We talked for a while and had some tea.|Nothing else of note happened.|"
    "It was a long week.|There was a lot of traffic on the way.|The rest of the conversation was small talk.|"
    "I should write this down properly some time.|The meeting ended a bit late.|It came up over lunch.|"
    "More on this next time.|I am not sure why this matters, but here it is.|The room was quite noisy.|"
    "We also looked at some photos.|Everyone was in a good mood.|The bus was late again."
).split("|")
UNKNOWN = "I don't know."


@dataclasses.dataclass
class Relation:
    name: str
    subject: str
    value: str
    docs: list[str]
    questions: list[str]
    nouns: list[str]

    def pick(self, rng: random.Random, field: str, evaluation: bool) -> str:
        """A phrasing of the right split: the last one is never seen in training."""
        options = getattr(self, field)
        return options[-1] if evaluation else rng.choice(options[:-1])


def parse_relations() -> list[Relation]:
    out: list[Relation] = []
    for line in RELATIONS_TEXT.strip().splitlines():
        mark, rest = line.split(" ", 1)
        if mark == "@":
            out.append(Relation(*rest.split(" "), [], [], []))
        else:
            field = {"D": "docs", "Q": "questions", "N": "nouns"}[mark]
            setattr(out[-1], field, [p.strip() for p in rest.split(" | ")])
    return out


RELATIONS = parse_relations()
BY_SUBJECT: dict[str, list[Relation]] = {}
for _r in RELATIONS:
    BY_SUBJECT.setdefault(_r.subject, []).append(_r)
ENTITY_TYPES = ("person", "org", "project", "pet")


def few_relations(rng: random.Random, relations: list[Relation]) -> list[Relation]:
    """At most two that lead on to something else, and three that do not."""
    leading, others = [r for r in relations if r.nouns], [r for r in relations if not r.nouns]
    return rng.sample(leading, min(2, len(leading))) + rng.sample(others, min(3, len(others)))


def in_evaluation(name: str) -> bool:
    """One name in eight belongs to the evaluation."""
    return zlib.crc32(name.encode()) % 8 == 0


def split_of_key(key: str) -> bool:
    """The same rule for natural documents, by their key; True: evaluation."""
    return zlib.crc32(key.encode()) % 20 == 0


@dataclasses.dataclass
class Fact:
    subject: str
    relation: Relation
    value: str
    document: int = -1  # index into World.documents that states it
    outdated: int = -1  # index of a document that states an earlier value, or -1


@dataclasses.dataclass
class Question:
    text: str
    answer: str
    hops: list[list[int]]  # documents that must be read, step by step; empty: unanswerable


class World:
    """Documents (texts, in the order they were remembered) and facts to ask about."""

    def __init__(self, rng: random.Random, n_people: int, evaluation: bool,
                 names: tuple[Sequence[str], Sequence[str]] | None = None, dense: bool = False):
        """`names`: more given and family names to draw from, for training. `dense`: few names and relations, so that
        whatever is asked of somebody is said of many whose names are nearly the same, as in a memory of millions."""
        self.rng, self.evaluation, self._family = rng, evaluation, names[1] if names else ()
        self.documents: list[str] = []
        self.facts: dict[tuple[str, str], Fact] = {}
        self._used: set[str] = set()
        # Few first and last names per world, so that many people share one of them.
        given = names[0] if names and rng.random() < 0.6 else FIRST
        firsts = rng.sample(given, 5 if dense else min(len(given), 12 + n_people // 4))
        if dense:
            starts = rng.sample(LAST_START, 3)
            lasts = [self._last() for _ in range(6)] + [rng.choice(starts) + rng.choice(LAST_END) for _ in range(12)]
        else:
            lasts = [self._last() for _ in range(8 + n_people // 4)]
        some = lambda words, n: rng.sample(words, n) if dense else words
        ends, projects, pets = some(ORG_END, 3), some(PROJECT, 2), some(PET_START, 3)
        last = (lambda: rng.choice(lasts)) if dense else self._last
        self._draw = {
            "person": lambda: f"{rng.choice(firsts)} {rng.choice(lasts)}",
            "org": lambda: f"{last()} {rng.choice(ends)}",
            "project": lambda: f"Project {rng.choice(projects)}" + rng.choice(["", f" {rng.randrange(2, 99)}", f" {last()}"]),
            "pet": lambda: rng.choice(pets) + rng.choice(PET_END),
        }
        share = {"person": n_people, "org": max(3, n_people // 5), "project": max(3, n_people // 6), "pet": max(2, n_people // 6)}
        self.entities = {kind: self._names(n, self._draw[kind]) for kind, n in share.items()}
        self.relations = {kind: few_relations(rng, of_kind) if dense else of_kind for kind, of_kind in BY_SUBJECT.items()}
        self._make_facts()
        self._write_documents()

    def _last(self) -> str:
        if self._family and self.rng.random() < 0.6:
            return self.rng.choice(self._family)
        return self.rng.choice(LAST_START) + self.rng.choice(LAST_END)

    def _names(self, n: int, draw) -> list[str]:
        out: list[str] = []
        for _ in range(n * 200):
            name = draw()
            if name not in self._used and in_evaluation(name) == self.evaluation:
                self._used.add(name)
                out.append(name)
                if len(out) == n:
                    break
        return out

    def value(self, kind: str, subject: str) -> str:
        r = self.rng
        if kind in self.entities:
            for _ in range(20):
                name = r.choice(self.entities[kind])
                if name != subject:
                    return name
        if kind == "date":
            return f"{r.choice(LISTS['month'])} {r.randrange(1, 29)}"
        if kind == "slot":
            day = r.choice([r.choice(LISTS["weekday"]), self.value("date", subject)])
            return f"{day} at {r.randrange(1, 13)}{r.choice(['', ':15', ':30', ':45'])} {r.choice(['am', 'pm'])}"
        if kind == "phone":
            return f"555-{r.randrange(10000):04}"
        if kind == "year":
            return str(r.randrange(1890, 2024))
        if kind == "money":
            return f"${r.randrange(5, 990) * r.choice([1, 1, 10, 100]):,}"
        if kind == "version":
            return f"{r.randrange(1, 9)}.{r.randrange(0, 20)}.{r.randrange(0, 10)}"
        if kind == "code":
            letters = "ABCDEFGHKLMNPRSTVWXYZ"
            return "".join(r.choice(letters) for _ in range(2)) + f"-{r.randrange(100, 9999)}"
        if kind == "trip":
            return f"{r.choice(LISTS['city'])} in {r.choice(LISTS['month'])}"
        return r.choice(LISTS[kind])

    def _make_facts(self) -> None:
        r = self.rng
        subjects = [(e, t) for t in ENTITY_TYPES for e in self.entities[t]]
        for kind in ("thing", "event", "service"):
            subjects += [(x, kind) for x in r.sample(LISTS[kind], r.randrange(3, len(LISTS[kind]) // 2 + 3))]
        pets = list(self.entities["pet"])
        for subject, kind in subjects:
            relations = self.relations[kind]
            n = min(len(relations), r.randrange(2, 6) if kind != "pet" else 2)
            for relation in r.sample(relations, n):
                if relation.value == "pet":
                    if not pets:
                        continue
                    value = pets.pop()  # a pet has one owner
                else:
                    value = self.value(relation.value, subject)
                self.facts[subject, relation.name] = Fact(subject, relation, value)

    def _state(self, fact: Fact, value: str | None = None) -> str:
        text = fact.relation.pick(self.rng, "docs", self.evaluation and self.rng.random() < 0.5)
        return text.format(s=fact.subject, v=value or fact.value, animal=self.rng.choice(LISTS["animal"]))

    def _date(self, year: int) -> str:
        r = self.rng
        return f"{year}-{r.randrange(1, 13):02}-{r.randrange(1, 29):02}"

    def _wrap(self, text: str) -> str:
        r, x = self.rng, self.rng.random()
        if x < 0.45:
            return text
        if x < 0.55:
            return f"{self._date(r.randrange(2019, 2026))}: {text}"
        if x < 0.65:
            return f"user: {text}\nassistant: {r.choice(['Noted.', 'Got it, I will remember that.', 'Thanks for telling me.'])}"
        if x < 0.75:
            return f"Note: {text}"
        if x < 0.87:
            return f"{text} {r.choice(FILLER)}"
        return f"{r.choice(FILLER)} {text}"

    def _write_documents(self) -> None:
        r = self.rng
        facts = list(self.facts.values())
        r.shuffle(facts)
        drafts: list[tuple[str, list[Fact], str]] = []  # text, facts it states, "now" | "old"
        by_subject: dict[str, list[Fact]] = {}
        for f in facts:
            by_subject.setdefault(f.subject, []).append(f)
        done: set[int] = set()
        for f in facts:
            if id(f) in done:
                continue
            group = [f]
            if r.random() < 0.25:  # a longer note about the same subject
                group += [g for g in by_subject[f.subject] if g is not f and id(g) not in done][: r.randrange(1, 3)]
            done.update(map(id, group))
            if len(group) == 1 and f.relation.name in CHANGING and r.random() < 0.15:
                old = self.value(f.relation.value, f.subject)
                if old != f.value:
                    drafts.append((f"{self._date(2021)}: {self._state(f, old)}", [f], "old"))
                    drafts.append((f"{self._date(2024)}: Update. {self._state(f)}", [f], "now"))
                    continue
            drafts.append((self._wrap(" ".join(self._state(g) for g in group)), group, "now"))
        r.shuffle(drafts)
        for i, (text, group, age) in enumerate(drafts):
            self.documents.append(text)
            for f in group:
                if age == "old":
                    f.outdated = i
                else:
                    f.document = i

    # -- Questions --

    def _documents_of(self, fact: Fact) -> list[int]:
        return sorted({fact.document} | ({fact.outdated} if fact.outdated >= 0 else set()))

    def _ask(self, relation: Relation, subject: str) -> str:
        return relation.pick(self.rng, "questions", self.evaluation).format(s=subject)

    def names_in(self, texts) -> set[str]:
        """Those of its people, places and things that any of the texts names."""
        names = sorted((n for of_kind in self.entities.values() for n in of_kind), key=len, reverse=True)
        pattern = re.compile(r"\b(?:" + "|".join(map(re.escape, names)) + r")\b")
        return {name for text in texts for name in pattern.findall(text)}

    def single(self) -> Question:
        fact = self.rng.choice(list(self.facts.values()))
        text = self._ask(fact.relation, fact.subject)
        if fact.outdated >= 0 and self.rng.random() < 0.3:
            text = text[:-1] + " now?"
        return Question(text, fact.value, [self._documents_of(fact)])

    def multi(self, n_hops: int) -> Question | None:
        """A question whose subject is described through n_hops - 1 linking facts."""
        for _ in range(60):
            fact = self.rng.choice(list(self.facts.values()))
            chain = [fact]
            while len(chain) < n_hops and chain[-1].relation.nouns:
                options = [
                    self.facts[chain[-1].value, rel.name]
                    for rel in BY_SUBJECT.get(chain[-1].relation.value, [])
                    if (chain[-1].value, rel.name) in self.facts
                    and (rel.nouns or len(chain) == n_hops - 1)
                ]
                if not options:
                    break
                chain.append(self.rng.choice(options))
            if len(chain) < n_hops or len({f.subject for f in chain}) < n_hops:
                continue
            subject = chain[0].subject
            for link in chain[:-1]:
                subject = link.relation.pick(self.rng, "nouns", self.evaluation).format(s=subject)
            hops: list[list[int]] = []
            seen: set[int] = set()
            for f in chain:
                new = [d for d in self._documents_of(f) if d not in seen]
                seen.update(new)
                if new:
                    hops.append(new)
            return Question(self._ask(chain[-1].relation, subject), chain[-1].value, hops)
        return None

    def unanswerable(self) -> Question:
        """About somebody known, but nothing in memory says it."""
        while True:
            kind = self.rng.choice(["person", "person", "org", "project", "thing", "event", "service"])
            if kind in self.entities:
                subject = self.rng.choice(self.entities[kind])
            else:
                subject = self.rng.choice(LISTS[kind])
            relation = self.rng.choice(self.relations[kind])
            if (subject, relation.name) not in self.facts:
                return Question(self._ask(relation, subject), UNKNOWN, [])

    def stranger(self) -> Question | None:
        """About somebody or something that no document names, called much like those that they do name."""
        kind = self.rng.choice(["person", "person", "person", "org", "project", "pet"])
        names = self._names(1, self._draw[kind])
        return Question(self._ask(self.rng.choice(self.relations[kind]), names[0]), UNKNOWN, []) if names else None
