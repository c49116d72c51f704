"""`kr-eval`: how robust is a model?"""

from __future__ import annotations

import sys

import click

from kerasrobust_cli.common import (
    Number,
    Numbers,
    Recorded,
    balanced_option,
    batch_size_option,
    clip_max_option,
    clip_min_option,
    data_dir_option,
    dataset_option,
    download_option,
    eot_option,
    eps_option,
    import_option,
    library,
    model_option,
    norm_option,
    output_place,
    pixel_bounds,
    print_table,
    samples_option,
    seed_option,
    votes_option,
)


@click.command(
    name="kr-eval", cls=Recorded, context_settings={"help_option_names": ["-h", "--help"]}
)
@model_option
@dataset_option
@data_dir_option
@download_option
@click.option(
    "--attacks",
    metavar="SPEC",
    multiple=True,
    default=("areb",),
    show_default=True,
    help="A benchmark or an attack with its parameters, as in pgd:eps=0.1,max_iter=20. Repeatable.",
)
@samples_option
@balanced_option
@batch_size_option
@eps_option
@norm_option
@click.option(
    "--metrics",
    metavar="NAME",
    multiple=True,
    help="A further figure of the report: psi, clever_l2:samples=20 ... Repeatable.",
)
@click.option(
    "--defense",
    metavar="NAME[:k=v,...]",
    multiple=True,
    help="A layer put into the model or in front of it, as in jpeg:quality=50. Repeatable; images "
    "go through those in front in this order.",
)
@click.option(
    "--gradient",
    type=click.Choice(["exact", "straight_through", "surrogate", "ignore"]),
    default="exact",
    show_default=True,
    help="What stands for layers without a gradient of use; ignore: attack without them.",
)
@eot_option
@votes_option
@seed_option
@clip_min_option
@clip_max_option
@click.option(
    "--mean",
    type=Numbers(),
    help="Subtracted from the pixels before the model sees them: one number, or one per channel, "
    "as in 0.49,0.48,0.45. Bounds and budgets are in the unit before that.",
)
@click.option("--std", type=Numbers(), help="What they are divided by then, likewise.")
@click.option(
    "--output",
    metavar="DIR",
    callback=output_place,
    help="Folder for the report: HTML, Markdown, JSON, pictures.",
)
@click.option(
    "--workers",
    metavar="N",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Processes that batches are shared out to, by Ray; needs kerasrobust[ray].",
)
@click.option(
    "--ray-address",
    metavar="ADDRESS",
    help="A running Ray cluster, auto say; its hosts must reach --output, a URL maybe. Default: "
    "this machine.",
)
@click.option(
    "--fail-under",
    metavar="SHARE",
    type=Number(),
    help="Exit with status 1 if the robust accuracy is below this share, 0.4 say; errors have 2.",
)
@click.option(
    "--fail-on",
    type=click.Choice(["figure", "interval"]),
    default="figure",
    show_default=True,
    help="What --fail-under looks at: the accuracy, or the lower end of its interval.",
)
@click.option("--cross-check", is_flag=True, help="Rerun the attacks through ART, side by side.")
@import_option
@click.option("--list-attacks", is_flag=True, help="Print what --attacks knows and exit.")
@click.option("--quiet", is_flag=True, help="Print the table and nothing else.")
@click.version_option(package_name="kerasrobust")
def main(
    model,
    dataset,
    data_dir,
    download,
    attacks,
    samples,
    balanced,
    batch_size,
    eps,
    norm,
    metrics,
    defense,
    gradient,
    eot,
    votes,
    seed,
    clip_min,
    clip_max,
    mean,
    std,
    output,
    workers,
    ray_address,
    fail_under,
    fail_on,
    cross_check,
    imports,
    list_attacks,
    quiet,
) -> None:
    """Attack an image classifier and report how much of its accuracy is left."""
    if (mean is not None or std is not None) and model is None:
        raise click.UsageError("--mean and --std need --model")
    if norm is not None and eps is None:
        raise click.UsageError("--norm needs --eps")
    if gradient != "exact" and model is None and not defense:
        raise click.UsageError("--gradient needs --model or --defense, a layer that offers it")
    if defense and (mean is not None or std is not None):
        raise click.UsageError("--defense works on pixels: it cannot come after --mean and --std")
    if fail_under is not None and not 0 <= fail_under <= 1:
        raise click.UsageError(f"--fail-under is a share from 0 to 1, not {fail_under:g}")
    with library(imports):
        import kerasrobust

        presets = kerasrobust.evaluation.presets.names()
        if list_attacks:
            _print_attacks(presets, kerasrobust.attacks)
            return
        # `evaluate` checks everything before it attacks, but a model may be trained before that.
        kerasrobust.evaluation.resolve(list(attacks), eps=eps, norm=norm)
        kerasrobust.metrics.registry.resolve(metrics)
        layers = kerasrobust.defenses.resolve(defense) if defense else []
        for one in layers:
            if not isinstance(one, kerasrobust.defenses.LayerDefense):
                raise click.UsageError(
                    f"--defense {type(one).name} is no layer: `kr-train` or `kerasrobust.wrap` it, "
                    "and give the result as --model"
                )
        network = None if model is None else kerasrobust.models.load(model)
        normalised = mean is not None or std is not None
        # What the first layers expect is in the unit after the normalisation then.
        bounds, note = pixel_bounds(None if normalised else network, clip_min, clip_max)
        if note:
            click.echo(note, err=True)
        if network is not None and layers:
            network = kerasrobust.wrap(network, layers, clip_values=bounds)
        source = {"data_dir": data_dir, "clip_values": bounds, "download": download}
        data = kerasrobust.datasets.load(
            dataset, samples=samples, seed=seed, balanced=balanced, **source
        )
        if network is None:
            if not quiet:
                click.echo(
                    f"No --model given: training a small network on the training split of "
                    f"{data.name} (seed {seed}).",
                    err=True,
                )
            train = kerasrobust.datasets.load(dataset, "train", **source)
            network = kerasrobust.models.train_default(train, seed=seed)
            if layers:
                network = kerasrobust.wrap(network, layers, clip_values=bounds)
        preprocessing = (mean or (0.0,), std or (1.0,)) if normalised else None
        options = {"gradient": gradient, "draws": eot, "votes": votes}
        report = kerasrobust.evaluate(
            kerasrobust.Classifier(network, bounds, preprocessing=preprocessing, **options),
            data,
            attacks=list(attacks),
            metrics=metrics,
            eps=eps,
            norm=norm,
            batch_size=batch_size,
            seed=seed,
            cross_check=cross_check,
            output=output,
            workers=workers,
            ray_address=ray_address,
            model_file=model,
            command=click.get_current_context().meta["command"],
            verbose=not quiet and sys.stderr.isatty(),
        )
    if sys.stdout.isatty():
        report.render()
    else:
        click.echo(str(report))
    if output is not None and not quiet:
        click.echo(f"Report written to {output}", err=True)
    if fail_under is not None:
        low, _ = report.robust["accuracy_interval"]
        reached = report.robust_accuracy if fail_on == "figure" else low
        if reached < fail_under:
            click.echo(
                f"Robust accuracy{' (lower end)' if fail_on == 'interval' else ''} is "
                f"{100 * reached:.1f} %, below {100 * fail_under:g} %.",
                err=True,
            )
            sys.exit(1)


def _print_attacks(presets, attacks) -> None:
    """The taxonomy as a table, and the names of the benchmarks and of what is not in the table."""
    columns = ("name", "class", "norms", "T/U", "knowledge", "strategy", "from")
    entries = attacks.taxonomy()
    others = sorted(set(attacks.names()) - {entry.name for entry in entries})
    note = "T targeted, U untargeted. Benchmarks:"
    rows = (vars(entry).values() for entry in entries)
    print_table(columns, rows, note, *presets, *(["\nFrom plugins:", *others] if others else []))
