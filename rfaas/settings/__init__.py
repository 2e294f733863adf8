"""Settings: one table of all that can be configured, and where each value comes from.

Argument, command line, environment, `rfaas.toml` nearest upward, the user's, the machine's, default: the first that
says something wins. Must stay light (every `import rfaas.config` loads it) and must not start or write anything.
"""

from rfaas.settings.lookup import Found, Settings
from rfaas.settings.table import BY_NAME, TABLE, Setting

__all__ = ["BY_NAME", "TABLE", "Found", "Setting", "Settings"]
