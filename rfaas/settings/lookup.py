"""Which value counts, and where it comes from: the precedence, in one place."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rfaas.settings import files, kinds
from rfaas.settings.spelling import closest
from rfaas.settings.table import BY_NAME, OTHER_VARIABLES, RENAMED_VARIABLES, TABLE, Setting
from rfaas_transport.errors import ConfigError


class Found(NamedTuple):
    """A setting's value.

    Attributes:
        setting: which.
        value: parsed; None where the setting has no fixed default and nobody said anything.
        source: argument, command line, environment, project, user, system or default.
        where: the variable, file or option that said it; "" for the default.
    """

    setting: Setting
    value: Any
    source: str
    where: str = ""

    @property
    def label(self) -> str:
        """How its source spells it, for messages."""
        if self.source in ("project", "user", "system"):
            return f"{self.where}: {self.setting.name}"
        return self.where or self.setting.name


class Settings:
    """All layers below arguments, read once; made by `load`."""

    def __init__(
        self, options: Mapping[str, Any], environ: Mapping[str, str], layers: list[tuple[files.Place, dict[str, Any]]]
    ) -> None:
        self._options = options
        self._environ = environ
        self._layers = layers

    @classmethod
    def load(
        cls,
        environ: Mapping[str, str] | None = None,
        *,
        directory: Path | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Settings:
        """Read environment and files.

        Args:
            environ: os.environ if None.
            directory: where the search for the project's file begins; the working directory if None.
            options: what the command line says, by setting's name; None where it says nothing.

        Raises:
            ConfigError: a file can't be believed or read, or a name means nothing.
        """
        environ = os.environ if environ is None else environ
        _refuse_mistyped(environ)
        found = [(place, files.read(place.path)) for place in files.places(environ, directory or working_directory())]
        return cls(options or {}, environ, [(place, values) for place, values in found if values is not None])

    @property
    def files(self) -> list[files.Place]:
        """The files that were read, the first to win first."""
        return [place for place, _ in self._layers]

    def find(self, name: str, argument: Any = None) -> Found:  # noqa: ANN401 - None: not given
        """Look a setting up.

        Raises:
            ConfigError: the value that counts is wrong; the message names its source.
        """
        setting = BY_NAME[name]
        raw = self._raw(setting, argument)
        if raw is None:
            return Found(setting, setting.default, "default")
        base = Path(raw.where).parent if raw.source in ("project", "user", "system") else working_directory()
        return raw._replace(value=setting.kind.parse(raw.value, raw.label, base))

    def value(self, name: str, argument: Any = None) -> Any:  # noqa: ANN401
        """The value alone; see `find`."""
        return self.find(name, argument).value

    def all(self) -> list[Found]:
        """Every setting, in the table's order."""
        return [self.find(setting.name) for setting in TABLE]

    def exported(self) -> dict[str, str]:
        """What files and environment say, as variables: for daemons, whose working directory is another one."""
        kept = [found for found in self.all() if found.source not in ("default", "argument", "command line")]
        return {found.setting.environment: kinds.write(found.value) for found in kept}

    def _raw(self, setting: Setting, argument: Any) -> Found | None:  # noqa: ANN401
        if argument is not None:
            return Found(setting, argument, "argument", setting.key)
        option = self._options.get(setting.name)
        if option is not None and option != ():
            return Found(setting, option, "command line", setting.option or setting.name)
        text = self._environ.get(setting.environment)
        if text:  # as for most programs, an empty variable is none
            return Found(setting, text, "environment", setting.environment)
        for place, values in self._layers:
            if setting.name in values:
                return Found(setting, values[setting.name], place.kind, str(place.path))
        return None


def working_directory() -> Path:
    """The working directory, or the root if somebody removed it."""
    try:
        return Path.cwd()
    except FileNotFoundError:  # somebody removed it
        return Path("/")


def _refuse_mistyped(environ: Mapping[str, str]) -> None:
    """Raise for a variable that is nearly one of ours; what is only of our family may be somebody else's."""
    known = {setting.environment for setting in TABLE} | OTHER_VARIABLES
    for variable in environ:
        if variable in RENAMED_VARIABLES:
            raise ConfigError(f"{variable} is no setting any more", hint=f"it is called {RENAMED_VARIABLES[variable]}")
        if variable.startswith("RFAAS_") and variable not in known:
            meant = closest(variable, known, cutoff=0.85)
            if meant:
                raise ConfigError(f"{variable} is no setting", hint=f"did you mean {meant[0]}?")
