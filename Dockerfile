# One image for one training job:
#
#   docker build -t visualtl:1.2.0 .                                  CPU
#   docker build -t visualtl:1.2.0-gpu --build-arg VARIANT=gpu .      GPUs of compute capability 5.x to 8.x, and the CPU
#   docker build -t visualtl:1.2.0-torch --build-arg VARIANT=torch .  newer GPUs too (Hopper, Blackwell), by PyTorch
#   docker run --rm -p 8888:8888 -v DATA:/data -v OUT:/out visualtl:1.2.0 python3 detect/fit_yolov3.py --config /data/job.json
#
# BASE_IMAGE      a mirror's copy of the base, the base by its digest (python@sha256:...), or another Debian with Python 3.10
#                 or 3.11 and pip
# PIP_INDEX_URL   a mirror of the package index
# MXNET           file name of your own MXNet wheel in this folder, in place of the published one

ARG BASE_IMAGE=python:3.11-slim-bookworm

# The packages, in a virtual environment without pip of its own.
FROM ${BASE_IMAGE} AS packages
ARG PIP_INDEX_URL
ARG VARIANT=cpu
ARG MXNET=
WORKDIR /build
COPY requirements.lock requirements-gpu.lock requirements-torch.lock ${MXNET:-requirements.lock} ./
# An entry of a lock is its pin and, on lines that a backslash joins to it, its hashes.
RUN set -eu; \
    case "$VARIANT" in \
        cpu) cp requirements.lock chosen.lock ;; \
        gpu) sed '/^mxnet==/,/[^\\]$/d' requirements.lock > chosen.lock; cat requirements-gpu.lock >> chosen.lock ;; \
        torch) cat requirements.lock requirements-torch.lock > chosen.lock ;; \
        *) echo "VARIANT is '$VARIANT'; it must be cpu, gpu or torch" >&2; exit 1 ;; \
    esac; \
    if [ -n "$MXNET" ]; then sed -i '/^mxnet[a-z0-9-]*==/,/[^\\]$/d' chosen.lock; fi; \
    python3 -m venv --without-pip /opt/venv; \
    python3 -m pip --python /opt/venv/bin/python install --no-cache-dir --no-deps --require-hashes -r chosen.lock; \
    if [ -n "$MXNET" ]; then \
        python3 -m pip --python /opt/venv/bin/python install --no-cache-dir --no-deps "./$(basename "$MXNET")"; \
    fi; \
    find /opt/venv/lib -type d -path '*/site-packages/*/tests' -prune -exec rm -rf {} +

FROM ${BASE_IMAGE}
LABEL org.opencontainers.image.title="VisualTL" \
      org.opencontainers.image.description="One container, one vision-training job on MXNet" \
      org.opencontainers.image.version="1.2.0" \
      org.opencontainers.image.licenses="Apache-2.0"

# libgomp1 and libquadmath0 are what MXNet needs of the system; tini is process 1: it passes signals on and buries
# processes that lost their parent. Versions are those of the base's Debian release.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends libgomp1 libquadmath0 tini \
    && rm -rf /var/lib/apt/lists/*

COPY --from=packages /opt/venv /opt/venv
# NVIDIA's libraries, where the packages have brought them, are found as those of the system are. Every user has the same
# home, so that pretrained parameters are mounted at /root/.mxnet/models whoever runs the job.
RUN find /opt/venv/lib -path '*/site-packages/nvidia/*/lib' -type d > /etc/ld.so.conf.d/visualtl.conf \
    && ldconfig \
    && mkdir -p /root/.mxnet/models \
    && chmod 755 /root /root/.mxnet \
    && chmod 1777 /root/.mxnet/models

ENV PATH=/opt/venv/bin:$PATH \
    HOME=/root \
    LANG=C.UTF-8 \
    PYTHONDONTWRITEBYTECODE=1 \
    MPLCONFIGDIR=/tmp/matplotlib \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

# The code comes last: a change of it leaves all that is above as it is.
WORKDIR /visualtl
COPY LICENSE NOTICE README.md README_zh.md ./
COPY docs docs/
COPY tests/data/blood_cells tests/data/blood_cells/
COPY configs configs/
COPY backbones backbones/
COPY common common/
COPY detect detect/
COPY classification classification/
COPY reid reid/
COPY landmark landmark/
# The examples lie at hand too: a configuration may be named without its folder, or mounted over one of them.
RUN python3 -m compileall -q --invalidation-mode unchecked-hash common detect classification reid landmark \
    && ln -s configs/detect_center_net.json configs/detect_yolov3.json configs/detect_ssd.json \
        configs/image_classification.json configs/reid.json configs/landmark.json .

EXPOSE 8888
# A job answers here from its first second on, to anybody, and says when it is stuck. A proxy that the environment names must
# not be asked.
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s --retries=3 \
    CMD ["python3", "-ISc", "from http.client import HTTPConnection as H; c = H('127.0.0.1', 8888, timeout=5); c.request('GET', '/healthz'); raise SystemExit(c.getresponse().status != 200)"]

ENTRYPOINT ["tini", "--"]
CMD ["python3", "detect/fit_yolov3.py", "--help"]
