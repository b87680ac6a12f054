-- Models that write and models that hear: what was asked of them, and the metrics that only they have. DuckDB cannot add
-- a CHECK to a table; what these columns may hold is checked by the suite of performance_results and by the audit
-- (generation.*), and rows of before are forward passes without any of it.
ALTER TABLE performance_results ADD COLUMN phase VARCHAR DEFAULT 'forward';
ALTER TABLE performance_results ALTER COLUMN phase DROP DEFAULT;
ALTER TABLE performance_results ADD COLUMN audio_seconds DOUBLE;
ALTER TABLE performance_results ADD COLUMN output_tokens BIGINT;
ALTER TABLE performance_results ADD COLUMN kv_cache BOOLEAN;
ALTER TABLE performance_results ADD COLUMN ttft_ms_p50 DOUBLE;
ALTER TABLE performance_results ADD COLUMN ttft_ms_p90 DOUBLE;
ALTER TABLE performance_results ADD COLUMN ttft_ms_p99 DOUBLE;
ALTER TABLE performance_results ADD COLUMN tpot_ms_p50 DOUBLE;
ALTER TABLE performance_results ADD COLUMN tpot_ms_p90 DOUBLE;
ALTER TABLE performance_results ADD COLUMN tpot_ms_p99 DOUBLE;
ALTER TABLE performance_results ADD COLUMN tokens_per_s DOUBLE;
ALTER TABLE performance_results ADD COLUMN real_time_factor DOUBLE;

-- Views keep the columns that they were made with.
DROP VIEW IF EXISTS latest_results;
DROP VIEW IF EXISTS verified_results;
DROP VIEW IF EXISTS simulated_results;
DROP VIEW IF EXISTS unverified_results;
CREATE VIEW verified_results AS FROM performance_results WHERE verdict = 'verified' AND NOT is_simulated;
CREATE VIEW simulated_results AS FROM performance_results WHERE verdict = 'simulated';
CREATE VIEW unverified_results AS FROM performance_results WHERE verdict NOT IN ('verified', 'simulated');
CREATE VIEW latest_results AS
    FROM verified_results
    QUALIFY row_number() OVER (
        PARTITION BY model_id, hardware_id, batch_size, sequence_length, image_size, effective_precision, scenario,
                     compile_mode, profile, weights, threads, phase, audio_seconds, output_tokens, kv_cache
        ORDER BY created_at DESC, run_id) = 1;
