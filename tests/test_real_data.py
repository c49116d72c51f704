"""The rule that a test of real data must not be skipped silently where the data are required."""

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

TEST = """
    import pytest

    def test_data(real_data):
        assert (real_data("mnist") / "mnist").is_dir()

    def test_other_skip():
        pytest.skip("for another reason")
"""


@pytest.mark.parametrize(
    ("present", "required", "outcomes"),
    [
        (False, "0", {"skipped": 2}),
        (False, "1", {"failed": 1, "skipped": 1}),
        (True, "1", {"passed": 1, "skipped": 1}),
    ],
)
def test_skip_becomes_failure(pytester, monkeypatch, present, required, outcomes):
    pytester.makeconftest((Path(__file__).parent / "conftest.py").read_text(encoding="utf-8"))
    pytester.makepyfile(TEST)
    if present:
        (pytester.path / "mnist").mkdir()
    monkeypatch.setenv("TFDS_DATA_DIR", str(pytester.path))
    monkeypatch.setenv("KERASROBUST_REQUIRE_DATA", required)
    pytester.runpytest_inprocess().assert_outcomes(**outcomes)
