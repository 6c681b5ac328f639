"""What the names of folders and files tell: which hold images and which masks, which part of a split, which case.

    role("Tissue Images"), role("1st_manual")          # ("image", True), ("mask", True)
    part("b. Testing Set")                             # "test"
    bare("img_001"), bare("001-Mask")                  # ("001",), ("001",)

Words are runs of letters in any case: not in `ximages`, but in `JPEGImages`, `imagesTr`, `GT_01` and `leftMask`.
"""

import re
from functools import lru_cache
from typing import Literal

Role = Literal["image", "mask"]
Key = tuple[str, ...]

_REMEMBERED = 4096  # names of folders


def _words(words: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![^\W\d_])(?:{words})(?![^\W\d_])", re.IGNORECASE)


MASK = _words(
    r"(?:bin(?:ary)?[ _-]?)?masks?|labels?|lbls?|segs?|segmentations?|segmented|gts?|ground[ _-]?truths?|annotations?|annotated|"
    r"annot|anno|ann|manuals?[ _-]?[12]?|[123](?:st|nd|rd)[ _-]?(?:ho|manual)|targets?|contours?|delineations?"
)
_LESION = re.compile(r".*\d.*[^A-Za-z](?:lesions?|tumou?rs?|nuclei|vessels?|polyps?)", re.IGNORECASE)  # of a case, as IMD002_lesion
_WORDS_OF_IMAGES_TOO = {"ann", "target", "targets", "contour", "contours"}
_IMAGE = _words(
    r"(?:tissue[ _-]?)?images?|imgs?|im|pictures?|pics?|photos?|inputs?|originals?|imaging|scans?|frames?|raw|cxr|dicom|volumes?|"
    r"slides?"
)
_PART_WORDS = {
    "train": "train", "training": "train", "trn": "train", "trainval": "train",
    "val": "validation", "valid": "validation", "validation": "validation", "dev": "validation",
    "test": "test", "testing": "test", "tst": "test",
}  # fmt: skip
_PART = _words("|".join(_PART_WORDS))
_NNUNET_PART = re.compile(r"(?<=images|labels)(tr|ts|val?)$", re.IGNORECASE)
_NNUNET_PARTS = {"tr": "train", "ts": "test", "va": "validation", "val": "validation"}
_FILLER = re.compile(
    r"data|dataset|sets?|files|folder|all|the|of|and|full|final|output|native|derivatives|anat|png|jpe?g|tiff?|bmp|gif|nii|nifti|rgb|"
    r"gr[ae]y|colou?r(?:ed)?|class(?:es)?|objects?|instances?|semantic|experts?|cropped|resized|st|nd|rd|ho|\d+|."
)
_NOT_FOR_TRAINING = _words(r"viz|visuali[sz]ations?|overlays?|previews?|thumb(?:nail)?s?|superpixels?|4d|segmentation[ ]?object")
_OTHER_ANSWERS = _words(  # folders of masks that are no classes
    r"old|new|v\d*|version|final|expert|rater|observer|reader|annotator|doctor|prediction|predicted|pred|auto|automatic|manual|ground|"
    r"truth|gt|masks?|labels?|colou?rs?|binary|bin|instances?|semantic|resized|cropped|consensus|sets?|parts?|folds?|batch|split|round|"
    r"site|cent(?:er|re)|train|val|test"
)
_KINDS = re.compile(
    r"(?:class|grade|type|kind|fold|batch|part|set|level|stage|group|site|cent(?:er|re)|hospital|task|dataset|data|slices?|version|v)"
    r"[ _-]?\d+|\d+\s?(?:x|px)",
    re.IGNORECASE,
)
_ABOUT = re.compile(
    r"(?:licen[cs]e|readme|attribution|citation|mandatory_citation|copyright|changelog|.*\.(?:md|cfg)$)", re.IGNORECASE
)


def spaced(name: str) -> str:
    """A name with its words apart: `leftMask` as `left Mask`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z]{2})", " ", name)


def tokens(name: str) -> Key:
    """The words and numbers of a name, in small letters."""
    return tuple(re.findall(r"[^\W\d_]+|\d+", spaced(name).casefold()))


def bare(name: str) -> Key:
    """The words and numbers that are left when those for images, masks and parts are taken off."""
    text = spaced(name)
    for words in (MASK, _IMAGE, _PART):
        text = words.sub(" ", text)
    return tokens(text)


def contradict(one: str, other: str) -> bool:
    """Whether two names have different words for images, or for parts: `train_1` and `test_1`, but not `21_training` and `21`."""
    for words in (_IMAGE, _PART):
        first, second = ({word.lower() for word in words.findall(spaced(name))} for name in (one, other))
        if first and second and first != second:
            return True
    return False


def unmasked(name: str) -> Key:
    """The words and numbers that are left when those for masks are taken off."""
    return tokens(MASK.sub(" ", spaced(name)))


def before_mask(name: str) -> str:
    """What stands before the word for a mask: `case_1` of `case_1_mask_2`, "" of `mask_1`."""
    return MASK.split(spaced(name), maxsplit=1)[0]


def numbered(name: str) -> tuple[str, str] | None:
    """A name that ends in a word for masks and a number, as what comes before the number and the number, which may be ""."""
    found = re.fullmatch(r"(.*[^\W\d_])(?:[ _.-]+\(?(\d+)\)?)?", spaced(name))
    return (found[1].casefold(), found[2] or "") if found and MASK.search(found[1]) else None


def is_mask(name: str) -> bool:
    """Whether a file's name says that it is a mask, where its folder does not."""
    return any(word[0].lower() not in _WORDS_OF_IMAGES_TOO for word in MASK.finditer(spaced(name)))


@lru_cache(_REMEMBERED)
def role(name: str) -> tuple[Role, bool] | None:
    """What lies in a folder of this name, and whether the name says nothing else."""
    text = _NNUNET_PART.sub("", name)
    if name.lower() in ("x", "y"):
        return ("image" if name.lower() == "x" else "mask"), True
    words = spaced(text)
    found: Role | None = "mask" if MASK.search(words) else "image" if _IMAGE.search(words) else None
    if name.lower() == "imagesets":
        return None
    if found is None:
        return ("mask", False) if _LESION.fullmatch(name) else None
    return found, all(map(_FILLER.fullmatch, bare(text)))


@lru_cache(_REMEMBERED)
def part(name: str) -> str | None:
    """The part of a split that a folder holds."""
    found = _NNUNET_PART.search(name)
    if found:
        return _NNUNET_PARTS[found[1].lower()]
    match = _PART.search(spaced(name))
    return _PART_WORDS[match[0].lower()] if match else None


@lru_cache(_REMEMBERED)
def is_only_part(name: str) -> bool:
    """Whether a folder's name says nothing but the part of a split."""
    return part(name) is not None and role(name) is None and all(map(_FILLER.fullmatch, bare(name)))


def is_not_for_training(name: str) -> bool:
    """Pictures of masks over images, films beside their frames, and the like."""
    return _NOT_FOR_TRAINING.search(spaced(name)) is not None


def may_be_class(name: str) -> bool:
    """Whether a folder of masks, or a mask of a case, can be named after a class."""
    return any(word.isalpha() and len(word) > 1 for word in tokens(name)) and not _OTHER_ANSWERS.search(spaced(name))


def may_be_patient(name: str) -> bool:
    """Whether a folder's name tells one patient from another."""
    return any(word.isdigit() for word in tokens(name)) and part(name) is None and not _KINDS.fullmatch(spaced(name))


def is_about(name: str) -> bool:
    """Whether a file tells about the data only: licences, read-mes."""
    return _ABOUT.match(name) is not None
