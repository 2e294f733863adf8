"""What `import rfaas` promises: it loads little, and every public name says what it is."""

import inspect
import subprocess
import sys

import pytest

import rfaas

HEAVY = {"grpc", "google.protobuf", "numpy"}


@pytest.mark.parametrize("module", ["rfaas", "rfaas.cli"])
def test_import_loads_no_heavy_module(module, tmp_path):
    program = f"import sys, {module}; print(*sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, [], "")


def test_every_public_name_exists_and_is_listed_once():
    assert len(set(rfaas.__all__)) == len(rfaas.__all__)
    assert [name for name in rfaas.__all__ if not hasattr(rfaas, name)] == []


def test_every_public_class_function_and_method_has_a_docstring():
    bare = []
    for name in rfaas.__all__:
        thing = getattr(rfaas, name)
        if not (inspect.isclass(thing) or inspect.isroutine(thing)):
            continue
        # Not inspect.getdoc: that would accept the docstring of a base class.
        bare += [name] if not thing.__doc__ else []
        if inspect.isclass(thing):
            bare += [
                f"{name}.{member}"
                for member, value in vars(thing).items()
                if not member.startswith("_") and (inspect.isroutine(value) or isinstance(value, property))
                if not value.__doc__
            ]
    assert bare == []
