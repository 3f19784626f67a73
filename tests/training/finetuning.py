"""OpenAI's files and fine-tuning interface on loopback, with jobs that train nothing.

Every job and event that it sends is checked against the types of the `openai` package. A job goes one stage further
each time it is looked at, unless it is held. Lists come newest first, as the real ones do.
"""

import base64
import email.message
import email.parser
import json
import math
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from openai.types import FileObject
from openai.types.chat import ChatCompletion
from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent
from openai.types.fine_tuning.jobs import FineTuningJobCheckpoint

MODEL = "gpt-4o-mini-2024-07-18"
STAGES = ("validating_files", "queued", "running", "running", "succeeded")


@dataclass(slots=True)
class Fault:
    """The answer to the next call of a kind."""

    call: str
    """`METHOD path`, or a beginning of it."""
    status: int
    code: str = "as_told"
    message: str = "As\ntold."
    headers: dict[str, str] = field(default_factory=dict)
    done: bool = False
    """What was asked for is done all the same, and only the answer is lost."""


@dataclass(slots=True)
class Job:
    body: dict[str, Any]
    id: str
    created: int
    chats: int
    stage: int = 0
    ended: str | None = None
    """`cancelled`, or the code of an error."""
    events: list[dict[str, Any]] = field(default_factory=list)

    @property
    def status(self) -> str:
        if self.ended is not None:
            return "cancelled" if self.ended == "cancelled" else "failed"
        return STAGES[self.stage]

    @property
    def asked(self) -> dict[str, Any]:
        found: dict[str, Any] = self.body["method"]["supervised"]["hyperparameters"]
        return found

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """What `auto` became."""
        own = {"n_epochs": 3, "batch_size": 2, "learning_rate_multiplier": 1.8}
        return {name: own[name] if value == "auto" else value for name, value in self.asked.items()}

    @property
    def steps(self) -> int:
        told = self.hyperparameters
        return math.ceil(self.chats / int(told["batch_size"])) * int(told["n_epochs"])


class Desk:
    """The provider; tests look into it, and tell it what is to go wrong."""

    def __init__(self, key: str | None = None) -> None:
        self.key = key
        self.files: dict[str, tuple[str, bytes]] = {}
        self.jobs: dict[str, Job] = {}
        self.calls: Counter[str] = Counter()
        self.faults: list[Fault] = []
        self.held = False
        """Jobs stay where they are."""
        self.failing: tuple[str, str] | None = None
        """Code and message with which the next job fails, once its files are looked at."""
        self.encoded = True
        """Result files come in base64, as OpenAI's do."""
        self.filters = True
        """Lists are of the jobs that were asked for."""
        self.results = True
        """There are result files, and checkpoints."""

    def say(self, job: Job, message: str, data: dict[str, Any] | None = None) -> None:
        job.events.append(
            _checked(
                FineTuningJobEvent,
                object="fine_tuning.job.event",
                id=f"ftevent-{len(job.events):04d}",
                created_at=int(time.time()),
                level="info",
                message=message,
                data=data,
                type="metrics" if data else "message",
            )
        )

    def step(self, job: Job, number: int) -> None:
        loss = 2.0 / number
        data = {"step": number, "train_loss": loss, "total_steps": job.steps, "train_mean_token_accuracy": 0.5}
        if job.body.get("validation_file"):
            data |= {"valid_loss": loss + 0.5, "valid_mean_token_accuracy": 0.25}
        self.say(job, f"Step {number}/{job.steps}: training loss={loss:.2f}", data)

    def advance(self, job: Job) -> None:
        if self.held or job.ended is not None or job.status == "succeeded":
            return
        job.stage += 1
        if job.stage == 1 and self.failing is not None:
            job.ended = self.failing[0]
            self.say(job, "The job failed.")
        elif job.stage == 1:
            self.say(job, "Files validated, moving job to queued state")
        elif job.stage == 2:
            self.say(job, "Fine-tuning job started")
        elif job.stage == 3:
            for number in range(1, job.steps + 1):
                self.step(job, number)
        elif job.stage == 4:
            self.say(job, f"New fine-tuned model created: {self.model(job)}")

    def model(self, job: Job) -> str:
        return f"ft:{job.body['model']}:org:{job.body['suffix']}:{job.id[-4:]}"

    def shown(self, job: Job) -> dict[str, Any]:
        done = job.status == "succeeded"
        error = {"code": job.ended, "message": (self.failing or ("", ""))[1], "param": "training_file"}
        return _checked(
            FineTuningJob,
            object="fine_tuning.job",
            id=job.id,
            model=job.body["model"],
            created_at=job.created,
            finished_at=int(time.time()) if done else None,
            estimated_finish=int(time.time()) + 90 if job.status == "running" else None,
            fine_tuned_model=self.model(job) if done else None,
            organization_id="org-1",
            result_files=[f"file-results-{job.id}"] if done and self.results else [],
            status=job.status,
            training_file=job.body["training_file"],
            validation_file=job.body.get("validation_file"),
            hyperparameters=job.hyperparameters if job.stage > 1 else job.asked,
            trained_tokens=100 * job.steps if done else None,
            error=error if job.status == "failed" else {"code": None, "message": None, "param": None},
            seed=job.body["seed"],
            metadata=job.body.get("metadata"),
            method=job.body["method"],
        )

    def csv(self, job: Job) -> bytes:
        lines = ["step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy"]
        for event in job.events:
            if (data := event["data"]) is not None:
                valid = f"{data.get('valid_loss', '')},{data.get('valid_mean_token_accuracy', '')}"
                lines.append(f"{data['step']},{data['train_loss']:.5f},{data['train_mean_token_accuracy']},{valid}")
        text = "\n".join(lines).encode()
        return base64.b64encode(text) if self.encoded else text


def finetuning_app(desk: Desk) -> FastAPI:
    app = FastAPI()

    @app.middleware("http")
    async def guard(request: Request, go_on: Any) -> Response:
        call = f"{request.method} {request.url.path.removeprefix('/v1')}"
        desk.calls[call] += 1
        if desk.key is not None and request.headers.get("authorization") != f"Bearer {desk.key}":
            return _refuse(401, "invalid_api_key", "Incorrect API key provided.")
        fault = next((f for f in desk.faults if call.startswith(f.call)), None)
        if fault is not None:
            desk.faults.remove(fault)
        if fault is None or fault.done:
            reply: Response = await go_on(request)
        return reply if fault is None else _refuse(fault.status, fault.code, fault.message, fault.headers)

    _files(app, desk)
    _jobs(app, desk)
    app.post("/v1/chat/completions")(_chat)
    return app


async def _chat(request: Request) -> Any:
    """The option that the alphabet puts first; a model that was trained chooses the last."""
    body = await request.json()
    options = sorted(body["messages"][-1]["content"].rpartition("Options: ")[2].split("; "))
    said = options[-1 if body["model"].startswith("ft:") else 0]
    return _checked(
        ChatCompletion, id="chat", object="chat.completion", created=int(time.time()), model=body["model"],
        choices=[{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": said}}],
        usage={"prompt_tokens": 20, "completion_tokens": 4, "total_tokens": 24},
    )  # fmt: skip


def _files(app: FastAPI, desk: Desk) -> None:
    async def upload(request: Request) -> Any:
        form = _form(await request.body(), request.headers["content-type"])
        if form["purpose"] != (None, b"fine-tune"):
            return _refuse(400, "invalid_purpose", f"purpose is {form['purpose']}")
        name, content = form["file"]
        id = f"file-{len(desk.files) + 1:04d}"
        desk.files[id] = (name or "", content)
        about = {"object": "file", "purpose": "fine-tune", "status": "processed", "created_at": int(time.time())}
        return _checked(FileObject, id=id, bytes=len(content), filename=name, **about)

    async def content(id: str) -> Any:
        job = desk.jobs.get(id.removeprefix("file-results-"))
        if job is None:
            return _refuse(404, "not_found", f"No such File object: {id}")
        return Response(desk.csv(job), media_type="application/octet-stream")

    app.post("/v1/files")(upload)
    app.get("/v1/files/{id}/content")(content)


def _jobs(app: FastAPI, desk: Desk) -> None:
    async def create(request: Request) -> Any:
        body = await request.json()
        if body["model"] != MODEL:
            message = f"Model {body['model']} is not available for fine-tuning or does not exist."
            return _refuse(400, "model_not_available", message)
        for name in ("training_file", "validation_file"):
            if body.get(name) is not None and body[name] not in desk.files:
                return _refuse(400, "invalid_file", f"invalid {name}: {body[name]}")
        if body["method"]["type"] != "supervised" or not 1 <= len(body["suffix"]) <= 64:
            return _refuse(400, "invalid_value", "method or suffix")
        chats = [json.loads(line) for line in desk.files[body["training_file"]][1].splitlines()]
        id = f"ftjob-{len(desk.jobs) + 1:04d}"
        job = desk.jobs[id] = Job(body, id, int(time.time()), len(chats))
        desk.say(job, f"Created fine-tuning job: {id}")
        desk.say(job, f"Validating training file: {body['training_file']}")
        return desk.shown(job)

    async def list_all(request: Request, after: str | None = None, limit: int = 20) -> Any:
        asked = request.query_params.items() if desk.filters else ()
        wanted = {k[9:-1]: v for k, v in asked if k.startswith("metadata[")}
        found = [job for job in desk.jobs.values() if wanted.items() <= (job.body.get("metadata") or {}).items()]
        return _page([desk.shown(job) for job in found], after, limit)

    async def retrieve(id: str) -> Any:
        if id not in desk.jobs:
            return _refuse(404, "fine_tune_not_found", f"Could not find fine tune: {id}")
        desk.advance(desk.jobs[id])
        return desk.shown(desk.jobs[id])

    async def cancel(id: str) -> Any:
        job = desk.jobs[id]
        if job.status in ("succeeded", "failed", "cancelled"):
            return _refuse(400, "invalid_request", f"Job has already completed: {id}")
        job.ended = "cancelled"
        desk.say(job, "Fine-tuning job cancelled")
        return desk.shown(job)

    async def events(id: str, after: str | None = None, limit: int = 20) -> Any:
        return _page(desk.jobs[id].events, after, limit)

    async def checkpoints(id: str, after: str | None = None, limit: int = 10) -> Any:
        if not desk.results:
            return _refuse(404, "not_found", "no checkpoints here")
        job = desk.jobs[id]
        made = _checked(
            FineTuningJobCheckpoint,
            object="fine_tuning.job.checkpoint",
            id=f"ftckpt-{id}",
            created_at=job.created,
            fine_tuned_model_checkpoint=f"{desk.model(job)}:ckpt-step-{job.steps}",
            metrics={"step": job.steps, "train_loss": 0.1},
            fine_tuning_job_id=id,
            step_number=job.steps,
        )
        return _page([made], after, limit)

    app.post("/v1/fine_tuning/jobs")(create)
    app.get("/v1/fine_tuning/jobs")(list_all)
    app.get("/v1/fine_tuning/jobs/{id}")(retrieve)
    app.post("/v1/fine_tuning/jobs/{id}/cancel")(cancel)
    app.get("/v1/fine_tuning/jobs/{id}/events")(events)
    app.get("/v1/fine_tuning/jobs/{id}/checkpoints")(checkpoints)


def _page(oldest_first: list[dict[str, Any]], after: str | None, limit: int) -> dict[str, Any]:
    rows = oldest_first[::-1]
    first = next((k + 1 for k, row in enumerate(rows) if row["id"] == after), 0)
    some = rows[first : first + limit]
    return {"object": "list", "data": some, "has_more": len(rows) > first + limit}


def _checked(kind: Any, **fields: Any) -> dict[str, Any]:
    """The fields, if they are of the type; an error object of nulls stands for no error, as with OpenAI."""
    nothing = fields.get("error") == {"code": None, "message": None, "param": None}
    kind.model_validate(fields | {"error": None} if nothing else fields, strict=True)
    return fields


def _refuse(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> Response:
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    return JSONResponse({"error": error}, status, headers)


def _form(body: bytes, content_type: str) -> dict[str, tuple[str | None, bytes]]:
    """The parts of a multipart form, by name: file name, content."""
    form: email.message.Message = email.parser.BytesParser().parsebytes(
        b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + body
    )
    found = {}
    for part in form.get_payload():
        assert isinstance(part, email.message.Message)
        content = part.get_payload(decode=True)
        assert isinstance(content, bytes)
        found[str(part.get_param("name", header="content-disposition"))] = (part.get_filename(), content)
    return found
