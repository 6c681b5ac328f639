"""What a trial says about its cases."""

import io
from pathlib import Path

import numpy as np
import pytest
from own_folders import two_folders
from PIL import Image
from scipy import stats

from cdal.config import preset
from tune.results import Writer, create_experiment, load
from tune.trials import Message, TrialSettings, messages

CONFIG = preset("chest_xray").replace(
    {
        "model.image_channels": 3,
        "model.image_size": 32,
        "model.base_width": 8,
        "model.width_multipliers": [1, 1],
        "model.residual_blocks": 1,
        "model.encoder_blocks": 0,
        "model.latent_size": 8,
        "model.latent_embedding": 8,
        "model.discriminator": "small",
        "model.discriminator_width": 8,
        "training.epochs": 1,
        "training.steps_per_epoch": 8,
        "training.batch_size": 4,
        "training.samples_per_case": 1,
        "loss.soft_dice": 10.0,  # so that some foreground is predicted
        "optimiser.lr_generator": 0.01,
        "evaluation.votes": 3,
    }
)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> list[Message]:
    """The messages of a short trial on colour images of 40 x 48 bytes."""
    data = two_folders(tmp_path_factory.mktemp("data"), count=24, colours=3)
    settings = TrialSettings(
        number=0, kind="searched", config=CONFIG.to_dict(), dataset="own", options={"sample_size": 32}, data=str(data), fold=0,
        folder=str(tmp_path_factory.mktemp("trial")),
    )  # fmt: skip
    found = list(messages(settings))
    assert found[-1]["status"] == "finished", found[-1]
    return found


@pytest.fixture(scope="module")
def last(told: list[Message]) -> Message:
    """The last of them."""
    return told[-1]


@pytest.mark.long
def test_an_epoch_comes_with_the_loss_that_tells_equal_dice_apart(told: list[Message]) -> None:
    (message,) = (message for message in told if message.get("curve"))
    ((epoch, _),) = message["curve"]
    assert 0 < message["losses"][epoch] < 1.1
    assert message["losses"][epoch] == message["epochs"][0]["loss_soft_dice"]


@pytest.mark.long
def test_every_case_is_scored_at_every_number_of_votes(last: Message) -> None:
    rows = last["cases"]
    cases = {row["case"] for row in rows}
    assert len(cases) >= 3
    assert sorted((row["case"], row["votes"]) for row in rows) == sorted((case, votes) for case in cases for votes in (1, 2, 3))
    for row in rows:
        assert 0 <= row["dice"] <= 1
        assert 0 <= row["assd"] <= row["hd95"]
        assert -2 <= row["volume_error"] <= 2
        assert row["aji"] is None
        assert row["panoptic_quality"] is None


def test_uncertainty_belongs_to_all_votes(last: Message) -> None:
    most = [row for row in last["cases"] if row["votes"] == 3]
    assert all(0 < row["entropy"] <= 1 and -1 <= row["entropy_error"] <= 1 for row in most)
    assert all(row["votes_used"] == 3 for row in most)
    assert not any({"entropy", "entropy_error", "votes_used"} & set(row) for row in last["cases"] if row["votes"] < 3)
    assert last["trial"]["uncertainty_correlation"] is not None
    expected = stats.spearmanr([row["entropy"] for row in most], [1 - row["dice"] for row in most]).statistic
    assert last["trial"]["uncertainty_correlation"] == pytest.approx(expected)


@pytest.mark.long
def test_rows_say_how_many_votes_a_case_needed(tmp_path: Path) -> None:
    """At a confidence of nearly 0 most masks settle before the last vote."""
    config = CONFIG.replace({"evaluation.votes": 8, "evaluation.vote_confidence": 1e-6})
    settings = TrialSettings(
        number=0, kind="searched", config=config.to_dict(), dataset="own", options={"sample_size": 32},
        data=str(two_folders(tmp_path / "data", count=24, colours=3)), fold=0, folder=str(tmp_path / "trial"),
    )  # fmt: skip
    last = list(messages(settings))[-1]
    assert last["trial"]["votes"] == 8
    assert {row["votes"] for row in last["cases"]} == set(range(1, 9))
    used = {row["case"]: row["votes_used"] for row in last["cases"] if row["votes"] == 8}
    assert min(used.values()) < 8
    assert set(used.values()) <= {4, 6, 8}
    for case, most in used.items():
        seconds = [row["seconds"] for row in last["cases"] if row["case"] == case]
        assert seconds == pytest.approx([seconds[-1] * min(votes, most) / most for votes in range(1, 9)])
    create_experiment(tmp_path / "lake", "x", {})
    with Writer(tmp_path / "lake", "x") as writer:
        writer.append("cases", last["cases"])
    for row in load(tmp_path / "lake").cases(["votes_used"]).to_pylist():
        assert row["votes_used"] == (used[row["case"]] if row["votes"] == 8 else None)


def test_pictures_show_the_images_bytes(last: Message, tmp_path: Path) -> None:
    for row in last["gallery"]:
        shown = np.array(Image.open(io.BytesIO(row["image"])))
        assert shown.shape == (40, 48, 3)
        original = two_folders(tmp_path, count=24, colours=3) / "images" / f"{row['case']}.png"
        np.testing.assert_array_equal(shown, np.array(Image.open(original)))


def test_pictured_are_the_best_the_median_and_the_worst(last: Message) -> None:
    dice: dict[str, list[float]] = {}
    for row in last["cases"]:
        if row["votes"] == last["trial"]["votes"]:
            dice.setdefault(row["case"], []).append(row["dice"])
    ranked = sorted(dice, key=lambda case: (-float(np.mean(dice[case])), case))
    shown = [row["case"] for row in last["gallery"]]
    middle = ranked[len(ranked) // 2 : len(ranked) // 2 + 1]
    assert shown == (ranked if len(ranked) <= 6 else ranked[:3] + middle + ranked[-3:])
