-- The exact mirror of an MLflow store, and what was seen to change in it.
-- Child tables carry no primary key: DuckDB checks keys eagerly, so rewriting a run inside one transaction would
-- collide with its own deleted rows, and the index would cost more than the copy. `hwbench verify --store` checks them.
CREATE SCHEMA mlflow;

CREATE TABLE mlflow.experiments (
    experiment_id     BIGINT PRIMARY KEY,
    name              VARCHAR NOT NULL,
    artifact_location VARCHAR,
    lifecycle_stage   VARCHAR,
    creation_time     BIGINT,
    last_update_time  BIGINT,
    workspace         VARCHAR
);

CREATE TABLE mlflow.experiment_tags (
    experiment_id BIGINT NOT NULL,
    key           VARCHAR NOT NULL,
    value         VARCHAR
);

CREATE TABLE mlflow.runs (
    run_uuid         VARCHAR PRIMARY KEY,
    name             VARCHAR,
    source_type      VARCHAR,
    source_name      VARCHAR,
    entry_point_name VARCHAR,
    user_id          VARCHAR,
    status           VARCHAR,
    start_time       BIGINT,
    end_time         BIGINT,
    source_version   VARCHAR,
    lifecycle_stage  VARCHAR,
    artifact_uri     VARCHAR,
    experiment_id    BIGINT,
    deleted_time     BIGINT
);

CREATE TABLE mlflow.tags (
    run_uuid VARCHAR NOT NULL,
    key      VARCHAR NOT NULL,
    value    VARCHAR
);

CREATE TABLE mlflow.params (
    run_uuid VARCHAR NOT NULL,
    key      VARCHAR NOT NULL,
    value    VARCHAR NOT NULL
);

-- MLflow stores NaN as 0 with a flag; here `value` is the NaN itself and the flag is kept beside it.
CREATE TABLE mlflow.latest_metrics (
    run_uuid  VARCHAR NOT NULL,
    key       VARCHAR NOT NULL,
    value     DOUBLE NOT NULL,
    timestamp BIGINT,
    step      BIGINT NOT NULL,
    is_nan    BOOLEAN NOT NULL
);

CREATE TABLE mlflow.metric_history (
    run_uuid  VARCHAR NOT NULL,
    key       VARCHAR NOT NULL,
    value     DOUBLE NOT NULL,
    timestamp BIGINT NOT NULL,
    step      BIGINT NOT NULL,
    is_nan    BOOLEAN NOT NULL
);

-- A run's fingerprint: for each table the sum over its rows of a 64-bit hash. Written last in a run's transaction.
-- `engine` names the hash (DuckDB's differs between versions): another engine's fingerprint compares as unknown.
CREATE TABLE mlflow.run_state (
    run_uuid    VARCHAR PRIMARY KEY,
    fp_run      HUGEINT NOT NULL,
    fp_tags     HUGEINT NOT NULL,
    fp_params   HUGEINT NOT NULL,
    fp_latest   HUGEINT NOT NULL,
    fp_history  HUGEINT NOT NULL,
    engine      VARCHAR NOT NULL
);

CREATE TABLE mlflow.run_events (
    sync_id       BIGINT NOT NULL,
    run_uuid      VARCHAR,
    experiment_id BIGINT,
    kind          VARCHAR NOT NULL,
    key           VARCHAR,
    old_value     VARCHAR,
    new_value     VARCHAR,
    observed_at   TIMESTAMP NOT NULL
);

-- finished_at NULL: a sync that is running, or that was killed.
CREATE TABLE mlflow.sync_log (
    sync_id            BIGINT PRIMARY KEY,
    started_at         TIMESTAMP NOT NULL,
    finished_at        TIMESTAMP,
    store              VARCHAR NOT NULL,
    reader             VARCHAR NOT NULL,
    mode               VARCHAR NOT NULL,
    scope              VARCHAR NOT NULL,
    runs_seen          BIGINT,
    runs_added         BIGINT,
    runs_changed       BIGINT,
    runs_removed       BIGINT,
    events             BIGINT,
    hwbench_version    VARCHAR NOT NULL
);

-- What a reader needs to answer "unchanged" or to read less next time; one row a scope ('' = every experiment).
CREATE TABLE mlflow.sync_state (
    scope     VARCHAR PRIMARY KEY,
    store     VARCHAR NOT NULL,
    state     VARCHAR NOT NULL
);

CREATE TABLE mlflow.refused_runs (
    run_uuid VARCHAR PRIMARY KEY,
    reason   VARCHAR NOT NULL
);
