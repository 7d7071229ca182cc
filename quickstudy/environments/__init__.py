"""Environments to act in, thousands at once, and classical agents as baselines.

`environment` has the interface and samples from uniform noise, `rollout` acts, `actions` has
the distributions of actions. A new environment is a file with one subclass of `Environment`:
pure functions of one episode of one task, a NamedTuple if its tasks have several tensors, and
an executed example.
"""

from quickstudy.environments.actions import (
    ActionDistribution,
    Categorical,
    DiagonalGaussian,
    action_distribution,
)
from quickstudy.environments.bandit import BernoulliBandit, GaussianBandit
from quickstudy.environments.bandit_agents import (
    at_random,
    epsilon_greedy,
    gittins,
    gittins_indices,
    greedy,
    play,
    thompson,
    ucb1,
)
from quickstudy.environments.environment import (
    Environment,
    PlanarTrace,
    categorical,
    normal,
    one_hot,
    one_hot_argmax,
)
from quickstudy.environments.grid_maze import GridMaze, Maze
from quickstudy.environments.gymnasium_family import GymnasiumFamily
from quickstudy.environments.hidden_goal import HiddenGoal
from quickstudy.environments.mdp_agents import expected_mdp, plan, play_mdp, sampled_mdp
from quickstudy.environments.meta_world_family import meta_world
from quickstudy.environments.mujoco_families import (
    AntDir,
    HalfCheetahDir,
    HalfCheetahVel,
    HopperParams,
    WalkerParams,
)
from quickstudy.environments.navigation import Navigation2D, PointRobot, near_goal
from quickstudy.environments.physics import Cart, CartPole, Pendulum, Rod
from quickstudy.environments.robot import Body, Factors, Robot
from quickstudy.environments.rollout import Episodes, Policy, PolicyInput, rollout
from quickstudy.environments.tabular_mdp import MDP, TabularMDP

__all__ = [
    "MDP",
    "ActionDistribution",
    "AntDir",
    "BernoulliBandit",
    "Body",
    "Cart",
    "CartPole",
    "Categorical",
    "DiagonalGaussian",
    "Environment",
    "Episodes",
    "Factors",
    "GaussianBandit",
    "GridMaze",
    "GymnasiumFamily",
    "HalfCheetahDir",
    "HalfCheetahVel",
    "HiddenGoal",
    "HopperParams",
    "Maze",
    "Navigation2D",
    "Pendulum",
    "PlanarTrace",
    "PointRobot",
    "Policy",
    "PolicyInput",
    "Robot",
    "Rod",
    "TabularMDP",
    "WalkerParams",
    "action_distribution",
    "at_random",
    "categorical",
    "epsilon_greedy",
    "expected_mdp",
    "gittins",
    "gittins_indices",
    "greedy",
    "meta_world",
    "near_goal",
    "normal",
    "one_hot",
    "one_hot_argmax",
    "plan",
    "play",
    "play_mdp",
    "rollout",
    "sampled_mdp",
    "thompson",
    "ucb1",
]
