"""The pins of the suites for estimates and calibrations. See :mod:`.pins`."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from hwbench_mlflow.gates.pin import ROW, TABLE, Pin

DOCUMENT_PINS: Mapping[str, Mapping[str, Pin]] = MappingProxyType(
    {
        "estimates": MappingProxyType(
            {
                "estimates.columns": Pin(
                    "expect_table_columns_to_match_set",
                    (
                        "run_id",
                        "verdict",
                        "is_simulated",
                        "simulation_reason",
                        "sheet_name",
                        "platform",
                        "estimate_latency_ms_low",
                        "estimate_latency_ms_expected",
                        "estimate_latency_ms_high",
                    ),
                    TABLE,
                    "ab7e7121cd9f47bc",
                ),
                "estimates.run_id.known": Pin(
                    "expect_column_values_to_not_be_null", ("run_id",), ROW, "8e62256958930f93"
                ),
                "estimates.estimate_id.known": Pin(
                    "expect_column_values_to_not_be_null", ("estimate_id",), ROW, "130c3fb145fb7c84"
                ),
                "estimates.verdict.known": Pin(
                    "expect_column_values_to_not_be_null", ("verdict",), ROW, "2b0d7a1cea345a8f"
                ),
                "estimates.is_simulated.known": Pin(
                    "expect_column_values_to_not_be_null", ("is_simulated",), ROW, "b9502ac7dc98f825"
                ),
                "estimates.simulation_reason.known": Pin(
                    "expect_column_values_to_not_be_null", ("simulation_reason",), ROW, "2d732a816fbdc859"
                ),
                "estimates.platform.known": Pin(
                    "expect_column_values_to_not_be_null", ("platform",), ROW, "9bf51e99f04110ce"
                ),
                "estimates.device_product.known": Pin(
                    "expect_column_values_to_not_be_null", ("device_product",), ROW, "ac7f97cb65c3e95d"
                ),
                "estimates.sheet_name.known": Pin(
                    "expect_column_values_to_not_be_null", ("sheet_name",), ROW, "efdd33d5a4dd3987"
                ),
                "estimates.sheet_sha256.known": Pin(
                    "expect_column_values_to_not_be_null", ("sheet_sha256",), ROW, "4e44613aba3deec0"
                ),
                "estimates.model_name.known": Pin(
                    "expect_column_values_to_not_be_null", ("model_name",), ROW, "ede357777c7c71bf"
                ),
                "estimates.precision.known": Pin(
                    "expect_column_values_to_not_be_null", ("precision",), ROW, "8b9ba8e94490c8f7"
                ),
                "estimates.peak_source.known": Pin(
                    "expect_column_values_to_not_be_null", ("peak_source",), ROW, "bcb84f77a863f895"
                ),
                "estimates.bandwidth_source.known": Pin(
                    "expect_column_values_to_not_be_null", ("bandwidth_source",), ROW, "436bfad98c732da7"
                ),
                "estimates.document_sha256.known": Pin(
                    "expect_column_values_to_not_be_null", ("document_sha256",), ROW, "62bf775a842f3245"
                ),
                "estimates.estimate_latency_ms_low.known": Pin(
                    "expect_column_values_to_not_be_null", ("estimate_latency_ms_low",), ROW, "aeb6846f1e426144"
                ),
                "estimates.estimate_latency_ms_expected.known": Pin(
                    "expect_column_values_to_not_be_null", ("estimate_latency_ms_expected",), ROW, "49a9232b7d96c173"
                ),
                "estimates.estimate_latency_ms_high.known": Pin(
                    "expect_column_values_to_not_be_null", ("estimate_latency_ms_high",), ROW, "f28019ef447d8446"
                ),
                "estimates.estimate_throughput_items_per_s_low.known": Pin(
                    "expect_column_values_to_not_be_null",
                    ("estimate_throughput_items_per_s_low",),
                    ROW,
                    "5a75e6381d32abbf",
                ),
                "estimates.estimate_throughput_items_per_s_expected.known": Pin(
                    "expect_column_values_to_not_be_null",
                    ("estimate_throughput_items_per_s_expected",),
                    ROW,
                    "d1d84aa3f2652d17",
                ),
                "estimates.estimate_throughput_items_per_s_high.known": Pin(
                    "expect_column_values_to_not_be_null",
                    ("estimate_throughput_items_per_s_high",),
                    ROW,
                    "ec0b87636cf84b3a",
                ),
                "estimates.is_simulated.word": Pin(
                    "expect_column_values_to_be_in_set", ("is_simulated",), ROW, "596b72f2c1eac923"
                ),
                "estimates.verdict.word": Pin(
                    "expect_column_values_to_be_in_set", ("verdict",), ROW, "3636a4379046ee80"
                ),
                "estimates.platform.word": Pin(
                    "expect_column_values_to_be_in_set", ("platform",), ROW, "ab3fca644b34e19f"
                ),
                "estimates.sheet_kind.word": Pin(
                    "expect_column_values_to_be_in_set", ("sheet_kind",), ROW, "f86f43e9bcac9128"
                ),
                "estimates.precision.word": Pin(
                    "expect_column_values_to_be_in_set", ("precision",), ROW, "61ef8a10131873a8"
                ),
                "estimates.bound.word": Pin("expect_column_values_to_be_in_set", ("bound",), ROW, "45b0d667a7d9f995"),
                "estimates.is_simulated.type": Pin(
                    "expect_column_values_to_be_in_type_list", ("is_simulated",), ROW, "908632b5015b9391"
                ),
                "estimates.estimate_latency_ms_low.range": Pin(
                    "expect_column_values_to_be_between", ("estimate_latency_ms_low",), ROW, "1f7c2d53016a3409"
                ),
                "estimates.estimate_latency_ms_expected.range": Pin(
                    "expect_column_values_to_be_between", ("estimate_latency_ms_expected",), ROW, "c4d77dc713dfbf3c"
                ),
                "estimates.estimate_latency_ms_high.range": Pin(
                    "expect_column_values_to_be_between", ("estimate_latency_ms_high",), ROW, "602b993584604963"
                ),
                "estimates.estimate_throughput_items_per_s_low.range": Pin(
                    "expect_column_values_to_be_between",
                    ("estimate_throughput_items_per_s_low",),
                    ROW,
                    "d57071cae7b08c09",
                ),
                "estimates.estimate_throughput_items_per_s_expected.range": Pin(
                    "expect_column_values_to_be_between",
                    ("estimate_throughput_items_per_s_expected",),
                    ROW,
                    "87bde0e9c773064f",
                ),
                "estimates.estimate_throughput_items_per_s_high.range": Pin(
                    "expect_column_values_to_be_between",
                    ("estimate_throughput_items_per_s_high",),
                    ROW,
                    "5781e24660b27c47",
                ),
                "estimates.peak_flops_per_s.range": Pin(
                    "expect_column_values_to_be_between", ("peak_flops_per_s",), ROW, "61bb24fb47946861"
                ),
                "estimates.bandwidth_bytes_per_s.range": Pin(
                    "expect_column_values_to_be_between", ("bandwidth_bytes_per_s",), ROW, "6d5ed9bf7a56883d"
                ),
                "estimates.work_flops.range": Pin(
                    "expect_column_values_to_be_between", ("work_flops",), ROW, "3b6f351a30998f2f"
                ),
                "estimates.work_bytes.range": Pin(
                    "expect_column_values_to_be_between", ("work_bytes",), ROW, "c4ff62579193b95d"
                ),
                "estimates.batch_size.range": Pin(
                    "expect_column_values_to_be_between", ("batch_size",), ROW, "d9048c276e6e2b71"
                ),
                "estimates.latency.order": Pin(
                    "expect_column_values_to_ascend_within_rows",
                    (
                        "estimate_latency_ms_low",
                        "estimate_latency_ms_expected",
                        "estimate_latency_ms_high",
                    ),
                    ROW,
                    "885b7fadcca49d6c",
                ),
                "estimates.throughput.order": Pin(
                    "expect_column_values_to_ascend_within_rows",
                    (
                        "estimate_throughput_items_per_s_low",
                        "estimate_throughput_items_per_s_expected",
                        "estimate_throughput_items_per_s_high",
                    ),
                    ROW,
                    "703413b9ad63e628",
                ),
            }
        ),
        "rooflines": MappingProxyType(
            {
                "rooflines.columns": Pin(
                    "expect_table_columns_to_match_set",
                    (
                        "run_id",
                        "verdict",
                        "is_simulated",
                        "device_name",
                        "platform",
                        "peak_tflops_fp32",
                        "memory_bandwidth_gb_per_s",
                    ),
                    TABLE,
                    "cad31128a7ded750",
                ),
                "rooflines.run_id.known": Pin(
                    "expect_column_values_to_not_be_null", ("run_id",), ROW, "8e62256958930f93"
                ),
                "rooflines.roofline_id.known": Pin(
                    "expect_column_values_to_not_be_null", ("roofline_id",), ROW, "502430791c3e59e8"
                ),
                "rooflines.verdict.known": Pin(
                    "expect_column_values_to_not_be_null", ("verdict",), ROW, "2b0d7a1cea345a8f"
                ),
                "rooflines.is_simulated.known": Pin(
                    "expect_column_values_to_not_be_null", ("is_simulated",), ROW, "b9502ac7dc98f825"
                ),
                "rooflines.platform.known": Pin(
                    "expect_column_values_to_not_be_null", ("platform",), ROW, "9bf51e99f04110ce"
                ),
                "rooflines.device_id.known": Pin(
                    "expect_column_values_to_not_be_null", ("device_id",), ROW, "ea648c8b33e9cc34"
                ),
                "rooflines.device_name.known": Pin(
                    "expect_column_values_to_not_be_null", ("device_name",), ROW, "e6127078643f4392"
                ),
                "rooflines.host_id.known": Pin(
                    "expect_column_values_to_not_be_null", ("host_id",), ROW, "718f837873f701f9"
                ),
                "rooflines.document_sha256.known": Pin(
                    "expect_column_values_to_not_be_null", ("document_sha256",), ROW, "62bf775a842f3245"
                ),
                "rooflines.threads.known": Pin(
                    "expect_column_values_to_not_be_null", ("threads",), ROW, "87f19a2aa325c62c"
                ),
                "rooflines.verdict.word": Pin(
                    "expect_column_values_to_be_in_set", ("verdict",), ROW, "361a28b7b52d9729"
                ),
                "rooflines.is_simulated.word": Pin(
                    "expect_column_values_to_be_in_set", ("is_simulated",), ROW, "ffb78eef20900453"
                ),
                "rooflines.platform.word": Pin(
                    "expect_column_values_to_be_in_set", ("platform",), ROW, "ab3fca644b34e19f"
                ),
                "rooflines.is_simulated.type": Pin(
                    "expect_column_values_to_be_in_type_list", ("is_simulated",), ROW, "908632b5015b9391"
                ),
                "rooflines.peak_tflops_fp32.range": Pin(
                    "expect_column_values_to_be_between", ("peak_tflops_fp32",), ROW, "645cb3600a2a8154"
                ),
                "rooflines.peak_tflops_bf16.range": Pin(
                    "expect_column_values_to_be_between", ("peak_tflops_bf16",), ROW, "ade1cb3a58304e00"
                ),
                "rooflines.peak_tflops_fp16.range": Pin(
                    "expect_column_values_to_be_between", ("peak_tflops_fp16",), ROW, "bd939f405857a181"
                ),
                "rooflines.memory_bandwidth_gb_per_s.range": Pin(
                    "expect_column_values_to_be_between", ("memory_bandwidth_gb_per_s",), ROW, "282f56f32ad5253c"
                ),
                "rooflines.memory_bandwidth_gb_per_s_copy.range": Pin(
                    "expect_column_values_to_be_between", ("memory_bandwidth_gb_per_s_copy",), ROW, "4cf7214ff1668cbc"
                ),
                "rooflines.memory_bandwidth_gb_per_s_triad.range": Pin(
                    "expect_column_values_to_be_between", ("memory_bandwidth_gb_per_s_triad",), ROW, "6f048354c8c03de3"
                ),
                "rooflines.threads.range": Pin(
                    "expect_column_values_to_be_between", ("threads",), ROW, "44cabe947518dc2d"
                ),
                "rooflines.bandwidth.best_copy": Pin(
                    "expect_column_values_to_ascend_within_rows",
                    (
                        "memory_bandwidth_gb_per_s_copy",
                        "memory_bandwidth_gb_per_s",
                    ),
                    ROW,
                    "a0f6de65dafe3048",
                ),
                "rooflines.bandwidth.best_triad": Pin(
                    "expect_column_values_to_ascend_within_rows",
                    (
                        "memory_bandwidth_gb_per_s_triad",
                        "memory_bandwidth_gb_per_s",
                    ),
                    ROW,
                    "a8e1e5b75e26e53e",
                ),
            }
        ),
    }
)
"""Table -> rule -> what it must be. Both tables may be empty."""
