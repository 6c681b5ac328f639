"""Which of the published datasets a folder holds."""

import re
from pathlib import Path

from cdal.data.layouts.declared import read_json
from cdal.data.layouts.layout import LAYOUTS, checked, told_by_name
from cdal.data.layouts.tree import scan

_SLIDES = (".tif", ".tiff")
_LUNGS = re.compile(r"(CHNCXR|MCUCXR)_", re.IGNORECASE)
_LUNG_FOLDERS = {"cxr_png", "leftmask"}
_APERIO = re.compile(rb"<Annotations[\s/>]")  # not <annotation> of Pascal VOC, not <ASAP_Annotations>
_HEAD = 4096  # bytes


@told_by_name()
def recognise(folder: Path) -> str:
    """The name of the dataset that a folder looks like, one of `cdal.data.DATASETS`; "own" where it is none of the known ones.

    Raises:
        InputError: no such folder, or a dataset.json that cannot be read.
    """
    folder = checked(folder, LAYOUTS)
    children = [child for child in folder.iterdir() if child.is_dir() and not child.name.startswith(".")]
    inner = children[0] if len(children) == 1 else folder
    for place in (folder, inner):
        if (place / "dataset.json").is_file():
            content = read_json(place / "dataset.json")
            named = "hippocampus" in str(content.get("name")).lower() and isinstance(content.get("training"), list)
            modality = content.get("modality")
            several = isinstance(modality, dict | list) and len(modality) > 1
            return "hippocampus" if named and not several else "own"
    tree = scan(folder)
    if any(path.parent.name.lower() in _LUNG_FOLDERS and _LUNGS.match(path.name) for path in tree.files):
        return "chest_xray"
    slides = {path.stem for path in tree.files if path.name.lower().endswith(_SLIDES)}
    outlines = [path for path in tree.others if path.suffix.lower() == ".xml" and path.stem in slides]
    return "monuseg" if any(map(_is_aperio, outlines)) else "own"


def _is_aperio(path: Path) -> bool:
    """Whether a file holds outlines of ImageScope."""
    with path.open("rb") as file:
        return _APERIO.search(file.read(_HEAD).replace(b"\0", b"")) is not None
