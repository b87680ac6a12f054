-- Estimates and calibrations, made from their signed documents. They are tables of their own: an estimate shares no
-- column's name with a measurement, and nothing that is asked of performance_results can come upon one.

-- DuckDB cannot alter a CHECK: benchmark_runs is made anew with the two roles.
CREATE TABLE benchmark_runs_0006 (
    run_id           VARCHAR PRIMARY KEY,
    role             VARCHAR NOT NULL CHECK (
                         role IN ('result', 'devices', 'failure', 'parent', 'estimate', 'roofline', 'unknown')),
    evidence         VARCHAR NOT NULL CHECK (evidence IN (
                         'read',           -- read and judged; a result has its row in performance_results
                         'missing',        -- the store has no hwbench/result.json (devices.json, failure.json, ...)
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
    CHECK (role NOT IN ('result', 'estimate', 'roofline') OR evidence IN ('other_version', 'deleted')
           OR verdict IS NOT NULL),
    -- An estimate is simulated and says so; no column of it can say verified.
    CHECK (role <> 'estimate' OR verdict IS NULL OR verdict <> 'verified'),
    CHECK (verdict IS NULL OR verdict = 'verified' OR (role = 'estimate' AND verdict = 'simulated')
           OR len(reasons) > 0),
    CHECK (verdict IS NULL OR verdict = 'unverified' OR evidence IN ('read', 'corrupt', 'refused'))
);
INSERT INTO benchmark_runs_0006 BY NAME FROM benchmark_runs;
DROP TABLE benchmark_runs;
ALTER TABLE benchmark_runs_0006 RENAME TO benchmark_runs;

-- One row a run whose estimate.json could be read. Nothing here was measured. Times are UTC, unknown is NULL.
CREATE TABLE estimates (
    run_id                                   VARCHAR PRIMARY KEY,
    estimate_id                              VARCHAR NOT NULL,
    experiment_id                            BIGINT NOT NULL,
    run_status                               VARCHAR NOT NULL,
    estimated_at                             TIMESTAMP NOT NULL,

    verdict                                  VARCHAR NOT NULL CHECK (verdict IN ('simulated', 'unverified', 'contradicted')),
    reasons                                  VARCHAR[] NOT NULL,
    is_simulated                             BOOLEAN NOT NULL CHECK (is_simulated),
    simulation_reason                        VARCHAR NOT NULL CHECK (simulation_reason <> ''),

    platform                                 VARCHAR NOT NULL CHECK (
                                                 platform IN ('cpu', 'cuda', 'rocm', 'mps', 'openvino', 'qnn', 'webnn', 'webgpu')),
    device_product                           VARCHAR NOT NULL,
    device_vendor                            VARCHAR NOT NULL,
    sheet_kind                               VARCHAR NOT NULL CHECK (sheet_kind IN ('datasheet', 'measured')),
    sheet_name                               VARCHAR NOT NULL,
    sheet_sha256                             VARCHAR NOT NULL CHECK (len(sheet_sha256) = 64),

    model_name                               VARCHAR NOT NULL,
    architecture                             VARCHAR NOT NULL,
    task                                     VARCHAR NOT NULL,
    source                                   VARCHAR NOT NULL,
    config_sha256                            VARCHAR NOT NULL,
    parameter_count                          BIGINT NOT NULL CHECK (parameter_count > 0),
    batch_size                               BIGINT NOT NULL CHECK (batch_size > 0),
    sequence_length                          BIGINT CHECK (sequence_length > 0),
    image_size                               BIGINT CHECK (image_size > 0),
    precision                                VARCHAR NOT NULL,

    work_flops                               DOUBLE NOT NULL CHECK (work_flops > 0),
    work_bytes                               DOUBLE NOT NULL CHECK (work_bytes > 0),
    work_operators                           BIGINT NOT NULL CHECK (work_operators > 0),
    needed_bytes                             DOUBLE NOT NULL CHECK (needed_bytes > 0),
    peak_flops_per_s                         DOUBLE NOT NULL CHECK (peak_flops_per_s > 0),
    peak_source                              VARCHAR NOT NULL,
    bandwidth_bytes_per_s                    DOUBLE NOT NULL CHECK (bandwidth_bytes_per_s > 0),
    bandwidth_source                         VARCHAR NOT NULL,
    device_memory_bytes                      DOUBLE CHECK (device_memory_bytes > 0),
    efficiency_basis                         VARCHAR NOT NULL,
    bound                                    VARCHAR NOT NULL CHECK (bound IN ('compute', 'memory', 'overhead')),

    -- the metrics of metrics.py's ESTIMATE_METRICS, under their names
    estimate_latency_ms_low                  DOUBLE NOT NULL CHECK (estimate_latency_ms_low > 0),
    estimate_latency_ms_expected             DOUBLE NOT NULL,
    estimate_latency_ms_high                 DOUBLE NOT NULL,
    estimate_throughput_items_per_s_low      DOUBLE NOT NULL CHECK (estimate_throughput_items_per_s_low > 0),
    estimate_throughput_items_per_s_expected DOUBLE NOT NULL,
    estimate_throughput_items_per_s_high     DOUBLE NOT NULL,

    hostname                                 VARCHAR NOT NULL,   -- where it was computed: not what it is of
    hwbench_version                          VARCHAR NOT NULL,
    signature_state                          VARCHAR CHECK (signature_state IN ('trusted', 'untrusted', 'revoked', 'invalid', 'corrupt')),
    key_id                                   VARCHAR,
    key_name                                 VARCHAR,
    document_sha256                          VARCHAR NOT NULL CHECK (len(document_sha256) = 64),

    CHECK (estimate_latency_ms_low <= estimate_latency_ms_expected),
    CHECK (estimate_latency_ms_expected <= estimate_latency_ms_high),
    CHECK (estimate_throughput_items_per_s_low <= estimate_throughput_items_per_s_expected),
    CHECK (estimate_throughput_items_per_s_expected <= estimate_throughput_items_per_s_high),
    CHECK (isfinite(estimate_latency_ms_high) AND isfinite(estimate_throughput_items_per_s_high)),
    CHECK (verdict = 'simulated' OR len(reasons) > 0),
    CHECK (verdict <> 'simulated' OR (signature_state IS NOT DISTINCT FROM 'trusted' AND run_status = 'FINISHED'))
);

-- One row a run whose roofline.json could be read: what a device can do at most, measured independently of any model.
CREATE TABLE rooflines (
    run_id                          VARCHAR PRIMARY KEY,
    roofline_id                     VARCHAR NOT NULL,
    experiment_id                   BIGINT NOT NULL,
    run_status                      VARCHAR NOT NULL,
    calibrated_at                   TIMESTAMP NOT NULL,
    verdict                         VARCHAR NOT NULL CHECK (verdict IN ('verified', 'unverified', 'simulated', 'contradicted')),
    reasons                         VARCHAR[] NOT NULL,
    is_simulated                    BOOLEAN NOT NULL,
    platform                        VARCHAR NOT NULL CHECK (
                                        platform IN ('cpu', 'cuda', 'rocm', 'mps', 'openvino', 'qnn', 'webnn', 'webgpu')),
    device_id                       VARCHAR NOT NULL,
    device_name                     VARCHAR NOT NULL,
    device_uuid                     VARCHAR,
    device_vendor                   VARCHAR,
    device_memory_bytes             BIGINT CHECK (device_memory_bytes > 0),
    threads                         BIGINT NOT NULL CHECK (threads > 0),
    method                          VARCHAR NOT NULL,
    -- the metrics of metrics.py's ROOFLINE_METRICS, under their names
    peak_tflops_fp32                DOUBLE CHECK (peak_tflops_fp32 > 0),
    peak_tflops_bf16                DOUBLE CHECK (peak_tflops_bf16 > 0),
    peak_tflops_fp16                DOUBLE CHECK (peak_tflops_fp16 > 0),
    memory_bandwidth_gb_per_s       DOUBLE CHECK (memory_bandwidth_gb_per_s > 0),
    memory_bandwidth_gb_per_s_copy  DOUBLE CHECK (memory_bandwidth_gb_per_s_copy > 0),
    memory_bandwidth_gb_per_s_triad DOUBLE CHECK (memory_bandwidth_gb_per_s_triad > 0),
    load_before                     DOUBLE,
    load_after                      DOUBLE,
    host_id                         VARCHAR NOT NULL,
    hostname                        VARCHAR NOT NULL,
    boot_id                         VARCHAR,
    hwbench_version                 VARCHAR NOT NULL,
    signature_state                 VARCHAR CHECK (signature_state IN ('trusted', 'untrusted', 'revoked', 'invalid', 'corrupt')),
    key_id                          VARCHAR,
    key_name                        VARCHAR,
    document_sha256                 VARCHAR NOT NULL CHECK (len(document_sha256) = 64),
    CHECK (verdict = 'verified' OR len(reasons) > 0),
    CHECK (NOT (is_simulated AND verdict = 'verified')),
    CHECK (verdict <> 'verified' OR (signature_state IS NOT DISTINCT FROM 'trusted' AND run_status = 'FINISHED'
           AND memory_bandwidth_gb_per_s IS NOT NULL))
);
