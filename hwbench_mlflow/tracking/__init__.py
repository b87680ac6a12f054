"""MLflow: runs in, runs out. The only importer of mlflow.

Owns how a result becomes a run (:mod:`.store`), how a run becomes evidence again (:mod:`.reader`, :mod:`.artifacts`),
and the mapping of MLflow's errors to one line (:mod:`.boundary`). Uses the client only: no active run, no global state.
"""

from hwbench_mlflow.evidence import ATTEMPT_TAG, PROCESS_TAG
from hwbench_mlflow.tracking.artifacts import ArtifactFiles
from hwbench_mlflow.tracking.boundary import store_errors, whole_uri
from hwbench_mlflow.tracking.reader import PARENT_TAG, Reader
from hwbench_mlflow.tracking.store import MAX_TAG_CHARACTERS, NOTE_TAG, Store, failure_of, log_devices

__all__ = [
    "ATTEMPT_TAG",
    "MAX_TAG_CHARACTERS",
    "NOTE_TAG",
    "PARENT_TAG",
    "PROCESS_TAG",
    "ArtifactFiles",
    "Reader",
    "Store",
    "failure_of",
    "log_devices",
    "store_errors",
    "whole_uri",
]
