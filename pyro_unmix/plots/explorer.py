"""``result.explore()``: click a pixel of a map, and see what is known of it (extra ``view``)."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from pyro_unmix.data.colours import material_colour
from pyro_unmix.data.names import material_names
from pyro_unmix.ops.extras import need
from pyro_unmix.plots.pixels import Pixels
from pyro_unmix.plots.reading import check_pixel, check_position, date_titles, first_observed

if TYPE_CHECKING:
    from pyro_unmix.posterior.result import Unmixing

_SIDE = 420  # of the map on the screen
_WIDE, _HIGH = 560, 260  # of the curves
_MOST_PIXELS = 600  # of a map that is sent to the browser, along a side
_FIT_COLOUR = "#D55E00"


class Explorer:
    """A map beside the curves of one of its pixels; a click chooses the pixel.

    The map shows one material at one date. Beside it are the spectrum that was measured there with that of the fit,
    and the fractions of all materials at all dates with their 90 % intervals. It needs Panel (extra ``view``), and a
    running Python: a notebook that shows the object, or `show`, which serves it on this machine alone.

    Parameters
    ----------
    result : Unmixing

    Attributes
    ----------
    pixel : tuple of int
        (y, x).
    time, material : int
        Positions of the date and the material of the map.
    layout : panel.FlexBox
        To be put into a page of one's own.

    Raises
    ------
    ImportError
        If Panel is missing.

    Examples
    --------
    >>> import numpy as np, pyro_unmix as pu
    >>> M = np.array([[.1, .5], [.2, .4], [.3, .3]])
    >>> result = pu.methods.fcls(np.array([[[.25, .75], [1, 0]]]) @ M.T, endmembers=M, progress=False)
    >>> explorer = result.explore()  # .show() opens it in a browser
    >>> explorer.choose(pixel=(0, 1))
    >>> explorer.pixel, explorer.pixels.fractions(0, 1).round(2).tolist()
    ((0, 1), [[1.0, 0.0]])
    """

    def __init__(self, result: Unmixing) -> None:
        self._panel = need("panel", "view")
        self.pixels = Pixels(result)
        maps = self.pixels.maps
        self.pixel = (maps.sizes["y"] // 2, maps.sizes["x"] // 2)
        self.time, self.material = first_observed(result, maps), 0
        self._names, self._titles = material_names(maps), date_titles(maps)
        self._step = -(-max(maps.sizes["y"], maps.sizes["x"]) // _MOST_PIXELS)
        self._build()
        self._draw_map()
        self._draw_pixel()

    def choose(
        self,
        *,
        pixel: tuple[int, int] | None = None,
        time: int | None = None,
        material: int | None = None,
    ) -> None:
        """Show another pixel (y, x), date or material, by position; as a click does.

        Raises
        ------
        TypeError, ValueError
            If there is no such pixel, date or material; then nothing changes.
        """
        maps = self.pixels.maps
        place = self.pixel if pixel is None else check_pixel(pixel, maps)
        date = self.time if time is None else check_position(time, maps.sizes["time"], "time")
        which = self.material
        if material is not None:
            which = check_position(material, maps.sizes["endmember"], "material")
        self.pixel, self.time, self.material = place, date, which
        self._draw_map()
        self._draw_pixel()

    def show(self, **settings: Any) -> Any:
        """Open it in a browser; settings are those of Panel's `show`, such as ``port=5006`` or ``open=False``."""
        return self.layout.show(**{"title": "pyro_unmix", **settings})

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Any:
        self._panel.extension()
        return self.layout._repr_mimebundle_(include, exclude)

    def _build(self) -> None:
        """Figures and controls, still empty."""
        plotting, models = need("bokeh.plotting", "view"), need("bokeh.models", "view")
        source = models.ColumnDataSource
        sizes = self.pixels.maps.sizes
        height, width = sizes["y"], sizes["x"]
        scale = _SIDE / max(height, width)
        self._map = plotting.figure(
            width=max(round(width * scale), 160) + 90, height=max(round(height * scale), 160) + 60,
            x_range=(0, width), y_range=(height, 0), tools="tap,wheel_zoom,pan,reset",
            x_axis_label="x (column)", y_axis_label="y (row)",
        )  # fmt: skip
        self._map.axis.minor_tick_line_color = None
        self._image = source({"image": [np.zeros((1, 1))]})
        colours = models.LinearColorMapper("Viridis256", low=0, high=1, nan_color="#d9d9d9")
        # The last of every so many columns and rows may reach beyond the map.
        drawn = [-(-size // self._step) * self._step for size in (width, height)]
        self._map.image(
            "image", x=0, y=0, dw=drawn[0], dh=drawn[1], color_mapper=colours, source=self._image
        )
        self._map.add_layout(models.ColorBar(color_mapper=colours, title="fraction"), "right")
        self._mark = source({"x": [], "y": []})
        for colour, size in (("white", 14), ("black", 11)):
            self._map.scatter(
                "x", "y", source=self._mark, marker="square", size=size,
                fill_alpha=0, line_color=colour, line_width=2,
            )  # fmt: skip
        self._map.on_event("tap", self._clicked)

        self._spectrum = plotting.figure(
            width=_WIDE, height=_HIGH, y_axis_label="reflectance",
            x_axis_label="wavelength (nm)" if self.pixels.has_wavelengths else "band",
        )  # fmt: skip
        self._curves = {name: source({"x": [], "y": []}) for name in ("measured", "fit")}
        for name, colour, dash in (("measured", "black", "solid"), ("fit", _FIT_COLOUR, "dashed")):
            self._spectrum.line(
                "x", "y", source=self._curves[name], color=colour, line_dash=dash, line_width=2,
                legend_label=name,
            )  # fmt: skip
        _beside(self._spectrum)
        self._build_fractions(plotting, source)
        self._build_controls()

    def _build_fractions(self, plotting: Any, source: Any) -> None:
        many = len(self._titles) > 1
        labels = [title.replace("\n", " ") for title in self._titles]
        self._fractions = plotting.figure(
            width=_WIDE, height=_HIGH + 60, y_range=(-0.02, 1.02), y_axis_label="fraction",
            x_range=(-0.5, len(labels) - 0.5) if many else self._names,
        )  # fmt: skip
        self._means, self._bands = [], []
        for p, name in enumerate(self._names):
            colour = material_colour(p)
            mean, band = source({"x": [], "y": []}), source({"x": [], "low": [], "high": []})
            self._means.append(mean)
            self._bands.append(band)
            if many:
                self._fractions.varea("x", "low", "high", source=band, color=colour, alpha=0.25)
                self._fractions.line("x", "y", source=mean, color=colour, line_width=2)
            else:
                self._fractions.segment(
                    "x", "low", "x", "high", source=band, color=colour, line_width=4, alpha=0.5
                )
            self._fractions.scatter(
                "x", "y", source=mean, color=colour, size=7, **({"legend_label": name} if many else {})
            )  # fmt: skip
        if many:
            _beside(self._fractions)
            ticks = np.unique(np.linspace(0, len(labels) - 1, 6).round().astype(int)).tolist()
            self._fractions.xaxis.ticker = ticks
            self._fractions.xaxis.major_label_overrides = {t: labels[t] for t in ticks}

    def _build_controls(self) -> None:
        widgets = self._panel.widgets
        dates = {f"{t}: {title}": t for t, title in enumerate(self._titles)}
        # Panel is about to call the text above a control otherwise.
        text = "label" if "label" in widgets.Select.param else "name"
        self._ask_material = widgets.Select(
            **{text: "material"}, options={name: p for p, name in enumerate(self._names)}, width=200
        )
        self._ask_date = widgets.Select(**{text: "date"}, options=dates, value=self.time, width=200)
        self._ask_material.param.watch(lambda event: self._asked(material=event.new), "value")
        self._ask_date.param.watch(lambda event: self._asked(time=event.new), "value")
        self._said = self._panel.pane.HTML("", max_width=_WIDE)
        asked = [self._ask_material, *([self._ask_date] if len(dates) > 1 else [])]
        # Figures shrink with a window that is narrower than they are.
        for figure in (self._map, self._spectrum, self._fractions):
            figure.update(sizing_mode="scale_width", max_width=figure.width)
        left = self._panel.Column(self._panel.FlexBox(*asked), self._panel.pane.Bokeh(self._map))
        right = self._panel.Column(
            self._said,
            self._panel.pane.Bokeh(self._spectrum),
            self._panel.pane.Bokeh(self._fractions),
        )
        for part, figure in ((left, self._map), (right, self._spectrum)):
            part.param.update(
                sizing_mode="stretch_width", max_width=figure.width + 20, min_width=300
            )
        self.layout = self._panel.FlexBox(left, right)  # below each other where it is narrow

    def _clicked(self, event: Any) -> None:
        """A click on the map; beside it, nothing happens."""
        y, x = int(np.floor(event.y)), int(np.floor(event.x))
        sizes = self.pixels.maps.sizes
        if 0 <= y < sizes["y"] and 0 <= x < sizes["x"]:
            self.choose(pixel=(y, x))

    def _asked(self, **what: int) -> None:
        if any(getattr(self, name) != value for name, value in what.items()):
            self.choose(**what)  # type: ignore[arg-type]

    def _draw_map(self) -> None:
        plane = self.pixels.maps[self.time, :, :, self.material].to_numpy()
        # Fewer pixels for the browser; each stands where it is.
        self._image.data = {"image": [plane[:: self._step, :: self._step].astype(np.float32)]}
        date = f", {self._titles[self.time]}" if len(self._titles) > 1 else ""
        self._map.title.text = f"{self._names[self.material]}{date}".replace("\n", " ")
        self._mark.data = {"x": [self.pixel[1] + 0.5], "y": [self.pixel[0] + 0.5]}
        self._ask_material.value, self._ask_date.value = self.material, self.time

    def _draw_pixel(self) -> None:
        y, x = self.pixel
        bands = self.pixels.bands
        order = np.argsort(bands)
        curves = {
            "measured": self.pixels.observed(self.time, y, x),
            "fit": self.pixels.fitted(self.time, y, x),
        }
        for name, curve in curves.items():
            shown = order if curve is not None else order[:0]
            values = bands if curve is None else curve
            self._curves[name].data = {"x": bands[shown], "y": values[shown]}
        means, bounds = self.pixels.fractions(y, x), self.pixels.bounds(y, x)
        for p, name in enumerate(self._names):
            places: Any = [name] if len(means) == 1 else np.arange(len(means), dtype=float)
            self._means[p].data = {"x": places, "y": means[:, p]}
            if bounds is not None:
                self._bands[p].data = {"x": places, "low": bounds[0][:, p], "high": bounds[1][:, p]}
        date = f", {self._titles[self.time]}" if len(self._titles) > 1 else ""
        self._said.object = (
            f"<b>pixel (y, x) = ({y}, {x}){escape(date)}</b><br>"
            f"{escape(self.pixels.kind_of_bounds)}"
        )


def _beside(figure: Any) -> None:
    """The legend out of the way of the curves, and no tools before the mouse is there."""
    figure.add_layout(figure.legend[0], "right")
    figure.toolbar.autohide = True
