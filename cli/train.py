"""`kr-train`: train a network, defended or not."""

from __future__ import annotations

import sys

import click

from kerasrobust_cli.common import Number, library, output_model


@click.command(name="kr-train", context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--dataset",
    metavar="NAME|PATH",
    default="digits",
    show_default=True,
    help="digits, the name of a TFDS data set, or a .npz file with a training and a test split.",
)
@click.option(
    "--data-dir", metavar="DIR", help="Folder of prepared TFDS data sets. Default: $TFDS_DATA_DIR."
)
@click.option("--download", is_flag=True, help="Let TFDS download a data set that is not there.")
@click.option(
    "--model",
    metavar="NAME",
    help="Name of the network, areb_cnn say. Default: one that suits the size of the images.",
)
@click.option(
    "--defense",
    metavar="NAME[:k=v,...]",
    multiple=True,
    help="A defense with its parameters, as in gda:sigma=0.3. Repeatable; defenses compose.",
)
@click.option(
    "--epochs",
    type=click.IntRange(min=1),
    help="Default: 3, or on few samples as many as 600 steps take.",
)
@click.option("--batch-size", type=click.IntRange(min=1), default=64, show_default=True)
@click.option(
    "--learning-rate",
    type=Number(positive=True),
    default=0.001,
    show_default=True,
    help="Adam's, at the start; it decays to zero as a cosine.",
)
@click.option(
    "--samples", type=click.IntRange(min=1), help="Samples drawn to train on. Default: all."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option(
    "--output",
    metavar="PATH",
    required=True,
    callback=output_model,
    help="Where the model is saved; ends in .keras.",
)
@click.option("--quiet", is_flag=True, help="Print the test accuracy and nothing else.")
@click.version_option(package_name="kerasrobust")
def main(
    dataset,
    data_dir,
    download,
    model,
    defense,
    epochs,
    batch_size,
    learning_rate,
    samples,
    seed,
    output,
    quiet,
) -> None:
    """Train an image classifier, with defenses if asked, and save it."""
    with library():
        import kerasrobust

        source = {"data_dir": data_dir, "download": download}
        train = kerasrobust.datasets.load(dataset, "train", samples=samples, seed=seed, **source)
        test = kerasrobust.datasets.load(dataset, "test", **source)
        network = kerasrobust.models.get(
            model or kerasrobust.models.default_name(train.input_shape),
            train.input_shape,
            train.nb_classes,
            seed=seed,
        )
        if defense:
            network = kerasrobust.wrap(network, list(defense), clip_values=train.clip_values)
        history = kerasrobust.models.fit(
            network,
            train,
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            seed=seed,
            validation=test,
            verbose=0 if quiet else 1 if sys.stdout.isatty() else 2,
        )
        network.save(output)
    click.echo(f"Test accuracy {100 * history.history['val_accuracy'][-1]:.2f} %")
    if not quiet:
        click.echo(f"Model written to {output}", err=True)
