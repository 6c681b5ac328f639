"""Which files make a case, for folders as people and tools leave them. Nothing is decoded: files may be empty."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest
from own_folders import decathlon, nnunet, two_folders

from cdal.data.layouts import Layout, decathlon_layout, find_layout, recognise
from cdal.errors import InputError

Cases = Mapping[str, tuple[list[str], list[str]]]


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def write(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def cases(layout: Layout, folder: Path) -> Cases:
    """Ids with the names of their images and labels within a folder."""
    assert layout.problems == []
    return {
        source.id: tuple(
            [path.relative_to(folder.resolve()).as_posix() for path in paths] for paths in (source.images, source.labels)
        )
        for source in layout.sources
    }


def found(folder: Path) -> Cases:
    return cases(find_layout(folder), folder)


def single(pairs: Iterable[tuple[str, str, str]]) -> Cases:
    return {case_id: ([image], [label]) for case_id, image, label in pairs}


def parts(layout: Layout) -> dict[str, list[tuple[str, ...]]]:
    return {name: [split.train, split.validation, split.test] for name, split in layout.splits.items()}


def noted(layout: Layout, *words: str) -> bool:
    return any(all(word in note for word in words) for note in layout.notes)


NUMBERS = ("1", "2", "3", "4")


@pytest.mark.parametrize(
    ("image", "label", "ids"),
    [
        ("images/a{}.png", "masks/a{}.png", "a{}"),
        ("Images/a{}.PNG", "Masks/a{}_mask.png", "a{}"),
        ("imgs/a{}.jpg", "labels/a{}.png", "a{}"),
        ("IMG/a{}.tif", "GT/a{}.tif", "a{}"),
        ("image/img_00{}.png", "mask/mask_00{}.png", "img_00{}"),
        ("image/image{}.png", "label/label{}.png", "image{}"),
        ("input/{}.jpg", "target/{}.png", "{}"),
        ("x/{}.png", "y/{}.png", "{}"),
        ("Original/{}.tif", "Ground Truth/{}.tif", "{}"),
        ("JPEGImages/p{}.jpg", "annotations/p{}.png", "p{}"),
        ("Tissue Images/t{}.png", "GroundTruth/t{}_gt.png", "t{}"),
        ("images/a{}.png", "segmentations/a{}_Segmentation.png", "a{}"),
        ("CXR_png/X_{}.png", "masks/X_{}_mask.png", "X_{}"),
        ("images/0{}_test.tif", "1st_manual/0{}_manual1.gif", "0{}_test"),
        ("stare-images/im000{}.ppm", "labels-ah/im000{}.ah.ppm", "im000{}"),
        ("Slide_images/s{}.png", "GT_slides/s{}.png", "s{}"),
        ("imagesTr/vol_{}_0000.nii.gz", "labelsTr/vol_{}.nii.gz", "vol_{}"),
        ("volumes/volume-{}.nii", "segmentations/segmentation-{}.nii", "volume-{}"),
        ("ISIC2018_Task1-2_Training_Input/ISIC_{}.jpg", "ISIC2018_Task1_Training_GroundTruth/ISIC_{}_segmentation.png", "ISIC_{}"),
        ("png/a{}.png", "trimaps_masks/a{}.png", "a{}"),
        ("case_{}.png", "case_{}_mask.png", "case_{}"),
        ("all/case_{}.jpg", "all/case_{}_Mask.png", "case_{}"),
        ("Image_0{}L.jpg", "Image_0{}L_1stHO.png", "Image_0{}L"),
        ("train_{}.bmp", "train_{}_anno.bmp", "train_{}"),
        ("volume-{}.nii", "segmentation-{}.nii", "volume-{}"),
        ("case_0000{}/imaging.nii.gz", "case_0000{}/segmentation.nii.gz", "case_0000{}"),
        ("s{}/ct.nii.gz", "s{}/mask.nii.gz", "s{}"),
        ("IMD00{0}/IMD00{0}_Dermoscopic_Image/IMD00{0}.bmp", "IMD00{0}/IMD00{0}_lesion/IMD00{0}_lesion.bmp", "IMD00{}"),
        ("Slide_0{0}/0{0}_1.png", "GT_0{0}/0{0}_1.png", "0{}_1"),
        ("sub-0{0}/anat/sub-0{0}_T1w.nii.gz", "derivatives/labels/sub-0{0}/anat/sub-0{0}_T1w_seg.nii.gz", "sub-0{}_T1w"),
    ],
)
def test_images_and_masks_by_what_they_are_called(tmp_path: Path, image: str, label: str, ids: str) -> None:
    pairs = [(image.format(number), label.format(number)) for number in NUMBERS]
    touch(tmp_path, *(name for pair in pairs for name in pair))
    expected = {ids.format(number): ([a], [b]) for number, (a, b) in zip(NUMBERS, pairs, strict=True)}
    assert found(tmp_path) == expected


def test_names_that_fit_two_images_are_refused_with_both(tmp_path: Path) -> None:
    touch(tmp_path, *(f"images/{name}.png" for name in ("img_1", "image_1", "b", "c", "d")))
    touch(tmp_path, *(f"masks/{name}.png" for name in ("mask_1", "b", "c", "d")))
    first = find_layout(tmp_path).problems[0]
    assert "masks/mask_1.png may be the mask of image_1.png or of img_1.png" in first


@pytest.mark.parametrize("second", ["{}_2ndHO.png", "{}_gt.png", "{}_mask2.png", "{}_manual2.png"])
def test_two_answers_of_one_image_are_refused(tmp_path: Path, second: str) -> None:
    """By two experts, perhaps: they are no parts of a mask."""
    for name in ("Image_01L", "Image_01R", "Image_02L", "Image_02R"):
        first = "{}_manual1.png" if "manual" in second else "{}_mask1.png" if "mask2" in second else "{}_1stHO.png"
        touch(tmp_path, f"{name}.jpg", first.format(name), second.format(name))
    layout = find_layout(tmp_path)
    assert layout.sources == []
    known = second != "{}_mask2.png"
    assert ("are both masks of Image_01L.jpg; keep the one that is meant" if known else "do not fit") in layout.problems[0]


def test_two_folders_of_masks_are_refused_with_both(tmp_path: Path) -> None:
    """DRIVE: the vessels of an expert, and the field of view."""
    for number in range(21, 27):
        names = (f"images/{number}_training.tif", f"1st_manual/{number}_manual1.gif", f"mask/{number}_training_mask.gif")
        touch(tmp_path / "training", *names)
    (told, *_) = find_layout(tmp_path).problems
    assert "images/21_training.tif has masks in two folders" in told
    assert "training/1st_manual and " in told
    assert "training/mask; keep the one that is meant" in told


def test_masks_beside_images_come_before_other_answers(tmp_path: Path) -> None:
    """As they always did; now it is told."""
    touch(tmp_path, *(f"{part}/{number}.png" for part in ("images", "masks", "labels") for number in NUMBERS))
    layout = find_layout(tmp_path)
    assert cases(layout, tmp_path) == single((n, f"images/{n}.png", f"masks/{n}.png") for n in NUMBERS)
    assert noted(layout, "4 files are left out, not in masks/", "labels/1.png")


def test_numbered_masks_of_an_image_are_merged(tmp_path: Path) -> None:
    """BUSI: kinds of lesions are no patients."""
    folder = tmp_path / "Dataset_BUSI_with_GT"
    for kind in ("benign", "malignant", "normal"):
        for number in (1, 2, 3):
            touch(folder, f"{kind}/{kind} ({number}).png", f"{kind}/{kind} ({number})_mask.png")
    touch(folder, "benign/benign (2)_mask_1.png", "benign/benign (2)_mask_2.png")
    layout = find_layout(tmp_path)
    read = cases(layout, folder)
    assert len(read) == 9
    assert read["benign (2)"][1] == [f"benign/benign (2)_mask{end}.png" for end in ("", "_1", "_2")]
    assert read["malignant (3)"] == (["malignant/malignant (3).png"], ["malignant/malignant (3)_mask.png"])
    assert not layout.groups
    assert noted(layout, "1 images have several masks each, which are merged: benign (2).png")


def test_equal_names_in_two_folders_are_two_cases(tmp_path: Path) -> None:
    for kind in ("benign", "malignant"):
        touch(
            tmp_path, *(f"images/{kind}/{number}.png" for number in NUMBERS), *(f"masks/{kind}/{number}.png" for number in NUMBERS)
        )
    read = found(tmp_path)
    assert len(read) == 8
    assert read["malignant/3"] == (["images/malignant/3.png"], ["masks/malignant/3.png"])


def test_an_object_a_file(tmp_path: Path) -> None:
    """Data Science Bowl 2018: names of masks tell nothing."""
    for number in NUMBERS:
        touch(tmp_path, f"stage1_train/a{number}f/images/a{number}f.png", f"stage1_train/a{number}f/masks/{number}0c1.png")
        touch(tmp_path, f"stage1_train/a{number}f/masks/{number}77e.png", f"stage1_test/b{number}/images/b{number}.png")
    layout = find_layout(tmp_path)
    folder = "stage1_train/a3f"
    assert cases(layout, tmp_path)["a3f"] == (
        [f"{folder}/images/a3f.png"],
        [f"{folder}/masks/30c1.png", f"{folder}/masks/377e.png"],
    )
    assert len(layout.sources) == 4
    assert layout.labels is None
    assert noted(layout, "4 files are left out, in folders without any mask", "stage1_test")
    assert noted(layout, "several masks each, which are merged")


@pytest.mark.parametrize(
    ("image", "masks"),
    [
        ("s{0}/ct.nii.gz", "s{0}/segmentations/{1}.nii.gz"),
        ("s{0}/image.nii.gz", "s{0}/mask_{1}.nii.gz"),
        ("images/p{0}.png", "masks/{1}/p{0}.png"),
        ("images/p{0}.png", "masks/{1}/p{0}_XY.png"),
    ],
)
def test_a_class_a_file(tmp_path: Path, image: str, masks: str) -> None:
    for number in NUMBERS:
        touch(tmp_path, image.format(number), *(masks.format(number, name) for name in ("spleen", "liver")))
    layout = find_layout(tmp_path)
    assert layout.labels == {1: "liver", 2: "spleen"}
    assert [source.values for source in layout.sources] == [(1, 2)] * 4
    assert [[path.name for path in source.images] for source in layout.sources] == [[Path(image.format(n)).name] for n in NUMBERS]
    assert all("liver" in source.labels[0].as_posix().removeprefix(str(tmp_path)) for source in layout.sources)
    assert noted(layout, "liver, spleen")


def test_answers_of_several_readers_are_no_classes(tmp_path: Path) -> None:
    for number in NUMBERS:
        touch(tmp_path, f"images/p{number}.png", f"masks/rater1/p{number}.png", f"masks/rater2/p{number}.png")
    layout = find_layout(tmp_path)
    assert layout.sources == []
    assert "are both masks of p1.png" in layout.problems[0]


@pytest.mark.parametrize(("image", "mask"), [("images/p{}.png", "masks/{}/p{}.png"), ("s{}/ct.nii.gz", "s{}/mask_{}.nii.gz")])
def test_a_case_that_lacks_a_class(tmp_path: Path, image: str, mask: str) -> None:
    """One file is a class too, where others have several; one of no class is refused."""
    in_folder = mask.startswith("masks")
    for number in NUMBERS:
        kinds = ("liver", "spleen") if number != "3" else ("spleen",)
        named = (mask.format(*((kind, number) if in_folder else (number, kind))) for kind in kinds)
        touch(tmp_path, image.format(number), *named)
    layout = find_layout(tmp_path)
    assert layout.problems == []
    assert [source.values for source in layout.sources] == [(1, 2), (1, 2), (2,), (1, 2)]
    odd = mask.format(*(("", "3") if in_folder else ("3", "")))
    touch(tmp_path, image.format("5"), odd.replace("3", "5").replace("//", "/"))
    (told,) = find_layout(tmp_path).problems
    assert "is of none of the classes that other masks are named after (liver, spleen)" in told


def test_folders_of_masks_that_no_image_needs_both_of(tmp_path: Path) -> None:
    touch(tmp_path, *(f"images/{n}.png" for n in NUMBERS), "masks/benign/1.png", "masks/benign/2.png")
    touch(tmp_path, "masks/malignant/3.png", "masks/malignant/4.png")
    layout = find_layout(tmp_path)
    assert len(cases(layout, tmp_path)) == 4
    assert noted(layout, "benign, malignant are not told apart")


def test_several_data_sets_in_a_folder_are_not_put_together(tmp_path: Path) -> None:
    decathlon(tmp_path / "Task01")
    decathlon(tmp_path / "Task02")
    with pytest.raises(InputError, match=r"has no known layout; did you mean .*Task01\?"):
        find_layout(tmp_path)


def test_channels_of_a_case(tmp_path: Path) -> None:
    for number in NUMBERS:
        touch(tmp_path, *(f"BraTS_00{number}/BraTS_00{number}_{kind}.nii.gz" for kind in ("t2", "flair", "t1ce", "seg", "t1")))
    layout = find_layout(tmp_path)
    assert layout.channels == ("flair", "t1", "t1ce", "t2")
    start = "BraTS_002/BraTS_002_"
    images = [f"{start}{kind}.nii.gz" for kind in ("flair", "t1", "t1ce", "t2")]
    assert cases(layout, tmp_path)["BraTS_002"] == (images, [f"{start}seg.nii.gz"])
    assert noted(layout, "channels", "flair, t1, t1ce, t2")
    (tmp_path / f"{start}t1ce.nii.gz").unlink()
    (told,) = find_layout(tmp_path).problems
    assert "lies without the channel t1ce of its case" in told
    assert "BraTS_002" in told


def test_channels_by_name_alone(tmp_path: Path) -> None:
    for number in NUMBERS:
        touch(tmp_path, *(f"p{number}/{kind}.nii.gz" for kind in ("t2", "adc", "mask")))
    layout = find_layout(tmp_path)
    assert layout.channels == ("adc", "t2")
    assert cases(layout, tmp_path)["p3"] == (["p3/adc.nii.gz", "p3/t2.nii.gz"], ["p3/mask.nii.gz"])


def test_frames_of_patients_are_grouped(tmp_path: Path) -> None:
    """ACDC: two frames of each heart, and the film that they are from."""
    for number in range(1, 5):
        name = f"patient00{number}"
        touch(
            tmp_path, *(f"training/{name}/{name}_{end}.nii.gz" for end in ("frame01", "frame01_gt", "frame12", "frame12_gt", "4d"))
        )
        touch(tmp_path, f"training/{name}/Info.cfg")
    layout = find_layout(tmp_path)
    assert len(cases(layout, tmp_path)) == 8
    assert layout.groups["patient003_frame12"] == "patient003"
    assert len(set(layout.groups.values())) == 4
    assert noted(layout, "4 files are left out", "patient001_4d.nii.gz")
    assert not layout.splits


@pytest.mark.parametrize("form", ["{part}/{kind}/{name}", "{kind}/{part}/{name}", "{part}_{kind}/{name}"])
def test_folders_that_are_a_split(tmp_path: Path, form: str) -> None:
    for part, names in (("train", ("a", "b", "c")), ("valid", ("d",)), ("test", ("e", "f"))):
        for name in names:
            touch(tmp_path, *(form.format(part=part, kind=kind, name=f"{name}.png") for kind in ("images", "masks")))
    layout = find_layout(tmp_path)
    assert parts(layout) == {"as the folders are": [("a", "b", "c"), ("d",), ("e", "f")]}
    assert noted(layout, "the split is the one that the folders are: train (3), validation (1), test (2)")


@pytest.mark.parametrize("second", ["val", "Testing", "test"])
def test_of_two_parts_the_second_tests(tmp_path: Path, second: str) -> None:
    for part in ("Training", second):
        touch(tmp_path, *(f"{part}/{name}.png" for number in NUMBERS for name in (number, f"{number}_mask")))
    layout = find_layout(tmp_path)
    other = "validation" if second == "val" else "test"
    assert parts(layout) == {
        "as the folders are": [tuple(f"train/{n}" for n in NUMBERS), (), tuple(f"{other}/{n}" for n in NUMBERS)]
    }  # equal names: ids have the part


def test_a_test_folder_without_masks(tmp_path: Path) -> None:
    touch(tmp_path, *(f"train/{kind}/{number}.png" for kind in ("images", "masks") for number in NUMBERS), "test/images/9.png")
    layout = find_layout(tmp_path)
    assert cases(layout, tmp_path) == single((n, f"train/images/{n}.png", f"train/masks/{n}.png") for n in NUMBERS)
    assert not layout.splits
    assert noted(layout, "1 file is left out, in folders without any mask: test/images/9.png")


def test_masks_in_a_folder_that_tells_no_part(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{name}/{n}.png" for name in ("train_images", "masks") for n in NUMBERS), "test_images/9.png")
    layout = find_layout(tmp_path)
    assert cases(layout, tmp_path) == single((n, f"train_images/{n}.png", f"masks/{n}.png") for n in NUMBERS)
    assert noted(layout, "in folders without any mask: test_images/9.png")


def test_an_image_of_a_part_is_not_given_the_mask_of_another(tmp_path: Path) -> None:
    touch(
        tmp_path,
        *(f"train/{kind}/{n}.png" for kind in ("images", "masks") for n in NUMBERS),
        "test/images/5.png",
        "test/masks/1.png",
    )
    told = "\n".join(find_layout(tmp_path).problems)
    assert "test/images/5.png has no mask" in told
    assert "test/masks/1.png has no image" in told


def test_a_patients_mask_is_not_given_to_another(tmp_path: Path) -> None:
    """A number in a patient's folder counts within it."""
    for patient in ("p1", "p2", "p3"):
        touch(tmp_path, *(f"{patient}/{kind}/{n}.png" for kind in ("images", "masks") for n in ("1", "2")))
    (tmp_path / "p1/masks/2.png").unlink()
    (tmp_path / "p2/images/2.png").unlink()
    layout = find_layout(tmp_path)
    assert len(layout.sources) == 4
    assert ["p2/masks/2.png has no image" in told or "p1/images/2.png has no mask" in told for told in layout.problems] == [
        True
    ] * 2
    assert layout.groups["p3/2"] == "p3"


def test_masks_without_image_are_not_given_to_a_shorter_name(tmp_path: Path) -> None:
    touch(tmp_path, *(f"images/case_{n}.png" for n in NUMBERS), *(f"masks/case_{n}_2.png" for n in NUMBERS))
    layout = find_layout(tmp_path)
    assert layout.sources == []
    assert "have names that do not fit each other; give every mask the name of its image" in layout.problems[0]


@pytest.mark.parametrize("other", ["test_1_mask.png", "frame_1_mask.png"])
def test_a_mask_is_not_given_to_an_image_of_another_word(tmp_path: Path, other: str) -> None:
    first = "train_{}" if "test" in other else "scan_{}"
    touch(tmp_path, *(f"{first.format(n)}{end}.png" for n in "2345" for end in ("", "_mask")), f"{first.format(1)}.png", other)
    told = find_layout(tmp_path).problems
    assert sorted("has no mask" in sentence for sentence in told) == [False, True]
    assert any(f"{other} has no image" in sentence for sentence in told)


def test_outlines_of_labelme(tmp_path: Path) -> None:
    for number in NUMBERS:
        touch(tmp_path, f"a{number}.png")
        write(tmp_path / f"a{number}.json", {"shapes": [], "imagePath": f"a{number}.png"})
    assert found(tmp_path) == single((f"a{n}", f"a{n}.png", f"a{n}.json") for n in NUMBERS)
    (tmp_path / "a2.json").unlink()
    assert "a2.png has no outlines: there is no a2.json" in find_layout(tmp_path).problems[0]


def test_outlines_in_a_folder_of_their_own(tmp_path: Path) -> None:
    for number in NUMBERS:
        touch(tmp_path, f"images/a{number}.png")
        write(tmp_path / "annotations" / f"a{number}.json", {"shapes": []})
    assert found(tmp_path) == single((f"a{n}", f"images/a{n}.png", f"annotations/a{n}.json") for n in NUMBERS)


def test_outlines_of_coco(tmp_path: Path) -> None:
    for part, names in (("train2017", ("1", "2", "3")), ("val2017", ("4",))):
        touch(tmp_path, *(f"{part}/{name}.jpg" for name in names))
        listed = [{"id": int(name), "file_name": f"{name}.jpg"} for name in names]
        write(tmp_path / "annotations" / f"instances_{part}.json", {"images": listed, "annotations": [], "categories": []})
    layout = find_layout(tmp_path)
    assert cases(layout, tmp_path)["4"] == (["val2017/4.jpg"], ["annotations/instances_val2017.json"])
    assert parts(layout) == {"as the folders are": [("1", "2", "3"), (), ("4",)]}
    touch(tmp_path, "train2017/9.jpg")
    assert "9.jpg has no outlines: it is not listed in" in find_layout(tmp_path).problems[0]
    (tmp_path / "train2017" / "2.jpg").unlink()
    assert "outlines 3 images, of which 1 are missing (2.jpg)" in find_layout(tmp_path).problems[0]


def test_json_that_only_tells_of_an_image_is_no_mask(tmp_path: Path) -> None:
    """BIDS has a file of settings beside every volume."""
    for number in NUMBERS:
        touch(tmp_path, f"images/a{number}.nii.gz", f"labels/a{number}.nii.gz")
        write(tmp_path / "images" / f"a{number}.json", {"EchoTime": 0.1})
    assert found(tmp_path)["a1"] == (["images/a1.nii.gz"], ["labels/a1.nii.gz"])


def test_folders_of_pascal_voc(tmp_path: Path) -> None:
    """As CVAT exports "Segmentation mask": colours by name; images that were not outlined are left out."""
    touch(tmp_path, *(f"JPEGImages/{n}.jpg" for n in (*NUMBERS, "9")))
    touch(tmp_path, *(f"{kind}/{n}.png" for kind in ("SegmentationClass", "SegmentationObject") for n in NUMBERS))
    write(tmp_path / "labelmap.txt", "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncell:250,50,83::\nvessel:0,0,255::\n")
    write(tmp_path / "ImageSets/Segmentation/train.txt", "1\n2\n3\n")
    write(tmp_path / "ImageSets/Segmentation/val.txt", "4\n")
    layout = find_layout(tmp_path)
    assert cases(layout, tmp_path) == single((n, f"JPEGImages/{n}.jpg", f"SegmentationClass/{n}.png") for n in NUMBERS)
    assert layout.labels == {250 * 65536 + 50 * 256 + 83: "cell", 255: "vessel"}
    assert parts(layout) == {"as ImageSets list": [("1", "2", "3"), (), ("4",)]}
    assert noted(layout, "1 file is left out, without a mask in SegmentationClass: JPEGImages/9.jpg")
    assert noted(layout, "SegmentationObject/1.png")


def test_nnunet_of_the_first_version(tmp_path: Path) -> None:
    names = [f"BRATS_{number:03}" for number in range(4)]
    for name in names:
        touch(tmp_path, f"imagesTr/{name}_0000.nii.gz", f"imagesTr/{name}_0001.nii.gz", f"labelsTr/{name}.nii.gz")
    listing = {
        "modality": {"0": "FLAIR", "1": "T1"},
        "labels": {"0": "background", "1": "edema", "2": "core", "4": "enhancing"},
        "numTraining": 4,
        "training": [{"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in names],
        "test": [],
    }
    write(tmp_path / "dataset.json", listing)
    layout = find_layout(tmp_path)
    channels = [f"imagesTr/BRATS_002_000{number}.nii.gz" for number in (0, 1)]
    assert cases(layout, tmp_path)["BRATS_002"] == (channels, ["labelsTr/BRATS_002.nii.gz"])
    assert layout.channels == ("FLAIR", "T1")
    assert layout.labels == {1: "edema", 2: "core", 4: "enhancing"}
    (tmp_path / channels[1]).unlink()
    assert "BRATS_002_0001.nii.gz is missing; dataset.json lists it" in find_layout(tmp_path).problems[0]


@pytest.mark.parametrize(
    ("labels", "order", "names", "ignored"),
    [
        ({"background": 0, "a": 1, "b": 2, "ignore": 3}, None, {1: "a", 2: "b"}, 3),
        ({"background": "0", "a": "1", "c": "4"}, None, {1: "a", 4: "c"}, None),
        ({"0": "background", "1": "a"}, None, {1: "a"}, None),
        ({"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enh": [3]}, [1, 2, 3], {1: "whole", 2: "core", 3: "enh"}, None),
        ({"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}, [1, 2], {1: "whole", 2: "core"}, 3),
    ],
)
def test_labels_of_nnunet(
    tmp_path: Path, labels: dict[str, object], order: list[int] | None, names: dict[int, str], ignored: int | None
) -> None:
    entries = {"labels": labels} | ({"regions_class_order": order} if order else {})
    layout = find_layout(nnunet(tmp_path, **entries))
    assert (layout.labels, layout.ignored, layout.problems) == (names, ignored, [])
    assert noted(layout, "regions", "whole is the value 1") == bool(order)


@pytest.mark.parametrize("order", [None, [1], [2, 1], [1, "x"], [1, 1]])
def test_regions_that_are_no_exclusive_parts_are_refused(tmp_path: Path, order: object) -> None:
    labels = {"background": 0, "whole": [1, 2], "core": [2]}
    with pytest.raises(
        InputError, match=r"dataset\.json gives .labels. that are regions of several values, which is not supported"
    ):
        find_layout(nnunet(tmp_path, labels=labels, regions_class_order=order))


def test_more_cases_than_announced_are_told_and_fewer_refused(tmp_path: Path) -> None:
    layout = find_layout(nnunet(tmp_path / "a", numTraining=3))
    assert layout.problems == []
    assert noted(layout, '"numTraining" as 3, but imagesTr has 5 cases; all are taken')
    assert "copy those that are missing" in find_layout(nnunet(tmp_path / "b", numTraining=7)).problems[0]


def test_files_that_nnunet_lists(tmp_path: Path) -> None:
    listed = {f"c{n}": {"images": [f"raw/c{n}_a.nii.gz", f"raw/c{n}_b.nii.gz"], "label": f"seg/c{n}.nii.gz"} for n in NUMBERS}
    folder = nnunet(tmp_path, dataset=listed)
    touch(folder, *(name for entry in listed.values() for name in (*entry["images"], str(entry["label"]))))
    assert found(folder) == {name: (entry["images"], [entry["label"]]) for name, entry in listed.items()}


def test_splits_of_nnunet(tmp_path: Path) -> None:
    folder = nnunet(tmp_path)
    folds = [{"train": [f"case_{n}" for n in range(5) if n != k], "val": [f"case_{k}"]} for k in range(3)]
    write(folder / "splits_final.json", folds)
    layout = find_layout(folder)
    assert list(layout.splits) == [f"fold {k} of splits_final.json" for k in range(3)]
    assert parts(layout)["fold 1 of splits_final.json"] == [("case_0", "case_2", "case_3", "case_4"), (), ("case_1",)]
    assert noted(layout, "splits_final.json gives the 3 folds")
    for wrong, words in (
        ([{"train": ["case_0", "case_1"], "val": ["case_1"]}], "has case_1 in train and in val"),
        ([{"train": ["case_0"], "val": ["case_9"]}], "names 1 cases that are not there (case_9)"),
        ([{"train": ["case_0"]}], "is no list of folds"),
        ([{"train": [["case_0"]], "val": ["case_1"]}], "is no list of folds"),
        ({}, "is no list of folds"),
    ):
        write(folder / "splits_final.json", wrong)
        (told,) = find_layout(folder).problems
        assert words in told
        assert "splits_final.json" in told


def test_a_datalist_of_monai(tmp_path: Path) -> None:
    """Several files are channels, and fold k tests on the cases with that number."""
    entries = [
        {"fold": n % 2, "image": [f"B_{n}/B_{n}_{kind}.nii.gz" for kind in ("flair", "t1")], "label": f"B_{n}/B_{n}_seg.nii.gz"}
        for n in range(4)
    ]
    touch(tmp_path, *(name for entry in entries for name in (*entry["image"], str(entry["label"]))))
    write(tmp_path / "brats_folds.json", {"training": entries})
    layout = find_layout(tmp_path)
    assert cases(layout, tmp_path)["B_2"] == (entries[2]["image"], [entries[2]["label"]])
    assert parts(layout) == {
        "fold 0 of brats_folds.json": [("B_1", "B_3"), (), ("B_0", "B_2")],
        "fold 1 of brats_folds.json": [("B_0", "B_2"), (), ("B_1", "B_3")],
    }
    write(tmp_path / "other.json", {"training": entries})
    with pytest.raises(InputError, match=r"has several lists of cases, brats_folds\.json, other\.json; keep the one"):
        find_layout(tmp_path)


def test_a_datalist_with_a_validation_list(tmp_path: Path) -> None:
    entries = [{"image": f"p{n}/image.nii.gz", "label": f"p{n}/label.nii.gz"} for n in range(5)]
    touch(tmp_path, *(name for entry in entries for name in entry.values()))
    write(tmp_path / "list.json", {"training": entries[:3], "validation": entries[3:], "testing": [{"image": "p9/image.nii.gz"}]})
    layout = find_layout(tmp_path)
    assert parts(layout) == {"as list.json lists": [("p0", "p1", "p2"), (), ("p3", "p4")]}
    write(tmp_path / "list.json", {"training": entries[:3], "validation": entries[2:]})
    assert "lists the case 'p2' twice" in find_layout(tmp_path).problems[0]


def test_links_are_followed_where_the_data_are_the_users(tmp_path: Path) -> None:
    folder = two_folders(tmp_path / "store", 4)
    data = tmp_path / "data"
    data.mkdir()
    (data / "masks").symlink_to(folder / "masks")
    (data / "images").mkdir()
    for number in range(4):
        (data / "images" / f"case_{number}.png").symlink_to(folder / "images" / f"case_{number}.png")
    layout = find_layout(data)
    assert (len(layout.sources), layout.problems) == (4, [])
    told = find_layout(data, follow_links=False).problems
    assert "leads out of the folder" in told[0]


def test_links_of_listed_files(tmp_path: Path) -> None:
    folder = decathlon(tmp_path / "store")
    data = tmp_path / "data"
    data.mkdir()
    for name in ("imagesTr", "labelsTr", "dataset.json"):
        (data / name).symlink_to(folder / name)
    assert len(decathlon_layout(data).sources) == len(find_layout(data).sources) == 5
    assert "leads out of the folder" in decathlon_layout(data, follow_links=False).problems[0]


def test_links_that_lead_nowhere_or_back(tmp_path: Path) -> None:
    folder = two_folders(tmp_path / "data", 4)
    (folder / "images" / "gone.png").symlink_to(tmp_path / "gone.png")
    (folder / "images" / "back").symlink_to(folder)
    (folder / "masks" / "self.png").symlink_to(folder / "masks" / "self.png")
    told = "\n".join(find_layout(folder).problems)
    assert "images/gone.png is a link that leads nowhere" in told
    assert "images/back is a link to a folder that it lies in" in told
    assert "masks/self.png is a link that leads nowhere" in told


def test_the_only_folder_stands_for_the_one_around_it(tmp_path: Path) -> None:
    folder = two_folders(tmp_path / "MyData" / "MyData", 4)
    touch(tmp_path / "MyData", "README.md")
    layout = find_layout(tmp_path)
    assert len(cases(layout, folder)) == 4
    assert noted(layout, f"read from {folder}")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("MyData.zip",), "archives, which are left unopened"),
        (("s1/IM1.dcm", "s1/IM2.dcm", "s2/IM1.dcm"), "dcm2niix"),
        (("images.npy", "masks.npy"), "imageio.imwrite"),
        (("images/a.nrrd", "labels/a.nrrd"), "SimpleITK"),
        (("images/a.png", "labels/a.nrrd"), "no masks that can be read"),
        (("images/a.png", "masks/a.roi"), "Fiji"),
        (("images/a.svs", "masks/a.png"), "no images that can be read"),
        (("images/a.jpg", "labels/a.txt"), "YOLO"),
        (("images/a.mha",), "SimpleITK"),
        (("train.h5",), "HDF5|arrays"),
    ],
)
def test_files_that_are_not_read_are_told_by_kind(tmp_path: Path, names: tuple[str, ...], words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        find_layout(touch(tmp_path, *names))
    assert str(tmp_path) in str(caught.value)


def test_folders_of_dicom_slices_are_volumes(tmp_path: Path) -> None:
    for n in NUMBERS:
        touch(tmp_path, *(f"case_{n}/CT/{slice_}.dcm" for slice_ in range(3)), f"case_{n}/segmentation.nii.gz")
    layout = find_layout(tmp_path)
    assert cases(layout, tmp_path)["case_3"] == (["case_3/CT"], ["case_3/segmentation.nii.gz"])
    assert layout.volumetric


def test_strangers_are_not_taken_for_the_published_datasets(tmp_path: Path) -> None:
    boxes = touch(tmp_path / "voc", "a.tif")
    write(boxes / "a.xml", "<annotation><object/></annotation>")
    lungs = touch(tmp_path / "lungs", "CXR_png/patient_1.png", "masks/patient_1.png")
    brains = decathlon(tmp_path / "brains", modalities=2)
    write(brains / "dataset.json", json.loads((brains / "dataset.json").read_text()) | {"name": "Hippocampus and more"})
    assert [recognise(folder) for folder in (boxes, lungs, brains)] == ["own"] * 3


def test_a_published_dataset_one_folder_down(tmp_path: Path) -> None:
    folder = decathlon(tmp_path / "Task04_Hippocampus")
    write(folder / "dataset.json", json.loads((folder / "dataset.json").read_text()) | {"name": "Hippocampus"})
    assert recognise(tmp_path) == "hippocampus"
    with pytest.raises(InputError, match="did you mean"):
        decathlon_layout(tmp_path)
