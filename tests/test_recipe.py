"""Recipes: reading, writing, varying, and what is said of mistakes."""

import json
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from granet.errors import RecipeError, UnknownNameError
from granet.methods import METHODS
from granet.recipe import Duration, Recipe, build_method

STEPS_PER_EPOCH = {"cifar10": 351, "cifar100": 351, "imagenet": 9909, "quickstart": 140}
# The tests below count in its epochs and steps, which tuning of the catalog must not disturb.
QUICKSTART = Recipe.load("quickstart").override({"training.epochs": 6, "method.end": "3ep"})


def refusal(call) -> str:
    with pytest.raises(RecipeError) as caught:
        call()
    return str(caught.value)


def refused(**settings) -> str:
    """What is said of the quickstart with these settings; ``method__density`` is method.density."""
    return refusal(lambda: QUICKSTART.override({key.replace("__", "."): value for key, value in settings.items()}))


def refused_in_time(**settings) -> str:
    changed = QUICKSTART.override({key.replace("__", "."): value for key, value in settings.items()})
    return refusal(lambda: build_method(changed, steps_per_epoch=100))


# --- the catalog ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", Recipe.names())
def test_every_recipe_of_the_catalog_is_whole(name):
    recipe = Recipe.load(name)
    assert recipe.name == name
    assert recipe.description
    method = build_method(recipe, STEPS_PER_EPOCH[name.partition("-")[0]])
    assert method.final_density() == (1.0 if "-rewinding" in name or "-dense" in name else 0.1)


def test_the_catalog_covers_the_set_ups_of_the_papers():
    cifar = {
        f"{data}-{network}-{method}"
        for data in ("cifar10", "cifar100")
        for network in ("resnet50", "vgg19")
        for method in ("granet", "granet-s2s", "rigl", "rigl-itop", "gmp")
    }
    imagenet = {
        f"imagenet-resnet50-{method}{length}"
        for method in ("granet", "granet-s2s", "rigl", "rigl-itop", "gmp", "dense")
        for length in ("", "-250")
    }
    assert set(Recipe.names()) == cifar | imagenet | {"quickstart", "cifar10-resnet56-rewinding"}


def test_recipes_of_one_comparison_differ_only_in_the_method():
    one, other = Recipe.load("cifar10-vgg19-granet"), Recipe.load("cifar10-vgg19-rigl")
    different = {key.partition(".")[0] for key, _, _ in one.differences(other)}
    assert different == {"name", "description", "method"}


@pytest.mark.parametrize("method", ["granet", "granet-s2s", "rigl", "rigl-itop", "gmp", "dense"])
def test_the_longer_imagenet_recipes_are_the_shorter_ones_stretched(method):
    short, long = Recipe.load(f"imagenet-resnet50-{method}"), Recipe.load(f"imagenet-resnet50-{method}-250")
    assert {key for key, _, _ in short.stretched(250).differences(long)} == {"name", "description"}


@pytest.mark.parametrize("name", [name for name in Recipe.names() if name.startswith("imagenet-")])
def test_imagenet_recipes_have_the_numbers_of_the_papers(name):
    recipe, factor = Recipe.load(name), 2.5 if name.endswith("-250") else 1.0
    data, optimizer, schedule, training = recipe.data, recipe.optimizer, recipe.schedule, recipe.training
    assert recipe.model.name == "torchvision:resnet50"
    assert (data.image_size, data.augment) == (224, "resized-crop-flip")
    assert (optimizer.learning_rate, optimizer.momentum, optimizer.nesterov) == (0.1, 0.9, False)
    assert (optimizer.weight_decay, optimizer.decay_norms_and_biases) == (1e-4, False)
    assert [float(time.amount) for time in schedule.milestones] == [30 * factor, 60 * factor, 90 * factor]
    assert (schedule.gamma, float(schedule.warmup.amount)) == (0.1, 5 * factor)
    assert (training.epochs, training.batch_size, training.label_smoothing) == (100 * factor, 128, 0.1)
    method, steps = build_method(recipe, STEPS_PER_EPOCH["imagenet"]), STEPS_PER_EPOCH["imagenet"] * factor
    expected = {
        "granet": {"initial_density": 1.0, "end": 30 * steps, "interval": 4000, "drop_fraction": 0.5},
        "granet-s2s": {"initial_density": 0.5, "end": 30 * steps, "interval": 4000, "drop_fraction": 0.5},
        "rigl": {"allocation": "erk", "stop": 75 * steps, "interval": 100, "drop_fraction": 0.3},
        "rigl-itop": {"allocation": "erk", "interval": 4000, "drop_fraction": 0.5},
        "gmp": {"start": 0, "end": 30 * steps, "interval": 4000},
        "dense": {},
    }[name.removeprefix("imagenet-resnet50-").removesuffix("-250")]
    assert {key: getattr(method, key) for key in expected} == {
        key: pytest.approx(value, abs=1) if isinstance(value, float) else value for key, value in expected.items()
    }


# --- reading and writing ----------------------------------------------------------------------------------------

printable = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=200)
durations = st.one_of(st.integers(0, 10**6).map("{}it".format), st.decimals(0, 10**4, places=3).map("{}ep".format))
fractions = st.floats(0, 1, exclude_min=True)
sections = {
    "model": st.fixed_dictionaries({"name": printable}),
    "data": st.fixed_dictionaries(
        {"name": printable},
        optional={
            "directory": printable,
            "validation": st.floats(0, 1, exclude_min=True, exclude_max=True),
            "augment": st.sampled_from(["none", "crop", "crop-flip", "resized-crop-flip"]),
            "image_size": st.integers(1, 4096),
            "workers": st.integers(0, 256),
        },
    ),
    "method": st.one_of(
        st.fixed_dictionaries({"name": st.just("dense")}),
        st.fixed_dictionaries(
            {"name": st.sampled_from(["rigl-itop", "set"]), "density": fractions},
            optional={"interval": durations, "allocation": st.just("er"), "dense": st.lists(printable, max_size=3)},
        ),
        st.fixed_dictionaries(
            {"name": st.just("granet"), "density": fractions},
            optional={"start": durations, "end": durations, "drop_fraction": fractions, "growth": st.just("random")},
        ),
    ),
    "optimizer": st.one_of(
        st.fixed_dictionaries({"name": st.sampled_from(["adam", "adamw"]), "learning_rate": fractions}),
        st.fixed_dictionaries(
            {"name": st.just("sgd"), "learning_rate": fractions},
            optional={"momentum": st.floats(0, 1, exclude_max=True), "weight_decay": st.floats(0, 1000)},
        ),
    ),
    "schedule": st.one_of(
        st.fixed_dictionaries({"name": st.sampled_from(["cosine", "constant"])}, optional={"warmup": durations}),
        st.builds(
            lambda milestones: {"name": "multistep", "milestones": [f"{each}ep" for each in sorted(milestones)]},
            st.sets(st.integers(0, 1000), min_size=1),
        ),
    ),
    "training": st.fixed_dictionaries(
        {"epochs": st.integers(1, 100_000), "batch_size": st.integers(1, 10**6)},
        optional={"compile": st.booleans(), "save_every": durations, "precision": st.just("bf16")},
    ),
}
written = st.fixed_dictionaries(
    {"name": printable, **sections}, optional={"description": printable, "seed": st.integers(0, 2**32 - 1)}
)


@given(written)
def test_toml_and_dict_give_the_recipe_back(data):
    recipe = Recipe.from_dict(data)
    text = recipe.to_toml()
    assert Recipe.from_toml(text) == recipe
    assert Recipe.from_toml(text).to_toml() == text
    assert Recipe.from_dict(json.loads(json.dumps(recipe.as_dict()))) == recipe


def test_equal_recipes_have_equal_hashes():
    again = Recipe.from_toml(QUICKSTART.to_toml())
    assert hash(again) == hash(QUICKSTART)
    assert hash(again.override({"method.density": 0.3})) != hash(QUICKSTART)


def test_the_longest_recipe_can_still_be_read_back():
    longest = QUICKSTART.override(
        {
            "name": "\U0001f600" * 200,
            "description": "\U0001f600" * 500,
            "data.directory": "\U0001f600" * 4096,
            "method.dense": ["\U0001f600" * 200] * 50,
        }
    )
    assert Recipe.from_toml(longest.to_toml()) == longest


def test_a_resolved_recipe_lists_defaults_of_the_settings_it_has():
    schedule = QUICKSTART.as_dict()["schedule"]
    assert schedule == {"name": "cosine", "final_learning_rate": 0.0, "warmup": "0.5ep"}


def test_a_path_is_what_looks_like_one(tmp_path):
    mine = tmp_path / "mine.toml"
    mine.write_text(QUICKSTART.to_toml())
    assert Recipe.load(mine) == Recipe.load(str(mine)) == QUICKSTART


def test_an_unknown_recipe_is_answered_with_the_nearest():
    with pytest.raises(UnknownNameError, match=r"unknown recipe 'quikstart'\. Did you mean 'quickstart'"):
        Recipe.load("quikstart")


def test_a_byte_order_mark_is_ignored(tmp_path):
    file = tmp_path / "windows.toml"
    file.write_text(QUICKSTART.to_toml(), encoding="utf-8-sig")
    assert Recipe.load(file) == QUICKSTART


def test_files_that_are_not_recipes_are_refused(tmp_path):
    large, binary, broken = tmp_path / "large.toml", tmp_path / "binary.toml", tmp_path / "broken.toml"
    large.write_text("#" * (64 * 1024 + 1))
    binary.write_bytes(b"name = '\xff'")
    broken.write_text("name = \n")
    assert refusal(lambda: Recipe.load(tmp_path / "none.toml")).startswith(f"{tmp_path}/none.toml: no such file")
    assert "not a file" in refusal(lambda: Recipe.load(tmp_path))
    assert refusal(lambda: Recipe.load(large)) == f"{large}: too large for a recipe; expected at most 65536 bytes"
    assert refusal(lambda: Recipe.load(binary)) == f"{binary}: not UTF-8 text"
    assert "broken.toml: not valid TOML: Invalid value (at line 1, column 8)" in refusal(lambda: Recipe.load(broken))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "seed = 0x" + "f" * 60_000,
        "seed = " + "9" * 5_000,
        "x = " + "[" * 60_000,
        '"' + "k" * 60_000 + '" = 1',
        "".join(f"k{index} = 1\n" for index in range(5_000)),
        "name = 1979-05-27",
        "[[model]]\n[[model]]",
    ],
)
def test_hostile_text_gets_a_short_error(text):
    assert len(refusal(lambda: Recipe.from_toml(text))) < 5_000


@pytest.mark.parametrize("data", [5, [], {"model": 3}, {1: 2}, {"seed": float("nan")}, {"seed": 10**5_000}])
def test_hostile_data_are_refused(data):
    refusal(lambda: Recipe.from_dict(data))


# --- mistakes ---------------------------------------------------------------------------------------------------


def test_an_error_names_file_key_value_and_rule(tmp_path):
    mine = tmp_path / "mine.toml"
    mine.write_text(QUICKSTART.to_toml().replace("epochs = 6", 'epochs = "6"'))
    assert refusal(lambda: Recipe.load(mine)) == (
        f'{mine}: training.epochs: wrong kind of value; got "6"; expected a whole number from 1 to 100000'
    )


def test_every_mistake_is_reported():
    said = refused(training__epochs=0, method__densty=0.1, schedule__name="cosin", sead=1, data__validation=1)
    assert said.splitlines() == [
        "recipe quickstart: several settings are wrong:",
        "  data.validation: out of range; got 1; expected a number above 0 and below 1",
        "  method.densty: unknown setting. Did you mean method.density?",
        '  schedule.name: unknown name; got "cosin"; expected one of multistep, cosine, constant. Did you mean cosine?',
        "  training.epochs: out of range; got 0; expected a whole number from 1 to 100000",
        "  sead: unknown setting. Did you mean seed?",
    ]


def test_a_setting_in_the_wrong_section_is_pointed_to_the_right_one():
    assert refused(schedule__learning_rate=0.1).endswith("Did you mean optimizer.learning_rate?")
    assert refused(density=0.1).endswith("Did you mean method.density?")


def test_what_is_missing_is_named():
    said = refusal(lambda: Recipe.from_toml("name = 'mine'\n[model]\n[method]\nname = 'rigl'"))
    assert "  model.name: missing setting; expected text\n" in said
    assert "  method.density: rigl needs this setting\n" in said
    assert "  training: missing section" in said


@pytest.mark.parametrize("number", ["nan", "inf", "-inf", "0", "1001", "true", '"0.1"'])
def test_numbers_are_finite_bounded_and_numbers(number):
    assert "optimizer.learning_rate: " in refused(optimizer__learning_rate=number)


@pytest.mark.parametrize("density", ["0", "1.5", "-0.1", "nan", pytest.param(10**5_000, id="long"), float("inf")])
def test_density_outside_its_range(density):
    assert refused(method__density=density).startswith("recipe quickstart: method.density: ")


def test_final_density_above_the_initial_one():
    said = refused(method__density=0.8, method__initial_density=0.5)
    assert said.startswith("recipe quickstart: method")
    assert "the final density is above the initial one; got 0.5 to 0.8" in said


def test_an_unknown_method_is_answered_with_the_nearest():
    assert (
        refused(method__name="rigel") == "recipe quickstart: method.name: unknown method 'rigel'. Did you mean 'rigl'?"
    )


def test_settings_that_a_choice_has_no_use_for_are_errors():
    assert 'method.end: rigl has no such setting; got "3ep"; expected one of density,' in refused(method__name="rigl")
    assert refused(optimizer__name="adamw").count("adamw has no such setting") == 2
    assert "schedule.gamma: cosine has no such setting" in refused(schedule__gamma=0.1)
    assert 'cosine has no such setting; got ["1ep", "2ep"]' in refused(schedule__milestones=["1ep", "2ep"])
    assert "method.dense: dense has no such setting" in refusal(
        lambda: QUICKSTART.with_method("dense")[0].override({"method.dense": ["conv1"]})
    )


def test_a_dense_start_has_no_allocation():
    assert "allocation" in refused(method__allocation="erk")


def test_milestones_increase():
    settings = {"schedule.name": "multistep", "schedule.milestones": ["3ep", "3ep"]}
    assert 'schedule.milestones: milestones must increase; got "3ep" before "3ep"' in refusal(
        lambda: QUICKSTART.override(settings)
    )
    mixed = QUICKSTART.override({**settings, "schedule.milestones": ["3ep", "299it"]})
    assert "milestones must increase" in refusal(lambda: build_method(mixed, steps_per_epoch=100))
    build_method(mixed, steps_per_epoch=90)


def test_other_contradictions():
    assert "schedule.final_learning_rate" in refused(schedule__final_learning_rate=0.5)
    assert "optimizer.nesterov: Nesterov needs momentum" in refused(optimizer__momentum=0)
    assert "training.accumulate: more parts than images" in refused(training__accumulate=65)
    assert "schedule.milestones: multistep needs this setting" in refused(schedule__name="multistep")
    assert "method.dense[0]: wrong kind of value" in refused(method__dense=[1])
    assert "name: more than one line" in refused(name="a\nb")


@pytest.mark.parametrize("written", ["80", "1e3it", "soon", "-1ep", 80, True])
def test_durations_need_their_unit(written):
    assert "method.end: not a duration; got" in refused(method__end=written)


# --- durations against the length of training -------------------------------------------------------------------


def test_a_prune_window_past_the_end():
    said = refused_in_time(method__end="6.5ep")
    assert said.startswith('recipe quickstart: method.end: the prune window ends past the end of training; got "6.5ep"')
    assert "step 650 of 600" in said


def test_an_empty_prune_window():
    assert "recipe quickstart: method.start: " in refused_in_time(method__start="3ep")


@pytest.mark.parametrize("interval", ["301it", "3.01ep", "0it", "0.001ep"])
def test_an_interval_that_yields_no_update(interval):
    assert "recipe quickstart: method.interval: " in (said := refused_in_time(method__interval=interval))
    assert f'got "{interval}", ' in said


def test_milestones_warm_up_and_saving_fit_the_training():
    said = refused_in_time(
        method__end="7ep",
        schedule__name="multistep",
        schedule__milestones=["1ep", "601it"],
        schedule__warmup="7ep",
        training__save_every="0.001ep",
    )
    keys = [line.split(":")[0].strip() for line in said.splitlines()[1:]]
    assert keys == ["method.end", "schedule.milestones", "schedule.warmup", "training.save_every"]


def test_every_duration_that_is_out_of_range_is_told():
    said = refused_in_time(method__interval="0it", method__end="0.001ep")
    assert [line.split(":")[0].strip() for line in said.splitlines()[1:]] == ["method.interval", "method.end"]


def test_durations_become_steps():
    method = build_method(QUICKSTART, steps_per_epoch=100)
    assert (method.start, method.end, method.interval) == (0, 300, 20)
    assert QUICKSTART.total_steps(100) == 600


def test_settings_left_out_take_the_defaults_of_the_method():
    plain = QUICKSTART.override({"method.interval": None, "method.drop_fraction": "", "method.end": None})
    assert build_method(plain, steps_per_epoch=1000) == METHODS["granet"](density=0.1)


# --- variations -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("method.interval", "500it", Duration.parse("500it")),
        ("method.interval", '"500it"', Duration.parse("500it")),
        ("training.batch_size", "64", 64),
        ("optimizer.learning_rate", "1e-2", 0.01),
        ("optimizer.learning_rate", "1", 1.0),
        ("training.compile", "true", True),
        ("method.dense", '["conv1.*", "fc"]', ("conv1.*", "fc")),
        ("data.directory", "/data/x", "/data/x"),
        ("data.directory", "2024", "2024"),
        ("data.augment", "crop", "crop"),
        ("model.name", '"torchvision:resnet18"', "torchvision:resnet18"),
        ("description", "true\n[training]\nepochs = 1", None),
    ],
)
def test_overrides_mean_what_the_command_line_says(key, text, value):
    if value is None:
        assert "more than one line" in refusal(lambda: QUICKSTART.override({key: text}))
        return
    section, _, leaf = key.partition(".")
    assert getattr(getattr(QUICKSTART.override({key: text}), section), leaf) == value


def test_overriding_leaves_the_original_alone():
    changed = QUICKSTART.override({"seed": "7", "optimizer.weight_decay": 0})
    assert changed.differences(QUICKSTART) == [("seed", 7, 0), ("optimizer.weight_decay", 0.0, 0.0005)]
    assert QUICKSTART.override({}) == QUICKSTART


def test_changing_the_optimizer_requires_removing_settings_it_does_not_have():
    settings = {"optimizer.name": "adam", "optimizer.momentum": "", "optimizer.nesterov": ""}
    assert QUICKSTART.override(settings).as_dict()["optimizer"]["name"] == "adam"


def test_changing_the_method_writes_no_setting_that_was_not_given():
    """What was not written need not be taken away either when the optimizer changes too."""
    changed, _ = QUICKSTART.override({"optimizer.nesterov": ""}).with_method("rigl")
    settings = {"optimizer.name": "adam", "optimizer.momentum": ""}
    assert changed.override(settings).as_dict()["optimizer"]["name"] == "adam"


def test_stretching_keeps_the_course_in_proportion():
    recipe = Recipe.load("cifar10-resnet50-granet").override({"training.save_every": "1ep", "schedule.warmup": "5ep"})
    short = recipe.stretched(8)
    assert [(key, new) for key, new, _ in short.differences(recipe)] == [
        ("method.end", "4ep"),
        ("schedule.milestones", ["4ep", "6ep"]),
        ("schedule.warmup", "0.25ep"),
        ("training.epochs", 8),
    ]
    assert short.stretched(160) == recipe
    assert "training.epochs" in refusal(lambda: recipe.stretched(0))


@pytest.mark.parametrize("first", METHODS)
@pytest.mark.parametrize("second", METHODS)
def test_every_method_can_follow_every_other(first, second):
    one, _ = QUICKSTART.with_method(first)
    other, _ = one.with_method(second, density=0.1) if second != "dense" else one.with_method(second)
    assert type(build_method(other, steps_per_epoch=1000)) is METHODS[second]


def test_changing_the_method_keeps_shared_settings_and_reports_dropped_ones():
    recipe = Recipe.load("cifar10-resnet50-granet-s2s")
    changed, dropped = recipe.with_method("rigl")
    assert dropped == ("initial_density", "start", "end")
    assert changed.method.density == 0.1
    assert (changed.method.allocation, changed.method.interval) == ("erk", Duration.parse("1000it"))
    assert recipe.with_method("granet") == (recipe, ())


def test_changing_the_method_drops_a_setting_that_the_new_one_refuses():
    changed, dropped = Recipe.load("cifar10-resnet50-rigl").with_method("granet")
    assert dropped == ("stop", "allocation")
    assert changed.method.density == 0.1


def test_changing_the_method_requires_its_required_settings():
    dense, _ = QUICKSTART.with_method("dense")
    assert "method.density: static needs this setting" in refusal(lambda: dense.with_method("static"))
    with pytest.raises(UnknownNameError):
        dense.with_method("statik")


# --- what readers are shown -------------------------------------------------------------------------------------


def test_every_setting_is_described():
    settings = Recipe.settings()
    assert all(setting.description for setting in settings.values())
    assert settings["data.validation"].expected == "a number above 0 and below 1"
    assert settings["training.precision"].choices == ("auto", "fp32", "bf16", "fp16")


def test_every_setting_of_every_method_can_be_written():
    known = set(Recipe.settings())
    assert {f"method.{field.name}" for method in METHODS.values() for field in fields(method)} <= known


def test_a_key_that_would_take_the_reader_seconds_is_refused_at_once() -> None:
    with pytest.raises(RecipeError, match="too many dots in a line"):
        Recipe.from_toml("a" + ".a" * 30_000 + " = 1", where="hostile.toml")
