"""Search spaces: the grammar, its refusals word for word, YAML's traps, and every space that comes with kdtune."""

from __future__ import annotations

import re
from pathlib import Path

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import search_spaces
from search_spaces import FOLDER, Domain, Space, Value, When, find, load, nearest, parse, searched
from search_spaces.conditions import cells, in_order, reduced, settle
from trainables import methods
from trainables.objective import defaults
from trainables.recipe import RECIPE_KEYS, Recipe
from tuner.samplers import distribution
from tuner.spaces import check_value

PRESETS = sorted(path.stem for path in (FOLDER / "presets").glob("*.yaml"))
OTHER_METHOD = {"studentnet_grid": "kd", "wrn_grid": "kd"}  # as their comments say


def owner(preset: str) -> str:
    """The method of a preset: the longest method's name that its own begins with."""
    known = [name for name in methods.names() if preset.startswith(f"{name}_")]
    return OTHER_METHOD.get(preset) or max(known, key=len)


def yaml_file(folder: Path, content: str | bytes) -> str:
    path = folder / "space.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


@pytest.mark.parametrize(
    ("text", "domain"),
    [
        ("uniform(0, 1)", Domain("uniform", 0, 1)),
        ("loguniform(1e-3, 1)", Domain("loguniform", 1e-3, 1)),
        ("quniform(0, 1, 0.25)", Domain("quniform", 0, 1, 0.25)),
        ("randint(1, 5)", Domain("randint", 1, 5)),
        ("lograndint(1, 1024)", Domain("lograndint", 1, 1024)),
        ("choice(cse, mse)", Domain("choice", values=("cse", "mse"))),
        ("choice('cse', \"mse\")", Domain("choice", values=("cse", "mse"))),
        ("choice(true, False)", Domain("choice", values=(True, False))),
        ("choice(no, off)", Domain("choice", values=("no", "off"))),
        ("grid(1, 2.5, .5e1, -3)", Domain("grid", values=(1, 2.5, 5.0, -3))),
        ("  uniform( 0 ,1 )\n", Domain("uniform", 0, 1)),
    ],
)
def test_every_word(text: str, domain: Domain) -> None:
    """Against domains written out by hand; types too, since 1 is a count and 1.0 is not."""
    found = parse("x", text)
    assert found == domain
    assert isinstance(found, Domain)
    assert [type(v) for v in found.values] == [type(v) for v in domain.values]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("4", 4),
        (" 4.0 ", 4.0),
        ("1e-3", 1e-3),
        ("-2", -2),
        ("true", True),
        ("False", False),
        ("no", "no"),
        ("'adam'", "adam"),
        ('"adam"', "adam"),
        ("two_stage", "two_stage"),
    ],
)
def test_anything_else_is_a_fixed_value(text: str, value: Value) -> None:
    found = parse("x", text)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "unifrom(0, 1)",
            "x: unknown word 'unifrom', did you mean 'uniform'?; known: uniform, loguniform, quniform, randint, "
            "lograndint, choice, grid",
        ),
        (
            "zzz(0, 1)",
            "x: unknown word 'zzz'; known: uniform, loguniform, quniform, randint, lograndint, choice, grid",
        ),
        ("uniform(5, 1)", "x: low must be below high, got uniform(5, 1)"),
        ("uniform(1, 1)", "x: low must be below high, got uniform(1, 1)"),
        ("uniform(1)", "x: uniform must be given 2 finite numbers, got uniform(1)"),
        ("uniform()", "x: uniform must be given 2 finite numbers, got uniform()"),
        ("uniform(0, 1, 2)", "x: uniform must be given 2 finite numbers, got uniform(0, 1, 2)"),
        ("uniform(0, inf)", "x: uniform must be given 2 finite numbers, got uniform(0, inf)"),
        ("uniform(nan, 1)", "x: uniform must be given 2 finite numbers, got uniform(nan, 1)"),
        ("uniform(a, 1)", "x: uniform must be given 2 finite numbers, got uniform(a, 1)"),
        ("uniform(false, 1)", "x: uniform must be given 2 finite numbers, got uniform(false, 1)"),
        ("loguniform(0, 1)", "x: a log scale must start above 0, got loguniform(0, 1)"),
        ("lograndint(0, 9)", "x: a log scale must start above 0, got lograndint(0, 9)"),
        ("randint(0.5, 3)", "x: randint must have whole ends, got randint(0.5, 3)"),
        ("quniform(0, 1)", "x: quniform must be given 3 finite numbers, got quniform(0, 1)"),
        ("quniform(0, 1, 0.3)", "x: the step must divide high - low, got quniform(0, 1, 0.3)"),
        ("quniform(0, 1, 0)", "x: the step must divide high - low, got quniform(0, 1, 0)"),
        ("choice()", "x: choice must list at least one value, got none"),
        ("grid( )", "x: grid must list at least one value, got none"),
        ("grid(1, 2, 1)", "x: grid must list each value once, got grid(1, 2, 1)"),
    ],
)
def test_what_cannot_be_meant_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        parse("x", text)


def test_yaml_never_decides_what_a_value_is(tmp_path: Path) -> None:
    """YAML 1.1 would make `no` False, `1e-3` a word, `0x10` sixteen, `1:30` ninety and a date of a date."""
    text = "a: no\nb: 1e-3\nc: 'off'\nd: 0x10\ne: 1:30\nf: 2024-01-01\ng: uniform(0, 1)  # a comment\nh: ~\n"
    assert load(yaml_file(tmp_path, text)) == {
        "a": "no",
        "b": 1e-3,
        "c": "off",
        "d": "0x10",
        "e": "1:30",
        "f": "2024-01-01",
        "g": Domain("uniform", 0, 1),
        "h": "~",
    }


@pytest.mark.parametrize("text", ["", "\n", "# nothing but a comment\n"])
def test_an_empty_file_is_an_empty_space(tmp_path: Path, text: str) -> None:
    assert load(yaml_file(tmp_path, text)) == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: 1\na: 2\n", "each hyperparameter once, got 'a' twice in"),
        ("a:\n  b: 1\n", "when: {key: value}}`, got a nested one in"),
        ("a: [1, 2]\n", "when: {key: value}}`, got a nested one in"),
        ("[1, 2]: a\n", "when: {key: value}}`, got a nested one in"),
        ("- a\n- b\n", "lines of `name: domain`, got something else in"),
        ("just words\n", "lines of `name: domain`, got something else in"),
        ("a: 'open\n", "must be YAML, got"),
        ("a: b: c\n", "must be YAML, got"),
        ("a: 1\n--- \nb: 2\n", "must be YAML, got"),
        ("\ta: 1\n", "must be YAML, got"),
        (b"\x89PNG\r\n\x1a\n\x00\x00\xff\xfe", "must be YAML, got"),
        (b"a: \x00\n", "must be YAML, got"),
        ("a: uniform(2, 1)\n", "a: low must be below high, got uniform(2, 1)"),
    ],
)
def test_a_broken_file_is_refused_in_one_line(
    tmp_path: Path, content: str | bytes, message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        load(yaml_file(tmp_path, content))
    assert "\n" not in str(caught.value)


def test_yaml_cannot_run_code(tmp_path: Path) -> None:
    """The classic: a tag that makes a loader call a function."""
    text = f'a: !!python/object/apply:pathlib.Path.touch ["{tmp_path / "ran"}"]\n'
    with pytest.raises(ValueError, match="nested"):
        load(yaml_file(tmp_path, text))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("source", ["kdd", "no/such/file.yaml", "x" * 5000, "."])
def test_an_unknown_space_names_the_nearest(source: str) -> None:
    with pytest.raises(
        ValueError, match=r"must be a YAML file or one of ab, at, .*got '"
    ) as caught:
        find(source)
    assert str(caught.value).endswith(", did you mean 'kd'?") == (source == "kdd")


def test_nearest() -> None:
    assert nearest("temprature", ["alpha", "temperature"]) == ", did you mean 'temperature'?"
    assert nearest("zzz", ["alpha", "temperature"]) == nearest("zzz", []) == ""


WORDS = st.from_regex(r"[a-z_]{1,8}", fullmatch=True).filter(
    lambda w: w not in ("true", "false", "nan", "inf")
)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.one_of(WORDS, FLOATS, st.integers(-(10**9), 10**9))


@st.composite
def domains(draw: st.DrawFn) -> Domain:
    """Any domain that `parse` can make."""
    word = draw(
        st.sampled_from(
            ["uniform", "loguniform", "randint", "lograndint", "quniform", "choice", "grid"]
        )
    )
    if word in ("choice", "grid"):
        return Domain(
            word, values=tuple(draw(st.lists(VALUES, min_size=1, max_size=4, unique=True)))
        )
    if word in ("randint", "lograndint"):
        ends = st.integers(1 if word == "lograndint" else -(10**12), 10**12)
        low, high = sorted(draw(st.lists(ends, min_size=2, max_size=2, unique=True)))
        return Domain(word, float(low), float(high))
    if word == "quniform":
        low, step = draw(st.integers(-99, 99)) / 8, draw(st.integers(1, 99)) / 8
        return Domain(word, low, low + step * draw(st.integers(1, 20)), step)
    ends = st.floats(1e-300 if word == "loguniform" else -1e300, 1e300)
    low, high = sorted(draw(st.lists(ends, min_size=2, max_size=2, unique=True)))
    return Domain(word, low, high)


@settings(deadline=None, derandomize=True, max_examples=300)
@given(domains())
def test_what_is_shown_can_be_written(domain: Domain) -> None:
    """Identity: parse(str(d)) == d, to the last digit."""
    assert parse("x", str(domain)) == domain


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("uniform(0.0, 1.00)", "uniform(0, 1)"),
        ("loguniform(1e-5,1)", "loguniform(1e-05, 1)"),
        ("uniform(0.12345678, 2)", "uniform(0.12345678, 2)"),
        ("choice(a,1,true)", None),  # true equals 1: one value twice
        ("grid(16384, cse)", "grid(16384, cse)"),
    ],
)
def test_how_a_domain_is_shown(text: str, shown: str | None) -> None:
    if shown is None:
        with pytest.raises(ValueError, match="each value once"):
            parse("x", text)
    else:
        assert str(parse("x", text)) == shown


HOLDS = [
    ("uniform(0, 1)", [0, 0.5, 1], [-0.1, 1.1, "a", True, None, float("nan"), float("inf")]),
    ("loguniform(1, 20)", [1, 20], [0.99, 20.1]),
    ("randint(1, 5)", [1, 4, 4.0], [0, 5, 2.5, "1", True, float("nan"), float("inf")]),
    ("lograndint(2, 8)", [2, 7], [8]),
    ("quniform(0.5, 1, 0.1)", [0.5, 0.6, 0.7, 0.8, 0.9, 1], [0.55, 1.1, 0.4]),
    ("choice(a, b)", ["a"], ["c", 1, None]),
    ("grid(1, 2)", [1, 2.0], [3, "1"]),
]


@pytest.mark.parametrize(("text", "inside", "outside"), HOLDS)
def test_what_a_domain_holds(text: str, inside: list[object], outside: list[object]) -> None:
    """By hand; NaN and infinity lie nowhere."""
    domain = parse("x", text)
    assert isinstance(domain, Domain)
    assert [value for value in inside if not domain.holds(value)] == []
    assert [value for value in outside if domain.holds(value)] == []


@pytest.mark.parametrize(("text", "inside", "outside"), HOLDS)
def test_what_a_sampler_draws_is_held(text: str, inside: object, outside: object) -> None:
    """Against 50 draws of Optuna's random sampler from the same domain."""
    domain = parse("x", text)
    assert isinstance(domain, Domain)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(0))
    drawn = [study.ask({"x": distribution(domain)}).params["x"] for _ in range(50)]
    assert all(domain.holds(value) for value in drawn)


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        ("uniform(0, 1)", (0.0, 1.0)),
        ("quniform(0, 1, 0.5)", (0.0, 1.0)),
        ("randint(1, 5)", (1, 4)),
        ("lograndint(2, 3)", (2, 2)),
        ("choice(a, 2)", ("a", 2)),
    ],
)
def test_ends(text: str, ends: tuple[Value, ...]) -> None:
    """By hand; whole ends are whole numbers, so that a count may be searched with randint."""
    domain = parse("x", text)
    assert isinstance(domain, Domain)
    assert domain.ends() == ends
    assert [type(v) for v in domain.ends()] == [type(v) for v in ends]


def test_searched_leaves_fixed_values_out() -> None:
    space = {"a": Domain("uniform", 0, 1), "b": 4, "c": "word"}
    assert searched(space) == {"a": space["a"]}


def check_space(method: str, space: search_spaces.Space) -> None:
    for name, domain in space.items():
        for value in domain.ends() if isinstance(domain, Domain) else (domain,):
            check_value(methods.load(method), name, value)


@pytest.mark.parametrize("name", methods.names())
def test_a_methods_space(name: str) -> None:
    """It is there, searches only what the method or the recipe knows, legally, around the published default."""
    space = load(name)
    check_space(name, space)
    known = {**defaults(methods.load(name)), **vars(Recipe())}
    assert set(space) <= set(known)
    assert searched(space)
    assert {n for n, d in searched(space).items() if not d.holds(known[n])} == set()


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_is_legal_for_its_method(preset: str) -> None:
    space = load(preset)
    check_space(owner(preset), space)
    text = find(preset).read_text(encoding="utf-8")
    assert text.startswith("#"), "a preset says where its numbers come from"
    assert {d.word for d in searched(space).values()} <= {"grid"}


def test_spaces_and_methods_are_the_same_list() -> None:
    """A method without a space, or a space without a method, is a forgotten file."""
    assert search_spaces.names() == (*methods.names(), *PRESETS)
    assert len(set(search_spaces.names())) == len(search_spaces.names())


def test_published_grids() -> None:
    """Cells as in the sources: 5 temperatures x 5 shares, and 4 x 4 with hard shares 0.2 to 0.8 turned round."""
    vgg, wrn = load("studentnet_grid"), load("wrn_grid")
    assert vgg == {
        "temperature": Domain("grid", values=(1, 2, 4, 8, 16)),
        "alpha": Domain("grid", values=(0.1, 0.3, 0.5, 0.7, 0.9)),
    }
    assert wrn["temperature"] == Domain("grid", values=(2, 4, 8, 16))
    assert isinstance(wrn["alpha"], Domain)
    assert [round(1 - float(a), 1) for a in wrn["alpha"].values] == [0.2, 0.4, 0.6, 0.8]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("batch_size", "uniform(16, 64)", "batch_size must be a whole number, got 16.0"),
        ("batch_size", "64.0", "batch_size must be a whole number, got 64.0"),
        ("epochs", "inf", "epochs must be a whole number, got inf"),
        ("epochs", "true", "epochs must be a whole number, got True"),
        ("lr", "inf", "lr must be a finite number, got inf"),
        ("lr", "nan", "lr must be a finite number, got nan"),
        ("lr", "fast", "lr must be a finite number, got 'fast'"),
        ("lr", "uniform(0, 1)", "lr must be above 0, got 0.0"),
        ("weight_decay", "-1", "weight_decay must be 0 or more, got -1"),
        ("momentum", "uniform(0, 1)", "momentum must be below 1, got 1.0"),
        ("optimizer", "sdg", "optimizer must be one of sgd, adam, adamw, got 'sdg'"),
        (
            "augment",
            "flip",
            "augment must be one of none, crop_flip, crop_flip_rotate, randaugment, got 'flip'",
        ),
        ("temperature", "nan", "temperature must be a finite number, got nan"),
        ("temperature", "uniform(0, 1)", "temperature must be above 0, got 0.0"),
        ("alpha", "1.01", "alpha must be from 0 to 1, got 1.01"),
        ("alpha", "true", "alpha must be a finite number, got True"),
        ("mode", "kl", "mode must be one of cse, mse, mse_logit, got 'kl'"),
        ("standardize", "1", "standardize must be true or false, got 1"),
        (
            "temprature",
            "4",
            "unknown space key 'temprature', did you mean 'temperature'?; known: temperature",
        ),
    ],
)
def test_values_out_of_range_are_refused(name: str, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        check_space("kd", {name: parse(name, text)})


@pytest.mark.parametrize(
    ("method", "name", "text"),
    [
        ("crd", "n_negatives", "lograndint(1024, 16385)"),
        ("kd", "batch_size", "randint(16, 65)"),
        ("kd", "batch_size", "choice(16, 32)"),
        ("kd", "epochs", "40"),
        ("kd", "warmup_fraction", "uniform(0, 0.5)"),
        ("kd", "weight_decay", "0"),
        ("kd", "alpha", "uniform(0, 1)"),
    ],
)
def test_what_is_legal_is_let_through(method: str, name: str, text: str) -> None:
    """Counts through the integer words above all."""
    check_space(method, {name: parse(name, text)})
    assert name in (*RECIPE_KEYS, *defaults(methods.load(method)))


@pytest.mark.parametrize(
    ("text", "when"),
    [
        ("loguniform(1, 20) when mode=kl", (("mode", ("kl",)),)),
        ("uniform(0, 1) when mode=kl|mse, group=2", (("mode", ("kl", "mse")), ("group", (2,)))),
        ("choice(1, 2) when flag=true", (("flag", (True,)),)),
    ],
)
def test_conditions(text: str, when: When) -> None:
    """By hand; what is shown can be written."""
    found = parse("x", text)
    assert isinstance(found, Domain)
    assert found.when == when
    assert parse("x", str(found)) == found


def test_conditions_in_a_file(tmp_path: Path) -> None:
    """The same as in --set; a list where several values will do."""
    text = (
        "mode: choice(kl, mse, no)\n"
        "temperature: {space: 'loguniform(1, 20)', when: {mode: kl}}\n"
        "alpha:\n  space: uniform(0, 1)\n  when:\n    mode: [kl, no]\n"
    )
    space = load(yaml_file(tmp_path, text))
    assert space["temperature"] == parse("temperature", "loguniform(1, 20) when mode=kl")
    assert space["alpha"] == parse("alpha", "uniform(0, 1) when mode=kl|no")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: {space: 'uniform(0, 1)'}\n", "got a nested one in"),
        ("a: {space: 'uniform(0, 1)', when: {}}\n", "got a nested one in"),
        ("a: {space: 'uniform(0, 1)', when: kl}\n", "got a nested one in"),
        ("a: {space: 'uniform(0, 1)', when: {b: {c: d}}}\n", "got a nested one in"),
        ("a: {space: 'uniform(0, 1)', when: {b: c}, or: d}\n", "got a nested one in"),
        ("a: {space: 4, when: {b: c}}\n", "a: a condition must follow what is searched, got 4"),
        ("a: uniform(0, 1) when b\n", "a: a condition must be KEY=VALUE, got 'b'"),
    ],
)
def test_a_broken_condition_is_refused_in_one_line(
    tmp_path: Path, content: str, message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        load(yaml_file(tmp_path, content))
    assert "\n" not in str(caught.value)


def domains_of(**texts: str) -> dict[str, Domain]:
    return searched({name: parse(name, text) for name, text in texts.items()})


def test_conditions_are_looked_at_in_their_order() -> None:
    """A chain written backwards: c asks for b, b for a; a name without a condition keeps its place."""
    chain = domains_of(
        c="choice(5, 6) when b=3", b="choice(3, 4) when a=1", z="uniform(0, 1)", a="choice(1, 2)"
    )
    assert in_order(chain) == ["z", "a", "b", "c"]


@pytest.mark.parametrize(
    ("a", "known_b", "expected"),
    [
        (1, 4, {"c": 5, "b": 3, "a": 1}),
        (2, 4, {"a": 2}),
        (2, 3, {"c": 5, "a": 2}),
    ],
)
def test_settle(a: int, known_b: int, expected: dict[str, int]) -> None:
    """By hand: without its own condition b has its published value, and c goes by that."""
    chain = domains_of(c="choice(5, 6) when b=3", b="choice(3, 4) when a=1", a="choice(1, 2)")
    drawn = {"a": a, "b": 3, "c": 5}
    assert settle(chain, {"b": known_b}, lambda name, _: drawn[name]) == expected


def test_cells_are_the_combinations_that_can_be() -> None:
    """By hand: (1, 3), (1, 4), 2; without conditions the product, the first name's value changing slowest."""
    found = cells(domains_of(a="grid(1, 2)", b="grid(3, 4) when a=1"), {"b": 3})
    assert found == [{"a": 1, "b": 3}, {"a": 1, "b": 4}, {"a": 2}]
    plain = cells(domains_of(a="grid(1, 2)", b="grid(3, 4)"), {})
    assert [tuple(cell.values()) for cell in plain] == [(1, 3), (1, 4), (2, 3), (2, 4)]


def test_reduced() -> None:
    """What fixed values and defaults settle is no condition any more, or no dimension."""
    space: Space = {
        "fixed": "x",
        "a": parse("a", "uniform(0, 1) when fixed=x, usual=u"),
        "b": parse("b", "uniform(0, 1) when fixed=y"),
        "c": parse("c", "choice(1, 2)"),
        "d": parse("d", "uniform(0, 1) when fixed=x, c=2"),
    }
    found = reduced(space, {"usual": "u"})
    assert {name: str(domain) for name, domain in found.items()} == {
        "fixed": "x",
        "a": "uniform(0, 1)",
        "c": "choice(1, 2)",
        "d": "uniform(0, 1) when c=2",
    }
