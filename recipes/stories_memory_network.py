"""Questions about stories: memory networks on tasks 1 to 3 of bAbI's kind (Sukhbaatar, Szlam,
Weston & Fergus, 2015, table 1).

People walk about, take things and put them down; an answer follows from one, two or three
sentences (`facts`) among up to 10, 20 or 30, and which ones is not given. Three hops, vectors
of 20, position and temporal encoding, new stories at every step, no softmax in the first 500
steps ("linear start", without which two facts were not learned in 1,200 steps).

The paper's error rates are of bAbI's own stories, with 1,000 or 10,000 questions to train on.
They are not to be compared with those here: our grammar is another, and questions never run
out. Differs also: Adam, at a rate that falls from `lr` by a cosine, instead of stochastic
gradient descent; several questions of a story in training. The norm of the gradient is clipped
at 40, as there.
"""

import torch

import quickstudy as qs
from quickstudy.runs.recipes import Benchmark, Experiment

RESULT = "stories_{facts}_memory_network"

PAPER = {}


def recipe(
    *,
    facts: int = 1,
    hops: int = 3,
    width: int = 20,
    steps: int = 12_000,
    meta_batch_size: int = 32,
    questions: int = 4,
    linear_until: int = 500,
    lr: float = 1e-2,
    seed: int = 0,
) -> Experiment:
    """Return the experiment.

    Args:
        facts: sentences that an answer needs.
        hops: memory look-ups per question.
        width: size of the vectors.
        steps: training steps.
        meta_batch_size: stories per training step.
        questions: questions per story in training.
        linear_until: steps without the softmax of attention (linear start).
        lr: learning rate of Adam at the start.
        seed: seed of initial parameters and training tasks.
    """
    stories = qs.tasks.Stories(facts)
    learner = qs.story_memory_network(
        len(stories.words), width=width, hops=hops, linear_until=linear_until
    )
    optimizer = torch.optim.Adam(learner.parameters(), lr)
    kind = f"{facts} fact{'s' * (facts > 1)}"
    return Experiment(
        learner,
        qs.tasks.Stories(facts, questions=questions),
        stories,
        {kind: Benchmark(stories, n_tasks=2000)},
        optimizer,
        steps,
        meta_batch_size,
        scheduler=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps),
        clip=40.0,
        validate_every=max(1, steps // 15),
        n_validation_tasks=500,
    )
