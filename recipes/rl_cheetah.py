"""A cheetah that should run forwards or backwards (`dir`), or at a velocity (`vel`), and does
not observe which (Finn et al., 2017, arXiv:1703.03400, section 5.3).

An episode has 100 steps. In a new task the policy acts for 20 episodes, adapts to them, and
acts for 20 more. What counts is the mean return of an episode after that, and before it, in 100
tasks; of directions there are only two, so these are 50 trials of each, about. Published are
returns of MAML after adaptation of 170.4 ± 21.0 (`dir`) and -139.0 ± 18.9 (`vel`; Raghu et al.,
2020, arXiv:1909.09157), for episodes and training that the paper does not specify well enough
to compare with.

`maml_trpo` and `promp` adapt by a step of policy gradient with a linear feature baseline: as
published, nets 64-64 with tanh, deviations that begin with 1, a discount of 0.99, and of ProMP
5 steps of Adam on a batch, a clip of 0.3 and a penalty of 5e-4. Differs: 10 million steps in
the environment, where the published code has 80 (MAML) and 160 (ProMP). So few are enough only
with advantages that decay by 0.9 (there by 1: of random policies the returns scatter so much
that gradients of two batches have next to nothing in common), an inner step of 0.4 (0.1), 126
batches of 20 tasks (of 40), TRPO to a divergence of 0.03 (0.01), with Fisher products from 5 of
the tasks, and for ProMP a rate of 3e-3 (1e-3).

`pearl` (Rakelly et al., 2019, arXiv:1903.08254) explores for 4 episodes, a fifth of the data,
and acts for 4 more; a second row has likeliest actions, as there. As published: a discount of
0.99, rewards that count 5 times, a context of 5 numbers, 100 velocities to train with, 5 of
which are acted in at a time. Differs: half a million steps in the environment (there 2.5
million), 250 gradient steps for every 4,000 of them, which are 31,000 in all (there 2,000 for
5,000, a million); nets of 128, not 300, 8 tasks of 128 steps at a time, not 16 of 256, and
averages that move by 0.01; of directions, 10 tasks.

`scratch` is reinforcement learning of each test task by itself, from the same 20 episodes and
nothing else: a random policy acts in them, goes 20 steps of 0.1 up PPO's objective of these
episodes (clipped by 0.3, with the same advantages; other rates from 0.03 to 3 earned at most 1
more), and acts for 20 more.
`untrained` is the same policy after MAML's one step. `seed` gives more results.
"""

from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.func import functional_call

import quickstudy as qs
from quickstudy.environments import (
    Environment,
    Episodes,
    HalfCheetahDir,
    HalfCheetahVel,
    PolicyInput,
    action_distribution,
)
from quickstudy.rl.advantages import clipped_surrogate, gae, linear_baseline
from quickstudy.runs.recipes import Benchmark, Experiment

RESULT = "rl_cheetah_{task}_{learner}_{seed}"
ROWS = {"dir": "new trials of two directions", "vel": "new velocities"}
PAPER = {}
LEARNERS: dict[str, str] = {
    "maml_trpo": "MAML, TRPO",
    "promp": "ProMP",
    "pearl": "PEARL",
    "scratch": "from scratch",
    "untrained": "untrained",
}

Name = Literal["maml_trpo", "promp", "pearl", "scratch", "untrained"]


class FromScratch(qs.Actor):
    """A policy for one task, from its episodes alone: some steps up PPO's objective."""

    def __init__(
        self,
        environment: Environment,
        net: nn.Module,
        *,
        lr: float,
        steps: int,
        clip: float = 0.3,
        decay: float = 1.0,
    ):
        super().__init__()
        self.actions, self.net = action_distribution(environment), net
        self.lr, self.steps, self.clip, self.decay = lr, steps, clip, decay

    def initial_state(self) -> tuple[Any, tuple[()]]:
        return dict(self.net.named_parameters()), ()

    def act(
        self, state: Any, memory: tuple[()], policy_input: PolicyInput, noise: Tensor
    ) -> tuple[tuple[()], Tensor, Tensor]:
        dist_params = self.predict((state, memory), policy_input.observation[None])[0]
        return memory, self.actions.sample(dist_params, noise), dist_params

    def adapt(self, support: Episodes, state: Any = None) -> tuple[Any, tuple[()]]:
        start, memory = self.initial_state() if state is None else state
        seen, reward, weight = support.observation, support.reward, support.weight
        value = linear_baseline(seen, reward, weight, discount=0.99)
        advantage = gae(reward, value, discount=0.99, gae_lambda=self.decay)
        advantage = (advantage - advantage.mean()) / advantage.std()
        then = self.actions.log_prob(support.extras, support.action)

        def loss(fast: Any) -> Tensor:
            now = self.actions.log_prob(self.predict((fast, ()), seen), support.action)
            return -clipped_surrogate(now - then, advantage, self.clip).mean()

        rules = {"lr": self.lr, "steps": self.steps, "first_order": True}
        return qs.inner_loop.descend(loss, start, **rules), memory

    def predict(self, state: Any, x: Tensor) -> Tensor:
        return functional_call(self.net, state[0], (x,))


def recipe(
    *,
    task: Literal["dir", "vel"] = "dir",
    learner: Name = "maml_trpo",
    steps: int | None = None,
    meta_batch_size: int | None = None,
    horizon: int = 100,
    episodes: int = 20,
    inner_lr: float = 0.4,
    decay: float = 0.9,
    lr: float | None = None,
    max_divergence: float = 0.03,
    explore: int = 4,
    every: int = 250,
    hidden: int = 128,
    scratch_lr: float = 0.1,
    scratch_steps: int = 20,
    seed: int = 0,
) -> Experiment:
    """Return the experiment.

    Args:
        task: what varies: direction or velocity.
        learner: learning algorithm.
        steps: training steps (default: 126; PEARL: by its 500,000 environment steps).
        meta_batch_size: tasks per training step (default: 20; PEARL: 8).
        horizon: steps per episode.
        episodes: support episodes per task (not PEARL).
        inner_lr: learning rate of inner steps.
        decay: GAE lambda in [0, 1].
        lr: learning rate of Adam (default: 1e-3; ProMP: 3e-3).
        max_divergence: largest KL divergence of a TRPO step, in nats.
        explore: episodes of exploration per task (PEARL).
        every: training steps between collections (PEARL).
        hidden: units of the hidden layers (PEARL).
        scratch_lr: learning rate of the learner from scratch.
        scratch_steps: gradient steps of the learner from scratch.
        seed: seed of initial parameters and training tasks.
    """
    if learner not in get_args(Name):
        raise ValueError(f"learner={learner!r}: choose one of {', '.join(get_args(Name))}.")
    cheetah = {"dir": HalfCheetahDir, "vel": HalfCheetahVel}[task](horizon=horizon)
    net, trained = qs.nets.policy_net(cheetah), learner not in ("scratch", "untrained")
    match learner:
        case "pearl":
            layers = (hidden,) * 3
            model = qs.PEARL(cheetah, hidden=layers, encoder=layers, tau=0.01)
        case "promp":
            model = qs.promp(cheetah, net, lr=inner_lr, gae_lambda=decay)
        case "scratch":
            model = FromScratch(cheetah, net, lr=scratch_lr, steps=scratch_steps, decay=decay)
        case _:
            model = qs.MAMLRL(cheetah, net, lr=inner_lr, gae_lambda=decay)
    if lr is None:
        lr = 3e-3 if learner == "promp" else 1e-3
    adam = torch.optim.Adam(model.parameters(), lr)
    rollouts = qs.tasks.Rollouts(
        cheetah, model, episodes=explore if learner == "pearl" else episodes
    )
    test = Benchmark(rollouts, n_tasks=100, evaluate_fn=qs.evaluation.evaluate_rollouts)
    tests = {ROWS[task]: test}
    if learner == "pearl":
        families = 10 if task == "dir" else 100
        once = 2 * explore * cheetah.horizon  # steps of a task in a collection
        collections = (500_000 - families * once) // (5 * once) + 1
        train = qs.tasks.OffPolicyTasks(
            rollouts, tasks=families, every=every, query=128, capacity=600_000 // families
        )
        likeliest = Benchmark(
            rollouts, {"greedy": True}, n_tasks=100, evaluate_fn=qs.evaluation.evaluate_rollouts
        )
        tests[f"{ROWS[task]}, likeliest actions"] = likeliest
        optimizer, usual = adam, (collections * every, 8)
    else:
        train = rollouts
        optimizer = (
            qs.training.MultiEpoch(adam, 5)
            if learner == "promp"
            else qs.training.TRPO(model, max_divergence=max_divergence, fisher_tasks=5)
        )
        usual = 126, 20
    steps = usual[0] if steps is None else steps
    meta_batch_size = usual[1] if meta_batch_size is None else meta_batch_size
    return Experiment(
        model,
        train,
        rollouts,
        tests,
        optimizer,
        steps if trained else 0,
        meta_batch_size,
        evaluate_fn=partial(qs.evaluation.evaluate_rollouts, meta_batch_size=40),
        validate_every=max(1, steps // 10),
        n_validation_tasks=40,
    )
