"""What to do about what went wrong or is not there: one table of suggestions, one of acquisition plans.

Stdlib and :mod:`.model` only. An error that knows better says so itself; these are for those that do not. The
instances are classes by name, without prices: what they cost changes, what is in them hardly does.
"""

from __future__ import annotations

from dataclasses import dataclass

from hwbench_mlflow.model import Availability, AvailabilityStatus, FailureCategory, Platform

SUGGESTIONS: dict[FailureCategory, str] = {
    FailureCategory.NOT_INSTALLED: "Install what is missing; `hwbench devices` names the package",
    FailureCategory.NO_DRIVER: "Install the vendor's driver; `hwbench devices` says which",
    FailureCategory.NO_DEVICE: "Run where the hardware is; `hwbench devices` says what would do, and where to rent it",
    FailureCategory.UNSUPPORTED_HOST: "Run on a machine that the platform exists for; `hwbench devices` says which",
    FailureCategory.PROBE_FAILED: "Check the vendor's driver and library, then `hwbench devices`",
    FailureCategory.USAGE: "See `hwbench run --help`",
    FailureCategory.OUT_OF_MEMORY: "Take a smaller batch, length, precision or model, or a device with more memory",
    FailureCategory.UNSUPPORTED_OPERATOR: "Take another model, precision or platform: this one lacks an operation",
    FailureCategory.MODEL_TOO_LARGE: "Take a smaller model or precision, or a machine with more memory",
    FailureCategory.HUB_UNREACHABLE: "Fill the Hugging Face cache or name a local folder, or use --weights random",
    FailureCategory.TIMEOUT: "Check that the device answers at all; take a smaller model or batch",
    FailureCategory.WRONG_OUTPUT: "Do not use this device's numbers: check its driver, library and precision",
    FailureCategory.FALLBACK_DETECTED: "Take a model whose operations the platform all has: nothing is left to the CPU",
    FailureCategory.BOUND_NOT_MET: "Allow more with --latency-bound-ms, or take a smaller model or a faster device",
    FailureCategory.INTERRUPTED: "Start it again: nothing was measured",
    FailureCategory.CRASH: "Run it again; if it stays, update the vendor's driver and library",
}
"""For every category."""


def suggested(category: FailureCategory, own: str | None) -> str:
    """The error's own remedy, or the table's."""
    return own or SUGGESTIONS[category]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What would make a platform available: what to own, to install, and where the hardware can be rented.

    ``rent`` names classes of cloud instances; ``why`` is the reason for these.
    """

    hardware: str
    driver: str
    package: str
    rent: tuple[str, ...]
    why: str


PLANS: dict[Platform, Plan] = {
    Platform.CPU: Plan(
        hardware="Any x86-64 or Arm machine with 64 bits",
        driver="None",
        package="torch (a CPU build is enough)",
        rent=("AWS m7i, m8g", "Google Cloud c4, c4a", "Azure Dsv6, Dpsv6"),
        why="Families with whole cores of one known generation; metal sizes also let energy be read (RAPL)",
    ),
    Platform.CUDA: Plan(
        hardware="An NVIDIA GPU that the torch build supports (Turing or newer)",
        driver="NVIDIA's driver, 550 or newer (nvidia-smi has to answer)",
        package="A CUDA build of torch",
        rent=(
            "AWS g6 (L4), p5 (H100)",
            "Google Cloud g2-standard (L4), a3-highgpu (H100)",
            "Azure NCads_H100_v5 (H100), NC_A100_v4 (A100)",
        ),
        why="Whole GPUs: on a vGPU or a slice, energy and the list of processes are not the run's own",
    ),
    Platform.ROCM: Plan(
        hardware="An AMD GPU that ROCm supports (Instinct MI200 or newer, Radeon RX 7900)",
        driver="The amdgpu kernel driver with /dev/kfd, and membership of the groups render and video",
        package="A ROCm build of torch; amdsmi with ROCm's library, for energy",
        rent=("Azure ND_MI300X_v5", "Oracle Cloud BM.GPU.MI300X.8", "AMD Developer Cloud (one MI300X)"),
        why="MI300X is what clouds have of ROCm's supported list; AWS g4ad's GPU (RDNA 1) is not on it",
    ),
    Platform.MPS: Plan(
        hardware="A Mac with Apple silicon (M1 or newer)",
        driver="macOS 14 or newer; Metal is part of it",
        package="torch for macOS on arm64",
        rent=("AWS EC2 mac2, mac2-m2, mac-m4 (metal)", "Scaleway Apple silicon (Mac mini)"),
        why="Whole Macs: most virtual machines are not given Metal",
    ),
    Platform.OPENVINO: Plan(
        hardware="Any x86-64 CPU; for GPU an Intel GPU, for NPU a Core Ultra",
        driver="GPU: libOpenCL.so.1 and intel-opencl-icd; NPU: the intel_vpu kernel driver and linux-npu-driver",
        package="openvino",
        rent=("CPU with AMX: AWS m7i, Google Cloud c3, Azure Dsv6", "GPU and NPU: a PC with a Core Ultra, owned"),
        why="AMX gives the CPU its bf16; we know of no general cloud that lets Core Ultra's NPU",
    ),
    Platform.QNN: Plan(
        hardware="A Windows PC with a Snapdragon X, or a Linux board (QCS6490, QCS8550)",
        driver="Windows: Qualcomm's NPU driver; Linux: fastrpc with /dev/fastrpc-cdsp and the CDSP's firmware",
        package="pip install 'hwbench-mlflow[qnn]', with onnxruntime-qnn's build for Arm",
        rent=("Qualcomm Device Cloud (interactive sessions)",),
        why="Arm instances of clouds (Graviton, Axion, Cobalt) have no Hexagon; Qualcomm AI Hub runs jobs, no programs",
    ),
    Platform.WEBNN: Plan(
        hardware="Any machine; only the CPU is ever verified",
        driver="Chrome or Edge with a WebNN backend (Windows, macOS, ChromeOS): --browser PATH",
        package="pip install 'hwbench-mlflow[web]' and onnxruntime-web (npm)",
        rent=("AWS EC2 with Windows Server 2025", "AWS EC2 mac2 (metal)"),
        why="Chromium on Linux is mostly built without a WebNN backend",
    ),
    Platform.WEBGPU: Plan(
        hardware="A GPU with Vulkan, Metal or Direct3D 12",
        driver="The GPU's driver with its Vulkan part (Linux), and Chromium, Chrome or Edge: --browser PATH",
        package="pip install 'hwbench-mlflow[web]' and onnxruntime-web (npm)",
        rent=("AWS g6 (L4)", "Google Cloud g2-standard (L4)", "AWS EC2 mac2 (metal)"),
        why="GPUs whose data-centre driver has Vulkan; without one, the browser has SwiftShader only: simulated",
    ),
}
"""For every platform."""


def plan_for(answer: Availability) -> Plan | None:
    """The plan of a platform that is not there, or is there as software only; None where it is available."""
    if answer.status is AvailabilityStatus.AVAILABLE and any(d.emulation_reason is None for d in answer.devices):
        return None
    return PLANS[answer.platform]
