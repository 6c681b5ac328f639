"""Winners trained again: who is chosen, how often the test split has judged them, their trainings."""

from tune.finals.retraining import Retraining
from tune.finals.selection import Contest, Evaluation, Look, choose, earlier_looks, fresh_seeds, refuse_again
