"""iMAML on Omniglot, 5-way 1-shot (Rajeswaran, Finn, Kakade & Levine, 2019, table 2).

The settings of the authors' code: 16 inner steps of 0.1, a pull of 2, 5 steps of conjugate
gradients with its damping, strided Conv4 normalised by the batch at hand (so that predictions
are transductive), every class of a task turned by a random multiple of 90 degrees in training
and at test, as many queries as shots; at test the same steps without the pull, as in that code.

Differs: 1,000 steps of 8 tasks, what one CPU core does in a quarter of an hour, are 1.25 % of
the tasks of the authors' 20,000 steps of 32; the meta-learning rate falls by a cosine; tasks
are drawn afresh instead of from 200,000 kept ones; descent minimises the proximal objective, as
the paper has it, where the code descends without the pull and pulls once at the end; 100 of the
training characters are kept for validation; this Conv4 averages the last 2 x 2 pixels, which
the authors' net flattens.
"""

import torch

import quickstudy as qs
from quickstudy.runs.recipes import Benchmark, Experiment

TRAINING = {"steps": 20_000, "meta_batch_size": 32}
PAPER = {"5-way 1-shot": {"accuracy": 0.9916, "interval": 0.0035, **TRAINING}}


def recipe(
    *,
    ways: int = 5,
    shots: int = 1,
    steps: int = 1_000,
    meta_batch_size: int = 8,
    inner_lr: float = 0.1,
    inner_steps: int = 16,
    strength: float = 2.0,
    cg_steps: int = 5,
    cg_damping: float = 1.0,
    strength_damping: float = 10.0,
    lr: float = 1e-3,
    seed: int = 0,
) -> Experiment:
    """Return the experiment.

    Args:
        ways: classes per task.
        shots: support examples per class, and queries per class.
        steps: meta-training steps.
        meta_batch_size: tasks per meta-training step.
        inner_lr: learning rate of inner steps.
        inner_steps: inner steps in training and at test.
        strength: strength λ of the proximal term.
        cg_steps: steps of conjugate gradients.
        cg_damping: damping of conjugate gradients.
        strength_damping: second damping, relative to λ, of the authors' code.
        lr: learning rate of Adam at the start.
        seed: seed of initial parameters and training tasks.
    """
    data = qs.datasets.omniglot(convention="characters")

    def tasks(split: qs.datasets.Labelled) -> qs.FewShot:
        return qs.FewShot(split, ways, shots, shots, rotations="random")

    learner = qs.IMAML(
        qs.nets.use_batch_statistics(qs.nets.Conv4(ways, pool="stride")),
        lr=inner_lr,
        steps=inner_steps,
        strength=strength,
        cg_steps=cg_steps,
        cg_damping=cg_damping,
        strength_damping=strength_damping,
    )
    optimizer = torch.optim.Adam(learner.parameters(), lr)
    test = tasks(data.test)
    return Experiment(
        learner,
        tasks(data.train),
        tasks(data.validation),
        {
            f"{ways}-way {shots}-shot": Benchmark(test, {"strength": 0.0}, n_tasks=2000),
            f"{ways}-way {shots}-shot, pulled": Benchmark(test, n_tasks=2000),
        },
        optimizer,
        steps,
        meta_batch_size,
        scheduler=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, 1e-5),
        validate_every=max(1, steps // 15),
        n_validation_tasks=600,
    )
