-- The server and multistream scenarios: what they were asked, what they found, and a query's three times.
-- DuckDB cannot alter a CHECK: the lines that begin with "rebuild" make a table anew from its own definition with the
-- text after "=>" in the place of that before it. See database.py.

-- rebuild performance_results: IN ('latency', 'offline') => IN ('latency', 'offline', 'server', 'multistream')
-- rebuild performance_results: profile VARCHAR NOT NULL, => latency_bound_ms DOUBLE CHECK (latency_bound_ms > 0), latency_percentile BIGINT CHECK (latency_percentile IN (90, 95, 99)), query_size BIGINT CHECK (query_size > 0), server_rate_per_s DOUBLE CHECK (server_rate_per_s > 0), offered_rate_per_s DOUBLE CHECK (offered_rate_per_s > 0), achieved_rate_per_s DOUBLE CHECK (achieved_rate_per_s > 0), late_count BIGINT CHECK (late_count >= 0), queue_ms_mean DOUBLE CHECK (queue_ms_mean >= 0), service_ms_p50 DOUBLE CHECK (service_ms_p50 > 0), CHECK (server_rate_per_s IS NULL OR server_rate_per_s IS NOT DISTINCT FROM offered_rate_per_s), CHECK ((scenario = 'server') = (latency_bound_ms IS NOT NULL)), CHECK ((latency_bound_ms IS NULL) = (latency_percentile IS NULL)), CHECK ((latency_bound_ms IS NULL) = (offered_rate_per_s IS NULL)), CHECK ((scenario = 'multistream') = (query_size IS NOT NULL)), profile VARCHAR NOT NULL,

-- Of a server's queries, ns since the window's begin: when they were scheduled to arrive, started, ended. sample_ns is
-- from arrival to end. NULL in other scenarios.
ALTER TABLE latency_samples ADD COLUMN arrival_ns BIGINT;
ALTER TABLE latency_samples ADD COLUMN start_ns BIGINT;
ALTER TABLE latency_samples ADD COLUMN end_ns BIGINT;

-- Another bound or another size of query is another measurement.
CREATE OR REPLACE VIEW latest_results AS
    FROM verified_results
    QUALIFY row_number() OVER (
        PARTITION BY model_id, hardware_id, batch_size, sequence_length, image_size, effective_precision, scenario,
                     latency_bound_ms, latency_percentile, query_size, compile_mode, profile, weights, threads
        ORDER BY created_at DESC, run_id) = 1;
