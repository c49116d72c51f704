"""The examples of docs/extending.md work as written."""

import re
from pathlib import Path

import keras
import numpy as np
import pytest
from click.testing import CliRunner

import kerasrobust
from kerasrobust_cli import evaluate, train

DOCUMENT = Path(__file__).parent.parent / "docs" / "extending.md"


@pytest.fixture(scope="module")
def blocks():
    return re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def script(blocks, tmp_path_factory):
    path = tmp_path_factory.mktemp("script") / "mine.py"
    path.write_text("\n\n".join(blocks[:3]), encoding="utf-8")
    return path


def test_lengths(blocks):
    """An attack in 40 lines, a defense in 15: imports and blank lines left out."""
    for block, most in zip(blocks[:2], (40, 15), strict=True):
        code = block[block.index("@kerasrobust.register") :]
        assert len([line for line in code.splitlines() if line.strip()]) <= most


def test_the_lines_of_python(blocks, digits_model, digits):
    assert len(blocks) == 4
    x, y = (part[:24] for part in digits)
    names = {"__name__": "mine", "model": digits_model, "x": x, "y": y}
    for block in blocks:
        exec(compile(block, str(DOCUMENT), "exec"), names)
    assert (names["attack"].eps, names["attack"].max_iter) == (0.2, 10)
    assert names["defense"].factor == 0.8
    attack = kerasrobust.attacks.get("sign_ascent")
    result = attack.bind(digits_model).run(x, y)
    assert result.success.mean() > 0.7 and np.abs(result.x_adv - x).max() <= 0.3 + 1e-6
    assert "iterate" in attack.state_leaves

    row = names["report"].attacks["sign_ascent"]
    assert 0 < row.mean_change <= 0.2 and "mean change" in str(names["report"])

    model = kerasrobust.wrap(keras.models.clone_model(digits_model), "dimmed:factor=0.8")
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    history = model.fit(x, y, epochs=2, verbose=0).history
    assert history["loss"][1] < history["loss"][0] and "dimmed_accuracy" in history


def test_on_the_command_line(script, digits_model, tmp_path):
    digits_model.save(tmp_path / "digits.keras")
    arguments = ["--model", str(tmp_path / "digits.keras"), "--samples", "16"]
    arguments += ["--import", str(script), "--attacks", "sign_ascent:eps=0.3"]
    result = CliRunner().invoke(evaluate.main, arguments)
    assert result.exit_code == 0, result.output
    assert "sign_ascent" in result.stdout


def test_a_trained_model_is_loaded_with_the_script(script, tmp_path):
    path = tmp_path / "model.keras"
    arguments = ["--import", str(script), "--defense", "dimmed:factor=0.5", "--output", str(path)]
    result = CliRunner().invoke(train.main, [*arguments, "--epochs", "1", "--samples", "64"])
    assert result.exit_code == 0, result.output
    (link,) = kerasrobust.models.load(path).defenses
    assert (link.name, link.factor) == ("dimmed", 0.5)
