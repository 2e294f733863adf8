"""How hypothesis tries examples, for conftest.py of the rings that use it: its import costs others their start."""

from hypothesis import settings

# No deadline per example: a shared machine may pause any of them.
settings.register_profile("rfaas", deadline=None)
settings.load_profile("rfaas")
