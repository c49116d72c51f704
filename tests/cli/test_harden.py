"""`kr-harden`, run in this process as click runs it."""

from click.testing import CliRunner

from kerasrobust_cli import harden


def test_help_names_the_folder():
    result = CliRunner().invoke(harden.main, ["--help"])
    assert result.exit_code == 0
    assert "hardened.keras" in result.output
