"""The taxonomy: every registered attack, and AREB's Table 1 as printed."""

from __future__ import annotations

import pytest

from kerasrobust import attacks


def test_every_attack_is_there_with_its_class():
    entries = attacks.taxonomy()
    # Of a plugin that brings several under one name the table holds none.
    assert {entry.name for entry in entries} == {n for n in attacks.names() if ":" not in n}
    for entry in entries:
        attack = attacks.get(entry.name)
        assert type(attack).__name__ == entry.attack
        assert (entry.knowledge == "white") == (attack.access == "gradient")
        assert entry.strategy in ("sensitivity", "optimization") and entry.source


def test_areb_prints_sixteen_rows():
    entries = attacks.taxonomy(source="areb")
    assert len(entries) == 16
    assert [e.name for e in entries if e.knowledge == "black"] == [
        "zoo",
        "boundary",
        "hsja",
        "signopt",
        "square",
        "simba",
    ]
    by_name = {entry.name: entry for entry in entries}
    assert (by_name["ilc"].targets, by_name["uap"].targets) == ("T", "U")
    assert (by_name["jsma"].norms, by_name["ead"].norms) == ("-", "1")


def test_unknown_table():
    with pytest.raises(ValueError, match="There is no such table. Did you mean 'areb'?"):
        attacks.taxonomy(source="arebb")
