"""Figures of live attacks: rows of images, and paths on two pixels."""

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb

from arlib import figures
from arlib.errors import InputError
from arlib.figures import attacks as live


def rows(n=3):
    images = torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    words = [str(i) for i in range(n)]
    wrong = [i == 1 for i in range(n)]
    return [
        figures.ImageRow("natural", images, words),
        figures.ImageRow("δ", images - 0.5, words, wrong, scale=0.5),
    ]


def test_image_grid_shows_every_image_and_marks_the_wrong_ones():
    figure = figures.image_grid(rows(), columns=["a", "b", "c"], about="Three digits")
    assert len(figure.axes) == 6 and all(ax.images for ax in figure.axes)
    assert [ax.xaxis.label.get_color() for ax in figure.axes[3:]] == [
        live.NEUTRAL,
        live.WRONG,
        live.NEUTRAL,
    ]
    assert figure.alt == "Three digits. natural: 0, 1, 2; δ: 0, 1, 2."


def test_images_are_drawn_on_one_scale_and_perturbations_in_two_colours():
    figure = figures.image_grid([figures.ImageRow("x", torch.full((1, 1, 2, 2), 0.25))])
    assert np.allclose(figure.axes[0].images[0].get_array(), 0.25)
    delta = torch.tensor([[[[-0.1, 0.0], [0.1, 0.05]]]])
    shown = (
        figures.image_grid([figures.ImageRow("δ", delta, scale=0.1)]).axes[0].images[0].get_array()
    )
    assert np.allclose(shown[0, 0], to_rgb("#0F5FAF")) and np.allclose(shown[0, 1], 1)
    assert np.allclose(shown[1, 0], to_rgb("#DB7A1C")) and np.allclose(
        shown[1, 1], (1 + shown[1, 0]) / 2
    )


def test_colour_images_keep_their_channels():
    image = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    shown = figures.image_grid([figures.ImageRow("x", image)]).axes[0].images[0].get_array()
    assert np.allclose(shown, image[0].permute(1, 2, 0))


def test_rows_of_different_lengths_are_refused():
    with pytest.raises(InputError, match="one length"):
        figures.image_grid([*rows(3), *rows(2)])
    with pytest.raises(InputError, match="one length"):
        figures.image_grid(rows(3), columns=["a"])


def test_paths_end_where_they_end():
    def plane(z):
        return z[:, 0] - 0.5

    paths = {
        "up": torch.tensor([[0.4, 0.5], [0.6, 0.5]]),
        "down": torch.tensor([[0.4, 0.5], [0.2, 0.5]]),
    }
    figure = figures.ascent_paths(plane, torch.tensor([0.4, 0.5]), 0.2, paths)
    assert "up ends beyond the boundary; down ends short of the boundary" in figure.alt
    ends = [
        line.get_xydata()[0].tolist()
        for line in figure.axes[0].get_lines()
        if line.get_marker() == "s"
    ]
    assert ends == [pytest.approx([0.6, 0.5]), pytest.approx([0.2, 0.5])]


def test_the_ball_is_cut_to_valid_pixels():
    figure = figures.ascent_paths(
        lambda z: z.sum(1), torch.tensor([0.1, 0.95]), 0.2, {"p": torch.zeros(2, 2)}
    )
    square = figure.axes[0].get_lines()[0].get_xydata()
    assert square.min(0).tolist() == pytest.approx([0.0, 0.75]) and square.max(
        0
    ).tolist() == pytest.approx([0.3, 1.0])


def test_heights_stand_where_the_loss_has_them():
    figure = figures.ascent_paths(
        lambda z: z[:, 0] - 0.8, torch.tensor([0.1, 0.1]), 0.05, {"p": torch.zeros(2, 2)}
    )
    filled = np.concatenate(
        [path.vertices for c in figure.axes[0].collections[-1:] for path in c.get_paths()]
    )
    # wrong answers: the first pixel is bright
    assert filled[:, 0].min() == pytest.approx(0.8, abs=0.02)
