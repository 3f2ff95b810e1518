"""Names and values of the generated world.

Every entity name belongs to exactly one split, decided by a checksum of the name, so no name
of the evaluation is ever seen in training. Inside a split, names are again divided into
"story" names (questions are asked about them) and "filler" names (unrelated documents only), so
filler can be added to any bank without creating a second source of an answer.

Common values (colours, dishes, dates, numbers, programming languages, ...) are shared.
"""
import os
import random
import zlib
from functools import lru_cache

SPLITS = ("train", "valid", "test")
HERE = os.path.dirname(os.path.abspath(__file__))


def split_of(name: str) -> str:
    """The split that owns a name: 80% train, 7% valid, 13% test."""
    bucket = zlib.crc32(name.encode()) % 100
    return "train" if bucket < 80 else "valid" if bucket < 87 else "test"


def is_filler(name: str) -> bool:
    return (zlib.crc32(name.encode()) >> 16) & 1 == 1


def _words(text: str) -> list[str]:
    return [w.strip() for w in text.replace("\n", ",").split(",") if w.strip()]


ADJECTIVES = _words("""amber, ancient, arctic, autumn, azure, blazing, bold, brave, bright, broken, bronze, calm,
carved, clever, cobalt, copper, coral, crimson, crooked, crystal, curious, dancing, daring, dark, deep, desert, distant,
double, dusty, eager, early, electric, emerald, empty, endless, fading, fearless, fierce, floating, flying, forgotten,
fragile, frozen, gentle, giant, gilded, golden, grand, granite, green, hidden, hollow, honest, humble, hungry, iron, ivory,
jade, jolly, keen, last, lazy, little, lonely, lost, lucky, lunar, magnetic, marble, mellow, midnight, mighty, misty, modest,
mossy, narrow, nimble, noble, northern, oaken, old, orange, pale, patient, polar, proud, purple, quick, quiet, rapid, red,
restless, rising, royal, rusty, sacred, scarlet, second, secret, shining, silent, silver, simple, sleeping, slow, smiling,
solar, solid, southern, stubborn, sunny, swift, tall, thirsty, tidy, tiny, twin, velvet, violet, wandering, warm, western,
white, wild, wise, wooden, young""")
NOUNS = _words("""acorn, albatross, anchor, antler, apple, arrow, badger, banyan, barley, basin, beacon, bear, beaver,
birch, bison, bridge, brook, buffalo, candle, canyon, castle, cedar, cliff, clover, comet, compass, condor, coyote, crane,
crater, cricket, crow, cypress, daisy, delta, dolphin, dragon, drum, dune, eagle, ember, falcon, feather, fern, finch, fjord,
flame, forest, fountain, fox, garden, gazelle, geyser, glacier, goose, grove, gull, hammer, harbour, harvest, hawk, hazel,
heron, hill, horizon, hornet, ibis, iceberg, island, jackal, jaguar, juniper, kestrel, kettle, kite, ladder, lagoon, lantern,
lark, laurel, leopard, lighthouse, lily, lion, lizard, lobster, lotus, lynx, magpie, mango, maple, marsh, meadow, meteor, mill,
mirror, monsoon, moose, mountain, nettle, nightingale, oak, oasis, ocean, olive, orchard, orchid, otter, owl, oyster, panther,
parrot, pebble, pelican, penguin, pepper, pine, planet, plateau, plum, poppy, prairie, puffin, quail, quarry, rabbit, raven,
reef, river, robin, rocket, saddle, salmon, sapphire, sequoia, shadow, shark, shell, sparrow, spider, spruce, squirrel, star,
stork, storm, summit, swallow, swan, thicket, thistle, thunder, tiger, toucan, tower, trout, tulip, tundra, turtle, valley,
viper, volcano, walnut, walrus, waterfall, weasel, whale, willow, window, wolf, woodpecker, wren, zebra, zephyr""")
ORG_TAILS = _words("""Systems, Labs, Industries, Logistics, Foods, Robotics, Energy, Consulting, Media, Textiles, Analytics,
Shipping, Pharma, Software, Motors, Insurance, Partners, Airlines, Bank, Instruments, Optics, Brewery, Works, Publishing,
Dynamics, Group, Holdings, Networks, Studios, Mining, Furniture, Games, Telecom, Construction, Design, Trading""")
PLACE_TAILS = _words("""Café, Bakery, Hotel, Library, Gallery, Cinema, Theatre, Bistro, Inn, Bookshop, Clinic, School,
Pharmacy, Museum, Bar, Garage, Studio, Restaurant, Guesthouse, Market, Pool, Nursery""")
EVENT_TAILS = _words("""Festival, Summit, Conference, Marathon, Fair, Retreat, Hackathon, Gala, Workshop, Tournament,
Exhibition, Symposium, Reunion, Regatta, Congress, Forum, Carnival, Charity Run""")
MEETING_TAILS = _words("""sync, review, stand-up, planning meeting, retrospective, round table, kick-off, steering committee,
status call, demo, workshop, budget meeting""")
TEAM_TAILS = _words("team, group, squad, crew, unit, department")
THING_NOUNS = _words("""toolbox, suitcase, ladder, bicycle, lawnmower, tent, kayak, printer, projector, telescope, guitar case,
sewing machine, drill, camera, safe, cash box, locker, cabinet, generator, vacuum cleaner, backpack, first-aid kit, umbrella,
helmet, spare key, folder, notebook, laptop, tablet, headset, coffee machine, microscope, lamp, sledge, violin case, trailer,
wheelbarrow, chainsaw, fishing rod, chess set, globe, clock, armchair, kettle, mixer, waffle iron, typewriter, record player,
router, hard disk, battery pack, toolkit, cooler, garden gate, shed, garage, gun cabinet, jewellery box, chest, letterbox""")
THING_ADJ = _words("""blue, red, green, yellow, black, white, grey, brown, orange, purple, silver, small, large, old, new,
spare, broken, folding, wooden, metal, plastic, leather, heavy, light, rusty, striped, dented, borrowed, antique, portable,
electric, foldable, waterproof, second-hand, painted, golden, checked, rented, expensive, cheap, noisy, quiet, narrow, round""")
SERVER_TAILS = _words("01,02,03,04,05,07,11,12,21,prod,stage,test,db,web,mail,backup,build,cache,proxy,edge")

VALUES = {
    "food": _words("""mushroom risotto, lentil soup, pad thai, chicken tikka, ratatouille, fish tacos, potato gratin, beef stew,
spinach lasagne, shakshuka, pumpkin curry, onion tart, sushi, ramen, falafel, paella, goulash, pierogi, moussaka, gnocchi,
bibimbap, ceviche, clam chowder, dumplings, empanadas, feijoada, fondue, gazpacho, gumbo, hummus with pita, jambalaya, kimchi stew,
lamb chops, macaroni and cheese, mango sticky rice, minestrone, nasi goreng, okonomiyaki, omelette, pea soup, peking duck,
pho, pizza with anchovies, plum dumplings, poke, pulled pork, quiche, roast goose, salmon pie, sauerbraten, schnitzel, souvlaki,
spring rolls, stuffed peppers, tom yum, tortilla soup, trout with almonds, veggie burgers, wiener sausages, apple strudel,
cherry pie, rhubarb cake, rice pudding, tiramisu, baklava, pancakes with syrup, cheesecake, lemon tart, poppy seed rolls, waffles"""),
    "allergen": _words("""peanuts, shellfish, penicillin, cat hair, birch pollen, lactose, gluten, strawberries, bee stings,
soy, sesame, latex, walnuts, kiwi, dust mites, ibuprofen, eggs, mustard, celery, nickel, ragweed, tomatoes, horse hair, aspirin,
cashews, mould, hazelnuts, lupins, grass pollen, wasp venom, almonds, crab meat, sulphites, dog hair"""),
    "hobby": _words("""pottery, archery, bird watching, rock climbing, stamp collecting, salsa dancing, beekeeping, chess,
woodcarving, fencing, origami, kayaking, calligraphy, astronomy, knitting, trail running, model trains, gardening, scuba diving,
magic tricks, baking bread, fly fishing, surfing, paragliding, juggling, crossword puzzles, home brewing, karate, bouldering,
photography, embroidery, orienteering, quilting, rowing, geocaching, glass blowing, ice skating, watchmaking, improv theatre,
mushroom hunting, leatherwork, skateboarding, ham radio, figure painting, mountain biking, table tennis, yoga, genealogy"""),
    "instrument": _words("""cello, flute, banjo, trumpet, violin, piano, oboe, harp, saxophone, accordion, ukulele, clarinet,
trombone, drums, mandolin, bassoon, organ, viola, double bass, harmonica, French horn, sitar, xylophone, tuba, bagpipes, lute"""),
    "colour": _words("""teal, crimson, turquoise, lavender, olive green, navy blue, mustard yellow, burgundy, magenta, beige,
mint green, salmon pink, charcoal, indigo, ochre, emerald green, sky blue, lilac, rust red, ivory, coral, maroon, cyan, khaki,
plum, peach, silver grey, bottle green, apricot, aubergine, scarlet, cream, bright orange, pitch black"""),
    "job": _words("""nurse, plumber, architect, translator, dentist, beekeeper, data analyst, carpenter, pilot, librarian,
pharmacist, baker, surveyor, tax adviser, train driver, geologist, firefighter, tailor, photographer, lighting technician,
marine biologist, judge, florist, chemist, locksmith, violin maker, journalist, social worker, goldsmith, physiotherapist,
software tester, network engineer, museum guide, optician, landscape gardener, crane operator, speech therapist, notary,
butcher, veterinarian, statistician, roofer, paramedic, copy editor, sound engineer, midwife, blacksmith, zookeeper, actuary,
product designer, harbour pilot, forester, watchmaker, interpreter, sommelier, glazier, bookbinder, cartographer"""),
    "language": _words("""Portuguese, Swahili, Finnish, Korean, Welsh, Japanese, Turkish, Greek, Icelandic, Arabic, Hindi, Dutch,
Polish, Hungarian, Vietnamese, Catalan, Czech, Hebrew, Danish, Thai, Romanian, Basque, Irish, Estonian, Persian, Mandarin,
Norwegian, Tamil, Ukrainian, Maltese, Georgian, Latvian, Bengali, Croatian, Mongolian, Quechua, Slovene, Tagalog, Urdu, Zulu"""),
    "drink": _words("""a flat white, black tea with milk, a double espresso, green tea, hot chocolate, a cortado, peppermint tea,
an oat milk latte, ginger tea, iced coffee, a chai latte, sparkling water with lemon, a decaf cappuccino, fresh orange juice,
a matcha latte, rooibos tea, a lungo, tomato juice, a mocha, apple juice with soda, buttermilk, cold brew with vanilla, mango lassi,
earl grey, a macchiato, filter coffee with sugar, elderflower lemonade, coconut water, ginger ale, jasmine tea"""),
    "car": _words("""red Fiat Panda, blue Volvo estate, grey Skoda Octavia, white Toyota Yaris, black Audi A3, green Mini,
yellow Renault Twingo, silver Honda Civic, orange Ford Focus, brown Volkswagen camper, beige Mercedes, white Tesla, purple Opel Corsa,
dark blue Peugeot 308, red Mazda convertible, green Land Rover, grey Hyundai, black Kia Niro, white Dacia Duster, blue Subaru Forester,
old Saab, silver Nissan Leaf, turquoise Beetle, yellow Suzuki Swift, black Jeep, red Alfa Romeo, grey BMW, white Citroen van"""),
    "subject": _words("""chemistry, medieval history, applied mathematics, law, botany, mechanical engineering, linguistics,
economics, philosophy, nursing, marine biology, computer science, theology, art history, astrophysics, geography, sociology,
veterinary medicine, music theory, civil engineering, statistics, archaeology, psychology, geology, political science,
materials science, pharmacy, architecture, film studies, forestry, electrical engineering, nutrition, Slavic studies, zoology"""),
    "industry": _words("""solar panels, cargo shipping, dental implants, organic fertiliser, mobile games, weather forecasting,
paper recycling, elevator maintenance, frozen vegetables, satellite imaging, wind turbines, school furniture, hearing aids,
crop insurance, electric scooters, water purification, bridge inspection, toy trains, industrial glue, language courses,
bicycle rental, fire alarms, ship engines, laser cutters, hotel booking, payroll services, stage lighting, pet food,
medical imaging, ceramic tiles, tunnel boring, fish farming, online tutoring, smart locks, vaccine storage, timber trading"""),
    "database": _words("""PostgreSQL, MariaDB, SQLite, RocksDB, Cassandra, Redis, MongoDB, CockroachDB, DuckDB, ClickHouse, Neo4j,
FoundationDB, Elasticsearch, InfluxDB, LMDB, TimescaleDB, Firebird, CouchDB, ScyllaDB, LevelDB, Oracle, TiDB"""),
    "plang": _words("""Rust, Python, Go, Kotlin, Haskell, OCaml, Erlang, TypeScript, Ruby, Scala, Julia, Swift, Elixir, Zig, Perl,
Clojure, Fortran, Ada, Lua, Dart, Nim, Prolog, Java, PHP, Lisp, Cobol, Crystal, Smalltalk, Racket, Groovy"""),
    "licence": _words("""the MIT licence, the Apache licence 2.0, the GPL version 2, the GPL version 3, the BSD licence,
the Mozilla public licence, the LGPL, the ISC licence, the zlib licence, the Artistic licence, a commercial licence, the AGPL,
the Eclipse public licence, the Boost licence, a Creative Commons licence, the European Union public licence"""),
    "os": _words("""Debian 12, Ubuntu 22.04, Fedora 39, FreeBSD 14, Alpine 3.19, Debian 11, Rocky Linux 9, OpenBSD 7.4,
openSUSE Leap 15.5, Windows Server 2022, NixOS 23.11, Arch Linux, Ubuntu 24.04, CentOS 7, Gentoo, NetBSD 10, AlmaLinux 8,
Solaris 11, Slackware 15, Void Linux, Windows Server 2019, Debian 13, RHEL 8, macOS 14"""),
    "breed": _words("""border collie, tabby cat, dwarf rabbit, greyhound, cockatiel, corgi, Siamese cat, tortoise, poodle,
guinea pig, ferret, dachshund, beagle, budgerigar, chinchilla, golden retriever, Persian cat, hedgehog, husky, iguana,
pug, hamster, Great Dane, goldfish, Maine Coon, pony, whippet, parrot, Shetland sheepdog, gecko, boxer, alpaca, Dalmatian, canary"""),
    "medicine": _words("""ibuprofen 400, metformin, vitamin D, an antihistamine, iron tablets, a blood thinner, magnesium,
thyroxine, beta blockers, insulin, folic acid, statins, melatonin, antacids, zinc drops, omeprazole, a cortisone cream, eye drops"""),
    "editor": _words("Vim, Emacs, Helix, VS Code, nano, Kakoune, CLion, Kate, Sublime Text, Zed, PyCharm, Neovim, gedit, Eclipse, micro"),
    "diet": _words("""vegan, vegetarian, gluten-free, low-carb, pescatarian, dairy-free, keto, sugar-free, Mediterranean,
low-salt, halal, kosher, raw food, paleo, lactose-free"""),
    "seat": _words("""a window seat, an aisle seat, a seat in the quiet coach, a table seat, a seat facing forward, a seat near the door,
a seat in the dining car, a seat on the upper deck, a seat in the last row, a seat near a socket"""),
    "decision": _words("""postpone the release by two weeks, hire a second tester, cancel the print campaign, move all backups to tape,
switch to weekly invoices, close the office on Fridays, drop support for old browsers, double the training budget,
rename the product, rent a larger warehouse, replace the coffee machine, start with a pilot in the north, stop selling on credit,
open the source code, raise prices by five percent, merge the two support desks, buy a new delivery van, ask the users in a survey,
freeze all new features until June, give every team its own budget, allow work from home, change the supplier of paper,
repaint the entrance hall, test the alarm every month, write the minutes in English, share the sales figures with everyone,
limit meetings to half an hour, pay travel costs in advance, move the servers to the basement, sign the contract next week,
publish a newsletter, reduce the number of suppliers, repeat the fire drill, extend the warranty to five years,
translate the manual, sponsor the local football club, use fewer plastic boxes, sell the old machines, hold the party on a boat,
review every change twice, keep the old logo, plant trees behind the hall, try a four-day week, ban phones from the lab"""),
    "place": [f"{p} {n}" for n in _words("""the cellar shelf, the kitchen drawer, the hall cupboard, the attic, the garage,
the garden shed, the bookcase, the wardrobe, the desk in the study, the blue flower pot, the stairs, the guest room, the boot of the car,
the laundry room, the bathroom cabinet, the doormat, the workbench, the sofa, the piano, the toy chest, the balcony, the pantry,
the second locker, the server room, the reception, the old trunk, the boiler, the bed, the fireplace, the tool rack""")
              for p in ("behind", "next to", "on top of", "underneath", "to the left of", "opposite")],
    "month": _words("January,February,March,April,May,June,July,August,September,October,November,December"),
}

_ONSETS = _words("b,br,c,cl,d,dr,f,fl,g,gr,h,j,k,kr,l,m,n,p,pr,qu,r,s,st,sk,t,tr,v,w,z,th,sh,pl,sl")
_VOWELS = _words("a,e,i,o,u,a,e,o,ai,ea,ia,io,ou,ei")
_CODAS = ["", "", "", "n", "r", "l", "s", "m", "nd", "rt", "x", "k", "th", "ll", "ck", "v"]
_CITY_TAILS = _words("""ville, burg, ton, ford, mouth, stad, field, haven, bridge, dale, wick, port, minster, by, heim, gate,
stead, hurst, bury, more, ness, grad, polis, worth, cliff, bach, furt, borough, view, springs""")


@lru_cache(None)
def _made_up(kind: str, count: int) -> tuple[str, ...]:
    rng = random.Random("names/" + kind)
    names = {}
    while len(names) < count:
        word = "".join(rng.choice(_ONSETS) + rng.choice(_VOWELS) + (rng.choice(_CODAS) if i else "")
                       for i in range(1 if kind == "city" else 2))
        if kind == "city":
            word += rng.choice(["l", "r", "n", "m", "s", "v", "d", ""]) + rng.choice(_CITY_TAILS)
        elif kind == "product":
            word += rng.choice(["", "", "ly", "db", "ix", "o", "kit", "io", "sync", "hub", "flow"])
        elif kind == "river":
            word += rng.choice(["a", "e", "er", "ach", "is", "one", "o"])
        if 4 <= len(word) <= 12:
            names[word.capitalize()] = None
    return tuple(names)


@lru_cache(None)
def _pairs(kind: str) -> tuple[str, ...]:
    if kind == "project":
        plain = [f"{a.capitalize()} {n.capitalize()}" for a in ADJECTIVES for n in NOUNS]
        random.Random("names/project").shuffle(plain)
        forms = ("Project {}", "the {} project", "{}", "operation {}")
        return tuple(forms[i % 4].format(p) for i, p in enumerate(plain))
    if kind == "book":
        plain = [f"{a.capitalize()} {n.capitalize()}" for a in ADJECTIVES for n in NOUNS]
        random.Random("names/book").shuffle(plain)
        forms = ('"The {}"', '"A {}"', '"Return of the {}"', '"Night of the {}"', '"Songs for a {}"')
        return tuple(forms[i % 5].format(p) for i, p in enumerate(plain))
    if kind == "thing":
        owners = ("the", "the", "the", "grandfather's", "the neighbour's", "the club's", "the office's")
        return tuple(f"{o} {a} {n}" for o in dict.fromkeys(owners) for a in THING_ADJ for n in THING_NOUNS)
    if kind == "team":
        return tuple(f"the {n.capitalize()} {t}" for n in NOUNS for t in TEAM_TAILS) + tuple(
            f"the {s} {t}" for s in _made_up("team", 8000) for t in TEAM_TAILS[:2])
    if kind == "meeting":
        return tuple(f"the {s} {t}" for s in _made_up("meeting", 4000) for t in MEETING_TAILS)
    if kind == "event":
        return tuple(f"the {s} {t}" for s in _made_up("event", 4000) for t in EVENT_TAILS)
    if kind == "place_name":
        return tuple(f"the {s} {t}" for s in _made_up("place", 4000) for t in PLACE_TAILS)
    if kind == "university":
        return tuple(f"the University of {c}" for c in _made_up("campus", 6000))
    if kind == "org":
        return tuple(f"{s} {t}" for s in _made_up("org", 5000) for t in ORG_TAILS)
    if kind == "server":
        return tuple(f"{s.lower()}-{t}" for s in _made_up("server", 2500) for t in SERVER_TAILS)
    if kind == "pet":
        return _made_up("pet", 20000)
    return _made_up(kind, 24000)


@lru_cache(None)
def pool(kind: str, split: str, filler: bool) -> tuple[str, ...]:
    """All names of a kind that a split's stories (or its filler) may use."""
    return tuple(n for n in _pairs(kind) if split_of(n) == split and is_filler(n) == filler)


@lru_cache(None)
def person_parts(split: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(given names, family names) of a split."""
    with open(os.path.join(HERE, "names.txt"), encoding="utf-8") as f:
        first, last = (line.split() for line in f.read().strip().split("\n"))
    return (tuple(n for n in first if split_of(n) == split),
            tuple(n for n in last if split_of(n) == split))


ENTITY_KINDS = ("person", "org", "city", "project", "event", "pet", "product", "book", "team", "thing", "meeting",
                "place_name", "server", "university", "river")
_LETTERS = "ABCDEFGHJKLMNPRSTUVWXYZ"


class Names:
    """Draws names for one bank; a name is never drawn twice."""

    def __init__(self, rng: random.Random, split: str, filler: bool = False):
        self.rng, self.split, self.filler = rng, split, filler
        self.used: set[str] = set()
        self.first, self.last = person_parts(split)

    def _take(self, draw) -> str:
        for _ in range(1000):
            name = draw()
            if name not in self.used:
                self.used.add(name)
                return name
        raise RuntimeError("the name pool is exhausted: use a smaller bank")

    def person(self, first: str | None = None, last: str | None = None) -> str:
        """A full name; `first` or `last` fixes one half (to make name-sharing distractors)."""
        choice, want = self.rng.choice, self.filler

        def draw():
            while True:
                name = f"{first or choice(self.first)} {last or choice(self.last)}"
                if is_filler(name) == want:
                    return name
        return self._take(draw)

    def entity(self, kind: str) -> str:
        if kind == "person":
            return self.person()
        names = pool(kind, self.split, self.filler)
        return self._take(lambda: self.rng.choice(names))

    def near(self, kind: str, name: str) -> str:
        """Another entity of the kind whose name shares a word with `name` where that is possible."""
        if kind == "person":
            first, last = name.split(" ", 1)
            return self.person(first=first) if self.rng.random() < 0.5 else self.person(last=last)
        return self.entity(kind)

    def value(self, kind: str) -> str:
        rng = self.rng
        if kind in VALUES:
            return rng.choice(VALUES[kind])
        make = getattr(self, "_" + kind, None)
        return make() if make else self.entity(kind)

    def _date(self) -> str:
        return f"{self.rng.randint(1, 28)} {self.rng.choice(VALUES['month'])}"

    def _time(self) -> str:
        return f"{self.rng.randint(7, 19)}:{self.rng.choice(('00', '15', '30', '45', '10', '20', '40', '50'))}"

    def _datetime(self) -> str:
        return f"{self._date()} at {self._time()}"

    def _year(self) -> str:
        return str(self.rng.randint(1880, 2023))

    def _smallnumber(self) -> str:
        return str(self.rng.randint(2, 48))

    def _number(self) -> str:
        return str(self.rng.randint(1100, 98999))

    def _money(self) -> str:
        amount = self.rng.choice((10, 50, 100, 500, 1000)) * self.rng.randint(3, 99)
        return self.rng.choice(("{} euros", "{} dollars", "{} pounds", "{} francs")).format(amount)

    def _phone(self) -> str:
        return f"{self.rng.randint(200, 999)}-{self.rng.randint(100, 999)}-{self.rng.randint(1000, 9999)}"

    def _code(self) -> str:
        rng = self.rng
        form = rng.randrange(4)
        if form == 0:
            return str(rng.randint(1000, 999999))
        letters = "".join(rng.choice(_LETTERS) for _ in range(rng.randint(2, 3)))
        if form == 1:
            return f"{letters}-{rng.randint(100, 9999)}"
        if form == 2:
            return f"{rng.choice(NOUNS)}-{rng.choice(NOUNS)}-{rng.randint(10, 99)}"
        return f"{rng.randint(10, 99)}{letters}{rng.randint(10, 99)}"

    def _plate(self) -> str:
        rng = self.rng
        return f"{rng.choice(_LETTERS)}{rng.choice(_LETTERS)} {rng.randint(100, 999)} {rng.choice(_LETTERS)}{rng.choice(_LETTERS)}"

    def _flight(self) -> str:
        return f"{self.rng.choice(_LETTERS)}{self.rng.choice(_LETTERS)} {self.rng.randint(100, 9999)}"

    def _version(self) -> str:
        return f"{self.rng.randint(0, 14)}.{self.rng.randint(0, 21)}" + (
            f".{self.rng.randint(0, 12)}" if self.rng.random() < 0.6 else "")

    def _ip(self) -> str:
        rng = self.rng
        return f"{rng.choice((10, 172, 192))}.{rng.randint(1, 250)}.{rng.randint(0, 250)}.{rng.randint(2, 250)}"

    def _room(self) -> str:
        rng = self.rng
        return rng.choice((f"room {rng.randint(1, 6)}.{rng.randint(1, 40):02d}", f"the {rng.choice(NOUNS)} room",
                           f"room {rng.choice(_LETTERS)}{rng.randint(10, 399)}"))

    def _shelf(self) -> str:
        return f"shelf {self.rng.choice(_LETTERS)}{self.rng.randint(1, 60)}"


def warm(split: str) -> None:
    """Builds the name pools of a split, so that forked workers share them."""
    person_parts(split)
    for kind in ENTITY_KINDS[1:]:
        for filler in (False, True):
            pool(kind, split, filler)
