# One image for every party; the command says which. `docker compose build`, or `docker build -t glsnet .`
#
#   BASE           any image with Python 3.11 or newer and pip, a digest for instance
#   UID            of the user that everything runs as; ./results has to be writable for it
#   PIP_INDEX_URL  a package index of your own

ARG BASE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE} AS build
ARG PIP_INDEX_URL=
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/glsnet
ENV PATH=/opt/glsnet/bin:$PATH
WORKDIR /source
COPY pyproject.toml constraints.txt ./
RUN python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"], sep="\n")' \
      > dependencies.txt && pip install -q -c constraints.txt -r dependencies.txt
COPY README.md LICENSE ./
COPY scenarios scenarios
COPY shared shared
COPY encoder_service encoder_service
COPY decoder_service decoder_service
RUN pip install -q -c constraints.txt --no-deps .
# The kernels are compiled here, not in each container at each start.
ENV NUMBA_CACHE_DIR=/opt/glsnet/kernels
RUN glsnet run gaussian --set transport=direct --set samples=200 --json > /dev/null && \
    glsnet run images --set transport=direct --set samples=64 --json > /dev/null && \
    glsnet generate --prompt a --max-tokens 8 --json > /dev/null

FROM ${BASE}
ARG UID=1000
COPY --from=build /opt/glsnet /opt/glsnet
COPY --chmod=755 deploy/entrypoint /usr/local/bin/glsnet-entrypoint
ENV PATH=/opt/glsnet/bin:$PATH \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp MPLCONFIGDIR=/tmp/matplotlib NUMBA_CACHE_DIR=/tmp/kernels
# Where volumes go: a new one has the owner of the folder that it covers.
RUN for folder in /tls /journal /results /certificates /certificates/lab /certificates/encoder /certificates/decoder \
      /certificates/decoder-0 /certificates/decoder-1 /certificates/decoder-2 /certificates/decoder-3 \
      /certificates/target /certificates/draft-0 /certificates/draft-1 /certificates/client /certificates/broker \
      /certificates/prometheus; do install -d -m 700 -o ${UID} -g 0 $folder; done
USER ${UID}
WORKDIR /tmp
ENTRYPOINT ["glsnet-entrypoint"]
CMD ["glsnet", "--help"]
