"""The attention figure: brightness in the right place, panels that never touch, whole files."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import re
import subprocess
import sys
import warnings
import xml.etree.ElementTree as xml
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from skimage.filters import gaussian
from skimage.transform import resize

from sat.attention_panels import DARK_BRIGHTNESS, LIGHT_WHITE, upsample_map
from sat.captioner import CaptionResult
from sat.config.model import Preprocessing
from sat.data.image_sources import SAMPLES
from sat.data.transforms import visible_box
from sat.visualize import SETTINGS, visualize_att

ROOT = Path(__file__).parents[1]
GREY = 128
SHAPES = {"landscape": (120, 80), "portrait": (60, 150), "square": (64, 64)}


def result(words=("dog",), size=(120, 80), alphas=None, resize="squash", finished=True, photo=None):
    """A caption of a uniformly gray image; without `alphas`, with uniform attention."""
    if alphas is None:
        alphas = np.full((len(words), 4, 4), 1 / 16, dtype=np.float32)
    photo = photo or Image.new("RGB", size, (GREY,) * 3)
    box = visible_box(photo.size, Preprocessing(64, resize))
    return CaptionResult(" ".join(words), -1.0, finished, list(words), alphas, photo, box)


def one_hot(*cells, shape=(4, 4)):
    """Maps with all weight in one cell (row, column) each."""
    alphas = np.zeros((len(cells), *shape), dtype=np.float32)
    for i, cell in enumerate(cells):
        alphas[i][cell] = 1
    return alphas


def drawn(figure: Figure, panel: int) -> np.ndarray:
    """float[H, W]: the brightness of a panel, cut out of the whole figure as it looks."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    page = np.asarray(canvas.buffer_rgba())[..., :3].mean(-1)
    left, bottom, right, top = figure.axes[panel].get_position().extents
    rows = slice(round((1 - top) * len(page)) + 1, round((1 - bottom) * len(page)) - 1)
    return page[rows, round(left * page.shape[1]) + 1 : round(right * page.shape[1]) - 1]


@pytest.mark.parametrize("smooth", [True, False])
@pytest.mark.parametrize("resize", ["squash", "crop"])
@pytest.mark.parametrize("shape", SHAPES)
def test_visualize_att_one_hot_map_brightens_its_cell_only(shape, resize, smooth):
    width, height = SHAPES[shape]
    cells = [(0, 0), (1, 2), (3, 1)]
    figure = visualize_att(
        result(["a", "b", "c"], (width, height), one_hot(*cells), resize), smooth=smooth
    )
    side = min(width, height)  # of the centre crop
    cell_width, cell_height = (width / 4, height / 4) if resize == "squash" else (side / 4,) * 2
    x0, y0 = (0, 0) if resize == "squash" else ((width - side) / 2, (height - side) / 2)
    for i, (row, column) in enumerate(cells, 1):
        panel = drawn(figure, i)
        y, x = np.indices(panel.shape) + 0.5
        x = (x * width / panel.shape[1] - x0) / cell_width  # in cells from the corner of the map
        y = (y * height / panel.shape[0] - y0) / cell_height
        away = np.maximum(abs(x - column - 0.5), abs(y - row - 0.5))  # from the middle of the cell
        assert panel[away < 0.3].mean() > 2 * panel[away > 1.6].mean()
        assert panel[away > 1.6].max() < DARK_BRIGHTNESS * GREY + 2
        unseen = np.maximum(abs(x - 2), abs(y - 2)) > 2.06
        assert unseen.any() == (resize == "crop" and shape != "square")
        assert not unseen.any() or panel[unseen].max() < DARK_BRIGHTNESS * GREY + 2
        if not smooth:
            np.testing.assert_allclose(panel[away < 0.4], GREY + LIGHT_WHITE * (255 - GREY), atol=2)
            np.testing.assert_allclose(panel[away > 0.6], DARK_BRIGHTNESS * GREY, atol=2)
    # the image itself is neither brightened nor darkened
    np.testing.assert_allclose(drawn(figure, 0), GREY, atol=1)


def test_visualize_att_uniform_map_is_fully_bright():
    panel = drawn(visualize_att(result()), 1)
    np.testing.assert_allclose(panel, GREY + LIGHT_WHITE * (255 - GREY), atol=2)


def test_visualize_att_half_weight_is_half_bright():
    alphas = np.array([[[2, 1], [1, 0]]], dtype=np.float32) / 4
    panel = drawn(visualize_att(result(alphas=alphas), smooth=False), 1)
    height, width = panel.shape
    bright, half, dark = panel[5, 5], panel[5, width - 5], panel[height - 5, width - 5]
    assert half == pytest.approx((bright + dark) / 2, abs=1.5)


def test_visualize_att_zero_map_is_dark():
    panel = drawn(visualize_att(result(alphas=np.zeros((1, 4, 4), dtype=np.float32))), 1)
    np.testing.assert_allclose(panel, DARK_BRIGHTNESS * GREY, atol=2)


def test_visualize_att_color_image_loses_color_where_map_is_zero():
    red = Image.new("RGB", (100, 100), (200, 40, 40))
    figure = visualize_att(result(photo=red, alphas=one_hot((0, 0))), smooth=False)
    picture = figure.axes[1].images[0].get_array().astype(float)

    def colourful(pixel):
        return (pixel.max() - pixel.min()) / pixel.max()

    assert colourful(picture[5, 5]) > 0.45 > 0.3 > colourful(picture[-5, -5])


def test_visualize_att_panels_have_aspect_ratio_of_the_image():
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8))
    before = photo.tobytes()
    words = ["a", "dog", "runs"]
    for size in [(90, 60), (60, 90), (200, 40)]:
        figure = visualize_att(result(words, photo=photo.resize(size)))
        assert [axes.get_title() for axes in figure.axes] == ["", *words]
        assert figure.get_suptitle() == "a dog runs"
        for axes in figure.axes:
            bounds = axes.get_position()
            ratio = bounds.width * figure.get_figwidth() / bounds.height / figure.get_figheight()
            assert ratio == pytest.approx(size[0] / size[1], rel=1e-6)
            assert not axes.axison
    assert photo.tobytes() == before


def boxes_of(figure: Figure) -> list[tuple[float, float, float, float]]:
    """Left, bottom, right, top of every text and panel, in pixels."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    texts = [axes.title for axes in figure.axes if axes.get_title()] + figure.texts
    extents = [text.get_window_extent(renderer).extents for text in texts]
    return extents + [axes.get_window_extent(renderer).extents for axes in figure.axes]


@pytest.mark.parametrize("count", [0, 1, 2, 12, 50])
@pytest.mark.parametrize("size", [(120, 80), (40, 160), (1000, 100)])
def test_visualize_att_any_size_and_count_nothing_is_clipped_or_overlaps(size, count):
    words = [("skateboarding", "a", "unbelievablylongword", "gyp")[i % 4] for i in range(count)]
    figure = visualize_att(result(words, size), dpi=20)  # places do not depend on it
    width, height = figure.get_size_inches() * figure.dpi
    boxes = boxes_of(figure)
    assert len(boxes) == 2 * count + 2
    for left, bottom, right, top in boxes:
        assert left >= 0
        assert bottom >= 0
        assert right <= width
        assert top <= height
    for (l1, b1, r1, t1), (l2, b2, r2, t2) in itertools.combinations(boxes, 2):
        assert r1 <= l2 + 1 or r2 <= l1 + 1 or t1 <= b2 + 1 or t2 <= b1 + 1


def test_visualize_att_given_columns_are_used():
    figure = visualize_att(result(list("abcde")), columns=2)
    lefts = {round(axes.get_position().x0, 6) for axes in figure.axes}
    assert len(lefts) == 2
    assert len(figure.axes) == 6


def test_visualize_att_empty_or_unfinished_caption_is_marked_in_title():
    empty = visualize_att(result([], alphas=np.zeros((0, 4, 4), dtype=np.float32)))
    assert (len(empty.axes), empty.get_suptitle()) == (1, "(no words)")
    assert visualize_att(result(["dog"], finished=False)).get_suptitle() == "dog …"


def test_visualize_att_dollar_signs_are_not_parsed_as_math(tmp_path):
    words = ["$x^2$", "<unk>", "&"]
    visualize_att(result(words), tmp_path / "figure.svg")
    texts = ["".join(node.itertext()) for node in xml.parse(tmp_path / "figure.svg").iter()]
    assert {*words, " ".join(words)} <= set(texts)


def test_visualize_att_huge_or_thin_image_is_drawn_small():
    for size in [(6000, 4000), (1, 3000), (3000, 1), (1, 1)]:
        figure = visualize_att(result(size=size, resize="crop"))
        assert len(figure.axes) == 2
        for axes in figure.axes:
            assert max(axes.images[0].get_array().shape[:2]) <= 650


@pytest.mark.parametrize("extension", ["png", "jpg", "JPEG", "tif", "webp"])
def test_visualize_att_pixel_file_has_size_of_the_figure(tmp_path, extension):
    path = tmp_path / "new" / f"figure.{extension}"
    figure = visualize_att(result(["dog", "cat"]), path)
    with Image.open(path) as image:
        image.load()
        assert image.size == pytest.approx(figure.get_size_inches() * 100, abs=1)
    assert os.listdir(path.parent) == [path.name]


def test_visualize_att_pdf_and_svg_keep_text_as_text(tmp_path):
    for name in ("figure.pdf", "figure.svg"):
        visualize_att(result(["dog", "cat"]), tmp_path / name)
    pdf = (tmp_path / "figure.pdf").read_bytes()
    assert pdf.startswith(b"%PDF-")
    assert pdf.rstrip().endswith(b"%%EOF")
    assert b"/FontFile2" in pdf  # an embedded TrueType font
    assert b"/Type3" not in pdf
    texts = ["".join(node.itertext()) for node in xml.parse(tmp_path / "figure.svg").iter()]
    assert {"dog", "cat", "dog cat"} <= set(texts)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"output": "x.doc"}, r"x\.doc is no name for a figure: let it end in one of \.png, \.pdf"),
        ({"output": "x"}, r"x is no name for a figure"),
        ({"output": "folder.png"}, r"folder\.png is a folder: name the file"),
        ({"output": "file/x.png"}, r"file/x\.png: no figure can be written there"),
        ({"columns": 0}, r"columns is 0: give nothing or a whole"),
        ({"alphas": one_hot((0, 0), (1, 1))}, r"alphas are \[2, 4, 4\] for 1 words: give \[1, h"),
        ({"alphas": np.ones((1, 16))}, r"alphas are \[1, 16\] for 1 words"),
        ({"alphas": one_hot((0, 0)) * np.nan}, r"alphas hold nan: give weights, finite"),
        ({"alphas": -one_hot((0, 0))}, r"alphas hold -1\.0: give weights"),
    ],
)
def test_visualize_att_wrong_arguments_raise_with_remedy(tmp_path, monkeypatch, broken, message):
    monkeypatch.chdir(tmp_path)
    Path("folder.png").mkdir()
    Path("file").write_text("")
    with pytest.raises((ValueError, OSError), match=message):
        visualize_att(
            result(alphas=broken.get("alphas")),
            broken.get("output"),
            columns=broken.get("columns"),
        )
    assert sorted(os.listdir()) == ["file", "folder.png"]


@pytest.mark.parametrize(
    ("output", "columns", "dpi", "message"),
    [
        ("x.png", 1000, 2400, r"dpi is 2400: the figure of 1000 columns would have \d{7} x \d{4} "),
        ("x.pdf", 1000, 2400, r"pixels, over 500 megapixels: choose a smaller dpi or other column"),
        (None, 1, 2400, r"dpi is 2400: the figure of 1 columns would have \d{4} x \d{6} pixels"),
        ("x.webp", 110, 100, r"x 192 pixels, \.webp takes 16383 a side: .* columns, or a \.png"),
        ("x.jpg", 420, 100, r"x 192 pixels, \.jpg takes 65500 a side: choose a smaller dpi or oth"),
    ],
)
def test_visualize_att_too_large_to_draw_raises_at_once(
    tmp_path, monkeypatch, output, columns, dpi, message
):
    monkeypatch.chdir(tmp_path)
    words = ["a"] * (40 if columns == 1 else 2)
    with pytest.raises(ValueError, match=message):
        visualize_att(result(words), output, smooth=False, columns=columns, dpi=dpi)
    assert os.listdir() == []


def test_visualize_att_of_as_many_pixels_as_there_may_be_is_drawn(tmp_path, monkeypatch):
    with Image.open(SAMPLES / "cat.jpg") as photo:
        one = result(["dog", "cat"], photo=photo)
        visualize_att(one, tmp_path / "a.png")
        with Image.open(tmp_path / "a.png") as drawn_whole:
            pixels = math.prod(drawn_whole.size)
        monkeypatch.setattr("sat.visualize.MOST_MEGAPIXELS", pixels / 1e6)
        visualize_att(one, tmp_path / "b.png")
        with pytest.raises(ValueError, match="choose a smaller dpi"):
            visualize_att(one, tmp_path / "c.png", dpi=102)


def test_visualize_att_locks_the_settings_of_matplotlib_while_it_saves(tmp_path, monkeypatch):
    """They are of the whole process: two threads would leave each other's."""
    locked, real = [], Figure.savefig

    def save(figure, *args, **how):
        locked.append(SETTINGS.locked())
        real(figure, *args, **how)

    monkeypatch.setattr(Figure, "savefig", save)
    visualize_att(result(), tmp_path / "figure.svg")
    assert locked == [True]
    assert not SETTINGS.locked()


def test_visualize_att_failed_write_leaves_old_file(tmp_path, monkeypatch):
    def full_disk(self, path, **options):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    path = tmp_path / "figure.png"
    path.write_bytes(b"old")
    monkeypatch.setattr(Figure, "savefig", full_disk)
    with pytest.raises(OSError, match=r"figure\.png: no figure can be written there .*No space"):
        visualize_att(result(), path)
    assert os.listdir(tmp_path) == ["figure.png"]
    assert path.read_bytes() == b"old"


def test_visualize_att_leaves_matplotlib_settings_unchanged(tmp_path):
    before = dict(matplotlib.rcParams)
    visualize_att(result(), tmp_path / "figure.svg")
    assert dict(matplotlib.rcParams) == before


CODE = """
import sys
import numpy as np
from types import SimpleNamespace
from PIL import Image
from sat.visualize import SETTINGS, visualize_att
caption = SimpleNamespace(text="dog", words=["dog"], finished=True, box=(0, 0, 60, 40),
    alphas=np.ones((1, 2, 2)), photo=Image.new("RGB", (60, 40)))
visualize_att(caption, "figure.png", show=SHOW)
print("pyplot" if "matplotlib.pyplot" in sys.modules else "no pyplot")
"""

RECORDER = """
from matplotlib.backends.backend_agg import FigureCanvasAgg as FigureCanvas
from matplotlib import pyplot
def show(**_):
    print("shown:", [axes.get_title() for axes in pyplot.gcf().axes])
"""


def run(folder: Path, show: bool, **environment: str) -> subprocess.CompletedProcess[str]:
    """Draw in a process of its own, without a display."""
    hidden = ("DISPLAY", "WAYLAND_DISPLAY", "MPLBACKEND")
    kept = {name: value for name, value in os.environ.items() if name not in hidden}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", CODE.replace("SHOW", str(show))],
        cwd=folder,
        env=kept | {"PYTHONPATH": f"{ROOT}:{folder}"} | environment,
        capture_output=True,
        text=True,
    )


def test_visualize_att_without_display_saves_and_imports_no_pyplot(tmp_path):
    done = run(tmp_path, show=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "no pyplot\n", "")
    with Image.open(tmp_path / "figure.png") as image:
        image.verify()


def test_visualize_att_show_without_display_raises_os_error(tmp_path):
    done = run(tmp_path, show=True)
    assert done.returncode == 1
    assert re.search(r"OSError: matplotlib's backend 'agg' opens no windows: leave", done.stderr)


def test_visualize_att_show_opens_window_and_saves(tmp_path):
    (tmp_path / "recorder.py").write_text(RECORDER)
    done = run(tmp_path, show=True, MPLBACKEND="module://recorder")
    assert done.stdout == "shown: ['', 'dog']\npyplot\n", done.stderr
    assert (tmp_path / "figure.png").exists()


def test_visualize_att_called_as_the_tutorial_does_draws_its_words(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (80, 60), "gray").save(path)
    rev_word_map = {0: "<start>", 1: "a", 2: "dog", 3: "<end>"}
    alphas = one_hot((0, 0), (1, 1), (2, 2), (3, 3))
    figure = visualize_att(path, [0, 1, 2, 3], list(alphas), rev_word_map, True)
    assert [axes.get_title() for axes in figure.axes] == ["", "a", "dog"]
    panel = drawn(figure, 1)
    height, width = panel.shape
    lit = panel[height // 4 : height // 2, width // 4 : width // 2].mean()
    assert lit > 2 * panel[3 * height // 4 :, 3 * width // 4 :].mean()


def test_visualize_att_of_an_image_without_words_says_so(tmp_path):
    with pytest.raises(ValueError, match="without rev_word_map"):
        visualize_att(tmp_path / "a.png", tmp_path / "b.png")


def test_visualize_att_as_heatmap_is_red_where_it_looked_and_blue_elsewhere():
    figure = visualize_att(result(["a"], alphas=one_hot((0, 0))), style="heatmap", smooth=False)
    panel = figure.axes[1].images[0].get_array()
    height, width = panel.shape[:2]
    red, _, blue = panel[height // 8, width // 8]
    assert red > blue
    red, _, blue = panel[-height // 8, -width // 8]
    assert blue > red


def test_visualize_att_with_probabilities_writes_them_beside_the_words():
    drawn_result = dataclasses.replace(result(["a", "dog"]), word_log_probs=[math.log(0.5), 0.0])
    figure = visualize_att(drawn_result, probabilities=True, title=False)
    assert [axes.get_title() for axes in figure.axes] == ["", "a 0.50", "dog 1.00"]
    assert not figure.get_suptitle()


def test_visualize_att_of_a_real_image_fits_a_screen(tmp_path):
    photo = Image.open(SAMPLES / "coffee.jpg")
    visualize_att(result(["dog"] * 11, photo=photo), tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size < 500_000


def test_figure_of_characters_that_the_font_lacks_gives_no_warning(tmp_path):
    words = ["\x00\x80", "\ufffd", "猫", "dog"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = visualize_att(result(words), tmp_path / "figure.png")
    assert [axes.get_title() for axes in figure.axes[1:]] == ["��", "�", "�", "dog"]


def test_upsample_map_over_a_box_that_begins_before_the_image_is_cut_there():
    alpha = np.array([[0.0, 1.0], [0.5, 0.0]])
    mask = upsample_map(alpha, (-2, -2, 6, 6), (4, 4), smooth=False)
    expected = np.zeros((4, 4))
    expected[:2, 2:], expected[2:, :2] = 1, 0.5
    np.testing.assert_allclose(mask, expected)


@pytest.mark.parametrize("cells", [(1, 1), (8, 8), (5, 9)])
@pytest.mark.parametrize("smooth", [False, True])
def test_upsample_map_equals_interpolation_and_blur_of_the_whole_map(cells, smooth):
    alpha = np.random.default_rng(0).random(cells).astype(np.float32)
    grown = resize(alpha, (60, 90), order=int(smooth), mode="edge", anti_aliasing=False)
    if smooth:
        grown = gaussian(grown, sigma=(60 / cells[0] / 3, 90 / cells[1] / 3), mode="nearest")
    mask = upsample_map(alpha, (0, 0, 90, 60), (90, 60), smooth)
    np.testing.assert_allclose(mask, grown / grown.max(), atol=1e-5)
