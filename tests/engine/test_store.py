"""Finished batches on disk: damaged files, names of files."""

import os

import numpy as np
import pytest

from kerasrobust.engine.store import Store, file_name


def other_method(data):
    """An archive that says of its file that it is compressed in a way that nobody knows."""
    place = data.find(b"PK\x01\x02") + 10
    return data[:place] + b"\x63\x00" + data[place + 2 :]


DAMAGE = {
    "empty": lambda data: b"",
    "cut": lambda data: data[: len(data) // 2],
    "other": lambda data: b"not a file of arrays",
    # Still an archive, whose compressed part cannot be read.
    "within": lambda data: data[:80] + b"\xff" * 400 + data[480:],
    "method": other_method,
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_file_is_none(name, tmp_path):
    store, column = Store(tmp_path), np.random.default_rng(0).random(200)
    store.save_column("pgd", "key", column)
    np.testing.assert_array_equal(store.load_column("pgd", "key"), column)
    (path,) = tmp_path.glob("*.npz")
    data = path.read_bytes()
    damaged = DAMAGE[name](data)
    assert damaged != data
    path.write_bytes(damaged)
    assert store.load_column("pgd", "key") is None
    store.save_column("pgd", "key", column)
    np.testing.assert_array_equal(store.load_column("pgd", "key"), column)


@pytest.mark.parametrize("text", ["", ".", "..", "a/../b", "é" * 99, "x" * 300, "pgd:eps=0.1"])
def test_a_name_stays_in_its_folder_and_fits(text):
    name = file_name(text)
    assert name.strip(".") and os.sep not in name and len(os.fsencode(name)) <= 100
    assert file_name("pgd:eps=0.1") == "pgd-eps=0.1"
