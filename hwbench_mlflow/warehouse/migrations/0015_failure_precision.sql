-- What precision a failed run was asked for: int8 that a device lacks says nothing of its fp16. NULL: the run failed before
-- it was known, or was judged by an hwbench that did not keep it.
ALTER TABLE benchmark_runs ADD COLUMN failure_precision VARCHAR;
