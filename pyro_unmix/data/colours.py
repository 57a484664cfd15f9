"""The colour of a material: one rule for pictures, pages and tables."""

from __future__ import annotations

#: The colours of materials in turn, seven of the eight of Okabe and Ito (2008): no black, which the truth is drawn in
#: and which has no darker shade for the median.
MATERIAL_COLOURS: tuple[str, ...] = (
    "#E69F00",  # orange
    "#56B4E9",  # sky blue
    "#009E73",  # bluish green
    "#CC79A7",  # reddish purple
    "#0072B2",  # blue
    "#D55E00",  # vermillion
    "#F0E442",  # yellow: last, it is the faintest on white
)
#: How much black the colours of the eighth to fourteenth material have, and of every seven after them.
_DARKER = 0.4


def material_colour(position: int) -> str:
    """Colour of a material by its position: beyond seven, the same hues get darker."""
    round_, place = divmod(position, len(MATERIAL_COLOURS))
    share = (1 - _DARKER) ** round_
    text = MATERIAL_COLOURS[place].lstrip("#")
    parts = (round(int(text[i : i + 2], 16) * share) for i in (0, 2, 4))
    return "#" + "".join(f"{part:02X}" for part in parts)
