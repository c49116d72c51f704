"""`kr-train`: train a network, defended or not."""

from __future__ import annotations

import sys

import click

from kerasrobust_cli.common import (
    Number,
    balanced_option,
    clip_max_option,
    clip_min_option,
    data_dir_option,
    download_option,
    import_option,
    library,
    output_folder,
    output_model,
    pixel_bounds,
    print_table,
    seed_option,
)


def _list_models(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if not value or ctx.resilient_parsing:
        return
    import inspect
    import re

    with library():
        from kerasrobust import models

        rows = []
        for name in models.names():
            builder = getattr(models, name)
            shape = inspect.signature(builder).parameters["input_shape"].default
            text = inspect.getdoc(builder) or ""
            source = re.search(r"(arXiv:|doi:)[^\s,;)]+", text) or re.search(
                r"(?<=Reference: )[^,;.]+", text
            )
            what = text.partition("\n")[0].rstrip(".").replace("`", "")
            size = "x".join(map(str, shape))
            rows.append((name, size, what, source.group().rstrip(".") if source else ""))
    print_table(("name", "images", "what", "source"), rows, "Images: the size it was made for.")
    ctx.exit()


def _list_defenses(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if not value or ctx.resilient_parsing:
        return
    with library(ctx.params["imports"]):
        from kerasrobust.defenses.taxonomy import taxonomy

        rows = [(entry.name, entry.place, entry.what, entry.source) for entry in taxonomy()]
    note = (
        "Place: part of the network (layer), or what a link of the training chain works on, from "
        "the loss outwards."
    )
    print_table(("name", "place", "what", "source"), rows, note)
    ctx.exit()


def _list_recipes(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if not value or ctx.resilient_parsing:
        return
    with library():
        from kerasrobust.models import recipes

        rows = []
        for name, fields in recipes.PRESETS.items():
            told = {key: field for key, field in fields.items() if key != "augment"}
            layers = [str(layer).partition(":")[0] for layer in fields.get("augment", ())]
            settings = [f"{key}={field}" for key, field in told.items()]
            rows.append((name, ", ".join(settings + layers) or "as plain"))
    notes = (
        "plain: Adam at 0.001, cosine decay to zero, batches of 64, 600 steps or 3 epochs.",
        "areb, e2sad, nsloss: the first of the two for grey images, the other for those in colour.",
    )
    print_table(("name", "settings"), rows, "\n".join(notes))
    ctx.exit()


@click.command(name="kr-train", context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--dataset",
    metavar="NAME|PATH",
    default="digits",
    show_default=True,
    help="digits, the name of a TFDS data set, a .npz file with a training and a test split, or a "
    "folder of images: train/ and test/, a folder per class in each.",
)
@data_dir_option
@download_option
@click.option(
    "--model",
    metavar="NAME|PATH",
    help="Name of a new network, areb_cnn say, or a saved Keras model (.keras, .h5) that training "
    "goes on from. Default: a new network that suits the size of the images.",
)
@click.option(
    "--defense",
    metavar="NAME[:k=v,...]",
    multiple=True,
    help="A defense with its parameters, as in gda:sigma=0.3. Repeatable; defenses compose.",
)
@click.option(
    "--recipe",
    metavar="NAME[:k=v,...]",
    default="plain",
    show_default=True,
    help="How it is trained: a document's way, as in areb or areb:epochs=3, or settings alone, as "
    "in schedule=step,weight_decay=0.01. The options below count instead of it. plain: Adam, the "
    "rate decaying to zero as a cosine.",
)
@click.option(
    "--epochs",
    type=click.IntRange(min=1),
    help="Default: the recipe's, else 3, or on few samples as many as 600 steps take.",
)
@click.option(
    "--batch-size", type=click.IntRange(min=1), help="Default: the recipe's, of plain 64."
)
@click.option(
    "--learning-rate",
    type=Number(positive=True),
    help="The optimizer's, at the start. Default: the recipe's, of plain 0.001.",
)
@click.option(
    "--samples", type=click.IntRange(min=1), help="Samples drawn to train on. Default: all."
)
@balanced_option
@click.option(
    "--validation-samples",
    type=click.IntRange(min=1),
    help="So many of them are not trained on but measured after each epoch. Default: none, and the "
    "test split is measured; with --robust-attack, and for recipes that decay or stop by what they "
    "measure, a tenth, 1000 at most.",
)
@click.option(
    "--robust-attack",
    metavar="SPEC",
    multiple=True,
    help="An attack on the validation samples after each epoch, as in pgd:eps=0.3,max_iter=10. "
    "Repeatable: the worst case per sample counts.",
)
@click.option(
    "--keep-best",
    is_flag=True,
    help="Save the epoch of the highest accuracy under --robust-attack instead of the last one.",
)
@clip_min_option
@clip_max_option
@seed_option
@click.option(
    "--checkpoint",
    metavar="DIR",
    callback=output_folder,
    help="Folder for the state after each epoch: an interrupted run goes on from there when the "
    "command is repeated, and ends as it would have ended.",
)
@click.option(
    "--log-dir", metavar="DIR", callback=output_folder, help="Folder for TensorBoard's logs."
)
@click.option(
    "--output",
    metavar="PATH",
    required=True,
    callback=output_model,
    help="Where the model is saved; ends in .keras. A plain model read from a PATH is saved as "
    "one, its training defenses left out; all others are saved with them.",
)
@import_option
@click.option(
    "--list-models",
    is_flag=True,
    expose_value=False,
    callback=_list_models,
    help="Print what --model knows and exit.",
)
@click.option(
    "--list-defenses",
    is_flag=True,
    expose_value=False,
    callback=_list_defenses,
    help="Print what --defense knows and exit.",
)
@click.option(
    "--list-recipes",
    is_flag=True,
    expose_value=False,
    callback=_list_recipes,
    help="Print what --recipe knows and exit.",
)
@click.option("--quiet", is_flag=True, help="Print the test accuracy and nothing else.")
@click.version_option(package_name="kerasrobust")
def main(
    dataset,
    data_dir,
    download,
    model,
    defense,
    recipe,
    epochs,
    batch_size,
    learning_rate,
    samples,
    balanced,
    validation_samples,
    robust_attack,
    keep_best,
    clip_min,
    clip_max,
    seed,
    checkpoint,
    log_dir,
    output,
    imports,
    quiet,
) -> None:
    """Train an image classifier, a new one or your own, with defenses if asked, and save it.

    Nothing is chosen by the test split: the epoch that --keep-best keeps is chosen on samples of
    the training split that are not trained on.
    """
    if keep_best and not robust_attack:
        raise click.UsageError("--keep-best needs --robust-attack")
    with library(imports):
        import keras
        import numpy as np

        import kerasrobust

        # Large data take a while to read; a typing error is told before.
        changes = {"epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate}
        chosen = kerasrobust.models.recipes.get(recipe, **changes)
        defenses = kerasrobust.defenses.resolve(defense) if defense else []
        for one in defenses:
            if isinstance(one, kerasrobust.defenses.DecisionDefense):
                raise click.UsageError(
                    f"--defense {type(one).name} answers in the place of a finished model: train "
                    "the model without it, then `kerasrobust.wrap` it in Python"
                )
        if robust_attack:
            kerasrobust.evaluation.resolve(list(robust_attack))
        own = None
        if model is not None and kerasrobust.models.loading.is_file(model):
            own = kerasrobust.models.load(model)
        elif model is not None:
            kerasrobust.models.registry.find(model)
        bounds, note = pixel_bounds(own, clip_min, clip_max)
        network = None
        if own is not None:
            # Which one of a document's recipes it is may depend on the images.
            shape = getattr(own, "input_shape", None) or (28, 28, 1)
            chosen = kerasrobust.models.recipes.get(recipe, shape, **changes)
            network = kerasrobust.models.standardize(own) if chosen.standardize else own
            network = _defended(network, defenses, bounds, seed)
        if note:
            click.echo(note, err=True)
        source = {"data_dir": data_dir, "clip_values": bounds, "download": download}
        train = kerasrobust.datasets.load(
            dataset, "train", samples=samples, seed=seed, balanced=balanced, **source
        )
        test = kerasrobust.datasets.load(dataset, "test", **source)
        chosen = kerasrobust.models.recipes.get(recipe, train.input_shape, **changes)
        if chosen.monitor == kerasrobust.callbacks.MONITOR and not robust_attack:
            raise click.UsageError(f"--recipe with monitor={chosen.monitor} needs --robust-attack")
        validation = test
        if (robust_attack or chosen.needs_validation) and validation_samples is None:
            validation_samples = max(1, min(1000, len(train) // 10))
            if balanced:
                each = max(1, validation_samples // train.nb_classes)
                validation_samples = each * train.nb_classes
        if validation_samples is not None:
            train, validation = kerasrobust.datasets.hold_out(
                train, validation_samples, seed, balanced=balanced
            )
        if network is None:
            network = kerasrobust.models.get(
                model or kerasrobust.models.default_name(train.input_shape),
                train.input_shape,
                train.nb_classes,
                seed=seed,
            )
            if chosen.standardize:
                network = kerasrobust.models.standardize(network)
            if defenses:
                network = kerasrobust.wrap(network, defenses, clip_values=bounds, seed=seed)
        else:
            _check_start(network, test, quiet)
        callbacks: list[keras.callbacks.Callback] = []
        if robust_attack:
            callbacks.append(
                kerasrobust.callbacks.RobustAccuracy(
                    validation, attacks=list(robust_attack), restore_best=keep_best
                )
            )
        if log_dir is not None:
            callbacks.append(keras.callbacks.TensorBoard(log_dir))
        history = kerasrobust.models.fit(
            network,
            train,
            recipe=chosen,
            seed=seed,
            validation=validation,
            callbacks=callbacks,
            checkpoint=checkpoint,
            verbose=0 if quiet else 1 if sys.stdout.isatty() else 2,
        )
        if not all(np.isfinite(weight).all() for weight in network.get_weights()):
            raise ValueError(
                "Training has diverged, weights are NaN or infinite: nothing was saved. Use a "
                f"smaller --learning-rate. Received: --learning-rate {chosen.learning_rate:g}"
            )
        saved: keras.Model = network
        robust = kerasrobust.defenses.RobustModel
        if own is not None and not isinstance(own, robust) and isinstance(network, robust):
            saved = network.base  # as plain as it was given, layers in front of it included
        saved.save(output)
        measured = network.evaluate(test.x, test.y, batch_size=256, verbose=0, return_dict=True)
    if keep_best and not quiet:
        values = history.history["val_robust_accuracy"]
        click.echo(
            f"Epoch {values.index(max(values)) + 1} of {len(values)} kept: "
            f"{100 * max(values):.2f} % of the validation samples withstand the attacks",
            err=True,
        )
    click.echo(f"Test accuracy {100 * measured['accuracy']:.2f} %")
    if not quiet:
        needs = _ours(saved)
        told = f", which needs kerasrobust to open: {', '.join(needs)}" if needs else ""
        click.echo(f"Model written to {output}{told}", err=True)


def _ours(model) -> list[str]:
    """The classes of this package that a model is made of."""
    from kerasrobust._keras import flat_layers

    kinds = {type(layer) for layer in flat_layers(model)}
    return sorted(k.__name__ for k in kinds if k.__module__.partition(".")[0] == "kerasrobust")


def _defended(own, defenses, bounds, seed):
    """The model that was read with the defenses, and checks of its data while it trains."""
    import kerasrobust

    if defenses:
        return kerasrobust.wrap(own, defenses, clip_values=bounds, seed=seed)
    return kerasrobust.defenses.RobustModel(own, clip_values=bounds, seed=seed)


def _check_start(network, test, quiet: bool) -> None:
    """Tells what the model is worth before; refuses data that do not fit it."""
    from kerasrobust.evaluation.diagnosis import check_predictions

    classifier = network.classifier()
    labels = classifier.predict(classifier.check(test.x)).argmax(axis=1)
    findings = check_predictions(labels, test.y, classifier.nb_classes)
    if not quiet:
        click.echo(
            f"Test accuracy before training {100 * (labels == test.y).mean():.2f} %", err=True
        )
    for finding in findings:
        click.echo(f"Warning: {finding.message}", err=True)
