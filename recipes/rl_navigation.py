"""2-D navigation by a step of policy gradient (Finn et al., 2017, arXiv:1703.03400, section
5.3).

A point has to be moved to a goal in [-0.5, 0.5]² that is not seen; each of 100 steps pays minus
the distance. In a new task the policy acts for 20 episodes, makes one step of policy gradient
of 0.1, with a linear feature baseline, and acts for 20 more. What counts is the mean return of
an episode after that step, and before it, for 600 goals. Published are returns of MAML after
adaptation of -20.3 ± 3.2 (Raghu et al., 2020, arXiv:1909.09157).

`maml_trpo`, `maml_ppo`, `promp` and `e_maml` (by TRPO) are meta-trained for the return after
the step. `pretrained` is one policy, trained by TRPO on all tasks without the step, and
`untrained` a random one; both are then adapted in the same way. `seed` gives more results.

As in the published code: nets 64-64 with tanh, deviations that begin with 1, a discount of
0.99, TRPO to a divergence of 0.01, 20 goals at a time. Differs: 60 steps, where it has 500 (5
of its 40 million steps in the environment), and Fisher products from 5 of the 20 goals. PPO and
ProMP step 5 times on a batch, by Adam. E-MAML's term counts by 0.01: in full it is noise here.
"""

from functools import partial
from typing import Literal, get_args

import torch

import quickstudy as qs
from quickstudy.environments import Navigation2D
from quickstudy.runs.recipes import Benchmark, Experiment

RESULT = "rl_navigation_{learner}_{seed}"
ROW = "new goals, 1 step"
PAPER = {
    "rl_navigation_maml_trpo_0": {ROW: {"return after": -20.3, "interval": 3.2}},
    "rl_navigation_maml_trpo_1": {ROW: {"return after": -20.3, "interval": 3.2}},
    "rl_navigation_maml_trpo_2": {ROW: {"return after": -20.3, "interval": 3.2}},
    "rl_navigation_maml_trpo_3": {ROW: {"return after": -20.3, "interval": 3.2}},
    "rl_navigation_maml_trpo_4": {ROW: {"return after": -20.3, "interval": 3.2}},
}

Name = Literal["maml_trpo", "maml_ppo", "promp", "e_maml", "pretrained", "untrained"]


def recipe(
    *,
    learner: Name = "maml_trpo",
    steps: int = 60,
    meta_batch_size: int = 20,
    episodes: int = 20,
    inner_lr: float = 0.1,
    lr: float = 3e-3,
    max_divergence: float = 0.01,
    seed: int = 0,
) -> Experiment:
    """Return the experiment.

    Args:
        learner: learning algorithm.
        steps: meta-training steps.
        meta_batch_size: tasks per meta-training step.
        episodes: support episodes per task.
        inner_lr: learning rate of inner steps.
        lr: learning rate of Adam (ProMP).
        max_divergence: largest KL divergence of a TRPO step, in nats.
        seed: seed of initial parameters and training tasks.
    """
    if learner not in get_args(Name):
        raise ValueError(f"learner={learner!r}: choose one of {', '.join(get_args(Name))}.")
    navigation = Navigation2D()
    net = qs.nets.policy_net(navigation)
    match learner:
        case "maml_ppo":
            model = qs.MAMLRL(navigation, net, lr=inner_lr, clip=0.3)
        case "promp":
            model = qs.promp(navigation, net, lr=inner_lr)
        case "e_maml":
            model = qs.MAMLRL(navigation, net, lr=inner_lr, exploration=0.01)
        case "pretrained":  # the query is of the policy itself: an ordinary policy gradient
            model = qs.MAMLRL(navigation, net, lr=0.0)
        case _:
            model = qs.MAMLRL(navigation, net, lr=inner_lr)
    if learner in ("maml_ppo", "promp"):
        optimizer = qs.training.MultiEpoch(torch.optim.Adam(model.parameters(), lr), 5)
    else:
        optimizer = qs.training.TRPO(model, max_divergence=max_divergence, fisher_tasks=5)
    rollouts = qs.tasks.Rollouts(navigation, model, episodes=episodes)
    test = Benchmark(rollouts, {"lr": inner_lr}, evaluate_fn=qs.evaluation.evaluate_rollouts)
    return Experiment(
        model,
        rollouts,
        rollouts,
        {ROW: test},
        optimizer,
        0 if learner == "untrained" else steps,
        meta_batch_size,
        evaluate_fn=partial(qs.evaluation.evaluate_rollouts, meta_batch_size=40),
        validate_every=max(1, steps // 15),
        n_validation_tasks=40,
    )
