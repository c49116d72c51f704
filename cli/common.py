"""What the commands share: option types, checks of paths, errors as one line."""

from __future__ import annotations

import importlib
import importlib.util
import math
import os
import shlex
import sys
import traceback
import warnings
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from fractions import Fraction
from pathlib import Path

import click


class Refused(click.ClickException):
    """Bad input: one line on the error stream, exit status 2 as for a bad option."""

    exit_code = 2


class Number(click.ParamType):
    """A finite number, also as a fraction such as 8/255; above zero if asked."""

    name = "number"

    def __init__(self, positive: bool = False) -> None:
        self.positive = positive

    def convert(self, value, param, ctx):
        try:
            number = float(Fraction(value)) if "/" in str(value) else float(value)
        except (ValueError, ZeroDivisionError):
            number = math.nan
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a number such as 0.1 or 8/255", param, ctx)
        if self.positive and number <= 0:
            self.fail(f"{value!r} is not above zero", param, ctx)
        return number


class Numbers(click.ParamType):
    """A number, or several with commas between them; above zero if asked."""

    name = "numbers"

    def __init__(self, positive: bool = False) -> None:
        self.one = Number(positive)

    def convert(self, value, param, ctx):
        if isinstance(value, tuple):
            return value
        return tuple(self.one.convert(part, param, ctx) for part in str(value).split(","))


class Norm(click.ParamType):
    """1, 2 or inf."""

    name = "norm"

    def convert(self, value, param, ctx):
        norms = {"1": 1.0, "2": 2.0, "inf": math.inf}
        if isinstance(value, float) or str(value) not in norms:
            self.fail(f"{value!r} is not one of 1, 2, inf", param, ctx)
        return norms[str(value)]


class Recorded(click.Command):
    """A command that remembers, in `ctx.meta["command"]`, how it was called."""

    def parse_args(self, ctx, args):
        ctx.meta["command"] = shlex.join([self.name or "", *args])
        return super().parse_args(ctx, args)


class Sectioned(Recorded):
    """A command whose help lists its options under headings.

    Args:
        sections: By heading, names of parameters; what is in none comes last.
    """

    def __init__(self, *args, sections: dict[str, tuple[str, ...]], **options) -> None:
        super().__init__(*args, **options)
        self.sections = sections

    def format_options(self, ctx, formatter) -> None:
        found = {param.name: param.get_help_record(ctx) for param in self.get_params(ctx)}
        listed = {heading: list(names) for heading, names in self.sections.items()}
        taken = {name for names in listed.values() for name in names}
        listed["Other"] = [name for name in found if name not in taken]
        for heading, names in listed.items():
            with formatter.section(heading):
                formatter.write_dl([found[name] for name in names if found.get(name)])


def output_folder(ctx, param, value: str | None) -> Path | None:
    """A folder that can be made or written to, checked before any work is done."""
    if value is None:
        return None
    path = Path(value)
    _check_name(path, value, ctx, param)
    if path.exists() and not path.is_dir():
        raise click.BadParameter(f"{value!r} is a file, not a folder", ctx, param)
    _check_writable(path, value, ctx, param)
    return path


def output_place(ctx, param, value: str | None) -> Path | str | None:
    """The same, or a URL that `fsspec` opens, which is tried before any attack."""
    return value if value and "://" in value else output_folder(ctx, param, value)


def output_model(ctx, param, value: str) -> Path:
    """A `.keras` file in an existing folder, checked before any work is done."""
    path = _file(ctx, param, value)
    if path.suffix != ".keras":
        raise click.BadParameter(f"{value!r} does not end in .keras", ctx, param)
    return path


def output_file(ctx, param, value: str | None) -> Path | None:
    """A file in an existing folder, checked before any work is done."""
    return None if value is None else _file(ctx, param, value)


def _file(ctx, param, value: str) -> Path:
    path = Path(value)
    _check_name(path, value, ctx, param)
    if path.is_dir():
        raise click.BadParameter(f"{value!r} is a folder", ctx, param)
    if not path.absolute().parent.is_dir():
        raise click.BadParameter(f"the folder of {value!r} does not exist", ctx, param)
    _check_writable(path, value, ctx, param)
    return path


def _check_name(path: Path, value: str, ctx, param) -> None:
    try:
        path.exists()
    except OSError as error:  # a name that is too long, say
        raise click.BadParameter(f"{value!r}: {error.strerror}", ctx, param) from error


def _check_writable(path: Path, value: str, ctx, param) -> None:
    existing = path.absolute()
    while not existing.exists():
        existing = existing.parent
    if not os.access(existing, os.W_OK) or not (existing.is_dir() or existing == path.absolute()):
        raise click.BadParameter(f"{value!r} cannot be written", ctx, param)


def pixel_bounds(network, low, high) -> tuple[tuple[float, float], str]:
    """The bounds of a pixel, and what to tell about them.

    Each as given, else the model's own, else what its first layers expect, else that of 0..1.
    """
    from kerasrobust.engine.pixel_range import pixel_range

    if low is not None and high is not None:
        return (low, high), ""
    bounds, note = (0.0, 1.0), ""
    found = pixel_range(network)
    if hasattr(network, "clip_values"):
        bounds = network.clip_values
    elif found is not None:
        bounds = found.bounds
        note = (
            f"Pixels in {found.low:g}..{found.high:g}, read from the model's first layers: "
            f"{found.source}. --clip-min and --clip-max say otherwise."
        )
    if low is not None or high is not None:
        note = ""
    return (bounds[0] if low is None else low, bounds[1] if high is None else high), note


def default_network(train, seed: int, output: Path | None, quiet: bool):
    """The network of one who gives none; in `output` it is kept for a run that goes on."""
    import kerasrobust
    from kerasrobust.engine.store import digest

    path = None
    if output is not None:
        key = digest([digest({"x": train.x, "y": train.y}), seed])[:16]
        path = output / "models" / f"undefended-{key}.keras"
        if path.exists():
            return kerasrobust.models.load(path)
    if not quiet:
        click.echo(
            f"No --model given: training a small network on the training split of "
            f"{train.name} (seed {seed}).",
            err=True,
        )
    network = kerasrobust.models.train_default(train, seed=seed)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part.keras")
        network.save(part)
        os.replace(part, path)
        # As a run that goes on has it: results are found by the model, config included.
        return kerasrobust.models.load(path)
    return network


def print_table(columns: Iterable[str], rows: Iterable[Iterable[str]], *notes: str) -> None:
    """A table as wide as the terminal, or wide enough for a pipe, and a line below it."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns)
    for row in rows:
        table.add_row(*row)
    console = Console(width=None if sys.stdout.isatty() else 130)
    console.print(table)
    if notes:
        console.print(*notes)


def _existing(ctx, param, values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        if _is_path(value) and not Path(value).is_file():
            raise click.BadParameter(f"there is no file {value!r}", ctx, param)
    return values


# Eager, so that it is known to the options that print a list and exit, wherever it stands.
import_option = click.option(
    "--import",
    "imports",
    metavar="FILE|MODULE",
    multiple=True,
    is_eager=True,
    callback=_existing,
    help="A Python script or module that is run first, for the attacks, defenses and "
    "metrics that it registers. Repeatable.",
)


# The options of several commands.
model_option = click.option(
    "--model",
    metavar="PATH",
    help="Saved Keras model (.keras, .h5). Default: a small network is trained on the training "
    "split of the data set.",
)
dataset_option = click.option(
    "--dataset",
    metavar="NAME|PATH",
    default="digits",
    show_default=True,
    help="digits, moons, circles, the name of a TFDS data set, a .npz file, or a folder of images "
    "with a folder per class; its test split is attacked.",
)
data_dir_option = click.option(
    "--data-dir", metavar="DIR", help="Folder of prepared TFDS data sets. Default: $TFDS_DATA_DIR."
)
download_option = click.option(
    "--download", is_flag=True, help="Let TFDS download a data set that is not there."
)
samples_option = click.option(
    "--samples",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="Samples drawn from the test split.",
)
batch_size_option = click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    help="Samples per step. Default: 128, fewer of large images (27 of 224x224x3).",
)
eps_option = click.option(
    "--eps", type=Number(positive=True), help="Budget; larger changes do not count. 8/255 works."
)
norm_option = click.option("--norm", type=Norm(), help="Norm of --eps: 1, 2 or inf (the default).")


def gradient_option(default: str, more: str = ""):
    """What stands for layers without a gradient of use."""
    return click.option(
        "--gradient",
        type=click.Choice(["exact", "straight_through", "surrogate", "ignore"]),
        default=default,
        show_default=True,
        help=f"What stands for layers without a gradient of use{more}.",
    )


eot_option = click.option(
    "--eot",
    metavar="N",
    type=click.IntRange(min=1),
    help="Draws of a randomised model that a gradient is the mean of. Default: the "
    "model's own number, or 1.",
)
votes_option = click.option(
    "--votes",
    metavar="N",
    type=click.IntRange(min=1),
    help="Draws of a randomised model that a label is voted by. Default: the "
    "model's own number, or 1.",
)
seed_option = click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
clip_min_option = click.option(
    "--clip-min", type=Number(), help="Lowest valid pixel. Default: the model's, or 0."
)
clip_max_option = click.option(
    "--clip-max", type=Number(), help="Highest valid pixel. Default: the model's, or 1."
)
balanced_option = click.option(
    "--balanced",
    is_flag=True,
    help="Draw equally many samples of each class: --samples together, where that is not given as "
    "many as the smallest class has.",
)


def _is_path(value: str) -> bool:
    return value.endswith(".py") or os.sep in value


def _run(value: str) -> None:
    """Runs a script or imports a module."""
    from kerasrobust.registry import IMPORTED

    try:
        if not _is_path(value):
            importlib.import_module(value)
            return
        path = Path(value).resolve()
        # A name of its own: a script called keras.py stands in nobody's way.
        name = f"{IMPORTED}{zlib.crc32(str(path).encode()):08x}"
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise ImportError("a script must be a file that ends in .py")
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        if str(path.parent) not in sys.path:
            sys.path.append(str(path.parent))
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == str(Path(value).resolve())]
        where = f", line {lines[-1]}" if lines else ""
        raise Refused(f"--import {value}{where}: {type(error).__name__}: {error}") from error


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Drops what C++ writes to the error stream: at import TensorFlow heeds no level.

    An exception is raised as ever.
    """
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


@contextmanager
def library(imports: Iterable[str] = ()) -> Iterator[None]:
    """Quiet start of TensorFlow; what the library raises for bad input becomes one line.

    Args:
        imports: Scripts and modules to run first.
    """
    quiet = "TF_CPP_MIN_LOG_LEVEL" not in os.environ
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        with _silent_stderr() if quiet else nullcontext():
            # With the look for devices, which is as talkative.
            importlib.import_module("tensorflow").config.list_physical_devices()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            for value in imports:
                _run(value)
            yield
    except (ValueError, TypeError, OSError, ImportError) as error:
        raise Refused(str(error)) from error
