"""An image of four colors, which looks different in every orientation."""

import numpy as np
from PIL import Image

RED, GREEN, BLUE, GREY = (200, 30, 40), (20, 180, 60), (40, 50, 210), (120, 120, 120)


def quadrants(width=48, height=32):
    """Red and green above, blue and grey below: no two ways of turning it look alike."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2] = RED
    pixels[: height // 2, width // 2 :] = GREEN
    pixels[height // 2 :, : width // 2] = BLUE
    pixels[height // 2 :, width // 2 :] = GREY
    return Image.fromarray(pixels)
