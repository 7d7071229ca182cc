"""Environments of one family differ by task, and return odd but legal values: each is taken as
it is, or refused in words."""

import multiprocessing
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Generator, Tensor

import quickstudy as qs
from quickstudy.core.tree import unstack
from quickstudy.environments import GymnasiumFamily, categorical, rollout
from quickstudy.evaluation import success_rate

ONE = spaces.Box(-9, 9, (1,), np.float64)
NOTHING = (0.0, False, False, {})


class Scripted(gymnasium.Env[Any, Any]):
    """Returns given values: an observation, and for each step (reward, terminated,
    truncated, info)."""

    def __init__(
        self,
        script: Any = lambda task, step, action: NOTHING,
        observation: Any = lambda task, step: np.zeros(1),
        observation_space: Any = lambda task: ONE,
        action_space: Any = lambda task: ONE,
    ):
        self.script, self.seen = script, observation
        self.spaces = observation_space, action_space
        self.set_task(0.0)

    def set_task(self, task: Any) -> None:
        self.task = float(task)
        self.observation_space, self.action_space = (space(self.task) for space in self.spaces)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        return self.seen(self.task, 0), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        return self.seen(self.task, self.steps), *self.script(self.task, self.steps, action)


@contextmanager
def family(workers: int, *, info: Any = (), horizon: int = 3, **parts: Any) -> Iterator[Any]:
    def tasks(size: int, generator: Generator) -> Tensor:
        return torch.arange(size, dtype=torch.float64)

    with GymnasiumFamily(
        lambda: Scripted(**parts), tasks, horizon=horizon, info=info, workers=workers
    ) as made:
        yield made
    assert not multiprocessing.active_children()


def acted(family: GymnasiumFamily, n_tasks: int = 5, value: float = 1.0, **options: Any) -> Any:
    def policy(state: Any, memory: Any, policy_input: Any, noise: Tensor) -> Any:
        action = torch.full_like(noise, value)
        return memory, categorical(0 * action, noise) if family.discrete else action, ()

    generator = Generator().manual_seed(0)
    return rollout(family, family.tasks(n_tasks, generator), policy, generator, **options)


both = pytest.mark.parametrize("workers", [1, 2])


@both
def test_actions_are_clipped_to_the_bounds_of_each_task(workers: int) -> None:
    def bounds(task: float) -> spaces.Box:
        return spaces.Box(-1 - task, 0.5 + task, (2,), np.float64)

    parts = {"action_space": bounds, "script": lambda task, k, a: (a.sum(), False, False, {})}
    with family(workers, **parts) as made:
        for value in (100.0, -100.0, 1.0):
            found = acted(made, 5, value, episodes=2).reward
            for task in range(5):
                right = 2 * min(max(value, -1 - task), 0.5 + task)
                assert (found[task] == right).all()


@both
def test_discrete_actions_start_where_each_task_says(workers: int) -> None:
    def arms(task: float) -> spaces.Discrete:
        return spaces.Discrete(3, start=int(10 * task))

    def script(task: float, step: int, action: Any) -> Any:
        assert arms(task).contains(action)
        return action - 10 * task, False, False, {}

    with family(workers, action_space=arms, script=script) as made:
        found = acted(made)
        assert torch.equal(found.reward.long(), found.action.argmax(-1))
        assert len(found.reward.unique()) == 3


@both
def test_bounds_that_change_within_an_episode_count(workers: int) -> None:
    class Tiring(Scripted):
        def step(self, action: Any) -> Any:
            self.action_space = spaces.Box(-1.0, 1 / (self.steps + 2), (1,), np.float64)
            return np.zeros(1), float(action[0]), False, False, {}

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float64)
            self.steps = 0
            return np.zeros(1), {}

    made = GymnasiumFamily(Tiring, lambda n, g: torch.zeros(n), horizon=2, workers=workers)
    with made:
        assert acted(made, 4, 9.0).reward[:, 0].tolist() == [[1.0, 0.5]] * 4


@both
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int8, np.int64])
def test_actions_have_the_dtype_and_shape_of_the_space(workers: int, dtype: Any) -> None:
    def space(task: float) -> spaces.Box:
        return spaces.Box(0, 1 + int(task), (2, 3), dtype)

    def script(task: float, step: int, action: Any) -> Any:
        assert action.dtype == dtype and space(task).contains(action)
        return action.sum(), False, False, {}

    with family(workers, action_space=space, script=script) as made:
        found = acted(made, 4, 2.0).reward[:, 0, 0]
        assert found.tolist() == [6, 12, 12, 12]


@both
@pytest.mark.parametrize(
    "value", [0.5, np.float32(0.5), np.array(0.5), np.array([0.5]), np.array([[0.5]]), [0.5]]
)
def test_rewards_info_and_ends_of_any_shape_are_one_number(workers: int, value: Any) -> None:
    def script(task: float, step: int, action: Any) -> Any:
        return value, np.array([step == 2]), np.array([False]), {"place": value}

    with family(workers, script=script, info=["place"]) as made:
        found = acted(made)
    assert found.reward[:, 0].tolist() == [[0.5, 0.5, 0.0]] * 5
    assert found.info["place"][:, 0].tolist() == [[0.5, 0.5, 0.0]] * 5
    assert found.done[:, 0].tolist() == [[0, 1, 0]] * 5


ODD = [
    np.zeros(2),
    np.zeros(0),
    [],
    "fast",
    "1",
    b"1",
    None,
    {},
    1j,
    np.nan,
    np.array([np.nan]),
]
ODD += [np.datetime64("2026-01-01"), np.array([None])]


@both
@pytest.mark.parametrize("value", ODD, ids=repr)
def test_what_is_not_one_number_is_refused_by_name(workers: int, value: Any) -> None:
    places = {
        "reward": lambda task, k, a: (value, False, False, {}),
        "info['x']": lambda task, k, a: (0.0, False, False, {"x": value}),
    }
    for place, script in places.items():
        with family(workers, script=script, info=["x"]) as made:
            expected = (
                f"^The {re.escape(place)} of <Scripted instance> is .*: return one number"
            )
            with pytest.raises(ValueError, match=expected):
                acted(made)


@both
def test_info_of_varying_shape_is_refused_when_it_is_no_number(workers: int) -> None:
    def script(task: float, step: int, action: Any) -> Any:
        return 0.0, False, False, {"x": np.ones(step)}

    with family(workers, script=script, info=["x"], horizon=1) as made:
        assert acted(made).info["x"].eq(1).all()
    with (
        family(workers, script=script, info=["x"], horizon=2) as made,
        pytest.raises(ValueError, match=r"info\['x'\]"),
    ):
        acted(made)


@both
def test_info_that_comes_at_the_end_only_is_zero_before(workers: int) -> None:
    def script(task: float, step: int, action: Any) -> Any:
        end = step == 2 + task % 2
        return 1.0, end, False, {"success": task % 2} if end else {}

    with family(workers, script=script, info=["success"], horizon=4) as made:
        found = acted(made)
    for task, own in enumerate(unstack(found)):
        right = [0.0, 0.0, 0.0, 0.0]
        right[1 + task % 2] = task % 2
        assert own.info["success"][0].tolist() == right
        assert success_rate(qs.Task(own, own)) == task % 2


@both
def test_info_that_never_comes_is_warned_of(workers: int) -> None:
    def script(task: float, step: int, action: Any) -> Any:
        return 0.0, False, False, {"success": 1.0}

    with family(workers, script=script, info=["success", "succes"]) as made:
        with pytest.warns(UserWarning, match="No step had succes in its `info`") as caught:
            found = acted(made)
        assert len(caught) == 1 and not found.info["succes"].any()
        assert found.info["success"].all()

    def at_last(task: float, step: int, action: Any) -> Any:
        return 0.0, task == 4 and step == 1, False, {"x": 1.0} if task == 4 else {}

    with family(workers, script=at_last, info=["x"]) as made, warnings.catch_warnings():
        warnings.simplefilter("error")
        found = acted(made)
        acted(made, 2)  # none has it this time, but the name is right
    assert found.info["x"].sum(-1).flatten().tolist() == [0, 0, 0, 0, 1]


@both
def test_an_end_at_the_first_step_and_at_the_last(workers: int) -> None:
    def script(task: float, step: int, action: Any) -> Any:
        return 1.0, step == task + 1, step == 3, {}

    with family(workers, script=script, horizon=3) as made:
        found = acted(made)
    assert found.weight.sum(-1).flatten().tolist() == [1, 2, 3, 3, 3]
    assert found.done.sum(-1).flatten().tolist() == [1, 1, 1, 0, 0]  # cut off is no end
    assert found.reward.sum(-1).flatten().tolist() == [1, 2, 3, 3, 3]


@both
def test_a_cut_before_the_horizon_names_it(workers: int) -> None:
    def script(task: float, step: int, action: Any) -> Any:
        return 1.0, False, task == 3 and step == 2, {}

    with (
        family(workers, script=script, horizon=3) as made,
        pytest.raises(ValueError, match="after 2 steps: give the family a horizon of at most"),
    ):
        acted(made)


@both
def test_observation_spaces_may_differ_in_bounds_dtype_and_start(workers: int) -> None:
    def space(task: float) -> spaces.Space[Any]:
        kinds = [np.float32, np.float64, np.int16, np.uint8, np.float16]
        return spaces.Box(0, 1 + int(task), (2,), kinds[int(task)])

    def seen(task: float, step: int) -> Any:
        return np.full(2, 1 + int(task), space(task).dtype)

    with family(workers, observation_space=space, observation=seen) as made:
        found = acted(made)
    for task in range(5):
        assert found.observation[task].eq(1 + task).all()

    def cells(task: float) -> spaces.Discrete:
        return spaces.Discrete(4, start=-int(task))

    with family(
        workers,
        observation_space=cells,
        observation=lambda task, step: np.int64(step - int(task)),
    ) as made:
        found = acted(made)
    assert found.observation.argmax(-1)[:, 0].tolist() == [[0, 1, 2]] * 5
    assert found.next_observation.sum(-1).eq(1).all()


@both
def test_dictionaries_and_tuples_are_flattened_in_order(workers: int) -> None:
    space = spaces.Dict(
        a=spaces.Discrete(2, start=5),
        b=spaces.Tuple([spaces.Box(0, 9, (2,), np.float64), spaces.MultiDiscrete([2, 3])]),
    )

    def seen(task: float, step: int) -> Any:
        return {"a": 6, "b": (np.array([task, step]), np.array([1, 2]))}

    with family(workers, observation_space=lambda _: space, observation=seen) as made:
        assert made.observation_size == 9
        found = acted(made)
    for task in range(5):
        for step in range(3):
            row = found.observation[task, 0, step].tolist()
            assert row == [0, 1, task, step, 0, 1, 0, 0, 1]


@both
@pytest.mark.parametrize("value", [300, -1, 0.5, 255, 2**30 + 64])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float16, np.float32])
def test_numbers_that_a_box_has_no_place_for_are_taken_as_they_are(
    workers: int, dtype: Any, value: float
) -> None:
    """As of pictures that are scaled to [0, 1] although their space is of bytes; a cast would
    make them all zero, and others wrap around."""
    box = spaces.Box(0, 100, (1,), dtype)
    for space in (box, spaces.Dict(a=box), spaces.Tuple([box])):

        def seen(task: float, step: int, space: Any = space) -> Any:
            number = np.array([value])
            if isinstance(space, spaces.Dict):
                return {"a": number}
            return (number,) if isinstance(space, spaces.Tuple) else number

        with family(workers, observation_space=lambda _, s=space: s, observation=seen) as made:
            episodes = acted(made, 2)
        assert episodes.observation.eq(value).all()
        assert episodes.next_observation.eq(value).all()


SPACES = [
    spaces.Box(-1, 1, (2, 3)),
    spaces.Box(0, 255, (2,), np.uint8),
    spaces.Discrete(4, start=-2),
    spaces.MultiDiscrete([2, 3], start=[5, 1]),
    spaces.MultiBinary((2, 2)),
    spaces.Dict(b=spaces.Discrete(3), a=spaces.Tuple([ONE, spaces.MultiBinary(2)])),
    spaces.OneOf([spaces.Discrete(3), ONE]),
]


@pytest.mark.parametrize("space", SPACES, ids=repr)
def test_observations_of_a_space_are_flattened_as_gymnasium_does(space: Any) -> None:
    space.seed(0)
    samples = [[space.sample() for _ in range(4)] for _ in range(3)]

    def seen(task: float, step: int) -> Any:
        return samples[int(task)][step]

    with family(1, observation_space=lambda _: space, observation=seen) as made:
        episodes = acted(made, 3)
    for task in range(3):
        right = [np.asarray(spaces.flatten(space, x), np.float32) for x in samples[task]]
        assert np.array_equal(episodes.observation[task, 0].numpy(), right[:3])
        assert np.array_equal(episodes.next_observation[task, 0].numpy(), right[1:])


@both
@pytest.mark.parametrize("value", [2, -1, 0.5, np.array([3]), np.bool_(True)], ids=repr)
def test_an_end_of_any_truth_is_one_end(workers: int, value: Any) -> None:
    def script(task: float, step: int, action: Any) -> Any:
        return 1.0, value if step == 2 else 0, False, {}

    with family(workers, script=script) as made:
        episodes = acted(made, 2)
    assert episodes.done[:, 0].tolist() == [[0, 1, 0]] * 2
    assert episodes.weight[:, 0].tolist() == [[1, 1, 0]] * 2
    assert episodes.reward[:, 0].tolist() == [[1, 1, 0]] * 2


@both
@pytest.mark.parametrize("value", [np.zeros(2, bool), np.zeros(0), "False", None], ids=repr)
def test_ends_and_truncations_that_are_not_one_number_are_refused(
    workers: int, value: Any
) -> None:
    for place, script in {
        "end": lambda task, k, a: (0.0, value, False, {}),
        "truncation": lambda task, k, a: (0.0, False, value, {}),
    }.items():
        with (
            family(workers, script=script) as made,
            pytest.raises(ValueError, match=f"^The {place} of an episode of <Scripted"),
        ):
            acted(made)


def of_the_last_task(one: Any, other: Any) -> Any:
    return lambda task: other if task == 4 else one


@both
@pytest.mark.parametrize(
    "place, one, other",
    [
        ("action_space", spaces.Discrete(2), spaces.Discrete(3)),
        ("action_space", ONE, spaces.Box(-1, 1, (2,))),
        ("action_space", ONE, spaces.Discrete(1)),
        ("observation_space", ONE, spaces.Box(-1, 1, (3,))),
        ("observation_space", spaces.Discrete(2), spaces.Discrete(5)),
    ],
    ids=repr,
)
def test_sizes_that_differ_by_task_are_refused(
    workers: int, place: str, one: Any, other: Any
) -> None:
    def seen(task: float, step: int) -> Any:
        return parts["observation_space"](task).sample() if len(parts) == 2 else np.zeros(1)

    parts: dict[str, Any] = {place: of_the_last_task(one, other)}
    if place == "observation_space":
        parts["observation"] = seen
    with (
        family(workers, **parts) as made,
        pytest.raises(ValueError, match="wrap the environment so that all tasks have equal"),
    ):
        acted(made)


@both
def test_a_space_of_another_kind_with_one_task_is_refused(workers: int) -> None:
    for place, other, expected in [
        (
            "action_space",
            spaces.MultiDiscrete([2, 2]),
            "Actions of <Scripted instance> are Multi",
        ),
        ("action_space", spaces.Dict(a=ONE), "Discrete or a Box"),
        ("observation_space", spaces.Sequence(ONE), "of no fixed size"),
    ]:
        with (
            family(workers, **{place: of_the_last_task(ONE, other)}) as made,
            pytest.raises(ValueError, match=expected),
        ):
            acted(made)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Dict(a=ONE),
        spaces.Tuple([ONE, ONE]),
        spaces.MultiDiscrete([2, 3]),
        spaces.MultiBinary(3),
        spaces.Text(3),
        spaces.Sequence(ONE),
    ],
    ids=repr,
)
def test_actions_that_are_neither_one_of_several_nor_numbers_are_refused(space: Any) -> None:
    with (
        pytest.raises(ValueError, match="wrap the environment so that they are Discrete or a"),
        family(1, action_space=lambda _: space),
    ):
        pass


@pytest.mark.parametrize(
    "space",
    [spaces.Sequence(ONE), spaces.Graph(ONE, None), spaces.Dict(a=spaces.Sequence(ONE))],
)
def test_observations_of_no_fixed_size_are_refused(space: Any) -> None:
    with (
        pytest.raises(ValueError, match="of no fixed size: wrap"),
        family(1, observation_space=lambda _: space),
    ):
        pass


@pytest.mark.parametrize(
    "space, value, expected",
    [
        (ONE, np.zeros(2), "it has 2 numbers"),
        (ONE, np.zeros(0), "it has 0 numbers"),
        (ONE, "left", "it has dtype <U4"),
        (ONE, np.array([1 + 2j]), "it has dtype complex"),
        (ONE, np.array(["2026-01-01"], "datetime64[D]"), "it has dtype datetime"),
        (ONE, None, "has NaN after"),
        (ONE, np.array([np.nan]), "has NaN after"),
        (spaces.Box(0, 9, (1,), np.int64), np.array([np.nan]), "has NaN after"),
        (spaces.Box(0, 1, (2, 2)), np.array([[0, np.nan], [0, 0]]), "has NaN after"),
        (spaces.Discrete(3), 3, "it is 3"),
        (spaces.Discrete(3), -1, "it is -1"),
        (spaces.Discrete(3, start=2), 1, "it is 1"),
        (spaces.MultiDiscrete([2, 2]), np.array([0, 2]), "does not fit"),
        (spaces.MultiDiscrete([2, 2]), np.array([-1, 0]), "does not fit"),
        (spaces.MultiBinary(2), np.array([0, 2]), "does not fit"),
        (spaces.Dict(a=spaces.Discrete(3)), {"a": -1}, "it is -1"),
        (spaces.Dict(a=spaces.Discrete(3, start=5)), {"a": 4}, "it is 4"),
        (spaces.Dict(a=spaces.Dict(b=spaces.Discrete(3))), {"a": {"b": 3}}, "it is 3"),
        (spaces.Tuple([spaces.MultiDiscrete([2, 3])]), (np.array([2, 0]),), "it is array"),
        (spaces.Tuple([ONE, ONE]), (np.zeros(2), np.zeros(0)), "it has 2 numbers"),
        (spaces.Tuple([ONE, ONE]), (np.zeros(1),), "does not fit"),
        (spaces.OneOf([ONE, spaces.Discrete(2)]), (1, -1), "does not fit"),
        (spaces.Dict(a=ONE), {}, "does not fit"),
        (spaces.Dict(a=ONE), {"a": np.array([np.nan])}, "has NaN after"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("step", [0, 2])
def test_observations_that_do_not_fit_are_refused(
    space: Any, value: Any, expected: str, step: int
) -> None:
    def seen(task: float, k: int) -> Any:
        return value if (task, k) == (4, step) else space.sample()

    with (
        family(1, observation_space=lambda _: space, observation=seen) as made,
        pytest.raises(ValueError, match=f"An observation of <Scripted instance> .*{expected}"),
    ):
        acted(made)


def test_a_wrapped_environment_is_named_with_its_wrappers() -> None:
    class Leaks(gymnasium.Wrapper[Any, Any, Any, Any]):
        def step(self, action: Any) -> Any:
            return np.array([np.nan] * 4), 0.0, False, False, {}

    made = GymnasiumFamily(
        lambda: Leaks(gymnasium.make("CartPole-v1")),
        lambda n, g: torch.zeros(n),
        set_task=lambda env, task: None,
        horizon=2,
        workers=1,
    )
    with pytest.raises(
        ValueError, match=r"<Leaks<TimeLimit<.*CartPole-v1.*has NaN after 1 step"
    ):
        acted(made, 1)


def test_errors_of_the_environment_itself_keep_their_trace() -> None:
    def script(task: float, step: int, action: Any) -> Any:
        raise ValueError("by design")

    with (
        family(2, script=script) as made,
        pytest.raises(RuntimeError, match=r"(?s)worker 0 failed.*in script.*by design"),
    ):
        acted(made)
    with family(1, script=script) as made, pytest.raises(ValueError, match=r"^by design$"):
        acted(made)


@both
def test_spaces_of_a_task_do_not_outlive_it(workers: int) -> None:
    """The same environments get other tasks in the next rollout."""

    def bounds(task: float) -> spaces.Box:
        return spaces.Box(-1 - task, 1 + task, (1,), np.float64)

    parts = {"action_space": bounds, "script": lambda task, k, a: (a, False, False, {})}
    with family(workers, horizon=1, **parts) as made:
        for tasks in ([0.0, 1.0, 2.0], [2.0, 1.0, 0.0], [5.0, 0.5, 7.0]):
            found = rollout(
                made,
                torch.tensor(tasks),
                lambda state, memory, policy_input, noise: (memory, 0 * noise + 99, ()),
                Generator(),
            )
            assert found.reward.flatten().tolist() == [1 + task for task in tasks]
