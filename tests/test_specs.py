"""The grammar of names."""

from __future__ import annotations

import math

import pytest

from kerasrobust import specs


@pytest.mark.parametrize(
    "text, expected",
    [
        ("pgd", ("pgd", {})),
        (" pgd ", ("pgd", {})),
        ("pgd:", ("pgd", {})),
        ("pgd:eps=0.1,max_iter=20", ("pgd", {"eps": 0.1, "max_iter": 20})),
        ("pgd: eps = 8/255 , norm = inf", ("pgd", {"eps": 8 / 255, "norm": math.inf})),
        ("a:b=True,c=false,d=none,e=word", ("a", {"b": True, "c": False, "d": None, "e": "word"})),
        ("a:b=[1,2],c=(0.5,1),d='xy'", ("a", {"b": [1, 2], "c": (0.5, 1), "d": "xy"})),
        ("art:pgd", ("art:pgd", {})),
        ("art:pgd:eps=0.1", ("art:pgd", {"eps": 0.1})),
        ("a:eps=-1e-3", ("a", {"eps": -0.001})),
        ("a:b=(pgd:eps=0.3,max_iter=7),c=0", ("a", {"b": "pgd:eps=0.3,max_iter=7", "c": 0})),
        (
            "a:b=[(pgd:eps=0.3,max_iter=7), hsja,(fgsm:eps=8/255)],c=0",
            ("a", {"b": ["pgd:eps=0.3,max_iter=7", "hsja", "fgsm:eps=8/255"], "c": 0}),
        ),
        ("a:b=[fgsm]", ("a", {"b": ["fgsm"]})),
        ("a:b=[8/255,inf]", ("a", {"b": [8 / 255, math.inf]})),
        ("pgd :eps=1", ("pgd", {"eps": 1})),
        ("    a:path=x:y", ("a", {"path": "x:y"})),
        ("a:b=1/0", ("a", {"b": "1/0"})),
    ],
)
def test_parse(text, expected):
    assert specs.parse_spec(text) == expected


def test_types_are_kept():
    _, arguments = specs.parse_spec("a:i=2,f=2.0")
    assert type(arguments["i"]) is int and type(arguments["f"]) is float


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "must look like 'name'"),
        ("  ", "must look like 'name'"),
        (3, "must look like 'name' or 'name:key=value'. Received: 3"),
        ("eps=0.1", "'name:key=value,key=value'. Received: 'eps=0.1'"),
        ("pgd:eps=", "must be 'key=value'. Received: 'eps='"),
        ("pgd:eps=1,20", "must be 'key=value'. Received: '20'"),
        ("pgd:a b=1", "must be 'key=value'. Received: 'a b=1'"),
        ("pgd:eps=1,eps=2", "given once. Received: 'pgd:eps=1,eps=2'"),
    ],
)
def test_refused(text, message):
    with pytest.raises(ValueError, match=message):
        specs.parse_spec(text)


def test_near_match():
    assert specs.near_match("pdg", ["pgd", "fgsm"]) == (
        "Did you mean 'pgd'? Known names: fgsm, pgd."
    )
    assert specs.near_match("quux", ["pgd", "fgsm"]) == "Known names: fgsm, pgd."


@pytest.mark.parametrize(
    "text, expected",
    [
        ("jpeg", ("jpeg", None, ["jpeg"])),
        ("jpeg:quality=50", ("jpeg", "quality", ["jpeg:quality=50"])),
        ("jpeg:quality=9,5", ("jpeg", "quality", ["jpeg:quality=9", "jpeg:quality=5"])),
        ("a:b=1..3", ("a", "b", ["a:b=1", "a:b=2", "a:b=3"])),
        ("a:b=3..1,0", ("a", "b", ["a:b=3", "a:b=2", "a:b=1", "a:b=0"])),
        ("a:b=1,2,c=3", ("a", "b", ["a:b=1,c=3", "a:b=2,c=3"])),
        ("a:b=1,c=2,3", ("a", "c", ["a:b=1,c=2", "a:b=1,c=3"])),
        ("a:b=1,c=2", ("a", None, ["a:b=1,c=2"])),
        ("p:a:b=[1,2],[3,4]", ("p:a", "b", ["p:a:b=[1,2]", "p:a:b=[3,4]"])),
        ("a:b=(p:e=1,f=2),(q:e=2)", ("a", "b", ["a:b=(p:e=1,f=2)", "a:b=(q:e=2)"])),
    ],
)
def test_several_values(text, expected):
    assert specs.expand_spec(text) == expected


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "must look like"),
        ("a:b=1,2,c=3,4", "several of b and c"),
        ("a:b=1,b=2", "be given once"),
        ("a:b=1,1", "Each value must be given once"),
        ("a:b=", "key=value"),
        ("a:b=1,c=", "key=value"),
    ],
)
def test_several_values_that_are_none(text, message):
    with pytest.raises(ValueError, match=message):
        specs.expand_spec(text)
