"""Tables under headings: names are told as they are, whatever stands in them."""

from kerasrobust.evaluation.renderers import tables
from kerasrobust.evaluation.renderers.table import Table


def test_brackets_in_a_name_are_no_markup():
    found = {"on [red]": Table(["[bold]a", ":cat: [b]"], [["[/x]", "[1]"]], ["legend [dim]"])}
    told = tables.text(found, ["note [u]"])
    for part in ("on [red]", "[bold]a", ":cat: [b]", "[/x]", "[1]", "legend [dim]", "note [u]"):
        assert part in told


def test_a_row_of_markdown_is_one_line():
    told = tables.markdown("title", {"heading": Table(["a\nb", "c|d"], [["1", "2"]], [])}, [])
    assert "| a b | c\\|d |\n| --- | --- |\n| 1 | 2 |\n" in told
