"""Which channels of all volumes hold Hounsfield units, and the window each of them gets.

windows, notes = choose_windows(facts, names, reading)

CT shows the same tissue with the same number in every scan only where every scan has its zero in the same place: cases that tell
otherwise are named, because no rule could know which of them is right.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from cdal.data.dataset import IGNORED, Window
from cdal.data.layouts.layout import some
from cdal.data.own.reading import Reading
from cdal.data.own.survey import CaseFacts
from cdal.data.own.words import count
from cdal.data.preparation import choose_window, is_ct

_BELOW = -100  # what hardly anything but CT falls below


def choose_windows(
    facts: Sequence[CaseFacts], declared: Sequence[str] | None, reading: Reading
) -> tuple[tuple[Window | None, ...], list[str]]:
    """A window per channel, None where it is no CT; () where none is. And what is to be told of them.

    Args:
        facts: of every case.
        declared: what dataset.json calls the channels.
        reading: what the values of masks mean; pixels that nobody judged are no foreground.
    """
    windows: list[Window | None] = []
    told = []
    for channel in range(len(facts[0].channels)):
        name = declared[channel] if declared else None
        like = [case.id for case in facts if _is_ct(case, channel, None)]
        window = None
        if all(_is_ct(case, channel, name) for case in facts):
            window = choose_window([_foreground(case, channel, reading) for case in facts])
            told.append(_window_note(channel, window))
        elif like and not _is_other(name):
            others = [case.id for case in facts if case.id not in like]
            told.append(
                f"channel {channel} of {count(len(like), 'case')} holds Hounsfield units ({some(like)}), but not of "
                f"{some(others)}, so every case is scaled by itself; correct these, or declare the channel CT in dataset.json, "
                "to have one window"
            )
        elif name is None and all(case.channels[channel][0] <= _BELOW for case in facts):
            told.append(
                f"channel {channel} has values below {_BELOW} in every case, as CT has, but no air as scanners store it: every "
                "case is scaled by itself; declare the channel CT in dataset.json, if it is, to have one window"
            )
        above = [case.id for case in facts if case.channels[channel][0] >= 0]
        if window is not None and like and above:
            told.append(
                f"channel {channel} of {some(above)} has no value below 0, where air is near -1000 in others: if an offset was "
                "added to these files, subtract it, or the window shows other tissue in them"
            )
        windows.append(window)
    return (tuple(windows) if any(windows) else ()), told


def _window_note(channel: int, window: Window | None) -> str:
    if window is None:
        return f"channel {channel} is CT, but all foreground has one value: every case is scaled by itself"
    return (
        f"channel {channel} is CT: values from {window[0]:g} to {window[1]:g}, the 0.5th and 99.5th percentile of all foreground, "
        "become -1 to 1 in every case"
    )


def _is_ct(case: CaseFacts, channel: int, name: str | None) -> bool:
    low, high, whole = case.channels[channel]
    return is_ct(name, low, high, "int32" if whole else "float32")


def _is_other(name: str | None) -> bool:
    """Whether a channel is declared to be another modality."""
    return name is not None and not is_ct(name, -1000, 1000, "int32")


def _foreground(case: CaseFacts, channel: int, reading: Reading) -> npt.NDArray[np.float32]:
    """The intensities that were sampled of what belongs to a class."""
    classes = {value for value in set(case.sampled) if reading.lenient(np.array([value]))[0] not in (0, IGNORED)}
    pairs = zip(case.sample[channel], case.sampled, strict=True)
    return np.array([intensity for intensity, value in pairs if value in classes], np.float32)
