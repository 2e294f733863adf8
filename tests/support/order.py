"""Files with a test of twenty seconds or more begin first: one that began last would keep one worker busy, others idle.

What is listed is what was seen on two CPUs with a worker more than these, longest first; it decides nothing but time.
"""

from pathlib import Path

LONG_FIRST = (
    "system/test_wheel.py",
    "system/test_protobuf_versions.py",
    "system/test_examples.py",
    "system/test_documents.py",
    "faults/test_t04_agent.py",
    "system/test_liveness.py",
    "system/test_c_client.py",
    "faults/test_t64_fuzz.py",
    "faults/test_t57_cycles.py",
    "faults/test_t60_mutants.py",
    "system/test_bench.py",
    "system/test_soak.py",
    "system/test_remote_memory.py",
)

_TESTS = Path(__file__).parents[1]
_PLACES = {_TESTS / name: place for place, name in enumerate(LONG_FIRST)}


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: _PLACES.get(item.path, len(_PLACES)))  # stable: the others keep their order
