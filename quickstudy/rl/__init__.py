"""What learners that act share: the actor's interface, advantages, PPO on trials."""

from quickstudy.rl.actor import Actor

__all__ = ["Actor"]
