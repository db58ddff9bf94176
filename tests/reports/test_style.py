import re
from pathlib import Path

import pytest

from tunewright import reports

STYLE = (Path(reports.__file__).parent / "style.css").read_text(encoding="utf-8")
LIGHT, DARK = (
    dict(re.findall(r"--([\w-]+): (#[0-9a-f]+)", block))
    for block in re.findall(r":root \{(.*?)\n *\}", STYLE, re.DOTALL)[:2]
)


def contrast(one, other):
    """The ratio of WCAG 2.2, success criterion 1.4.3; readable text needs 4.5."""
    dark, light = sorted(luminance(colour) for colour in (one, other))
    return (light + 0.05) / (dark + 0.05)


def luminance(colour):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_every_colour_has_a_dark_twin():
    assert len(LIGHT) == 20
    assert LIGHT.keys() == DARK.keys()


def test_every_variable_is_defined():
    used = set(re.findall(r"var\(--([\w-]+)\)", STYLE))
    assert used - LIGHT.keys() == {"sans", "mono", "least"}


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize("name", ["ink", "quiet", "accent", "s2", "s3", "error", "warning", "info"])
def test_text_can_be_read_on_paper_and_cards(theme, name):
    assert contrast(theme[name], theme["paper"]) >= 4.5
    assert contrast(theme[name], theme["card"]) >= 4.5


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_numbers_can_be_read_in_full_cells(theme):
    assert contrast(theme["on-heat"], theme["heat"]) >= 4.5
    assert contrast(theme["on-heat"], theme["wrong"]) >= 4.5


def test_the_page_knows_chinese_fonts():
    fonts = ("Noto Sans CJK SC", "PingFang SC", "Microsoft YaHei")
    assert all(f'"{font}"' in STYLE for font in fonts)
