"""`kr-eval`: how robust is a model?"""

from __future__ import annotations

import json
import sys

import click

from kerasrobust_cli.common import (
    Number,
    Numbers,
    Sectioned,
    balanced_option,
    batch_size_option,
    clip_max_option,
    clip_min_option,
    data_dir_option,
    dataset_option,
    download_option,
    eot_option,
    gradient_option,
    import_option,
    library,
    model_option,
    norm_option,
    output_file,
    output_place,
    pixel_bounds,
    print_table,
    samples_option,
    seed_option,
    votes_option,
)

# What a shell gives a command that Ctrl-C ends.
_INTERRUPTED = 130
_SECTIONS = {
    "Model": ("model", "defense", "gradient", "eot", "votes", "mean", "std"),
    "Data": (
        *("dataset", "data_dir", "download", "samples", "balanced", "repeats", "only_correct"),
        *("clip_min", "clip_max"),
    ),
    "Attacks": (
        *("attacks", "list_attacks", "eps", "norm", "targeted", "targets", "max_queries"),
        *("cross_check", "seed"),
    ),
    "Report": ("metrics", "output", "form", "save_adversarial", "quiet"),
    "In a pipeline": ("fail_under", "fail_on", "junit"),
    "Running": ("batch_size", "workers", "ray_address"),
}


@click.command(
    name="kr-eval",
    cls=Sectioned,
    sections=_SECTIONS,
    context_settings={"help_option_names": ["-h", "--help"]},
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
@click.option(
    "--eps",
    type=Numbers(positive=True),
    help="Budget; larger changes do not count. 8/255 works, and several, rising: "
    "2/255,4/255,8/255.",
)
@norm_option
@click.option("--targeted", is_flag=True, help="Aim at a class: --targets random.")
@click.option(
    "--targets",
    type=click.Choice(["random", "next", "least_likely", "all"]),
    help="The wrong class that attacks aim at; all: every one, and the worst counts.",
)
@click.option(
    "--max-queries",
    metavar="N",
    type=click.IntRange(min=1),
    help="Most queries per sample of each black-box attack.",
)
@click.option(
    "--only-correct",
    is_flag=True,
    help="Attack and count only samples that the model gets right.",
)
@click.option(
    "--repeats",
    metavar="N",
    type=click.IntRange(min=2),
    help="Measure N draws of --samples samples: mean and deviation (AREB: 10 of 100).",
)
@click.option(
    "--metrics",
    metavar="NAME",
    multiple=True,
    help="A further figure of the report: psi, clever_l2:samples=20 ... Repeatable.",
)
@click.option(
    "--picture",
    "pictures",
    type=click.Choice(["decision_space", "loss_surface", "loss_against_eps", "security_curves"]),
    multiple=True,
    help="A further picture of the report, in the folder of --output. Repeatable.",
)
@click.option(
    "--defense",
    metavar="NAME[:k=v,...]",
    multiple=True,
    help="A layer put into the model or in front of it, as in jpeg:quality=50. Repeatable; images "
    "go through those in front in this order.",
)
@gradient_option("exact", "; ignore: attack without them")
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
    help="Folder for the report: HTML, Markdown, JSON, pictures. The same command on the same "
    "folder goes on where it was interrupted.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "markdown", "json", "html"]),
    default="table",
    show_default=True,
    help="What is printed.",
)
@click.option(
    "--save-adversarial",
    is_flag=True,
    help="Write the adversarial samples to --output, a .npz file for each attack.",
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
    help="Exit with status 1 if the robust accuracy is below this share, 0.4 say, or a finding "
    "says that it means nothing; errors have 2. Of several budgets the largest counts.",
)
@click.option(
    "--fail-on",
    type=click.Choice(["figure", "interval"]),
    default="figure",
    show_default=True,
    help="What --fail-under looks at: the accuracy, or the lower end of its interval.",
)
@click.option(
    "--junit",
    metavar="FILE",
    callback=output_file,
    help="Write that as JUnit XML, a test case for each claim.",
)
@click.option("--cross-check", is_flag=True, help="Rerun the attacks through ART, side by side.")
@click.option(
    "--no-probes",
    is_flag=True,
    help="Spend no passes on whether the attacks can be trusted: a few samples' worth of them.",
)
@import_option
@click.option("--list-attacks", is_flag=True, help="Print what --attacks knows and exit.")
@click.option("--quiet", is_flag=True, help="Print the report and nothing else.")
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
    targeted,
    targets,
    max_queries,
    only_correct,
    repeats,
    metrics,
    pictures,
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
    form,
    save_adversarial,
    workers,
    ray_address,
    fail_under,
    fail_on,
    junit,
    cross_check,
    no_probes,
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
    if pictures and output is None:
        raise click.UsageError("--picture needs --output")
    if junit is not None and fail_under is None:
        raise click.UsageError("--junit needs --fail-under")
    if save_adversarial and output is None:
        raise click.UsageError("--save-adversarial needs --output")
    if repeats is not None and balanced:
        raise click.UsageError("--repeats draws evenly: it cannot be --balanced")
    if eps is not None and len(eps) == 1:
        (eps,) = eps
    targets = targets or ("random" if targeted else None)
    with library(imports):
        import kerasrobust

        presets = kerasrobust.evaluation.presets.names()
        if list_attacks:
            _print_attacks(presets, kerasrobust.attacks)
            return
        # `evaluate` checks everything before it attacks, but a model may be trained before that.
        kerasrobust.evaluation.resolve(
            list(attacks),
            eps=eps,
            norm=norm,
            targeted=targets is not None,
            max_queries=max_queries,
        )
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
        drawn = samples if repeats is None else None
        data = kerasrobust.datasets.load(
            dataset, samples=drawn, seed=seed, balanced=balanced, **source
        )
        if repeats is not None and samples > len(data):
            raise click.UsageError(f"--samples: {data.name!r} has {len(data)} of them to draw from")
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
        try:
            report = kerasrobust.evaluate(
                kerasrobust.Classifier(network, bounds, preprocessing=preprocessing, **options),
                data,
                attacks=list(attacks),
                metrics=metrics,
                pictures=pictures,
                eps=eps,
                norm=norm,
                targets=targets,
                max_queries=max_queries,
                only_correct=only_correct,
                repeats=repeats or 1,
                samples=None if repeats is None else samples,
                batch_size=batch_size,
                seed=seed,
                cross_check=cross_check,
                save_adversaries=save_adversarial,
                output=output,
                workers=workers,
                ray_address=ray_address,
                probes=not no_probes,
                model_file=model,
                command=click.get_current_context().meta["command"],
                verbose=not quiet,
            )
        except kerasrobust.evaluation.EvaluationInterrupted as stop:
            if stop.report is not None:
                _tell(stop.report, form, output, quiet)
            click.echo(_how_to_go_on(stop.report, output), err=True)
            sys.exit(_INTERRUPTED)
    _tell(report, form, output, quiet)
    if fail_under is not None:
        if junit is not None:
            junit.write_text(report.to_junit(fail_under, fail_on), encoding="utf-8")
        failures = [claim.failure for claim in report.claims(fail_under, fail_on) if claim.failure]
        for failure in failures:
            click.echo(failure, err=True)
        if failures:
            sys.exit(1)


def _tell(report, form, output, quiet) -> None:
    if form == "json":
        click.echo(json.dumps(report.to_dict(), indent=2, allow_nan=False))
    elif form == "markdown":
        click.echo(report.to_markdown())
    elif form == "html":
        click.echo(report.to_html())
    elif sys.stdout.isatty():
        report.render()
    else:
        click.echo(str(report))
    if output is not None and not quiet:
        click.echo(f"Report written to {output}", err=True)


def _how_to_go_on(report, output) -> str:
    what = "no batch was finished" if report is None else "the report is of what was finished"
    if output is None:
        return f"Interrupted: {what}. Nothing is kept without --output; with it a run goes on."
    return f"Interrupted: {what}. The same command goes on from here."


def _print_attacks(presets, attacks) -> None:
    """The taxonomy as a table, and the names of the benchmarks and of what is not in the table."""
    columns = ("name", "class", "norms", "T/U", "knowledge", "strategy", "from")
    entries = attacks.taxonomy()
    others = sorted(set(attacks.names()) - {entry.name for entry in entries})
    note = "T targeted, U untargeted. Benchmarks:"
    rows = (vars(entry).values() for entry in entries)
    print_table(columns, rows, note, *presets, *(["\nFrom plugins:", *others] if others else []))
