"""The base of actors: their interface, advantages and surrogates, trials, and PPO on trials.

Everything here is a pure function or an abstract class; learners stand in `learners.policies`.
A new file holds one idea that two actors need, with its source and an executed example.
"""

from quickstudy.rl.actor import Actor
from quickstudy.rl.ppo import PPOSettings, StepRecord, ppo
from quickstudy.rl.trial_actors import RecurrentActor, TrialActor

__all__ = ["Actor", "PPOSettings", "RecurrentActor", "StepRecord", "TrialActor", "ppo"]
