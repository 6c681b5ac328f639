"""Search spaces: what a file may say, and one sentence for everything it may not."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest

from cdal.data import open_dataset
from cdal.errors import InputError
from cdal.plain_yaml import read_yaml_with_lines
from tune.proposing import Space, from_optuna, to_optuna
from tune.proposing.space import FOLDER, load, parse, shipped
from tune.search import main

GOOD = """
dataset: {name: phantom, size: 16}
preset: hippocampus
fixed:
  training.epochs: 2
  model.width_multipliers: [1, 1]
parameters:
  diffusion.timesteps: {values: [2, 4]}
  model.latent_size: {min: 8, max: 64, distribution: int_log_uniform}
  optimiser.lr_generator: {min: 1e-4, max: 1e-2, distribution: log_uniform}
  model.attention_resolutions: {values: [[8], [16, 8]]}
"""

CONDITIONAL = """
dataset: {name: phantom, size: 16}
fixed: {training.epochs: 2, training.precision: fp32}
parameters:
  loss.r1_gamma:
    {min: 0.1, max: 10, condition: {loss.attention: {min: 0.2, max: 0.8}, loss.attention_normalised: true}}
  loss.attention_normalised: {values: [false, true], condition: {loss.attention: {min: 0.1}}}
  loss.attention: {values: [0, 0.5, 1], condition: {model.architecture: cdal}}
  model.architecture: {values: [cdal, unet]}
  model.latent_size: {min: 8, max: 64, distribution: int, condition: {model.architecture: [cdal], training.precision: fp32}}
  optimiser.lr_generator: {min: 1e-4, max: 1e-2, condition: {training.precision: bf16}}
"""

# kind: the text, the line that the message names (0: none), what it says
WRONG = {
    "no mapping": ("- a\n- b", 0, "the file is ['a', 'b']"),
    "empty": ("", 0, "the file is None"),
    "not yaml": ("a: [1, 2", 1, "expected ',' or ']'"),
    "two documents": (GOOD + "---\na: 1\n", 12, "found another document"),
    "binary": (GOOD + "\0\1\2", 12, r"the character '\x00' has no place in YAML"),
    "deep nesting": (GOOD + "extra: " + "[" * 90_000, 12, "more than 20 levels deep"),
    "deep nesting in blocks": ("- " * 40_000, 1, "more than 20 levels deep"),
    "unknown section": (GOOD + "extra: 1\n", 12, "unknown key 'extra'"),
    "unknown section of a strange name": (GOOD + '"a\\nb": 1\n', 12, r"unknown key 'a\nb'"),
    "number as a section": (GOOD + "7: 1\n", 12, "the key '7' is no text"),
    "list as a key": (GOOD + "? [a]\n: 1\n", 12, "cannot be a key"),
    "duplicate key": (GOOD + "preset: monuseg\n", 12, "the key 'preset' appears twice"),
    "duplicate parameter": (GOOD + "  loss.r1_gamma: {min: 1, max: 2}\n  loss.r1_gamma: {min: 1, max: 3}\n", 13, "appears twice"),
    "alias": ("a: &a [1]\nb: *a\n", 2, "aliases"),
    "merge key": (GOOD.replace("training.epochs: 2", "<<: {training.epochs: 2}"), 5, "merge keys (<<) are not supported"),
    "tag": ("dataset: !!python/object:os.system x\n", 1, "tags ('tag:yaml.org,2002:python/object:os.system')"),
    "impossible date": (GOOD.replace("epochs: 2", "epochs: 2001-99-99"), 5, "'2001-99-99' is not a valid date or number"),
    "endless number": (GOOD.replace("epochs: 2", "epochs: 1" + "0" * 50), 5, "is too large"),
    "unknown dataset": (GOOD.replace("name: phantom", "name: fantom"), 2, "dataset is 'fantom'"),
    "unknown preset": (GOOD.replace("preset: hippocampus", "preset: brain"), 3, "unknown preset 'brain'"),
    "preset is a list": (GOOD.replace("preset: hippocampus", "preset: [a]"), 3, "preset is ['a']"),
    "unknown fixed": (GOOD.replace("training.epochs", "training.epoch"), 5, "did you mean training.epochs?"),
    "unknown parameter": (GOOD.replace("diffusion.timesteps", "diffusion.steps"), 8, "parameters.diffusion.steps is no field"),
    "fixed and searched": (GOOD.replace("training.epochs: 2", "diffusion.timesteps: 2"), 8, "both in fixed and in parameters"),
    "fixed of a wrong type": (GOOD.replace("epochs: 2", "epochs: many"), 5, "training.epochs is 'many'"),
    "fixed out of range": (GOOD.replace("epochs: 2", "epochs: 0"), 5, "training.epochs is 0"),
    "fixed values that clash": (
        GOOD.replace("epochs: 2", "samples_per_case: 3"), 5, "fixed: training.batch_size is 128; it must be a multiple of"
    ),
    "no parameters": ("dataset: phantom\nfixed: {training.epochs: 2}\n", 0, "parameters is empty"),
    "parameters are a list": ("dataset: phantom\nparameters: [1]\n", 2, "parameters is [1]"),
    "parameter that follows the data": (GOOD + "  model.image_size: {values: [16, 32]}\n", 12, "follows the dataset"),
    "rule is a number": (GOOD.replace("{values: [2, 4]}", "4"), 8, "parameters.diffusion.timesteps is 4"),
    "rule has an unknown key": (GOOD.replace("{values: [2, 4]}", "{choices: [2]}"), 8, "unknown key 'choices'"),
    "values are empty": (GOOD.replace("[2, 4]", "[]"), 8, "diffusion.timesteps.values is []"),
    "values twice": (GOOD.replace("[2, 4]", "[2, 2.0]"), 8, "names a value twice"),
    "values of a wrong type": (GOOD.replace("[2, 4]", "[2, four]"), 8, "diffusion.timesteps is 'four'"),
    "values out of range": (GOOD.replace("[2, 4]", "[0, 4]"), 8, "diffusion.timesteps is 0"),
    "values and range": (GOOD.replace("{values: [2, 4]}", "{values: [2], max: 4}"), 8, "both values and max"),
    "no max": (GOOD.replace("max: 64, ", ""), 9, "model.latent_size.max is missing"),
    "min is text": (GOOD.replace("min: 8", "min: low"), 9, "model.latent_size.min is 'low'"),
    "min is nan": (GOOD.replace("min: 8", "min: .nan"), 9, "model.latent_size.min is nan"),
    "min above max": (GOOD.replace("min: 8", "min: 80"), 9, "parameters.model.latent_size has min 80 above max 64"),
    "log of zero": (GOOD.replace("min: 1e-4", "min: 0"), 10, "optimiser.lr_generator.min is 0"),
    "fraction for whole numbers": (GOOD.replace("min: 8", "min: 8.5"), 9, "int_log_uniform needs whole numbers"),
    "reals for a whole field": (GOOD.replace("int_log_uniform", "log_uniform"), 9, "use int_log_uniform"),
    "unknown distribution": (
        GOOD.replace("int_log_uniform", "q_uniform"), 9,
        "distribution is 'q_uniform'; it must be one of uniform, log_uniform, int_uniform, int, int_log_uniform",
    ),
    "range of a list field": (GOOD.replace("{values: [[8], [16, 8]]}", "{min: 1, max: 2}"), 11, "does not hold a number"),
    "range leaves the field's": (GOOD + "  loss.attention: {min: 0, max: 2}\n", 12, "loss.attention is 2"),
    "key on a line of its own": (
        GOOD + "  loss.attention:\n    min: 0.5\n    max: high\n", 14, "parameters.loss.attention.max is 'high'"
    ),
}  # fmt: skip

# the same for what stands behind `loss.r1_gamma: {min: 0.1, max: 10, condition:` on line 6
WRONG_CONDITIONS = {
    "empty": ("{}", "condition is {}; it must name other fields"),
    "no mapping": ("[loss.attention]", "condition is ['loss.attention']"),
    "nothing": ("", "condition is None"),
    "unknown field": ("{loss.atention: 1}", "loss.atention is no field of the configuration; did you mean loss.attention?"),
    "itself": ("{loss.r1_gamma: 1}", "names the parameter itself"),
    "no value": ("{loss.attention: []}", "condition.loss.attention is []; name at least one value"),
    "null": ("{loss.attention: }", "loss.attention is None; it must be a number"),
    "text for a number": ("{loss.attention: high}", "loss.attention is 'high'; it must be a number"),
    "one wrong value of a list": ("{loss.attention: [0.5, high]}", "loss.attention is 'high'"),
    "number for a switch": ("{loss.attention_normalised: 1}", "loss.attention_normalised is 1; it must be true or false"),
    "unknown choice": ("{training.precision: fp8}", "training.precision is 'fp8'; it must be one of fp32, tf32, bf16"),
    "list of wrong items": ("{model.width_multipliers: [1, wide]}", "model.width_multipliers is [1, 'wide']"),
    "bounds of a switch": ("{loss.attention_normalised: {min: 0}}", "does not hold a number"),
    "bounds of another name": ("{loss.attention: {low: 0}}", "bounds are written {min: ..., max: ...}"),
    "no bounds": ("{loss.attention: {}}", "condition.loss.attention is {}"),
    "bound is text": ("{loss.attention: {min: low}}", "condition.loss.attention.min is 'low'; it must be a number"),
    "bound is nan": ("{loss.attention: {max: .nan}}", "condition.loss.attention.max is nan"),
    "bounds the wrong way round": ("{loss.attention: {min: 0.8, max: 0.2}}", "has min 0.8 above max 0.2"),
    "value that the parent has not": (
        "{loss.attention: 0.3}", "condition can never hold: loss.attention (0.0 | 0.5 | 1.0) would have to be 0.3"
    ),
    "bounds that the parent does not reach": ("{loss.adversarial: {min: 0.5}}", "(0 to 0.2) would have to be at least 0.5"),
    "whole number between bounds": ("{model.latent_size: {min: 9.2, max: 9.8}}", "would have to be at least 9.2 and at most 9.8"),
    "clash with the parent's condition": (
        "{loss.attention_normalised: true, loss.adversarial: {max: 0.01}}", "would have to be at least 0.1 and at most 0.01"
    ),
    "circle": ("{loss.soft_dice: {min: 0.1}}", "the condition of loss.r1_gamma depends on itself, by way of loss.soft_dice"),
}  # fmt: skip


def with_condition(condition: str) -> str:
    return f"""dataset: phantom
parameters:
  loss.attention: {{values: [0, 0.5, 1]}}
  loss.adversarial: {{min: 0, max: 0.2}}
  loss.attention_normalised: {{values: [false, true], condition: {{loss.adversarial: {{min: 0.1}}}}}}
  loss.r1_gamma: {{min: 0.1, max: 10, condition: {condition}}}
  loss.soft_dice: {{min: 0, max: 1, condition: {{loss.r1_gamma: {{min: 1}}}}}}
  model.latent_size: {{min: 8, max: 64}}
"""


def space(text: str) -> Space:
    content, lines = read_yaml_with_lines(text, "my.yaml")
    return parse(content, "my.yaml", lines)


def assert_one_sentence(text: str, line: int, expected: str) -> None:
    with pytest.raises(InputError) as caught:
        space(text)
    message = str(caught.value)
    assert message.startswith(f"my.yaml, line {line}: " if line else "my.yaml: ")
    assert expected in message
    assert message.isprintable()
    assert len(message) < 400


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_file_gives_one_sentence_that_names_file_and_line(kind: str) -> None:
    assert_one_sentence(*WRONG[kind])


@pytest.mark.parametrize("kind", WRONG_CONDITIONS)
def test_a_wrong_condition_gives_one_sentence_that_names_file_and_line(kind: str) -> None:
    condition, expected = WRONG_CONDITIONS[kind]
    assert_one_sentence(with_condition(condition), 6, expected)


def test_without_lines_only_the_file_is_named() -> None:
    with pytest.raises(InputError, match=r"^experiment.json: parameters.loss.attention has min 1 above max 0$"):
        parse({"dataset": "phantom", "parameters": {"loss.attention": {"min": 1, "max": 0}}}, "experiment.json")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"dataset: phantom\n\xff\xfe\x00", r"my.yaml, line 2: not UTF-8 text"),
        (b"\x89PNG\r\n\x1a\n", r"my.yaml, line 1: not UTF-8 text"),
        ("dataset: phantom".encode("utf-16"), r"my.yaml, line 1: not UTF-8 text"),
        (b"dataset: \0", r"my.yaml, line 1: the character '\\x00' has no place in YAML"),
        (b"# " + b"x" * 100_000, r"my.yaml has more than 100,000 bytes"),
    ],
)
def test_files_that_are_no_text_are_refused(tmp_path: Path, data: bytes, expected: str) -> None:
    path = tmp_path / "my.yaml"
    path.write_bytes(data)
    with pytest.raises(InputError, match=expected):
        load(path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (WRONG["min above max"][0], "line 9: parameters.model.latent_size has min 80 above max 64"),
        (with_condition("{loss.attention: 0.3}"), "line 6: parameters.loss.r1_gamma.condition can never hold"),
        (WRONG["binary"][0], "line 12: the character"),
    ],
)
def test_the_command_refuses_a_wrong_file(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, expected: str) -> None:
    path = tmp_path / "my.yaml"
    path.write_text(text)
    assert main(["--space", str(path), "--storage", str(tmp_path / "results")]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"error: {path}, {expected}")
    assert printed.err.count("\n") == 1
    assert not (tmp_path / "results").exists()


def test_a_missing_file_and_a_wrong_name_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot be read: No such file"):
        load(tmp_path / "none.yaml")
    with pytest.raises(InputError, match=r"no search space 'brain'; those that come along are .*phantom"):
        load("brain")


def test_published_values_are_the_first_trial() -> None:
    found = space(GOOD)
    assert found.published == {
        "diffusion.timesteps": 4, "model.latent_size": 50, "optimiser.lr_generator": 1.6e-4, "model.attention_resolutions": [16],
    }  # fmt: skip
    assert found.base.training.epochs == 2
    assert found.distributions["model.latent_size"].single() is False


def test_a_space_survives_json_and_lists_survive_optuna() -> None:
    found = space(GOOD)
    again = parse(found.to_dict(), found.source)
    assert again == found
    values = {"model.attention_resolutions": (16, 8), "diffusion.timesteps": 2}
    assert from_optuna(found, to_optuna(values)) == values


def test_shapes_follow_the_dataset() -> None:
    spec = open_dataset("phantom", size=16, classes=3, cases=8).spec
    fitted = space(GOOD).fitted(spec)
    assert (fitted.base.model.image_size, fitted.base.model.mask_channels) == (16, 4)
    other = space(GOOD.replace("training.epochs: 2", "model.image_size: 64"))
    with pytest.raises(InputError, match=r"fixed.model.image_size is 64, but phantom has 16"):
        other.fitted(spec)


def test_values_fixed_by_hand_are_no_longer_searched() -> None:
    changed = space(GOOD).with_fixed({"diffusion.timesteps": 8, "dataset.size": 32})
    assert "diffusion.timesteps" not in changed.parameters
    assert changed.base.diffusion.timesteps == 8
    assert changed.options == {"size": 32}
    with pytest.raises(InputError, match="unknown configuration field"):
        space(GOOD).with_fixed({"loss.gama": 1})


def test_a_parameter_is_active_where_its_condition_holds() -> None:
    found = space(CONDITIONAL)
    unet = {"model.architecture": "unet"}
    assert found.active(unet | {"loss.attention": 1.0, "loss.r1_gamma": 2.0}) == unet
    plain = {"model.architecture": "cdal", "loss.attention": 0.0, "model.latent_size": 9}
    assert found.active(plain | {"loss.attention_normalised": True}) == plain
    chained = {"model.architecture": "cdal", "loss.attention": 0.5, "loss.attention_normalised": True, "loss.r1_gamma": 2.0}
    assert found.active(chained | {"model.latent_size": 9}) == chained | {"model.latent_size": 9}
    assert "loss.r1_gamma" not in found.active(chained | {"loss.attention": 1.0})
    assert "loss.r1_gamma" not in found.active(chained | {"loss.attention_normalised": False})
    config = found.config(found.active(unet | {"model.latent_size": 9}))
    assert config.model.latent_size == 50  # published


def test_published_values_are_those_of_active_parameters() -> None:
    found = space(CONDITIONAL)
    assert found.published == {
        "model.architecture": "cdal", "loss.attention": 1.0, "loss.attention_normalised": False, "model.latent_size": 50,
    }  # fmt: skip
    assert found.values_of(found.base.replace({"model.architecture": "unet"})) == {"model.architecture": "unet"}
    assert set(found.distributions) == set(found.parameters)


def test_a_space_contains_values_whatever_those_of_inactive_parameters() -> None:
    found = space(CONDITIONAL)
    assert found.contains(found.published)
    assert found.contains({"model.architecture": "unet"})
    assert found.contains({"model.architecture": "unet", "loss.attention": 0.3, "model.latent_size": 1})
    assert not found.contains({"model.architecture": "cdal", "loss.attention": 0.0})  # without the latent
    assert not found.contains(found.published | {"model.latent_size": 65})
    assert not found.contains({})


def test_conditions_on_fixed_fields_decide_for_the_whole_search() -> None:
    spec = open_dataset("phantom", size=16, cases=8).spec
    assert "optimiser.lr_generator" not in space(CONDITIONAL).published
    assert "optimiser.lr_generator" not in space(CONDITIONAL).fitted(spec).parameters
    assert "optimiser.lr_generator" in space(CONDITIONAL).with_fixed({"training.precision": "bf16"}).fitted(spec).parameters
    unet = space(CONDITIONAL).with_fixed({"model.architecture": "unet", "training.precision": "bf16"}).fitted(spec)
    assert list(unet.parameters) == ["optimiser.lr_generator"]
    with pytest.raises(InputError, match="nothing is left to search"):
        unet.with_fixed({"optimiser.lr_generator": 1e-3}).fitted(spec)


def test_a_condition_may_name_lists() -> None:
    text = GOOD + "  loss.r1_gamma: {min: 1, max: 2, condition: {model.attention_resolutions: LISTS}}\n"
    for lists in ("[16, 8]", "[[16, 8]]", "[[16, 8], [4]]"):
        found = space(text.replace("LISTS", lists))
        assert "loss.r1_gamma" in found.active({"model.attention_resolutions": [16, 8]})
        assert "loss.r1_gamma" not in found.active({"model.attention_resolutions": [8]})
    assert_one_sentence(text.replace("LISTS", "[]"), 12, "would have to be []")


def test_a_condition_on_a_condition_survives_json() -> None:
    found = space(CONDITIONAL)
    again = parse(json.loads(json.dumps(found.to_dict())), found.source)
    assert again == found
    assert list(again.parameters) == list(found.parameters)


def test_the_short_name_of_a_distribution() -> None:
    assert space(GOOD.replace("int_log_uniform", "int")) == space(GOOD.replace("int_log_uniform", "int_uniform"))


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_study_proposes_only_what_goes_together() -> None:
    found = space(CONDITIONAL)
    sampler = optuna.samplers.TPESampler(multivariate=True, group=True, seed=0, n_startup_trials=10)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    proposed: list[dict[str, Any]] = []
    for _ in range(60):
        trial = study.ask()
        values = found.suggest(trial)
        assert found.contains(values)
        assert found.active(values) == values
        assert from_optuna(found, trial.params) == values
        assert found.values_of(found.config(values)) == values
        study.tell(trial, values.get("loss.attention", 0.5) - 0.01 * abs(values.get("loss.r1_gamma", 0)))
        proposed.append(values)
    for path in ("loss.attention", "loss.attention_normalised", "loss.r1_gamma", "model.latent_size"):
        assert 0 < sum(path in values for values in proposed) < 60, path
    assert not any("optimiser.lr_generator" in values for values in proposed)


def test_values_of_another_session_are_taken_up() -> None:
    found = space(CONDITIONAL)
    study = optuna.create_study()
    for values in (found.published, {"model.architecture": "unet"}):
        study.enqueue_trial(to_optuna(values))
        trial = study.ask()
        assert found.suggest(trial) == values
        assert trial.params == to_optuna(values)


SHAPES = {"hippocampus": (32, 1, 2), "monuseg": (256, 3, 1), "chest_xray": (256, 1, 1), "own": (96, 3, 2), "phantom": (32, 1, 2)}
"""Side, image channels and classes of the datasets, where a space says nothing else."""


@pytest.mark.parametrize("name", shipped())
def test_spaces_that_come_along_are_valid(name: str) -> None:
    found = load(name)
    assert found.source == str(FOLDER / f"{name}.yaml")
    size, channels, classes = SHAPES[found.dataset]
    size = found.options.get("sample_size", size if found.dataset == "monuseg" else found.options.get("size", size))
    labels = tuple("abc"[:classes])
    spec = replace(open_dataset("phantom", cases=8).spec, image_size=size, image_channels=channels, classes=labels)
    fitted = found.fitted(spec)
    assert list(fitted.parameters) == list(found.parameters)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(30):
        assert fitted.config(fitted.suggest(study.ask())).model.image_size == size
    assert fitted.contains(fitted.middle)
    assert fitted.config(fitted.middle).model.image_size == size


def test_the_middle_lies_within_whatever_was_published() -> None:
    found = parse({"dataset": "phantom", "parameters": {"model.discriminator_width": {"values": [8, 16, 24]}}}, "test.yaml")
    assert not found.contains(found.published)
    assert found.middle == {"model.discriminator_width": 16}
