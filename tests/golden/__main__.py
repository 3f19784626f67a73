"""Write the golden files anew: `python -m tests.golden`. Read the difference before you commit it."""

from cp_ray.cultures import CULTURES
from tests.golden import FOLDER, prompts

for culture in CULTURES:
    (FOLDER / f"{culture}.txt").write_text(prompts(culture), encoding="utf-8")
