"""Stories and questions about them, after the first three tasks of bAbI (Weston, Bordes,
Chopra, Rush, van Merriënboer, Joulin & Mikolov, 2015, arXiv:1502.05698).

A task is one story. The support set holds its sentences in order, with zeros in y. The query
set holds questions about the end of the story; y is the answer, one word of the vocabulary.
"""

import random
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from quickstudy.core.task import Examples, Json, Task, TaskBatch, TaskDistribution

PEOPLE = ("ines", "otto", "mila", "yusuf")
PLACES = ("attic", "cellar", "garden", "kitchen", "library", "workshop")
THINGS = ("lantern", "kettle", "map")
GOES = ("walks to", "runs to", "returns to")
TAKES = ("takes", "picks up", "grabs")
LEAVES = ("drops", "leaves", "puts down")
LONGEST = 7  # words in a sentence
SENTENCES = {1: (2, 10), 2: (4, 20), 3: (6, 30)}

_REST = " ".join(("where is was the before", *GOES, *TAKES, *LEAVES)).split()
WORDS = ("", *sorted({*PEOPLE, *PLACES, *THINGS, *_REST}))
_NUMBER = {word: number for number, word in enumerate(WORDS)}


class Story(NamedTuple):
    """A story in words.

    Examples:
        >>> Story(["otto walks to the attic"], [("where is otto", "attic")]).questions[0][1]
        'attic'
    """

    sentences: list[str]
    questions: list[tuple[str, str]]  # every possible question with its answer


class Stories(TaskDistribution):
    """People walk about, take things and put them down; questions ask where something is.

    Nothing marks the sentences that answer a question. The place of a thing is unknown until
    somebody takes it.

    | `facts` | question | what there is to find |
    | --- | --- | --- |
    | 1 | where is otto | where he last went |
    | 2 | where is the map | who took it last, where that one was last, or put it down |
    | 3 | where was the map before the attic | that for the past: before it last came there |

    Words are whole numbers, their places in `words`; sentences are `LONGEST` words wide, ended
    by zeros.

    Args:
        facts: sentences that an answer follows from, at the least.
        sentences: fewest and most of a story, all equally likely; None: (2, 10), (4, 20) or
            (6, 30), by `facts`.
        questions: of a story, drawn one by one from all that have an answer.

    Raises:
        ValueError: `facts` is not 1, 2 or 3; or a story can be too short for a question.

    Examples:
        >>> tasks = Stories(facts=2)
        >>> batch = tasks.sample(1, torch.Generator().manual_seed(0))
        >>> tasks.read(batch.support.x[0, 0])
        'mila returns to the attic'
    """

    words = WORDS

    def __init__(
        self, facts: int = 1, *, sentences: tuple[int, int] | None = None, questions: int = 1
    ):
        if facts not in SENTENCES or questions < 1:
            raise ValueError(
                f"facts={facts}, questions={questions}: give 1, 2 or 3 facts and at least one "
                "question."
            )
        low, high = SENTENCES[facts] if sentences is None else sentences
        if not facts <= low <= high:
            raise ValueError(
                f"sentences={sentences}: give (fewest, most), from the {facts} on that a "
                "question is about."
            )
        self.facts, self.sentences, self.questions = facts, (low, high), questions

    def sample(self, n_tasks: int, generator: Generator) -> TaskBatch:
        """Draw `n_tasks` stories: x (T, N, LONGEST) of words, y (T, N, words) one-hot for
        questions. Shorter stories are padded to the longest possible."""
        draw = random.Random(int(torch.randint(2**62, (), generator=generator)))
        stories = [self.tell(draw) for _ in range(n_tasks)]
        most = self.sentences[1]
        sentences = torch.tensor([_rows(story.sentences, most) for story in stories])
        questions = [draw.choices(story.questions, k=self.questions) for story in stories]
        x = torch.tensor([_rows([q for q, _ in pairs], self.questions) for pairs in questions])
        y = torch.tensor([[_NUMBER[answer] for _, answer in pairs] for pairs in questions])
        one_hot = torch.eye(len(WORDS))[y]
        weight = (sentences[..., 0] > 0).to(one_hot)
        unlabelled = one_hot.new_zeros(n_tasks, most, len(WORDS))
        return Task(
            Examples(sentences, unlabelled, weight),
            Examples(x, one_hot, one_hot.new_ones(y.shape)),
        )

    def tell(self, draw: random.Random) -> Story:
        """Draw one story that has a question."""
        while True:
            story = _story(self.facts, draw.randint(*self.sentences), draw)
            if story.questions:
                return story

    def read(self, sentence: Tensor) -> str:
        """Return a row of x in words."""
        return " ".join(WORDS[number] for number in sentence.tolist() if number)

    def card(self) -> dict[str, Json]:
        """Return the parameters."""
        return {
            **super().card(),
            "facts": self.facts,
            "sentences": list(self.sentences),
            "questions": self.questions,
        }


def _story(facts: int, length: int, draw: random.Random) -> Story:
    """Draw a story of `length` sentences, with every possible question."""
    place: dict[str, str] = {}  # of people
    holder: dict[str, str] = {}  # of things
    trail: dict[str, list[str]] = {}  # where each thing has been since it was first taken
    sentences: list[str] = []
    for _ in range(length):
        who = draw.choice(PEOPLE)
        moves = {"go": [to for to in PLACES if to != place.get(who)]}
        if facts > 1 and who in place:
            free = [thing for thing in THINGS if thing not in holder]
            moves["take"] = [t for t in free if t not in trail or trail[t][-1] == place[who]]
            moves["leave"] = [thing for thing, by in holder.items() if by == who]
        kind = draw.choice([kind for kind, objects in moves.items() if objects])
        what = draw.choice(moves[kind])
        if kind == "go":
            place[who] = what
            for thing in (thing for thing, by in holder.items() if by == who):
                trail[thing].append(what)
        elif kind == "take":
            holder[what] = who
            trail.setdefault(what, [place[who]])
        else:
            del holder[what]
        verb = draw.choice({"go": GOES, "take": TAKES, "leave": LEAVES}[kind])
        sentences.append(f"{who} {verb} the {what}")
    if facts == 1:
        return Story(sentences, [(f"where is {who}", at) for who, at in place.items()])
    if facts == 2:
        return Story(sentences, [(f"where is the {t}", at[-1]) for t, at in trail.items()])
    came = {(t, b): a for t, places in trail.items() for a, b in pairwise(places)}  # last time
    return Story(
        sentences, [(f"where was the {t} before the {b}", a) for (t, b), a in came.items()]
    )


def _rows(sentences: list[str], number: int) -> list[list[int]]:
    """Return words as numbers, padded by zeros to `number` rows of `LONGEST`."""
    rows = [[_NUMBER[word] for word in sentence.split()] for sentence in sentences]
    rows += [[]] * (number - len(rows))
    return [row + [0] * (LONGEST - len(row)) for row in rows]
