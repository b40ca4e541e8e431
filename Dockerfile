# docker build -t alibi_lm .
# mkdir -p outputs
# docker run --rm --user "$(id -u):$(id -g)" -v "$PWD/outputs:/app/outputs" alibi_lm
#
# Python 3.11 to 3.13 work: --build-arg PYTHON=3.13
ARG PYTHON=3.11
FROM python:${PYTHON}-slim

# A compiler, for compile=true and for attention on a GPU; everything else comes as wheels.
RUN apt-get update -q \
 && apt-get install -y -q --no-install-recommends g++ \
 && rm -rf /var/lib/apt/lists/*

WORKDIR /app

# Dependencies alone: this layer changes when they do. The pinned torch runs on CPUs and NVIDIA GPUs;
# a smaller one for CPUs alone comes from another index: --build-arg PIP_EXTRA_INDEX_URL=...
ARG PIP_EXTRA_INDEX_URL
COPY requirements.txt ./
RUN python -m pip install --no-cache-dir -r requirements.txt

COPY pyproject.toml README.md LICENSE ./
COPY alibi_lm alibi_lm
COPY hydra_plugins hydra_plugins
COPY configs configs
COPY scripts scripts
COPY experiments/paper experiments/paper
COPY experiments/published experiments/published
RUN python -m pip install --no-cache-dir --no-deps -e .

# Results and token files lie in a volume that any user may write: docker run --user works, too.
RUN useradd --create-home alibi && install -d -m 1777 outputs
USER alibi
VOLUME /app/outputs
ENV PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    HF_HOME=/app/outputs/cache/huggingface

# The commit that rows name; there is no git in the image: --build-arg COMMIT=$(git rev-parse HEAD)
ARG COMMIT
ENV ALIBI_LM_COMMIT=${COMMIT}

# Any script with any settings: docker run alibi_lm scripts/train.py position=t5
ENTRYPOINT ["python"]
CMD ["scripts/sweep.py", "experiment=quickstart"]
