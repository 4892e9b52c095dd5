import io

import pytest
from rich.console import Console

from ood_sampler.report.progress import bars


@pytest.mark.parametrize("width", [60, 80, 200])
def test_a_long_name_takes_more_lines_and_none_of_the_numbers(width: int) -> None:
    name = "run 3, search, features of samples: cog (3), t = 500, eta = 0.3"
    text = io.StringIO()
    shown = bars(Console(file=text, width=width))
    task = shown.add_task(name, total=5000)
    with shown:
        shown.advance(task, 5000)
    lines = text.getvalue().splitlines()
    assert " 5000/5000 " in lines[0]
    # the bar is between two halves of the name
    assert set(name.split()) <= set(" ".join(lines).split())
