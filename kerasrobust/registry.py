"""Names of attacks, defenses and metrics: one mechanism for ours, a plugin's and one's own.

A name is looked up among three kinds, in this order:

* built-in ones, kept as ``"module:Class"`` and imported when asked for, so that a registry imports
  none of what it lists and may be imported by it;
* classes that a script has given to `register`;
* entry points of installed packages, in the group that bears the registry's name
  (`kerasrobust.attacks`, say). An entry point names a class, found under the entry point's own
  name, or a mapping of names to classes or ``"module:Class"`` strings, found as
  ``<entry point>:<name>``.
"""

from __future__ import annotations

import functools
import importlib.metadata
import inspect
import pkgutil
import warnings
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint
from typing import Any, Generic, TypeVar

from kerasrobust.specs import is_description, near_match, parse_spec

T = TypeVar("T")
C = TypeVar("C", bound=type)

# How the modules are called that the commands make of scripts (--import).
IMPORTED = "kerasrobust_import_"

_REGISTRIES: list[Registry[Any]] = []


class Registry(Generic[T]):
    """The names of one kind of object.

    Args:
        group: Group of its entry points; the last part, less its "s", is what messages call one.
        bases: What every class of the kind is derived from, one of these.
        builtin: The names that the package itself has, each with its ``"module:Class"``.
        signature: What the class given takes; for classes that hide part of it in `**kwargs`.
        naming: The class attribute that holds a class's name.
    """

    def __init__(
        self,
        group: str,
        bases: tuple[type, ...],
        builtin: Mapping[str, str],
        signature: Callable[[type], inspect.Signature] = inspect.signature,
        naming: str = "name",
    ):
        self.group = group
        self.kind = group.rpartition(".")[2].removesuffix("s")
        self.bases = bases
        self.builtin = dict(builtin)
        self._signature = signature
        self._naming = naming
        self._registered: dict[str, type] = {}
        _REGISTRIES.append(self)

    def get(self, item: Any, /, **arguments: Any) -> T:
        """An object from its name, a specification, a description or itself.

        Args:
            item: ``"pgd"``, ``"pgd:eps=0.1,max_iter=20"``, `{"name": "pgd", "config": {...}}` or an
                instance.
            **arguments: Of the constructor, over those in `item`; an instance is returned as it is
                without any, and with some as a copy made with them.

        Raises:
            TypeError: If it is nothing of the kind, or takes no such argument.
            ValueError: If the name is unknown; what the class raises shows itself.
            ImportError: If the name is a plugin's that cannot be imported.
        """
        if isinstance(item, self.bases):
            given: Any = item
            if not arguments:
                return given
            config = {**given.get_config(), **arguments}
            self._check_arguments(type(item).__name__, type(item), config, arguments)
            return given.from_config(config)
        if isinstance(item, str):
            name, config = parse_spec(item)
        elif is_description(item):
            name, config = item["name"], dict(item.get("config") or {})
        else:
            raise TypeError(
                f"`{self.kind}` must be a name, 'name:key=value', {{'name': ..., 'config': "
                f"{{...}}}} or an instance. Received: {self.kind}={item!r}"
            )
        made: Any = self.find(name)
        config |= arguments
        self._check_arguments(name, made, config, config)
        return made(**config)

    def find(self, name: str) -> type[T]:
        """The class of that name, imported if it was not.

        Raises:
            ValueError: If the name is unknown.
            ImportError: If it is a plugin's that cannot be imported, or is not what its name says.
        """
        if name in self.builtin:
            return pkgutil.resolve_name(self.builtin[name])
        if name in self._registered:
            return self._registered[name]
        plugin, _, member = name.partition(":")
        if plugin in self._plugins:
            found = self._load(plugin)
            if not isinstance(found, Mapping) and not member:
                return self._checked(name, plugin, found)
            if isinstance(found, Mapping) and member in found:
                return self._checked(name, plugin, found[member])
        raise ValueError(
            f"There is no {self.kind} of that name. {near_match(name, self.names())} "
            f"Received: {self.kind}={name!r}"
        )

    def names(self) -> list[str]:
        """All names, sorted; of a plugin that cannot be imported its own, `get` tells the rest."""
        offered = {name for plugin in self._plugins for name in self._offered(plugin)}
        return sorted({*self.builtin, *self._registered, *offered})

    def __contains__(self, name: object) -> bool:
        return name in self.names()

    def classes(self) -> dict[str, type[T]]:
        """All classes that have a name to themselves, built-in ones first.

        The members of a plugin's mapping are left out, as they may be many and slow to import; a
        plugin that cannot be imported is left out with a warning.
        """
        found = {name: self.find(name) for name in (*self.builtin, *self._registered)}
        for plugin in sorted(self._plugins):
            try:
                if plugin in self._offered(plugin):
                    found[plugin] = self.find(plugin)
            except ImportError as error:
                warnings.warn(str(error), stacklevel=2)
        return found

    def exported(self) -> dict[str, str]:
        """The names of the built-in classes, each with its ``"module:Class"``."""
        return {entry.rpartition(":")[2]: entry for entry in self.builtin.values()}

    def attribute(self, module: str, name: str) -> type[T]:
        """What the module-level `__getattr__` of the package `module` returns for `name`."""
        if name not in self.exported():
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        return pkgutil.resolve_name(self.exported()[name])

    def register(self, cls: type[T]) -> None:
        """Adds a class under the name that it has as a class attribute.

        Raises:
            TypeError: If it has no name.
            ValueError: If the name cannot be written in a specification, or is taken by another
                class. A class of the same module and name is another version of the same one, and
                takes its place.
        """
        name = getattr(cls, self._naming, None)
        if not isinstance(name, str) or not name:
            raise TypeError(
                f"A class to register must have its name as a class attribute `{self._naming}`. "
                f"Received: {cls.__name__}.{self._naming}={name!r}"
            )
        if any(character in " :=,()[]" for character in name):
            raise ValueError(
                "A name must do without blanks, brackets and the characters ':', '=' and ','. "
                f"Received: {cls.__name__}.{self._naming}={name!r}"
            )
        holder = self.builtin.get(name)
        if holder is None and name in self._plugins:
            holder = self._plugins[name].value
        if holder is None and name in self._registered:
            holder = _location(self._registered[name])
        if holder is not None and holder != _location(cls):
            raise ValueError(
                f"The {self.kind} name {name!r} is taken by {holder}. "
                f"Received: {_location(cls)} with {self._naming}={name!r}"
            )
        if holder is None or name in self._registered:
            self._registered[name] = cls

    @functools.cached_property
    def _plugins(self) -> dict[str, EntryPoint]:
        """The entry points of installed packages by name."""
        plugins: dict[str, EntryPoint] = {}
        for point in importlib.metadata.entry_points(group=self.group):
            holder = self.builtin.get(point.name)
            if holder is None and point.name in plugins:
                holder = plugins[point.name].value
            if holder is None:
                plugins[point.name] = point
            elif holder != point.value:
                warnings.warn(
                    f"{_told(point)} is left out: {holder} has the name already.", stacklevel=2
                )
        return plugins

    def _load(self, plugin: str) -> Any:
        try:
            return self._plugins[plugin].load()
        except Exception as error:
            raise ImportError(
                f"{_told(self._plugins[plugin])} cannot be imported: "
                f"{type(error).__name__}: {error}"
            ) from error

    def _offered(self, plugin: str) -> list[str]:
        try:
            found = self._load(plugin)
        except ImportError:
            return [plugin]
        return [f"{plugin}:{name}" for name in found] if isinstance(found, Mapping) else [plugin]

    def _checked(self, name: str, plugin: str, found: Any) -> type[T]:
        told = _told(self._plugins[plugin])
        if isinstance(found, str):
            try:
                found = pkgutil.resolve_name(found)
            except Exception as error:
                raise ImportError(
                    f"{name!r} of {told} cannot be imported: {type(error).__name__}: {error}"
                ) from error
        if not (isinstance(found, type) and issubclass(found, self.bases)):
            bases = " or ".join(base.__name__ for base in self.bases)
            raise ImportError(f"{told} must name a class derived from {bases}. Received: {found!r}")
        made: Any = found
        own = getattr(made, self._naming, None)  # a layer's may be a property of its instances
        if isinstance(own, str) and own != name:
            raise ImportError(
                f"{told} must name a class whose `{self._naming}` is {name!r}, as reports and "
                f"saved models call it. Received: {made.__name__}.{self._naming}={own!r}"
            )
        return made

    def _check_arguments(
        self, name: str, made: type, arguments: dict[str, Any], told: dict[str, Any]
    ) -> None:
        # Asked of the signature, not of the call: a TypeError inside `__init__` is another matter.
        signature = self._signature(made)
        try:
            signature.bind(**arguments)
        except TypeError as error:
            received = ", ".join(f"{key}={value!r}" for key, value in told.items())
            raise TypeError(
                f"{name!r}: {error}. Its arguments are: {', '.join(signature.parameters)}. "
                f"Received: {received or 'none'}"
            ) from None


def register(cls: C) -> C:
    """Adds an attack, a defense or a metric of one's own to those that are known by name.

    Also as a decorator. The base class tells the kind; the name is the class attribute `name`, or
    of a metric `key`.

    Args:
        cls: A class derived from `Attack`, `TrainingDefense`, `LayerDefense`, `DecisionDefense` or
            `Metric`.

    Returns:
        The class.

    Raises:
        TypeError: If it is no such class, or has no name.
        ValueError: If the name is taken by another class.

    Example:
        >>> @kerasrobust.register
        ... class Nearest(kerasrobust.attacks.Attack):
        ...     name = "nearest"
    """
    for registry in _REGISTRIES:
        if isinstance(cls, type) and issubclass(cls, registry.bases):
            registry.register(cls)
            return cls
    bases = ", ".join(sorted(base.__name__ for other in _REGISTRIES for base in other.bases))
    raise TypeError(f"Expected a class derived from one of {bases}. Received: {cls!r}")


def _location(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


def _told(point: EntryPoint) -> str:
    package = f" of {point.dist.name}" if point.dist is not None else ""
    return f"Entry point {point.name!r}{package} ({point.group}: {point.value})"
