-- Results, made from the evidence of mirrored runs. Nothing here is taken from a tag: every number and every name comes
-- from a signed file that was read and judged again. No foreign keys (they block updates of lists): the gate looks for
-- orphans. Tables with several rows a run carry no primary key, for the reason given in 0001.

-- Every run that hwbench made, and what became of its evidence. `fingerprint` and `judge` say which state of the run and
-- which keys and rules the rows below belong to: where they are not the mirror's, the run is judged again.
CREATE TABLE benchmark_runs (
    run_id           VARCHAR PRIMARY KEY,
    role             VARCHAR NOT NULL CHECK (role IN ('result', 'devices', 'failure', 'parent', 'unknown')),
    evidence         VARCHAR NOT NULL CHECK (evidence IN (
                         'read',           -- read and judged; a result has its row in performance_results
                         'missing',        -- the store has no hwbench/result.json (devices.json, failure.json)
                         'corrupt',        -- bytes that hwbench does not write
                         'refused',        -- well-formed, but breaks a rule of these tables
                         'other_version',  -- of an older or newer hwbench: never a result
                         'unreachable',    -- could not be fetched; tried again at every sync
                         'deleted',        -- the run is deleted in MLflow; its results are back when it is restored
                         'none')),         -- this role has none
    verdict          VARCHAR CHECK (verdict IN ('verified', 'unverified', 'simulated', 'contradicted')),
    reasons          VARCHAR[] NOT NULL,
    hardware_type    VARCHAR,   -- of a failure: what was asked for
    model_name       VARCHAR,
    failure_category VARCHAR,
    failure_reason   VARCHAR,
    failure_remedy   VARCHAR,
    fingerprint      VARCHAR NOT NULL,
    judge            VARCHAR NOT NULL,
    CHECK (role <> 'result' OR evidence IN ('other_version', 'deleted') OR verdict IS NOT NULL),
    CHECK (verdict IS NULL OR verdict = 'verified' OR len(reasons) > 0),
    CHECK (verdict IS NULL OR verdict = 'unverified' OR evidence IN ('read', 'corrupt', 'refused'))
);

-- The files as they were fetched: a verdict can be computed again from this file alone.
CREATE TABLE evidence_files (
    run_id     VARCHAR NOT NULL,
    name       VARCHAR NOT NULL,
    sha256     VARCHAR NOT NULL CHECK (len(sha256) = 64),
    size_bytes BIGINT NOT NULL,
    content    BLOB NOT NULL
);

-- model_id and hardware_id are digests of the rest of their row: the same thing has the same id in every warehouse.
CREATE TABLE models (
    model_id        VARCHAR PRIMARY KEY,
    model_name      VARCHAR NOT NULL,
    architecture    VARCHAR NOT NULL,
    task            VARCHAR NOT NULL,
    source          VARCHAR NOT NULL,
    config_sha256   VARCHAR NOT NULL,
    parameter_count BIGINT NOT NULL CHECK (parameter_count >= 0)
);

CREATE TABLE hardware_platforms (
    hardware_id      VARCHAR PRIMARY KEY,
    hardware_type    VARCHAR NOT NULL CHECK (
                         hardware_type IN ('cpu', 'cuda', 'rocm', 'mps', 'openvino', 'qnn', 'webnn', 'webgpu')),
    device_id        VARCHAR NOT NULL,
    device_name      VARCHAR NOT NULL,
    vendor           VARCHAR,
    device_uuid      VARCHAR,
    pci_id           VARCHAR,
    memory_bytes     BIGINT CHECK (memory_bytes > 0),
    emulation_reason VARCHAR,
    host_id          VARCHAR NOT NULL
);

-- Every probe that a run tells of, a row a device (one row without a device where it found none). Append-only: what a
-- probe found stays true of its moment, whatever becomes of the run.
CREATE TABLE hardware_availability_log (
    run_id           VARCHAR NOT NULL,
    probe_id         VARCHAR NOT NULL,
    hardware_type    VARCHAR NOT NULL,
    device_index     INTEGER NOT NULL,
    source           VARCHAR NOT NULL CHECK (source IN ('result', 'devices', 'failure')),
    status           VARCHAR NOT NULL CHECK (status IN (
                         'AVAILABLE', 'NOT_INSTALLED', 'NO_DRIVER', 'NO_DEVICE', 'UNSUPPORTED_HOST', 'PROBE_FAILED')),
    reason           VARCHAR NOT NULL,
    remedy           VARCHAR,
    is_verified      BOOLEAN NOT NULL,  -- an operation ran on this device in this probe, and its output was right
    device_id        VARCHAR,
    device_name      VARCHAR,
    vendor           VARCHAR,
    device_uuid      VARCHAR,
    driver           VARCHAR,
    emulation_reason VARCHAR,
    check_operation  VARCHAR,
    check_reason     VARCHAR,
    max_abs_error    DOUBLE,
    probed_at        TIMESTAMP,         -- UTC
    duration_ms      DOUBLE CHECK (duration_ms >= 0),
    boot_id          VARCHAR,
    host_id          VARCHAR,
    hostname         VARCHAR,
    PRIMARY KEY (run_id, hardware_type, probe_id, device_index),
    CHECK (NOT is_verified OR (status = 'AVAILABLE' AND device_id IS NOT NULL))
);

-- One row a run whose result.json could be read. Unknown is NULL. Times are UTC.
CREATE TABLE performance_results (
    run_id                     VARCHAR PRIMARY KEY,
    result_id                  VARCHAR NOT NULL,
    experiment_id              BIGINT NOT NULL,
    run_status                 VARCHAR NOT NULL,
    model_id                   VARCHAR NOT NULL,
    hardware_id                VARCHAR NOT NULL,
    created_at                 TIMESTAMP NOT NULL,   -- when the measurement ended
    started_at                 TIMESTAMP NOT NULL,

    verdict                    VARCHAR NOT NULL CHECK (verdict IN ('verified', 'unverified', 'simulated', 'contradicted')),
    reasons                    VARCHAR[] NOT NULL,
    is_simulated               BOOLEAN NOT NULL,
    simulation_reason          VARCHAR,

    -- the availability that it rests on: hardware_availability_log has the same run_id and probe_id
    probe_id                   VARCHAR NOT NULL,
    availability_status        VARCHAR NOT NULL,
    availability_verified      BOOLEAN NOT NULL,     -- of this very device
    probed_at                  TIMESTAMP,
    probe_boot_id              VARCHAR,

    platform                   VARCHAR NOT NULL CHECK (
                                   platform IN ('cpu', 'cuda', 'rocm', 'mps', 'openvino', 'qnn', 'webnn', 'webgpu')),
    requested_device           VARCHAR,              -- NULL: the platform's first
    device_id                  VARCHAR NOT NULL,
    device_name                VARCHAR NOT NULL,
    device_uuid                VARCHAR,
    device_driver              VARCHAR,
    observed_device            VARCHAR,              -- what the workers' sessions were granted; 'a, b' if they differ
    observed_identity          VARCHAR,              -- what the device's own library said of the one that worked
    execution_devices          VARCHAR,              -- what the compiled model said it ran on
    requested_precision        VARCHAR NOT NULL,
    effective_precision        VARCHAR NOT NULL,
    batch_size                 BIGINT NOT NULL CHECK (batch_size > 0),
    sequence_length            BIGINT CHECK (sequence_length > 0),
    image_size                 BIGINT CHECK (image_size > 0),
    scenario                   VARCHAR NOT NULL CHECK (scenario IN ('latency', 'offline')),
    profile                    VARCHAR NOT NULL,
    ranked                     BOOLEAN NOT NULL,
    compile_mode               VARCHAR NOT NULL,
    threads                    BIGINT CHECK (threads > 0),
    backend                    VARCHAR NOT NULL,
    weights                    VARCHAR NOT NULL CHECK (weights IN ('pretrained', 'random')),
    weights_sha256             VARCHAR NOT NULL,
    weights_seed               BIGINT NOT NULL,

    -- the metrics of metrics.py, under their names; latencies are NULL where overlapped inferences have none
    latency_ms_p50             DOUBLE CHECK (latency_ms_p50 > 0),
    latency_ms_p90             DOUBLE CHECK (latency_ms_p90 > 0),
    latency_ms_p95             DOUBLE CHECK (latency_ms_p95 > 0),
    latency_ms_p99             DOUBLE CHECK (latency_ms_p99 > 0),
    latency_ms_mean            DOUBLE CHECK (latency_ms_mean > 0),
    latency_ms_min             DOUBLE CHECK (latency_ms_min > 0),
    latency_ms_max             DOUBLE CHECK (latency_ms_max > 0),
    latency_ms_stdev           DOUBLE CHECK (latency_ms_stdev >= 0),
    latency_ms_iqr             DOUBLE CHECK (latency_ms_iqr >= 0),
    latency_ms_p50_ci95_low    DOUBLE CHECK (latency_ms_p50_ci95_low > 0),
    latency_ms_p50_ci95_high   DOUBLE CHECK (latency_ms_p50_ci95_high > 0),
    throughput_items_per_s     DOUBLE NOT NULL CHECK (throughput_items_per_s > 0),
    import_ms                  DOUBLE CHECK (import_ms >= 0),
    load_ms                    DOUBLE CHECK (load_ms >= 0),
    compile_ms                 DOUBLE CHECK (compile_ms >= 0),
    first_inference_ms         DOUBLE CHECK (first_inference_ms >= 0),
    memory_peak_mb             DOUBLE CHECK (memory_peak_mb >= 0),
    device_memory_peak_mb      DOUBLE CHECK (device_memory_peak_mb >= 0),
    energy_j                   DOUBLE CHECK (energy_j >= 0),
    energy_j_per_item          DOUBLE CHECK (energy_j_per_item >= 0),
    power_w_mean               DOUBLE CHECK (power_w_mean >= 0),
    energy_method              VARCHAR CHECK (energy_method IN ('counter', 'integrated', 'estimated')),
    energy_scope               VARCHAR,
    sample_count               BIGINT NOT NULL CHECK (sample_count > 0),
    warmup_count               BIGINT CHECK (warmup_count >= 0),
    worker_count               BIGINT NOT NULL CHECK (worker_count > 0),
    parameter_count            BIGINT,
    flops_per_item_g           DOUBLE,
    bytes_per_item_gb          DOUBLE,
    achieved_tflops            DOUBLE,
    calibrated_tflops          DOUBLE,
    calibration_source         VARCHAR,
    roofline_fraction          DOUBLE,
    cpu_time_fraction          DOUBLE,
    scaling_growth             DOUBLE,
    kernel_count               BIGINT,
    steal_fraction             DOUBLE,
    foreign_cpu_fraction       DOUBLE,
    involuntary_switch_count   BIGINT,
    throttle_event_count       BIGINT,
    load_before                DOUBLE,
    load_after                 DOUBLE,
    stable                     BOOLEAN NOT NULL,
    noise_reasons              VARCHAR[] NOT NULL,
    warnings                   VARCHAR[] NOT NULL,

    host_id                    VARCHAR NOT NULL,
    hostname                   VARCHAR NOT NULL,
    os                         VARCHAR NOT NULL,
    kernel                     VARCHAR NOT NULL,
    machine                    VARCHAR NOT NULL,
    cpu_name                   VARCHAR NOT NULL,
    cpu_count_logical          BIGINT,
    host_memory_bytes          BIGINT,
    boot_id                    VARCHAR,
    virtualization             VARCHAR,
    python                     VARCHAR NOT NULL,
    packages                   MAP(VARCHAR, VARCHAR) NOT NULL,
    git_commit                 VARCHAR,
    git_dirty                  BOOLEAN,
    hwbench_version            VARCHAR NOT NULL,
    result_schema_version      BIGINT NOT NULL,

    signature_state            VARCHAR CHECK (signature_state IN ('trusted', 'untrusted', 'revoked', 'invalid', 'corrupt')),
    key_id                     VARCHAR,              -- the key that the signature names; trusted only if the state says so
    key_name                   VARCHAR,
    result_sha256              VARCHAR NOT NULL CHECK (len(result_sha256) = 64),
    samples_sha256             VARCHAR CHECK (len(samples_sha256) = 64),
    attestation_sha256         VARCHAR CHECK (len(attestation_sha256) = 64),
    binding_sha256             VARCHAR CHECK (len(binding_sha256) = 64),

    CHECK (is_simulated = (simulation_reason IS NOT NULL)),
    CHECK (simulation_reason <> ''),
    CHECK (NOT (is_simulated AND verdict = 'verified')),
    CHECK (verdict <> 'simulated' OR is_simulated),
    CHECK (verdict = 'verified' OR len(reasons) > 0),
    -- IS NOT DISTINCT FROM: a CHECK that comes to NULL lets the row in
    CHECK (verdict <> 'verified' OR (
        signature_state IS NOT DISTINCT FROM 'trusted' AND key_id IS NOT NULL AND availability_verified AND run_status = 'FINISHED'
        AND samples_sha256 IS NOT NULL AND attestation_sha256 IS NOT NULL AND binding_sha256 IS NOT NULL)),
    CHECK (created_at >= started_at),
    CHECK ((energy_j IS NULL) = (energy_method IS NULL))
);

-- The raw samples. latency_ms is of one inference, and NULL where several overlapped in one sample.
CREATE TABLE latency_samples (
    run_id          VARCHAR NOT NULL,
    worker          INTEGER NOT NULL,
    phase           VARCHAR NOT NULL CHECK (phase IN ('warmup', 'timed')),
    sample          INTEGER NOT NULL,
    sample_ns       BIGINT NOT NULL,
    runs_per_sample BIGINT,   -- NULL: result.json names no such worker
    latency_ms      DOUBLE
);

CREATE TABLE verdict_findings (
    run_id   VARCHAR NOT NULL,
    position INTEGER NOT NULL,
    rule     VARCHAR NOT NULL,
    effect   VARCHAR NOT NULL CHECK (effect IN ('unverified', 'simulated', 'contradicted')),
    reason   VARCHAR NOT NULL
);

-- What the gate found: a row a rule, and a row for each run that a rule refused. Written by the gate, never by a sync.
CREATE TABLE gate_results (
    gate_id         VARCHAR NOT NULL,
    position        INTEGER NOT NULL,
    gated_at        TIMESTAMP NOT NULL,
    suite           VARCHAR NOT NULL,
    suite_sha256    VARCHAR,
    table_name      VARCHAR NOT NULL,
    rule            VARCHAR NOT NULL,
    kind            VARCHAR NOT NULL CHECK (kind IN ('row', 'table')),
    passed          BOOLEAN NOT NULL,
    evaluated       BIGINT,
    unexpected      BIGINT,
    run_id          VARCHAR,
    observed        VARCHAR,
    reason          VARCHAR,
    hwbench_version VARCHAR NOT NULL,
    PRIMARY KEY (gate_id, position),
    CHECK (passed OR reason IS NOT NULL)
);

-- Runs deleted in MLflow have no row in performance_results: no view needs to leave them out.
CREATE VIEW verified_results AS FROM performance_results WHERE verdict = 'verified' AND NOT is_simulated;
CREATE VIEW simulated_results AS FROM performance_results WHERE verdict = 'simulated';
-- Contradicted ones too: everything that is neither verified nor said to be simulated.
CREATE VIEW unverified_results AS FROM performance_results WHERE verdict NOT IN ('verified', 'simulated');

-- The newest verified result of each configuration: the same model and weights' kind on the same device, run alike.
CREATE VIEW latest_results AS
    FROM verified_results
    QUALIFY row_number() OVER (
        PARTITION BY model_id, hardware_id, batch_size, sequence_length, image_size, effective_precision, scenario,
                     compile_mode, profile, weights, threads
        ORDER BY created_at DESC, run_id) = 1;
