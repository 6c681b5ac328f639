"""Datasets made of given cases."""

from collections.abc import Sequence
from functools import partial

from cdal.data import Case, DatasetSpec
from cdal.data.cases import CaseDataset
from cdal.data.folds import partitioned_split


def dataset_of(spec: DatasetSpec, cases: Sequence[Case]) -> CaseDataset:
    """The cases, in the four partitions of the hippocampus protocol."""
    return CaseDataset(spec, cases, partial(partitioned_split, [case.id for case in cases]))
