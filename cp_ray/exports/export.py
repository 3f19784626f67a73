"""What a run leaves for other tools: its training rows as a Hugging Face dataset, for OpenAI, and as ShareGPT.

    huggingface/README.md                 the dataset card
    huggingface/data/<culture>/<split>.parquet
    openai/<culture>.jsonl                chats for OpenAI's fine-tuning
    sharegpt/<culture>.json

`all` stands beside the cultures: the rows of every culture, in a fixed order that mixes them, for one model that is
told in the system prompt whose it is.
"""

import hashlib
import posixpath
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pyarrow.parquet as pq

from cp_ray.arrow import to_table
from cp_ray.cultures import of
from cp_ray.exports.card import dataset_card
from cp_ray.exports.chats import openai_lines, sharegpt_text
from cp_ray.exports.config import ALL, ExportConfig, Made
from cp_ray.exports.openai_rules import check_openai
from cp_ray.records import Example, Seed

if TYPE_CHECKING:
    from cp_ray.folder import Folder

__all__ = ["made_by", "remarks", "write_export"]

_SHOWN = 3
"""Breaches of OpenAI's rules that are told of a file."""


def write_export(
    out: "Folder", seeds: Sequence[Seed], examples: Sequence[Example], made: Made, config: ExportConfig
) -> None:
    """Write all files into `out`, a folder on any pyarrow filesystem.

    A culture without rows has no files; where there are no rows at all there is the card alone.

    Raises:
        ValueError: a training row holds a held-out question.
        ConfigError: a row speaks of a culture that the config does not have.
    """
    rows = sorted(examples, key=lambda e: (_place(e, config.seed), e.id))
    for name, own in _by_culture(rows, config).items():
        by_split: dict[str, list[Example]] = defaultdict(list)
        for example in own:
            by_split[example.split].append(example)
        for split, some in by_split.items():
            _write_parquet(out / "huggingface" / "data" / name, f"{split}.parquet", some)
        train = by_split["train"]
        if train:
            (out / "openai").write_text(f"{name}.jsonl", openai_lines(train))
            (out / "sharegpt").write_text(f"{name}.json", sharegpt_text(train))
    (out / "huggingface").write_text("README.md", dataset_card(seeds, rows, made, config))


def made_by(steps: "Mapping[str, Folder]", root: str) -> Made:
    """What the card tells: the finished steps, by name, and the models that this folder's ledger knows of them."""
    from cp_ray.llm.ledger import summary

    manifests = [m for folder in steps.values() if (m := folder.manifest())]
    configured = {str(m.config["teacher"]) for m in manifests if "teacher" in m.config}
    asked = {totals.model for totals in summary(root) if totals.step in {m.name for m in manifests}}
    return Made(tuple(manifests), tuple(sorted(configured | asked)))


def remarks(out: "Folder", config: ExportConfig) -> list[str]:
    """What is to be said of the files that `write_export` left: cultures without rows, files OpenAI would refuse."""
    texts = {c.id: (out / "openai").read_text(f"{c.id}.jsonl") for c in config.cultures}
    without = [id for id, text in texts.items() if text is None]
    if len(without) == len(texts):
        return ["there are no training rows; the card alone was written"]
    said = [f"no training row of {', '.join(without)}"] if without else []
    for name, text in {**texts, ALL: (out / "openai").read_text(f"{ALL}.jsonl")}.items():
        breaches = check_openai(text.splitlines()) if text is not None else []
        more = f" (and {len(breaches) - _SHOWN} more)" if len(breaches) > _SHOWN else ""
        if breaches:
            said.append(f"OpenAI would refuse openai/{name}.jsonl: {'; '.join(breaches[:_SHOWN])}{more}")
    return said


def _place(example: Example, seed: int) -> str:
    """Where a row stands: by its id alone, so that a culture's rows keep their order whichever others there are."""
    return hashlib.sha256(f"{seed}/{example.id}".encode()).hexdigest()


def _by_culture(rows: Sequence[Example], config: ExportConfig) -> Mapping[str, list[Example]]:
    """Rows by the name of their files; cultures without rows are left out."""
    found: dict[str, list[Example]] = {culture.id: [] for culture in config.cultures}
    for row in rows:
        found[of(config.cultures, row.culture).id].append(row)
    return {name: own for name, own in {ALL: list(rows), **found}.items() if own}


def _write_parquet(folder: "Folder", name: str, rows: Sequence[Example]) -> None:
    folder.filesystem.create_dir(folder.path, recursive=True)
    pq.write_table(to_table(rows, Example), posixpath.join(folder.path, name), filesystem=folder.filesystem)
