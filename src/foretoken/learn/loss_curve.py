"""The loss of a training run as a picture, without a plotting library."""

from typing import Any

WIDTH, HEIGHT = 640, 320  # pixels
LEFT, BOTTOM, EDGE = 40, 290, 10  # where the axes lie, and the margin on the other sides
COLOURS = ("#999999", "#0b6e4f", "#b3541e", "#3d4f9f", "#8a1c5c")
SMOOTHING = 0.05  # weight of a new step in the running mean of the training loss

Line = list[tuple[int, float]]  # (step, nats per token)


def loss_svg(log: list[dict[str, Any]]) -> str:
    """Training loss (running mean) and held-out losses over steps, as the text of an SVG file.

    log: entries with `step` and `loss`, and `held_out` (loss by kind) where it was measured.
    """
    lines = _lines(log)
    last = max(step for step, _ in lines["training"])
    top = max(loss for line in lines.values() for _, loss in line)

    def place(step: int, loss: float) -> tuple[float, float]:
        x = LEFT + (WIDTH - LEFT - EDGE) * step / last
        return round(x, 1), round(BOTTOM - (BOTTOM - EDGE) * loss / top, 1)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        f'<path d="M{LEFT} {EDGE}V{BOTTOM}H{WIDTH - EDGE}" fill="none" stroke="#666"/>',
        f'<text x="{LEFT}" y="{HEIGHT - EDGE}">nats per token, by step</text>',
        f'<text x="{WIDTH - EDGE}" y="{HEIGHT - EDGE}" text-anchor="end">{last}</text>',
    ]
    for tick in range(int(top) + 1):
        y = place(0, tick)[1]
        parts.append(f'<text x="{LEFT - 6}" y="{y}" text-anchor="end">{tick}</text>')
    for row, (name, line) in enumerate(lines.items()):
        colour = COLOURS[row % len(COLOURS)]
        points = " ".join(f"{x},{y}" for x, y in (place(*point) for point in line))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}"/>')
        parts.append(f'<text x="{WIDTH - 150}" y="{24 + 16 * row}" fill="{colour}">{name}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _lines(log: list[dict[str, Any]]) -> dict[str, Line]:
    mean = log[0]["loss"]
    lines: dict[str, Line] = {"training": []}
    for entry in log:
        mean += SMOOTHING * (entry["loss"] - mean)
        lines["training"].append((entry["step"], mean))
        for kind, loss in entry.get("held_out", {}).items():
            lines.setdefault(f"held-out {kind}", []).append((entry["step"], loss))
    return lines
