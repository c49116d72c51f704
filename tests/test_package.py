"""What is installed, and what importing it does."""

import configparser
import importlib.metadata
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import kerasrobust

ROOT = Path(__file__).parent.parent


def run_python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=120,
    )


def test_every_package_is_declared():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    declared = config["options"]["packages"].split()
    folders = (path.parent for path in (ROOT / "kerasrobust").rglob("__init__.py"))
    found = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    assert sorted(declared) == sorted(found | {"kerasrobust_cli"})


def test_version_is_the_installed_one():
    assert importlib.metadata.version("kerasrobust") == kerasrobust.__version__


def test_public_names():
    for name in kerasrobust.__all__:
        assert getattr(kerasrobust, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'attack'"):
        kerasrobust.attack  # noqa: B018


@pytest.mark.parametrize("backend", ["jax", "torch", "numpy"])
@pytest.mark.parametrize("module", ["kerasrobust", "kerasrobust.datasets"])
def test_other_backend(backend, module):
    result = run_python(f"import {module}", KERAS_BACKEND=backend)
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError") and "KERAS_BACKEND=tensorflow" in last
    assert last.endswith(f"Received: backend='{backend}'")


def test_commands_answer_at_once():
    code = (
        "import sys, kerasrobust_cli.compare, kerasrobust_cli.evaluate, kerasrobust_cli.protocol, "
        "kerasrobust_cli.train, kerasrobust_cli.tune\n"
        "print([m for m in ('kerasrobust', 'keras', 'tensorflow', 'numpy') if m in sys.modules])"
    )
    assert run_python(code).stdout.strip() == "[]"
    folder = Path(sys.executable).parent
    for command in ("kr-compare", "kr-eval", "kr-protocol", "kr-train", "kr-tune"):
        start = time.perf_counter()
        result = subprocess.run([folder / command, "--help"], capture_output=True, text=True)
        assert time.perf_counter() - start < 1
        assert result.returncode == 0 and result.stdout.startswith(f"Usage: {command}")
