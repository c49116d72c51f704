"""One bar over the batches of all attacks, on a terminal alone."""

import io

import pytest
from rich.console import Console

from kerasrobust.evaluation import progress


def console(terminal):
    return Console(file=io.StringIO(), force_terminal=terminal, width=120, color_system=None)


def test_batches_and_what_is_behind_of_one():
    shown = console(True)
    with progress.bar(4, True, shown) as bar:
        (task,) = bar._progress.tasks
        for name in ("fgsm", "[pgd]"):
            with bar.batch(name, 20) as update:
                update(5)
                assert task.completed == bar.done + 0.25 and task.total == 4
                update(40)  # no more than there is
                assert task.completed == bar.done + 1
        assert (task.completed, task.description) == (2, "[pgd]")
        bar._progress.refresh()
        told = shown.file.getvalue()
    assert "2/4 batches" in told and "50%" in told and "[pgd]" in told and "left" in told


@pytest.mark.parametrize("terminal, wanted", [(True, False), (False, True)])
def test_nothing_in_a_log(terminal, wanted):
    shown = console(terminal)
    with progress.bar(1, wanted, shown) as bar, bar.batch("fgsm", 3) as update:
        update(1)
    assert shown.file.getvalue() == "" and bar.done == 1
