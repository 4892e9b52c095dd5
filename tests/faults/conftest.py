from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.test_pipeline import pipeline


@pytest.fixture(scope="session")
def undisturbed(
    model_folder: Path, trainer: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """All that an undisturbed run of a tiny model stores."""
    root = tmp_path_factory.mktemp("undisturbed")
    pipeline(model_folder, root, trainer).run()
    return root
