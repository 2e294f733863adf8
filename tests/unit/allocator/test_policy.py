"""What may be set for an allocator, and how wrong values are refused."""

import os
import pwd

import pytest

from rfaas_allocator.placement import Item
from rfaas_allocator.policy import Holding, Policy, Prices, Quota, section_from_options
from rfaas_transport.errors import ConfigError


def test_a_section_of_a_configuration_is_read():
    me = pwd.getpwuid(os.getuid()).pw_name
    policy = Policy.from_mapping(
        {
            "quota": {"cores": 8, "memory": "2GiB"},
            "quotas": {me: {"workers": 3}, "4242": {"leases": 0}},
            "prices": {"core_s": 0.25, "currency": "EUR"},
            "inventory": "/somewhere/hosts.json",
        }
    )
    assert policy.quota_of(999_999) == Quota(cores=8, memory_bytes=2**31)
    assert policy.quota_of(os.getuid()) == Quota(workers=3)
    assert policy.quota_of(4242) == Quota(leases=0)
    assert policy.prices == Prices(core_s=0.25, currency="EUR")
    assert str(policy.inventory) == "/somewhere/hosts.json"


def test_options_say_the_same():
    section = section_from_options(["cores=8,memory=2GiB", "4242:workers=3"], "core_s=0.25,currency=EUR", None)
    policy = Policy.from_mapping(section)
    assert (policy.quota, policy.quotas) == (Quota(cores=8, memory_bytes=2**31), {4242: Quota(workers=3)})
    assert policy.prices == Prices(core_s=0.25, currency="EUR")


@pytest.mark.parametrize(
    ("section", "text"),
    [
        ({"quotta": {}}, "policy knows no quotta"),
        ({"quota": {"core": 1}}, "quota knows no core"),
        ({"quota": 3}, "quota is no table"),
        ({"quota": {"cores": -1}}, "quota.cores=-1 is no limit"),
        ({"quota": {"cores": 1.5}}, "quota.cores=1.5 is no limit"),
        ({"quota": {"cores": True}}, "quota.cores=True is no limit"),
        ({"quota": {"memory": "much"}}, "quota.memory"),
        ({"quotas": {"no-such-user": {}}}, "there is no such user"),
        ({"prices": {"core_s": "free"}}, "prices.core_s='free' is no price"),
        ({"prices": {"byte": -1}}, "prices.byte=-1 is no price"),
        ({"prices": {"core_s": "nan"}}, "is no price"),
    ],
)
def test_wrong_values_are_named_with_a_remedy(section, text):
    with pytest.raises(ConfigError) as caught:
        Policy.from_mapping(section)
    assert text in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("text", ["cores", "cores=", "8"])
def test_options_that_are_no_pairs_are_refused(text):
    with pytest.raises(ConfigError, match="is not NAME=VALUE"):
        section_from_options([text], "", None)


def test_room_is_what_is_left_and_never_negative():
    quota = Quota(cores=5, leases=2)
    item = Item(1, 2, 1)
    assert quota.room(Holding(), item) == (2, 2)
    assert quota.room(Holding(leases=1, workers=9, cores=3, memory_bytes=9), item)[0] == 1
    assert quota.room(Holding(leases=2, cores=3), item) == (0, 0)
    assert quota.room(Holding(leases=3, cores=9), item) == (0, 0)
    assert Quota().never(item) == ""
    assert str(Quota()) == "no limit"


@pytest.mark.parametrize(
    ("cores", "memory_mib", "said"),
    [
        (2, 1024, ""),
        (3, 1, "3 cores of 2"),
        (1, 1025, "1025 MiB of 1024"),
        (3, 2048, "3 cores of 2, 2048 MiB of 1024"),
    ],
)
def test_a_worker_larger_than_the_one_machine_is_named(cores, memory_mib, said):
    worker = Item(1, cores, memory_mib << 20)
    assert Policy(machine=(2, 1 << 30)).larger_than_machine(worker).endswith(said)
    assert bool(Policy(machine=(2, 1 << 30)).larger_than_machine(worker)) is bool(said)
    assert Policy().larger_than_machine(worker) == ""
