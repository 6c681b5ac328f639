"""People steer a search while it runs, and are told how it goes."""

from tune.steering.inbox import Granted, Inbox, answer_in, answered, ask, granted
from tune.steering.notices import BUDGET_USED, FAILED, FINISHED, INTERRUPTED, PAUSED, Notices, check
from tune.steering.requests import ASKS, Request, Steered, obey, read_settings, read_text, worded
