"""The rules that every gate runs, whatever the suites' files say: written down a second time, on purpose.

A file that lost a rule, or says it more mildly, is refused by this table. The last value is a digest of the rule's
type, arguments, kind and whether NULLs are honest; whoever changes a rule on purpose changes both, and
``tests/gates/test_suites.py`` says what to write here.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from hwbench_mlflow.gates.pin import ROW, TABLE, Pin
from hwbench_mlflow.gates.pins_documents import DOCUMENT_PINS

EMPTY_IS_HONEST = frozenset({"verdict_findings", *DOCUMENT_PINS})
"""Tables without a row where all is well."""

PINS: Mapping[str, Mapping[str, Pin]] = MappingProxyType(
    {
        "performance_results": MappingProxyType(
            {
                "performance_results.columns": Pin(
                    "expect_table_columns_to_match_set",
                    (
                        "run_id",
                        "result_id",
                        "verdict",
                        "is_simulated",
                        "simulation_reason",
                        "availability_verified",
                        "latency_ms_p50",
                        "throughput_items_per_s",
                    ),
                    TABLE,
                    "60b63a2e566c0ad6",
                ),
                "performance_results.run_id.known": Pin(
                    "expect_column_values_to_not_be_null", ("run_id",), ROW, "8e62256958930f93"
                ),
                "performance_results.result_id.known": Pin(
                    "expect_column_values_to_not_be_null", ("result_id",), ROW, "23b7f6849aa0b687"
                ),
                "performance_results.model_id.known": Pin(
                    "expect_column_values_to_not_be_null", ("model_id",), ROW, "05bdb681e10b1ec8"
                ),
                "performance_results.hardware_id.known": Pin(
                    "expect_column_values_to_not_be_null", ("hardware_id",), ROW, "c8ae6c7dd0b85eb6"
                ),
                "performance_results.created_at.known": Pin(
                    "expect_column_values_to_not_be_null", ("created_at",), ROW, "eccca4584b054dfe"
                ),
                "performance_results.started_at.known": Pin(
                    "expect_column_values_to_not_be_null", ("started_at",), ROW, "384a5a4ec033639d"
                ),
                "performance_results.verdict.known": Pin(
                    "expect_column_values_to_not_be_null", ("verdict",), ROW, "2b0d7a1cea345a8f"
                ),
                "performance_results.is_simulated.known": Pin(
                    "expect_column_values_to_not_be_null", ("is_simulated",), ROW, "b9502ac7dc98f825"
                ),
                "performance_results.probe_id.known": Pin(
                    "expect_column_values_to_not_be_null", ("probe_id",), ROW, "1c31666bc0163931"
                ),
                "performance_results.availability_verified.known": Pin(
                    "expect_column_values_to_not_be_null", ("availability_verified",), ROW, "198a592ee37f180b"
                ),
                "performance_results.platform.known": Pin(
                    "expect_column_values_to_not_be_null", ("platform",), ROW, "9bf51e99f04110ce"
                ),
                "performance_results.device_id.known": Pin(
                    "expect_column_values_to_not_be_null", ("device_id",), ROW, "ea648c8b33e9cc34"
                ),
                "performance_results.device_name.known": Pin(
                    "expect_column_values_to_not_be_null", ("device_name",), ROW, "e6127078643f4392"
                ),
                "performance_results.effective_precision.known": Pin(
                    "expect_column_values_to_not_be_null", ("effective_precision",), ROW, "0c1c59f4b41f835b"
                ),
                "performance_results.batch_size.known": Pin(
                    "expect_column_values_to_not_be_null", ("batch_size",), ROW, "9eefd59946f5ab2e"
                ),
                "performance_results.weights_sha256.known": Pin(
                    "expect_column_values_to_not_be_null", ("weights_sha256",), ROW, "26b14d49d428a187"
                ),
                "performance_results.throughput_items_per_s.known": Pin(
                    "expect_column_values_to_not_be_null", ("throughput_items_per_s",), ROW, "a1c8bfde214b216c"
                ),
                "performance_results.sample_count.known": Pin(
                    "expect_column_values_to_not_be_null", ("sample_count",), ROW, "caf5dd90f0276a7a"
                ),
                "performance_results.host_id.known": Pin(
                    "expect_column_values_to_not_be_null", ("host_id",), ROW, "718f837873f701f9"
                ),
                "performance_results.hostname.known": Pin(
                    "expect_column_values_to_not_be_null", ("hostname",), ROW, "ae5868b90b93d7fe"
                ),
                "performance_results.hwbench_version.known": Pin(
                    "expect_column_values_to_not_be_null", ("hwbench_version",), ROW, "9c0e64e0489f917c"
                ),
                "performance_results.result_sha256.known": Pin(
                    "expect_column_values_to_not_be_null", ("result_sha256",), ROW, "f224697c7d7dfec6"
                ),
                "performance_results.verdict.word": Pin(
                    "expect_column_values_to_be_in_set", ("verdict",), ROW, "361a28b7b52d9729"
                ),
                "performance_results.is_simulated.word": Pin(
                    "expect_column_values_to_be_in_set", ("is_simulated",), ROW, "ffb78eef20900453"
                ),
                "performance_results.is_simulated.type": Pin(
                    "expect_column_values_to_be_in_type_list", ("is_simulated",), ROW, "908632b5015b9391"
                ),
                "performance_results.platform.word": Pin(
                    "expect_column_values_to_be_in_set", ("platform",), ROW, "ab3fca644b34e19f"
                ),
                "performance_results.effective_precision.word": Pin(
                    "expect_column_values_to_be_in_set", ("effective_precision",), ROW, "4ef8f4061d119f62"
                ),
                "performance_results.requested_precision.word": Pin(
                    "expect_column_values_to_be_in_set", ("requested_precision",), ROW, "d43ce22e004a2f4e"
                ),
                "performance_results.scenario.word": Pin(
                    "expect_column_values_to_be_in_set", ("scenario",), ROW, "2ff34a01bf7e33e3"
                ),
                "performance_results.latency_percentile.word": Pin(
                    "expect_column_values_to_be_in_set", ("latency_percentile",), ROW, "8a41f39fa56024e2"
                ),
                "performance_results.weights.word": Pin(
                    "expect_column_values_to_be_in_set", ("weights",), ROW, "ba0d011e9233afad"
                ),
                "performance_results.energy_method.word": Pin(
                    "expect_column_values_to_be_in_set", ("energy_method",), ROW, "190fe07832f0046d"
                ),
                "performance_results.availability_status.word": Pin(
                    "expect_column_values_to_be_in_set", ("availability_status",), ROW, "91b4ef501fe0d75d"
                ),
                "performance_results.latency_ms_p50.range": Pin(
                    "expect_column_values_to_be_between", ("latency_ms_p50",), ROW, "d90f228e29f304e3"
                ),
                "performance_results.latency_ms_p90.range": Pin(
                    "expect_column_values_to_be_between", ("latency_ms_p90",), ROW, "f08864e1b8ec38ec"
                ),
                "performance_results.latency_ms_p95.range": Pin(
                    "expect_column_values_to_be_between", ("latency_ms_p95",), ROW, "3a5e1e00ff47973f"
                ),
                "performance_results.latency_ms_p99.range": Pin(
                    "expect_column_values_to_be_between", ("latency_ms_p99",), ROW, "aa39bba2d12ab05a"
                ),
                "performance_results.latency_ms_mean.range": Pin(
                    "expect_column_values_to_be_between", ("latency_ms_mean",), ROW, "409c64d10ab58856"
                ),
                "performance_results.latency_ms_min.range": Pin(
                    "expect_column_values_to_be_between", ("latency_ms_min",), ROW, "da204b0295875314"
                ),
                "performance_results.latency_ms_max.range": Pin(
                    "expect_column_values_to_be_between", ("latency_ms_max",), ROW, "0b2d1c0b4d4f657f"
                ),
                "performance_results.latency_ms_p50_ci95_low.range": Pin(
                    "expect_column_values_to_be_between", ("latency_ms_p50_ci95_low",), ROW, "6b0311432a5dfe99"
                ),
                "performance_results.latency_ms_p50_ci95_high.range": Pin(
                    "expect_column_values_to_be_between", ("latency_ms_p50_ci95_high",), ROW, "ef2d76cc20fbbe56"
                ),
                "performance_results.latency_ms_stdev.range": Pin(
                    "expect_column_values_to_be_between", ("latency_ms_stdev",), ROW, "3d40baf873c6a10e"
                ),
                "performance_results.latency_ms_iqr.range": Pin(
                    "expect_column_values_to_be_between", ("latency_ms_iqr",), ROW, "343b65c45c964e4d"
                ),
                "performance_results.throughput_items_per_s.range": Pin(
                    "expect_column_values_to_be_between", ("throughput_items_per_s",), ROW, "a028ed05a7c2d43c"
                ),
                "performance_results.latency_bound_ms.range": Pin(
                    "expect_column_values_to_be_between", ("latency_bound_ms",), ROW, "08276b3faf441862"
                ),
                "performance_results.query_size.range": Pin(
                    "expect_column_values_to_be_between", ("query_size",), ROW, "86d6562aba39c6af"
                ),
                "performance_results.server_rate_per_s.range": Pin(
                    "expect_column_values_to_be_between", ("server_rate_per_s",), ROW, "dcdb193346f1efe7"
                ),
                "performance_results.offered_rate_per_s.range": Pin(
                    "expect_column_values_to_be_between", ("offered_rate_per_s",), ROW, "0dc9b805924b3543"
                ),
                "performance_results.achieved_rate_per_s.range": Pin(
                    "expect_column_values_to_be_between", ("achieved_rate_per_s",), ROW, "6895e7be63d71587"
                ),
                "performance_results.late_count.range": Pin(
                    "expect_column_values_to_be_between", ("late_count",), ROW, "b8c2a1e66ae6c31b"
                ),
                "performance_results.queue_ms_mean.range": Pin(
                    "expect_column_values_to_be_between", ("queue_ms_mean",), ROW, "3205fcd319c6c3df"
                ),
                "performance_results.service_ms_p50.range": Pin(
                    "expect_column_values_to_be_between", ("service_ms_p50",), ROW, "376c0037b8666c6a"
                ),
                "performance_results.batch_size.range": Pin(
                    "expect_column_values_to_be_between", ("batch_size",), ROW, "12ea59c76c587321"
                ),
                "performance_results.sample_count.range": Pin(
                    "expect_column_values_to_be_between", ("sample_count",), ROW, "a3e59fce4813e783"
                ),
                "performance_results.worker_count.range": Pin(
                    "expect_column_values_to_be_between", ("worker_count",), ROW, "85bc6f0741efaec6"
                ),
                "performance_results.warmup_count.range": Pin(
                    "expect_column_values_to_be_between", ("warmup_count",), ROW, "5085ab31fc0f6b4d"
                ),
                "performance_results.import_ms.range": Pin(
                    "expect_column_values_to_be_between", ("import_ms",), ROW, "d531bd92d5ac3154"
                ),
                "performance_results.load_ms.range": Pin(
                    "expect_column_values_to_be_between", ("load_ms",), ROW, "6714168c4baf1283"
                ),
                "performance_results.compile_ms.range": Pin(
                    "expect_column_values_to_be_between", ("compile_ms",), ROW, "0c59c0ed79759c60"
                ),
                "performance_results.first_inference_ms.range": Pin(
                    "expect_column_values_to_be_between", ("first_inference_ms",), ROW, "6ce1fb881b3b847a"
                ),
                "performance_results.memory_peak_mb.range": Pin(
                    "expect_column_values_to_be_between", ("memory_peak_mb",), ROW, "598186f8acacac97"
                ),
                "performance_results.device_memory_peak_mb.range": Pin(
                    "expect_column_values_to_be_between", ("device_memory_peak_mb",), ROW, "ec4c812b1c7787cb"
                ),
                "performance_results.energy_j.range": Pin(
                    "expect_column_values_to_be_between", ("energy_j",), ROW, "7e1b80a908c9ed3a"
                ),
                "performance_results.energy_j_per_item.range": Pin(
                    "expect_column_values_to_be_between", ("energy_j_per_item",), ROW, "64ad4fe8a8ede3fd"
                ),
                "performance_results.power_w_mean.range": Pin(
                    "expect_column_values_to_be_between", ("power_w_mean",), ROW, "4955701917bd7368"
                ),
                "performance_results.steal_fraction.range": Pin(
                    "expect_column_values_to_be_between", ("steal_fraction",), ROW, "4c8fb3fc2fe1dfb1"
                ),
                "performance_results.foreign_cpu_fraction.range": Pin(
                    "expect_column_values_to_be_between", ("foreign_cpu_fraction",), ROW, "ac67ac562f72fc38"
                ),
                "performance_results.roofline_fraction.range": Pin(
                    "expect_column_values_to_be_between", ("roofline_fraction",), ROW, "4c036ba57cc73373"
                ),
                "performance_results.scaling_growth.range": Pin(
                    "expect_column_values_to_be_between", ("scaling_growth",), ROW, "fe1aae980ca4b16c"
                ),
                "performance_results.latency.order": Pin(
                    "expect_column_values_to_ascend_within_rows",
                    (
                        "latency_ms_min",
                        "latency_ms_p50",
                        "latency_ms_p90",
                        "latency_ms_p95",
                        "latency_ms_p99",
                        "latency_ms_max",
                    ),
                    ROW,
                    "c403a625b468a67c",
                ),
                "performance_results.latency.interval": Pin(
                    "expect_column_values_to_ascend_within_rows",
                    ("latency_ms_p50_ci95_low", "latency_ms_p50", "latency_ms_p50_ci95_high"),
                    ROW,
                    "d86aa5cf3305d8ca",
                ),
                "performance_results.throughput.follows": Pin(
                    "expect_throughput_to_follow_from_latency",
                    ("throughput_items_per_s", "batch_size", "latency_ms_mean", "scenario", "query_size"),
                    ROW,
                    "ca56df6e34a5aaf5",
                ),
                "performance_results.scenario.asked": Pin(
                    "expect_scenario_to_say_what_was_asked",
                    (
                        "scenario",
                        "latency_bound_ms",
                        "latency_percentile",
                        "query_size",
                        "offered_rate_per_s",
                        "achieved_rate_per_s",
                        "late_count",
                        "queue_ms_mean",
                        "service_ms_p50",
                        "server_rate_per_s",
                        "batch_size",
                    ),
                    ROW,
                    "722df6bd6fb6b363",
                ),
                "performance_results.simulation.said": Pin(
                    "expect_simulation_to_be_said",
                    ("is_simulated", "simulation_reason", "verdict"),
                    ROW,
                    "b080930c78cbc2fa",
                ),
                "performance_results.evidence.held": Pin(
                    "expect_verified_rows_to_hold_evidence",
                    (
                        "verdict",
                        "signature_state",
                        "run_status",
                        "availability_verified",
                        "key_id",
                        "result_sha256",
                        "samples_sha256",
                        "attestation_sha256",
                        "binding_sha256",
                        "probed_at",
                    ),
                    ROW,
                    "d382f51f9a73aec8",
                ),
                "performance_results.device.asked": Pin(
                    "expect_device_to_be_the_one_asked_for",
                    ("requested_device", "device_id", "observed_device"),
                    ROW,
                    "159e2e9f29b72f52",
                ),
                "performance_results.precision.asked": Pin(
                    "expect_column_pair_values_to_be_equal",
                    ("requested_precision", "effective_precision"),
                    ROW,
                    "2ed241cc1402a247",
                ),
                "performance_results.probe.same_boot": Pin(
                    "expect_column_pair_values_to_be_equal", ("probe_boot_id", "boot_id"), ROW, "718532bb96b63c3a"
                ),
                "performance_results.probe.not_before": Pin(
                    "expect_column_pair_values_a_to_be_greater_than_b",
                    ("probed_at", "started_at"),
                    ROW,
                    "da75803227943820",
                ),
                "performance_results.probe.not_after": Pin(
                    "expect_column_pair_values_a_to_be_greater_than_b",
                    ("created_at", "probed_at"),
                    ROW,
                    "3ef1cfd4cae6beba",
                ),
                "performance_results.energy.method": Pin(
                    "expect_columns_to_be_known_together",
                    ("energy_j", "energy_method", "energy_scope"),
                    ROW,
                    "ed8db6fdf0614e39",
                ),
                "performance_results.result_sha256.form": Pin(
                    "expect_column_values_to_match_regex", ("result_sha256",), ROW, "071e08b8122b383d"
                ),
                "performance_results.samples_sha256.form": Pin(
                    "expect_column_values_to_match_regex", ("samples_sha256",), ROW, "4c91372d667502ac"
                ),
                "performance_results.attestation_sha256.form": Pin(
                    "expect_column_values_to_match_regex", ("attestation_sha256",), ROW, "1510b624b8f4ec96"
                ),
                "performance_results.binding_sha256.form": Pin(
                    "expect_column_values_to_match_regex", ("binding_sha256",), ROW, "ee5b1f09434edbd0"
                ),
                "performance_results.result_id.form": Pin(
                    "expect_column_values_to_match_regex", ("result_id",), ROW, "d5d1066fa7039469"
                ),
                "performance_results.phase.known": Pin(
                    "expect_column_values_to_not_be_null", ("phase",), ROW, "50b3f3e0ffc998d3"
                ),
                "performance_results.phase.word": Pin(
                    "expect_column_values_to_be_in_set", ("phase",), ROW, "41ed43931e72e4ef"
                ),
                "performance_results.ttft_ms_p50.range": Pin(
                    "expect_column_values_to_be_between", ("ttft_ms_p50",), ROW, "69d206ac75d09206"
                ),
                "performance_results.ttft_ms_p90.range": Pin(
                    "expect_column_values_to_be_between", ("ttft_ms_p90",), ROW, "2a4ff4cf56d0acde"
                ),
                "performance_results.ttft_ms_p99.range": Pin(
                    "expect_column_values_to_be_between", ("ttft_ms_p99",), ROW, "b38061880aab0682"
                ),
                "performance_results.tpot_ms_p50.range": Pin(
                    "expect_column_values_to_be_between", ("tpot_ms_p50",), ROW, "39702d6b0b70460a"
                ),
                "performance_results.tpot_ms_p90.range": Pin(
                    "expect_column_values_to_be_between", ("tpot_ms_p90",), ROW, "32e0e3488da85d32"
                ),
                "performance_results.tpot_ms_p99.range": Pin(
                    "expect_column_values_to_be_between", ("tpot_ms_p99",), ROW, "e36b0588da3aee67"
                ),
                "performance_results.tokens_per_s.range": Pin(
                    "expect_column_values_to_be_between", ("tokens_per_s",), ROW, "9b7a83772e30a767"
                ),
                "performance_results.real_time_factor.range": Pin(
                    "expect_column_values_to_be_between", ("real_time_factor",), ROW, "c57479714e5ff84b"
                ),
                "performance_results.output_tokens.range": Pin(
                    "expect_column_values_to_be_between", ("output_tokens",), ROW, "3075d573cc2f7691"
                ),
                "performance_results.audio_seconds.range": Pin(
                    "expect_column_values_to_be_between", ("audio_seconds",), ROW, "34d373a5a43877fb"
                ),
                "performance_results.ttft.within_latency_p50": Pin(
                    "expect_column_pair_values_a_to_be_greater_than_b",
                    ("latency_ms_p50", "ttft_ms_p50"),
                    ROW,
                    "9b654de42321a73a",
                ),
                "performance_results.ttft.within_latency_p90": Pin(
                    "expect_column_pair_values_a_to_be_greater_than_b",
                    ("latency_ms_p90", "ttft_ms_p90"),
                    ROW,
                    "3ac6be503290a574",
                ),
                "performance_results.ttft.within_latency_p99": Pin(
                    "expect_column_pair_values_a_to_be_greater_than_b",
                    ("latency_ms_p99", "ttft_ms_p99"),
                    ROW,
                    "1777f7bc4999a0cf",
                ),
            }
        ),
        "latency_samples": MappingProxyType(
            {
                "latency_samples.columns": Pin(
                    "expect_table_columns_to_match_set",
                    ("run_id", "worker", "phase", "sample", "sample_ns", "latency_ms"),
                    TABLE,
                    "5fec68b8b752fb5b",
                ),
                "latency_samples.run_id.known": Pin(
                    "expect_column_values_to_not_be_null", ("run_id",), ROW, "8e62256958930f93"
                ),
                "latency_samples.worker.known": Pin(
                    "expect_column_values_to_not_be_null", ("worker",), ROW, "35ea0eed10be9ad3"
                ),
                "latency_samples.phase.known": Pin(
                    "expect_column_values_to_not_be_null", ("phase",), ROW, "50b3f3e0ffc998d3"
                ),
                "latency_samples.sample.known": Pin(
                    "expect_column_values_to_not_be_null", ("sample",), ROW, "e3f8e869575d5cef"
                ),
                "latency_samples.sample_ns.known": Pin(
                    "expect_column_values_to_not_be_null", ("sample_ns",), ROW, "945729e460a2df13"
                ),
                "latency_samples.phase.word": Pin(
                    "expect_column_values_to_be_in_set", ("phase",), ROW, "c4e2eed1eb87ebd6"
                ),
                "latency_samples.sample_ns.range": Pin(
                    "expect_column_values_to_be_between", ("sample_ns",), ROW, "6daa2015ea1ed051"
                ),
                "latency_samples.latency_ms.range": Pin(
                    "expect_column_values_to_be_between", ("latency_ms",), ROW, "900da7ae78b8950a"
                ),
                "latency_samples.sample.range": Pin(
                    "expect_column_values_to_be_between", ("sample",), ROW, "0b7c1603d9b74bb0"
                ),
                "latency_samples.worker.range": Pin(
                    "expect_column_values_to_be_between", ("worker",), ROW, "b92a01d29e103c01"
                ),
                "latency_samples.runs_per_sample.range": Pin(
                    "expect_column_values_to_be_between", ("runs_per_sample",), ROW, "c6146dfe2b8fb211"
                ),
                "latency_samples.arrival_ns.range": Pin(
                    "expect_column_values_to_be_between", ("arrival_ns",), ROW, "50e5055953e8c768"
                ),
                "latency_samples.start_ns.range": Pin(
                    "expect_column_values_to_be_between", ("start_ns",), ROW, "69431f6637eff6ef"
                ),
                "latency_samples.end_ns.range": Pin(
                    "expect_column_values_to_be_between", ("end_ns",), ROW, "2f491ec10d28ed9c"
                ),
            }
        ),
        "models": MappingProxyType(
            {
                "models.columns": Pin(
                    "expect_table_columns_to_match_set",
                    ("model_id", "model_name", "config_sha256", "parameter_count"),
                    TABLE,
                    "0cb6926421a4f29d",
                ),
                "models.model_id.known": Pin(
                    "expect_column_values_to_not_be_null", ("model_id",), ROW, "05bdb681e10b1ec8"
                ),
                "models.model_name.known": Pin(
                    "expect_column_values_to_not_be_null", ("model_name",), ROW, "ede357777c7c71bf"
                ),
                "models.architecture.known": Pin(
                    "expect_column_values_to_not_be_null", ("architecture",), ROW, "421875473a337727"
                ),
                "models.task.known": Pin("expect_column_values_to_not_be_null", ("task",), ROW, "dc9cc97b66f88402"),
                "models.source.known": Pin("expect_column_values_to_not_be_null", ("source",), ROW, "5078182cb40ed1e6"),
                "models.config_sha256.known": Pin(
                    "expect_column_values_to_not_be_null", ("config_sha256",), ROW, "d922fc761d1dc1b6"
                ),
                "models.parameter_count.known": Pin(
                    "expect_column_values_to_not_be_null", ("parameter_count",), ROW, "92cad5b51e7c31c2"
                ),
                "models.model_id.unique": Pin(
                    "expect_column_values_to_be_unique", ("model_id",), ROW, "eac468acedb56d84"
                ),
                "models.model_id.form": Pin(
                    "expect_column_values_to_match_regex", ("model_id",), ROW, "84557895d5e29e2b"
                ),
                "models.config_sha256.form": Pin(
                    "expect_column_values_to_match_regex", ("config_sha256",), ROW, "ecc3a846fa60ef4f"
                ),
                "models.model_name.length": Pin(
                    "expect_column_value_lengths_to_be_between", ("model_name",), ROW, "174312f211c6e19b"
                ),
                "models.parameter_count.range": Pin(
                    "expect_column_values_to_be_between", ("parameter_count",), ROW, "ab03c634740d9679"
                ),
            }
        ),
        "hardware_platforms": MappingProxyType(
            {
                "hardware_platforms.columns": Pin(
                    "expect_table_columns_to_match_set",
                    ("hardware_id", "hardware_type", "device_id", "device_name", "host_id"),
                    TABLE,
                    "6454e56b960a4323",
                ),
                "hardware_platforms.hardware_id.known": Pin(
                    "expect_column_values_to_not_be_null", ("hardware_id",), ROW, "c8ae6c7dd0b85eb6"
                ),
                "hardware_platforms.hardware_type.known": Pin(
                    "expect_column_values_to_not_be_null", ("hardware_type",), ROW, "00402897d3f79702"
                ),
                "hardware_platforms.device_id.known": Pin(
                    "expect_column_values_to_not_be_null", ("device_id",), ROW, "ea648c8b33e9cc34"
                ),
                "hardware_platforms.device_name.known": Pin(
                    "expect_column_values_to_not_be_null", ("device_name",), ROW, "e6127078643f4392"
                ),
                "hardware_platforms.host_id.known": Pin(
                    "expect_column_values_to_not_be_null", ("host_id",), ROW, "718f837873f701f9"
                ),
                "hardware_platforms.hardware_id.unique": Pin(
                    "expect_column_values_to_be_unique", ("hardware_id",), ROW, "f51a7fbcf28d914a"
                ),
                "hardware_platforms.hardware_id.form": Pin(
                    "expect_column_values_to_match_regex", ("hardware_id",), ROW, "0f5b72c0c3c34f37"
                ),
                "hardware_platforms.hardware_type.word": Pin(
                    "expect_column_values_to_be_in_set", ("hardware_type",), ROW, "fea842a0221d83c0"
                ),
                "hardware_platforms.memory_bytes.range": Pin(
                    "expect_column_values_to_be_between", ("memory_bytes",), ROW, "c7d1fad12d8b5aa6"
                ),
            }
        ),
        "hardware_availability_log": MappingProxyType(
            {
                "hardware_availability_log.columns": Pin(
                    "expect_table_columns_to_match_set",
                    ("run_id", "probe_id", "hardware_type", "status", "is_verified", "device_id"),
                    TABLE,
                    "f297202878b03fb4",
                ),
                "hardware_availability_log.run_id.known": Pin(
                    "expect_column_values_to_not_be_null", ("run_id",), ROW, "8e62256958930f93"
                ),
                "hardware_availability_log.probe_id.known": Pin(
                    "expect_column_values_to_not_be_null", ("probe_id",), ROW, "1c31666bc0163931"
                ),
                "hardware_availability_log.hardware_type.known": Pin(
                    "expect_column_values_to_not_be_null", ("hardware_type",), ROW, "00402897d3f79702"
                ),
                "hardware_availability_log.device_index.known": Pin(
                    "expect_column_values_to_not_be_null", ("device_index",), ROW, "4d90f83451b0166e"
                ),
                "hardware_availability_log.source.known": Pin(
                    "expect_column_values_to_not_be_null", ("source",), ROW, "5078182cb40ed1e6"
                ),
                "hardware_availability_log.status.known": Pin(
                    "expect_column_values_to_not_be_null", ("status",), ROW, "ee4bcc25dc6beb40"
                ),
                "hardware_availability_log.reason.known": Pin(
                    "expect_column_values_to_not_be_null", ("reason",), ROW, "d1abdde93f5bf9d7"
                ),
                "hardware_availability_log.is_verified.known": Pin(
                    "expect_column_values_to_not_be_null", ("is_verified",), ROW, "c9415b44f447c99c"
                ),
                "hardware_availability_log.status.word": Pin(
                    "expect_column_values_to_be_in_set", ("status",), ROW, "4b35cce17a64c031"
                ),
                "hardware_availability_log.source.word": Pin(
                    "expect_column_values_to_be_in_set", ("source",), ROW, "c111766c205dce5d"
                ),
                "hardware_availability_log.is_verified.type": Pin(
                    "expect_column_values_to_be_in_type_list", ("is_verified",), ROW, "66f4740bd4d33bba"
                ),
                "hardware_availability_log.verified.computed": Pin(
                    "expect_verified_probes_to_have_computed",
                    ("is_verified", "status", "device_id", "check_operation"),
                    ROW,
                    "8e3d55155dfaae32",
                ),
                "hardware_availability_log.duration_ms.range": Pin(
                    "expect_column_values_to_be_between", ("duration_ms",), ROW, "fb12bf94220980da"
                ),
                "hardware_availability_log.max_abs_error.range": Pin(
                    "expect_column_values_to_be_between", ("max_abs_error",), ROW, "12d9e81f58b57569"
                ),
            }
        ),
        "verdict_findings": MappingProxyType(
            {
                "verdict_findings.columns": Pin(
                    "expect_table_columns_to_match_set",
                    ("run_id", "position", "rule", "effect", "reason"),
                    TABLE,
                    "cc6c3f4811c1fc6c",
                ),
                "verdict_findings.run_id.known": Pin(
                    "expect_column_values_to_not_be_null", ("run_id",), ROW, "8e62256958930f93"
                ),
                "verdict_findings.position.known": Pin(
                    "expect_column_values_to_not_be_null", ("position",), ROW, "b4c54f56a2dbf4dd"
                ),
                "verdict_findings.rule.known": Pin(
                    "expect_column_values_to_not_be_null", ("rule",), ROW, "271ee2c3776b3df7"
                ),
                "verdict_findings.effect.known": Pin(
                    "expect_column_values_to_not_be_null", ("effect",), ROW, "45876d312354d3cf"
                ),
                "verdict_findings.reason.known": Pin(
                    "expect_column_values_to_not_be_null", ("reason",), ROW, "d1abdde93f5bf9d7"
                ),
                "verdict_findings.effect.word": Pin(
                    "expect_column_values_to_be_in_set", ("effect",), ROW, "f6f2bfaecfcdf0d8"
                ),
                "verdict_findings.position.range": Pin(
                    "expect_column_values_to_be_between", ("position",), ROW, "29fbbb85aa26e3d4"
                ),
                "verdict_findings.reason.length": Pin(
                    "expect_column_value_lengths_to_be_between", ("reason",), ROW, "dee3de5f6e2fe97d"
                ),
            }
        ),
        "benchmark_runs": MappingProxyType(
            {
                "benchmark_runs.columns": Pin(
                    "expect_table_columns_to_match_set",
                    ("run_id", "role", "evidence", "verdict", "fingerprint", "judge"),
                    TABLE,
                    "a121ae3678a28f8b",
                ),
                "benchmark_runs.run_id.known": Pin(
                    "expect_column_values_to_not_be_null", ("run_id",), ROW, "8e62256958930f93"
                ),
                "benchmark_runs.role.known": Pin(
                    "expect_column_values_to_not_be_null", ("role",), ROW, "68fce7baac7cd0c2"
                ),
                "benchmark_runs.evidence.known": Pin(
                    "expect_column_values_to_not_be_null", ("evidence",), ROW, "add877df904d3452"
                ),
                "benchmark_runs.fingerprint.known": Pin(
                    "expect_column_values_to_not_be_null", ("fingerprint",), ROW, "e3bbd18972e9ab25"
                ),
                "benchmark_runs.judge.known": Pin(
                    "expect_column_values_to_not_be_null", ("judge",), ROW, "298f114f865e3187"
                ),
                "benchmark_runs.role.word": Pin(
                    "expect_column_values_to_be_in_set", ("role",), ROW, "e199ad28d8058fba"
                ),
                "benchmark_runs.evidence.word": Pin(
                    "expect_column_values_to_be_in_set", ("evidence",), ROW, "d342da3db2f65a22"
                ),
                "benchmark_runs.verdict.word": Pin(
                    "expect_column_values_to_be_in_set", ("verdict",), ROW, "2057d844f6e676e6"
                ),
            }
        ),
        **DOCUMENT_PINS,
    }
)
"""Table -> rule -> what it must be."""
