# syntax=docker/dockerfile:1

# Two images from one file:
#   docker build -t flowcat-server .                        listens, thinks and speaks by itself
#   docker build -t flowcat-server:base --target base .     hosted providers only, without models
# Every version is pinned by requirements-dev.lock; nothing is compiled.

ARG PYTHON_VERSION=3.12

# --- the wheel ---------------------------------------------------------------------------------
FROM python:${PYTHON_VERSION}-slim AS wheel
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY web web
COPY configs configs
COPY flowcat_server flowcat_server
RUN pip wheel --no-deps --wheel-dir /dist .

# --- what each image needs ---------------------------------------------------------------------
FROM python:${PYTHON_VERSION}-slim AS base-packages
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /venv
COPY requirements-dev.lock /src/
COPY --from=wheel /dist /dist
RUN /venv/bin/pip install --only-binary :all: --constraint /src/requirements-dev.lock \
    "flowcat-server[postgres] @ file://$(ls /dist/*.whl)"

FROM base-packages AS local-packages
RUN /venv/bin/pip install --only-binary :all: --constraint /src/requirements-dev.lock \
    "flowcat-server[local,postgres] @ file://$(ls /dist/*.whl)"

# --- what every image is -----------------------------------------------------------------------
FROM python:${PYTHON_VERSION}-slim AS runtime
LABEL org.opencontainers.image.title="flowcat-server" \
      org.opencontainers.image.description="Self-hosted voice-agent server" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --system --uid 10001 --create-home --home-dir /agent flowcat \
 && install -d -o flowcat -g flowcat -m 0700 /calls
ENV PATH=/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    ORT_DISABLE_TELEMETRY=1 \
    FLOWCAT__RECORDS__DIR=/calls
# An agent.yaml here is run; without one, the bundled demo agent.
WORKDIR /agent
USER 10001
VOLUME /calls
# The page, the API, webhooks and media sockets; then browsers' audio (webrtc.port_range).
EXPOSE 6210/tcp 10000-10100/udp
# The first signal lets live calls finish; give them time: docker stop --time 600.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
  CMD ["python", "-c", "import sys, urllib.request as u; sys.exit(u.urlopen('http://127.0.0.1:6210/healthz', timeout=2).status != 200)"]
ENTRYPOINT ["flowcat-server"]
CMD ["run"]

FROM runtime AS base
COPY --from=base-packages /venv /venv

FROM runtime AS local
COPY --from=local-packages /venv /venv
