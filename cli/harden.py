"""`kr-harden`: threats, preprocessing, training, check, another round: AREB's process flow."""

from __future__ import annotations

import sys

import click

from kerasrobust_cli.common import (
    Number,
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


@click.command(name="kr-harden", context_settings={"help_option_names": ["-h", "--help"]})
@model_option
@dataset_option
@data_dir_option
@download_option
@click.option(
    "--attacks",
    metavar="SPEC",
    multiple=True,
    help="Threats: a benchmark or an attack, as in pgd. Parameters that are not given are tuned. "
    "Repeatable. Default: pgd and hsja.",
)
@click.option(
    "--eps",
    type=Number(positive=True),
    help="Budget; larger changes do not count. 8/255 works. Default: 0.3, or 8/255 on colour "
    "images, of the range of pixels.",
)
@norm_option
@click.option(
    "--passes",
    type=click.IntRange(min=1),
    default=250,
    show_default=True,
    help="Forward passes that an attack may take for a sample, a gradient counted as two; attacks "
    "without gradients ten times as many.",
)
@click.option(
    "--sweep",
    metavar="NAME[:k=v,v,...]",
    multiple=True,
    help="What step 2 tries, as of kr-tune; none for nothing. Repeatable. Default: all layers that "
    "suit the data.",
)
@click.option("--combinations", is_flag=True, help="Let step 2 try them together too.")
@click.option(
    "--train-attacks",
    metavar="SPEC",
    multiple=True,
    help="The ensemble to train with, as in pgd or ead:max_iter=5. Repeatable. Default: the "
    "threats that have gradients, and EAD.",
)
@click.option(
    "--defense",
    metavar="NAME[:k=v,...]",
    help="A training defense in the place of an ensemble, as in trades:eps=0.1.",
)
@click.option("--recipe", metavar="NAME[:k=v,...]", help="How to train, as of kr-train.")
@click.option(
    "--epochs", type=click.IntRange(min=1), help="Of the first round. Default: the recipe's."
)
@click.option("--learning-rate", type=Number(positive=True), help="Default: the recipe's.")
@click.option(
    "--goal", type=Number(), help="Share of samples, as in 0.4, that are to withstand all attacks."
)
@click.option(
    "--max-loss",
    type=Number(),
    default=0.05,
    show_default=True,
    help="Share of the clean accuracy that may be lost.",
)
@click.option(
    "--rounds",
    type=click.IntRange(min=0),
    help="Rounds of training at most. Default: 3 with --goal, else 1.",
)
@click.option(
    "--max-minutes",
    type=Number(positive=True),
    help="No round begins that would probably end later, the final check aside.",
)
@click.option(
    "--train-samples", type=click.IntRange(min=1), help="Samples to train on. Default: all."
)
@click.option(
    "--validation-samples",
    type=click.IntRange(min=1),
    default=200,
    show_default=True,
    help="Samples of the training split that are not trained on: all is chosen by them.",
)
@samples_option
@click.option(
    "--check",
    metavar="SPEC",
    multiple=True,
    help="Attacks of the final check beside the threats; none for none. Repeatable. Default: pma "
    "and square.",
)
@click.option(
    "--benchmark",
    metavar="NAME",
    default="areb",
    show_default=True,
    help="Benchmark of the final check with all metrics; none for none.",
)
@click.option(
    "--metrics",
    metavar="NAME",
    multiple=True,
    help="Of the benchmark. Repeatable. Default: psi, loss sensitivity, CLEVER of 20 samples.",
)
@gradient_option("straight_through")
@eot_option
@votes_option
@batch_size_option
@seed_option
@clip_min_option
@clip_max_option
@click.option(
    "--output",
    metavar="DIR",
    required=True,
    callback=output_folder,
    help="Folder for hardened.keras, the report, and all that each step found. The same command on "
    "the same folder goes on where it was interrupted.",
)
@import_option
@click.option("--quiet", is_flag=True, help="Print tables and verdict and nothing else.")
@click.version_option(package_name="kerasrobust")
def main(
    model,
    dataset,
    data_dir,
    download,
    attacks,
    eps,
    norm,
    passes,
    sweep,
    combinations,
    train_attacks,
    defense,
    recipe,
    epochs,
    learning_rate,
    goal,
    max_loss,
    rounds,
    max_minutes,
    train_samples,
    validation_samples,
    samples,
    check,
    benchmark,
    metrics,
    gradient,
    eot,
    votes,
    batch_size,
    seed,
    clip_min,
    clip_max,
    output,
    imports,
    quiet,
) -> None:
    """Harden a model in the steps of AREB, and say what it gained on samples that chose nothing."""
    with library(imports):
        import kerasrobust

        network = None if model is None else kerasrobust.models.load(model)
        bounds, note = pixel_bounds(network, clip_min, clip_max)
        if note:
            click.echo(note, err=True)
        source = {"data_dir": data_dir, "clip_values": bounds, "download": download, "seed": seed}
        whole = None
        if train_samples is not None:
            whole = train_samples + validation_samples
        train = kerasrobust.datasets.load(dataset, "train", samples=whole, **source)
        train, validation = kerasrobust.datasets.hold_out(train, validation_samples, seed)
        test = kerasrobust.datasets.load(dataset, "test", samples=samples, **source)
        if network is None:
            network = default_network(train, seed, output, quiet)
        try:
            found = kerasrobust.harden(
                network,
                train,
                validation,
                test,
                attacks=list(attacks) or kerasrobust.hardening.flow.ATTACKS,
                eps=eps,
                norm=norm,
                passes=passes,
                sweep=_several(sweep, None),
                combinations=combinations,
                defense=defense,
                train_attacks=list(train_attacks) or None,
                epochs=epochs,
                recipe=recipe,
                learning_rate=learning_rate,
                goal=goal,
                max_loss=max_loss,
                rounds=rounds,
                max_minutes=max_minutes,
                check=_several(check, kerasrobust.hardening.flow.CHECK),
                benchmark=None if benchmark == "none" else benchmark,
                metrics=_several(metrics, None),
                gradient=gradient,
                draws=eot,
                votes=votes,
                clip_values=bounds,
                batch_size=batch_size,
                seed=seed,
                output=output,
                verbose=not quiet,
            )
        except KeyboardInterrupt as stop:
            click.echo("The same command goes on from here.", err=True)
            raise click.Abort from stop
    if sys.stdout.isatty():
        found.render()
    else:
        click.echo(str(found))
    if not quiet:
        click.echo(f"Model and report written to {output}", err=True)


def _several(given: tuple[str, ...], default):
    """What was given; nothing where that is `none`."""
    if not given:
        return default
    return [] if given == ("none",) else list(given)
