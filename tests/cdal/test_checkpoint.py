"""Checkpoints: whole or absent, readable without running code from them, and the authors' files told apart."""

import errno
import json
import os
import pickle
import threading
import zipfile
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


@pytest.mark.parametrize("links", [True, False])
def test_what_was_there_before_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    link = os.link
    if not links:
        monkeypatch.setattr(os, "link", refuse)
    last, previous = tmp_path / "last.safetensors", tmp_path / "previous.safetensors"
    for number in range(3):
        save(last, {}, {"number": number}, before=previous)
    assert (read_info(last), read_info(previous)) == ({"number": 2}, {"number": 1})
    previous.unlink()
    link(last, previous)  # as a process leaves it that is killed in the middle
    save(last, {}, {"number": 3}, before=previous)
    assert (read_info(last), read_info(previous)) == ({"number": 3}, {"number": 2})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.safetensors", "previous.safetensors"]


def test_whoever_reads_while_it_is_written_finds_a_checkpoint(tmp_path: Path) -> None:
    path, over = tmp_path / "last.safetensors", threading.Event()
    save(path, {}, {"number": 0})

    def write() -> None:
        for number in range(1, 300):
            save(path, {}, {"number": number}, before=tmp_path / "previous.safetensors")
        over.set()

    writer = threading.Thread(target=write)
    writer.start()
    missed = 0
    while not over.is_set():
        missed += not path.is_file()
    writer.join()
    assert missed == 0
    assert read_info(path) == {"number": 299}


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


SMALL = Config().replace({"model.width_multipliers": [1, 1], "model.encoder_blocks": 0})
ABSURD = {
    "model.base_width": 200_000,
    "model.latent_layers": 10_000_000,
    "model.latent_embedding": 4096,  # such a model may be; it is not this one
    "model.residual_blocks": 64,
    "model.image_size": 10**9,
    "model.width_multipliers": [1] * 100_000,
    "model.attention_resolutions": list(range(1, 100_000)),
    "diffusion.timesteps": 10**9,
    "evaluation.votes": 10**12,
    "loss.attention": 10**400,
    "loss.r1_interval": 10**400,
    "training.seed": "text",
    "optimiser": [],
}


@pytest.mark.parametrize("path", ABSURD)
def test_a_model_that_describes_another_one_is_refused_before_anything_is_built(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = prefixed(Generator.from_config(SMALL.model).state_dict(), "generator.")
    config = SMALL.to_dict()
    section, _, name = path.partition(".")
    if name:
        config[section][name] = ABSURD[path]
    else:
        config[section] = ABSURD[path]  # type: ignore[assignment]
    save(tmp_path / "model.safetensors", tensors, {"config": config})
    monkeypatch.setattr("cdal.checkpoint.load", None)  # reads what may be large
    with pytest.raises(InputError, match=r"model\.safetensors (has a configuration|does not fit its own)") as caught:
        load_model(tmp_path / "model.safetensors")
    assert len(str(caught.value)) < 400


def with_header(header: bytes, body: bytes = b"") -> bytes:
    return len(header).to_bytes(8, "little") + header + body


def test_headers_that_are_no_headers_are_refused(tmp_path: Path) -> None:
    one = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    about = {"__metadata__": {"cdal": json.dumps({"config": SMALL.to_dict()})}}
    path = tmp_path / "model.safetensors"
    for header in (
        json.dumps(about | {"generator.a": one, "generator.b": one}).encode(),  # the same bytes twice
        json.dumps(about | {"generator.a": one | {"shape": [2**40]}}).encode(),
        json.dumps({"__metadata__": {"cdal": "[" * 100_000}, "generator.a": one}).encode(),
        json.dumps({"__metadata__": {"cdal": '{"config": ' + "9" * 5000 + "}"}, "generator.a": one}).encode(),
        json.dumps(about | {"generator.a": one}).encode() + b" " * 2**23,
    ):
        path.write_bytes(with_header(header, bytes(8)))
        with pytest.raises(InputError, match=r"model\.safetensors"):
            load_model(path)


def test_a_published_file_that_unfolds_is_not_unfolded(tmp_path: Path) -> None:
    path, folded = tmp_path / "released.pth", tmp_path / "folded.pth"
    torch.save({"a": torch.zeros(4_000_000)}, path)
    with zipfile.ZipFile(path) as whole, zipfile.ZipFile(folded, "w", zipfile.ZIP_DEFLATED) as small:
        for part in whole.infolist():
            small.writestr(part.filename, whole.read(part))
    assert folded.stat().st_size < 100_000
    with pytest.raises(InputError, match="would unfold"):
        load_published(folded, "monuseg")
