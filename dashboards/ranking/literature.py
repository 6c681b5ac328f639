"""Published figures that a leaderboard shows beside its own: Dice and IoU as fractions, each with the protocol behind it."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Published:
    """One published result on one dataset."""

    who: str
    dice: float
    """Mean over the classes and folds that `protocol` names."""
    iou: float | None = None
    protocol: str
    selected_on_test: bool = False
    """Whether the checkpoint was chosen on the very cases that are reported, which makes the figure optimistic."""


def published(dataset: str) -> tuple[Published, ...]:
    """What others report on a dataset, best first; empty where nothing is known."""
    return _PUBLISHED.get(dataset.lower().replace("-", "_").replace(" ", "_"), ())


def _mean(*values: float) -> float:
    return sum(values) / len(values)


_PUBLISHED: dict[str, tuple[Published, ...]] = {
    "monuseg": (
        Published(who="Deco-Mamba-V1 (2026)", dice=0.8514, protocol="224 px"),
        Published(
            who="cDAL, released checkpoint",
            dice=0.8292,
            iou=0.7096,
            protocol="14 test images, 512 px, 5 votes, T = 4; best epoch picked on test",
            selected_on_test=True,
        ),
        Published(who="U-Net, as re-run by LViT", dice=0.7645, iou=0.6286, protocol="224 px"),
    ),
    "chest_xray": (
        Published(who="D3T-Net (Sci Rep 2026)", dice=0.9778, iou=0.9484, protocol="may not be the same images"),
        Published(
            who="cDAL, released checkpoints",
            dice=_mean(0.9688, 0.9579, 0.9638),
            iou=_mean(0.9401, 0.9206, 0.9305),
            protocol="mean of 3 folds (0.9688, 0.9579, 0.9638), 256 px, 30 votes, T = 2; picked on test",
            selected_on_test=True,
        ),
        Published(who="U-Net (Sci Rep 2026)", dice=0.9612, iou=0.9358, protocol="may not be the same images"),
    ),
    "hippocampus": (
        Published(who="Hippo-Net", dice=_mean(0.900, 0.886), protocol="mean of 0.900 and 0.886; own split"),
        Published(who="nnU-Net 3d_fullres", dice=0.889, protocol="5-fold, out of fold, all 260 volumes"),
        Published(
            who="cDAL, released checkpoints",
            dice=_mean(0.8801, 0.8830, 0.8827, 0.8669, 0.8697, 0.8693),
            protocol=(
                "folds 0–2: anterior 0.8801, 0.8830, 0.8827, posterior 0.8669, 0.8697, 0.8693 (class names corrected); "
                "2D slices of 32³ windows, overlap 0.75, 5 votes; best epoch picked on the reported fold"
            ),
            selected_on_test=True,
        ),
        Published(
            who="3D-UCaps",
            dice=_mean(0.8573, 0.8377),
            protocol="folds 0–3: anterior 0.8573, posterior 0.8377; same loader and partitions as cDAL",
        ),
    ),
}
