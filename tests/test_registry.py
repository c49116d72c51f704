"""One registry for ours, a plugin's and one's own: names, refusals, and what is not imported."""

import importlib.metadata
import subprocess
import sys

import pytest

import kerasrobust
from kerasrobust import attacks, defenses
from kerasrobust.attacks import ATTACKS, Attack, ProjectedGradientDescent
from kerasrobust.defenses import DEFENSES, TrainingDefense
from kerasrobust.metrics.registry import METRICS


@pytest.fixture
def points(monkeypatch):
    """Call it with names and values: the entry points of attacks that are installed."""

    def install(*pairs):
        found = [importlib.metadata.EntryPoint(*pair, ATTACKS.group) for pair in pairs]
        monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: found)
        monkeypatch.delitem(vars(ATTACKS), "_plugins", raising=False)

    yield install
    vars(ATTACKS).pop("_plugins", None)


def made(name, base=Attack, place=__name__):
    return type("Made", (base,), {"name": name, "__module__": place})


@pytest.mark.parametrize("registry", [ATTACKS, DEFENSES], ids=["attacks", "defenses"])
def test_rows_say_what_the_classes_say(registry):
    for name in registry.builtin:
        found = registry.find(name)
        assert issubclass(found, registry.bases)
        # A layer's name is its instances'.
        assert issubclass(found, defenses.LayerDefense) or found.name == name
        package = {"attacks": attacks, "defenses": defenses}[f"{registry.kind}s"]
        assert getattr(package, found.__name__) is found and found.__name__ in dir(package)
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        attacks.Nothing  # noqa: B018


def test_rows_of_metrics_say_what_the_classes_say():
    for key in METRICS.builtin:
        assert METRICS.find(key).key == key


def test_what_importing_imports():
    """All defenses, for Keras to know their classes; no attack that nothing asked for, not ART."""
    code = (
        "import sys, kerasrobust as k\n"
        "print('kerasrobust.attacks.zoo' in sys.modules, 'kerasrobust.art' in sys.modules)\n"
        "print([n for n in k.defenses.DEFENSES.builtin.values() if n.split(':')[0] "
        "not in sys.modules])\n"
        "k.attacks.taxonomy(), k.attacks.names(), k.art.ATTACKS\n"
        "print('kerasrobust.attacks.zoo' in sys.modules, 'art' in sys.modules)\n"
        "print(k.art.ArtZooAttack.name, 'art' in sys.modules)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    expected = ["False False", "[]", "True False", "art:zoo True"]
    assert result.stdout.splitlines() == expected, result.stderr


def test_register():
    mine = kerasrobust.register(made("mine"))
    assert attacks.get("mine:seed=3").seed == 3 and type(attacks.get("mine")) is mine
    assert "mine" in attacks.names() and "mine" in ATTACKS
    assert kerasrobust.register(mine) is mine
    again = kerasrobust.register(made("mine"))  # a cell of a notebook, run once more
    assert type(attacks.get("mine")) is again
    assert kerasrobust.register(ProjectedGradientDescent) is ATTACKS.find("pgd")
    kerasrobust.register(made("mine", TrainingDefense))  # another kind, another name
    assert "mine" in defenses.names() and type(attacks.get("mine")) is again


def test_names_that_are_refused():
    kerasrobust.register(made("mine"))
    for cls, error, message in (
        (made("mine", place="elsewhere"), ValueError, "'mine' is taken by .*:Made. Received: else"),
        (made("pgd"), ValueError, "'pgd' is taken by .*ProjectedGradientDescent. Received: .*Made"),
        (made("art"), ValueError, "'art' is taken by kerasrobust.art:ATTACKS"),
        (made("a:b"), ValueError, "do without blanks.*Received: Made.name='a:b'"),
        (made(""), TypeError, "must have its name.*Received: Made.name=''"),
        (made(None), TypeError, "must have its name.*Received: Made.name=None"),
        (int, TypeError, "derived from one of Attack, DecisionDefense, LayerDefense, Metric, "),
        (attacks.get("pgd"), TypeError, "Expected a class.*Received: ProjectedGradientDescent"),
    ):
        with pytest.raises(error, match=message):
            kerasrobust.register(cls)
    assert attacks.get("pgd").name == "pgd" and "a:b" not in attacks.names()


def test_arguments_over_an_instance():
    given = attacks.get("pgd", eps=0.2, max_iter=3)
    assert attacks.get(given) is given
    changed = attacks.get(given, eps=0.1)
    assert (changed.eps, changed.max_iter, given.eps) == (0.1, 3, 0.2)
    with pytest.raises(TypeError, match="ProjectedG.*'epss'. Its arguments.*Received: epss=1"):
        attacks.get(given, epss=1)


def test_every_argument_is_known_before_the_call():
    for name in ATTACKS.builtin:
        arguments = attacks.get(name).get_config()
        assert attacks.get({"name": name, "config": arguments}).get_config() == arguments
        with pytest.raises(TypeError, match=rf"'{name}': .*'model'.* Its arguments are: "):
            attacks.get(name, model=None)


def test_a_type_error_inside_shows_itself():
    class Failing(Attack):
        name = "failing"

        def __init__(self, model=None, *, eps=None, **common):
            super().__init__(model, **common)
            self.eps = "eps" + eps

    kerasrobust.register(Failing)
    with pytest.raises(TypeError, match="^can only concatenate str"):
        attacks.get("failing", eps=1)
    with pytest.raises(
        TypeError, match="'failing': .*Its arguments are: eps, targeted, batch_size"
    ):
        attacks.get("failing", ep=1)


def test_plugins_that_are_none(points):
    points(
        ("lost", "kerasrobust_no_such_module:Attack"),
        ("absent", "kerasrobust.attacks:NoSuchAttack"),
        ("other", "kerasrobust.attacks.deepfool:DeepFool"),
        ("nothing", "math:pi"),
        ("family", "tests_of_registry:MEMBERS"),
        ("pgd", "math:pi"),
    )
    module = type(sys)("tests_of_registry")
    module.MEMBERS = {"lost": "kerasrobust_no_such_module:Attack", "pi": "math:pi"}
    sys.modules["tests_of_registry"] = module
    try:
        with pytest.warns(UserWarning, match="Entry point 'pgd' .* is left out: .*has the name"):
            names = attacks.names()
        plugins = {"lost", "absent", "other", "nothing", "family:lost", "family:pi"}
        assert set(names) == {*ATTACKS.builtin, *plugins}
        for name, message in (
            ("lost", "Entry point 'lost' .*ModuleNotFoundError: No module named 'kerasrobust_no"),
            ("absent", "Entry point 'absent' .*AttributeError.*'NoSuchAttack'"),
            ("other", "a class whose `name` is 'other'.*Received: DeepFool.name='deepfool'"),
            ("nothing", "derived from Attack. Received: 3.14"),
            ("family:lost", "'family:lost' of Entry point 'family'.*ModuleNotFoundError"),
            ("family:pi", "derived from Attack. Received: 3.14"),
        ):
            with pytest.raises(ImportError, match=message):
                attacks.get(name)
        for name in ("family", "family:", "family:none", "other:deepfool", "lost:"):
            with pytest.raises((ValueError, ImportError)):
                ATTACKS.find(name)
        assert attacks.get("pgd").name == "pgd"
        with pytest.warns(UserWarning, match="cannot be imported|must name a class"):
            assert [entry.name for entry in attacks.taxonomy()] == list(ATTACKS.builtin)
    finally:
        del sys.modules["tests_of_registry"]


def test_two_packages_with_one_name(points):
    deepfool = "kerasrobust.attacks.deepfool:DeepFool"
    points(("mine", "one:Attack"), ("mine", "two:Attack"), ("deepfool", deepfool))
    with pytest.warns(UserWarning, match="'mine'.*two:Attack. is left out: one:Attack has") as seen:
        assert "mine" in attacks.names()
    assert len(seen) == 1  # a name for what bears it already is none too many
