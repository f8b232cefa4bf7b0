# docker build -t pg_llm .                     PostgreSQL with the extension (needs POSTGRES_PASSWORD)
# docker build --target lab -t pg_llm-lab .    JupyterLab on a copy of the notebooks, in the volume
# docker compose -f binder/compose.yaml up     both, the notebooks on that server
FROM debian:bookworm-slim AS base
# tini reaps the processes of sessions that end, which PostgreSQL or JupyterLab as process 1 would not.
RUN apt-get update && apt-get install -y --no-install-recommends python3 tini && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home learner \
    # Writable for any user id: OpenShift chooses one, and so does docker run -u.
    && install -d -o learner -g learner -m 1777 /var/lib/pg_llm && chmod 1777 /home/learner
ENV PATH=/opt/pg_llm/bin:$PATH PG_LLM_HOME=/var/lib/pg_llm HOME=/home/learner LANG=C.UTF-8
WORKDIR /home/learner
VOLUME /var/lib/pg_llm
ENTRYPOINT ["tini", "--"]

FROM base AS build
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev make python3-venv
COPY . /src
RUN python3 -m venv /opt/pg_llm && pip wheel --no-cache-dir --no-deps -w /wheels /src

FROM build AS build-server
# What the server itself imports; JupyterLab, pandas and matplotlib are of the notebooks.
RUN pip install --no-cache-dir -r /src/binder/server-requirements.txt \
    && pip install --no-cache-dir --no-deps /wheels/*.whl && pip uninstall -y pip setuptools

FROM build AS build-lab
RUN pip install --no-cache-dir /wheels/*.whl

FROM base AS lab
COPY --from=build-lab /opt/pg_llm /opt/pg_llm
USER learner
EXPOSE 8888
HEALTHCHECK --start-period=60s CMD python3 -c "import urllib.request as u; u.urlopen('http://localhost:8888/api')"
CMD ["pg-llm", "lab", "--no-browser", "--ip=0.0.0.0", "--port=8888"]

FROM base AS server
COPY --from=build-server /opt/pg_llm /opt/pg_llm
USER learner
EXPOSE 5432
# SIGINT is PostgreSQL's fast shutdown; SIGTERM would wait for every client to leave.
STOPSIGNAL SIGINT
HEALTHCHECK --start-period=60s CMD ["python3", "-m", "pg_llm.server.container", "healthy"]
CMD ["python3", "-m", "pg_llm.server.container"]
