"""From published numbers to decisions: pure functions over plain rows; no files, no database, no MLflow.

The warehouse fills the types of these modules, the reports draw what comes out; neither knows the other.
"""
