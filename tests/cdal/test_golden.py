"""Agreement with our own golden vectors, which travel with the project."""

import golden
import pytest
import torch
from safetensors.torch import load_file


@pytest.mark.parametrize("name", golden.MODELS)
def test_networks_and_steps_equal_the_stored_results(name: str) -> None:
    expected, found = load_file(golden.FOLDER / f"{name}.safetensors"), golden.results(name)
    assert set(found) == set(expected)
    for key, value in found.items():
        if key.endswith("_gradients"):  # some gradients are zero but for rounding: compare with the size of the whole gradient
            tolerance = float(1e-4 * expected[key].norm())
            torch.testing.assert_close(value, expected[key], atol=tolerance, rtol=0, msg=lambda text, key=key: f"{key}: {text}")
        else:
            torch.testing.assert_close(value, expected[key], atol=2e-5, rtol=2e-4, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize("name", golden.MODELS)
def test_steps_in_half_precision_are_close(name: str) -> None:
    expected = load_file(golden.FOLDER / f"{name}.safetensors")
    for key, value in golden.results(name, precision="bf16").items():
        difference = (value.double() - expected[key].double()).norm() / expected[key].double().norm()
        assert difference < (0.2 if key.endswith("_gradients") else 0.02), key
