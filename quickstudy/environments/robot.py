"""A robot of gymnasium's, version 5. One call of MuJoCo simulates all episodes."""

import copy
import importlib
from abc import abstractmethod
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from quickstudy.environments.environment import Environment, normal
from quickstudy.environments.external_call import outside


class Body(NamedTuple):
    """The position and velocity of a robot, in MuJoCo's generalised coordinates and float64.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> env = qs.environments.HalfCheetahDir()
        >>> body, _ = env.reset(torch.tensor(1.0), torch.full((env.noise_size,), 0.5))
        >>> body.velocity.dtype, body.position.shape
        (torch.float64, torch.Size([9]))
    """

    position: Tensor  # (nq,)
    velocity: Tensor  # (nv,)


class Factors(NamedTuple):
    """Factors of a robot's physics: they multiply the values of the model.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> factors = qs.environments.HopperParams().tasks(2, torch.Generator())
        >>> factors.mass.shape, factors.damping.shape
        (torch.Size([2, 5]), torch.Size([2, 6]))
    """

    mass: Tensor  # (bodies,)
    inertia: Tensor  # (bodies, 3)
    damping: Tensor  # (nv,)
    friction: Tensor  # (geoms, 3)


class Robot(Environment):
    """One of gymnasium's robots.

    Model, initial states, observations and ends of episodes are those of the v5 environment.
    Actions are clipped to ±1 before they act and before they cost.

    One call of `mujoco.rollout` computes the physics of all episodes, on as many threads as
    PyTorch has (`torch.set_num_threads`).

    Raises:
        ImportError: MuJoCo is not installed.

    Examples:
        >>> import quickstudy as qs
        >>> robot = qs.environments.HalfCheetahDir()
        >>> round(robot.seconds, 3), robot.model.nq  # of a step; coordinates
        (0.05, 9)
    """

    discrete = False
    file: str
    """The model, among gymnasium's."""
    skip: int
    """Steps of integration in a step."""
    hidden = 1
    """How many of the first coordinates, the place of the robot, are not observed."""
    fastest = float("inf")
    """Observed velocities are clipped to this."""

    def __init__(self, horizon: int):
        try:
            self.mujoco: Any = importlib.import_module("mujoco")
            import gymnasium
        except ImportError as error:
            raise ImportError("Install MuJoCo: pip install 'quickstudy[rl]'.") from error
        assets = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets"
        self.model = self.mujoco.MjModel.from_xml_path(str(assets / self.file))
        self.horizon, self.noise_size = horizon, self.model.nq + self.model.nv
        self.observation_size, self.action_size = self.noise_size - self.hidden, self.model.nu
        self.seconds = self.model.opt.timestep * self.skip
        self._varied = lru_cache(1024)(self._vary)

    def initial_offset(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return the offsets of an episode's first position (nq,) and velocity (nv,) from
        those of the model, from uniform numbers: positions within 0.1, and velocities of
        standard deviation 0.1."""
        place, speed = noise.tensor_split([self.model.nq])
        return 0.1 * (2 * place - 1), 0.1 * normal(speed)

    @abstractmethod
    def reward_and_done(
        self, task: Any, body: Body, then: Body, action: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the reward () of a step, and 1 if it ends the episode ()."""

    def velocity(self, body: Body, then: Body) -> Tensor:
        """Return the mean velocity (nq,) of a step, in units of position per second."""
        return (then.position - body.position) / self.seconds

    def reset(self, task: Any, noise: Tensor) -> tuple[Body, Tensor]:
        """Begin near the position of the model, nearly at rest."""
        place, speed = self.initial_offset(noise.double())
        place = place + torch.from_numpy(self.model.qpos0).to(place.device)
        body = Body(place, speed)
        return body, self._seen(body, noise)

    def step(
        self, task: Any, state: Body, action: Tensor, noise: Tensor
    ) -> tuple[Body, Tensor, Tensor, Tensor]:
        """Simulate `seconds`."""
        action = action.clamp(-1, 1)
        factors = [x.flatten() for x in task] if isinstance(task, Factors) else []
        body = Body(*outside(self._advance, action, *state, *factors))
        reward, done = self.reward_and_done(task, state, body, action.double())
        return body, self._seen(body, noise), reward.to(noise.dtype), done.to(noise.dtype)

    def _seen(self, body: Body, like: Tensor) -> Tensor:
        speed = body.velocity.clamp(-self.fastest, self.fastest)
        return torch.cat([body.position[self.hidden :], speed]).to(like.dtype)

    def _advance(self, action: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        control, place, speed, *factors = (
            x.detach().cpu().double().numpy() for x in (action, *state)
        )
        pool, data = self._pool
        models = self.model
        if factors:
            models = [self._varied(row.tobytes()) for row in np.concatenate(factors, 1)]
        start = np.concatenate([np.zeros_like(place[:, :1]), place, speed], 1)  # time is first
        states = pool.rollout(models, data, start, control[:, None], nstep=self.skip)[0]
        last = torch.from_numpy(states[:, -1, 1:]).to(action.device)
        return last[:, : self.model.nq], last[:, self.model.nq :]

    @cached_property
    def _pool(self) -> Any:
        from mujoco.rollout import Rollout

        threads = torch.get_num_threads()
        data = [self.mujoco.MjData(self.model) for _ in range(threads)]
        return Rollout(nthread=threads if threads > 1 else 0), data

    def _vary(self, factors: bytes) -> Any:
        model, row = copy.copy(self.model), np.frombuffer(factors)
        for name in ("body_mass", "body_inertia", "dof_damping", "geom_friction"):
            values = getattr(model, name)
            values *= row[: values.size].reshape(values.shape)
            row = row[values.size :]
        data = self.mujoco.MjData(model)
        self.mujoco.mj_setConst(model, data)  # what the solver derives from masses
        return model
