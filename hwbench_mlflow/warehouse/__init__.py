"""The DuckDB mirror of the tracking store. The only importer of duckdb."""
