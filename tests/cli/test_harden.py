"""`kr-harden`, as a process that is killed, and its help."""

import json
import subprocess
import sys
import time

import pytest
from click.testing import CliRunner

from kerasrobust_cli import harden

SETTINGS = (
    *("--dataset", "digits", "--attacks", "pgd", "--passes", "20", "--sweep", "jpeg"),
    *("--epochs", "2", "--train-samples", "400", "--validation-samples", "60", "--samples", "30"),
    *("--check", "none", "--benchmark", "none"),
)


def start(folder):
    code = "from kerasrobust_cli.harden import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, *SETTINGS, "--output", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process):
    _, errors = process.communicate()
    assert process.returncode == 0, errors


def timeless(data):
    """Without what is a time, wherever it stands."""
    if isinstance(data, dict):
        return {key: timeless(value) for key, value in data.items() if "seconds" not in key}
    return [timeless(one) for one in data] if isinstance(data, list) else data


def report(folder):
    return timeless(json.loads((folder / "report.json").read_text()))


def test_help_names_the_folder():
    result = CliRunner().invoke(harden.main, ["--help"])
    assert result.exit_code == 0
    assert "hardened.keras" in result.output


@pytest.mark.slow
def test_killed_and_started_again(tmp_path):
    whole, again = tmp_path / "whole", tmp_path / "again"
    finished(start(whole))
    process, journal = start(again), again / "journal.json"
    while process.poll() is None:
        if journal.exists() and "2-preprocessing" in json.loads(journal.read_text())["seconds"]:
            process.kill()
            break
        time.sleep(0.05)
    process.communicate()
    assert process.returncode == -9 and not (again / "report.json").exists()
    before = json.loads(journal.read_text())["seconds"]
    finished(start(again))
    after = json.loads(journal.read_text())["seconds"]
    assert {name: after[name] for name in before} == before
    assert report(again) == report(whole)
    assert (again / "hardened.keras").exists()
