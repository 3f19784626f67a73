"""A recipe's steps done in this process, on the Ray that the tests share."""

from collections.abc import Sequence
from pathlib import Path

from cp_ray.folder import Folder
from cp_ray.pipeline import Run, Step, execute, pending, select
from cp_ray.recipe import Recipe, parse_recipe


def do(run: Run, steps: Sequence[Step]) -> None:
    """Do those that are not done."""
    run.begin()
    execute(run, steps, on_start=lambda step: None, on_done=lambda *_, **__: None)


def do_recipe(recipe: Recipe, root: Path, until: str, arguments: Sequence[str]) -> dict[str, Folder]:
    """Do a recipe's steps up to one of them; gives their folders by name."""
    steps = parse_recipe(recipe, ["--root", str(root), *arguments], "test")[1]
    run, chosen = Run(str(root)), select(steps, until)
    pending(run, chosen)
    do(run, chosen)
    return {step.name: run.folder(step) for step in chosen}
