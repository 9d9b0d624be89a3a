"""Word problems of two to four steps, each answered by one equation per line and a final sentence."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from online_draft.models.embedded.generators import words

GIRLS = words(
    "Anna Beth Clara Dora Emma Fay Grace Hana Iris Jane Kate Lily Maya Nora Olive Ruth Sara Tess Vera"
)
BOYS = words("Adam Ben Carl Dan Eli Fred Gus Hugo Ivan Jack Karl Liam Max Ned Omar Pete Raj Sam Tom Victor")
THINGS = words(
    "apples pencils stickers marbles books cards shells coins buttons cookies stamps beads oranges eggs"
)
GOODS = words("pens mugs hats toys notebooks scarves candles plants cakes shirts balls ribbons lamps puzzles")
BOXES = words("boxes bags baskets jars crates packs trays")
PLACES = words("shop farm school library bakery market museum garden")

Problem = tuple[str, list[str], int]


class Cast:
    """One person of a problem: a name with its pronouns."""

    def __init__(self, rng: Random) -> None:
        girl = rng.random() < 0.5
        self.name = rng.choice(GIRLS if girl else BOYS)
        self.he, self.his = ("she", "her") if girl else ("he", "his")
        self.He = self.he.capitalize()


def _eq(left: int, sign: str, right: int) -> tuple[str, int]:
    result = {"+": left + right, "-": left - right, "*": left * right, "/": left // right}[sign]
    return f"{left} {sign} {right} = {result}", result


def _packs(rng: Random) -> Problem:
    who, thing, box = Cast(rng), rng.choice(THINGS), rng.choice(BOXES)
    count, each, more = rng.randrange(2, 13), rng.randrange(2, 13), rng.randrange(2, 40)
    first, held = _eq(count, "*", each)
    if rng.random() < 0.5:
        second, left = _eq(held, "+", more)
        tail = rng.choice((f"finds {more} more", f"gets {more} more from a friend", f"buys {more} more"))
        end = f"{who.He} has {second} {thing} in total."
        ask = f"How many {thing} does {who.name} have now?"
    else:
        more = rng.randrange(1, held)
        second, left = _eq(held, "-", more)
        tail = rng.choice((f"gives away {more}", f"loses {more}", f"sells {more}", f"uses {more}"))
        end = f"{who.He} has {second} {thing} left."
        ask = rng.choice((f"How many {thing} are left?", f"How many {thing} does {who.he} have left?"))
    text = f"{who.name} has {count} {box} with {each} {thing} in each. Then {who.he} {tail}. {ask}"
    return text, [f"{who.name} starts with {first} {thing}.", end], left


def _shopping(rng: Random) -> Problem:
    who, (one, two) = Cast(rng), rng.sample(GOODS, 2)
    n1, p1, n2, p2 = (rng.randrange(2, 10) for _ in range(4))
    e1, c1 = _eq(n1, "*", p1)
    e2, c2 = _eq(n2, "*", p2)
    e3, total = _eq(c1, "+", c2)
    steps = [
        f"The {one} cost {e1} dollars.",
        f"The {two} cost {e2} dollars.",
        f"Together that is {e3} dollars.",
    ]
    text = f"{who.name} buys {n1} {one} for ${p1} each and {n2} {two} for ${p2} each."
    if rng.random() < 0.5:
        return f"{text} How much does {who.he} spend in total?", steps, total
    paid = (total // 10 + rng.randrange(1, 4)) * 10
    e4, change = _eq(paid, "-", total)
    steps.append(f"The change is {e4} dollars.")
    return f"{text} {who.He} pays with ${paid}. How much change does {who.he} get?", steps, change


def _wages(rng: Random) -> Problem:
    who, rate, hours, days = Cast(rng), rng.randrange(5, 21), rng.randrange(2, 9), rng.randrange(2, 8)
    e1, day = _eq(rate, "*", hours)
    e2, week = _eq(day, "*", days)
    work = rng.choice(("works at a", "helps at a", "has a job at a"))
    text = (
        f"{who.name} {work} {rng.choice(PLACES)} and earns ${rate} an hour. "
        f"{who.He} works {hours} hours a day for {days} days."
    )
    steps = [f"In one day {who.he} earns {e1} dollars.", f"In {days} days {who.he} earns {e2} dollars."]
    if rng.random() < 0.5:
        return f"{text} How much does {who.he} earn?", steps, week
    spent = rng.randrange(1, min(week, 100))
    e3, left = _eq(week, "-", spent)
    steps.append(f"After spending {spent} dollars {who.he} has {e3} dollars.")
    return f"{text} Then {who.he} spends ${spent}. How much money is left?", steps, left


def _twice(rng: Random) -> Problem:
    one, two, thing = Cast(rng), Cast(rng), rng.choice(THINGS)
    while two.name == one.name:
        two = Cast(rng)
    base, (times, word) = (
        rng.randrange(3, 41),
        rng.choice(((2, "twice"), (3, "three times"), (4, "four times"))),
    )
    e1, other = _eq(base, "*", times)
    text = f"{one.name} has {base} {thing}. {two.name} has {word} as many {thing} as {one.name}."
    steps = [f"{two.name} has {e1} {thing}."]
    if rng.random() < 0.5:
        e2, total = _eq(base, "+", other)
        steps.append(f"Together they have {e2} {thing}.")
        return f"{text} How many {thing} do they have together?", steps, total
    e2, gap = _eq(other, "-", base)
    steps.append(f"{two.name} has {e2} more {thing} than {one.name}.")
    return f"{text} How many more {thing} does {two.name} have than {one.name}?", steps, gap


def _share(rng: Random) -> Problem:
    who, thing, friends, each = Cast(rng), rng.choice(THINGS), rng.randrange(2, 10), rng.randrange(2, 16)
    total = friends * each
    have = rng.randrange(1, total)
    e1, all_of_them = _eq(have, "+", total - have)
    e2, part = _eq(all_of_them, "/", friends)
    group = rng.choice(("friends", "cousins", "children", "classmates", "neighbours"))
    got = rng.choice(("gets", "buys", "finds", "receives"))
    text = (
        f"{who.name} has {have} {thing} and {got} {total - have} more. {who.He} shares them equally among "
        f"{friends} {group}. How many {thing} does each one get?"
    )
    return text, [f"There are {e1} {thing}.", f"Each one gets {e2} {thing}."], part


def _reading(rng: Random) -> Problem:
    who, pages, days = Cast(rng), rng.randrange(5, 31), rng.randrange(2, 10)
    e1, read = _eq(pages, "*", days)
    total = read + rng.randrange(5, 100)
    e2, left = _eq(total, "-", read)
    text = (
        f"{who.name} is reading a book with {total} pages. "
        f"{who.He} reads {pages} pages a day for {days} days."
    )
    steps = [f"{who.name} has read {e1} pages.", f"There are {e2} pages left."]
    return f"{text} How many pages are left to read?", steps, left


def _bus(rng: Random) -> Problem:
    start, on, off = rng.randrange(10, 50), rng.randrange(2, 20), rng.randrange(2, 10)
    ride = rng.choice(("bus", "train", "tram", "boat", "ferry"))
    e1, after = _eq(start, "-", off)
    e2, end = _eq(after, "+", on)
    text = (
        f"There are {start} people on a {ride}. At the next stop {off} people get off and {on} people get on."
    )
    steps = [f"After {off} people get off there are {e1} people.", f"Then there are {e2} people."]
    if rng.random() < 0.5:
        last = rng.randrange(1, end)
        e3, rest = _eq(end, "-", last)
        steps.append(f"At the last stop {last} leave, so {e3} people remain.")
        return (
            f"{text} At the stop after that {last} people leave. How many people are still there?",
            steps,
            rest,
        )
    return f"{text} How many people are on the {ride} now?", steps, end


def _garden(rng: Random) -> Problem:
    who, rows, each = Cast(rng), rng.randrange(2, 13), rng.randrange(2, 13)
    plant = rng.choice(words("roses tulips trees tomatoes carrots beans onions lettuces"))
    e1, total = _eq(rows, "*", each)
    dead = rng.randrange(1, total)
    e2, left = _eq(total, "-", dead)
    price = rng.randrange(2, 6)
    text = (
        f"{who.name} plants {rows} rows of {plant} with {each} {plant} in each row. Later {dead} of them die."
    )
    steps = [f"{who.name} plants {e1} {plant}.", f"Then {e2} {plant} are left."]
    if rng.random() < 0.5:
        return f"{text} How many {plant} are left?", steps, left
    e3, money = _eq(left, "*", price)
    steps.append(f"{who.He} earns {e3} dollars.")
    return f"{text} {who.He} sells the rest for ${price} each. How much does {who.he} earn?", steps, money


def _savings(rng: Random) -> Problem:
    who, weeks, each = Cast(rng), rng.randrange(2, 13), rng.randrange(2, 26)
    thing = rng.choice(words("bike guitar camera tent watch jacket scooter telescope"))
    e1, saved = _eq(each, "*", weeks)
    cost = saved + rng.randrange(5, 80)
    e2, need = _eq(cost, "-", saved)
    text = f"{who.name} wants a {thing} that costs ${cost}. {who.He} saves ${each} a week for {weeks} weeks."
    steps = [f"{who.name} saves {e1} dollars.", f"{who.He} still needs {e2} dollars."]
    return f"{text} How much more money does {who.he} need?", steps, need


def _distance(rng: Random) -> Problem:
    who, s1, h1, s2, h2 = (
        Cast(rng),
        rng.randrange(3, 20),
        rng.randrange(2, 6),
        rng.randrange(20, 80),
        rng.randrange(2, 6),
    )
    a, b = rng.sample(("walks", "rides a bike", "drives", "rows", "runs"), 2)
    e1, d1 = _eq(s1, "*", h1)
    e2, d2 = _eq(s2, "*", h2)
    e3, total = _eq(d1, "+", d2)
    text = (
        f"{who.name} {a} at {s1} km an hour for {h1} hours. "
        f"Then {who.he} {b} at {s2} km an hour for {h2} hours."
    )
    steps = [f"First {who.he} goes {e1} km.", f"Then {who.he} goes {e2} km.", f"In total that is {e3} km."]
    return f"{text} How far does {who.he} go in total?", steps, total


def _classes(rng: Random) -> Problem:
    rooms, girls, boys = rng.randrange(2, 9), rng.randrange(4, 16), rng.randrange(4, 16)
    place, thing = rng.choice(("school", "camp", "club", "summer course")), rng.choice(THINGS)
    e1, size = _eq(girls, "+", boys)
    e2, total = _eq(size, "*", rooms)
    text = f"A {place} has {rooms} groups. Each group has {girls} girls and {boys} boys."
    steps = [f"Each group has {e1} children.", f"The {place} has {e2} children."]
    if rng.random() < 0.5:
        return f"{text} How many children are there?", steps, total
    each = rng.randrange(2, 5)
    e3, needed = _eq(total, "*", each)
    steps.append(f"They need {e3} {thing}.")
    return f"{text} Each child gets {each} {thing}. How many {thing} are needed?", steps, needed


def _half(rng: Random) -> Problem:
    who, thing, kept = Cast(rng), rng.choice(THINGS), rng.randrange(3, 50)
    start = kept * 2
    more = rng.randrange(2, 30)
    e1, left = _eq(start, "/", 2)
    e2, end = _eq(left, "+", more)
    text = (
        f"{who.name} has {start} {thing}. "
        f"{who.He} gives half of them to {who.his} friend and then gets {more} more."
    )
    steps = [f"After giving half away {who.he} has {e1} {thing}.", f"Then {who.he} has {e2} {thing}."]
    return f"{text} How many {thing} does {who.he} have now?", steps, end


SCENES: tuple[Callable[[Random], Problem], ...] = (
    _packs, _shopping, _wages, _twice, _share, _reading, _bus, _garden, _savings, _distance, _classes, _half,
)  # fmt: skip


def write(rng: Random) -> tuple[str, str]:
    """One (problem, worked answer) pair; the answer's last line is `The answer is N.`"""
    question, steps, answer = rng.choice(SCENES)(rng)
    start = rng.choice(("", "", "", "Solve step by step: ", "Word problem: "))
    return start + question, "\n".join([*steps, f"The answer is {answer}."])
