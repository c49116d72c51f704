"""The lines of the README work as written."""

import re
from pathlib import Path

import pytest

import kerasrobust

README = Path(__file__).parent.parent / "README.md"


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


def test_the_guide_to_evaluating_runs(tmp_path, monkeypatch):
    guide = README.parent / "docs" / "evaluating.md"
    blocks = re.findall(r"```python\n(.*?)```", guide.read_text(encoding="utf-8"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in blocks:
        exec(compile(block, str(guide), "exec"), names)
