"""Ten tasks, each written by a small grammar: corpora of one part that look like several, to set limits on.

Scenes change most words of a prompt, but neither the question nor what answers look like.
"""

import random
from itertools import pairwise

from corpus_mixes import Document, Pool

PEOPLE = [
    "Alma",
    "Boris",
    "Chloe",
    "Dario",
    "Edith",
    "Farid",
    "Greta",
    "Hugo",
    "Ines",
    "Jonas",
    "Kira",
    "Luca",
    "Mona",
    "Nils",
    "Olga",
    "Pavel",
]
ORDINALS = ("first", "second", "third", "fourth")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday")
NUMBERS = ("zero", "one", "two", "three", "four", "five")


def pool(size: int = 500) -> Pool:
    """`size` documents of each task."""
    tasks = (seats, swaps, shopping, route, knights, rooms, syllogism, appointments, kinship, colours)
    return {task.__name__: [task(random.Random(f"{task.__name__} {i}")) for i in range(size)] for task in tasks}


def seats(rng: random.Random) -> Document:
    scene, things, relation = rng.choice(
        [
            ("In a running race there are four athletes", ["Alma", "Boris", "Chloe", "Dario"], "finished before"),
            (
                "A market stall sells vegetables",
                ["the leek", "the carrot", "the onion", "the pepper"],
                "costs more than",
            ),
            (
                "Buildings stand along a street",
                ["the bank", "the library", "the theatre", "the hospital"],
                "is left of",
            ),
            ("Planets were found in different centuries", ["Zorg", "Meltar", "Quill", "Banto"], "is older than"),
        ]
    )
    order = rng.sample(things, 4)
    facts = [f"{a.capitalize()} {relation} {b}." for a, b in pairwise(order)]
    place = rng.randrange(4)
    given = f"The facts below are about four things in a fixed order. {scene}: {', '.join(things)}."
    question = f"{given} {' '.join(rng.sample(facts, 3))} Which one is {ORDINALS[place]}?"
    return _choice(rng, question, order[place], order)


def swaps(rng: random.Random) -> Document:
    scene, items, verb = rng.choice(
        [
            ("play cards and each holds one", ["the red ace", "the black king", "the green queen"], "trade cards"),
            ("sit in a restaurant and each ordered a dish", ["soup", "pasta", "curry"], "exchange plates"),
            ("each drive a car to the office", ["a Fiat", "a Volvo", "a Skoda"], "switch keys"),
            ("rent rooms in a hotel", ["the corner suite", "the attic", "the balcony room"], "swap rooms"),
        ]
    )
    people = rng.sample(PEOPLE[:6], 3)
    has = dict(zip(people, rng.sample(items, 3), strict=True))
    story = f"{', '.join(people)} {scene}: " + ", ".join(f"{person} has {has[person]}" for person in people) + "."
    for when in ("First", "Then", "Finally"):
        a, b = rng.sample(people, 2)
        has[a], has[b] = has[b], has[a]
        story += f" {when}, {a} and {b} {verb}."
    asked = rng.choice(people)
    return _choice(rng, f"{story} At the end, {asked} has", has[asked], items)


def shopping(rng: random.Random) -> Document:
    shop, items = rng.choice(
        [
            ("bakery", ["roll", "cake", "pretzel", "muffin", "baguette"]),
            ("hardware shop", ["hammer", "screw", "drill", "bolt", "saw"]),
            ("stationer", ["pencil", "ruler", "notebook", "eraser", "stapler"]),
            ("florist", ["tulip", "rose", "lily", "orchid", "daisy"]),
        ]
    )
    bought = [(rng.randint(1, 6), item) for item in rng.sample(items, rng.randint(2, 4))]
    listed = ", ".join(f"{n} {item}" for n, item in bought)
    question = f"{rng.choice(PEOPLE)} goes to the {shop} and buys {listed}. How many things did the {shop} sell?"
    return question, str(sum(n for n, _ in bought))


def route(rng: random.Random) -> Document:
    steps = [f"Walk {rng.randint(1, 5)} metres {rng.choice(['north', 'south', 'east', 'west'])}." for _ in range(6)]
    if rng.random() < 0.5:
        turns = ["Turn to your left.", "Turn to your right.", *(f"Go forward {n} tiles." for n in range(1, 6))]
        steps = rng.choices(turns, k=6)
    question = f"A robot gets commands. {' '.join(steps)} Is it back at its place?\nOptions:\n- Yes\n- No"
    return question, rng.choice(["Yes", "No"])


def knights(rng: random.Random) -> Document:
    place, *kinds = rng.choice(
        [
            ("On an island of knights and knaves", "is a knight", "is a knave"),
            ("In a village of honest people and thieves", "is honest", "is a thief"),
            ("At court there are loyal guards and spies", "is loyal", "is a spy"),
        ]
    )
    people = rng.sample(PEOPLE, 4)
    says = " ".join(f"{b} says {a} {rng.choice(kinds)}." for a, b in pairwise(people))
    story = f"{place}, everyone speaks the truth or lies. {people[0]} {rng.choice(kinds)}. {says}"
    return f"Question: {story} Does {people[-1]} speak the truth?", rng.choice(["Yes", "No"])


def rooms(rng: random.Random) -> Document:
    places = ["kitchen", "garden", "office", "bathroom", "hallway", "bedroom"]
    at: dict[str, str] = {}
    story = ""
    for _ in range(rng.randint(4, 9)):
        person = rng.choice(PEOPLE[:4])
        at[person] = rng.choice(places)
        story += f"{person} {rng.choice(['went', 'moved', 'travelled'])} to the {at[person]}. "
    asked = rng.choice(list(at))
    return f"{story}Where is {asked}?", at[asked]


def syllogism(rng: random.Random) -> Document:
    kinds = ["cat dog horse cow", "oak birch fern moss", "baker tailor smith miller", "violin cello flute harp"]
    a, b, c = rng.sample(rng.choice(kinds).split(), 3)
    one, two, three = (rng.choice(["All", "Some", "No"]) for _ in range(3))
    argument = f"{one} {a}s are {b}s. {two} {b}s are {c}s. Therefore, {three.lower()} {a}s are {c}s."
    question = f"Read the argument. {argument} Is the argument valid or invalid?\nOptions:\n- valid\n- invalid"
    return question, rng.choice(["valid", "invalid"])


def appointments(rng: random.Random) -> Document:
    where, things, who = rng.choice(
        [
            ("The dentist", ["filling", "cleaning", "implant", "checkup"], "patient"),
            ("The garage", ["oil change", "brake test", "tyre swap", "paint job"], "driver"),
            ("The salon", ["haircut", "perm", "shave", "manicure"], "customer"),
            ("The vet", ["vaccination", "surgery", "grooming", "deworming"], "pet owner"),
        ]
    )
    days = rng.sample(DAYS, 4)
    facts = " ".join(f"The {thing} is on {day}." for thing, day in zip(rng.sample(things, 4), days, strict=True))
    asked = rng.choice(things)
    right = facts.split(f"The {asked} is on ")[1].split(".")[0]
    start = f"{where} has four appointments this week, each for another {who}."
    return _choice(rng, f"{start} {facts} When is the {asked}?", right, days)


def kinship(rng: random.Random) -> Document:
    people = rng.sample(PEOPLE, 4)
    kinds = ["mother", "father", "sister", "brother", "uncle", "aunt"]
    facts = " ".join(f"{a} is the {rng.choice(kinds)} of {b}." for a, b in pairwise(people))
    answers = ["cousin", "niece", "nephew", "grandmother"]
    return _choice(rng, f"{facts} How is {people[0]} related to {people[-1]}?", rng.choice(answers), answers)


def colours(rng: random.Random) -> Document:
    place, every = rng.choice(["table", "shelf", "floor", "desk"]), ["red", "blue", "green", "pink", "black"]
    seen = [(rng.choice(every), thing) for thing in rng.sample(["cup", "pen", "ring", "scarf", "plate"], 4)]
    start = f"On the {place}, you see " + ", ".join(f"a {colour} {thing}" for colour, thing in seen) + "."
    if rng.random() < 0.5:
        colour, thing = rng.choice(seen)
        return _choice(rng, f"{start} What colour is the {thing}?", colour, every)
    gone = rng.choice(every)
    question = f"{start} If every {gone} thing is taken away from the {place}, how many remain?"
    return _choice(rng, question, NUMBERS[sum(colour != gone for colour, _ in seen)], NUMBERS, shuffle=False)


def _choice(
    rng: random.Random, question: str, right: str, every: list[str] | tuple[str, ...], shuffle: bool = True
) -> Document:
    options = rng.sample(every, len(every)) if shuffle else list(every)
    listed = "\n".join(f"({letter}) {option}" for letter, option in zip("ABCDEF", options, strict=False))
    return f"{question}\nOptions:\n{listed}", f"({'ABCDEF'[options.index(right)]})"
