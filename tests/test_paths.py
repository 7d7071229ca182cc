"""Pictures of where a learner went: the places against steps made one by one."""

import torch
from torch import Generator

import quickstudy as qs
from quickstudy.core.tree import unstack
from quickstudy.environments import BernoulliBandit, GridMaze, Navigation2D, normal, rollout
from quickstudy.reports.rl_paths import draw_paths
from quickstudy.runs import (
    Benchmark as Row,  # pytest would take it for tests of its own
)


def test_paths_lead_from_the_first_place_along_what_was_done() -> None:
    generator = Generator().manual_seed(0)
    plane = Navigation2D(horizon=4)
    goals = plane.tasks(2, generator)
    policy = lambda state, memory, policy_input, noise: (memory, 0.05 * normal(noise), ())  # noqa: E731
    found = rollout(plane, goals, policy, generator, episodes=3)
    for goal, single in zip(goals, unstack(found), strict=True):
        planar_trace = plane.planar_trace(goal, single)
        assert not planar_trace.path[:, 0].any() and torch.equal(planar_trace.goal, goal)
        moved = single.action.clamp(-0.1, 0.1).cumsum(1)
        torch.testing.assert_close(planar_trace.path[:, 1:], moved)


def test_paths_in_a_maze_stay_off_its_walls_and_end_at_its_goal() -> None:
    maze, generator = GridMaze(3, horizon=40), Generator().manual_seed(0)
    mazes = maze.tasks(6, generator)

    def wander(
        state: object, memory: object, policy_input: object, noise: torch.Tensor
    ) -> object:
        return memory, (noise == noise.max()).to(noise), ()

    found = rollout(maze, mazes, wander, generator, episodes=2)  # pyright: ignore[reportArgumentType]
    assert found.done.any()
    for single, episodes in zip(unstack(mazes), unstack(found), strict=True):
        planar_trace = maze.planar_trace(single, episodes)
        assert planar_trace.path[:, 0].tolist() == [[1, -1]] * 2
        assert len(planar_trace.walls) == single.walls.sum() >= 16  # the border
        walls = {tuple(wall) for wall in planar_trace.walls.tolist()}
        for path, weight, done in zip(
            planar_trace.path, episodes.weight, episodes.done, strict=True
        ):
            path = path[: int(weight.sum()) + 1]
            assert not walls & {tuple(place) for place in path.tolist()}
            assert ((path[1:] - path[:-1]).abs().sum(-1) <= 1).all()
            assert torch.equal(path[-1], planar_trace.goal) == bool(done.any())


def test_the_pictures_are_of_the_first_tasks_and_there_are_none_without_places() -> None:
    torch.manual_seed(0)
    for environment in (GridMaze(3, horizon=5), Navigation2D(horizon=5)):
        learner = qs.RL2(environment, hidden=4)
        tasks = qs.tasks.Rollouts(environment, learner, episodes=2, trial=environment.discrete)
        drawn = draw_paths(learner, Row(tasks))
        assert drawn.count("<picture>") == 4 and "before adaptation" in drawn
        assert drawn == draw_paths(learner, Row(tasks))
    bandit = BernoulliBandit(3)
    learner = qs.RL2(bandit, hidden=4)
    assert (
        draw_paths(learner, Row(qs.tasks.Rollouts(bandit, learner, episodes=2, trial=True)))
        == ""
    )
