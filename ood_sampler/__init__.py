"""New images of a domain that a frozen diffusion model has never seen."""

__version__ = "0.1.0"
