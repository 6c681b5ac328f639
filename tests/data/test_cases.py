"""Crops of cases: where they lie, and what they cost."""

from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import dataset_of
from scipy import stats

from cdal.data import Case, DatasetSpec
from cdal.data.cases import CaseDataset
from cdal.data.folds import PARTITION_NAMES


def spec(size: int, depth: int = 1) -> DatasetSpec:
    return DatasetSpec(
        name="cases",
        image_channels=1,
        classes=("a",),
        image_size=size,
        sample_depth=depth,
        volumetric=depth > 1,
        folds=PARTITION_NAMES,
        protocol="",
        licence="",
    )


def numbered(shape: tuple[int, int, int], foreground: float = 0.1) -> Case:
    """A case whose voxels hold their own number; some, at random, are foreground of one class or another."""
    rng = torch.Generator().manual_seed(0)
    image = torch.arange(np.prod(shape), dtype=torch.float32).reshape(1, *shape)
    return Case(id="case", image=image, label=(torch.rand(shape, generator=rng) < foreground).byte() * 2)


def places(dataset: CaseDataset, count: int) -> np.ndarray:
    """The number of the first voxel of many crops."""
    rng = np.random.default_rng(0)
    return np.array([int(dataset.draw("case", dataset.spec.sample_depth, rng)[0].min()) for _ in range(count)])


def assert_uniform(counts: np.ndarray) -> None:
    assert stats.chisquare(counts).pvalue > 0.001


@pytest.mark.parametrize("shape", [(1, 12, 9), (5, 6, 4)])
def test_every_voxel_of_a_kind_is_as_likely_a_centre(shape: tuple[int, int, int]) -> None:
    """Crops of one voxel are their centres."""
    case = numbered(shape, 0.2)
    dataset = dataset_of(spec(1), [case])
    found = np.bincount(places(dataset, 20_000), minlength=case.label.numel())
    inside = case.label.flatten().numpy() > 0
    assert 0.48 < found[inside].sum() / found.sum() < 0.52
    assert_uniform(found[inside])
    assert_uniform(found[~inside])


def test_crops_anywhere() -> None:
    """Every place is as likely, whatever the label; also those in the corners."""
    case = numbered((4, 9, 8))
    dataset = CaseDataset(spec(6, 2), [case], lambda _: pytest.fail("no split is needed"), balanced=False)
    found = np.bincount(places(dataset, 9000), minlength=case.label.numel()).reshape(case.label.shape)
    assert found[:3, :4, :3].sum() == 9000
    assert_uniform(found[:3, :4, :3].flatten())


def test_drawing_gives_copies() -> None:
    case = numbered((1, 8, 8))
    for size in (4, 8):
        images, labels = dataset_of(spec(size), [case]).draw("case", 1, np.random.default_rng(0))
        images[:], labels[:] = -1, 9
    assert case.image.min() == 0
    assert case.label.max() == 2


def resident(path: Path) -> int:
    """Bytes of a mapped file that this process has looked at."""
    lines = Path("/proc/self/smaps").read_text().splitlines()
    starts = [number for number, line in enumerate(lines) if line.endswith(str(path))]
    sizes = [next(line for line in lines[start:] if line.startswith("Rss:")) for start in starts]
    return sum(int(line.split()[1]) * 1024 for line in sizes)


@pytest.mark.parametrize("balanced", [False, True])
def test_a_large_mapped_case_is_not_read_as_a_whole(tmp_path: Path, balanced: bool) -> None:
    """A CT of 300 slices: nothing is read on opening, and little of the image by some crops."""
    shape = (300, 512, 512)
    paths = [tmp_path / name for name in ("image", "label")]
    tensors = []
    for path, size in zip(paths, (4, 1), strict=True):
        with path.open("wb") as file:
            file.truncate(int(np.prod(shape)) * size)
        dtype = torch.float32 if size == 4 else torch.uint8
        tensors.append(torch.from_file(str(path), shared=False, size=int(np.prod(shape)), dtype=dtype).reshape(shape))
    case = Case(id="case", image=tensors[0][None], label=tensors[1])
    dataset = CaseDataset(spec(64, 4), [case], lambda _: pytest.fail("no split is needed"), balanced=balanced)
    assert [resident(path) for path in paths] == [0, 0]
    rng = np.random.default_rng(0)
    for _ in range(5):
        dataset.draw("case", 4, rng)
    assert 0 < resident(paths[0]) < paths[0].stat().st_size / 20
    if not balanced:
        assert 0 < resident(paths[1]) < paths[1].stat().st_size / 20
