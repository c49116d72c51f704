"""`kr-tune`: which defense, at which value of its parameter, and which ones together?"""

from __future__ import annotations

import sys

import click

from kerasrobust_cli.common import (
    Number,
    balanced_option,
    batch_size_option,
    clip_max_option,
    clip_min_option,
    data_dir_option,
    dataset_option,
    default_network,
    download_option,
    eot_option,
    gradient_option,
    import_option,
    library,
    model_option,
    norm_option,
    output_folder,
    pixel_bounds,
    samples_option,
    seed_option,
    votes_option,
)


@click.command(name="kr-tune", context_settings={"help_option_names": ["-h", "--help"]})
@model_option
@dataset_option
@data_dir_option
@download_option
@click.option(
    "--attacks",
    metavar="SPEC",
    multiple=True,
    help="A benchmark or an attack with its parameters, as in pgd:eps=0.1,max_iter=20. Repeatable. "
    "Default: PGD and HopSkipJump, within 0.3 or, on colour images, 8/255 of the range of pixels.",
)
@click.option(
    "--sweep",
    metavar="NAME[:k=v,v,...]",
    multiple=True,
    help="A defense with values of one parameter, mildest first, as in jpeg:quality=85,50,25 or "
    "feature_squeezing:bit_depth=7..1; a single value is not tuned but combined; a name alone "
    "stands for values of its own. Repeatable. Default: all layers that suit the data.",
)
@click.option(
    "--combinations",
    is_flag=True,
    help="Measure all pairs, triples and so on of them too, each at the value that was best.",
)
@click.option(
    "--max-loss",
    type=Number(),
    default=0.02,
    show_default=True,
    help="Share of the clean accuracy that the choice may cost.",
)
@samples_option
@balanced_option
@batch_size_option
@click.option(
    "--eps",
    type=Number(positive=True),
    help="Budget; larger changes do not count. Attacks that look for the nearest adversarial point "
    "need one here. 8/255 works.",
)
@norm_option
@gradient_option("straight_through", "; ignore: attack without them, as AREB")
@eot_option
@votes_option
@click.option(
    "--epochs",
    type=click.IntRange(min=1),
    help="Train on the training split so long, from the model's weights, for each defense that "
    "has to be trained, label_smoothing say.",
)
@seed_option
@clip_min_option
@clip_max_option
@click.option(
    "--output",
    metavar="DIR",
    callback=output_folder,
    help="Folder for the tables (JSON, Markdown), the picture, and a report for each setting. The "
    "same command on the same folder goes on where it was interrupted.",
)
@import_option
@click.option("--quiet", is_flag=True, help="Print the tables and nothing else.")
@click.version_option(package_name="kerasrobust")
def main(
    model,
    dataset,
    data_dir,
    download,
    attacks,
    sweep,
    combinations,
    max_loss,
    samples,
    balanced,
    batch_size,
    eps,
    norm,
    gradient,
    eot,
    votes,
    epochs,
    seed,
    clip_min,
    clip_max,
    output,
    imports,
    quiet,
) -> None:
    """Measure defenses at several values of their parameter, and name the ones to use."""
    if norm is not None and eps is None:
        raise click.UsageError("--norm needs --eps")
    if not 0 <= max_loss <= 1:
        raise click.UsageError(f"--max-loss is a share from 0 to 1, not {max_loss:g}")
    with library(imports):
        import kerasrobust
        from kerasrobust.specs import expand_spec

        # `tune` checks everything before it attacks, but a model may be trained before that.
        if attacks:
            kerasrobust.evaluation.resolve(list(attacks), eps=eps, norm=norm)
        for item in sweep:
            for spec in expand_spec(item)[2]:
                defense = kerasrobust.defenses.get(spec)
                if epochs is None and isinstance(defense, kerasrobust.defenses.TrainingDefense):
                    raise click.UsageError(f"--sweep {item} has to be trained: it needs --epochs")
        network = None if model is None else kerasrobust.models.load(model)
        bounds, note = pixel_bounds(network, clip_min, clip_max)
        if note:
            click.echo(note, err=True)
        source = {"data_dir": data_dir, "clip_values": bounds, "download": download}
        data = kerasrobust.datasets.load(
            dataset, samples=samples, seed=seed, balanced=balanced, **source
        )
        train = None
        if network is None or epochs is not None:
            train = kerasrobust.datasets.load(dataset, "train", **source)
        if network is None:
            network = default_network(train, seed, output, quiet)
        try:
            tuning = kerasrobust.tune(
                network,
                data,
                attacks=list(attacks) or None,
                sweep=list(sweep) or None,
                combinations=combinations,
                max_loss=max_loss,
                gradient=gradient,
                draws=eot,
                votes=votes,
                train=train,
                epochs=epochs,
                eps=eps,
                norm=norm,
                clip_values=bounds,
                batch_size=batch_size,
                seed=seed,
                output=output,
                verbose=not quiet and sys.stderr.isatty(),
            )
        except kerasrobust.evaluation.TuningInterrupted as stop:
            _print(stop.tuning)
            how = "The same command goes on from here." if output else "With --output it goes on."
            click.echo(how, err=True)
            raise click.Abort from stop
    _print(tuning)
    if output is not None and not quiet:
        click.echo(f"Tables written to {output}", err=True)


def _print(tuning) -> None:
    if sys.stdout.isatty():
        tuning.render()
    else:
        click.echo(str(tuning))
