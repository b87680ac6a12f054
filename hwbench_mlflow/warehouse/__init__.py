"""The DuckDB mirror of an MLflow store and the tables made from it; the only importer of duckdb.

Imports nothing of mlflow, of the gate or of the reports. Heavy imports happen inside functions, so that naming
this package costs nothing.
"""
