r"""Noise schedules and grids of timesteps.

Steps run $t = 0, \dots, T-1$; clean data is the extra step $-1$, where $\bar\alpha_{-1} = 1$.
"""

import math
from collections.abc import Callable
from typing import Literal, Self

import torch
from torch import Tensor, nn

CLEAN = -1
"""The step of clean data: $\\alpha = 1$, $\\sigma = 0$."""


class Schedule(nn.Module):
    r"""Map a timestep $t$ to the scales of $x_t = \alpha_t x_0 + \sigma_t \epsilon$.

    $\bar\alpha_t = \prod_{s \le t} (1 - \beta_s)$, $\alpha_t = \sqrt{\bar\alpha_t}$,
    $\sigma_t = \sqrt{1 - \bar\alpha_t}$ (Ho et al., 2020, eq. 4).

    Args:
        betas: $\beta_0, \dots, \beta_{T-1}$, each in $(0, 1)$. Only `with_zero_terminal_snr` and
            `then_pure_noise` end in $\alpha_{T-1} = 0$, where a noise estimate says nothing about
            the image.

    Raises:
        ValueError: the table is empty, not one-dimensional or leaves $(0, 1)$.
    """

    alpha_bars: Tensor

    def __init__(self, betas: Tensor) -> None:
        super().__init__()
        betas = betas.double()
        if betas.ndim != 1 or len(betas) == 0:
            raise ValueError(f"betas must be a vector, got shape {tuple(betas.shape)}")
        if not ((betas > 0) & (betas < 1)).all():
            raise ValueError(f"betas must be in (0, 1), got {betas.min():g} to {betas.max():g}")
        # float64, with the clean step in front: row t + 1 belongs to step t
        alpha_bars = torch.cat([torch.ones(1, dtype=torch.float64), (1 - betas).cumprod(0)])
        self._set(alpha_bars)

    def _set(self, alpha_bars: Tensor) -> None:
        self.register_buffer("alpha_bars", alpha_bars, persistent=False)
        self._alpha_bars: list[float] = alpha_bars.tolist()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move to another device, but stay in float64 when a model is cast to half precision."""
        alpha_bars = self.alpha_bars
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.alpha_bars = alpha_bars.to(self.alpha_bars.device)
        return self

    @classmethod
    def linear(cls, T: int = 1000, *, beta_start: float = 1e-4, beta_end: float = 0.02) -> Self:
        """Betas evenly spaced from `beta_start` to `beta_end` (Ho et al., 2020, sec. 4)."""
        return cls(torch.linspace(beta_start, beta_end, T, dtype=torch.float64))

    @classmethod
    def from_name(
        cls,
        name: Literal["linear", "scaled_linear", "squaredcos_cap_v2"],
        T: int,
        *,
        beta_start: float,
        beta_end: float,
    ) -> Self:
        """Build the schedule that diffusers calls `name`.

        Raises:
            ValueError: `name` is none of the three.
        """
        if name == "linear":
            return cls.linear(T, beta_start=beta_start, beta_end=beta_end)
        if name == "scaled_linear":
            roots = torch.linspace(beta_start**0.5, beta_end**0.5, T, dtype=torch.float64)
            return cls(roots.square())
        if name == "squaredcos_cap_v2":
            # Nichol & Dhariwal, 2021, eq. 17
            u = torch.arange(T + 1, dtype=torch.float64) / T
            alpha_bars = torch.cos((u + 0.008) / 1.008 * math.pi / 2).square()
            return cls((1 - alpha_bars[1:] / alpha_bars[:-1]).clamp(max=0.999))
        raise ValueError(f"name must be linear, scaled_linear or squaredcos_cap_v2, got {name!r}")

    def with_zero_terminal_snr(self) -> Self:
        r"""Shift and scale $\alpha_t$ so that $\alpha_{T-1} = 0$ and $\alpha_0$ stays.

        Lin et al., 2024, *Common diffusion noise schedules and sample steps are flawed*, Alg. 1.

        Raises:
            ValueError: the chain has only one step.
        """
        if self.T < 2:
            raise ValueError(f"T must be >= 2 to end in zero signal-to-noise ratio, got {self.T}")
        alphas = self.alpha_bars[1:].sqrt()
        alphas = (alphas - alphas[-1]) * alphas[0] / (alphas[0] - alphas[-1])
        return self._of(alphas.square())

    def then_pure_noise(self) -> Self:
        r"""Add a last step with $\alpha = 0$, $\beta = 1$."""
        return self._of(torch.cat([self.alpha_bars[1:], self.alpha_bars.new_zeros(1)]))

    def without_last(self) -> Self:
        """Leave the last step out."""
        return self._of(self.alpha_bars[1:-1])

    @classmethod
    def _of(cls, alpha_bars: Tensor) -> Self:
        r"""Build a schedule from its $\bar\alpha_0, \dots, \bar\alpha_{T-1}$."""
        schedule = cls.__new__(cls)
        nn.Module.__init__(schedule)
        schedule._set(torch.cat([alpha_bars.new_ones(1), alpha_bars]))
        return schedule

    def is_pure_noise(self, step: int) -> bool:
        r"""Whether a step keeps nothing of the image: $\alpha_t = 0$."""
        return self._alpha_bars[step + 1] == 0

    @property
    def last_invertible(self) -> int:
        """The noisiest step that keeps something of the image."""
        return self.T - 2 if self.is_pure_noise(self.T - 1) else self.T - 1

    @property
    def T(self) -> int:  # noqa: N802
        """Number of noise levels."""
        return len(self.alpha_bars) - 1

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        r"""Look up $(\alpha_t, \sigma_t)$ in float64.

        Args:
            t: integer timesteps in $[-1, T-1]$, any shape.
        """
        # indexing with shape () would copy the index to the host
        alpha_bar_t = self.alpha_bars.take(t.to(self.alpha_bars.device) + 1)
        return alpha_bar_t.sqrt(), (1 - alpha_bar_t).sqrt()

    def scales(self, step: int) -> tuple[float, float]:
        r"""Look up $(\alpha_t, \sigma_t)$ of one step, for the coefficients of a solver.

        On the host, so as not to wait for a device.
        """
        alpha_bar = self._alpha_bars[step + 1]
        return math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar)

    def diffuse(self, x_0: Tensor, eps: Tensor, step: int) -> Tensor:
        r"""Add noise: $x_t = \alpha_t x_0 + \sigma_t \epsilon$ (Ho et al., 2020, eq. 4)."""
        alpha_t, sigma_t = self(torch.tensor(step))
        x_t: Tensor = alpha_t.to(x_0) * x_0 + sigma_t.to(x_0) * eps
        return x_t


def check_latent_step(step: int, schedule: Schedule) -> int:
    """Return `step` if images can be inverted to it.

    Raises:
        ValueError: `step` is not a noise level of the model, or keeps nothing of an image.
    """
    if check_step(step, schedule.T) > schedule.last_invertible:
        raise ValueError(
            f"step must be at most {schedule.last_invertible}, got {step}: the last step of this "
            "model keeps nothing of an image (zero terminal SNR, alpha = 0), so that no inversion "
            "leads there"
        )
    return step


def check_step(step: int, T: int) -> int:
    """Return `step` if it is a noise level of the model.

    Raises:
        ValueError: `step` lies outside $0, ..., T-1$.
    """
    if not 0 <= step < T:
        raise ValueError(f"step must be in 0..{T - 1} (the model has T={T} steps), got {step}")
    return step


def trunk(T: int, steps: int, *, power: int = 1) -> Tensor:
    r"""Grid over the whole chain: $t_i = T (i / n)^p - 1$, rounded, $i = 0, \dots, n$.

    Points that rounding makes equal, near clean data, are merged.

    Args:
        T: number of noise levels of the model.
        steps: $n$, intervals over the whole chain, in $1, \dots, T$.
        power: $p$, 1 to 4; 1 spaces the points evenly, 2 as the quadratic grid of Song et al.,
            2021, with most points near clean data, where most of the inversion error arises.

    Raises:
        ValueError: `steps` or `power` is out of range.
    """
    if not 1 <= steps <= T:
        raise ValueError(f"steps must be in 1..{T}, got {steps}")
    if not isinstance(power, int) or not 1 <= power <= 4:
        raise ValueError(f"power must be 1, 2, 3 or 4, got {power}")
    # in integers, halves rounded up: floats would round them differently on other processors
    i, whole = torch.arange(steps + 1), 2 * steps**power
    points: Tensor = (CLEAN + (2 * T * i**power + steps**power) // whole).unique()
    return points


def grid(step: int, *, T: int, steps: int, power: int = 1) -> Tensor:
    r"""Increasing timesteps from clean data to exactly `step`.

    The grid follows the trunk of the whole chain up to the last point before `step`, or the point
    before that if the last interval would be less than half of its neighbour. So the grids of
    several steps share one trunk, and a latent does not depend on other steps in the same pass.

    Args:
        step: the last timestep, in $0, \dots, T-1$.
        T: number of noise levels of the model.
        steps: intervals over the *whole* chain, as in "50-step DDIM"; the grid of a smaller
            `step` has fewer.
        power: see `trunk`.

    Returns:
        Integer timesteps, shape (intervals + 1,); the first is -1, the last is `step`.
    """
    check_step(step, T)
    points = trunk(T, steps, power=power)
    points = points[points < step]
    if len(points) > 1 and 2 * (step - points[-1]) < points[-1] - points[-2]:
        points = points[:-1]
    return torch.cat([points, torch.tensor([step])])
