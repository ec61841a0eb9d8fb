"""The page of a fit: what there was, what was tried, what came of it, and how to use it and make it again."""

from __future__ import annotations

import functools
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mixplug.lab.pages.durations import duration
from mixplug.lab.pages.figures import save_figure
from mixplug.lab.pages.mistakes import Mistakes, draw_confused, draw_worst
from mixplug.lab.pages.tables import comparison_table, measured
from mixplug.lab.runs.results import Comparison
from mixplug.lab.runs.verdict import judge, verdict_lines

_PICTURES = {"pareto": "Accuracy against cost", "curves": "Losses over the run"}


@dataclass(frozen=True)
class FitPage:
    """What a fit's page says.

    Attributes:
        described: What there was to learn from and to judge by, a sentence each.
        label: The chosen method's.
        pilots: The comparisons that it was chosen by, in order.
        mistakes: What the final model says of images that it did not learn from.
        command: What trains it again, without a folder.
        seconds: How long everything took.
    """

    described: Sequence[str]
    label: str
    pilots: Sequence[Comparison]
    mistakes: Mistakes
    command: str
    seconds: float

    @functools.cached_property
    def verdict(self) -> list[str]:
        """What the longer pilots say of the methods, and how much of that may be chance."""
        last = self.pilots[-1]
        lines = verdict_lines(last, judge(last))
        runs = [run for method in last.recipe.methods for run in last.finished(method)]
        images = max(run.test_images or 0 for run in runs)
        # Of two methods that are judged by the same images, as if these were others: so it is rather too wide. With one
        # more that is right and one that is wrong, since none of few images wrong is not none ever.
        shares = [(run.accuracy * images + 1) / (images + 2) for run in runs]
        chance = 196 * math.sqrt(2 * max(share * (1 - share) for share in shares) / max(1, images))
        return [
            *(lines if len(last.seeds) > 1 else lines[:-1]),
            f"By {images} images alone, two methods {chance:.1f} points apart may be equal.",
        ]


def write_page(page: FitPage, path: Path) -> None:
    """Write the page as Markdown, and its pictures to the folder ``pictures`` beside it.

    Args:
        page: What it says.
        path: A file beside the folders ``pilots-1`` and so on of the comparisons.
    """
    pictures = path.parent / "pictures"
    pictures.mkdir(exist_ok=True)
    parts = [
        f"# {page.pilots[0].recipe.description}",
        f"**{100 * page.mistakes.accuracy:.1f}% of {len(page.mistakes.labels)} images** by {page.label}, after "
        f"{duration(page.seconds)} in all.",
        *page.described,
        "## Verdict",
        *page.verdict,
    ]
    for number, compared in enumerate(page.pilots, start=1):
        table = comparison_table(compared).markdown(measured(compared)).strip()
        drawn = [
            f"![{meaning}](pilots-{number}/{name}.png)"
            for name, meaning in _PICTURES.items()
            if (path.parent / f"pilots-{number}" / f"{name}.png").exists()
        ]
        parts += [f"## Pilots {number}", table, *drawn]
    parts += ["## The last training", "![Losses over the run](final/curves.png)"]
    for title, name, figure in (
        ("What is confused most", "confused", draw_confused(page.mistakes)),
        ("What it is wrong about and surest of", "worst", draw_worst(page.mistakes)),
    ):
        if figure is not None:
            save_figure(figure, pictures / f"{name}.png")
            parts += [f"## {title}", f"![{title}](pictures/{name}.png)"]
    use = f"mixplug predict {shlex.quote(str(path.parent / 'model.safetensors'))} IMAGES"
    parts += ["## Use it, and make it again", f"```sh\n{use}\n{page.command} --out FOLDER\n```"]
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
