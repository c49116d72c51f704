"""The tables in the text of the examples have the columns of those that the scripts print.

Running the scripts takes minutes: their figures are those of a run by hand.
"""

import ast
import re
from pathlib import Path

import pytest

HOME = Path(__file__).parent.parent
EXAMPLES = sorted((HOME / "examples").glob("*.py"))
# Where the table is, if not in the script.
GUIDES = {"from_art": HOME / "docs" / "from_art.md"}


def parts(path):
    """The text of an example, and the lines of all other strings in it."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    texts = [ast.get_docstring(tree, clean=False) or ""]
    code = []
    for statement in tree.body[1:]:
        match statement:
            case ast.Expr(value=ast.Constant(value=str(text))):
                texts.append(text)
            case _:
                strings = (node for node in ast.walk(statement) if isinstance(node, ast.Constant))
                code += [line for node in strings for line in str(node.value).splitlines()]
    return "\n".join(texts), code


def printed(text):
    """The header and the rows of the first table below the heading of what a script prints."""
    _, _, below = text.partition("## What it prints\n")
    header, rows = re.search(r"^(\|.*)\n\| ---.*\n((?:\|.*\n)+)", below, re.MULTILINE).groups()
    return header, [row.split("|")[1:-1] for row in rows.splitlines()]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_columns_of_the_table(path):
    text, code = parts(path)
    guide = GUIDES.get(path.stem)
    header, rows = printed(guide.read_text(encoding="utf-8") if guide else text)
    assert header in code
    assert len(rows) > 1
    assert {len(row) for row in rows} == {header.count("|") - 1}
