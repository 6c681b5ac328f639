"""Which masks belong to which image, by the names of both.

A mask belongs to the image that has, in this order,

    its name                                       a.jpg               a.png
    its name without _mask, _label, _seg ...       case_1.png          case_1_mask.png, case_1_Segmentation.png, 01_gt.png
    what is left without the words for both        img_001.png         mask_001.png; image1 and label1; 21_training and 21_manual1
    the same, without a number                     benign (1).png      benign (1)_mask_1.png
    the same, with an ending that masks share      im0001.ppm          im0001.ah.ppm, im0002.ah.ppm, ...
    a folder to itself and its masks               a1/images/a1.png    a1/masks/0f3c.png, a1/masks/77d0.png
    or is one of several channels                  p1_t1, p1_flair     p1_seg

in the same folder of a case, of a class or of a part. Where a name fits several, nothing is chosen.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cdal.data.layouts import names
from cdal.data.layouts.names import Key, Role

_SUFFIX = re.compile(r"_(mask|label|seg|segmentation)$", re.IGNORECASE)
_FIRST_CHANNEL = "0000"


@dataclass(frozen=True, kw_only=True)
class Item:
    """An image or a mask."""

    path: Path
    stem: str
    folders: tuple[str, ...] = ()
    """All that it lies in."""
    role: Role | None = None
    """What the folders tell it is."""
    place: tuple[str, ...] = ()
    """The folders that tell more than that they hold images or masks: of a patient, of a class."""
    part: str | None = None
    """Of a split."""
    home: Path
    """The folder whose name tells the role, or else the one it lies in."""


Pairing = tuple[list[Item], list[Item]]
"""Images (several: channels) and masks of a case."""


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """What belongs together."""

    cases: list[Pairing] = field(default_factory=list)
    channels: tuple[str, ...] | None = None
    images: list[Item] = field(default_factory=list)
    """Those without a mask."""
    masks: list[Item] = field(default_factory=list)
    """Those without an image."""
    problems: list[str] = field(default_factory=list)


def pair(images: Sequence[Item], masks: Sequence[Item], *, by_folder: bool) -> Pairs:
    """Put images and masks together; `by_folder` where folders told which is which, and names did not."""
    found = Pairs()
    index = _Index(images, masks)
    together: dict[Path, list[Item]] = defaultdict(list)
    left = []
    for mask in masks:
        fitting = next((items for items in index.fitting(mask) if items), [])
        if len(fitting) > 1:
            first, second = (item.path.name for item in fitting[:2])
            found.problems.append(f"{mask.path} may be the mask of {first} or of {second}; give masks the names of their images")
        elif fitting:
            together[fitting[0].path].append(mask)
        else:
            left.append(mask)
    for step in (_alone, _with_shared_ending) if by_folder else (_alone,):
        matched = step(index, left, together)
        for mask, image in matched:
            together[image.path].append(mask)
        taken = {mask.path for mask, _ in matched}
        left = [mask for mask in left if mask.path not in taken]
    found.cases.extend(([image], together[image.path]) for image in images if image.path in together)
    rest = [image for image in images if image.path not in together]
    return _with_channels(found, index, rest, left)


class _Index:
    """Images by what their names and places tell."""

    def __init__(self, images: Sequence[Item], masks: Sequence[Item]) -> None:
        """Places and parts count where there are such of one name among images and masks."""
        self._by_place = bool({item.place for item in images if item.place} & {item.place for item in masks})
        self._by_part = bool({item.part for item in images} & {item.part for item in masks})
        places = Counter((item.part, item.place) for item in images if item.place)
        self.folder_a_case = len(places) > 1 and sum(count == 1 for count in places.values()) > len(places) / 2
        self._found: dict[Hashable, list[Item]] = defaultdict(list)
        for image in images:
            scope = self.scope(image)
            for key in (("name", image.stem), names.tokens(image.stem), ("bare", names.bare(image.stem)), None):
                self._found[scope, key].append(image)

    def scope(self, item: Item) -> Hashable:
        """Where a partner is looked for."""
        return item.part if self._by_part else None, item.place if self._by_place else ()

    def get(self, item: Item, key: Hashable) -> list[Item]:
        """The images with this key where the partner of an item is looked for; key None for all."""
        return self._found.get((self.scope(item), key), [])

    def fitting(self, mask: Item) -> Iterator[list[Item]]:
        """The images that a mask's name fits, from the best kind of fit to the loosest."""
        yield self.get(mask, ("name", mask.stem))
        yield self.get(mask, ("name", _SUFFIX.sub("", mask.stem)))
        for key in (names.unmasked(mask.stem), names.tokens(mask.stem)):
            yield self.get(mask, key) if key else []
        yield self._bare(mask, names.bare(mask.stem))
        form = names.numbered(mask.stem)
        if form and form[1]:
            before = names.before_mask(mask.stem)
            yield self.get(mask, names.tokens(before)) if names.tokens(before) else []
            yield self._bare(mask, names.bare(before))

    def _bare(self, mask: Item, key: Key) -> list[Item]:
        """An empty key (image.png and mask.png) is good in a folder of one case, or where there is one image."""
        found = [image for image in self.get(mask, ("bare", key)) if not names.contradict(image.stem, mask.stem)]
        return found if key or mask.place or len(self.get(mask, None)) == 1 else []


def _alone(index: _Index, masks: Sequence[Item], together: Mapping[Path, object]) -> list[tuple[Item, Item]]:
    """Masks in the folder of a case, whose only image they must belong to, where most folders are of that kind."""
    found = []
    for mask in masks if index.folder_a_case else ():
        images = index.get(mask, None)
        if mask.place and len(images) == 1 and images[0].place == mask.place and images[0].path not in together:
            found.append((mask, images[0]))
    return found


def _with_shared_ending(index: _Index, masks: Sequence[Item], _: object) -> list[tuple[Item, Item]]:
    """Masks named like an image and a word that at least half of the masks beside them have too."""
    found, endings = [], Counter[tuple[Path, Key]]()
    for mask in masks:
        words = names.tokens(mask.stem)
        for length in range(len(words) - 1, 0, -1):
            images, rest = index.get(mask, words[:length]), words[length:]
            if images:
                if len(images) == 1 and any(word.isalpha() for word in rest):
                    found.append((mask, images[0], (mask.path.parent, rest)))
                    endings[mask.path.parent, rest] += 1
                break
    beside = Counter(mask.path.parent for mask in masks)
    return [(mask, image) for mask, image, key in found if endings[key] >= max(2, beside[key[0]] / 2)]


def _with_channels(found: Pairs, index: _Index, images: Sequence[Item], masks: Sequence[Item]) -> Pairs:
    """Images whose names go on after the name of a mask, in the same ways in most cases."""
    by_name: dict[Hashable, list[Item]] = defaultdict(list)
    for mask in masks:
        by_name[index.scope(mask), names.bare(mask.stem)].append(mask)
    members: dict[Path, dict[Key, Item]] = defaultdict(dict)
    for image in images:
        words = names.bare(image.stem)
        for length in range(len(words) - 1, -1 if image.place else 0, -1):
            owners = by_name.get((index.scope(image), words[:length]), [])
            if owners:
                if len(owners) == 1:
                    members[owners[0].path].setdefault(words[length:], image)
                break
    sets = Counter(frozenset(kinds) for kinds in members.values())
    usual = sets.most_common(1)[0][0] if sets else frozenset()
    numbers = all(word.isdigit() and len(word) == 4 for (word, *_) in usual) and (_FIRST_CHANNEL,) in usual
    if not usual or sets[usual] < len(masks) / 2 or not (numbers or all(any(w.isalpha() for w in kind) for kind in usual)):
        found.images.extend(images)
        found.masks.extend(masks)
        return found
    order = sorted(usual)
    called = {kind: _ending(image.stem, kind) for kinds in members.values() for kind, image in kinds.items()}
    taken = set()
    for mask in masks:
        kinds = members.get(mask.path, {})
        missing = [kind for kind in order if kind not in kinds]
        if missing and kinds:
            path = next(iter(kinds.values())).path
            found.problems.append(f"{path} lies without the channel {called[missing[0]]} of its case, which other cases have")
        elif missing:
            found.masks.append(mask)
        else:
            found.cases.append(([kinds[kind] for kind in order], [mask]))
        taken |= {kinds[kind].path for kind in order if kind in kinds}
    found.images.extend(image for image in images if image.path not in taken)
    named = tuple(called[kind] for kind in order)
    return Pairs(
        cases=found.cases,
        channels=None if numbers or len(order) == 1 else named,
        images=found.images,
        masks=found.masks,
        problems=found.problems,
    )


def _ending(stem: str, words: Key) -> str:
    """The end of a name that consists of these words, as it is written."""
    starts = (start for start in range(len(stem)) if stem[start].isalnum() and names.tokens(stem[start:]) == words)
    return stem[next(starts, 0) :]
