"""How a run can end that is nobody's bug: wrong input, a training that diverged, a full disk."""

import errno


class InputError(ValueError):
    """A user's mistake: the message says what is wrong, where, and what to do. Commands print it and exit with status 2."""


class DivergedError(ArithmeticError):
    """A loss became NaN or infinite. The message names the loss, the epoch and the step."""


def short(value: object) -> str:
    """A value as messages show it: on one line, and not longer than that."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def one_line(error: BaseException) -> str:
    """What an error says, without line breaks and not longer than a message bears; its type where it says nothing."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def disk_is_full(error: BaseException) -> bool:
    """Whether there is no room, or this user's share of it is used up."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
