"""Figures of matplotlib as files: checked before any work, the same bytes every time."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

from foretoken.errors import ConfigError

SUFFIXES = (".png", ".svg")
_TIMELESS: dict[str, dict[str, Any]] = {".svg": {"Date": None}, ".png": {}}  # the same bytes again


def check_plot(path: Path, field: str = "plot") -> None:
    """Before any work. Raises ConfigError, in the name of the option `field`, for a file that
    cannot be drawn to."""
    if path.suffix not in SUFFIXES:
        raise ConfigError(field, str(path), f"a file that ends in {' or '.join(SUFFIXES)}")
    if not path.parent.is_dir():
        raise ConfigError(field, str(path), "a file in a folder that exists")
    check_matplotlib(field, path)


def check_matplotlib(field: str, path: Path) -> None:
    """Raise ConfigError where it is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ConfigError(
            field, str(path), "nothing without matplotlib: pip install 'foretoken[bench]'"
        ) from None


def write_figure(figure: Any, path: Path) -> None:
    """PNG or SVG by suffix; the file appears when it is complete."""
    part = path.with_name(f".{path.name}.part")
    try:
        figure.savefig(part, format=path.suffix[1:], dpi=150, metadata=_TIMELESS[path.suffix])
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def svg_text(figure: Any) -> str:
    """The figure as an SVG document."""
    out = StringIO()
    figure.savefig(out, format="svg", metadata=_TIMELESS[".svg"])
    return out.getvalue()
