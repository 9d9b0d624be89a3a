"""Requests for short simple stories, and stories told from plots with interchangeable sentences."""

from __future__ import annotations

from random import Random

from online_draft.models.embedded.generators import words

GIRLS = words("Lily Mia Ella Rosie Nina Zoe Ruby Daisy Molly Hazel Ivy Penny Tilly Wren Poppy Luna")
BOYS = words("Tom Max Finn Leo Oscar Toby Jasper Rory Milo Otto Theo Barney Kip Sandy Pip Bruno")
KINDS = words(
    "girl boy fox rabbit bear mouse duck frog owl cat dog turtle squirrel hedgehog kitten puppy robot dragon "
    "snail penguin farmer sailor baker goat"
)
MOODS = words(
    "shy brave curious kind sleepy clever careful cheerful quiet proud lonely silly gentle busy little old"
)
FRIENDS = words("bird beetle pony lamb deer otter donkey goose crab bee mole badger cow hen seal bat")
THINGS = words(
    "key|red ball|silver bell|blue kite|wooden boat|golden coin|small drum|paper hat|green scarf|"
    "glass marble|tiny lamp|old map|shiny stone|yellow umbrella|toy train|music box|long rope|warm blanket",
    "|",
)
PLACES = words(
    "forest|garden|park|beach|meadow|barn|village|river|hill|market|lake|castle|harbor|field|valley|kitchen|"
    "library|playground",
    "|",
)
WEATHER = words("sunny windy rainy snowy cold warm foggy bright quiet")
TIMES = (
    "One day",
    "One morning",
    "One afternoon",
    "One evening",
    "After breakfast",
    "In the spring",
    "Last winter",
)
LESSONS = (
    "it is good to share",
    "friends help each other",
    "being kind makes everyone happy",
    "it is fine to ask for help",
    "being brave can start with a small step",
    "telling the truth is best",
    "good things take time",
    "it is important to try again",
)
PLOTS = (
    "finds",
    "loses",
    "wants to learn",
    "helps",
    "is afraid of",
    "wants to build",
    "has to share",
    "gets lost in",
)
SKILLS = words("swim sing dance paint climb whistle cook skate juggle read row jump")
FEARS = words(
    "the dark|the thunder|the deep water|the tall stairs|the loud wind|the big cave|the first day of school",
    "|",
)
BUILDS = words("a tree house|a raft|a snowman|a bridge|a sand castle|a swing|a little cart|a bird house", "|")
SNACKS = words("cake|apple pie|bread|honey|soup|cookies|berries|pancakes", "|")


class Tale:
    """The choices of one story: who, where, what; and the opening sentences built of them."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.kind, self.mood, self.place = rng.choice(KINDS), rng.choice(MOODS), rng.choice(PLACES)
        girl = self.kind == "girl" or (self.kind != "boy" and rng.random() < 0.5)
        self.name = rng.choice(GIRLS if girl else BOYS)
        self.he, self.his, self.him = ("she", "her", "her") if girl else ("he", "his", "him")
        self.He, self.His = self.he.capitalize(), self.his.capitalize()
        self.friend, self.thing, self.plot = rng.choice(FRIENDS), rng.choice(THINGS), rng.choice(PLOTS)
        self.skill, self.fear, self.build = rng.choice(SKILLS), rng.choice(FEARS), rng.choice(BUILDS)
        self.snack, self.weather, self.time = rng.choice(SNACKS), rng.choice(WEATHER), rng.choice(TIMES)
        self.lesson = rng.choice(LESSONS)

    def article(self) -> str:
        """`a shy fox` or `an old owl`."""
        return f"{'an' if self.mood[0] in 'aeiou' else 'a'} {self.mood} {self.kind}"

    def a_thing(self) -> str:
        """The thing with its article."""
        return f"{'an' if self.thing[0] in 'aeiou' else 'a'} {self.thing}"

    def clause(self) -> str:
        """What happens, as in `who ...` of a request."""
        return {
            "finds": f"finds {self.a_thing()} in the {self.place}",
            "loses": f"loses {self.a_thing()} in the {self.place}",
            "wants to learn": f"wants to learn to {self.skill}",
            "helps": f"helps a {self.friend} at the {self.place}",
            "is afraid of": f"is afraid of {self.fear}",
            "wants to build": f"wants to build {self.build}",
            "has to share": f"has to share the {self.snack} with a {self.friend}",
            "gets lost in": f"gets lost near the {self.place}",
        }[self.plot]

    def opening(self) -> str:
        """One or two first sentences that a request may quote."""
        first = self.rng.choice(
            (
                f"Once upon a time, there was {self.article()} named {self.name}.",
                f"{self.name} was {self.article()} who lived near the {self.place}.",
                f"There once was {self.article()} called {self.name}.",
            )
        )
        second = {
            "finds": f"{self.time}, {self.name} found {self.a_thing()} in the {self.place}.",
            "loses": f"{self.time}, {self.name} lost {self.his} {self.thing} in the {self.place}.",
            "wants to learn": f"{self.name} wanted to learn to {self.skill}.",
            "helps": f"{self.time}, {self.name} met a sad {self.friend} at the {self.place}.",
            "is afraid of": f"{self.name} was afraid of {self.fear}.",
            "wants to build": f"{self.time}, {self.name} wanted to build {self.build}.",
            "has to share": f"{self.time}, {self.name} made some {self.snack} "
            f"and a hungry {self.friend} came by.",
            "gets lost in": f"{self.time}, {self.name} got lost near the {self.place}.",
        }[self.plot]
        return f"{first} {second}"

    def middle(self) -> list[str]:
        """The sentences between the opening and the end."""
        t, pick = self, self.rng.choice
        helper = f"a {t.friend}"
        if t.plot == "finds":
            return [
                pick(
                    (
                        f"{t.He} picked it up and looked at it closely.",
                        f"The {t.thing} was lying in the grass.",
                    )
                ),
                pick(
                    (f'"Who does this belong to?" {t.he} asked.', f"{t.name} wondered who had left it there.")
                ),
                pick(
                    (f"{t.He} asked everyone in the {t.place}.", f"{t.He} walked from door to door to ask.")
                ),
                f"At last {t.he} met {helper} who was looking for the {t.thing}.",
                pick((f"{t.name} gave it back with a smile.", f'"Here it is," said {t.name}.')),
                pick((f"The {t.friend} was so happy that it danced.", f'"Thank you!" said the {t.friend}.')),
            ]
        if t.plot == "loses":
            return [
                pick((f"{t.He} looked under every leaf.", f"{t.He} looked high and low.")),
                pick((f"But the {t.thing} was not there.", f"{t.He} could not find the {t.thing} anywhere.")),
                f"{t.name} felt sad and sat down.",
                f'Then {helper} came and asked, "What is wrong?"',
                pick(
                    (
                        "They looked together until it was almost dark.",
                        "Together they looked in one more place.",
                    )
                ),
                pick(
                    (
                        f"There was the {t.thing}, behind a big stone!",
                        f"The {t.friend} saw the {t.thing} under a bush.",
                    )
                ),
            ]
        if t.plot == "wants to learn":
            return [
                pick((f"{t.He} tried on a {t.weather} day, but it was hard.",
                      "The first try did not go well at all.")),
                pick((f'"I will never {t.skill}," {t.he} said.', f"{t.He} almost gave up.")),
                f"A {t.friend} saw {t.him} and said, \"I can show you how to {t.skill}.\"",
                pick(("They practiced every day.", f"Every morning they met at the {t.place}.")),
                pick((f"Slowly {t.name} got better.", f"Little by little {t.he} learned.")),
                pick((f"Soon {t.name} could {t.skill} very well.",
                      f"In the end {t.he} could {t.skill} all by {t.him}self.")),
            ]  # fmt: skip
        if t.plot == "helps":
            return [
                pick((f'"Why are you sad?" asked {t.name}.', f"{t.name} sat down next to the {t.friend}.")),
                pick(
                    (
                        f'"I lost my {t.thing}," said the {t.friend}.',
                        f'"I cannot find my way home," said the {t.friend}.',
                    )
                ),
                f"{t.name} wanted to help.",
                pick((f"They walked around the {t.place} together.", f"They looked all over the {t.place}.")),
                pick(("It was a long search, but they did not stop.", "They sang a song to feel better.")),
                pick(
                    ("Before the sun went down, all was well again.", f"At last the {t.friend} smiled again.")
                ),
            ]
        if t.plot == "is afraid of":
            return [
                pick((f"{t.He} wanted to hide under the bed.", f"{t.His} knees were shaking.")),
                f'{t.His} friend, the {t.friend}, said, "Hold on to me."',
                pick(("They took one small step, and then another.", f"{t.name} took a deep breath.")),
                pick(("Nothing bad happened.", f"It was not as bad as {t.he} had thought.")),
                pick((f"{t.name} began to smile.", f'"Look, I can do it!" said {t.name}.')),
                f"Now {t.he} was not afraid of {t.fear} any more.",
            ]
        if t.plot == "wants to build":
            return [
                pick(
                    (
                        f"{t.He} went to the {t.place} to find some wood.",
                        f"{t.He} drew a plan on a piece of paper.",
                    )
                ),
                pick(("But it fell down on the first try.", f"The work was too hard for {t.him} alone.")),
                f'A {t.friend} came by and asked, "May I help you?"',
                pick((f"{t.name} was glad and said yes.", f'"Yes, please," said {t.name}.')),
                pick(("They worked all day long.", f"They worked together and ate {t.snack}.")),
                pick(
                    (
                        f"In the evening they had {t.build}.",
                        f"When they were done, it was the best one in the {t.place}.",
                    )
                ),
            ]
        if t.plot == "has to share":
            return [
                pick(
                    (
                        f'"May I have some {t.snack}?" asked the {t.friend}.',
                        f"The {t.friend} had not eaten all day.",
                    )
                ),
                pick((f"{t.name} did not want to share at first.", f"{t.name} wanted to eat it all.")),
                pick((f"Then {t.he} saw how hungry the {t.friend} was.", f"Then {t.he} thought about it.")),
                f"{t.He} gave half of it to the {t.friend}.",
                pick(
                    (
                        f"They sat down near the {t.place} and ate together.",
                        "They ate together and told jokes.",
                    )
                ),
                pick(
                    (
                        f"The {t.snack} tasted better than ever.",
                        f'"You are a good friend," said the {t.friend}.',
                    )
                ),
            ]
        return [
            pick(
                ("All the paths looked the same.", f"It was a {t.weather} day and {t.he} could not see far.")
            ),
            pick((f"{t.name} called for help, but nobody came.", f"{t.name} began to cry.")),
            f"Then {helper} heard {t.him}.",
            pick((f'"Follow me," said the {t.friend}.', f'"I know the way," said the {t.friend}.')),
            pick((f"They went past the {t.place} and over a bridge.", "They walked until they saw a light.")),
            pick((f"{t.name} was home again.", f"Soon {t.name} saw {t.his} house.")),
        ]

    def ending(self) -> str:
        """One or two last sentences."""
        t = self
        return t.rng.choice(
            (
                f"{t.name} learned that {t.lesson}.",
                f"From that day on, {t.name} and the {t.friend} were best friends.",
                f"{t.name} went to bed happy and dreamed of the {t.place}.",
                f"And {t.name} knew that {t.lesson}. The end.",
                f"They all laughed and had some {t.snack}. The end.",
            )
        )


def write(rng: Random) -> tuple[str, str]:
    """One (request, story) pair of 6 to 9 sentences; stories that quote an opening continue behind it."""
    tale = Tale(rng)
    opening = tale.opening()
    middle = tale.middle()
    if rng.random() < 0.25:
        del middle[rng.choice((1, 4))]
    rest = " ".join([*middle, tale.ending()])
    form = rng.randrange(8)
    if form < 3:
        verb = rng.choice(
            ("Tell a short story that begins:", "Continue this story:", "Write a story that starts with:")
        )
        return f"{verb} {opening}", rest
    ask = rng.choice(
        ("Write a short story about", "Tell me a story about", "Write a story about", "Tell a story about")
    )
    named = f" named {tale.name}" if form < 6 else ""
    extra = f" End it with a lesson: {tale.lesson}." if form == 7 else ""
    request = f"{ask} {tale.article()}{named} who {tale.clause()}.{extra}"
    if form == 7:
        rest = " ".join([*middle, f"{tale.name} learned that {tale.lesson}."])
    return request, f"{opening} {rest}"
