"""Checkpoints: whole or absent, readable without running code from them, and the authors' files told apart."""

import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cdal.checkpoint import load, load_model, load_published, prefixed, published_names, read_info, save
from cdal.config import Config, preset
from cdal.errors import InputError
from cdal.generator import Generator


def released_state(preset_name: str) -> dict[str, Tensor]:
    """A generator's parameters under the names of the authors' release."""
    generator = Generator.from_config(preset(preset_name).model)
    state = generator.state_dict()
    names = published_names(generator)
    return {name: state[mine].T if name.endswith(".W") else state[mine] for name, mine in names.items()}


@pytest.fixture(scope="module")
def hippocampus_state() -> dict[str, Tensor]:
    return released_state("hippocampus")


def test_save_and_load(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(6.0).reshape(2, 3).T, "b": torch.tensor(1.5)}
    save(tmp_path / "folder" / "x.safetensors", tensors, {"epoch": 3, "text": "é"})
    read, info = load(tmp_path / "folder" / "x.safetensors")
    assert info == {"epoch": 3, "text": "é"}
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["x.safetensors"]


def test_failed_save_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save(path, {"a": torch.zeros(3)}, {"epoch": 1})
    with pytest.raises(TypeError):
        save(path, {"a": torch.ones(3)}, {"epoch": object()})
    assert read_info(path) == {"epoch": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["x.safetensors"]


@pytest.mark.parametrize("content", [b"", b"{}", b"\x00" * 100, b"\xff" * 8 + b"{", pickle.dumps({"a": 1})])
def test_torn_or_foreign_checkpoints(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    for read in (read_info, load, load_model):
        with pytest.raises(InputError, match=r"x\.safetensors"):
            read(path)


def test_load_model_needs_a_generator(tmp_path: Path) -> None:
    config = Config().replace({"model.width_multipliers": [1, 1], "model.encoder_blocks": 0})
    generator = Generator.from_config(config.model)
    save(tmp_path / "good.safetensors", prefixed(generator.state_dict(), "generator."), {"config": config.to_dict()})
    loaded_config, loaded = load_model(tmp_path / "good.safetensors")
    assert loaded_config == config
    assert all(torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), generator.state_dict().values(), strict=True))

    save(tmp_path / "other.safetensors", {"a": torch.zeros(1)}, {"epoch": 1})
    with pytest.raises(InputError, match="holds no trained generator"):
        load_model(tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="there is no checkpoint"):
        load_model(tmp_path / "absent.safetensors")


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("name", ["hippocampus", "hippocampus_sampling"])
def test_published_hippocampus_is_chosen_by_shape(tmp_path: Path, prefix: str, name: str) -> None:
    theirs = released_state(name)
    torch.save({prefix + key: value for key, value in theirs.items()}, tmp_path / "released.pth")
    config, generator = load_published(tmp_path / "released.pth", "hippocampus")
    assert config == preset(name)
    ours = generator.state_dict()
    for key, mine in published_names(generator).items():
        assert torch.equal(ours[mine].T if key.endswith(".W") else ours[mine], theirs[key])


def test_published_checkpoint_of_the_wrong_preset(tmp_path: Path, hippocampus_state: dict[str, Tensor]) -> None:
    torch.save(hippocampus_state, tmp_path / "released.pth")
    with pytest.raises(InputError, match=r"released.pth is not the generator of preset 'chest_xray'.*missing") as caught:
        load_published(tmp_path / "released.pth", "chest_xray")
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="unknown preset 'lung'"):
        load_published(tmp_path / "released.pth", "lung")


def test_published_checkpoint_with_missing_surplus_or_misshapen_parameters(
    tmp_path: Path, hippocampus_state: dict[str, Tensor]
) -> None:
    some = "all_modules.0.weight"
    for state, words in (
        ({key: value for key, value in hippocampus_state.items() if key != some}, f"1 missing, 0 surplus, for example {some}"),
        (hippocampus_state | {"extra": torch.zeros(1)}, "0 missing, 1 surplus, for example extra"),
        (hippocampus_state | {some: torch.zeros(2, 2)}, f"parameter {some} has shape"),
    ):
        torch.save(state, tmp_path / "released.pth")
        with pytest.raises(InputError) as caught:
            load_published(tmp_path / "released.pth", "hippocampus")
        assert words in str(caught.value)


def test_published_checkpoint_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "released.pth"
    with pytest.raises(InputError, match="there is no checkpoint"):
        load_published(path, "monuseg")
    path.write_bytes(b"")
    with pytest.raises(InputError, match="is empty"):
        load_published(path, "monuseg")
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(InputError, match="cannot be read"):
        load_published(path, "monuseg")
    torch.save({"state": [1, 2]}, path)
    with pytest.raises(InputError, match="no state dict"):
        load_published(path, "monuseg")


class _Surprise:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("surprise"),))


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "released.pth"
    torch.save({"weight": _Surprise()}, path)
    with pytest.raises(InputError, match="cannot be read"):
        load_published(path, "monuseg")
    assert not (tmp_path / "surprise").exists()
