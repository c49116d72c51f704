"""The lines of the README work as written."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import kerasrobust
from kerasrobust_cli import compare, evaluate, protocol, train, tune

COMMANDS = {
    "kr-compare": compare.main,
    "kr-eval": evaluate.main,
    "kr-protocol": protocol.main,
    "kr-train": train.main,
    "kr-tune": tune.main,
}
README = Path(__file__).parent.parent / "README.md"


@pytest.mark.slow
def test_python_lines(digits_model, digits, tmp_path, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    x, y = (part[:8] for part in digits)
    names = {"model": digits_model, "x": x, "y": y}
    exec(compile(code, str(README), "exec"), names)
    report = names["report"]
    assert list(report.attacks) == ["fgsm", "pgd"]
    assert report.robust_accuracy <= min(a.accuracy for a in report.attacks.values())
    restored = kerasrobust.evaluation.Report.load(tmp_path / "report")
    assert restored.clean_accuracy == report.clean_accuracy
    names["model"].save(tmp_path / "model.keras")
    again = kerasrobust.models.load(tmp_path / "model.keras")
    assert again.predict(x, verbose=0) == pytest.approx(names["model"].predict(x, verbose=0))


def test_links_lead_somewhere():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README.read_text(encoding="utf-8")):
        assert (README.parent / target).exists(), target


@pytest.mark.slow
@pytest.mark.parametrize(
    "guide",
    [
        "evaluating.md",
        "preprocessing.md",
        "training.md",
        "tuning.md",
        "protocols.md",
        "certifying.md",
        "hardening.md",
        "deploying.md",
        "black_box.md",
        "metrics.md",
        "pictures.md",
    ],
)
def test_the_guide_runs(guide, tmp_path, monkeypatch):
    """Its blocks in their order; commands in this process, what is deployed without the package.

    A block of `shell` shows commands that need what is not at hand here, such as several hosts.
    """
    monkeypatch.chdir(tmp_path)
    path, names = README.parent / "docs" / guide, {}
    text = path.read_text(encoding="utf-8")
    for language, block in re.findall(r"```(python|console)\n(.*?)```", text, re.DOTALL):
        if language == "python" and "all that is installed here" in block:
            without = 'import sys\nsys.modules["kerasrobust"] = None\n'
            subprocess.run([sys.executable, "-c", without + block], check=True)
        elif language == "python":
            exec(compile(block, str(path), "exec"), names)
        else:
            for line in block.replace("\\\n", " ").splitlines():
                command, *arguments = shlex.split(line)
                result = CliRunner().invoke(COMMANDS[command], arguments)
                assert result.exit_code == 0, result.output
