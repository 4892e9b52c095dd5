"""What a call leaves as it found it: Hydra's state, Lightning's log level, filters of warnings."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.errors import InstantiationException
from hydra.version import VersionBase

from ood_sampler.cli import innermost
from ood_sampler.faults import is_interrupt

_OF_A_PROGRAM = (GlobalHydra, HydraConfig, VersionBase)
"""State of the one program that Hydra runs, which may be the user's."""


@contextmanager
def apart() -> Iterator[None]:
    """Run a block without a trace in the program around it.

    Hydra keeps one configuration per process; that of a user's own program is put aside and back.
    What Lightning says of its trainers is not shown.

    Raises:
        KeyboardInterrupt: Ctrl-C, which Lightning makes an exit.
        Exception: what a constructor raised, without Hydra's account of it.
    """
    known: dict[type, Any] = Singleton._instances
    before: dict[type, Any] = {kind: known.pop(kind) for kind in _OF_A_PROGRAM if kind in known}
    lightning = logging.getLogger("lightning.pytorch")
    level = lightning.level
    lightning.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\.pytorch")
            # of bars that are not used, in a notebook
            warnings.filterwarnings("ignore", message="IProgress not found")
            yield
    except InstantiationException as error:
        raise innermost(error) from None
    except SystemExit as ended:
        if not is_interrupt(ended):
            raise
        raise KeyboardInterrupt from ended
    finally:
        lightning.setLevel(level)
        for kind in _OF_A_PROGRAM:
            known.pop(kind, None)
        known.update(before)
