# The gateway as an image:
#
#   docker build --tag startflow-gateway .
#
# Without [tls] and [[clients]] the gateway refuses to listen wider than loopback, and a published port would reach
# nothing. Configure both and `listen = "0.0.0.0:50051"` (docs/security.md), then `--publish 50051:50051` will do. Or give
# it the network of whoever calls it: the host's, or (`--network container:NAME`, or one pod) that of a proxy that
# authenticates. `docker kill --signal HUP NAME` has it read clients and certificate anew.
#
#   docker run --network host --read-only --cap-drop ALL --stop-timeout 60 \
#     --volume startflow:/var/lib/startflow \
#     --volume ./startflow.toml:/etc/startflow/startflow.toml:ro \
#     startflow-gateway
#
# Without accounts: docker run --network host --read-only --no-healthcheck startflow-gateway serve --sandbox
#
# Nothing is written but the store, in /var/lib/startflow/var unless `store` says otherwise; a directory of the host
# that is mounted there must belong to 10001. On SIGTERM the gateway waits for sends in flight, at most a backend's
# `timeout` (35s), and ends at most 16s after that. Killed earlier it loses nothing, but a send that was cut off stays
# UNCERTAIN until the next process has looked for it.

ARG PYTHON_IMAGE=python:3.11-slim

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY pyproject.toml ./
# The dependencies first: this layer stays until pyproject.toml changes.
RUN python -c 'import tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
        print(*project["dependencies"], *project["optional-dependencies"]["postgres"], sep="\n")' > /requirements.txt \
    && python -m venv --without-pip /opt/startflow \
    && python -m pip --python /opt/startflow/bin/python install --no-compile --requirement /requirements.txt
COPY README.md LICENSE ./
COPY protos protos
COPY generated generated
COPY gateway gateway
# Bytecode is made here, once, since nothing can write it later; it is not compared with its source again.
RUN python -m pip wheel --no-deps --wheel-dir /wheels . \
    && python -m pip --python /opt/startflow/bin/python install --no-compile --no-deps /wheels/*.whl \
    && /opt/startflow/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/startflow/lib

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="startflow-gateway" \
      org.opencontainers.image.description="One gRPC service that starts flows on RapidPro and Twilio Studio, once each, and streams what becomes of them" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --gid 10001 startflow \
    && useradd --uid 10001 --gid startflow --no-create-home --home-dir /var/lib/startflow --shell /usr/sbin/nologin startflow \
    && install --directory --owner=startflow --group=startflow --mode=0700 /var/lib/startflow
COPY --from=build /opt/startflow /opt/startflow
ENV PATH="/opt/startflow/bin:$PATH" PYTHONDONTWRITEBYTECODE=1
# Not STARTFLOW_STORE: it would win over the file, and put simulated starts among real ones.
WORKDIR /var/lib/startflow
VOLUME /var/lib/startflow
USER 10001:10001
STOPSIGNAL SIGTERM
# The same file as the gateway's own, as it tells where to ask.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["startflow", "check", "--live", "--config", "/etc/startflow/startflow.toml"]
ENTRYPOINT ["startflow"]
CMD ["serve", "--config", "/etc/startflow/startflow.toml"]
