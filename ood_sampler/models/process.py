"""The process that a network was trained on: noise schedule and prediction type."""

import logging
from collections.abc import Mapping, Sized
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from ood_sampler.diffusion.denoiser import (
    Denoiser,
    EpsilonDenoiser,
    NetworkDenoiser,
    SampleDenoiser,
    VelocityDenoiser,
)
from ood_sampler.diffusion.schedule import Schedule
from ood_sampler.models.architecture import flag, integer, number, numbers, read_fields, word

log = logging.getLogger(__name__)

PREDICTIONS: Mapping[str, type[NetworkDenoiser]] = {
    "epsilon": EpsilonDenoiser,
    "v_prediction": VelocityDenoiser,
    "sample": SampleDenoiser,
}
"""Prediction types by their names in diffusers."""

_BETA_SCHEDULES = {
    "linear": "linear",
    "scaled_linear": "scaled_linear",
    "quad": "scaled_linear",
    "squaredcos_cap_v2": "squaredcos_cap_v2",
}
_MOST_STEPS = 10**6
"""Published chains have up to 4000; more than this would fill the memory."""

_NOISE_SCHEDULES = {"linear": "linear", "cosine": "squaredcos_cap_v2"}


@dataclass(frozen=True)
class Process:
    """A noise schedule and a prediction type.

    Attributes:
        schedule: the noise schedule.
        prediction_type: what the network predicts.

    Raises:
        ValueError: the prediction type has no known name.
    """

    schedule: Schedule
    prediction_type: str = "epsilon"

    def __post_init__(self) -> None:
        if self.prediction_type not in PREDICTIONS:
            raise ValueError(
                f"prediction_type must be {_either(PREDICTIONS)}, got {self.prediction_type!r}"
            )

    def denoiser(self, network: nn.Module, *, label: int | None = None) -> Denoiser:
        """Make a denoiser of a network trained on this process."""
        return PREDICTIONS[self.prediction_type](network, self.schedule, label=label)


def read_betas(table: object) -> Tensor:
    r"""Read a table $\beta_0, \dots, \beta_{T-1}$ in float64.

    Raises:
        ValueError: it is no list of numbers, or too long.
    """
    if isinstance(table, Sized) and len(table) > _MOST_STEPS:
        raise ValueError(f"betas must have at most {_MOST_STEPS} values, got {len(table)}")
    try:
        return torch.tensor(numbers(table), dtype=torch.float64)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise ValueError(f"betas must be a list of numbers, got {type(table).__name__}") from error


def from_scheduler(config: Mapping[str, Any]) -> Process:
    """Read the scheduler config of a diffusers pipeline.

    Options of sampling alone (spacing of steps, clipping, variance) do not matter here.

    Raises:
        ValueError: an option is not implemented.
        KeyError: the schedule is not described.
    """
    if config.get("snr_shift_scale") not in (None, 1):
        raise ValueError(f"snr_shift_scale must be 1, got {config['snr_shift_scale']}")
    prediction = config.get("prediction_type", "epsilon")
    if config.get("trained_betas") is not None:
        schedule = _from_table(config["trained_betas"], prediction)
    else:
        schedule = _from_scheduler_fields(config)
    if config.get("rescale_betas_zero_snr") and not schedule.is_pure_noise(schedule.T - 1):
        schedule = schedule.with_zero_terminal_snr()
        if prediction == "epsilon":
            schedule = schedule.without_last()
            _warn_of_last_step(schedule.T)
    return Process(schedule, prediction)


@cache
def _warn_of_last_step(step: int) -> None:
    """Once a process: schedules are read more than once."""
    log.warning(
        "step %d of this model is pure noise (rescale_betas_zero_snr), where an estimate of the "
        "noise (prediction_type: epsilon) says nothing about the image: its steps are 0 to %d",
        step,
        step - 1,
    )


def _from_scheduler_fields(config: Mapping[str, Any]) -> Schedule:
    name = _named("beta_schedule", config["beta_schedule"], _BETA_SCHEDULES)
    return Schedule.from_name(
        name,  # type: ignore[arg-type]
        _steps("num_train_timesteps", config["num_train_timesteps"]),
        beta_start=config["beta_start"],
        beta_end=config["beta_end"],
    )


def _from_table(table: object, prediction: str) -> Schedule:
    """A table may end in 1, pure noise, where the network does not predict the noise."""
    betas = read_betas(table)
    if len(betas) > 1 and betas.ndim == 1 and betas[-1] == 1 and prediction != "epsilon":
        return Schedule(betas[:-1]).then_pure_noise()
    return Schedule(betas)


_GUIDED_DIFFUSION = {"noise_schedule": word, "diffusion_steps": integer}
_DDPM = {
    "beta_schedule": word,
    "beta_start": number,
    "beta_end": number,
    "num_diffusion_timesteps": integer,
    "num_train_timesteps": integer,
}
_TABLE = {"betas": numbers}
_PREDICTION = {"prediction_type": word, "predict_xstart": flag, "rescale_timesteps": flag}
_SAMPLING = {
    "learn_sigma",
    "p2_gamma",
    "p2_k",
    "rescale_learned_sigmas",
    "sigma_small",
    "timestep_respacing",
    "use_kl",
}


def from_section(fields: object, *, betas: object = None) -> Process:
    r"""Read the section `diffusion` of an architecture.

    Fields are those of guided-diffusion (`noise_schedule`, `diffusion_steps`, where a linear
    schedule is scaled by $1000 / T$), of DDPM and diffusers (`beta_schedule`, `beta_start`,
    `beta_end`, `num_diffusion_timesteps` or `num_train_timesteps`), or the table `betas`; and
    `prediction_type` (`predict_xstart` in guided-diffusion). Without any schedule it is `betas`
    from the checkpoint, else linear from $10^{-4}$ to $0.02$ over 1000 steps (Ho et al., 2020).

    Args:
        fields: the section, or None.
        betas: the table in the checkpoint, if it has one.

    Raises:
        ValueError: a field is unknown, not implemented, or contradicts another.
    """
    given = read_fields(
        "diffusion", fields, _GUIDED_DIFFUSION | _DDPM | _TABLE | _PREDICTION, ignored=_SAMPLING
    )
    prediction = _prediction(given)
    schedule = _schedule(
        {key: given[key] for key in given if key not in _PREDICTION}, betas, prediction
    )
    if given.get("rescale_timesteps") and schedule.T != 1000:
        raise ValueError(
            f"rescale_timesteps must be false for a chain of {schedule.T} steps: the network is "
            "asked about integer steps, got true"
        )
    return Process(schedule, prediction)


def _prediction(given: Mapping[str, Any]) -> str:
    prediction: str | None = given.get("prediction_type")
    if given.get("predict_xstart"):
        if prediction not in (None, "sample"):
            raise ValueError(
                f"prediction_type must be sample, as predict_xstart says, got {prediction!r}"
            )
        prediction = "sample"
    return prediction or "epsilon"


def has_schedule(fields: object) -> bool:
    """Tell whether a section `diffusion` describes a schedule, and not the prediction alone."""
    return isinstance(fields, Mapping) and any(
        fields.get(name) is not None for name in (*_GUIDED_DIFFUSION, *_DDPM, *_TABLE)
    )


def _schedule(given: Mapping[str, Any], betas: object, prediction: str) -> Schedule:
    families = [family for family in (_GUIDED_DIFFUSION, _DDPM, _TABLE) if family.keys() & given]
    if len(families) > 1:
        raise ValueError(
            f"{', '.join(given)} must not be given together in architecture.diffusion: they belong "
            "to different ways of writing a schedule"
        )
    if not given:
        return Schedule.linear() if betas is None else _from_table(betas, prediction)
    if "betas" in given:
        return _from_table(given["betas"], prediction)
    if families == [_GUIDED_DIFFUSION]:
        T = _steps("diffusion_steps", given.get("diffusion_steps", 1000))
        name = _named("noise_schedule", given.get("noise_schedule", "linear"), _NOISE_SCHEDULES)
        return Schedule.from_name(
            name,  # type: ignore[arg-type]
            T,
            beta_start=1000 / T * 1e-4,
            beta_end=1000 / T * 0.02,
        )
    steps = [
        _steps(key, given[key])
        for key in ("num_diffusion_timesteps", "num_train_timesteps")
        if key in given
    ]
    if len(steps) > 1:
        raise ValueError(
            f"num_train_timesteps must not be given beside num_diffusion_timesteps, got {steps[1]}"
        )
    name = _named("beta_schedule", given.get("beta_schedule", "linear"), _BETA_SCHEDULES)
    return Schedule.from_name(
        name,  # type: ignore[arg-type]
        *(steps or [1000]),
        beta_start=given.get("beta_start", 1e-4),
        beta_end=given.get("beta_end", 0.02),
    )


def _steps(field: str, value: object) -> int:
    """Read the length of a chain."""
    try:
        steps = integer(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{field} must be an integer, got {value!r}") from error
    if not 1 <= steps <= _MOST_STEPS:
        raise ValueError(f"{field} must be in 1..{_MOST_STEPS}, got {steps}")
    return steps


def _named(field: str, value: str, names: Mapping[str, str]) -> str:
    if value not in names:
        raise ValueError(f"{field} must be {_either(names)}, got {value!r}")
    return names[value]


def _either(names: Mapping[str, object]) -> str:
    *others, last = names
    return f"{', '.join(others)} or {last}"
