"""Faces drawn by a program, 64×64 in colour, with every attribute known: what stands in for celebA where it is not at hand.

Unlike a photograph, a drawing tells the truth about itself: pose, smile, hair, skin and light of each face are numbers, so
interpolation and disentanglement can be measured, and as many faces can be drawn as are wanted.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from avb_core.data import Images, Split, require_split

SIDE = 64
ATTRIBUTES = ("pose", "smile", "hair_length", "hair_colour", "skin", "light", "glasses", "eyes", "background")
"""Each lies in [−1, 1]: pose from left to right, smile from sad to glad, hair from short to long and from dark to fair, skin
from light to dark, light from the left or the right, glasses not worn (below 0) or worn, eyes from narrow to wide open."""

HAIR = np.array([[0.08, 0.06, 0.05], [0.30, 0.17, 0.09], [0.55, 0.30, 0.13], [0.85, 0.68, 0.35]])
SKIN = np.array([[0.98, 0.85, 0.74], [0.89, 0.69, 0.54], [0.66, 0.46, 0.33], [0.38, 0.25, 0.18]])
BACKGROUND = np.array([[0.55, 0.70, 0.82], [0.80, 0.82, 0.78], [0.86, 0.74, 0.62], [0.52, 0.60, 0.52]])

Array = NDArray[np.floating]
Plane = Array  # (faces, rows, columns), broadcast


def faces(split: Split, n: int | None = None) -> Images:
    """20,000 faces to train on or 2,000 for test (or n of them), attributes uniform and independent; the same at every call."""
    if split not in ("train", "test"):
        raise ValueError(f"split: expected 'train' or 'test', got {split!r}")
    if n is not None and n < 1:
        raise ValueError(f"n: expected at least 1 face, got {n}")
    attributes = attributes_of(split)[:n]
    pixels = torch.cat([draw(few) for few in attributes.split(500)])
    source = "faces drawn by the book's own program (celebA was not found on this machine)"
    return Images("faces", (255 * pixels).round().to(torch.uint8), (3, SIDE, SIDE), source=source)


def attributes_of(split: Split) -> Float[Tensor, "n attributes"]:
    """The attributes of the faces of a split, in the order of `ATTRIBUTES`."""
    require_split(split)
    seed, n = (0, 20_000) if split == "train" else (1, 2_000)
    uniform = np.random.default_rng(seed).uniform(-1, 1, (n, len(ATTRIBUTES)))
    return torch.from_numpy(uniform).float()


def draw(attributes: Float[Tensor, "n attributes"]) -> Float[Tensor, "n pixels"]:
    """The faces with the given attributes, as intensities in [0, 1], one colour after another.

    Raises ValueError for another number of attributes, or values outside [−1, 1].
    """
    if attributes.ndim != 2 or attributes.shape[1] != len(ATTRIBUTES):
        raise ValueError(f"attributes: expected shape (n, {len(ATTRIBUTES)}), got {tuple(attributes.shape)}")
    if not bool((attributes.abs() <= 1).all()):
        raise ValueError(f"attributes: expected values in [−1, 1], got up to {float(attributes.abs().max()):g}")
    of = {name: attributes[:, i].float().numpy()[:, None, None] for i, name in enumerate(ATTRIBUTES)}
    canvas = _Canvas.blank(len(attributes))
    _paint_background(canvas, of)
    _paint_head(canvas, of)
    _paint_features(canvas.rows(SIDE // 4, 7 * SIDE // 8), of)
    _paint_fringe(canvas.rows(0, SIDE // 2), of)
    return torch.from_numpy(canvas.colours.clip(0, 1).reshape(len(attributes), -1))


@dataclass
class _Canvas:
    """Colours of all faces, or of some of their rows; x to the right and y downwards, both from −1 to 1."""

    colours: Array  # (faces, 3, rows, columns)
    x: Plane
    y: Plane

    @classmethod
    def blank(cls, n: int) -> "_Canvas":
        axis = ((np.arange(SIDE) + 0.5) * 2 / SIDE - 1).astype(np.float32)
        return cls(np.zeros((n, 3, SIDE, SIDE), np.float32), axis[None, None, :], axis[None, :, None])

    def rows(self, first: int, last: int) -> "_Canvas":
        """A part of the canvas, which paints on the whole."""
        return _Canvas(self.colours[:, :, first:last], self.x, self.y[:, first:last])

    def paint(self, inside: Plane, colour: Array, cover: Plane | float = 1.0) -> None:
        """Lay a colour (faces, 3) or (faces, 3, rows, columns) where `inside`, a signed distance, is positive."""
        # A pixel that the edge cuts is covered in part.
        alpha = (np.clip(0.5 + SIDE / 2 * inside, 0, 1) * cover)[:, None]
        if colour.ndim == 2:
            colour = colour[:, :, None, None]
        self.colours += alpha * (colour - self.colours)

    def ellipse(self, x: Plane | float, y: Plane | float, a: Plane | float, b: Plane | float) -> Plane:
        """The signed distance, nearly, to an ellipse's edge; positive within."""
        radius = np.sqrt(((self.x - x) / a) ** 2 + ((self.y - y) / b) ** 2)
        return (1 - radius) * np.minimum(a, b)


def _colour(red: float, green: float, blue: float) -> Array:
    """The same colour for all faces."""
    return np.array([[red, green, blue]], np.float32)


def _between(table: Array, value: Plane) -> Array:
    """A colour of the table, interpolated, for values in [−1, 1]; (faces, 3)."""
    place = (value[:, 0, 0] + 1) / 2 * (len(table) - 1)
    return np.stack([np.interp(place, np.arange(len(table)), table[:, i]) for i in range(3)], axis=1).astype(np.float32)


def _paint_background(canvas: _Canvas, of: dict[str, Plane]) -> None:
    colour = _between(BACKGROUND, of["background"])[:, :, None, None]
    shade = 1 + 0.12 * (of["light"] * canvas.x - 0.6 * canvas.y)
    canvas.colours += colour * shade[:, None]


def _shoulder(canvas: _Canvas) -> Plane:
    return canvas.ellipse(0.0, 1.25, 0.85, 0.55)


def _paint_head(canvas: _Canvas, of: dict[str, Plane]) -> None:
    hair, skin = _between(HAIR, of["hair_colour"]), _between(SKIN, of["skin"])
    turn, length = 0.10 * of["pose"], (of["hair_length"] + 1) / 2
    # Hair behind the head: a cap, and two curtains that grow with its length
    canvas.paint(canvas.ellipse(-0.4 * turn, -0.12, 0.60, 0.66), 0.8 * hair)
    curtain = np.minimum(
        0.58 - np.abs(canvas.x + 0.4 * turn), np.minimum(canvas.y + 0.2, 0.05 + 0.85 * length - canvas.y)
    )
    canvas.paint(curtain, 0.8 * hair)
    cloth = 0.35 + 0.4 * _between(BACKGROUND, -of["background"])[:, ::-1]
    canvas.paint(np.minimum(0.20 - np.abs(canvas.x), canvas.y - 0.3), 0.82 * skin)
    canvas.paint(_shoulder(canvas), cloth * 0.8)
    for side in (-1, 1):
        canvas.paint(canvas.ellipse(side * 0.485 - 0.6 * turn, 0.05, 0.08, 0.13), 0.9 * skin)
    # The face is a ball in the light: brightness follows the slope of its surface.
    face = canvas.ellipse(0.5 * turn, 0.06, 0.46, 0.60)
    depth = np.sqrt(np.clip(1 - ((canvas.x - 0.5 * turn) / 0.62) ** 2 - ((canvas.y - 0.06) / 0.85) ** 2, 0, 1))
    shade = 0.72 + 0.30 * depth + 0.22 * of["light"] * (canvas.x - 0.5 * turn)
    canvas.paint(face, skin[:, :, None, None] * shade[:, None])
    for side in (-1, 1):
        blush = np.exp(-(((canvas.x - turn - side * 0.25) / 0.13) ** 2) - ((canvas.y - 0.24) / 0.09) ** 2)
        canvas.paint(face, _colour(0.85, 0.35, 0.30), 0.18 * blush)


def _paint_features(canvas: _Canvas, of: dict[str, Plane]) -> None:
    hair, skin = _between(HAIR, of["hair_colour"]), _between(SKIN, of["skin"])
    turn, smile, open_ = 0.13 * of["pose"], of["smile"], 0.055 + 0.022 * of["eyes"]
    dark, white = _colour(0.08, 0.06, 0.06), _colour(0.96, 0.95, 0.93)
    for side in (-1, 1):
        # What turns away from us is seen narrower.
        x, width = side * 0.185 + turn, 0.095 * (1 - 0.25 * side * of["pose"])
        eye = canvas.ellipse(x, -0.02, width, open_)
        canvas.paint(eye, white)
        iris = canvas.ellipse(x + 0.25 * turn, -0.02, 0.052, 0.052)
        canvas.paint(np.minimum(iris, eye), _colour(0.25, 0.35, 0.40))
        canvas.paint(np.minimum(canvas.ellipse(x + 0.25 * turn, -0.02, 0.026, 0.026), eye), dark)
        canvas.paint(np.minimum(canvas.ellipse(x + 0.25 * turn + 0.018, -0.04, 0.012, 0.012), eye), white)
        lid = 0.014 - np.abs(canvas.y + 0.02 + open_ * np.sqrt(np.clip(1 - ((canvas.x - x) / width) ** 2, 0, 1)))
        canvas.paint(np.minimum(lid, width - np.abs(canvas.x - x)), 0.45 * skin)
        # Brows rise at their inner ends when sad, and are flat when glad.
        brow = -0.165 - 0.015 * of["eyes"] + (0.02 + 0.05 * smile) * side * (canvas.x - x)
        arch = 0.02 - np.abs(canvas.y - brow - 0.9 * (canvas.x - x) ** 2)
        canvas.paint(np.minimum(arch, 1.15 * width - np.abs(canvas.x - x)), 0.6 * hair)
    tip = 1.5 * turn
    ridge = 0.013 - np.abs(canvas.x - turn - (tip - turn) * (canvas.y + 0.02) / 0.22 - 0.03 * np.tanh(5 * of["light"]))
    canvas.paint(np.minimum(ridge, np.minimum(canvas.y, 0.19 - canvas.y)), 0.80 * skin, 0.7)
    canvas.paint(canvas.ellipse(tip, 0.215, 0.075, 0.028), 0.72 * skin, 0.8)
    # The mouth is a parabola; a glad one shows teeth.
    x = canvas.x - 1.1 * turn
    width = 0.19 + 0.035 * smile
    curve = 0.385 + 0.03 * smile - 1.9 * smile * x**2
    gap = np.clip(0.035 * smile, 0, None) * np.clip(1 - (x / width) ** 2, 0, 1)
    within = width - np.abs(x)
    canvas.paint(np.minimum(0.034 + gap - np.abs(canvas.y - curve), within), 0.6 * skin + _colour(0.22, 0.02, 0.04))
    shown = np.clip(5 * smile[:, 0], 0, 1)
    canvas.paint(
        np.minimum(0.012 + gap - np.abs(canvas.y - curve), within - 0.02), shown * white + (1 - shown) * 3 * dark
    )
    for side in (-1, 1):
        x0, worn = side * 0.185 + turn, of["glasses"] > 0
        rim = 0.016 - np.abs(canvas.ellipse(x0, -0.02, 0.145 * (1 - 0.15 * side * of["pose"]), 0.115))
        canvas.paint(rim, dark, worn.astype(float))
    bridge = np.minimum(0.012 - np.abs(canvas.y + 0.04), 0.05 - np.abs(canvas.x - turn))
    canvas.paint(bridge, dark, (of["glasses"] > 0).astype(float))


def _paint_fringe(canvas: _Canvas, of: dict[str, Plane]) -> None:
    """Hair in front: everything of the cap above a line that sweeps across the forehead."""
    hair = _between(HAIR, of["hair_colour"])[:, :, None, None]
    turn = 0.10 * of["pose"]
    cap = canvas.ellipse(-0.2 * turn, -0.12, 0.59, 0.65)
    line = -0.30 + 0.16 * (canvas.x - 0.5 * turn + 0.15) ** 2 / 0.2 - canvas.y
    strands = 1 + 0.10 * np.sin(26 * canvas.x + 9 * canvas.y) + 0.18 * of["light"] * canvas.x
    sheen = 1 + 0.35 * np.exp(-(((canvas.y + 0.52) / 0.09) ** 2))
    canvas.paint(np.minimum(cap, line), hair * (strands * sheen)[:, None])
