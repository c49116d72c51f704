"""Fixtures and settings for all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


@pytest.fixture
def real_data():
    """Call it with a TFDS name: the folder that holds it, or else the test is skipped.

    With KERASROBUST_REQUIRE_DATA=1 the skip is a failure, see below.
    """

    def folder(name: str) -> Path:
        data_dir = os.environ.get("TFDS_DATA_DIR")
        if data_dir is None or not (Path(data_dir) / name).is_dir():
            pytest.skip(f"needs the TFDS data set {name!r} prepared in TFDS_DATA_DIR")
        return Path(data_dir)

    return folder


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Where the real data must be there, a test that skips for want of them has failed."""
    report = yield
    required = os.environ.get("KERASROBUST_REQUIRE_DATA") == "1"
    if report.skipped and required and "real_data" in item.fixturenames:
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} skipped although KERASROBUST_REQUIRE_DATA=1"
    return report
