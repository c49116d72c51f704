"""The templates of this folder."""

from __future__ import annotations

import json
from typing import Any

import jinja2

from kerasrobust.specs import jsonable


def template(name: str, escape: bool) -> jinja2.Template:
    """A template; `escape` says whether what is put into it is text to HTML."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__, "."),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=escape,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["compact"] = _compact
    environment.filters["cell"] = _cell
    return environment.get_template(name)


def _cell(text: str) -> str:
    """Text as Markdown shows it in a table: on one line, without tags."""
    line = " ".join(text.split())
    return line.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")


def _compact(value: Any) -> str:
    return json.dumps(jsonable(value), sort_keys=True)
