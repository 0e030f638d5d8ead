import os
import warnings

import numpy as np
import pytest
from PIL import Image

from genjax.config import ConfigError
from genjax.data import load, sources


def _save(path, array, mode=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array), mode).save(path, **options)


def _noise(shape, seed=0, dtype=np.uint8):
    top = np.iinfo(dtype).max
    return np.random.RandomState(seed).randint(top + 1, size=shape).astype(dtype)


def _load(path, **options):
    return load({"name": f"folder:{path}", "test_fraction": 0.0, **options})


def _only(path, **options):
    return _load(path, **options).train[0]["image"]


def test_class_folders_are_labels_in_the_order_of_their_names(tmp_path):
    for i, name in enumerate(["zebra/b", "ant/x/c", "zebra/a", "bee/d"]):
        _save(tmp_path / f"{name}.png", np.full((4, 6), i, np.uint8))
    data = _load(tmp_path)
    assert data.class_names == ("ant", "bee", "zebra") and data.num_classes == 3
    assert data.shape == (4, 6, 1) and data.test is None
    found = [
        (data.train.origin(i), int(e["label"]), int(e["image"][0, 0, 0]))
        for i, e in enumerate(data.train[i] for i in range(4))
    ]
    assert found == [
        ("ant/x/c.png", 0, 1),
        ("bee/d.png", 1, 3),
        ("zebra/a.png", 2, 2),
        ("zebra/b.png", 2, 0),
    ]


def test_a_flat_folder_has_no_labels(tmp_path):
    _save(tmp_path / "a.PNG", _noise((4, 4, 3)))
    for name in ("notes.txt", "b.heic", "c.HEIC", "d.heic", ".hidden"):
        (tmp_path / name).write_text("not an image")
    _save(tmp_path / ".thumbnails" / "a.png", _noise((2, 2)))
    with pytest.warns(UserWarning, match=r"4 files are left out.*: .heic \(2\)"):
        data = _load(tmp_path)
    assert data.num_classes is None and data.class_names is None
    assert len(data.train) == 1 and list(data.train[0]) == ["image"]


def test_grey_stays_grey_unless_a_file_is_colour(tmp_path):
    grey, colour = _noise((4, 4)), _noise((4, 4, 3), 1)
    _save(tmp_path / "a.png", grey)
    np.testing.assert_array_equal(_only(tmp_path), grey[..., None])
    _save(tmp_path / "b.png", colour)
    data = _load(tmp_path)
    assert data.shape == (4, 4, 3)
    np.testing.assert_array_equal(data.train[0]["image"], np.stack([grey] * 3, -1))
    np.testing.assert_array_equal(data.train[1]["image"], colour)


def test_alpha_is_laid_over_white(tmp_path):
    """Pillow and the formula may round to either side: one grey level."""
    rgba = _noise((8, 8, 4))
    rgba[0, :, 3], rgba[1, :, 3] = 0, 255
    _save(tmp_path / "colour" / "a.png", rgba)
    alpha = rgba[..., 3:] / 255
    image = _only(tmp_path / "colour")
    assert np.abs(image - (rgba[..., :3] * alpha + 255 * (1 - alpha))).max() <= 1
    assert (image[0] == 255).all() and (image[1] == rgba[1, :, :3]).all()

    _save(tmp_path / "grey" / "a.png", rgba[..., 2:])
    image = _only(tmp_path / "grey")
    assert image.shape == (8, 8, 1)
    assert np.abs(image - (rgba[..., 2:3] * alpha + 255 * (1 - alpha))).max() <= 1


def test_a_transparent_colour_is_white(tmp_path):
    """PNG can name one colour, or one entry of a palette, as transparent."""
    colour = np.zeros((2, 2, 3), np.uint8)
    colour[0, 0] = 10, 20, 30
    _save(tmp_path / "rgb" / "a.png", colour, transparency=(10, 20, 30))
    expected = np.where((colour == [10, 20, 30]).all(-1, keepdims=True), 255, colour)
    np.testing.assert_array_equal(_only(tmp_path / "rgb"), expected)

    grey = np.array([[7, 8], [9, 7]], np.uint8)
    _save(tmp_path / "grey" / "a.png", grey, transparency=7)
    expected = np.where(grey == 7, 255, grey)[..., None]
    np.testing.assert_array_equal(_only(tmp_path / "grey"), expected)


def test_palettes_become_colour(tmp_path):
    palette = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8), "P")
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    palette.save(tmp_path / "a.png")
    expected = np.eye(3)[[[0, 1], [2, 1]]] * 255
    np.testing.assert_array_equal(_only(tmp_path), expected)


def test_a_palette_of_greys_stays_grey(tmp_path):
    grey = _noise((4, 4))
    Image.fromarray(grey).convert("P").save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == "P"
    np.testing.assert_array_equal(_only(tmp_path)[..., 0], grey)


def test_one_bit_becomes_grey(tmp_path):
    bits = _noise((4, 4)) > 127
    Image.fromarray(bits).save(tmp_path / "a.png")
    np.testing.assert_array_equal(_only(tmp_path)[..., 0], 255 * bits)


@pytest.mark.parametrize("suffix", ["png", "tiff", "pgm"])
def test_sixteen_bits_are_scaled_to_eight(tmp_path, suffix):
    """65535 = 257 * 255, so that level v of 8 bits is 257 v."""
    levels = _noise((8, 8), dtype=np.uint16)
    levels[0, :4] = 0, 257, 128 * 257, 65535
    _save(tmp_path / f"a.{suffix}", levels)
    image = _only(tmp_path)[..., 0]
    assert image[0, :4].tolist() == [0, 1, 128, 255]
    assert np.abs(image - levels / 257).max() <= 0.5


def test_cmyk_becomes_colour(tmp_path):
    cmyk = np.zeros((8, 8, 4), np.uint8)
    cmyk[..., 1] = 255  # Magenta ink takes green away.
    Image.fromarray(cmyk, "CMYK").save(tmp_path / "a.jpg", quality=95)
    assert np.abs(_only(tmp_path).astype(int) - [255, 0, 255]).max() < 8


def test_exif_rotation_is_applied(tmp_path):
    """Orientation 6 says: turn the stored picture a quarter clockwise to see it."""
    image = Image.fromarray(_noise((4, 6, 3)))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.png", exif=exif)
    data = _load(tmp_path)
    assert data.shape == (6, 4, 3)
    expected = np.rot90(np.asarray(image), k=-1)
    np.testing.assert_array_equal(data.train[0]["image"], expected)


def test_the_first_frame_of_an_animation_counts(tmp_path):
    frames = [Image.new("L", (4, 4), level) for level in (50, 200)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert (_only(tmp_path) == 50).all()


def test_image_size_covers_and_crops_the_centre(tmp_path):
    """12x4 to 4x4: the middle third, since no scaling is needed."""
    image = _noise((12, 4, 3))
    _save(tmp_path / "wide" / "a.png", image)
    np.testing.assert_array_equal(_only(tmp_path / "wide", image_size=4), image[4:8])
    # Enlarging a constant keeps it; the shape is not square.
    _save(tmp_path / "small" / "a.png", np.full((2, 2), 77, np.uint8))
    image = _only(tmp_path / "small", image_size=(6, 10))
    assert image.shape == (6, 10, 1) and (image == 77).all()
    # Halving averages: a fine chequerboard becomes grey, where picking pixels does not.
    board = 255 * (np.indices((16, 16)).sum(0) % 2).astype(np.uint8)
    _save(tmp_path / "board" / "a.png", board)
    assert np.abs(_only(tmp_path / "board", image_size=8).astype(int) - 127).max() < 16


def test_different_sizes_need_image_size(tmp_path):
    for name, shape in {"a": (4, 4), "b": (4, 4), "c": (3, 5), "d": (9, 9)}.items():
        _save(tmp_path / f"{name}.png", _noise(shape))
    with pytest.raises(ConfigError) as error:
        _load(tmp_path)
    for words in ("a.png is (4, 4)", "c.png is (3, 5)", "image_size = (3, 3)"):
        assert words in str(error.value)
    assert _load(tmp_path, image_size=3).shape == (3, 3, 1)


@pytest.fixture
def folder_with_bad_files(tmp_path, monkeypatch):
    for i in range(3):
        _save(tmp_path / f"good{i}.png", _noise((4, 4, 3), i))
    _save(tmp_path / "cut.png", _noise((50, 4, 3)))
    content = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(content[: len(content) // 2])
    (tmp_path / "text.jpg").write_text("this is no picture")
    (tmp_path / "empty.png").touch()
    _save(tmp_path / "bomb.png", np.zeros((50, 50), np.uint8))
    _save(tmp_path / "float.tiff", np.ones((4, 4), np.float32))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    return tmp_path


def test_bad_files_are_left_out_with_one_warning(folder_with_bad_files):
    with pytest.warns(UserWarning) as caught:
        data = _load(folder_with_bad_files)
    assert len(caught) == 1
    message = str(caught[0].message)
    assert "5 of 8 files cannot be read" in message
    for name in ("bomb.png", "cut.png", "empty.png", "float.tiff", "text.jpg"):
        assert name in message
    assert [data.train.origin(i) for i in range(3)] == [
        f"good{i}.png" for i in range(3)
    ]
    for i in range(3):
        np.testing.assert_array_equal(data.train[i]["image"], _noise((4, 4, 3), i))


def test_bad_files_fail_if_asked_to(folder_with_bad_files):
    with pytest.raises(ConfigError, match=r"5 of 8 files cannot be read.*bomb.png"):
        _load(folder_with_bad_files, on_bad_file="fail")
    with pytest.raises(ConfigError, match="'skip' or 'fail', got 'ignore'"):
        _load(folder_with_bad_files, on_bad_file="ignore")


def test_a_folder_of_bad_files_fails(tmp_path):
    (tmp_path / "a.png").write_text("no")
    with pytest.raises(ConfigError, match="1 of 1 files cannot be read"):
        _load(tmp_path)


def test_nothing_to_read_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="found none among 0 files"):
        _load(tmp_path)
    (tmp_path / "a.heic").touch()
    with pytest.raises(ConfigError, match=r"found none among 1 files such as a.heic"):
        _load(tmp_path)


def test_images_beside_class_folders_are_ambiguous(tmp_path):
    _save(tmp_path / "a.png", _noise((4, 4)))
    _save(tmp_path / "ant" / "b.png", _noise((4, 4)))
    with pytest.raises(ConfigError, match=r"found both: a.png and"):
        _load(tmp_path)


def test_train_and_test_folders_are_the_splits(tmp_path):
    for name in ("train/ant/a", "train/bee/b", "test/bee/c"):
        _save(tmp_path / f"{name}.png", _noise((4, 4)))
    data = _load(tmp_path, test_fraction=0.5)
    assert [len(data.train), len(data.test)] == [2, 1]
    assert data.class_names == ("ant", "bee")
    assert data.test[0]["label"] == 1 and data.test.origin(0) == "test/bee/c.png"
    _save(tmp_path / "test" / "cow" / "d.png", _noise((4, 4)))
    with pytest.raises(ConfigError, match=r"classes of the train folder, \['ant'"):
        _load(tmp_path)


@pytest.mark.parametrize(
    "names, split, other",
    [
        (["train/a", "val/b"], "val/b.png", None),
        (["train/a", "test/b", "validation/c"], "test/b.png", None),
        (["train/a", "car/b"], None, "car"),
        (["test/a"], None, "no train"),
        (["train/a", "b"], None, "b.png"),
    ],
)
def test_nothing_beside_the_splits_is_lost(names, split, other, tmp_path):
    for name in names:
        _save(tmp_path / f"{name}.png", _noise((4, 4)))
    if other:
        with pytest.raises(ConfigError, match=f"read as splits.*found .*{other}"):
            _load(tmp_path)
    else:
        data = _load(tmp_path)
        assert data.train.origin(0) == "train/a.png" and len(data.train) == 1
        assert data.test.origin(0) == split and len(data.test) == 1


@pytest.mark.parametrize("prefix", ["", "test/"])
def test_the_first_test_examples_are_of_all_classes(prefix, tmp_path):
    """An evaluation reads the first so many."""
    for i in range(80):
        _save(tmp_path / prefix / f"class{i // 20}" / f"{i}.png", _noise((2, 2)))
        if prefix:
            _save(tmp_path / "train" / f"class{i // 20}" / f"{i}.png", _noise((2, 2)))
    test = _load(tmp_path, test_fraction=0.5).test
    assert {int(test[i]["label"]) for i in range(20)} == {0, 1, 2, 3}


def test_links_in_circles_are_followed_once(tmp_path):
    for name in ("ant/a", "ant/b", "bee/c"):
        _save(tmp_path / f"{name}.png", _noise((2, 2)))
    (tmp_path / "ant" / "up").symlink_to(tmp_path)
    (tmp_path / "bee" / "up").symlink_to(tmp_path)
    (tmp_path / "ant" / "other").symlink_to(tmp_path / "bee")
    (tmp_path / "bee" / "other").symlink_to(tmp_path / "ant")
    data = _load(tmp_path)
    names = [data.train.origin(i) for i in range(len(data.train))]
    assert names == ["ant/a.png", "ant/b.png", "bee/c.png"]
    outside = tmp_path.parent / "linked"
    outside.mkdir(exist_ok=True)
    (outside / "bee").symlink_to(tmp_path / "bee")
    assert len(_load(outside).train) == 3  # By its link to ant, too.


def test_names_need_not_be_unicode(tmp_path):
    for name in (b"caf\xe9", b"tea", b"milk"):
        _save(tmp_path / "a.png", _noise((2, 2)))
        os.rename(tmp_path / "a.png", os.fsencode(tmp_path) + b"/" + name + b".png")
    data = _load(tmp_path, test_fraction=0.4)
    assert [len(data.train), len(data.test)] == [2, 1]


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path, monkeypatch):
    for name in ("ant/a", "bee/b"):
        _save(tmp_path / f"{name}.png", _noise((2, 2)))
    scandir = os.scandir

    def refuse(path):
        if os.path.basename(path) == "ant":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(ConfigError, match=r"ant cannot be listed: Permission denied"):
        _load(tmp_path)


def test_held_out_files_stay_held_out(tmp_path):
    for i in range(40):
        _save(tmp_path / f"{i}.png", np.full((2, 2), i, np.uint8))

    def names(data):
        return [
            {split.origin(i) for i in range(len(split))}
            for split in (data.train, data.test)
        ]

    train, test = names(_load(tmp_path, test_fraction=0.25))
    assert len(test) == 10 and len(train | test) == 40
    assert names(_load(tmp_path, test_fraction=0.25)) == [train, test]
    # With a file more, at most one of them moves.
    _save(tmp_path / "new.png", np.zeros((2, 2), np.uint8))
    assert len(names(_load(tmp_path, test_fraction=0.25))[1] - test) <= 1
    with pytest.raises(ConfigError, match=r"test_fraction must be in \[0, 1\)"):
        _load(tmp_path, test_fraction=1.0)


@pytest.mark.parametrize("turned", [False, True])
def test_large_photos_are_decoded_small(turned, tmp_path, monkeypatch):
    """640 x 480 to 80 x 60: decoded at half the size, the next above 160 x 120.

    A ramp 30 + 0.2 x + 0.1 y stays one: the pixel (i, j) of the eighth has its centre
    at x = 8 j + 3.5, y = 8 i + 3.5. Rounding twice and JPEG's coding cost a level each.
    """
    y, x = np.mgrid[:480, :640]
    ramp = np.rint(30 + 0.2 * x + 0.1 * y).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 8 if turned else 1  # A quarter counterclockwise to see it.
    _save(tmp_path / "a.jpg", ramp, quality=95, exif=exif)
    sizes, to_array = [], sources.to_array
    monkeypatch.setattr(
        sources, "to_array", lambda im, *a: (sizes.append(im.size), to_array(im, *a))[1]
    )
    image = _only(tmp_path, image_size=(80, 60) if turned else (60, 80))[..., 0]
    assert sizes == [(240, 320) if turned else (320, 240)]
    image = np.rot90(image, -1) if turned else image
    i, j = np.mgrid[:60, :80]
    expected = 30 + 0.2 * (8 * j + 3.5) + 0.1 * (8 * i + 3.5)
    error = np.abs(image - expected)[3:-3, 3:-3]  # Of the edges, filters see one side.
    assert error.max() < 2 and error.mean() < 0.6


def test_a_large_folder_is_decoded_on_demand(tmp_path, monkeypatch):
    for i in range(4):
        shape = (8, 8) if i % 2 else (8, 8, 3)
        _save(tmp_path / "ant" / f"{i}.png", _noise(shape, i))
    small = _load(tmp_path, image_size=6)
    monkeypatch.setattr(sources, "IN_MEMORY_BYTES", 300)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        large = _load(tmp_path, image_size=6)
    assert hasattr(small.train, "columns") and not hasattr(large.train, "columns")
    for i in range(4):
        assert large.train.origin(i) == small.train.origin(i) == f"ant/{i}.png"
        np.testing.assert_array_equal(large.train[i]["image"], small.train[i]["image"])
        assert large.train[i]["label"] == 0
