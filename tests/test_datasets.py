import numpy as np
import pytest
from sklearn.datasets import load_digits, make_circles, make_moons

from kerasrobust import datasets


@pytest.fixture
def npz(tmp_path):
    """Writes arrays to a file and returns its path."""

    def write(**arrays):
        path = tmp_path / "data.npz"
        np.savez(path, **arrays)
        return path

    return write


IMAGES = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)
LABELS = np.array([0, 2, 1])


def test_digits_are_scikit_learns_in_two_disjoint_stratified_parts():
    train, test = datasets.load("digits", "train"), datasets.load("digits")
    assert train.x.shape == (1437, 8, 8, 1) and test.x.shape == (360, 8, 8, 1)
    assert train.x.dtype == np.float32 and train.y.dtype == np.int64
    assert test.class_names == tuple("0123456789") and test.clip_values == (0.0, 1.0)
    bunch = load_digits()
    together = np.concatenate([train.x, test.x]).reshape(1797, 64) * 16
    labels = np.concatenate([train.y, test.y])
    rows = np.column_stack([together.round().astype(int), labels])
    expected = np.column_stack([bunch.data.astype(int), bunch.target])
    # The same rows, each as often as in the source: nothing lost, nothing in both parts.
    assert sorted(map(tuple, rows)) == sorted(map(tuple, expected))
    assert np.abs(together - together.round()).max() < 1e-5
    share = np.bincount(test.y) / np.bincount(labels)
    assert np.all(np.abs(share - 360 / 1797) < 0.01)


@pytest.mark.parametrize("name", ["moons", "circles"])
def test_points_are_scikit_learns(name):
    train, test = datasets.load(name, "train"), datasets.load(name, clip_values=(-1, 1))
    assert train.x.shape == test.x.shape == (500, 2) and train.input_shape == (2,)
    assert train.x.dtype == np.float32 and test.clip_values == (-1.0, 1.0)
    if name == "moons":
        points, labels = make_moons(1000, noise=0.1, random_state=0)
        middle = [0.5, 0.25]
    else:
        points, labels = make_circles(1000, noise=0.05, factor=0.5, random_state=0)
        middle = [0.0, 0.0]
    # A quarter of the box is scikit-learn's 1.
    np.testing.assert_allclose(4 * (train.x - 0.5) + middle, points[:500], atol=1e-5)
    np.testing.assert_allclose(2 * test.x + middle, points[500:], atol=1e-5)
    np.testing.assert_array_equal(np.concatenate([train.y, test.y]), labels)
    drawn = datasets.load(name, samples=10, balanced=True)
    assert np.bincount(drawn.y).tolist() == [5, 5]
    with pytest.raises(ValueError, match="Received: split='validation'"):
        datasets.load(name, "validation")


def test_draw_is_seeded_nested_and_keeps_the_order():
    full = datasets.load("digits")
    ten, hundred = (datasets.load("digits", samples=n, seed=3) for n in (10, 100))
    rows = {image.tobytes(): i for i, image in enumerate(full.x)}
    index = [rows[image.tobytes()] for image in hundred.x]
    assert index == sorted(set(index)) and len(index) == 100
    np.testing.assert_array_equal(hundred.indices, index)
    np.testing.assert_array_equal(full.indices, np.arange(360))
    assert hundred.available == full.available == 360
    np.testing.assert_array_equal(hundred.y, full.y[index])
    assert {rows[image.tobytes()] for image in ten.x} < set(index)
    np.testing.assert_array_equal(ten.x, datasets.load("digits", samples=10, seed=3).x)
    assert not np.array_equal(ten.x, datasets.load("digits", samples=10, seed=4).x)


def test_clip_values_scale_integer_images():
    unit, wide = datasets.load("digits"), datasets.load("digits", clip_values=(-1, 1))
    assert wide.clip_values == (-1.0, 1.0)
    np.testing.assert_allclose(wide.x, unit.x * 2 - 1, atol=1e-6)
    assert wide.x.min() == -1 and wide.x.max() == 1


def test_npz_uint8(npz):
    data = datasets.load(npz(x=IMAGES, y=LABELS[:, None].astype(np.uint8)))
    np.testing.assert_allclose(data.x, IMAGES[..., None] / 255, atol=1e-7)
    np.testing.assert_array_equal(data.y, LABELS)
    np.testing.assert_array_equal(data.indices, [0, 1, 2])
    two = datasets.load(npz(x=IMAGES, y=LABELS), samples=2)
    np.testing.assert_array_equal(two.y, LABELS[two.indices])
    assert two.available == data.available == 3
    assert (data.name, data.split, data.nb_classes) == ("data", "test", 3)
    assert data.input_shape == (4, 5, 1) and len(data) == 3


def test_npz_splits_and_class_names(npz):
    path = npz(
        x_train=IMAGES / 255.0, y_train=LABELS, x_test=IMAGES[:2] / 255.0, y_test=LABELS[:2] * 0
    )
    train, test = datasets.load(path, "train"), datasets.load(path, "test", samples=1)
    assert len(train) == 3 and len(test) == 1 and train.x.dtype == np.float32
    # The largest label is in the training part, and both parts have its number of classes.
    assert test.nb_classes == train.nb_classes == 3
    named = datasets.load(npz(x=IMAGES, y=LABELS, class_names=["a", "b", "c", "d"]))
    assert named.class_names == ("a", "b", "c", "d")


@pytest.mark.parametrize(
    ("arrays", "error", "message"),
    [
        ({"x": IMAGES}, ValueError, r"x_test and y_test, or x and y.*\['x'\]"),
        ({"x": IMAGES[0], "y": LABELS}, ValueError, r"\[n, height, width\].*x of shape \(4, 5\)"),
        ({"x": IMAGES[:0], "y": LABELS[:0]}, ValueError, "at least one image"),
        ({"x": IMAGES, "y": LABELS[:2]}, ValueError, "3 images and 2 labels"),
        ({"x": IMAGES, "y": LABELS / 2}, TypeError, "integer labels.*y of type float64"),
        ({"x": IMAGES, "y": np.eye(3, dtype=int)}, ValueError, r"y of shape \(3, 3\)"),
        ({"x": IMAGES, "y": LABELS - 1}, ValueError, "labels from -1 to 1"),
        (
            {"x": IMAGES, "y": LABELS, "class_names": ["a", "b"]},
            ValueError,
            "from 0 to 1.*labels from 0 to 2",
        ),
        ({"x": IMAGES.astype(np.int32), "y": LABELS}, TypeError, "uint8.*x of type int32"),
        ({"x": IMAGES / 1.0, "y": LABELS}, ValueError, r"clip_values=\(0, 1\).*from 0 to 59"),
        ({"x": np.full((3, 4, 5), np.nan), "y": LABELS}, ValueError, "finite images.*NaN"),
        (
            {"x": np.array([[[{}]]], dtype=object), "y": LABELS},
            ValueError,
            "not of Python objects. Received: x",
        ),
    ],
)
def test_bad_npz(npz, arrays, error, message):
    with pytest.raises(error, match=message):
        datasets.load(npz(**arrays))


def test_file_that_is_no_npz(tmp_path):
    path = tmp_path / "data.npz"
    with pytest.raises(FileNotFoundError, match="Received: name="):
        datasets.load(path)
    for content in (b"", b"no archive at all"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="written by numpy.savez"):
            datasets.load(path)
    np.savez(path, x=IMAGES, y=LABELS)
    content = bytearray(path.read_bytes())
    content[150] ^= 255
    path.write_bytes(content)
    with pytest.raises(ValueError, match="it is damaged"):
        datasets.load(path)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"name": 3}, TypeError, "Received: name=3"),
        ({"name": "digits", "split": "val"}, ValueError, r"\['train', 'test'\].*split='val'"),
        ({"name": "digits", "samples": 0}, ValueError, ">= 1. Received: samples=0"),
        ({"name": "digits", "samples": 361}, ValueError, "360 samples.*samples=361"),
        ({"name": "digits", "samples": 1.5}, ValueError, "samples=1.5"),
        ({"name": "digits", "seed": -1}, ValueError, "seed=-1"),
        ({"name": "digits", "clip_values": (1, 0)}, ValueError, r"clip_values=\(1, 0\)"),
        ({"name": "digits", "clip_values": 1}, ValueError, "clip_values=1"),
        ({"name": "digit"}, ValueError, "Did you mean 'digits'.*name='digit'"),
        ({"name": "mnits"}, ValueError, "Did you mean 'mnist'.*name='mnits'"),
        ({"name": "mnist", "data_dir": "nowhere/at/all"}, FileNotFoundError, "Expected a folder"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        datasets.load(**arguments)


def test_hold_out_splits_once_and_keeps_the_order():
    data = datasets.load("digits", "train")
    rest, held = datasets.hold_out(data, 200, seed=3)
    assert (len(rest), len(held)) == (len(data) - 200, 200)
    assert (rest.split, held.split) == ("train", "validation")
    rows = {image.tobytes(): i for i, image in enumerate(data.x)}
    parts = [[rows[image.tobytes()] for image in part.x] for part in (rest, held)]
    assert all(part == sorted(part) for part in parts)
    assert sorted(parts[0] + parts[1]) == list(range(len(data)))
    for part, index in zip((rest, held), parts, strict=True):
        np.testing.assert_array_equal(part.indices, index)
        np.testing.assert_array_equal(part.y, data.y[index])
    np.testing.assert_array_equal(datasets.hold_out(data, 200, seed=3)[1].x, held.x)
    assert not np.array_equal(datasets.hold_out(data, 200, seed=4)[1].x, held.x)
    for samples in (0, len(data)):
        with pytest.raises(ValueError, match=f"samples={samples}"):
            datasets.hold_out(data, samples)


def test_balanced_draws():
    full = datasets.load("digits")
    rows = {image.tobytes(): i for i, image in enumerate(full.x)}
    drawn = {n: datasets.load("digits", samples=n, seed=3, balanced=True) for n in (50, 100)}
    for n, data in drawn.items():
        index = [rows[image.tobytes()] for image in data.x]
        assert index == sorted(set(index))
        np.testing.assert_array_equal(data.y, full.y[index])
        np.testing.assert_array_equal(np.bincount(data.y), [n // 10] * 10)
    small, large = ({image.tobytes() for image in drawn[n].x} for n in (50, 100))
    assert small < large
    least = np.bincount(full.y).min()
    data = datasets.load("digits", balanced=True)
    np.testing.assert_array_equal(np.bincount(data.y), [least] * 10)
    rest, held = datasets.hold_out(data, 20, balanced=True)
    np.testing.assert_array_equal(np.bincount(held.y), [2] * 10)
    np.testing.assert_array_equal(np.bincount(rest.y), [least - 2] * 10)
    for samples, message in ((33, "30 or 40 say. Received: samples=33"), (3, "equally, 10 say")):
        with pytest.raises(ValueError, match=message):
            datasets.load("digits", samples=samples, balanced=True)
    with pytest.raises(ValueError, match="Class '.' of 'digits' has 3. samples.*for 36 of each"):
        datasets.load("digits", samples=360, balanced=True)
    with pytest.raises(ValueError, match="balanced=1"):
        datasets.load("digits", balanced=1)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"class_names": ["a", "b", "c", "d"]}, "Class 'd' of 'data.npz' has 0 samples"),
        ({"class_names": ["a", "b"]}, "from 0 to 1.*labels from 0 to 2"),
    ],
)
def test_balanced_draws_of_a_file(npz, arrays, message):
    path = npz(x=IMAGES, y=LABELS)
    assert sorted(datasets.load(path, balanced=True).y) == [0, 1, 2]
    with pytest.raises(ValueError, match=message):
        datasets.load(npz(x=IMAGES, y=LABELS, **arrays), balanced=True)


# ---- folders of images --------------------------------------------------------------------------


def write(folder, images):
    """PNG files, by a library that reads none of them here."""
    from PIL import Image

    for name, image in images.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)


@pytest.fixture
def colour():
    return np.random.default_rng(0).integers(0, 256, (6, 4, 5, 3), dtype=np.uint8)


def test_folder(tmp_path, colour):
    folder = tmp_path / "pets"
    names = ["cat/2.png", "cat/10.png", "dog/1.png", "dog/deep/7.bmp"]
    write(folder / "train", dict(zip(names, colour, strict=False)))
    write(folder / "test", {"dog/1.png": colour[4]})
    (folder / "test" / "cat").mkdir()
    (folder / "test" / ".cache").mkdir()
    (folder / "train" / "cat" / "notes.txt").write_text("no image")
    train = datasets.load(folder, "train", clip_values=(-1, 1))
    assert (train.name, train.class_names, train.split) == ("pets", ("cat", "dog"), "train")
    found = {image.tobytes(): label for image, label in zip(train.x, train.y, strict=True)}
    expected = np.float32(colour / np.float32(255)) * 2 - 1
    assert len(found) == 4 and train.x.dtype == np.float32
    for image, label in zip(expected[:4], (0, 0, 1, 1), strict=True):
        assert found[image.tobytes()] == label
    test = datasets.load(str(folder))
    np.testing.assert_allclose(test.x, colour[4:5] / 255, atol=1e-7)
    np.testing.assert_array_equal(test.y, [1])
    assert test.class_names == train.class_names
    one = datasets.load(folder, "train", samples=2, balanced=True, seed=1)
    np.testing.assert_array_equal(one.y, [0, 1])
    np.testing.assert_allclose(one.x, (train.x[one.indices] + 1) / 2, atol=1e-6)
    assert one.available == 4


def test_folder_without_splits_serves_as_the_test_split(tmp_path, colour, monkeypatch):
    write(tmp_path / "grey", {f"{i % 3}/{i}.png": image[..., 0] for i, image in enumerate(colour)})
    monkeypatch.chdir(tmp_path)
    data = datasets.load("grey")  # a bare name that TFDS does not know
    assert data.input_shape == (4, 5, 1) and data.class_names == ("0", "1", "2")
    np.testing.assert_array_equal(np.bincount(data.y), [2, 2, 2])
    with pytest.raises(ValueError, match=r"folder 'train'.*folders \['0', '1', '2'\]"):
        datasets.load(tmp_path / "grey", "train")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, r"at least two classes.*classes \[\]"),
        ({"cat/1.png": (4, 5, 3)}, r"at least two classes.*classes \['cat'\]"),
        ({"cat/1.png": (4, 5, 3), "dog/1.png": (5, 4, 3)}, r"one shape.*\(4, 5, 3\).*\(5, 4, 3\)"),
        ({"cat/1.png": (4, 5, 3), "dog/1.png": (4, 5)}, r"one shape.*\(4, 5, 3\).*\(4, 5, 1\)"),
        ({"cat/1.png": (4, 5, 4), "dog/1.png": (4, 5, 4)}, "1.png' with 4 channels"),
        ({"cat/1.png": None, "dog/1.png": None}, "cannot be read.*1.png'"),
        ({"cat/1.txt": None, "dog/1.txt": None}, "Expected images in the folders.*No images"),
        ({"cat/1.png": (4, 5), "dog/1.WebP": None}, "others would be left out.*1.WebP'"),
        (
            {f"{s}/{c}/1.png": (4, 5) for s in ("training", "val") for c in ("cat", "dog")},
            r"\['cat', 'dog'\] are in each of \['training', 'val'\].*split='training' say",
        ),
        (
            {"test/cat/1.png": (4, 5), "test/dog/1.png": (4, 5), "train/cat/1.png": (4, 5)},
            r"same classes in each split.*\['dog'\]",
        ),
        ({"train/cat/1.png": (4, 5), "train/dog/1.png": (4, 5)}, "Expected a folder 'test'"),
    ],
)
def test_bad_folder(tmp_path, files, message):
    for name, shape in files.items():
        if shape is not None:
            write(tmp_path, {name: np.zeros(shape, np.uint8)})
            continue
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"no image")
    with pytest.raises(ValueError, match=message):
        datasets.load(tmp_path)


@pytest.mark.parametrize("name", ["./nowhere", "~/nowhere-at-all", "/nowhere/at/all"])
def test_folder_that_is_not_there(name):
    with pytest.raises(FileNotFoundError, match="Expected a folder of images.*nowhere"):
        datasets.load(name)


def test_tfds_not_prepared(tmp_path):
    with pytest.raises(FileNotFoundError, match="not prepared.*download=True"):
        datasets.load("mnist", data_dir=tmp_path)
    assert not list(tmp_path.iterdir())


def test_mnist(real_data):
    folder = real_data("mnist")
    data = datasets.load("mnist", data_dir=folder)
    assert data.x.shape == (10000, 28, 28, 1) and data.x.dtype == np.float32
    # Counts of the published test set, and the mean pixel everyone standardises with.
    assert np.bincount(data.y).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert data.x.mean() == pytest.approx(0.1325, abs=1e-4)
    some = datasets.load("mnist", data_dir=folder, samples=50, seed=1)
    rows = {image.tobytes(): i for i, image in enumerate(data.x)}
    index = [rows[image.tobytes()] for image in some.x]
    assert index == sorted(set(index))
    np.testing.assert_array_equal(some.y, data.y[index])
    np.testing.assert_array_equal(some.indices, index)
    assert some.available == 10000
    even = datasets.load("mnist", data_dir=folder, samples=30, seed=1, balanced=True)
    assert np.bincount(even.y).tolist() == [3] * 10
    assert [data.y[rows[image.tobytes()]] for image in even.x] == even.y.tolist()
    with pytest.raises(ValueError, match=r"\['test', 'train'\].*split='val'"):
        datasets.load("mnist", "val", data_dir=folder)
    with pytest.raises(ValueError, match="10000 samples"):
        datasets.load("mnist", data_dir=folder, samples=10001)


def test_cifar10_from_the_environment(real_data, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(real_data("cifar10")))
    data = datasets.load("cifar10", samples=20, clip_values=(0, 255))
    assert data.x.shape == (20, 32, 32, 3) and data.class_names[0] == "airplane"
    np.testing.assert_array_equal(data.x, data.x.round())
    assert data.x.max() > 200
