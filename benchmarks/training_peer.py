"""LoRA training beside TRL's SFTTrainer: the same model, rows, batch, rate and passes, one after the other.

    pip install trl==1.16.0
    python -m benchmarks.training_peer --answers 1        # every row a prompt of its own
    python -m benchmarks.training_peer --answers 16       # sixteen people's answers to each question and order

Rows are survey answers as chats, the loss on the answer alone. Every client runs in a process of its own; a rate is of
the steps after the first, in tokens of the rows without padding, so that it tells how soon the same rows are done.
The loss is each finished adapter's on all rows, computed in the same way by transformers and PEFT.
Prints a table and appends a line to benchmarks/results.jsonl.
"""

import argparse
import json
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.results import append
from cp_ray.cultures import CULTURES
from cp_ray.records import Example
from cp_ray.stages.examples import ExamplesConfig, make_examples
from cp_ray.stages.seeds import SeedsConfig, make_seeds
from cp_ray.survey.read import WVS7, read_survey
from cp_ray.training.config import AdapterConfig, Placement, TrainConfig

RANK, RATE, BATCH = 16, 5e-4, 8
PEERS: dict[str, dict[str, Any]] = {
    "trl": {},
    "trl, by length": {"train_sampling_strategy": "group_by_length"},
    "trl, packed": {"packing": True, "max_length": 512, "per_device_train_batch_size": 1},
    "trl, bf16": {"bf16": True},
}


def main() -> None:
    """Run every client, print, append."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--answers", type=int, default=1, help="drawn for each question in each order of its options")
    parser.add_argument("--questions", type=int, default=40)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clients", default=";".join(["ours", *PEERS]))
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--base", default="smollm2")
    parser.add_argument("--client", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.client:
        print(json.dumps(measure(given)))
        return
    found = {}
    print(f"{'':16}{'rows/s':>8}{'tokens/s':>10}{'GiB':>7}{'loss':>9}")
    for client in given.clients.split(";"):
        line = found[client] = _in_a_process(client)
        print(f"{client:16}{line['rows_per_s']:8.2f}{line['tokens_per_s']:10.0f}{line['gib']:7.2f}"
              f"{line['loss']:9.4f}", flush=True)  # fmt: skip
    peers = [line["tokens_per_s"] for name, line in found.items() if name != "ours"]
    ratio = found["ours"]["tokens_per_s"] / max(peers) if "ours" in found and peers else None
    if ratio is not None:
        print(f"ours is {ratio:.2f} times as fast as the fastest of its settings (target: 3)")
    append("training_peer", {"settings": {k: v for k, v in vars(given).items() if k != "client"}, "clients": found,
                             "ratio": ratio and round(ratio, 3)})  # fmt: skip


def measure(given: argparse.Namespace) -> dict[str, float]:
    """One client: rows/s, tokens/s, peak memory, final loss."""
    import torch

    torch.set_num_threads(given.threads)
    rows = _rows(given)
    with tempfile.TemporaryDirectory() as out:
        train = _ours if given.client == "ours" else _trl
        share, seconds = train(given, rows, out)
        # Before the loss is computed, which is not a part of training.
        peak = (
            torch.cuda.max_memory_allocated()
            if given.gpu
            else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        )
        tokens, loss = _judged(given, rows, out)
    return {
        "rows_per_s": round(share * len(rows) / seconds, 3),
        "tokens_per_s": round(share * tokens / seconds, 1),
        "gib": round(peak / 2**30, 3),
        "loss": round(loss, 5),
    }


def _rows(given: argparse.Namespace) -> list[Example]:
    survey, culture = read_survey(), (CULTURES["german"],)
    config = SeedsConfig(culture, survey.content, survey.source, questions=given.questions)
    return make_examples(make_seeds(config, survey.items), (), ExamplesConfig(culture, answers=2 * given.answers))


def _ours(given: argparse.Namespace, rows: Sequence[Example], out: str) -> tuple[float, float]:
    """The share of the rows that was timed, and the seconds it took."""
    import torch.distributed as dist

    from cp_ray.folder import open_folder
    from cp_ray.llm.embedded import load_tokenizer
    from cp_ray.training.data import make_data
    from cp_ray.training.loop import Trainer
    from cp_ray.training.save import save_adapter

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(probe.getsockname()[1]))
    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0")
    dist.init_process_group("nccl" if given.gpu else "gloo")
    # As many optimiser steps as TRL makes: a batch is so many prompts, with all of their answers.
    adapter = AdapterConfig("german", (CULTURES["german"],), RATE, passes=1, batch_size=BATCH)
    config = TrainConfig(given.base, (adapter,), WVS7, rank=RANK, alpha=2 * RANK)
    data = make_data(rows, config, load_tokenizer(given.base))
    trainer = Trainer(config, Placement(1, given.gpu, zero_stage=0, offload="none"), data, None)
    times = [time.perf_counter()]
    trainer.run(lambda told: times.append(time.perf_counter()), lambda state: None)
    assert trainer.learner.adapters is not None
    weights = trainer.weights()["german"]
    save_adapter(open_folder(out), trainer.learner.adapters, config, adapter, weights, trainer.state.points,
                 data.learnt(config, "german"))  # fmt: skip
    return (len(times) - 2) / (len(times) - 1), times[-1] - times[1]


def _trl(given: argparse.Namespace, rows: Sequence[Example], out: str) -> tuple[float, float]:
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from cp_ray.llm.embedded import load_base

    model, tokenizer = load_base(given.base, device="cuda" if given.gpu else "cpu")
    chats = [[{"role": m.role, "content": m.content} for m in row.messages] for row in rows]
    data = Dataset.from_list([{"prompt": chat[:-1], "completion": chat[-1:]} for chat in chats])
    times: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            times.append(time.perf_counter())

    settings = {"bf16": given.gpu, "gradient_checkpointing": False, "per_device_train_batch_size": BATCH}
    settings |= PEERS[given.client]
    arguments = SFTConfig(
        output_dir=out, num_train_epochs=1,
        gradient_accumulation_steps=given.answers,
        learning_rate=RATE, warmup_steps=0.1, report_to="none", use_cpu=not given.gpu, save_strategy="no",
        disable_tqdm=True, dataloader_pin_memory=given.gpu, **settings,
    )  # fmt: skip
    lora = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear")
    trainer = SFTTrainer(
        model, args=arguments, train_dataset=data, processing_class=tokenizer, peft_config=lora, callbacks=[Clock()]
    )
    trainer.train()
    trainer.save_model(out)
    return (len(times) - 1) / len(times), times[-1] - times[0]


def _judged(given: argparse.Namespace, rows: Sequence[Example], out: str) -> tuple[int, float]:
    """Tokens of all rows, and the adapter's mean loss a token of the answers."""
    import torch
    from peft import PeftModel

    from cp_ray.chat import encode_answers
    from cp_ray.llm.embedded import load_base

    model, tokenizer = load_base(given.base, device="cuda" if given.gpu else "cpu")
    adapted: Any = PeftModel.from_pretrained(model, out).eval()
    total, loss, labels = 0, 0.0, 0
    known: dict[tuple[int, ...], float] = {}
    with torch.inference_mode():
        for row in rows:
            prompt, (answer,) = encode_answers(tokenizer, row.messages[:-1], [row.messages[-1].content])
            ids = (*prompt, *answer)
            total, labels = total + len(ids), labels + len(answer)
            if ids not in known:
                given_ids = torch.tensor([ids], device=adapted.device)
                logits = adapted(input_ids=given_ids[:, :-1]).logits[0, len(prompt) - 1 :].float()
                known[ids] = float(
                    torch.nn.functional.cross_entropy(logits, given_ids[0, len(prompt) :], reduction="sum")
                )
            loss += known[ids]
    return total, loss / labels


def _in_a_process(client: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.training_peer", *sys.argv[1:], "--client", client]
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    found: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
