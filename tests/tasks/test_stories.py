"""Stories against a reader that works backwards through the sentences, as people would."""

import random

import pytest
import torch

from quickstudy.tasks import Stories
from quickstudy.tasks.stories import PLACES, THINGS, WORDS

Sentence = tuple[str, str, str]  # who, what is done, to where or what


def parsed(sentence: str) -> Sentence:
    who, *verb, _, what = sentence.split()
    if what in PLACES:
        return who, "go", what
    return who, "take" if " ".join(verb) in ("takes", "picks up", "grabs") else "leave", what


def went(story: list[Sentence], who: str) -> str:
    """Where one is, after a story."""
    return [to for name, done, to in story if name == who and done == "go"][-1]


def lies(story: list[Sentence], thing: str) -> str | None:
    """Where a thing is, after a story; None: nobody can know."""
    for end in range(len(story), 0, -1):
        who, done, what = story[end - 1]
        if what == thing:  # carried until now, or put down then
            return went(story if done == "take" else story[:end], who)
    return None


def answered(question: str, story: list[Sentence]) -> str | None:
    words = question.split()
    if words[:2] == ["where", "was"]:
        history = [lies(story[:end], words[3]) for end in range(1, len(story) + 1)]
        end = max(i for i, place in enumerate(history) if place == words[-1])
        return next(place for place in reversed(history[:end]) if place != words[-1])
    return lies(story, words[-1]) if words[-1] in THINGS else went(story, words[-1])


@pytest.mark.parametrize("facts", [1, 2, 3])
def test_every_question_has_the_answer_that_a_reader_finds(facts: int) -> None:
    tasks, draw = Stories(facts), random.Random(0)
    answers = set()
    for _ in range(300):
        told = tasks.tell(draw)
        story = [parsed(sentence) for sentence in told.sentences]
        assert tasks.sentences[0] <= len(story) <= tasks.sentences[1]
        for question, answer in told.questions:
            assert answered(question, story) == answer
            answers.add(answer)
    assert answers == set(PLACES)


@pytest.mark.parametrize("facts", [2, 3])
def test_what_is_done_can_be_done(facts: int) -> None:
    tasks, draw = Stories(facts), random.Random(1)
    for _ in range(100):
        story = [parsed(sentence) for sentence in tasks.tell(draw).sentences]
        for now, (who, done, what) in enumerate(story):
            past = story[:now]
            if done == "go":
                assert (who, "go", what) not in past or went(past, who) != what
                continue
            last = next((s for s in reversed(past) if s[2] == what), None)
            if done == "take":  # nobody has it, and it is where they are
                assert last is None or last[1] == "leave"
                assert lies(past, what) in (None, went(past, who))
            else:
                assert last is not None and last[:2] == (who, "take")


def test_a_batch_says_what_the_story_says() -> None:
    tasks = Stories(3, questions=2)
    batch = tasks.sample(20, torch.Generator().manual_seed(0))
    assert batch.support.x.shape == (20, 30, 7) and batch.query.x.shape == (20, 2, 7)
    assert batch.support.y.shape[-1] == batch.query.y.shape[-1] == len(WORDS)
    assert not batch.support.y.any() and batch.query.weight.all()
    lengths = batch.support.weight.sum(1)
    assert lengths.min() >= 6 and len(lengths.unique()) > 5
    for told, weight, asked, y in zip(
        batch.support.x, batch.support.weight, batch.query.x, batch.query.y, strict=True
    ):
        assert not told[weight == 0].any()  # padding is behind, and empty
        story = [parsed(tasks.read(row)) for row in told[: int(weight.sum())]]
        for question, answer in zip(asked, y, strict=True):
            assert answer.sum() == 1
            assert answered(tasks.read(question), story) == WORDS[int(answer.argmax())]


def test_a_card_has_the_settings() -> None:
    assert Stories(2, questions=3).card() == {
        "tasks": "Stories",
        "facts": 2,
        "sentences": [4, 20],
        "questions": 3,
    }


@pytest.mark.parametrize(
    ("facts", "sentences", "questions", "message"),
    [(4, None, 1, "1, 2 or 3"), (1, None, 0, "one question"), (3, (2, 9), 1, "from the 3 on")],
)
def test_what_cannot_be_told_is_refused(
    facts: int, sentences: tuple[int, int] | None, questions: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Stories(facts, sentences=sentences, questions=questions)
