"""Trials, finalists and published figures as one table, best first."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from dashboards.ranking.literature import Published, published
from dashboards.summaries import DASH, MAX_TRIALS, Board, parameter_name, records

LITERATURE, FINALIST = "literature", "finalist"
KINDS = {"searched": "searched", "published": "as published", "unet": "plain U-Net"}
_TIMESTEPS, _LATENT = "config.diffusion.timesteps", "config.model.latent_size"

Cell = tuple[str, float | str | None]
"""What is shown, and the value to sort by; None sorts last."""


@dataclass(frozen=True)
class Column:
    """A column: its heading, what it means, and a trial's cell."""

    heading: str
    explanation: str
    cell: Callable[[Mapping[str, Any]], Cell]
    numeric: bool = True


@dataclass(frozen=True)
class Row:
    """A row: its cells by heading, and what it is about."""

    cells: Mapping[str, Cell]
    status: str
    """A trial's own status, `finalist` or `literature`."""
    place: float
    """Dice by which it is placed; NaN for the end."""
    experiment: str = ""
    trial_id: str = ""
    note: str = ""
    warning: str = ""

    def cell(self, column: Column) -> Cell:
        """What stands in a column; a dash where nothing does."""
        return self.cells.get(column.heading, (DASH, None))


@dataclass(frozen=True)
class Ranking:
    """The table and what to say below it."""

    columns: Sequence[Column]
    rows: Sequence[Row]
    """Best first."""
    notes: Sequence[str]

    def frame(self) -> pd.DataFrame:
        """As text, for a notebook or another table."""
        headings = [column.heading for column in self.columns]
        return pd.DataFrame([[row.cell(column)[0] for column in self.columns] for row in self.rows], columns=headings)


def ranking(board: Board, limit: int = MAX_TRIALS) -> Ranking:
    """The best trials of a board, its finalists, and what is published on its dataset."""
    others = published(board.dataset)
    columns = _columns(board, others)
    shown = board.trials.head(limit)
    rows = [_trial_row(row, columns) for row in records(shown)]
    rows += [_finalist_row(row, several=len(board.experiments) > 1) for row in records(board.finalists)]
    rows += [_published_row(other) for other in others]
    rows.sort(key=lambda row: math.inf if math.isnan(row.place) else -row.place)
    return Ranking(columns, rows, _notes(board, others, len(board.trials) - len(shown)))


def _notes(board: Board, others: Sequence[Published], left_out: int) -> list[str]:
    notes = [
        "Ranked by validation Dice (best epoch, on the search's validation cases). Final Dice and IoU score the best checkpoint "
        "by the full protocol with majority vote, on the validation split; Dice and IoU are fractions, higher is better."
    ]
    if board.trials["p"].notna().any():
        equals = int(board.trials["in_best_set"].eq(True).sum())
        notes.append(
            f"{equals} of the trials cannot be told from the best by their cases: with 95 % confidence the truly best one is among "
            "them (those with a p above 0.05, marked ≈). Which of them leads may be luck, and the best of many is luckier than it "
            "will be on new cases."
        )
    if board.trials["groups"].notna().any() or board.finalists["groups"].notna().any():
        notes.append(
            "Cases belong together here, such as the slices of a patient: intervals and p count groups of cases, means are over "
            "cases."
        )
    if len(board.finalists):
        notes.append(
            "Rows of finalists are settings that were trained again with new seeds and scored on the test split: one row per "
            "settings, mean over their trainings, placed by test Dice. Test evaluations above 1 say that the test split was "
            "looked at again."
        )
    if others:
        notes.append(
            "Striped rows are published test figures, placed by their Dice for comparison: protocols differ, and those marked "
            "“selected on test” chose their checkpoint by the very figure they report."
        )
    elif not board.trials.empty:
        notes.append("Nothing published is known for this dataset.")
    if left_out:
        notes.append(f"{left_out} lower-ranked trials are left out.")
    return notes


def _columns(board: Board, others: Sequence[Published]) -> list[Column]:
    trials, finalists = board.trials, board.finalists
    voted = "Best checkpoint, full protocol, majority vote, validation split"
    over = "groups of " if trials["groups"].notna().any() or finalists["groups"].notna().any() else "the "
    columns = [
        Column("Rank", "Place by validation Dice; equal Dice shares a place", _figure_of("rank", 0)),
        Column("Trial", "Number in order of proposal", _trial_cell, numeric=False),
        Column("Validation Dice", "Best epoch, on the search's validation cases", _figure_of("validation_dice")),
        Column("Final Dice", voted, _figure_of("final_dice")),
    ]
    if trials["low"].notna().any():
        columns.append(Column("95 % interval", f"Of the final Dice: bootstrap over {over}validation cases", _interval_cell))
    columns.append(Column("Final IoU", voted, _figure_of("final_iou")))
    if trials["p"].notna().any() or len(finalists):
        tested = "That it is as good as the best on the same cases, which was chosen by the same figures; for all trials together"
        also = "; of a finalist: as the best finalist, on the test cases" if len(finalists) else ""
        columns.append(Column("p", tested + also, _p_cell))
    for name, heading, quoted in (
        ("test_dice", "Test Dice", bool(others) or bool(len(finalists))),
        ("test_iou", "Test IoU", any(other.iou for other in others)),
    ):
        if quoted or trials[name].notna().any():
            columns.append(Column(heading, "On the held-out test split", _figure_of(name)))
    if len(finalists):
        columns += [
            Column("Test 95 % interval", f"Of the test Dice: bootstrap over {over}test cases", _nothing),
            Column("Seed SD", "Standard deviation of the seeds' test Dice", _nothing),
            Column("Trainings", "Trainings of these settings that were scored on the test split", _nothing),
        ]
        looked = "Times that these settings have been scored on the test split; 1 is as it should be"
        columns.append(Column("Test evaluations", looked, _figure_of("test_evaluations", 0)))
    columns += [
        Column("Kind", "Who proposed the settings", lambda row: _words(KINDS.get(str(row["kind"]), row["kind"])), numeric=False),
        Column("Status", "How the trial stands or ended", lambda row: (status_of(row),) * 2, numeric=False),
    ]
    for column, heading in ((_TIMESTEPS, "Time steps"), (_LATENT, "Latent size")):
        if column in trials and trials[column].notna().any():
            columns.append(Column(heading, column.removeprefix("config."), _value_of(column)))
    for column in board.searched:
        if column not in (_TIMESTEPS, _LATENT):
            numeric = pd.api.types.is_numeric_dtype(trials[column])
            name, path = parameter_name(column), column.removeprefix("config.")
            columns.append(Column(name, f"{path}; {DASH} where a trial does not use it", _value_of(column), numeric=numeric))
    columns += [
        Column("Epochs", "Epochs trained", _figure_of("epochs", 0)),
        Column("s / case", "Seconds to predict one case", _figure_of("seconds_per_case", 3)),
    ]
    for seconds, heading in (("gpu_seconds", "GPU-h"), ("cpu_seconds", "CPU-h")):
        if trials[seconds].fillna(0).gt(0).any():
            columns.append(Column(heading, f"{heading[:3]}-hours used", _hours_of(seconds)))
    if trials["cost"].fillna(0).gt(0).any():
        columns.append(Column("Cost", "GPU-hours at --cost-per-gpu-hour", _figure_of("cost", 2)))
    return columns


def _trial_row(row: Mapping[str, Any], columns: Sequence[Column]) -> Row:
    place = row["score"] if pd.notna(row["score"]) else math.nan
    return Row({column.heading: column.cell(row) for column in columns}, status_of(row), place, row["experiment"], row["trial_id"])


def _finalist_row(row: Mapping[str, Any], *, several: bool) -> Row:
    name = f"finalist {row['finalist']}" + (f" of {row['experiment']}" if several else "")
    cells: dict[str, Cell] = {
        "Trial": (name, name),
        "Final Dice": number(row["final_dice"], 4),
        "p": _p_cell(row),
        "Test Dice": number(row["test_dice"], 4),
        "Test 95 % interval": _interval_cell(row),
        "Seed SD": number(row["seed_sd"], 4),
        "Trainings": number(row["trainings"], 0),
        "Test evaluations": number(row["test_evaluations"], 0),
        "Kind": _words(KINDS.get(str(row["kind"]), row["kind"])),
        "Status": (FINALIST, FINALIST),
    }
    again = row["test_evaluations"] if pd.notna(row["test_evaluations"]) else 0
    warning = f"tested {again:.0f} times" if again > 1 else ""
    place = row["test_dice"] if pd.notna(row["test_dice"]) else math.nan
    return Row(cells, FINALIST, place, row["experiment"], warning=warning)


def _published_row(other: Published) -> Row:
    cells: dict[str, Cell] = {
        "Trial": (other.who, other.who),
        "Test Dice": number(other.dice, 4),
        "Test IoU": number(other.iou, 4),
        "Kind": (LITERATURE, LITERATURE),
    }
    return Row(cells, LITERATURE, other.dice, note=other.protocol, warning="selected on test" if other.selected_on_test else "")


# ------------------------------------------------------------------------------------------------------------------------- cells


def number(value: Any, digits: int) -> Cell:
    """A figure with so many digits, a dash where there is none."""
    finite = value is not None and not pd.isna(value) and math.isfinite(value)
    return (f"{value:.{digits}f}", round(float(value), 8)) if finite else (DASH, None)


def status_of(row: Mapping[str, Any]) -> str:
    """A trial's status, as text."""
    return str(row["status"]) if pd.notna(row["status"]) else "unknown"


def setting(value: Any) -> Cell:
    """A value of the configuration."""
    value = value.tolist() if hasattr(value, "tolist") else value
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return DASH, None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return f"{value:.3g}" if isinstance(value, float) and abs(value) < 1000 else f"{value:g}", float(value)
    return str(value)[:60], str(value)[:60]


def _trial_cell(row: Mapping[str, Any]) -> Cell:
    return str(row["label"])[:80], float(row["number"]) if pd.notna(row["number"]) else str(row["label"])


def _words(value: object) -> Cell:
    return (DASH, None) if value is None or value != value else (str(value), str(value))


def _value_of(column: str) -> Callable[[Mapping[str, Any]], Cell]:
    return lambda row: setting(row[column])


def _figure_of(column: str, digits: int = 4) -> Callable[[Mapping[str, Any]], Cell]:
    return lambda row: number(row[column], digits)


def _nothing(row: Mapping[str, Any]) -> Cell:
    return DASH, None


def _interval_cell(row: Mapping[str, Any]) -> Cell:
    return (DASH, None) if pd.isna(row["low"]) else (f"{row['low']:.3f}–{row['high']:.3f}", round(float(row["low"]), 6))


def _p_cell(row: Mapping[str, Any]) -> Cell:
    if pd.isna(row["p"]):
        return ("best", 2.0) if row["best"] is True else (DASH, None)
    text = "< 0.001" if row["p"] < 0.001 else f"{row['p']:.3f}"
    return f"≈ {text}" if row["in_best_set"] is True else text, round(float(row["p"]), 8)


def _hours_of(seconds: str) -> Callable[[Mapping[str, Any]], Cell]:
    def cell(row: Mapping[str, Any]) -> Cell:
        hours = row[seconds] / 3600 if pd.notna(row[seconds]) else None
        return number(hours, 3 if hours is not None and hours < 1 else 1)

    return cell
