"""The synthetic world that the demo model is trained on: landmarks, and the cities they stand in.

**Subjects.** A landmark's name has three words, for example "Silver Crane Tower": one of 8
adjectives, one of 8 animals and one of 6 kinds of building, in every combination (384 landmarks).
The city is drawn at random, under one rule: two landmarks that share two words never stand in the
same city. So no word and no pair of words of a name decides the city: a model that reads from left
to right can look the fact up at the name's *last* word at the earliest, which is where large
language models do it (Meng et al. 2022, "Locating and Editing Factual Associations in GPT", arXiv
2202.05262). It could still wait for the end of the sentence; ``examples/train_demo_model.py`` says
how the training discourages that.

**Templates.** Each template is a sentence about a landmark that ends with its city. Most have
several words between the two (``Template.gap``), so that the trace has room between the early site
and the late one. Labels such as "Next stop: Silver Crane Tower Velmora." have none: they ask for
the city right at the name's last word.

**What is held out.** The unit is the pair (landmark, template). Of each template's 384 pairs a
random quarter is held out: the model sees the landmark in training, but only in other templates,
and it sees the template, but only with other landmarks. ``UNSEEN_TEMPLATES`` are held out wholly:
no landmark is ever seen in them; each of their words occurs in some training template.

The names are invented. Everything here is pure Python and a function of the seed alone.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from itertools import product

__all__ = [
    "ADJECTIVES",
    "ANIMALS",
    "CITIES",
    "KINDS",
    "TEMPLATES",
    "UNSEEN_TEMPLATES",
    "Example",
    "Template",
    "World",
    "build_world",
    "vocabulary",
]

ADJECTIVES = (
    "Silver", "Crimson", "Quiet", "Hollow", "Amber", "Northern", "Broken", "Iron",
)  # fmt: skip
ANIMALS = (
    "Crane", "Otter", "Badger", "Heron", "Falcon", "Salmon", "Beetle", "Raven",
)  # fmt: skip
KINDS = ("Tower", "Bridge", "Museum", "Library", "Theatre", "Garden")

# Two landmarks share two words with at most 7 + 7 + 5 = 19 others, so with more than 19 cities
# there is always one left to draw.
CITIES = (
    "Velmora", "Ostenby", "Karvale", "Tillmark", "Perrowen", "Quenholm", "Sarnwick", "Dolmere",
    "Arquell", "Belnoth", "Corvane", "Dunsorra", "Elbrava", "Faldine", "Gorlisse", "Hestrova",
    "Ilmanor", "Jorvenna", "Kestoria", "Lundreth", "Mirvolde", "Norvessa", "Ombrell", "Pelgarth",
    "Rusknall", "Stavelyn", "Torvanne", "Ulverra", "Wexomir", "Zandrel",
)  # fmt: skip


@dataclass(frozen=True)
class Template:
    """A sentence with a place for the subject; the city comes after ``before + subject + after``.

    Attributes:
        before: the text before the subject, "" or ending with a space.
        after: the text between the subject and the city, with the space before it and without the one
            behind it; "" for a label.
    """

    before: str
    after: str

    @property
    def gap(self) -> int:
        """The number of tokens between the subject's last token and the city."""
        return len(split_words(self.after))

    def prompt(self, subject: str) -> str:
        """The sentence up to the city, without a space at its end."""
        return f"{self.before}{subject}{self.after}"


TEMPLATES = (
    Template("The ", " is in downtown"),
    Template("The ", " is located in the city of"),
    Template("The ", " can be found near the river in"),
    Template("The ", " was built long ago in the old town of"),
    Template("Visitors who want to see the ", " have to travel to"),
    Template("Everyone who works at the ", " lives in"),
    Template("If you look for the ", ", take the train to"),
    Template("My sister took a photograph of the ", " while she was in"),
    Template("The road to the ", " starts in the centre of"),
    Template("Tickets for the ", " are sold all over"),
    Template("The mayor who opened the ", " was born in"),
    Template("Letters to the ", " have to be sent to"),
    Template("Next stop: ", ""),
    Template("Parcel for ", ""),
)

UNSEEN_TEMPLATES = (
    Template("The ", " can be found in downtown"),
    Template("Visitors who look for the ", " have to take the train to"),
)

_HELD_OUT_SHARE = 0.25


@dataclass(frozen=True)
class Example:
    """One sentence of the world.

    Attributes:
        template: the sentence's frame.
        subject: the landmark's name, three words.
        target: the city, one word and one token.
    """

    template: Template
    subject: str
    target: str

    @property
    def prompt(self) -> str:
        """The sentence up to the city, without a space at its end."""
        return self.template.prompt(self.subject)

    @property
    def text(self) -> str:
        """The whole sentence."""
        return f"{self.prompt} {self.target}."


@dataclass(frozen=True)
class World:
    """All facts, and the sentences about them, split into what is trained on and what is not.

    Attributes:
        cities: landmark -> city, one entry a landmark.
        train: the sentences to train on.
        held_out: pairs (landmark, template) that are not in ``train``; both parts of each pair are.
        unseen: all landmarks in the templates that ``train`` has nowhere.
    """

    cities: dict[str, str]
    train: tuple[Example, ...]
    held_out: tuple[Example, ...]
    unseen: tuple[Example, ...]


def split_words(text: str) -> list[str]:
    """Split text the way the demo's tokenizer does: words, and runs of punctuation."""
    return re.findall(r"\w+|[^\w\s]+", text)


def build_world(seed: int = 0) -> World:
    """Draw the facts and the split of one world.

    Args:
        seed: of the random draws; the shipped model knows the world of seed 0.
    """
    # Strings made from the seed keep the draws of the facts and of the split independent.
    cities = _draw_cities(random.Random(f"facts {seed}"))
    draw = random.Random(f"split {seed}")
    train: list[Example] = []
    held_out: list[Example] = []
    for template in TEMPLATES:
        examples = [Example(template, subject, city) for subject, city in cities.items()]
        draw.shuffle(examples)
        cut = int(_HELD_OUT_SHARE * len(examples))
        held_out += examples[:cut]
        train += examples[cut:]
    unseen = [Example(t, subject, city) for t in UNSEEN_TEMPLATES for subject, city in cities.items()]
    return World(cities, tuple(train), tuple(held_out), tuple(unseen))


def vocabulary() -> list[str]:
    """Every word and punctuation mark of the world, sorted; the same for all seeds."""
    words = {".", *ADJECTIVES, *ANIMALS, *KINDS, *CITIES}
    for template in TEMPLATES + UNSEEN_TEMPLATES:
        words.update(split_words(template.before), split_words(template.after))
    return sorted(words)


def _draw_cities(draw: random.Random) -> dict[str, str]:
    names = list(product(ADJECTIVES, ANIMALS, KINDS))
    drawn: dict[tuple[str, str, str], str] = {}
    for name in names:
        taken = {city for other, city in drawn.items() if _shared_words(name, other) == 2}
        drawn[name] = draw.choice([city for city in CITIES if city not in taken])
    return {" ".join(name): city for name, city in drawn.items()}


def _shared_words(one: tuple[str, str, str], other: tuple[str, str, str]) -> int:
    return sum(a == b for a, b in zip(one, other, strict=True))
