"""`kr-protocol`: the papers' protocols, several evaluations with one table and one picture."""

from __future__ import annotations

import os
import sys

import click

from kerasrobust_cli.common import (
    Norm,
    Number,
    Numbers,
    batch_size_option,
    clip_max_option,
    clip_min_option,
    data_dir_option,
    dataset_option,
    download_option,
    eps_option,
    import_option,
    library,
    norm_option,
    output_folder,
    pixel_bounds,
    samples_option,
    seed_option,
)


class Named(click.ParamType):
    """NAME=PATH, or a path, whose file name is the name then."""

    name = "model"

    def convert(self, value, param, ctx):
        if isinstance(value, tuple):
            return value
        name, equals, path = str(value).partition("=")
        if not equals or os.path.exists(value):
            name, path = str(value).rpartition("/")[2].rpartition(".")[0] or value, value
        if not name or not path:
            self.fail(f"{value!r} is neither a path nor NAME=PATH", param, ctx)
        return name, path


_CONTEXT = {"help_option_names": ["-h", "--help"]}
_SHARED = (
    dataset_option,
    data_dir_option,
    download_option,
    batch_size_option,
    seed_option,
    clip_min_option,
    clip_max_option,
    click.option(
        "--output",
        metavar="DIR",
        callback=output_folder,
        help="Folder for the table (JSON, Markdown), the picture, and a report for each "
        "evaluation. The same command on the same folder goes on where it was interrupted.",
    ),
    import_option,
    click.option("--quiet", is_flag=True, help="Print the table and nothing else."),
)
_MODELS = click.option(
    "--model",
    "models",
    metavar="[NAME=]PATH",
    type=Named(),
    multiple=True,
    required=True,
    help="Saved Keras model (.keras, .h5). Repeatable.",
)
_MODEL = click.option(
    "--model", metavar="[NAME=]PATH", type=Named(), required=True, help="Saved Keras model."
)
_ATTACKS = click.option(
    "--attacks",
    metavar="SPEC",
    multiple=True,
    help="A benchmark or an attack with its parameters, as in pgd:eps=0.1,max_iter=20. Repeatable. "
    "Default: pgd.",
)


@click.group(name="kr-protocol", context_settings=_CONTEXT)
@click.version_option(package_name="kerasrobust")
def main() -> None:
    """Protocols of the papers: several evaluations, one table and one picture."""


def _protocol(*options):
    """A command with its options and those that all have in common."""

    def decorate(function):
        for option in reversed((*options, *_SHARED)):
            function = option(function)
        return main.command(context_settings=_CONTEXT)(function)

    return decorate


def _go(protocol, named, drawn, shared, **own):
    """Loads models and data, runs a protocol on them and prints what it found.

    Args:
        protocol: Its name in the library.
        named: By the argument's name, pairs of name and path; those named `model` are one.
        drawn: Samples from the test split; None for all.
        shared: Values of the options that all have in common.
        **own: Further arguments of the protocol.
    """
    output, quiet = shared["output"], shared["quiet"]
    for argument, pairs in named.items():
        if len(dict(pairs)) < len(pairs):
            raise click.UsageError(f"--{argument.rstrip('s')}: each name may be given once")
    if own.get("norm") is not None and own.get("eps") is None:
        raise click.UsageError("--norm needs --eps")
    with library(shared["imports"]):
        import kerasrobust

        if own.get("attacks") == []:
            own["attacks"] = ["pgd"]
        loaded = {
            argument: {name: kerasrobust.models.load(path) for name, path in pairs}
            for argument, pairs in named.items()
        }
        every = [model for group in loaded.values() for model in group.values()]
        bounds, note = pixel_bounds(every[0], shared["clip_min"], shared["clip_max"])
        if note:
            click.echo(note, err=True)
        data = kerasrobust.datasets.load(
            shared["dataset"],
            samples=drawn,
            seed=shared["seed"],
            data_dir=shared["data_dir"],
            clip_values=bounds,
            download=shared["download"],
        )
        given = {argument: group for argument, group in loaded.items() if group}
        first = given.pop("models", None) or next(iter(given.pop("model").values()))
        try:
            found = getattr(kerasrobust.protocols, protocol)(
                first,
                data,
                **given,
                **own,
                batch_size=shared["batch_size"],
                seed=shared["seed"],
                output=output,
                verbose=not quiet and sys.stderr.isatty(),
            )
        except KeyboardInterrupt as stop:
            how = "The same command goes on from here." if output else "With --output it goes on."
            click.echo(how, err=True)
            raise click.Abort from stop
    if sys.stdout.isatty():
        found.render()
    else:
        click.echo(str(found))
    if output is not None and not quiet:
        click.echo(f"Table and picture written to {output}", err=True)


@_protocol(
    _MODELS,
    click.option(
        "--size",
        "sizes",
        type=click.IntRange(1, 5),
        multiple=True,
        default=(1, 3, 5),
        show_default=True,
        help="How many models to craft on. Repeatable.",
    ),
    click.option(
        "--other",
        "others",
        metavar="[NAME=]PATH",
        type=Named(),
        multiple=True,
        help="A further model to test on, a defended one say. Repeatable.",
    ),
    samples_option,
    click.option(
        "--eps",
        type=Number(positive=True),
        help="Linf budget. Default: 16/255 of the range of pixels.",
    ),
)
def n_of_six(models, sizes, others, samples, eps, **shared) -> None:
    """Craft on N of six models, test on the others (GEA, Tables 2 and 3)."""
    named = {"models": models, "others": others}
    _go("n_of_six", named, samples, shared, sizes=list(sizes), eps=eps)


@_protocol(
    _MODELS,
    click.option(
        "--substitute",
        "substitutes",
        metavar="[NAME=]PATH",
        type=Named(),
        multiple=True,
        help="Craft on this model instead. Repeatable.",
    ),
    *(_ATTACKS, samples_option, eps_option, norm_option),
)
def transfer_matrix(models, substitutes, attacks, samples, eps, norm, **shared) -> None:
    """Craft on each model, judge by every one (BRELU-GDA, Tables 4 and 5; e2SAD, Table 3.2)."""
    named = {"models": models, "substitutes": substitutes}
    own = {"attacks": list(attacks), "eps": eps, "norm": norm}
    _go("transfer_matrix", named, samples, shared, **own)


@_protocol(_MODEL, _ATTACKS, samples_option, eps_option, norm_option)
def all_targets(model, attacks, samples, eps, norm, **shared) -> None:
    """Aim at every wrong class: best, average and worst case (NsLoss)."""
    own = {"attacks": list(attacks), "eps": eps, "norm": norm}
    _go("all_targets", {"model": [model]}, samples, shared, **own)


@_protocol(
    _MODEL,
    *(_ATTACKS, eps_option, norm_option),
    click.option(
        "--draws", type=click.IntRange(min=2), default=10, show_default=True, help="How many."
    ),
    click.option(
        "--samples",
        type=click.IntRange(min=1),
        default=100,
        show_default=True,
        help="Size of each, from the whole test split.",
    ),
)
def repeated(model, attacks, eps, norm, draws, samples, **shared) -> None:
    """Mean and deviation of the accuracy over draws of the samples (AREB)."""
    own = {"attacks": list(attacks), "eps": eps, "norm": norm, "draws": draws, "samples": samples}
    _go("repeated", {"model": [model]}, None, shared, **own)


@_protocol(
    _MODELS,
    _ATTACKS,
    samples_option,
    click.option(
        "--eps",
        type=Numbers(positive=True),
        required=True,
        help="Budgets with commas between them, rising: 0.05,0.1,0.2 or 4/255,8/255.",
    ),
    click.option("--norm", type=Norm(), help="Norm of the budgets: 1, 2 or inf (the default)."),
)
def budget_sweep(models, attacks, samples, eps, norm, **shared) -> None:
    """Accuracy against the budget (NsLoss, Figure 2; BRELU-GDA, Figure 3)."""
    own = {"attacks": list(attacks), "eps": list(eps), "norm": norm}
    _go("budget_sweep", {"models": models}, samples, shared, **own)
