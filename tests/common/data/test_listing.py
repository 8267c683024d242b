"""What a set's folder holds: real folders before links, nothing of the system's, and nothing of another set's."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest

from common.data.listing import Listing, class_name, class_of


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def relative(folder: Path, paths: list[str]) -> list[str]:
    return [os.path.relpath(path, folder) for path in paths]


def test_real_folders_have_their_images_and_links_to_them_are_no_classes(tmp_path: Path) -> None:
    touch(tmp_path, "zebra/1.jpg", "zebra/2.jpg", "bee/1.jpg")
    (tmp_path / "animal").symlink_to(tmp_path / "zebra")
    listing = Listing(str(tmp_path))
    assert relative(tmp_path, listing.images) == ["bee/1.jpg", "zebra/1.jpg", "zebra/2.jpg"]
    assert listing.class_folders == ["bee", "zebra"]
    (skipped,) = listing.skipped
    assert skipped.file == str(tmp_path / "animal")
    assert skipped.reason == f"a link to a folder that is read as {tmp_path / 'zebra'}"


def test_links_to_elsewhere_are_followed_and_stand_in_their_place(tmp_path: Path) -> None:
    touch(tmp_path / "far", "x/9.jpg")
    touch(tmp_path / "set", "a/1.jpg", "c/1.jpg")
    (tmp_path / "set" / "b").symlink_to(tmp_path / "far")
    listing = Listing(str(tmp_path / "set"))
    assert relative(tmp_path / "set", listing.images) == ["a/1.jpg", "b/x/9.jpg", "c/1.jpg"]
    assert listing.class_folders == ["a", "b", "c"]


@pytest.mark.parametrize(
    "name",
    ["__MACOSX", "@eaDir", "$RECYCLE.BIN", "$Recycle.Bin", "lost+found", ".ipynb_checkpoints", "#recycle"],
)
def test_folders_of_systems_are_no_classes_and_hold_no_images_at_any_depth(tmp_path: Path, name: str) -> None:
    touch(tmp_path, "bee/1.jpg", f"{name}/bee/._1.jpg", f"{name}/2.jpg", f"bee/{name}/thumb.jpg")
    listing = Listing(str(tmp_path))
    assert relative(tmp_path, listing.images) == ["bee/1.jpg"]
    assert listing.class_folders == ["bee"]
    assert sorted(relative(tmp_path, [problem.file for problem in listing.skipped])) == sorted(
        [name, f"bee/{name}"]
    )


def test_a_set_within_another_belongs_to_itself_alone(tmp_path: Path) -> None:
    touch(tmp_path, "bee/1.jpg", "valid/bee/2.jpg", "sub/test/bee/3.jpg")
    sets = [str(tmp_path), str(tmp_path / "valid"), str(tmp_path / "sub" / "test")]
    found = [relative(tmp_path, Listing(one, sets).images) for one in sets]
    assert found == [["bee/1.jpg"], ["valid/bee/2.jpg"], ["sub/test/bee/3.jpg"]]
    assert Listing(str(tmp_path), sets).class_folders == ["bee", "sub"]
    # A set of the same folder is another matter.
    assert Listing(sets[1], [sets[1]]).images == Listing(sets[1]).images


def test_names_are_compared_in_one_unicode_form_and_readable(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
    gbk = os.fsdecode("缺陷".encode("gbk"))
    touch(tmp_path, f"{composed}/1.jpg", f"{decomposed}/2.jpg", f"{gbk}/3.jpg")
    listing = Listing(str(tmp_path))
    assert listing.class_folders == [composed, "缺陷"]
    assert {class_of(image, str(tmp_path)) for image in listing.images} == {composed, "缺陷"}
    assert class_name(os.fsdecode(b"\xff\xfe")) == "\\xff\\xfe"


def test_an_image_beside_the_class_folders_is_of_no_class() -> None:
    assert class_of("/set/1.jpg", "/set") is None
    assert class_of("/set/3/1/x.png", "/set") == "3"
