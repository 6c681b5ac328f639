"""Search spaces: what a file may say, and one sentence for everything it may not."""

from __future__ import annotations

from pathlib import Path

import pytest

from cdal.data import open_dataset
from cdal.errors import InputError
from cdal.plain_yaml import read_yaml
from tune.space import FOLDER, Space, from_optuna, load, parse, shipped, to_optuna

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

WRONG = {
    "no mapping": ("- a\n- b", "the file is"),
    "empty": ("", "the file is None"),
    "not yaml": ("a: [1, 2", "line 1"),
    "unknown section": (GOOD + "extra: 1\n", "unknown key 'extra'"),
    "duplicate key": (GOOD + "preset: monuseg\n", "line 12: the key 'preset' appears twice"),
    "duplicate parameter": (GOOD + "  loss.r1_gamma: {min: 1, max: 2}\n  loss.r1_gamma: {min: 1, max: 3}\n", "appears twice"),
    "alias": ("a: &a [1]\nb: *a\n", "aliases"),
    "tag": ("dataset: !!python/object:os.system x\n", "could not determine a constructor"),
    "unknown dataset": (GOOD.replace("name: phantom", "name: fantom"), "dataset is 'fantom'"),
    "unknown preset": (GOOD.replace("preset: hippocampus", "preset: brain"), "unknown preset 'brain'"),
    "preset is a list": (GOOD.replace("preset: hippocampus", "preset: [a]"), "preset is ['a']"),
    "unknown fixed": (GOOD.replace("training.epochs", "training.epoch"), "did you mean training.epochs?"),
    "unknown parameter": (GOOD.replace("diffusion.timesteps", "diffusion.steps"), "parameters.diffusion.steps is no field"),
    "fixed and searched": (GOOD.replace("training.epochs: 2", "diffusion.timesteps: 2"), "both in fixed and in parameters"),
    "fixed of a wrong type": (GOOD.replace("epochs: 2", "epochs: many"), "training.epochs is 'many'"),
    "fixed out of range": (GOOD.replace("epochs: 2", "epochs: 0"), "training.epochs is 0"),
    "no parameters": ("dataset: phantom\nfixed: {training.epochs: 2}\n", "parameters is empty"),
    "parameters are a list": ("dataset: phantom\nparameters: [1]\n", "parameters is [1]"),
    "rule is a number": (GOOD.replace("{values: [2, 4]}", "4"), "parameters.diffusion.timesteps is 4"),
    "rule has an unknown key": (GOOD.replace("{values: [2, 4]}", "{choices: [2]}"), "unknown key 'choices'"),
    "values are empty": (GOOD.replace("[2, 4]", "[]"), "diffusion.timesteps.values is []"),
    "values twice": (GOOD.replace("[2, 4]", "[2, 2]"), "names a value twice"),
    "values of a wrong type": (GOOD.replace("[2, 4]", "[2, four]"), "diffusion.timesteps is 'four'"),
    "values out of range": (GOOD.replace("[2, 4]", "[0, 4]"), "diffusion.timesteps is 0"),
    "values and range": (GOOD.replace("{values: [2, 4]}", "{values: [2], max: 4}"), "both values and max"),
    "no max": (GOOD.replace("max: 64, ", ""), "model.latent_size.max is missing"),
    "min is text": (GOOD.replace("min: 8", "min: low"), "model.latent_size.min is 'low'"),
    "min is nan": (GOOD.replace("min: 8", "min: .nan"), "model.latent_size.min is nan"),
    "min above max": (GOOD.replace("min: 8", "min: 80"), "min 80 above max 64"),
    "log of zero": (GOOD.replace("min: 1e-4", "min: 0"), "optimiser.lr_generator.min is 0"),
    "fraction for whole numbers": (GOOD.replace("min: 8", "min: 8.5"), "int_log_uniform needs whole numbers"),
    "reals for a whole field": (GOOD.replace("int_log_uniform", "log_uniform"), "use int_log_uniform"),
    "unknown distribution": (GOOD.replace("int_log_uniform", "normal"), "model.latent_size.distribution is 'normal'"),
    "range of a list field": (GOOD.replace("{values: [[8], [16, 8]]}", "{min: 1, max: 2}"), "does not hold a number"),
    "range leaves the field's": (GOOD.replace("loss", "loss") + "  loss.attention: {min: 0, max: 2}\n", "loss.attention is 2"),
}


def space(text: str) -> Space:
    return parse(read_yaml(text, "my.yaml"), "my.yaml")


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_file_gives_one_sentence_that_names_it(kind: str) -> None:
    text, expected = WRONG[kind]
    with pytest.raises(InputError) as caught:
        space(text)
    message = str(caught.value)
    assert message.startswith("my.yaml")
    assert expected in message
    assert "\n" not in message


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


@pytest.mark.parametrize("name", shipped())
def test_spaces_that_come_along_are_valid(name: str) -> None:
    found = load(name)
    assert found.source == str(FOLDER / f"{name}.yaml")
    if found.dataset == "phantom":
        found.fitted(open_dataset("phantom", **found.options).spec)
