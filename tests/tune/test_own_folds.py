"""Own data whose cases belong to patients, from the command line to the lake and back: the doors, the plan, the table of splits."""

import json
from pathlib import Path

import pandas as pd
import pytest
from own_folders import mask, picture, save
from searches import TINY, here

from cdal import train
from cdal.data.own.groups import own_options
from cdal.errors import InputError
from tune import finalists, search
from tune.lake.commands import main as look_after
from tune.results import load
from tune.running import Node, Options, make_plan, remake_plan

LAPTOP = [Node(2, 0)]
PATIENTS, SLICES = 5, 3


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five patients of three slices each."""
    folder = tmp_path_factory.mktemp("own") / "slices"
    for patient in range(PATIENTS):
        for place in range(SLICES):
            name = f"p{patient:02}_s{place:03}.png"
            save(folder / "images" / name, picture(10 * patient + place, 16, 16))
            save(folder / "masks" / name, mask(patient, 16, 16))
    return folder


@pytest.fixture
def space(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    content = TINY.replace("{name: phantom, size: 16, cases: 8, classes: 1}", "{name: own, sample_size: 16}")
    path.write_text(content.replace("EPOCHS", "1").replace("STEPS", "1"))
    return path


def test_the_plan_tells_groups_and_notes(data: Path, space: Path) -> None:
    plan = make_plan(Options(data=str(data), space=str(space)), LAPTOP)
    text = "\n".join(plan.lines())
    assert "6 (2 groups) train, 3 (1 group) validate, 6 (2 groups) kept for testing" in text
    assert "note        15 cases of 5 groups, by the word and the number in their names: p00 (3)" in text
    assert plan.describe()["groups"] == PATIENTS
    assert make_plan(Options(), LAPTOP).describe()["groups"] is None
    rows = pd.DataFrame(plan.split_rows)
    assert len(rows) == 4 * PATIENTS * SLICES
    assert (rows.groupby(["fold", "group"])["part"].nunique() == 1).all()
    assert set(rows["part"]) == {"train", "validation", "test"}


def test_groups_and_splits_travel_with_the_experiment(data: Path, space: Path, tmp_path: Path) -> None:
    """Through JSON, to those who repeat and resume it, without the files."""
    table = tmp_path / "groups.csv"
    names = [path.stem for path in sorted((data / "images").iterdir())]
    table.write_text("filename,patient\n" + "".join(f"{name}.png,{name[-1]}\n" for name in names))
    folds = tmp_path / "splits_final.json"
    folds.write_text(json.dumps([{"train": names[3:], "val": names[:3]}, {"train": names[:12], "val": names[12:]}]))
    given = own_options(str(table), None)
    plan = make_plan(Options(data=str(data), space=str(space), **given), LAPTOP)
    assert set(plan.dataset.groups.values()) == {"0", "1", "2"}
    assert len(plan.dataset.spec.folds) == 3
    given = own_options(None, str(folds))
    plan = make_plan(Options(data=str(data), space=str(space), fold=1, **given), LAPTOP)
    assert plan.split.test == tuple(names[12:])
    table.unlink()
    folds.unlink()
    description = json.loads(json.dumps(plan.describe()))
    options = Options.from_dict(description["arguments"])
    assert remake_plan(description, options, LAPTOP).split == plan.split
    assert make_plan(options, LAPTOP).split == plan.split
    alone = make_plan(Options(data=str(data), space=str(space), groups="none"), LAPTOP)
    assert alone.split.test == tuple(names[::4])


@pytest.mark.parametrize(("option", "value"), [("groups", {"a": "b"}), ("split", [{"train": ["a"], "test": ["b"]}])])
def test_published_folds_are_not_replaced(option: str, value: object) -> None:
    with pytest.raises(InputError, match=f"--{option} is for your own data .* the dataset phantom has folds of its own"):
        make_plan(Options(**{option: value}), LAPTOP)  # type: ignore[arg-type]


@pytest.mark.long
def test_a_search_writes_its_folds_and_another_repeats_them(data: Path, space: Path, tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    storage = ("--space", space, "--data", data, "--storage", lake, "--trials", 3)
    here(*storage, "--name", "first", "--fold", 2)
    assert look_after(["verify", "--storage", str(lake)]) == 0
    exported = tmp_path / "split.csv"
    assert look_after(["export", "--storage", str(lake), "--table", "splits", "--format", "csv", "--out", str(exported)]) == 0
    for name, split in (("second", exported), ("third", lake / "first" / "splits")):
        here(*storage, "--name", name, "--fold", 2, "--split", split)
    abouts = {experiment.name: experiment.description for experiment in load(lake).experiments}
    assert len({about["split_hash"] for about in abouts.values()}) == 1
    assert {about["groups"] for about in abouts.values()} == {PATIENTS}
    here("--experiment", "second", "--storage", lake, "--top", 1, "--seeds", 1, "--folds", "2", door=finalists.main)
    rows = load(lake).splits().to_pandas()
    kept = ["fold", "case", "group", "part"]
    parts = [own[kept].sort_values(kept).reset_index(drop=True) for _, own in rows.groupby("experiment")]
    assert len(parts) == 4
    for own in parts:
        pd.testing.assert_frame_equal(own, parts[0])
    cases = load(lake).cases().to_pandas()
    assert (cases["group"] == cases["case"].str[:3]).all()
    assert set(cases["split"]) == {"validation", "test"}
    assert load(lake).finalists()["groups"].to_pylist()[0] == cases.loc[cases["split"] == "test", "group"].nunique()
    assert look_after(["compact", "--storage", str(lake)]) == 0
    pd.testing.assert_frame_equal(load(lake).splits().to_pandas()[kept], rows[kept])
    assert search.main(["--resume", "first", "--storage", str(lake), "--split", str(exported)]) == 2


@pytest.mark.long
def test_one_training_takes_groups_splits_and_options(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes = {
        "dataset.sample_size": 16, "training.epochs": 1, "training.steps_per_epoch": 1, "training.batch_size": 4,
        "model.width_multipliers": "[1,1]", "model.base_width": 8, "model.encoder_blocks": 0, "model.discriminator_width": 4,
        "evaluation.validation_cases": 1,
    }  # fmt: skip
    sets = [word for path, value in changes.items() for word in ("--set", f"{path}={value}")]
    table = tmp_path / "split.csv"
    table.write_text("fold,case,part,group\n0,p00_s000,train,a\n0,p01_s000,validation,b\n0,p02_s000,test,c\n")
    common = ["--dataset", "own", "--data", str(data), "--device", "cpu", *sets]
    assert train.main([*common, "--out", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    assert "fold 0, partition 1 of 4: 6 (2 groups) train, 3 (1 group) validation, 6 (2 groups) test" in said
    assert "note: 15 cases of 5 groups" in said
    assert train.main([*common, "--out", str(tmp_path / "x"), "--split", str(table)]) == 2
    assert "leave out 12 of 15 cases" in capsys.readouterr().err
    assert train.main([*common, "--out", str(tmp_path / "x"), "--split", str(table), "--groups", "none"]) == 0
    assert "fold 0, fold 0: 1 train, 1 validation, 1 test" in capsys.readouterr().out
    assert train.main(["--out", str(tmp_path / "x"), "--split", str(table)]) == 2
    assert "--split is for your own data" in capsys.readouterr().err
