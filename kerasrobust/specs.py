"""The grammar of names: ``"pgd:eps=0.1,norm=inf"`` as used on the command line and in Python."""

from __future__ import annotations

import ast
import difflib
import math
import re
from collections.abc import Iterable
from typing import Any

import numpy as np

_WORDS = {"true": True, "false": False, "none": None, "inf": math.inf}


def parse_spec(text: str) -> tuple[str, dict[str, Any]]:
    """Splits ``"name:key=value,key=value"`` into its name and its arguments.

    Values are Python literals (``8/255`` style fractions, lists and tuples included), the words
    ``true``, ``false``, ``none`` and ``inf``, or plain strings. A specification inside another one
    stands in parentheses: ``"adversarial_training:attack=(pgd:eps=0.3,max_iter=7),alpha=0"``; a
    list of them in brackets: ``"...:attacks=[(pgd:eps=0.3,max_iter=7),hsja]"``.

    Args:
        text: The specification. Names may themselves hold one prefix, as in ``"art:pgd:eps=0.1"``.

    Returns:
        The name and a dictionary of arguments.

    Raises:
        ValueError: If the text is empty or an argument is not of the form ``key=value``.
    """
    name, parts = _split_spec(text)
    arguments: dict[str, Any] = {}
    for part in parts:
        key, equals, value = part.partition("=")
        if not equals or not key.strip().isidentifier() or not value.strip():
            raise ValueError(
                f"Each argument of a specification must be 'key=value'. "
                f"Received: {part!r} in {text!r}"
            )
        if key.strip() in arguments:
            raise ValueError(
                f"Each argument of a specification must be given once. Received: {text!r}"
            )
        arguments[key.strip()] = _parse_value(value.strip())
    return name, arguments


def expand_spec(text: str) -> tuple[str, str | None, list[str]]:
    """The specifications that one with several values of an argument stands for.

    A part without ``=`` is a further value of the argument before it, which nothing else could be:
    ``"jpeg:quality=85,50,25"``. ``"bit_depth=8..1"`` are the whole numbers from one to the other.

    Args:
        text: As of `parse_spec`, but for that.

    Returns:
        The name, the argument that has several values (of a single one that has one, too; None
        otherwise), and one specification for each value.

    Raises:
        ValueError: If the text is no specification, two arguments have several values, or a value
            is there twice.
    """
    name, parts = _split_spec(text)
    values: dict[str, list[str]] = {}
    for part in parts:
        key, equals, value = part.partition("=")
        if equals and key.strip().isidentifier() and key.strip() not in values:
            values[key.strip()] = _range(value.strip())
        elif values and not (equals and key.strip().isidentifier()):
            values[list(values)[-1]] += _range(part)
        else:
            raise ValueError(
                "Each argument must be 'key=value' or 'key=value,value', and be given once. "
                f"Received: {part!r} in {text!r}"
            )
    several = [key for key, found in values.items() if len(found) > 1]
    if len(several) > 1:
        raise ValueError(
            f"One argument may have several values, the others one. Received: several of "
            f"{' and '.join(several)} in {text!r}"
        )
    varied = several[0] if several else next(iter(values)) if len(values) == 1 else None
    specs = []
    for value in values[varied] if varied else [""]:
        given = [f"{key}={value if key == varied else found[0]}" for key, found in values.items()]
        specs.append(name + (":" + ",".join(given) if given else ""))
    if len(set(specs)) < len(specs):
        raise ValueError(f"Each value must be given once. Received: {text!r}")
    for spec in specs:
        parse_spec(spec)
    return name, varied, specs


def jsonable(value: Any) -> Any:
    """The value in strict JSON: infinities as the strings `"inf"` and `"-inf"`, arrays as lists."""
    if isinstance(value, dict):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return jsonable(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return repr(value)


def is_description(value: Any) -> bool:
    """Whether it is `{"name": ..., "config": {...}}`, its config left out or empty maybe."""
    return (
        isinstance(value, dict)
        and set(value) <= {"name", "config"}
        and isinstance(value.get("name"), str)
        and isinstance(value.get("config"), (dict, type(None)))
    )


def near_match(name: str, names: Iterable[str]) -> str:
    """A hint for an unknown name: the nearest known one, then the whole list."""
    known = sorted(names)
    near = difflib.get_close_matches(str(name), known, n=1)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    return f"{hint}Known names: {', '.join(known)}."


def _split_spec(text: str) -> tuple[str, list[str]]:
    """The name, and what stands between the commas behind it."""
    if not isinstance(text, str) or not text.strip():
        raise ValueError(
            f"A specification must look like 'name' or 'name:key=value'. Received: {text!r}"
        )
    text = text.strip()
    head, parts = text, ""
    if "=" in text:
        head, _, parts = text[: text.index("=")].rpartition(":")
        parts += text[text.index("=") :]
        if not head:
            raise ValueError(
                f"A specification must look like 'name:key=value,key=value'. Received: {text!r}"
            )
    return head.strip().rstrip(":"), _split_commas(parts)


def _range(text: str) -> list[str]:
    """The whole numbers of ``"1..8"`` or ``"8..1"``; anything else as it is."""
    found = re.fullmatch(r"(-?\d+)\.\.(-?\d+)", text)
    if found is None:
        return [text]
    first, last = int(found[1]), int(found[2])
    step = 1 if last >= first else -1
    return [str(value) for value in range(first, last + step, step)]


def _split_commas(text: str) -> list[str]:
    """Splits at commas outside of brackets."""
    parts, depth, start = [], 0, 0
    for position, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            parts.append(text[start:position])
            start = position + 1
    parts.append(text[start:])
    return [part for part in (part.strip() for part in parts) if part]


def _parse_value(text: str) -> Any:
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    numerator, slash, denominator = text.partition("/")
    try:
        if slash:
            return float(numerator) / float(denominator)
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, ZeroDivisionError):
        if text.startswith("[") and text.endswith("]"):
            return [_parse_value(part) for part in _split_commas(text[1:-1])]
        return text[1:-1] if text.startswith("(") and text.endswith(")") else text
