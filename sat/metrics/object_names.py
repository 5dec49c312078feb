"""The words by which captions name the 80 kinds of objects that COCO has boxes of."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence

KINDS = """
person: man, woman, boy, girl, child, people, lady, guy, baby, toddler, kid, adult, player, worker,
    skateboarder, surfer, skier, snowboarder, skater, rider, biker, cyclist, batter, pitcher,
    catcher, umpire, officer, policeman, chef, bride, groom, couple, crowd, family, group of people
bicycle: bike
car: suv, taxi, cab, minivan, van
motorcycle: motorbike, scooter, moped, dirt bike, bike
airplane: plane, jet, aircraft, airliner
bus: double decker
train: locomotive, tram, trolley
truck: pickup, firetruck, fire truck, van
boat: ship, canoe, kayak, sailboat, ferry, raft
traffic light: stoplight, signal, stop light
fire hydrant: hydrant
stop sign:
parking meter: meter
bench:
bird: duck, goose, seagull, pigeon, parrot, swan, pelican, owl, chicken
cat: kitten, kitty
dog: puppy, terrier, poodle, greyhound, retriever, labrador
horse: pony, foal
sheep: lamb, ram
cow: bull, calf, cattle, ox
elephant:
bear:
zebra:
giraffe:
backpack: bag
umbrella:
handbag: purse, bag
tie: necktie
suitcase: luggage, baggage, bag
frisbee: disc
skis: ski
snowboard: board
sports ball: ball, baseball, football, soccer ball, tennis ball, basketball, volleyball
kite:
baseball bat: bat
baseball glove: glove, mitt
skateboard: board
surfboard: board
tennis racket: racket, racquet, tennis racquet
bottle:
wine glass: glass
cup: mug, glass, coffee
fork:
knife:
spoon:
bowl: dish
banana:
apple:
sandwich: burger, hamburger
orange:
broccoli:
carrot:
hot dog: hotdog
pizza:
donut: doughnut, pastry
cake:
chair:
couch: sofa
potted plant: plant, flower
bed:
dining table: table, desk, counter
toilet:
tv: television, monitor, screen
laptop: computer, laptop computer
mouse: computer mouse
remote: controller, wii remote, remote control
keyboard: computer keyboard
cell phone: phone, cellphone, smartphone, mobile phone
microwave: microwave oven
oven: stove, stove top
toaster:
sink:
refrigerator: fridge, freezer
book:
clock:
vase:
scissors:
teddy bear: teddy, stuffed animal, stuffed bear
hair drier: hair dryer, blow dryer
toothbrush:
"""
"""each kind of COCO and, in the singular, its other names"""

IRREGULAR = {
    "man": "men",
    "woman": "women",
    "policeman": "policemen",
    "child": "children",
    "goose": "geese",
    "calf": "calves",
    "knife": "knives",
    "mouse": "mice",
}


def plural(noun: str) -> str:
    """The plural of an English noun of one or more words, its last word changed."""
    rest, blank, last = noun.rpartition(" ")
    if last in IRREGULAR:
        return rest + blank + IRREGULAR[last]
    if last.endswith("y") and last[-2:-1] not in tuple("aeou"):
        return noun[:-1] + "ies"
    return noun + ("es" if last.endswith(("s", "sh", "ch", "x")) else "s")


@functools.cache
def kinds_by_name() -> dict[tuple[str, ...], set[str]]:
    """The kinds that a name, as words in singular or plural, may stand for."""
    named: dict[tuple[str, ...], set[str]] = {}
    for line in KINDS.replace("\n    ", " ").strip().splitlines():
        kind, _, others = line.partition(":")
        for name in filter(None, [kind, *(other.strip() for other in others.split(","))]):
            for form in (name, plural(name)):
                named.setdefault(tuple(form.split()), set()).add(kind)
    return named


def named_kinds(words: Sequence[str], others: Iterable[str] = ()) -> list[tuple[int, set[str]]]:
    """The positions of words that end a name, and the kinds that it may stand for.

    Names are those of COCO's kinds and of the kinds `others`, which go by one name each. Of names
    that end at one word the longest counts: a hot dog is no dog.
    """
    own = {tuple(kind.split()): {kind} for kind in others}
    longest = max(map(len, [*kinds_by_name(), *own]))
    named = []
    for end in range(1, len(words) + 1):
        for start in range(max(0, end - longest), end):
            name = tuple(words[start:end])
            kinds = own.get(name, set()) | kinds_by_name().get(name, set())
            if kinds:
                named.append((end - 1, kinds))
                break
    return named
