"""What kinds of functions there are: each goes to a worker and does there what it does at home.

One program is run as a script, from standard input and cell by cell as notebooks do, where `__main__` has no file.
"""

import os
import subprocess
import sys

import pytest

TIMEOUT_S = 60

PROGRAM = """
import contextlib, dataclasses, enum, functools, operator, typing
import rfaas

ex = rfaas.Executor(1, allocator="embedded")
def call(function, *args, **kwargs):
    return ex.submit(function, *args, **kwargs).result(60)

# %%
offset = 10
def by_value(x, *, scale=2):
    return x * scale + offset
print("function", call(by_value, 1), call(by_value, 1, scale=3))
print("lambda", call(lambda x: x + offset, 1))
def adder(n):
    def add(x):
        return x + n
    return add
print("closure", call(adder(5), 1), call(adder(6), 1))
def fib(n):
    return n if n < 2 else fib(n - 1) + fib(n - 2)
print("recursion", call(fib, 10))

# %%
class Point:
    made = 0
    def __init__(self, x):
        self.x = x
    def moved(self, by):
        return Point(self.x + by)
    def __add__(self, other):
        assert isinstance(other, Point), type(other)
        return Point(self.x + other.x)
    @staticmethod
    def zero():
        return Point(0)
    @classmethod
    def of(cls, x):
        assert cls is Point
        return cls(x)
    def __call__(self, y):
        return self.x * y
class Child(Point):
    def moved(self, by):
        return super().moved(2 * by)
def is_point(value):
    return isinstance(value, Point), type(value).__name__

there = call(Point(1).moved, 2)
print("bound method", there.x, isinstance(there, Point), type(there) is Point)
print("instance there", call(is_point, Point(1)), call(is_point, Child(1)), call(is_point, 1))
print("instances in containers", [p.x for p in call(list, {"a": Point(3), "b": Point(4)}.values())])
print("operator", call(operator.add, Point(1), Point(2)).x)
print("super", call(Child(1).moved, 1).x)
print("static", call(Point.zero).x, "class", call(Point.of, 7).x, "child class", call(Child(8).moved, 0).x)
print("callable object", call(Point(3), 5))
print("class itself", call(Point, 9).x, call(dict, a=1))

# %%
class Colour(enum.Enum):
    RED = 1
@dataclasses.dataclass
class Pair:
    left: int
    right: "Pair | None" = None
class Named(typing.NamedTuple):
    n: int
print("enum", call(lambda c: (c is Colour.RED, c), Colour.RED) == (True, Colour.RED))
print("dataclass", call(lambda p: p, Pair(1, Pair(2))) == Pair(1, Pair(2)))
print("namedtuple", call(lambda n: Named(n.n + 1), Named(1)) == Named(2))
class Wrong(Exception):
    def __init__(self, code):
        super().__init__(code)
        self.code = code
def fail():
    raise Wrong(42)
try:
    call(fail)
except Wrong as error:
    print("exception", error.code, "in fail" in str(error.__cause__))

# %%
def twice(function):
    @functools.wraps(function)
    def wrapper(*args):
        return 2 * function(*args)
    return wrapper
@twice
def one(x):
    "docstring"
    return x
print("wraps", call(one, 4), one.__wrapped__(4))
@functools.lru_cache(maxsize=7)
def cached(x):
    return x + offset
print("lru_cache", call(cached, 1), call(cached, 1), call(lambda: cached.cache_info() and cached(1)), end=" ")
print(call(lambda f: f.cache_info().hits, cached))
@functools.singledispatch
def kind(value):
    return "object"
@kind.register
def _(value: int):
    return "int"
print("singledispatch", call(kind, 1), call(kind, "s"))
@contextlib.contextmanager
def opened():
    yield "open"
def use():
    with opened() as state:
        return state
print("contextmanager", call(use))
print("partial", call(functools.partial(by_value, scale=5), 1))
print("partial of partial", call(functools.partial(functools.partial(pow, 2), 5)))
print("partial of method", call(functools.partial(Point(1).moved, by=4)).x)
print("builtin", call(len, [1, 2]), "method of builtin", call("a-b".split, "-"))
print("map", list(ex.map(lambda x: x * offset, range(3))), list(ex.map(Point(2), range(4), chunksize=2)))
ex.shutdown()
"""

EXPECTED = """\
function 12 13
lambda 11
closure 6 7
recursion 55
bound method 3 True True
instance there (True, 'Point') (True, 'Child') (False, 'int')
instances in containers [3, 4]
operator 3
super 3
static 0 class 7 child class 8
callable object 15
class itself 9 {'a': 1}
enum True
dataclass True
namedtuple True
exception 42 True
wraps 8 4
lru_cache 11 11 11 0
singledispatch int object
contextmanager open
partial 15
partial of partial 32
partial of method 5
builtin 2 method of builtin ['a', 'b']
map [0, 10, 20] [0, 2, 4, 6]
"""

NOTEBOOK = """
import sys, types
main = sys.modules["__main__"] = types.ModuleType("__main__")  # as in IPython: nobody's file
main.__dict__.update(In=[""], Out={}, get_ipython=lambda: None)
for number, cell in enumerate(open(sys.argv[1]).read().split("# %%"), 1):
    main.In.append(cell)
    exec(compile(cell, f"<ipython-input-{number}-0123456789ab>", "exec"), main.__dict__)
"""


@pytest.mark.parametrize("how", ["script", "standard input", "notebook"])
def test_functions_of_every_kind_do_there_what_they_do_here(how, tmp_path):
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    command = {"script": [str(path)], "standard input": ["-"], "notebook": ["-c", NOTEBOOK, str(path)]}[how]
    done = run(command, PROGRAM if how == "standard input" else "", tmp_path)
    assert done.stdout.splitlines() == EXPECTED.splitlines(), done.stderr
    assert done.stderr == ""


def run(command, text, cwd):
    return subprocess.run(
        [sys.executable, *command],
        input=text,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        cwd=cwd,
        env=dict(os.environ),
        check=False,
    )


CHANGES = """
import rfaas
ex = rfaas.Executor(1, allocator="embedded")
def call(function, *args):
    return ex.submit(function, *args).result(60)

limit = 1
def read(): return limit
def bump():
    global limit
    limit += 1
    return limit
print("first", call(read))
limit = 2
print("after a change here", call(read), "here", read())
def read(): return limit
print("defined anew", call(read))
print("changes there stay there", call(bump), call(bump), "here", limit)

def make():
    level = 1
    def inner(): return level
    def rise():
        nonlocal level
        level += 1
    return inner, rise
inner, rise = make()
print("a closure", call(inner), end=" ")
rise()
print(call(inner), "here", inner())

counter = 0
def inc():
    global counter
    counter += 1
    return counter
def get(): return counter
def both(): return inc(), get()
print("globals of each function", call(inc), call(inc), call(get), call(both), "here", counter)

table = {"a": 1}
def look(key): return table.get(key)
print("a filled table", call(look, "b"), end=" ")
table["b"] = 2
print(call(look, "b"), "passed", call(lambda table: table["b"], table))

def answer(): return "old"
old = answer
print(call(answer), end=" ")
def answer(): return "new"
print(call(answer), call(old))
print("as an argument", call(lambda f: f(), answer))

class Shape:
    sides = 3
def sides(): return Shape.sides
print("class", call(sides), end=" ")
class Shape:
    sides = 4
print("redefined", call(sides), end=" ")
def sides(): return Shape.sides
print("and its function too", call(sides))

def default(x=[]):
    x.append(1)
    return len(x)
print("a default lives on the worker", call(default), call(default), "here", len(default.__defaults__[0]))
ex.shutdown()
"""


def test_a_function_has_the_globals_of_its_first_submit_until_it_is_defined_anew(tmp_path):
    done = run(["-"], CHANGES, tmp_path)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "first 1",
        "after a change here 1 here 2",
        "defined anew 2",
        "changes there stay there 3 4 here 2",
        "a closure 1 1 here 2",
        "globals of each function 1 2 0 (1, 1) here 0",
        "a filled table None None passed 2",
        "old new old",
        "as an argument new",
        "class 3 redefined 3 and its function too 4",
        "a default lives on the worker 1 2 here 0",
    ]


CLASSES = """
import abc, enum, rfaas
ex = rfaas.Executor(1, allocator="embedded")
def call(function, *args):
    return ex.submit(function, *args).result(60)

class Account:
    total = 0
    registry = []
    def __init__(self, n): self.n = n
    def show(self): return "first"
    def hit(self):
        Account.total += 1
        return Account.total
def hit(): return Account.hit(None)
def make(n): return Account(n)

mine, registry, show = Account, Account.registry, Account.show
for n in range(3):
    made = call(make, n)
    Account.total += 1
    Account.registry.append(made)
print("mine", type(made) is mine, Account.total, len(Account.registry), Account.registry is registry)
print("not even the methods", Account.show is show, end=" ")
Account.show = lambda self: "patched"
print(call(make, 1).show())
print("there", [call(Account(1).hit) for _ in range(3)], [call(hit) for _ in range(2)], "here", Account.total)
print("passing it resets nothing there", call(lambda a: type(a).total, Account(1)), call(hit))

class Child(Account):
    pass
class Base:
    made = []
    def __init_subclass__(cls): Base.made.append(cls.__name__)
class Leaf(Base):
    pass
print("no second subclass", [type(call(Leaf)) is Leaf for _ in range(2)], Base.made)
print("child", type(call(Child, 1)) is Child)

class Shape(abc.ABC):
    count = 0
    def area(self): return 1
Shape.register(int)
class Square(Shape):
    pass
Shape.count = 1
print("abstract", type(call(Square)) is Square, Shape.count, call(lambda s: isinstance(1, Shape), 0))

class Colour(enum.Enum):
    RED = 1
Colour.nick = "here"
print("enum", call(lambda: Colour.RED) is Colour.RED, call(lambda c: c is Colour.RED, Colour.RED), end=" ")
Colour.nick = "changed"
print(call(lambda c: c, Colour.RED) is Colour.RED, Colour.nick)

class Wrong(Exception):
    seen = 0
def fail(): raise Wrong("x")
for _ in range(2):
    try: call(fail)
    except Wrong as error:
        Wrong.seen += 1
        caught = error
print("exception", type(caught) is Wrong, Wrong.seen)

import dataclasses
class Bare:
    __slots__ = ()
class Open(Bare):
    __slots__ = ("__dict__", "__weakref__")
class Slots(Bare):
    __slots__ = ("v", "__hidden")
    def __init__(self, v): self.v = self.__hidden = v
    def both(self): return self.v, self.__hidden
class More(Slots):
    __slots__ = "w"
@dataclasses.dataclass(slots=True, frozen=True)
class Pair:
    left: int
    right: int = 2
def more():
    made = More(4)
    made.w = 5
    return made
def has_dict(x): return hasattr(x, "__dict__")
print("slots", call(Slots, 3).both(), call(more).both(), call(more).w, call(lambda p: p, Pair(1)) == Pair(1), end=" ")
print([call(has_dict, x) for x in (Slots(1), More(1), Pair(1), Open())], call(lambda: type(more())) is More)

old = Account
class Account(Account):
    def show(self): return "anew"
print("defined anew", type(call(lambda: Account(1))) is Account, call(lambda: Account(1)).show(), end=" ")
print(call(lambda a: a.show(), Account(1)), type(call(lambda: old(1))) is mine)
def strange():
    class Local:
        n = 0
        def up(self): Local.n += 1; return Local.n
    return Local()
local = call(strange)
print("made there", local.up(), local.up(), type(call(lambda l: l, local)) is type(local), local.up())
ex.shutdown()
"""


def test_a_class_that_is_at_the_receiver_already_stays_as_it_is(tmp_path):
    done = run(["-"], CLASSES, tmp_path)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "mine True 3 3 True",
        "not even the methods True patched",
        "there [1, 2, 3] [4, 5] here 3",
        "passing it resets nothing there 5 6",
        "no second subclass [True, True] ['Leaf']",
        "child True",
        "abstract True 1 True",
        "enum True True True changed",
        "exception True 2",
        "slots (3, 3) (4, 4) 5 True [False, False, False, True] True",
        "defined anew True anew anew True",
        "made there 1 2 True 3",
    ]
