# docker build -t pg_llm .                     PostgreSQL with the extension (needs POSTGRES_PASSWORD)
# docker build --target lab -t pg_llm-lab .    JupyterLab on a copy of the notebooks, in the volume
FROM debian:bookworm-slim AS base
RUN apt-get update && apt-get install -y --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*

FROM base AS build
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev make
COPY . /src
RUN python3 -m venv /opt/pg_llm && /opt/pg_llm/bin/pip install --no-cache-dir /src

FROM base AS runtime
COPY --from=build /opt/pg_llm /opt/pg_llm
RUN useradd --create-home learner && install -d -o learner -g learner /var/lib/pg_llm
ENV PATH=/opt/pg_llm/bin:$PATH PG_LLM_HOME=/var/lib/pg_llm LANG=C.UTF-8
USER learner
WORKDIR /home/learner
VOLUME /var/lib/pg_llm

FROM runtime AS lab
EXPOSE 8888
CMD ["pg-llm", "lab", "--no-browser", "--ip=0.0.0.0", "--port=8888"]

FROM runtime AS server
EXPOSE 5432
# SIGINT is PostgreSQL's fast shutdown; SIGTERM would wait for every client to leave.
STOPSIGNAL SIGINT
ENTRYPOINT ["python", "-m", "pg_llm.server.container"]
